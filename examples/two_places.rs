//! Every backup in two places: one burns down, the other serves alone, and one mends the other.
//!
//! `cargo run --example two_places`
#![allow(clippy::print_stdout)]

use data_manager::repository::CopyOptions;
use data_manager::{BackupOptions, DataManager, DataManagerBuilder, RestoreOptions, Result, Statement};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();

    // Any mix of folders and buckets: `s3://bucket/prefix`, `gs://…`, `az://…`.
    let described = || -> Result<DataManagerBuilder> {
        Ok(DataManager::builder()
            .engine("shop", format!("sqlite://{}?mode=rwc", path("shop.db")))?
            .repository(path("backups"))
            .second_place("offsite", path("offsite"))
            .state(path("state.db")))
    };
    let dm = described()?.build()?;
    let ctx = dm.context();
    dm.execute(&ctx, Statement::new("CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL)"))
        .await?;
    dm.execute(&ctx, Statement::new("INSERT INTO orders (total) VALUES (1200), (4550), (990)")).await?;

    // A backup, and its copy. Copying needs no key and goes on where an earlier one stopped.
    dm.backup().run(&dm.context(), &BackupOptions::default()).await?;
    for copy in dm.backup().copy(&dm.context(), None, &CopyOptions::default()).await? {
        assert!(copy.is_whole(), "{:?}", copy.failure);
        println!("copied to {} in {} ms", copy.place, copy.duration_ms);
    }
    dm.close().await;

    // The first place is gone. The second is a whole repository of its own.
    std::fs::remove_dir_all(path("backups")).expect("the first place");
    let dm = described()?.place("offsite").build()?;
    let options = RestoreOptions { to: Some(path("restored.db")), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await?;
    let restored = dm.apply_restore(&dm.context(), plan).await?;
    println!("restored to {} from the copy: {} tables equal", restored.location, restored.tables.len());

    // And fills the first place again.
    let back = dm.backup().copy(&dm.context(), Some(data_manager::PRIMARY), &CopyOptions::default()).await?;
    assert!(back.iter().all(data_manager::PlaceCopy::is_whole));
    dm.close().await;
    Ok(())
}
