//! A backup of an SQLite database, and the proof that it can be restored.
//!
//! `cargo run --example quickstart_sqlite`
#![allow(clippy::print_stdout)]

use data_manager::{BackupOptions, DataManager, RestoreOptions, Result, Statement};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("shop.db");

    // One engine, one repository. Nothing is connected to or created until it is needed.
    let dm = DataManager::builder()
        .engine("shop", format!("sqlite://{}?mode=rwc", database.display()))?
        .repository(folder.path().join("backups").display().to_string())
        .state(folder.path().join("state.db").display().to_string())
        .build()?;
    let ctx = dm.context();

    dm.execute(&ctx, Statement::new("CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL)"))
        .await?;
    for total in [1200, 4550, 990] {
        dm.execute(&ctx, Statement::new("INSERT INTO orders (total) VALUES (?)").bind(total)).await?;
    }

    let report = dm.backup().run(&dm.context(), &BackupOptions::default()).await?;
    println!("backed up: {}", report.backup.id);

    // The plan says what would happen; applying it restores to a new file and compares every table.
    let copy = folder.path().join("restored.db");
    let plan = dm
        .plan_restore(
            &dm.context(),
            &RestoreOptions { to: Some(copy.display().to_string()), ..RestoreOptions::default() },
        )
        .await?;
    let restored = dm.apply_restore(&dm.context(), plan).await?;
    println!("restored to {} and compared: {} tables equal", restored.location, restored.tables.len());

    dm.close().await;
    Ok(())
}
