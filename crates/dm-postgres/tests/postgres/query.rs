//! Statements, values and transactions.

use dm_core::{
    AccessMode, Effect, Engine, ErrorKind, Isolation, QueryPort, Statement, TransactionOptions, Value,
};
use dm_testkit::postgres::Server;
use dm_testkit::require;
use futures::TryStreamExt;
use std::sync::Arc;

use crate::support::{context, engine};

async fn all(port: &Arc<dyn QueryPort>, statement: Statement) -> Vec<Vec<Value>> {
    let rows: Vec<_> =
        port.query(&context(), statement).await.expect("a query").try_collect().await.expect("rows");
    rows.into_iter().map(|r| r.values).collect()
}

fn text(t: &str) -> Value {
    Value::Text(t.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_all_sorts_go_in_and_come_out() {
    let server = require!(Server::shared(15));
    let db = server.database("values").await.expect("a database");
    db.psql("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN pos AS int; CREATE TYPE pair AS (a int, b text)")
        .await
        .expect("types");
    let port = engine(&db).query().expect("queries");
    for (sql, expected) in [
        ("true", Value::Bool(true)),
        ("32767::int2", Value::Int(32767)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("4294967295::oid", Value::Int(4_294_967_295)),
        ("1.5::float4", Value::Float(1.5)),
        ("'-Infinity'::float8", Value::Float(f64::NEG_INFINITY)),
        ("'\\x00ff'::bytea", Value::Bytes(vec![0, 255])),
        ("NULL::int", Value::Null),
        ("'{\"a\": [1, 2.5]}'::jsonb", Value::Json(serde_json::json!({"a": [1, 2.5]}))),
        ("'[123456789012345678901234567890]'::json", text("[123456789012345678901234567890]")),
        ("'ok'::mood", text("ok")),
        ("5::pos", Value::Int(5)),
        ("'x'::\"char\"", text("x")),
        ("'n'::name", text("n")),
    ] {
        assert_eq!(all(&port, Statement::new(format!("SELECT {sql}"))).await, [[expected]], "{sql}");
    }
    // The server's own text is the oracle for everything that is given as text.
    for sql in [
        "123456789012345678901234567890.1234500::numeric",
        "0.00::numeric",
        "-0.00012::numeric",
        "1e30::numeric",
        "1e-20::numeric",
        "'NaN'::numeric",
        "'Infinity'::numeric",
        "10000::numeric",
        "9999.9999::numeric",
        "0.5::numeric(10,5)",
        "'4713-01-01 BC'::date",
        "'infinity'::date",
        "'5874897-12-31'::date",
        "'2024-02-29'::date",
        "'0001-01-01'::date",
        "'0044-03-15 12:00:00.5 BC'::timestamp",
        "'infinity'::timestamptz",
        "'294276-12-31 23:59:59.999999'::timestamp",
        "'2024-02-29 23:59:59.999999+02'::timestamptz",
        "'24:00'::time",
        "'01:02:03.04'::time",
        "'1 mon -2 days'::interval",
        "'23:59:59+15:59'::timetz",
        "ARRAY[1,NULL,3]",
        "'[1,5)'::int4range",
        "'10.0.0.1/8'::inet",
        "(1,'x')::pair",
        "ROW(1, 'y')",
        "'a fat cat'::tsvector",
        "'(1,2)'::point",
        "B'101'",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
        "'12.34'::money",
        "'<a/>'::xml",
        "'pg_class'::regclass",
    ] {
        let rows = all(&port, Statement::new(format!("SELECT {sql} AS v, ({sql})::text AS t"))).await;
        assert_eq!(rows[0][0], rows[0][1], "{sql}");
        assert!(matches!(rows[0][0], Value::Text(_)), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_take_the_type_that_the_statement_wants() {
    let server = require!(Server::shared(15));
    let db = server.database("parameters").await.expect("a database");
    db.psql("CREATE TABLE t (i int2, n numeric, at timestamptz, d date, u uuid, b bytea, j jsonb, ia int[], t text, f float4)")
        .await
        .expect("a table");
    let port = engine(&db).query().expect("queries");
    let insert = Statement::new("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(7)
        .bind("12345678901234567890.5")
        .bind("2024-02-29 12:00:00+02")
        .bind("2024-02-29")
        .bind("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
        .bind(vec![0_u8, 1])
        .bind(serde_json::json!({"k": "it's ?"}))
        .bind("{1,2}")
        .bind("'; DROP TABLE t; --")
        .bind(0.5);
    assert_eq!(port.execute(&context(), insert).await.expect("an insert"), 1);
    let rows = all(
        &port,
        Statement::new("SELECT i, n, at, ia, t, f FROM t WHERE j ?? ? AND n > ? AND ia = ?")
            .bind("k")
            .bind(1)
            .bind("{1,2}"),
    )
    .await;
    assert_eq!(
        rows,
        [[
            Value::Int(7),
            text("12345678901234567890.5"),
            text("2024-02-29 10:00:00+00"),
            text("{1,2}"),
            text("'; DROP TABLE t; --"),
            Value::Float(0.5)
        ]]
    );
    // Rows of changes, of types that come as text.
    let rows = all(&port, Statement::new("UPDATE t SET i = i + $1 RETURNING i, ia; ").bind(1)).await;
    assert_eq!(rows, [[Value::Int(8), text("{1,2}")]]);
    for (statement, kind) in [
        (Statement::new("SELEC 1"), ErrorKind::Invalid),
        (Statement::new("SELECT ?").bind(1).bind(2), ErrorKind::Invalid),
        (Statement::new("SELECT $1, $2").bind(1), ErrorKind::Invalid),
        (Statement::new("SELECT * FROM missing"), ErrorKind::NotFound),
        (Statement::new("SELECT 1; SELECT 2"), ErrorKind::Invalid),
        (Statement::new("INSERT INTO t (i) VALUES ($1)").bind(1_i64 << 40), ErrorKind::Invalid),
    ] {
        let shown = format!("{statement:?}");
        let error = port.execute(&context(), statement).await.expect_err("an error");
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{shown}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_stops_its_statement() {
    let server = require!(Server::shared(15));
    let db = server.database("dropped").await.expect("a database");
    let port = engine(&db).query().expect("queries");
    let rows =
        port.query(&context(), Statement::new("SELECT pg_sleep(600) AS sleeper")).await.expect("a query");
    let running = async |wanted: &str| {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                   AND query LIKE '%sleeper' AND pid <> pg_backend_pid()";
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while db.psql(sql).await.expect("a count") != wanted {
            assert!(std::time::Instant::now() < deadline, "there should be {wanted} running");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    running("1").await;
    drop(rows);
    running("0").await;
    assert_eq!(all(&port, Statement::new("SELECT 1")).await, [[Value::Int(1)]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_keep_their_word() {
    let server = require!(Server::shared(15));
    let db = server.database("transactions").await.expect("a database");
    db.psql("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
        .await
        .expect("a table");
    let port = engine(&db).query().expect("queries");
    let ctx = context();
    let count = || async { db.psql("SELECT count(*) FROM t").await.expect("a count") };

    let mut tx = port.begin(&ctx, TransactionOptions::default()).await.expect("a transaction");
    tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (?)").bind(1)).await.expect("an insert");
    tx.savepoint(&ctx, "here").await.expect("a savepoint");
    let error = tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (1)")).await.expect_err("a duplicate");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Conflict, Effect::None));
    tx.rollback_to(&ctx, "here").await.expect("a way back");
    assert_eq!(
        tx.query(&ctx, Statement::new("SELECT count(*) FROM t")).await.expect("rows")[0].values,
        [Value::Int(1)]
    );
    assert!(tx.savepoint(&ctx, "bad name").await.is_err());
    tx.commit(&ctx).await.expect("a commit");
    assert_eq!(count().await, "1");

    // An aborted block does not commit, and says so.
    let mut tx = port.begin(&ctx, TransactionOptions::default()).await.expect("a transaction");
    tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (2)")).await.expect("an insert");
    tx.execute(&ctx, Statement::new("SELECT 1/0")).await.expect_err("an error");
    let error = tx.commit(&ctx).await.expect_err("an aborted block");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Conflict, Effect::None), "{error:?}");

    // A deferred constraint fails at the commit.
    let mut tx = port.begin(&ctx, TransactionOptions::default()).await.expect("a transaction");
    tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (3, 99)")).await.expect("an insert");
    assert_eq!(tx.commit(&ctx).await.expect_err("a deferred constraint").kind(), ErrorKind::Conflict);

    // One that its own statement ended did not do what commit says.
    let mut tx = port.begin(&ctx, TransactionOptions::default()).await.expect("a transaction");
    tx.execute(&ctx, Statement::new("ROLLBACK")).await.expect("a rollback by hand");
    assert_eq!(tx.commit(&ctx).await.expect_err("no transaction").kind(), ErrorKind::Conflict);

    let mut tx = port.begin(&ctx, TransactionOptions::default()).await.expect("a transaction");
    tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (4)")).await.expect("an insert");
    drop(tx);
    let read_only = TransactionOptions { isolation: Isolation::Serializable, access: AccessMode::ReadOnly };
    let mut tx = port.begin(&ctx, read_only).await.expect("a transaction");
    assert!(tx.execute(&ctx, Statement::new("INSERT INTO t VALUES (5)")).await.is_err());
    tx.rollback(&ctx).await.expect("a rollback");
    assert_eq!(count().await, "1");
}

/// A connection that is lost while a statement ran leaves its effect unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_has_an_unknown_effect() {
    let server = require!(Server::shared(15));
    let db = server.database("lost").await.expect("a database");
    let port = engine(&db).query().expect("queries");
    let statement = Statement::new("SELECT pg_terminate_backend(pg_backend_pid())");
    let error = port.execute(&context(), statement).await.expect_err("a lost connection");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unreachable, Effect::Unknown), "{error:?}");
    assert!(!error.is_retryable());
    assert_eq!(all(&port, Statement::new("SELECT 1")).await, [[Value::Int(1)]]);
}
