//! The same story on PostgreSQL 15 and 18, with pgbench's data and awkward names, into a folder and into a bucket.

use std::path::Path;

use data_manager::repository::VerifyLevel;
use data_manager::{BackupKind, BackupOptions, RestoreOptions};
use dm_testkit::emulators::S3;
use dm_testkit::postgres::{Server, TestDatabase};

use crate::support::{Place, execute, number};

const AWKWARD: &str = r#"
    CREATE SCHEMA "we""ird; DROP TABLE x";
    CREATE TABLE "we""ird; DROP TABLE x"."Table; --" ("a b" int PRIMARY KEY, "c""d" text, e numeric, f timestamptz);
    INSERT INTO "we""ird; DROP TABLE x"."Table; --"
        VALUES (1, E'tab\there\nnewline\\backslash', 'NaN', 'infinity'), (2, NULL, 1e-30, '0044-03-15 BC'), (3, '', -0, now());
    CREATE TABLE empty_table (id bigint GENERATED ALWAYS AS IDENTITY, x text);
    CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree (id) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2);
"#;

async fn story(place: &Place, database: &TestDatabase, folder: &Path) {
    database.pgbench(2).await.expect("pgbench data");
    database.psql(AWKWARD).await.expect("awkward data");
    let dm = place.manager(&database.url(), folder);
    let options = BackupOptions { jobs: Some(2), ..BackupOptions::default() };

    let full = dm.backup().run(&dm.context(), &options).await.expect("a full backup");
    assert_eq!(full.backup.counts.rows, 200_000 + 20 + 2 + 3 + 3);
    execute(&dm, "UPDATE pgbench_accounts SET abalance = 7 WHERE aid BETWEEN 5000 AND 5100").await;
    let options = BackupOptions { kind: Some(BackupKind::Incremental), ..options };
    let incremental = dm.backup().run(&dm.context(), &options).await.expect("an incremental backup");
    assert!(incremental.backup.sizes.stored < full.backup.sizes.stored, "{:?}", incremental.backup.sizes);
    let truth = number(&dm, "SELECT sum(aid::bigint * (abalance + 1))::bigint FROM pgbench_accounts").await;

    dm.backup()
        .verify(&dm.context(), None, None, VerifyLevel::Full)
        .await
        .expect("a verification")
        .check()
        .expect("a sound repository");
    execute(&dm, "TRUNCATE pgbench_accounts").await;

    let name = format!("{}_back", database.name());
    let options = RestoreOptions { to: Some(name.clone()), jobs: Some(2), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await.expect("a plan");
    let restored = dm.apply_restore(&dm.context(), plan).await.expect("a restore");
    assert!(restored.equal, "{restored:?}");

    let copy = place.manager(&database.url_of(&name), folder);
    let found = number(&copy, "SELECT sum(aid::bigint * (abalance + 1))::bigint FROM pgbench_accounts").await;
    assert_eq!(found, truth);
    let awkward = database
        .psql_in(
            &name,
            r#"SELECT count(*) FROM "we""ird; DROP TABLE x"."Table; --" WHERE f = 'infinity' AND e = 'NaN'"#,
        )
        .await
        .expect("the awkward table is there");
    assert_eq!(awkward.trim(), "1");
    copy.close().await;
    assert!(dm.audit().verify(&dm.context(), &Default::default()).await.expect("the trail verifies").ok);
    dm.close().await;
}

async fn on(major: u32, place: impl FnOnce(&Path) -> Place) {
    let Some(server) = dm_testkit::available(Server::shared(major)) else { return };
    let database = server.database("story").await.expect("a database");
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(&folder.path().join("backups"));
    place.bin_dir = Some(database.bin_dir().to_owned());
    story(&place, &database, folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15_in_a_folder() {
    on(15, Place::folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_in_a_folder_encrypted() {
    on(18, |path| Place::folder(path).encrypted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15_in_a_bucket_encrypted() {
    let Some(s3) = dm_testkit::available(S3::start()) else { return };
    on(15, |_| Place::s3(&s3).encrypted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_in_a_bucket() {
    let Some(s3) = dm_testkit::available(S3::start()) else { return };
    on(18, |_| Place::s3(&s3)).await;
}
