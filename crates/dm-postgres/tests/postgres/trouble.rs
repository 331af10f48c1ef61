//! What goes wrong is found early and said clearly.

use std::time::Duration;

use dm_core::{BackupRequest, Destination, Engine, EngineId, ErrorKind, Finding, Level, Secret};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::conformance::collect;
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;

use crate::support::{backup, context, engine, engine_at, into, options, request};

async fn findings(engine: &PostgresEngine, request: &BackupRequest) -> Vec<Finding> {
    let preflight =
        engine.backup().expect("a source").preflight(&context(), request).await.expect("a preflight");
    preflight.findings.into_iter().filter(|f| f.level == Level::Error).collect()
}

fn at(url: &str) -> PostgresEngine {
    let options = PostgresOptions { connect_timeout: Duration::from_secs(3), ..PostgresOptions::default() };
    PostgresEngine::connect(EngineId::new("main").expect("a name"), &Secret::new(url), options)
        .expect("a url")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_get_in_hears_why() {
    let server = require!(Server::shared(15));
    let db = server.database("doors").await.expect("a database");
    let wrong = db.url().replace(server.password(), "wrong");
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    for (url, kind) in [
        (wrong, ErrorKind::Denied),
        (db.url_of("no_such_database"), ErrorKind::NotFound),
        (format!("postgres://me:secret@127.0.0.1:{closed}/d"), ErrorKind::Unreachable),
        ("postgres://me:secret@host.invalid/d".to_owned(), ErrorKind::Unreachable),
    ] {
        let engine = at(&url);
        let error = engine.ping(&context()).await.expect_err("no way in");
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        let shown = format!("{error:?} {error} {engine:?}");
        assert!(
            !shown.contains("wrong") && !shown.contains("secret") && !shown.contains(server.password()),
            "{shown}"
        );
        let query =
            engine.query().expect("queries").execute(&context(), dm_core::Statement::new("SELECT 1")).await;
        assert_eq!(query.expect_err("no way in").kind(), kind);
        let Err(error) = engine.backup().expect("a source").open(&context(), &request()).await else {
            panic!("a backup of nothing")
        };
        assert_eq!(error.kind(), kind);
        let doctor = engine.diagnose(&context()).await;
        assert!(doctor.iter().any(|f| f.level == Level::Error && f.mend.is_some()), "{doctor:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_server_is_called_healthy() {
    let server = require!(Server::shared(15));
    let db = server.database("healthy").await.expect("a database");
    let engine = engine(&db);
    let health = engine.ping(&context()).await.expect("health");
    assert!(health.reachable && health.size_bytes.is_some_and(|b| b > 0));
    assert!(health.connections.is_some_and(|(used, most)| used >= 1 && most > used));
    assert_eq!(engine.version(&context()).await.expect("a version").major, 15);
    let doctor = engine.diagnose(&context()).await;
    assert!(doctor.iter().all(|f| f.level < Level::Warning), "{doctor:?}");
}

/// A folder of client programs that name an older version.
fn old_tools() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    for program in ["pg_dump", "pg_restore", "pg_dumpall"] {
        let path = folder.path().join(program);
        std::fs::write(&path, format!("#!/bin/sh\necho '{program} (PostgreSQL) 11.22'\n")).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_are_too_old_are_named_with_the_way_out() {
    let server = require!(Server::shared(15));
    let db = server.database("tools").await.expect("a database");
    let folder = old_tools();
    let options = PostgresOptions { bin_dir: Some(folder.path().to_owned()), ..options(&db) };
    let old =
        PostgresEngine::connect(EngineId::new("main").expect("a name"), &Secret::new(db.url()), options)
            .expect("a url");
    let found = findings(&old, &request()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].message, "pg_dump 11 cannot read a PostgreSQL 15 server");
    assert_eq!(
        found[0].mend.as_deref(),
        Some("set the bin_dir of the engine or install postgresql-client-15")
    );
    let Err(error) = old.backup().expect("a source").open(&context(), &request()).await else {
        panic!("too old")
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let backup = backup(&engine(&db), &request()).await;
    let preview = old
        .restore()
        .expect("a target")
        .preview(&context(), &into(Destination::New(None)), &backup.manifest())
        .await
        .expect("a preview");
    assert!(preview.findings.iter().any(|f| f.level == Level::Error && f.check == "client_tools"));
}

async fn with_secret(server: &Server, db: &TestDatabase) -> (PostgresEngine, String) {
    db.psql(
        "CREATE TABLE open_to_all (id int); CREATE TABLE hidden (id int); CREATE TABLE \"Hid den\" (id int)",
    )
    .await
    .expect("tables");
    let role = server.role("reader", "").await.expect("a role");
    db.psql(&format!("GRANT SELECT ON open_to_all TO {}", role.name)).await.expect("a grant");
    (engine_at(db, db.url_as(&role)), role.name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_may_not_be_read_are_listed() {
    let server = require!(Server::shared(15));
    let db = server.database("privileges").await.expect("a database");
    let (reader, _) = with_secret(server, &db).await;
    let found = findings(&reader, &request()).await;
    assert!(
        found.iter().any(|f| f.message.contains("public.hidden") && f.message.contains("public.\"Hid den\"")),
        "{found:?}"
    );
    let Err(error) = reader.backup().expect("a source").open(&context(), &request()).await else {
        panic!("not allowed")
    };
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("public.hidden"), "{error}");
    // What may be read can be backed up, by a role without any privilege besides.
    let only = BackupRequest { exclude_tables: vec!["*hid*".into(), "Hid den".into()], ..request() };
    assert!(findings(&reader, &only).await.is_empty());
    let backup = collect(&reader, &context(), &only).await.expect("a backup");
    assert_eq!(backup.summary.tables.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_never_hides_rows_silently() {
    let server = require!(Server::shared(15));
    let db = server.database("rls").await.expect("a database");
    db.psql("CREATE TABLE rows_of (who text); ALTER TABLE rows_of ENABLE ROW LEVEL SECURITY; INSERT INTO rows_of VALUES ('a')").await.expect("a table");
    let role = server.role("filtered", "").await.expect("a role");
    db.psql(&format!("GRANT SELECT ON rows_of TO {}", role.name)).await.expect("a grant");
    let filtered = engine_at(&db, db.url_as(&role));
    let found = findings(&filtered, &request()).await;
    assert!(found.iter().any(|f| f.message.contains("row security")), "{found:?}");
    assert!(collect(&filtered, &context(), &request()).await.is_err());
}

/// A table cannot be dropped while a backup holds its snapshot; one that is dropped before is not in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_meanwhile_waits_for_the_backup() {
    let server = require!(Server::shared(15));
    let db = server.database("drop").await.expect("a database");
    db.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id").await.expect("a table");
    let engine = engine(&db);
    let session = engine.backup().expect("a source").open(&context(), &request()).await.expect("a session");
    let refused = db.psql("SET lock_timeout = '200ms'; DROP TABLE t").await.expect_err("the table is locked");
    assert!(refused.0.contains("lock timeout"), "{refused}");
    drop(session);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while db.psql("SET lock_timeout = '200ms'; DROP TABLE t").await.is_err() {
        assert!(std::time::Instant::now() < deadline, "a dropped session keeps its locks");
    }
    assert!(backup(&engine, &request()).await.summary.tables.is_empty());
}

/// A backup whose server connection is cut fails, and says that it can be tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_snapshot_is_no_backup() {
    let server = require!(Server::shared(15));
    let db = server.database("cut").await.expect("a database");
    db.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id").await.expect("a table");
    let engine = engine(&db);
    let source = engine.backup().expect("a source");
    let session = source.open(&context(), &request()).await.expect("a session");
    for member in session.members() {
        use futures::TryStreamExt;
        let stream = session.read(&context(), member).await.expect("a stream");
        stream.try_for_each(|_| std::future::ready(Ok(()))).await.expect("blocks");
    }
    db.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await
        .expect("a cut");
    assert_eq!(session.finish(&context()).await.expect_err("a lost snapshot").kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_who_are_connected_stop_a_restore_in_place() {
    let server = require!(Server::shared(15));
    let db = server.database("busy").await.expect("a database");
    db.psql("CREATE TABLE t (id int)").await.expect("a table");
    let first = engine(&db);
    let backup = backup(&first, &request()).await;
    let other = engine(&db);
    let mut tx = other
        .query()
        .expect("queries")
        .begin(&context(), dm_core::TransactionOptions::default())
        .await
        .expect("a session that stays");
    tx.query(&context(), dm_core::Statement::new("SELECT 1")).await.expect("a statement");
    let session = crate::support::sealed(&first, &backup, &into(Destination::InPlace)).await;
    let error = session.release(&context()).await.expect_err("somebody is connected");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    let hint = error.hint().expect("a hint");
    let sealed = hint.rsplit(' ').next().expect("a name").to_owned();
    assert!(sealed.starts_with("dm_restore_"), "{hint}");
    assert_eq!(db.psql("SELECT count(*) FROM t").await.expect("untouched"), "0");
    tx.rollback(&context()).await.expect("a rollback");
    crate::support::Leftovers(&db, vec![sealed]).drop_all().await;
}
