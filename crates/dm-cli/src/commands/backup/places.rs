//! `dm backup copy` and `repair`, and the copying after a backup.

use std::time::Duration;

use data_manager::repository::CopyOptions;
use data_manager::{DataManager, PlaceCopy, Result};

use super::views::short;
use crate::args::{CopyArgs, RepairArgs};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn copy(session: &mut Session, dm: &DataManager, args: CopyArgs) -> Result<Exit> {
    let options = CopyOptions { target: args.target.target, dry_run: args.dry_run };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let copies = dm.backup().copy(&ctx, args.to.as_deref(), &options).await?;
    drop(progress);
    session.out.document("copies", &[("dry_run", &options.dry_run), ("copies", &copies)])?;
    let mut table = Table::new(["place", "location", ">backups", ">log", ">bytes", "took", "result"]);
    for copy in &copies {
        let [backups, log, bytes] = match &copy.report {
            Some(report) => [
                text::grouped(report.backups.len() as u64),
                text::grouped(report.log_objects),
                text::bytes(report.bytes()),
            ],
            None => Default::default(),
        };
        table.row([
            copy.place.clone(),
            copy.location.clone(),
            backups,
            log,
            bytes,
            text::duration(Duration::from_millis(copy.duration_ms)),
            result(copy, options.dry_run).to_owned(),
        ]);
    }
    session.out.table(&table)?;
    tell_problems(session, &copies)?;
    if options.dry_run {
        session.out.say("nothing was changed")?;
    }
    Ok(exit(&copies))
}

fn result(copy: &PlaceCopy, dry_run: bool) -> &'static str {
    match &copy.report {
        None => "FAILED",
        Some(report) if !report.is_whole() => "NOT WHOLE",
        Some(_) if dry_run => "would be whole",
        Some(_) => "has everything",
    }
}

/// How a command ends that copied: what is done is done, but not in every place.
pub(super) fn exit(copies: &[PlaceCopy]) -> Exit {
    if copies.iter().all(PlaceCopy::is_whole) { Exit::Done } else { Exit::Partial }
}

/// The copying after a backup, in a line for each place.
pub(super) fn tell(session: &mut Session, copies: &[PlaceCopy]) -> Result<()> {
    for copy in copies {
        let bytes = copy.report.as_ref().map_or(0, data_manager::repository::CopyReport::bytes);
        session.out.say(format!(
            "  copied to {}: {}, {}",
            copy.place,
            text::bytes(bytes),
            result(copy, false)
        ))?;
    }
    tell_problems(session, copies)
}

fn tell_problems(session: &mut Session, copies: &[PlaceCopy]) -> Result<()> {
    for copy in copies {
        if let Some(failure) = &copy.failure {
            session.out.say(format!("{}: {}", copy.place, text::printable(failure)))?;
        }
        let Some(report) = &copy.report else { continue };
        for left in &report.left {
            session.out.say(format!(
                "{}: {} of {} is not there: {}",
                copy.place,
                short(left.id),
                left.target,
                text::printable(&left.reason)
            ))?;
        }
        session.out.findings(&report.problems)?;
    }
    Ok(())
}

pub(super) async fn repair(session: &mut Session, dm: &DataManager, args: RepairArgs) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let target = args.target.target.as_ref();
    let repaired = dm.backup().repair(&ctx, target, args.backup.as_deref(), args.from.as_deref()).await?;
    drop(progress);
    let whole = repaired.iter().all(|backup| backup.report.problems.is_empty());
    session.out.document("repairs", &[("repairs", &repaired), ("whole", &whole)])?;
    let mut table = Table::new(["id", "target", ">objects", ">mended", "result"]);
    for backup in &repaired {
        table.row([
            short(backup.id),
            backup.target.to_string(),
            text::grouped(backup.report.objects),
            text::grouped(backup.report.mended.len() as u64),
            if backup.report.problems.is_empty() { "whole" } else { "DAMAGED" }.to_owned(),
        ]);
    }
    if table.is_empty() {
        session.out.say("there is nothing to mend; \"dm backup run\" makes a backup")?;
    } else {
        session.out.table(&table)?;
    }
    for backup in &repaired {
        for object in &backup.report.mended {
            session.out.say(format!("mended: {}", text::printable(object)))?;
        }
        session.out.findings(&backup.report.problems)?;
    }
    Ok(if whole { Exit::Done } else { Exit::CheckFailed })
}
