//! The harness itself: servers come up, stand apart, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod physical;

use dm_testkit::postgres::{Options, Server, StopMode};
use dm_testkit::require;

async fn round_trip(major: u32) {
    let server = require!(Server::shared(major));
    let db = server.database("We\"ird Name").await.unwrap();
    let version = db.psql("SHOW server_version_num").await.unwrap();
    assert!(version.starts_with(&major.to_string()), "{version}");
    db.psql("CREATE TABLE t (id int, name text); INSERT INTO t VALUES (1, 'ä'), (2, NULL)").await.unwrap();
    assert_eq!(db.psql("SELECT * FROM t ORDER BY id").await.unwrap(), "1|ä\n2|");
    let error = db.psql("SELECT 1; SELECT * FROM nowhere; SELECT 2").await.unwrap_err();
    assert!(error.0.contains("nowhere"), "{error}");

    let role = server.role("reader", "NOSUPERUSER").await.unwrap();
    assert!(db.psql_as(&role, "SELECT * FROM t").await.unwrap_err().0.contains("permission denied"));
    let wrong = dm_testkit::postgres::Role { password: "wrong".into(), ..role };
    assert!(db.psql_as(&wrong, "SELECT 1").await.unwrap_err().0.contains("password authentication failed"));
    assert_eq!(server.psql("SHOW listen_addresses").await.unwrap(), "127.0.0.1");

    let name = db.name().to_owned();
    drop(db);
    let left =
        server.psql(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")).await.unwrap();
    assert_eq!(left, "0");
}

#[tokio::test]
async fn postgres_15_round_trip() {
    round_trip(15).await;
}

#[tokio::test]
async fn postgres_16_round_trip() {
    round_trip(16).await;
}

#[tokio::test]
async fn postgres_17_round_trip() {
    round_trip(17).await;
}

#[tokio::test]
async fn postgres_18_round_trip() {
    round_trip(18).await;
}

async fn contributed_extensions(major: u32) {
    let server = require!(Server::shared(major));
    let db = server.database("contrib").await.unwrap();
    db.psql("CREATE EXTENSION pgstattuple; CREATE EXTENSION amcheck; CREATE EXTENSION pg_stat_statements")
        .await
        .unwrap();
}

#[tokio::test]
async fn postgres_15_has_the_contributed_extensions() {
    contributed_extensions(15).await;
}

#[tokio::test]
async fn postgres_17_has_the_contributed_extensions() {
    contributed_extensions(17).await;
}

#[tokio::test]
async fn a_private_server_survives_a_crash_and_leaves_nothing() {
    let options = Options::default().with_setting("max_connections", "17");
    let server = require!(Server::private(18, &options));
    let db = server.database("x").await.unwrap();
    assert_eq!(db.psql("SHOW max_connections").await.unwrap(), "17");
    db.psql("SET synchronous_commit = on; CREATE TABLE t AS SELECT 1 AS id").await.unwrap();
    server.restart(StopMode::Immediate).unwrap();
    assert_eq!(db.psql("SELECT * FROM t").await.unwrap(), "1");
    server.stop(StopMode::Fast).unwrap();
    assert!(db.psql("SELECT 1").await.is_err());
    assert!(server.pid().is_err());
    let folder = server.data_dir().parent().unwrap().to_owned();
    drop(db);
    drop(server);
    dm_testkit::wait_until("the server's folder is gone", || !folder.exists());
}

/// Not a test of its own: what the next one starts as another process, and kills.
#[tokio::test]
async fn waits_with_a_server_until_killed() {
    use std::io::Write as _;
    let Some(note) = std::env::var_os("DM_TESTKIT_NOTE") else { return };
    let server = Server::private(15, &Options::default()).unwrap();
    let draft = std::path::Path::new(&note).with_extension("draft");
    let mut file = std::fs::File::create(&draft).unwrap();
    write!(file, "{} {}", server.pid().unwrap(), server.data_dir().parent().unwrap().display()).unwrap();
    std::fs::rename(&draft, &note).unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_test_leaves_no_server_and_no_folder() {
    let _ = require!(dm_testkit::postgres::Install::find(15));
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "waits_with_a_server_until_killed"])
        .env("DM_TESTKIT_NOTE", &note)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    dm_testkit::wait_until("the other process has a server", || note.exists());
    let text = std::fs::read_to_string(&note).unwrap();
    let (pid, home) = text.split_once(' ').unwrap();
    let (process, home) = (format!("/proc/{pid}"), std::path::Path::new(home));
    assert!(std::path::Path::new(&process).exists() && home.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    dm_testkit::wait_until("the server is gone", || !std::path::Path::new(&process).exists());
    dm_testkit::wait_until("its folder is gone", || !home.exists());
}
