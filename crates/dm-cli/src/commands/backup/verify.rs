//! `dm backup verify`.

use data_manager::backup::VerifyReport;
use data_manager::repository::Verification;
use data_manager::{BackupId, DataManager, Level, Result, TargetName};
use serde::Serialize;

use super::views::short;
use crate::args::VerifyArgs;
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
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm
        .backup()
        .verify(&ctx, args.target.target.as_ref(), args.backup.as_deref(), args.level.into())
        .await?;
    drop(progress);
    let items: Vec<Item<'_>> = report
        .backups
        .iter()
        .map(|b| Item { backup_id: b.id, target: &b.target, verification: &b.verification })
        .collect();
    session.out.document(
        "verifications",
        &[("verifications", &items), ("sound", &report.is_sound()), ("problems", &report.problems)],
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
    if table.is_empty() {
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
    session.out.findings(&report.problems)?;
    if !report.is_sound() {
        session.out.say("restore from another backup, take a full one now, and look after the storage")?;
    }
    Ok(())
}
