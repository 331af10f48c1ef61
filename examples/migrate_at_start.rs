//! An application that brings its own migrations: embedded when it is compiled, applied when it starts. Any number of its
//! instances may start at once.
//!
//! `cargo run --example migrate_at_start`
#![allow(clippy::print_stdout)]

use data_manager::{
    DataManager, EmbeddedFile, MigrateOptions, MigrationSource, Result, Statement, embed_migrations,
};

/// The folder `migrations` beside this crate's `Cargo.toml`.
const MIGRATIONS: &[EmbeddedFile] = embed_migrations!("migrations");

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dm = DataManager::builder()
        .engine("shop", format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display()))?
        .state(folder.path().join("state.db").display().to_string())
        .build()?;
    let options =
        MigrateOptions { source: MigrationSource::Embedded(MIGRATIONS), ..MigrateOptions::default() };

    let report = dm.migrate().up(&dm.context(), &options, None).await?;
    for migration in &report.migrations {
        println!("applied {} {}", migration.version, migration.description);
    }

    // The next start finds nothing to do, takes no lock and writes nothing.
    let again = dm.migrate().up(&dm.context(), &options, None).await?;
    println!("applied at the next start: {}", again.migrations.len());

    dm.execute(&dm.context(), Statement::new("INSERT INTO users (email) VALUES (?)").bind("a@example.com"))
        .await?;
    dm.close().await;
    Ok(())
}
