//! `dm backup rewrite`.

use data_manager::backup::{RewritePlan, RewriteReport};
use data_manager::{DataManager, Result};

use super::views::short;
use crate::args::RewriteArgs;
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn rewrite(session: &mut Session, dm: &DataManager, args: RewriteArgs) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let target = args.target.target.as_ref();
    let plan = dm.backup().plan_rewrite(&ctx, target, &args.backups, args.keep).await?;
    drop(progress);
    if args.apply.dry_run {
        session.out.document("rewrite-plan", &[("plan", &plan)])?;
        if session.out.is_human() {
            session.show_plan(&plan_lines(&plan))?;
        }
        return Ok(Exit::Done);
    }
    session.show_plan(&plan_lines(&plan))?;
    if !plan.entries.is_empty() {
        let question = format!("Write {} anew?", text::count(plan.entries.len() as u64, "backup"));
        session.questions.confirm(&question, args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = Box::pin(dm.backup().apply_rewrite(&ctx, &plan)).await?;
    drop(progress);
    session.out.document("rewrite-run", &[("run_id", &ctx.run_id()), ("report", &report)])?;
    tell(session, &report)?;
    Ok(if report.left.is_empty() && report.sweep.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

fn plan_lines(plan: &RewritePlan) -> Vec<String> {
    let mut table = Table::new(["id", "kind", "shows", ">reads", "needs", "what becomes of it"]);
    for entry in &plan.entries {
        let fate = match (entry.done, plan.keep) {
            (Some(new), true) => format!("stands as {} already, stays", short(new)),
            (Some(new), false) => format!("stands as {} already, goes", short(new)),
            (None, true) => "is written anew, stays".to_owned(),
            (None, false) => "is written anew, goes".to_owned(),
        };
        table.row([
            short(entry.id),
            entry.kind.to_string(),
            text::time(entry.at),
            text::bytes(entry.bytes),
            text::count(entry.references.len() as u64, "other"),
            fate,
        ]);
    }
    let mut lines = if table.is_empty() { Vec::new() } else { table.lines() };
    lines.extend(
        plan.left.iter().map(|left| format!("{} stays: {}", short(left.id), text::printable(&left.reason))),
    );
    lines.push(if plan.entries.is_empty() {
        format!("nothing of {} keeps alive what no rule wants", plan.target)
    } else {
        format!(
            "afterwards nothing needs {} ({}); what the new ones take is known when they are written",
            text::count(plan.freed.len() as u64, "old backup"),
            text::bytes(plan.freed_bytes)
        )
    });
    lines
}

fn tell(session: &mut Session, report: &RewriteReport) -> Result<()> {
    for one in &report.rewritten {
        let was_there = if one.was_there { ", from an earlier run" } else { "" };
        session.out.say(format!(
            "{} stands as {}: {} stored{was_there}",
            short(one.old),
            short(one.new),
            text::bytes(one.stored_bytes)
        ))?;
    }
    for left in &report.left {
        session.out.say(format!("{} stays: {}", short(left.id), text::printable(&left.reason)))?;
    }
    let marked = text::count(report.deleted.len() as u64, "old backup");
    session.out.say(format!(
        "{marked} marked, {} freed now; \"dm backup expire\" lets go what only they kept alive",
        text::bytes(report.sweep.bytes)
    ))?;
    session.out.findings(&report.sweep.problems)
}
