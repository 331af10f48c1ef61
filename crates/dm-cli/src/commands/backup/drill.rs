//! `dm backup drill`.

use std::time::Duration;

use data_manager::backup::DrillReport;
use data_manager::{DataManager, DrillOptions, Level, RecoveryPoint, Result, TableFacts};

use super::super::restore::{assertions, until};
use super::views::{MadeBackup, short};
use crate::args::DrillArgs;
use crate::exit::Exit;
use crate::output::{ToJson, text};
use crate::session::Session;

pub(super) async fn drill(session: &mut Session, dm: &DataManager, args: DrillArgs) -> Result<Exit> {
    let until = until(&args.point, dm)?.unwrap_or(RecoveryPoint::Backup);
    let options = DrillOptions {
        engine: args.engine,
        target: args.target.target,
        which: args.backup,
        until,
        exclusive: args.point.exclusive,
        tables: args.tables,
        jobs: args.jobs.map(Into::into),
        checks: Some(args.checks.into()),
        assertions: args.questions,
        settings: args.settings.into_iter().collect(),
        timeline: args.point.timeline.map(|t| t.to_string()),
        scratch_dir: args.scratch.map(|dir| session.folder.join(dir)),
        ..DrillOptions::default()
    };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.backup().drill(&ctx, &options).await?;
    drop(progress);
    let mut document = report.to_json()?;
    // The backup as every document has it, not with everything that the repository knows of it.
    document["backup"] = MadeBackup::from(&report.backup).to_json()?;
    session.out.document(
        "drill-run",
        &[("run_id", &ctx.run_id()), ("backup_id", &report.backup.id), ("report", &document)],
    )?;
    tell(session, &report)?;
    Ok(if report.ok { Exit::Done } else { Exit::CheckFailed })
}

fn tell(session: &mut Session, report: &DrillReport) -> Result<()> {
    let backup = &report.backup;
    let verdict = if report.ok { "can be restored: proven" } else { "FAILED the drill" };
    session.out.heading(&format!("{} of {} {verdict}", short(backup.id), backup.target))?;
    let failure = report.failure.as_ref().map_or_else(String::new, |f| f.message.clone());
    let passed = report.checks.iter().filter(|c| c.level == Level::Ok).count();
    session.out.facts(&[
        ("failure", failure),
        ("wrong", report.complaint.clone().unwrap_or_default()),
        ("shows", text::time(report.reaches.as_ref().map_or(backup.consistency.at, |r| r.at))),
        ("content", content(report)),
        ("checks", if passed == 0 { String::new() } else { format!("{passed} passed") }),
        ("written", format!("{}, {}/s", text::bytes(report.bytes), text::bytes(report.bytes_per_second))),
        ("recovery", format!("takes {}", text::duration(Duration::from_millis(report.restore_ms)))),
        ("took", text::duration(Duration::from_millis(report.duration_ms))),
    ])?;
    let wrong: Vec<_> = report.checks.iter().filter(|c| c.level > Level::Ok).cloned().collect();
    session.out.findings(&wrong)?;
    if !report.assertions.is_empty() {
        session.out.table(&assertions(&report.assertions))?;
    }
    for warning in &report.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    if let Some(left) = &report.left {
        session.out.say(format!("  left behind, remove it by hand: {}", text::printable(left)))?;
    }
    if let Some(hint) = report.failure.as_ref().and_then(|f| f.hint.as_ref()) {
        session.out.say(format!("  hint: {}", text::printable(hint)))?;
    }
    Ok(())
}

fn content(report: &DrillReport) -> String {
    if report.tables.is_empty() {
        return String::new();
    }
    let differ = report.tables.iter().filter(|t| !t.equal).count();
    let verdict = if differ == 0 { "all equal".to_owned() } else { format!("{differ} DIFFER") };
    format!(
        "{}, {}: {verdict}",
        text::count(TableFacts::tally(report.tables.iter().map(|t| &t.expected)).0, "table"),
        text::count(report.rows, "row")
    )
}
