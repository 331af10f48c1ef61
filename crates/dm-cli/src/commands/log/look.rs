//! `dm log status`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use data_manager::backup::{StreamStatus, TargetLog};
use data_manager::{DataManager, LogPosition, Result};

use super::{hole, position};
use crate::args::LogStatusArgs;
use crate::commands::backup::short;
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn status(session: &mut Session, dm: &DataManager, args: LogStatusArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let report = dm.logs().status(&ctx, args.target.target.as_ref()).await?;
    let well = report.targets.iter().all(|t| t.reasons.is_empty());
    session.out.document("log-status", &[("logs", &report.targets), ("at", &report.at), ("ok", &well)])?;
    if report.targets.is_empty() {
        session.out.say("no database here has a log that can be shipped")?;
    }
    for target in &report.targets {
        tell_target(session, target, report.at)?;
    }
    Ok(if well { Exit::Done } else { Exit::CheckFailed })
}

fn tell_target(session: &mut Session, log: &TargetLog, now: DateTime<Utc>) -> Result<()> {
    session.out.heading(log.target.as_str())?;
    if log.streams.is_empty() {
        session.out.say("  nothing is shipped yet; \"dm log ship\" begins")?;
    }
    for stream in &log.streams {
        tell_stream(session, stream, now)?;
    }
    if let Some(server) = &log.server {
        let behind = match (server.lag_bytes, server.lag_ms) {
            (Some(0), _) => "nothing".to_owned(),
            (Some(bytes), Some(ms)) => {
                format!("{}, {}", text::bytes(bytes), text::duration(Duration::from_millis(ms)))
            }
            (Some(bytes), None) => text::bytes(bytes),
            (None, _) => "unknown: the repository has no log of its timeline".to_owned(),
        };
        let slot = server.head.holder.as_ref().map_or_else(
            || "none".to_owned(),
            |h| {
                let state = match (h.lost, h.in_use) {
                    (true, _) => "LOST",
                    (false, true) => "in use",
                    (false, false) => "not in use",
                };
                format!("{} ({state}), keeps {}", h.name, text::bytes(h.kept_bytes))
            },
        );
        session.out.facts(&[("server at", position(server.head.end)), ("behind", behind), ("slot", slot)])?;
    }
    if let Some(error) = &log.server_error {
        session.out.facts(&[("server", format!("does not answer: {error}"))])?;
    }
    for reason in &log.reasons {
        session.out.say(format!("  - {}", text::printable(reason)))?;
    }
    Ok(())
}

fn tell_stream(session: &mut Session, stream: &StreamStatus, now: DateTime<Utc>) -> Result<()> {
    let complete = stream
        .complete_until
        .map_or_else(String::new, |at| format!("{} ({})", text::time(at), text::ago(now, at)));
    session.out.facts(&[
        ("server", stream.stream.clone()),
        ("complete until", complete),
        ("position", stream.position.map_or_else(String::new, position)),
        (
            "log",
            format!(
                "{} in {}, {} stored",
                text::bytes(stream.bytes),
                text::count(stream.pieces, "piece"),
                text::bytes(stream.stored_bytes)
            ),
        ),
    ])?;
    let mut table = Table::new(["restorable", "timeline", "from", "to", "opened by"]).indented(2);
    for window in &stream.windows {
        let at = |offset| position(LogPosition { timeline: window.timeline, offset });
        let (restorable, opened) = match window.opened_by {
            None => {
                ("nothing".to_owned(), "no backup: take one with \"dm backup run --physical\"".to_owned())
            }
            Some(id) => {
                let through = window.opened_on.filter(|on| *on != window.timeline);
                let through = through.map_or_else(String::new, |on| format!(" on timeline {on}"));
                (format!("{} to {}", text::time(window.from), text::time(window.to)), short(id) + &through)
            }
        };
        table.row([restorable, window.timeline.to_string(), at(window.start), at(window.end), opened]);
    }
    if !table.is_empty() {
        session.out.table(&table)?;
    }
    for gap in &stream.gaps {
        session.out.say(format!("  gap: {}", hole(gap)))?;
    }
    session.out.findings(&stream.problems)
}
