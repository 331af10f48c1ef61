//! Migrations by the library, as programs run them when they start: many at once, each with connections and a state of its own.

use data_manager::{DataManager, MigrateOptions, MigrationSource};
use dm_testkit::postgres::Server;
use dm_testkit::require;
use tempfile::TempDir;

use crate::support::{Place, execute, number};

/// Managers as of two programs on two hosts, which share nothing but the database.
fn two(folder: &TempDir, url: &str) -> [DataManager; 2] {
    ["one", "other"].map(|name| {
        let state = folder.path().join(name);
        std::fs::create_dir_all(&state).unwrap();
        Place::folder(&state.join("backups")).manager(url, &state)
    })
}

async fn each_is_applied_once(folder: &TempDir, url: &str) {
    let files = folder.path().join("migrations");
    std::fs::create_dir(&files).unwrap();
    let options =
        MigrateOptions { source: MigrationSource::Folder(files.clone()), ..MigrateOptions::default() };
    let [first, _] = two(folder, url);
    execute(&first, "CREATE TABLE ran (version int)").await;
    let starts = i64::try_from(dm_testkit::count(4, 100)).unwrap();
    for round in 0..starts {
        for version in 3 * round + 1..=3 * round + 3 {
            // Nothing keeps a line from standing there twice but the runner.
            let text = format!("INSERT INTO ran VALUES ({version});\n");
            std::fs::write(files.join(format!("{version:04}_step.sql")), text).unwrap();
        }
        let [one, other] = two(folder, url);
        let start = async |dm: &DataManager| dm.migrate().up(&dm.context(), &options, None).await;
        let (a, b) = tokio::join!(start(&one), start(&other));
        let applied = a.unwrap().migrations.len() + b.unwrap().migrations.len();
        assert_eq!(applied, 3, "round {round}: between them they applied each once");
        one.close().await;
        other.close().await;
    }
    assert_eq!(number(&first, "SELECT count(*) FROM ran").await, starts * 3);
    assert_eq!(number(&first, "SELECT count(DISTINCT version) FROM ran").await, starts * 3);
    let settled = first.migrate().status(&first.context(), &options).await.unwrap();
    assert!(settled.is_settled(), "{settled:?}");
    first.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_that_start_at_once_apply_each_migration_once_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display());
    each_is_applied_once(&folder, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_that_start_at_once_apply_each_migration_once_on_postgres() {
    for major in [15, 18] {
        let server = require!(Server::shared(major));
        let database = server.database("starts").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        each_is_applied_once(&folder, &database.url()).await;
    }
}
