//! A PostgreSQL server brought back to an instant: a physical backup, its log, and a restore in between.
//!
//! `DATABASE_URL=postgres://backup@localhost/shop RESTORE_TO=/var/lib/postgresql/restored cargo run --example point_in_time_recovery`
//!
//! The role needs the grants of docs/postgres-physical.md; the restore runs where the server's programs are.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use data_manager::{
    BackupMode, BackupOptions, DataManager, RecoveryPoint, RestoreOptions, Result, ShipLogOptions,
};

#[tokio::main]
async fn main() -> Result<()> {
    let (Ok(url), Ok(to)) = (std::env::var("DATABASE_URL"), std::env::var("RESTORE_TO")) else {
        println!(
            "set DATABASE_URL to a PostgreSQL database, and RESTORE_TO to a folder that does not exist yet"
        );
        return Ok(());
    };
    let dm = DataManager::builder()
        .engine("shop", url)?
        .repository("./dm-backups")
        .state("./dm-state.db")
        .build()?;

    // The base: every file of the server, over SQL connections.
    let physical = BackupOptions { mode: Some(BackupMode::Physical), ..BackupOptions::default() };
    let base = dm.backup().run(&dm.context(), &physical).await?;
    println!("backup {} of {}", base.backup.id, base.backup.target);

    // Days of work, and then a mistake. The instant just before it is where we want to go back to.
    let before_the_mistake = dm.context().now();
    tokio::time::sleep(Duration::from_secs(1)).await;

    // A service does this all the time (`dm log ship`); once is enough here.
    let shipped =
        dm.logs().ship(&dm.context(), &ShipLogOptions { once: true, ..ShipLogOptions::default() }).await?;
    println!("log shipped, complete until {:?}", shipped.complete_until);
    // What cannot be restored any more is no error of the shipping, but nothing to overlook.
    for alarm in &shipped.alarms {
        println!("ALARM: {alarm}");
    }

    let options = RestoreOptions {
        to: Some(to),
        until: RecoveryPoint::Time(before_the_mistake),
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&dm.context(), &options).await?;
    println!("will restore {} to {}", plan.backup.id, plan.preview.location);
    println!("what was committed after {} will be lost", plan.loss.from);
    for finding in &plan.preview.findings {
        println!("{:?} {}: {}", finding.level, finding.check, finding.message);
    }

    let report = dm.apply_restore(&dm.context(), plan).await?;
    println!("{} shows {}", report.location, report.reached.at);
    println!(
        "recovery point {} ms, recovery time {} ms",
        report.recovery.loss.lost_ms, report.recovery.rto_ms
    );
    for note in &report.notes {
        println!("next: {note}");
    }
    dm.close().await;
    Ok(())
}
