//! A drill for cron or a timer: restores the latest backup into a throwaway place, asks it the application's own questions, and
//! fails loudly.
//!
//! `cargo run --example drill_in_cron` (an SQLite database of its own), or with `DATABASE_URL` and the backups in ./dm-backups.
//!
//! `0 5 * * 0  cd /srv/shop && drill_in_cron || notify-somebody`
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use data_manager::backup::Assertion;
use data_manager::{BackupOptions, DataManager, DrillOptions, Result, Statement};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (dm, questions) = match std::env::var("DATABASE_URL") {
        Ok(url) => {
            let dm = DataManager::builder().engine("main", url)?.repository("./dm-backups").build()?;
            // Of any database: somebody can read it at all.
            (dm, vec![Assertion::new("answers", "SELECT 1 = 1")])
        }
        Err(_) => (shop(folder.path()).await?, questions()),
    };

    let report = dm
        .backup()
        .drill(&dm.context(), &DrillOptions { assertions: questions, ..DrillOptions::default() })
        .await?;
    println!(
        "backup {} of {}: a recovery takes {} ms",
        report.backup.id, report.backup.target, report.restore_ms
    );
    for answer in &report.assertions {
        let found = answer.found.as_deref().unwrap_or("nothing");
        println!(
            "{}: {found}, expected {}: {}",
            answer.name,
            answer.expected,
            if answer.ok { "ok" } else { "WRONG" }
        );
    }
    dm.close().await;
    // `Ok` of the drill means that there is a result; whether it is a good one, the report says.
    match report.check() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("{error}; {}", error.hint().unwrap_or("no hint"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What must hold of a restored shop, however it was restored.
fn questions() -> Vec<Assertion> {
    let expect = |text: &str| text.parse().expect("an expectation that was written here");
    vec![
        Assertion::new("there are orders", "SELECT count(*) FROM orders").expecting(expect(">= 3")),
        Assertion::new("no order is negative", "SELECT id FROM orders WHERE total < 0")
            .expecting(expect("empty")),
    ]
}

/// A small database with a backup.
async fn shop(folder: &std::path::Path) -> Result<DataManager> {
    let dm = DataManager::builder()
        .engine("shop", format!("sqlite://{}?mode=rwc", folder.join("shop.db").display()))?
        .repository(folder.join("backups").display().to_string())
        .state(folder.join("state.db").display().to_string())
        .build()?;
    let ctx = dm.context();
    dm.execute(&ctx, Statement::new("CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL)"))
        .await?;
    for total in [1200, 4550, 990] {
        dm.execute(&ctx, Statement::new("INSERT INTO orders (total) VALUES (?)").bind(total)).await?;
    }
    dm.backup().run(&dm.context(), &BackupOptions::default()).await?;
    Ok(dm)
}
