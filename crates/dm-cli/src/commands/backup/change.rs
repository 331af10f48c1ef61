//! `dm backup expire`, `delete`, `pin`, `unpin`: what is said about backups that stand there.

use data_manager::backup::keep::KeepRules;
use data_manager::backup::{Decision, DeletePlan, ExpirePlan, ExpireReport, LogDecision, LogRange};
use data_manager::{BackupId, DataManager, LogPosition, Result};
use serde::Serialize;

use super::super::log::position;
use super::views::short;
use crate::args::{DeleteArgs, ExpireArgs, PinArgs};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

/// The rules of the configuration with those of the command line over them; `None` when there are none of those.
fn rules(dm: &DataManager, args: &ExpireArgs) -> Option<KeepRules> {
    let numbers = [
        args.keep_last,
        args.keep_daily,
        args.keep_weekly,
        args.keep_monthly,
        args.keep_yearly,
        args.keep_verified,
    ];
    if numbers.iter().all(Option::is_none)
        && args.keep_within.is_none()
        && args.keep_incremental_within.is_none()
        && args.keep_log_within.is_none()
    {
        return None;
    }
    let configured = &dm.config().repository.retention;
    Some(KeepRules {
        last: args.keep_last.unwrap_or(configured.keep_last),
        daily: args.keep_daily.unwrap_or(configured.daily),
        weekly: args.keep_weekly.unwrap_or(configured.weekly),
        monthly: args.keep_monthly.unwrap_or(configured.monthly),
        yearly: args.keep_yearly.unwrap_or(configured.yearly),
        within: args.keep_within.or(configured.within),
        min_verified_full: args.keep_verified.unwrap_or(configured.min_verified_full),
        incremental_within: args.keep_incremental_within.or(Some(configured.incremental_within)),
        log_within: args.keep_log_within.or(Some(configured.log_within)),
        superseded_within: Some(configured.superseded_within),
    })
}

pub(super) async fn expire(session: &mut Session, dm: &DataManager, args: ExpireArgs) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let plan = dm.backup().plan_expire(&ctx, args.target.target.as_ref(), rules(dm, &args)).await?;
    drop(progress);
    if args.apply.dry_run {
        session.out.document("expire-plan", &[("plan", &plan)])?;
        if session.out.is_human() {
            session.show_plan(&expire_lines(&plan))?;
        }
        return Ok(Exit::Done);
    }
    session.show_plan(&expire_lines(&plan))?;
    if !plan.is_empty() {
        let question = format!("Delete {}?", going(&plan));
        session.questions.confirm(&question, args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.backup().apply_expire(&ctx, &plan, args.sweep.wait).await?;
    drop(progress);
    answer(session, "expire-run", &ctx.run_id(), &report)
}

/// What would go, in words.
fn going(plan: &ExpirePlan) -> String {
    let backups = text::count(plan.deletions().count() as u64, "backup");
    match (plan.deletions().next(), plan.deleted_pieces()) {
        (_, 0) => backups,
        (None, pieces) => text::count(pieces, "piece") + " of log",
        (Some(_), pieces) => format!("{backups} and {} of log", text::count(pieces, "piece")),
    }
}

fn expire_lines(plan: &ExpirePlan) -> Vec<String> {
    let mut table = Table::new(["id", "kind", "shows", ">stored", "what becomes of it"]);
    for entry in &plan.entries {
        table.row([
            short(entry.id),
            entry.kind.to_string(),
            text::time(entry.at),
            text::bytes(entry.stored_bytes),
            match &entry.decision {
                Decision::Delete => "DELETE: no rule keeps it".to_owned(),
                Decision::Keep { .. } => entry.explain(),
            },
        ]);
    }
    let mut lines = if table.is_empty() { Vec::new() } else { table.lines() };
    for problem in &plan.problems {
        lines.push(format!("cannot be read, so everything stays: {}", text::printable(&problem.message)));
    }
    let all = plan.logs.iter().flat_map(|log| log.ranges.iter().map(move |r| (log.stream.as_str(), r)));
    let mut table = Table::new(["log", "sealed", "from", "to", ">stored", "what becomes of it"]);
    for (stream, range) in all {
        table.row(log_row(stream, range));
    }
    if !table.is_empty() {
        lines.extend(table.lines());
    }
    for problem in plan.logs.iter().flat_map(|log| &log.problems) {
        lines.push(format!("in the log: {}", text::printable(&problem.message)));
    }
    lines.push(if plan.is_empty() {
        format!("nothing of {} expires", plan.target)
    } else {
        format!(
            "{} of {} expire; {} would be freed",
            text::grouped(plan.deletions().count() as u64),
            text::count(plan.entries.len() as u64, "backup"),
            text::bytes(plan.freed_bytes)
        )
    });
    if plan.pinned_bytes > 0 {
        lines.push(format!(
            "{} stay only because kept backups need them; \"dm backup rewrite\" frees them",
            text::bytes(plan.pinned_bytes)
        ));
    }
    if plan.deleted_pieces() > 0 {
        lines.push(format!(
            "{} of log expire; {} would be freed",
            text::count(plan.deleted_pieces(), "piece"),
            text::bytes(plan.freed_log_bytes())
        ));
    }
    lines
}

fn log_row(stream: &str, range: &LogRange) -> [String; 6] {
    let at = |offset| position(LogPosition { timeline: range.timeline, offset });
    [
        stream.to_owned(),
        format!("{} to {}", text::time(range.first_at), text::time(range.last_at)),
        at(range.start),
        at(range.end),
        text::bytes(range.stored_bytes),
        match &range.decision {
            LogDecision::Delete => "DELETE: no kept backup's window reaches it".to_owned(),
            LogDecision::Keep { .. } => range.explain(),
        },
    ]
}

pub(super) async fn delete(session: &mut Session, dm: &DataManager, args: DeleteArgs) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let target = args.target.target.as_ref();
    let plan = dm.backup().plan_delete(&ctx, target, &args.backup, &args.reason).await?;
    drop(progress);
    if args.apply.dry_run {
        session.out.document("delete-plan", &[("plan", &plan)])?;
        if session.out.is_human() {
            session.show_plan(&delete_lines(&plan))?;
        }
        return Ok(Exit::Done);
    }
    session.show_plan(&delete_lines(&plan))?;
    let question = format!("Delete {}?", text::count(plan.entries.len() as u64, "backup"));
    session.questions.confirm(&question, args.apply.yes)?;
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.backup().apply_delete(&ctx, &plan, args.sweep.wait).await?;
    drop(progress);
    answer(session, "delete-run", &ctx.run_id(), &report)
}

fn delete_lines(plan: &DeletePlan) -> Vec<String> {
    let mut table = Table::new(["id", "target", "kind", "shows", ">stored"]);
    for entry in &plan.entries {
        table.row([
            entry.id.to_string(),
            entry.target.to_string(),
            entry.kind.to_string(),
            text::time(entry.at),
            text::bytes(entry.stored_bytes),
        ]);
    }
    let mut lines = table.lines();
    lines.push(format!("to be deleted; {} would be freed", text::bytes(plan.freed_bytes)));
    lines
}

/// What an expiry or a deletion did, for programs.
#[derive(Serialize)]
struct Report<'a> {
    deleted: &'a [BackupId],
    kept: usize,
    removed: &'a [BackupId],
    waiting: Vec<Waiting<'a>>,
    only_marks: bool,
    objects: u64,
    freed_bytes: u64,
    /// Pieces of log that are listed no more.
    expired_pieces: u64,
    log_objects: u64,
    freed_log_bytes: u64,
    log_waiting: Vec<LogWaiting<'a>>,
    problems: &'a [data_manager::Finding],
}

#[derive(Serialize)]
struct Waiting<'a> {
    backup_id: BackupId,
    why: &'a str,
}

#[derive(Serialize)]
struct LogWaiting<'a> {
    log: &'a str,
    why: &'a str,
}

fn answer(
    session: &mut Session,
    noun: &str,
    run_id: &data_manager::RunId,
    report: &ExpireReport,
) -> Result<Exit> {
    let sweep = &report.sweep;
    let document = Report {
        deleted: &report.deleted,
        kept: report.kept,
        removed: &sweep.removed,
        waiting: sweep.waiting.iter().map(|(id, why)| Waiting { backup_id: *id, why }).collect(),
        only_marks: sweep.only_marks,
        objects: sweep.objects,
        freed_bytes: sweep.bytes,
        expired_pieces: report.expired_pieces,
        log_objects: sweep.log_objects,
        freed_log_bytes: sweep.log_bytes,
        log_waiting: sweep.log_waiting.iter().map(|(log, why)| LogWaiting { log, why }).collect(),
        problems: &sweep.problems,
    };
    session.out.document(noun, &[("run_id", run_id), ("report", &document)])?;
    session.out.say(format!(
        "{} deleted, {} kept; {} freed now",
        text::count(report.deleted.len() as u64, "backup"),
        text::grouped(report.kept as u64),
        text::bytes(sweep.bytes)
    ))?;
    if sweep.only_marks {
        session.out.say("the store lets nothing be deleted with these credentials: what expired is marked, is listed no more, and stays")?;
    } else if !sweep.waiting.is_empty() {
        let n = text::count(sweep.waiting.len() as u64, "backup");
        session.out.say(format!("{n} marked, to be removed by a later run when nobody can still be reading them (--wait stays for it)"))?;
    }
    if report.expired_pieces > 0 || sweep.log_objects > 0 {
        session.out.say(format!(
            "{} of log expired; {} freed now",
            text::count(report.expired_pieces, "piece"),
            text::bytes(sweep.log_bytes)
        ))?;
    }
    if !sweep.log_waiting.is_empty() {
        session.out.say(
            "expired log is removed by a later run when nobody can still be reading it (--wait stays for it)",
        )?;
    }
    session.out.findings(&sweep.problems)?;
    Ok(if sweep.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

/// The document `dm.pin/1`.
#[derive(Serialize)]
struct Pin<'a> {
    backup_id: BackupId,
    target: &'a str,
    pinned: bool,
    reason: &'a str,
}

pub(super) async fn pin(
    session: &mut Session,
    dm: &DataManager,
    args: PinArgs,
    pinned: bool,
) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let (target, which) = (args.target.target.as_ref(), args.backup.as_str());
    let header = if pinned {
        dm.backup().pin(&ctx, target, which, &args.reason).await?
    } else {
        dm.backup().unpin(&ctx, target, which, &args.reason).await?
    };
    let pin = Pin { backup_id: header.id, target: header.target.as_str(), pinned, reason: &args.reason };
    session.out.document("pin", &[("pin", &pin)])?;
    session.out.say(format!(
        "{} of {} is {}",
        header.id,
        header.target,
        if pinned {
            "pinned: it stays until it is unpinned"
        } else {
            "no longer pinned: the keep-rules decide"
        }
    ))?;
    Ok(Exit::Done)
}
