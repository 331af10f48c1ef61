//! `dm backup verify`.

use data_manager::backup::{VerifyReport, VerifyRequest};
use data_manager::repository::{Verification, VerifyLevel, VerifyOptions};
use data_manager::{BackupId, DataManager, Level, Result, TargetName};
use serde::Serialize;

use super::views::short;
use crate::args::{DrillArgs, VerifyArgs};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

/// One item of `dm.verifications/1`.
#[derive(Serialize)]
struct Item<'a> {
    backup_id: BackupId,
    target: &'a TargetName,
    #[serde(flatten)]
    verification: &'a Verification,
}

pub(super) async fn verify(session: &mut Session, dm: &DataManager, args: VerifyArgs) -> Result<Exit> {
    if args.deep {
        let which = args.backup.unwrap_or_else(|| "latest".to_owned());
        return Box::pin(super::drill::drill(session, dm, DrillArgs::of(which, args.target, args.resources)))
            .await;
    }
    let level = if args.quick { VerifyLevel::Quick } else { args.level.into() };
    let how = VerifyOptions { level, sample: args.sample, ..VerifyOptions::default() };
    let request = VerifyRequest { how, older_than: args.older_than };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report =
        dm.backup().verify(&ctx, args.target.target.as_ref(), args.backup.as_deref(), request).await?;
    drop(progress);
    let items: Vec<Item<'_>> = report
        .backups
        .iter()
        .map(|b| Item { backup_id: b.id, target: &b.target, verification: &b.verification })
        .collect();
    session.out.document(
        "verifications",
        &[
            ("verifications", &items),
            ("left_out", &report.left_out),
            ("logs", &report.logs),
            ("sound", &report.is_sound()),
            ("problems", &report.problems),
        ],
    )?;
    tell(session, &report)?;
    Ok(if report.is_sound() { Exit::Done } else { Exit::CheckFailed })
}

fn tell(session: &mut Session, report: &VerifyReport) -> Result<()> {
    let mut table = Table::new(["id", "target", "level", ">objects", ">bytes read", "result"]);
    for backup in &report.backups {
        let v = &backup.verification;
        table.row([
            short(backup.id),
            backup.target.to_string(),
            v.level.to_string(),
            text::grouped(v.objects),
            text::bytes(v.bytes),
            if v.ok { "sound" } else { "DAMAGED" }.to_owned(),
        ]);
    }
    if let ([first, ..], true) = (&report.left_out[..], table.is_empty()) {
        let oldest = report.left_out.iter().map(|l| l.proven_at).min().unwrap_or(first.proven_at);
        session.out.say(format!("everything was proven since {}", text::time(oldest)))?;
    } else if table.is_empty() {
        session.out.say("there is nothing to verify; \"dm backup run\" makes a backup")?;
    } else {
        session.out.table(&table)?;
    }
    for backup in &report.backups {
        let bad: Vec<_> =
            backup.verification.findings.iter().filter(|f| f.level > Level::Ok).cloned().collect();
        if !bad.is_empty() {
            session.out.heading(&format!("{} of {}", short(backup.id), backup.target))?;
            session.out.findings(&bad)?;
        }
    }
    for left in report.left_out.iter().filter(|_| !table.is_empty()) {
        session.out.say(format!("{} was proven {}: left out", short(left.id), text::time(left.proven_at)))?;
    }
    for log in &report.logs {
        session.out.say(format!(
            "log of {} ({}): {}, {} read",
            log.target,
            log.stream,
            text::count(log.pieces, "piece"),
            text::bytes(log.bytes)
        ))?;
        session.out.findings(&log.findings)?;
    }
    session.out.findings(&report.problems)?;
    if !report.is_sound() {
        session.out.say("restore from another backup, take a full one now, and look after the storage")?;
    }
    Ok(())
}
