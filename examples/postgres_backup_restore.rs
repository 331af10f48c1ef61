//! A PostgreSQL database backed up and restored into a new database beside it.
//!
//! `DATABASE_URL=postgres://user:password@localhost/shop cargo run --example postgres_backup_restore`
#![allow(clippy::print_stdout)]

use data_manager::{BackupOptions, DataManager, ErrorKind, RestoreOptions, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        println!("set DATABASE_URL to a PostgreSQL database, for example postgres://me@localhost/shop");
        return Ok(());
    };
    let dm = DataManager::builder()
        .engine("main", url)?
        .repository("./dm-backups")
        .state("./dm-state.db")
        .build()?;

    // Look before you leap: what would stop the backup?
    for finding in dm.backup().preflight(&dm.context(), &BackupOptions::default()).await?.findings {
        println!("{:?} {}: {}", finding.level, finding.check, finding.message);
    }

    let report = match dm
        .backup()
        .run(&dm.context(), &BackupOptions { jobs: Some(4), ..BackupOptions::default() })
        .await
    {
        Ok(report) => report,
        Err(error) => {
            // Kinds are few: each asks for another action of yours. The hint is the way out.
            if error.kind() == ErrorKind::Unreachable {
                println!("is the server up?");
            }
            println!("{error}; {}", error.hint().unwrap_or("no hint"));
            return Err(error);
        }
    };
    println!("backup {} holds {} rows", report.backup.id, report.backup.counts.rows);

    let plan = dm.plan_restore(&dm.context(), &RestoreOptions::default()).await?;
    println!("will restore to {}", plan.preview.location);
    let restored = dm.apply_restore(&dm.context(), plan).await?;
    println!("{}: {} tables compared, proven: {}", restored.location, restored.tables.len(), restored.equal);

    dm.close().await;
    Ok(())
}
