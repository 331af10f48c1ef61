//! Statements, transactions, health.

use std::time::Duration;

use dm_core::{
    AccessMode, Engine, ErrorKind, Level, QueryPort, Result, Row, Statement, TransactionOptions, Value,
};
use dm_sqlite::SqliteOptions;
use futures::{StreamExt, TryStreamExt};
use rusqlite::Connection;

use crate::support::{ctx, engine, engine_with, number, place};

async fn all(port: &dyn QueryPort, statement: Statement) -> Result<Vec<Row>> {
    port.query(&ctx(), statement).await?.try_collect().await
}

const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n";

#[tokio::test]
async fn values_come_back_as_they_were() {
    let place = place("CREATE TABLE t(a);");
    let port = engine(&place.db).query().unwrap();
    let values = [
        Value::Null,
        Value::Int(i64::MIN),
        Value::Float(1.0e-310),
        Value::Float(f64::NEG_INFINITY),
        Value::Text("tz\0ü".into()),
        Value::Text(String::new()),
        Value::Bytes(vec![0, 255, 0]),
        Value::Bytes(Vec::new()),
    ];
    for value in values {
        let row =
            all(&*port, Statement { text: "SELECT ? AS v".into(), parameters: vec![value.clone()] }).await;
        assert_eq!(row.unwrap()[0].get("v"), Some(&value));
    }
    let nan = all(&*port, Statement::new("SELECT ?").bind(f64::NAN)).await.unwrap_err();
    assert_eq!(nan.kind(), ErrorKind::Invalid);
    let odd = all(&*port, Statement::new("SELECT CAST(x'ff41' AS TEXT)")).await.unwrap();
    assert_eq!(odd[0].values, [Value::Bytes(vec![255, 0x41])], "text that is not UTF-8 is not mended");
    let order = all(&*port, Statement::new("SELECT $2, $1").bind("one").bind("two")).await.unwrap();
    assert_eq!(order[0].values, [Value::Text("two".into()), Value::Text("one".into())]);
}

#[tokio::test]
async fn execute_counts_and_kinds() {
    let place = place("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p);");
    let engine = engine(&place.db);
    let port = engine.query().unwrap();
    let run = async |text: &str| port.execute(&ctx(), Statement::new(text)).await;
    assert_eq!(run("INSERT INTO p VALUES (1), (2)").await.unwrap(), 2);
    assert_eq!(run("CREATE TABLE other(a)").await.unwrap(), 0);
    assert_eq!(run("SELECT * FROM p").await.unwrap(), 0);
    assert_eq!(run("UPDATE p SET id = id + 10 RETURNING id").await.unwrap(), 2);
    for (text, kind) in [
        ("INSERT INTO p VALUES (11)", ErrorKind::Conflict),
        ("INSERT INTO c VALUES (99)", ErrorKind::Conflict),
        ("SELEC", ErrorKind::Invalid),
        ("SELECT * FROM nosuch", ErrorKind::Invalid),
        ("DELETE FROM p; DELETE FROM c", ErrorKind::Invalid),
        ("BEGIN", ErrorKind::Invalid),
        ("/* sly */ COMMIT", ErrorKind::Invalid),
    ] {
        assert_eq!(run(text).await.unwrap_err().kind(), kind, "{text}");
    }
    engine.close().await;
    engine.close().await;
    assert_eq!(run("SELECT 1").await.unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn missing_files_and_their_making() {
    let place = place("");
    let path = place.file("new.db");
    let error = engine(&path).ping(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some());
    assert_eq!(engine(&path).version(&ctx()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let engine = engine_with(&path, SqliteOptions { create_if_missing: true, ..SqliteOptions::default() });
    assert!(engine.ping(&ctx()).await.unwrap().reachable);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let read_only = engine_with(&path, SqliteOptions { read_only: true, ..SqliteOptions::default() });
    let error =
        read_only.query().unwrap().execute(&ctx(), Statement::new("CREATE TABLE t(a)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn streams_are_lazy_and_stop_when_dropped() {
    let place = place("CREATE TABLE t(a);");
    let options = SqliteOptions { max_connections: 1, ..SqliteOptions::default() };
    let engine = engine_with(&place.db, options);
    let port = engine.query().unwrap();
    for _ in 0..3 {
        let mut stream = port.query(&ctx(), Statement::new(ENDLESS)).await.unwrap();
        for wanted in 1..=200 {
            assert_eq!(stream.next().await.unwrap().unwrap().values, [Value::Int(wanted)]);
        }
        drop(stream);
        // The only connection is free again.
        assert_eq!(all(&*port, Statement::new("SELECT 1")).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn long_statements_are_stopped() {
    let place = place("CREATE TABLE t(a);");
    let count = format!("SELECT count(*) FROM ({ENDLESS})");
    let token = tokio_util::sync::CancellationToken::new();
    let cancelled = ctx().with_cancellation(token.clone());
    let engine_free = engine(&place.db);
    let port = engine_free.query().unwrap();
    let (result, ()) = tokio::join!(port.execute(&cancelled, Statement::new(count.as_str())), async {
        tokio::task::yield_now().await;
        token.cancel();
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Interrupted);

    let timed = ctx().with_timeout(Duration::from_millis(50));
    let error = port.query(&timed, Statement::new(count.as_str())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);

    let options =
        SqliteOptions { query_timeout: Some(Duration::from_millis(50)), ..SqliteOptions::default() };
    let limited = engine_with(&place.db, options);
    let port = limited.query().unwrap();
    let error = port.execute(&ctx(), Statement::new(count.as_str())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let mut stream = port.query(&ctx(), Statement::new(ENDLESS)).await.unwrap();
    let end = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(end.kind(), ErrorKind::Timeout);
    assert_eq!(all(&*port, Statement::new("SELECT 1")).await.unwrap().len(), 1, "the connection lives on");
}

#[tokio::test]
async fn a_change_whose_rows_nobody_reads_is_undone() {
    let place = place("CREATE TABLE t(a);");
    let engine = engine(&place.db);
    let port = engine.query().unwrap();
    let many = format!("INSERT INTO t SELECT x FROM ({ENDLESS} LIMIT 5000) RETURNING a");
    let mut stream = port.query(&ctx(), Statement::new(many.as_str())).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let rows = all(&*port, Statement::new("SELECT count(*) FROM t")).await.unwrap();
    assert_eq!(rows[0].values, [Value::Int(0)]);
    assert_eq!(all(&*port, Statement::new(many.as_str())).await.unwrap().len(), 5000);
    assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 5000);
}

#[tokio::test]
async fn transactions() {
    let place =
        place("CREATE TABLE t(a UNIQUE); CREATE TABLE c(p REFERENCES t(a) DEFERRABLE INITIALLY DEFERRED);");
    let options = SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() };
    let engine = engine_with(&place.db, options);
    let port = engine.query().unwrap();
    let ctx = ctx();
    let insert = |v: i64| Statement::new("INSERT INTO t VALUES ($1)").bind(v);
    let count = || number(&place.db, "SELECT count(*) FROM t");

    let mut t = port.begin(&ctx, TransactionOptions::default()).await.unwrap();
    assert_eq!(t.execute(&ctx, insert(1)).await.unwrap(), 1);
    t.savepoint(&ctx, "s").await.unwrap();
    t.execute(&ctx, insert(2)).await.unwrap();
    t.rollback_to(&ctx, "s").await.unwrap();
    assert_eq!(t.query(&ctx, Statement::new("SELECT * FROM t")).await.unwrap().len(), 1);
    assert_eq!(t.rollback_to(&ctx, "nosuch").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(t.savepoint(&ctx, "a; DROP TABLE t").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(t.execute(&ctx, Statement::new("COMMIT")).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(t.execute(&ctx, insert(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(port.begin(&ctx, TransactionOptions::default()).await.err().unwrap().kind(), ErrorKind::Busy);
    t.commit(&ctx).await.unwrap();
    assert_eq!(count(), 1);

    let mut t = port.begin(&ctx, TransactionOptions::default()).await.unwrap();
    t.execute(&ctx, insert(3)).await.unwrap();
    t.rollback(&ctx).await.unwrap();
    let mut t = port.begin(&ctx, TransactionOptions::default()).await.unwrap();
    t.execute(&ctx, insert(4)).await.unwrap();
    drop(t);
    let mut t = port.begin(&ctx, TransactionOptions::default()).await.unwrap();
    assert_eq!(t.execute(&ctx, Statement::new("INSERT INTO c VALUES (9)")).await.unwrap(), 1);
    assert_eq!(t.commit(&ctx).await.unwrap_err().kind(), ErrorKind::Conflict, "a deferred foreign key");
    assert_eq!(count(), 1);

    let read = TransactionOptions { access: AccessMode::ReadOnly, ..TransactionOptions::default() };
    let mut t = port.begin(&ctx, read).await.unwrap();
    assert_eq!(t.execute(&ctx, insert(5)).await.unwrap_err().kind(), ErrorKind::Denied);
    t.commit(&ctx).await.unwrap();
    for _ in 0..8 {
        port.execute(&ctx, Statement::new("UPDATE t SET a = a"))
            .await
            .expect("no connection stayed read-only");
    }
}

#[tokio::test]
async fn a_rolled_back_transaction_takes_no_more_statements() {
    let place = place("CREATE TABLE t(a);");
    let engine = engine(&place.db);
    let port = engine.query().unwrap();
    let mut t = port.begin(&ctx(), TransactionOptions::default()).await.unwrap();
    t.execute(&ctx(), Statement::new("INSERT INTO t VALUES (1)")).await.unwrap();
    let short = ctx().with_timeout(Duration::from_millis(50));
    let endless = format!("INSERT INTO t {ENDLESS}");
    assert_eq!(t.execute(&short, Statement::new(endless)).await.unwrap_err().kind(), ErrorKind::Timeout);
    let after = t.execute(&ctx(), Statement::new("INSERT INTO t VALUES (2)")).await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::Conflict, "an interrupted write rolls everything back");
    assert!(t.commit(&ctx()).await.is_err());
    assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 0);
}

#[tokio::test]
async fn settings_do_not_leak_to_the_next_user() {
    let place = place("CREATE TABLE t(a);");
    let engine = engine_with(&place.db, SqliteOptions { max_connections: 1, ..SqliteOptions::default() });
    let port = engine.query().unwrap();
    port.execute(&ctx(), Statement::new("PRAGMA foreign_keys=OFF")).await.unwrap();
    let on = all(&*port, Statement::new("PRAGMA foreign_keys")).await.unwrap();
    assert_eq!(on[0].values, [Value::Int(1)]);
}

#[tokio::test]
async fn health_and_diagnosis() {
    let place = place("PRAGMA journal_mode=WAL; CREATE TABLE t(a);");
    let keep = Connection::open(&place.db).unwrap();
    keep.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let engine = engine(&place.db);
    let health = engine.ping(&ctx()).await.unwrap();
    assert!(health.reachable);
    assert_eq!(health.size_bytes, Some(8192));
    assert_eq!(health.connections, Some((1, 4)));
    assert_eq!(engine.version(&ctx()).await.unwrap().major, 3);
    let findings = engine.diagnose(&ctx()).await;
    assert!(findings.iter().all(|f| f.level == Level::Ok), "{findings:?}");
    let looked: Vec<_> = findings.iter().map(|f| f.check.as_str()).collect();
    for check in
        ["file", "folder", "open", "journal_mode", "foreign_keys", "freelist", "wal_size", "disk_space"]
    {
        assert!(looked.contains(&check), "{check} is missing of {looked:?}");
    }
    let missing = crate::support::engine(&place.file("no.db")).diagnose(&ctx()).await;
    assert_eq!(missing[0].level, Level::Error);
}
