//! Chosen tables: at the backup, and at the restore.

use dm_core::{BackupRequest, Destination, Engine, ErrorKind, Level, RestoreRequest};
use dm_testkit::postgres::Server;
use dm_testkit::require;

use crate::support::{Leftovers, backup, context, engine, engine_at, fresh_name, into, request, restore};

const SHOP: &str = "
    CREATE SCHEMA app; CREATE TYPE app.state AS ENUM ('new', 'paid');
    CREATE TABLE app.customers (id serial PRIMARY KEY, name text UNIQUE);
    CREATE TABLE app.orders (id serial PRIMARY KEY, customer int REFERENCES app.customers, state app.state DEFAULT 'new');
    CREATE TABLE app.\"we\"\"ird; x\" (id int);
    CREATE TABLE app.logs (at date, what text) PARTITION BY RANGE (at);
    CREATE TABLE app.logs_a PARTITION OF app.logs FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
    CREATE TABLE app.logs_b PARTITION OF app.logs FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
    CREATE INDEX logs_what ON app.logs (what);
    CREATE VIEW app.order_names AS SELECT o.id, c.name FROM app.orders o JOIN app.customers c ON c.id = o.customer;
    INSERT INTO app.customers (name) SELECT 'c' || g FROM generate_series(1, 50) g;
    INSERT INTO app.orders (customer) SELECT 1 + g % 50 FROM generate_series(1, 500) g;
    INSERT INTO app.logs SELECT date '2019-12-01' + g, 'w' || g FROM generate_series(1, 100) g;
    COMMENT ON TABLE app.orders IS 'what was bought'; GRANT SELECT ON app.orders TO PUBLIC;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_out_at_the_backup() {
    let server = require!(Server::shared(15));
    let db = server.database("choice").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let engine = engine(&db);
    let without =
        BackupRequest { exclude_tables: vec!["app.customers".into(), "app.we\"ird; x".into()], ..request() };
    let backed = backup(&engine, &without).await;
    let names: Vec<_> = backed.summary.tables.iter().map(|t| t.table.as_str()).collect();
    assert_eq!(names, ["app.logs_a", "app.logs_b", "app.orders"]);
    assert!(
        backed.summary.warnings.iter().any(|w| w.contains("app.order_names")),
        "{:?}",
        backed.summary.warnings
    );
    let goal = fresh_name("without");
    let (comparison, _) = restore(&engine, &backed, &into(Destination::New(Some(goal.clone())))).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    let left = "SELECT count(*), (SELECT count(*) FROM pg_constraint WHERE contype = 'f') FROM app.orders";
    assert_eq!(db.psql_in(&goal, left).await.expect("a count"), "500|0");

    let only = BackupRequest { include_tables: vec!["logs".into()], ..request() };
    let backed = backup(&engine, &only).await;
    let names: Vec<_> = backed.summary.tables.iter().map(|t| t.table.as_str()).collect();
    assert_eq!(names, ["app.logs_a", "app.logs_b"]);
    let other = fresh_name("only");
    let (comparison, _) = restore(&engine, &backed, &into(Destination::New(Some(other.clone())))).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    assert_eq!(db.psql_in(&other, "SELECT count(*) FROM app.logs").await.expect("a count"), "100");

    let Err(error) = engine
        .backup()
        .expect("a source")
        .open(&context(), &BackupRequest { exclude_tables: vec!["app.typo".into()], ..request() })
        .await
    else {
        panic!("a table that is not there")
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("app.typo"));
    Leftovers(&db, vec![goal, other]).drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_tables_into_a_new_database() {
    let server = require!(Server::shared(15));
    let db = server.database("single").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    let goal = fresh_name("single");
    let wish =
        RestoreRequest { tables: vec!["app.orders".into()], ..into(Destination::New(Some(goal.clone()))) };
    let (comparison, _) = restore(&engine, &backed, &wish).await;
    assert!(comparison.is_proven() && comparison.tables.len() == 1, "{comparison:#?}");
    let facts = "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'app' AND relkind IN ('r', 'v')),
        (SELECT count(*) FROM pg_index WHERE indrelid = 'app.orders'::regclass), nextval('app.orders_id_seq'), obj_description('app.orders'::regclass),
        has_table_privilege('public', 'app.orders', 'SELECT')";
    let facts = facts.replace(
        "has_table_privilege('public', 'app.orders', 'SELECT')",
        "(SELECT relacl IS NOT NULL FROM pg_class WHERE oid = 'app.orders'::regclass)",
    );
    assert_eq!(db.psql_in(&goal, &facts).await.expect("facts"), "1|1|501|what was bought|t");
    // A partitioned table means its partitions, with the index of the whole.
    let parts = fresh_name("parts");
    let wish = RestoreRequest { tables: vec!["logs".into()], ..into(Destination::New(Some(parts.clone()))) };
    let session = crate::support::sealed(&engine, &backed, &wish).await;
    session.release(&context()).await.expect("a release");
    let facts = "SELECT count(*), (SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.logs_what'::regclass) FROM app.logs";
    assert_eq!(db.psql_in(&parts, facts).await.expect("facts"), "100|2");
    Leftovers(&db, vec![goal, parts]).drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_tables_in_place() {
    let server = require!(Server::shared(15));
    let db = server.database("repair").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    let wish = RestoreRequest { tables: vec!["app.orders".into()], ..into(Destination::InPlace) };
    db.psql("CREATE TABLE app.parcels (id int PRIMARY KEY, o int REFERENCES app.orders); INSERT INTO app.parcels VALUES (1, 7)")
        .await
        .expect("a later table");
    db.psql("DROP TABLE app.orders CASCADE").await.expect("an accident");
    let (comparison, _) = restore(&engine, &backed, &wish).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    // The table is back with the key to what it refers to. (That of a later table the backup cannot know.)
    let facts = "SELECT (SELECT count(*) FROM app.orders), (SELECT string_agg(conrelid::regclass || '>' || confrelid::regclass, ' ') FROM pg_constraint WHERE contype = 'f')";
    assert_eq!(db.psql(facts).await.expect("facts"), "500|app.orders>app.customers");
    // What refers to a table that was dropped gets its key again.
    db.psql("DROP TABLE app.customers CASCADE").await.expect("another accident");
    let wish = RestoreRequest { tables: vec!["app.customers".into()], ..into(Destination::InPlace) };
    restore(&engine, &backed, &wish).await;
    assert_eq!(db.psql(facts).await.expect("facts"), "500|app.orders>app.customers");
}

/// An empty database of the wished name is kept; one with anything in it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_destination_is_set_aside() {
    let server = require!(Server::shared(15));
    let db = server.database("aside").await.expect("a database");
    db.psql("CREATE TABLE t (id int)").await.expect("a table");
    let goal = fresh_name("aside");
    db.psql_in("postgres", &format!("CREATE DATABASE {goal}")).await.expect("a database");
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    let (_, restored) = restore(&engine, &backed, &into(Destination::New(Some(goal.clone())))).await;
    let kept = restored.previous.expect("kept").rsplit('/').next().expect("a name").to_owned();
    assert_eq!(db.psql_in(&goal, "SELECT count(*) FROM t").await.expect("a count"), "0");
    Leftovers(&db, vec![goal, kept]).drop_all().await;
}

/// A role that is no superuser restores what it can, and says beforehand what it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_role_without_privileges() {
    let server = require!(Server::shared(15));
    let db = server.database("modest").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let backed = backup(&engine(&db), &request()).await;
    let role = server.role("modest", "CREATEDB").await.expect("a role");
    let modest = engine_at(&db, db.url_as(&role));
    let goal = fresh_name("modest");
    let wish = into(Destination::New(Some(goal.clone())));
    let preview = modest
        .restore()
        .expect("a target")
        .preview(&context(), &wish, &backed.manifest())
        .await
        .expect("a preview");
    assert!(
        preview.findings.iter().any(|f| f.check == "roles" && f.level == Level::Warning),
        "{:?}",
        preview.findings
    );
    let (comparison, _) = restore(&modest, &backed, &wish).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    Leftovers(&db, vec![goal]).drop_all().await;
}
