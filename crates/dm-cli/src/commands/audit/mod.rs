//! `dm audit`.

mod capture;
mod prove;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use data_manager::audit_trail::{AuditVerification, LogFilter, SealedEvent};
use data_manager::{
    AuditOutcome, AuditVerifyOptions, DataManager, Error, EventKind, Order, Page, Period, Result,
};

use crate::args::{AuditArgs, AuditCommand, AuditExpireArgs, AuditVerifyArgs, LogArgs};
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
        AuditCommand::Expire(args) => expire(session, dm, args).await,
        AuditCommand::Key(args) => prove::key(session, dm, args).await,
        AuditCommand::Capture(args) => Box::pin(capture::run(session, dm, args.command)).await,
    }
}

async fn log(session: &mut Session, dm: &DataManager, args: LogArgs) -> Result<Exit> {
    if args.lines.json_lines {
        session.out.set_format(Format::JsonLines);
    }
    let ctx = session.quiet_context(dm);
    let mut filter = LogFilter {
        actor: args.actor,
        action_prefix: args.action,
        resource: args.resource,
        outcome: args.outcome.map(Into::into),
        since: args.since.as_deref().map(|t| moment("--since", t, ctx.now())).transpose()?,
        until: args.until.as_deref().map(|t| moment("--until", t, ctx.now())).transpose()?,
        run_id: args.run,
        ..LogFilter::default()
    };
    if let Some(kind) = args.kind {
        EventKind::from(kind).narrow(&mut filter);
    }
    let lines = session.out.format() == Format::JsonLines;
    let mut events: Vec<SealedEvent> = Vec::new();
    let (mut after, mut left) = (None, args.limit);
    filter.sealed_after = args.after;
    while left > 0 && !session.out.stdout().is_closed() {
        let page = Page { after, limit: left.min(PAGE), order: Order::Newest };
        let more = dm.audit().log(&ctx, &filter, &page).await?;
        match args.after {
            Some(_) => filter.sealed_after = more.last().and_then(|e| e.seq).or(filter.sealed_after),
            None => after = more.last().map(|e| e.position),
        }
        let last = more.len() < page.limit as usize;
        left -= page.limit.min(left);
        if lines {
            // An export may be larger than memory: page by page.
            session.out.list("events", &values(&more)?, &[])?;
        } else {
            events.extend(more);
        }
        if last {
            break;
        }
    }
    if session.out.is_human() {
        tell_log(session, &events)?;
    } else if !lines {
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

async fn expire(session: &mut Session, dm: &DataManager, args: AuditExpireArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let plan = dm.audit().plan_expire(&ctx, args.older_than).await?;
    let mut lines = vec![
        format!("erase details of the audit trail from before {}", text::time(plan.before)),
        format!(
            "  - {} lose their details; the lines and every proof stay",
            text::count(plan.payloads, "line")
        ),
    ];
    if plan.runs > 0 {
        lines.push(format!("  - {} of the history lose their report", text::count(plan.runs, "run")));
    }
    if plan.held > 0 {
        lines.push(format!("  - {} as old are held, and keep them", text::count(plan.held, "line")));
    }
    session.show_plan(&lines)?;
    if args.apply.dry_run || plan.payloads + plan.runs == 0 {
        session.out.document("audit-expire-plan", &[("plan", &plan)])?;
        return Ok(Exit::Done);
    }
    session.questions.confirm("Erase them for good?", args.apply.yes)?;
    let report = dm.audit().apply_expire(&ctx, plan).await?;
    session.out.document("audit-expire-run", &[("report", &report)])?;
    session.out.say(format!("erased the details of {}", text::count(report.payloads, "line")))?;
    Ok(Exit::Done)
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
