//! `dm audit`.

mod prove;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use data_manager::audit_trail::{AuditVerification, LogFilter, SealedEvent};
use data_manager::{AuditOutcome, AuditVerifyOptions, DataManager, Error, Order, Page, Period, Result};

use crate::args::{AuditArgs, AuditCommand, AuditVerifyArgs, LogArgs};
use crate::commands::files;
use crate::exit::Exit;
use crate::output::{Format, Table, text, values};
use crate::session::Session;

/// The most lines that one look at the store gives.
const PAGE: u32 = 1000;

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: AuditArgs) -> Result<Exit> {
    match args.command {
        AuditCommand::Log(args) => log(session, dm, args).await,
        AuditCommand::Verify(args) => verify(session, dm, args).await,
        AuditCommand::Checkpoint(args) => prove::checkpoint(session, dm, args).await,
        AuditCommand::Prove(args) => prove::prove(session, dm, args).await,
        AuditCommand::Erase(args) => prove::erase(session, dm, args).await,
        AuditCommand::Key(args) => prove::key(session, dm, args).await,
    }
}

async fn log(session: &mut Session, dm: &DataManager, args: LogArgs) -> Result<Exit> {
    if args.lines.json_lines {
        session.out.set_format(Format::JsonLines);
    }
    let ctx = session.quiet_context(dm);
    let filter = LogFilter {
        actor: args.actor,
        action_prefix: args.action,
        resource: args.resource,
        outcome: args.outcome.map(Into::into),
        since: args.since.as_deref().map(|t| moment("--since", t, ctx.now())).transpose()?,
        until: args.until.as_deref().map(|t| moment("--until", t, ctx.now())).transpose()?,
        run_id: args.run,
    };
    let mut events: Vec<SealedEvent> = Vec::new();
    let mut after = None;
    while events.len() < args.limit as usize {
        let left = args.limit - u32::try_from(events.len()).unwrap_or(args.limit);
        let page = Page { after, limit: left.min(PAGE), order: Order::Newest };
        let more = dm.audit().log(&ctx, &filter, &page).await?;
        after = more.last().map(|e| e.position);
        let last = more.len() < page.limit as usize;
        events.extend(more);
        if last {
            break;
        }
    }
    if session.out.is_human() {
        tell_log(session, &events)?;
    } else {
        session.out.list("events", &values(&events)?, &[])?;
    }
    Ok(Exit::Done)
}

fn tell_log(session: &mut Session, events: &[SealedEvent]) -> Result<()> {
    if events.is_empty() {
        return session.out.say("nothing on record matches");
    }
    let mut table = Table::new([">no.", "when", "who", "what", "on", "outcome", ">took", ""]);
    for event in events {
        table.row([
            event.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
            text::time(event.at),
            event.actor.clone(),
            event.action.clone(),
            event.resource.clone(),
            word(event.outcome).to_owned(),
            text::duration(Duration::from_micros(event.duration_us)),
            event.error.clone().unwrap_or_default(),
        ]);
    }
    session.out.table(&table)
}

/// The outcome as the JSON answers write it.
fn word(outcome: AuditOutcome) -> &'static str {
    match outcome {
        AuditOutcome::Intent => "intent",
        AuditOutcome::Success => "success",
        AuditOutcome::Partial => "partial",
        AuditOutcome::Failure => "failure",
        AuditOutcome::Denied => "denied",
        AuditOutcome::Interrupted => "interrupted",
    }
}

/// A moment as people write it: an instant, a date, or a period back from now.
fn moment(flag: &str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    text.parse::<Period>().ok().and_then(|period| period.before(now)).ok_or_else(|| {
        Error::invalid(format!("\"{text}\" is not a moment"))
            .about(flag)
            .with_hint("write 2026-11-20, 2026-11-20T14:00:00Z, or a period back from now: 7d")
    })
}

async fn verify(session: &mut Session, dm: &DataManager, args: AuditVerifyArgs) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let mut options = AuditVerifyOptions { from: args.from, key: args.key, ..AuditVerifyOptions::default() };
    for file in &args.checkpoint {
        options.checkpoints.push((file.display().to_string(), files::read_text(file)?));
    }
    let result = dm.audit().verify(&ctx, &options).await?;
    drop(progress);
    session.out.document("audit-verification", &[("verification", &result)])?;
    tell_verification(session, &result)?;
    Ok(if result.ok { Exit::Done } else { Exit::CheckFailed })
}

fn tell_verification(session: &mut Session, result: &AuditVerification) -> Result<()> {
    session.out.heading(if result.ok { "the audit trail is whole" } else { "the audit trail is DAMAGED" })?;
    let first_bad = result.first_bad.as_ref().map_or_else(String::new, |bad| {
        let place = bad.seq.map_or_else(|| "an unsealed line".to_owned(), |seq| format!("no. {seq}"));
        format!("{place}: {}", bad.why)
    });
    session.out.facts(&[
        (
            "lines",
            format!("{} sealed, {} waiting", text::grouped(result.sealed), text::grouped(result.unsealed)),
        ),
        ("bad", if result.bad == 0 { String::new() } else { text::grouped(result.bad) }),
        ("first bad", first_bad),
        ("meaning", result.statement.clone()),
        ("head", result.head.to_string()),
        ("checkpoints", format!("{} signed ones checked", text::grouped(result.checkpoints))),
        ("not read", result.unread.join("; ")),
        ("not signed", result.unsigned.clone().unwrap_or_default()),
    ])?;
    for kept in &result.kept {
        let word = if kept.ok { "contained" } else { "NOT contained" };
        session.out.say(format!("{}: {word} ({} lines)", kept.place, text::grouped(kept.size)))?;
    }
    if result.kept.is_empty() {
        session.out.say(
            "Keep a checkpoint somewhere else (dm audit checkpoint), and give it with --checkpoint next time.",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_instants_dates_or_periods_back() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let read = |text| moment("--since", text, now).map(|t| t.to_rfc3339());
        assert_eq!(read("2026-11-20").unwrap(), "2026-11-20T00:00:00+00:00");
        assert_eq!(read("2026-11-20T14:00:00+02:00").unwrap(), "2026-11-20T12:00:00+00:00");
        assert_eq!(read("7d").unwrap(), (now - chrono::TimeDelta::days(7)).to_rfc3339());
        assert!(read("yesterday").is_err());
    }
}
