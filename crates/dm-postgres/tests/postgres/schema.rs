//! Snapshots of schemas: every change is seen, and nothing on what is the same. Shadow databases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use dm_core::{Engine, ErrorKind, SchemaChange, SchemaSnapshot, Secret, ShadowPlace, ShadowScript};
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;

use crate::support::{context, engine};

const BASE: &str = include_str!("schema/base.sql");
const INJECTED: &str = include_str!("schema/injected.sql");

fn base() -> ShadowScript {
    ShadowScript { name: "1_base.sql".to_owned(), statements: vec![(1, BASE.to_owned())], transaction: true }
}

async fn live(database: &TestDatabase) -> SchemaSnapshot {
    engine(database).schema().unwrap().snapshot(&context(), &[]).await.unwrap()
}

fn told(changes: &[SchemaChange]) -> Vec<String> {
    changes.iter().map(|c| format!("{} {:?}", c.object().title(), c.facets())).collect()
}

/// What the files make, in a shadow of that place.
async fn replayed(database: &TestDatabase, place: &ShadowPlace) -> dm_core::Result<SchemaSnapshot> {
    let port = engine(database).schema().unwrap();
    let mut shadow = port.shadow(&context(), place).await?;
    let replayed = shadow.replay(&context(), &base(), false).await;
    let snapshot = shadow.snapshot(&context(), &[]).await;
    shadow.close(&context()).await?;
    replayed?;
    snapshot
}

async fn finds(major: u32) {
    let server = require!(Server::shared(major));
    let database = server.database("drift").await.unwrap();
    database.psql(&format!("BEGIN; {BASE}; COMMIT")).await.unwrap();
    let files = replayed(&database, &ShadowPlace::Temporary).await.unwrap();
    let mut before = live(&database).await;
    assert_eq!(told(&files.diff(&before)), [""; 0], "a clean schema has drifted");
    assert!(files.objects.len() > 50, "{}", files.objects.len());
    let mut injected = 0;
    // The packages of the tests bring different ones.
    let extension = if major == 15 { "pg_trgm" } else { "vector" };
    for line in
        INJECTED.replace("{extension}", extension).lines().filter(|l| !l.is_empty() && !l.starts_with("--"))
    {
        let (statement, expected) = line.split_once(" -- ").unwrap();
        database.psql(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        let after = live(&database).await;
        let changes = before.diff(&after);
        assert!(
            changes.iter().any(|c| c.object().title().starts_with(expected)),
            "{statement}: expected {expected}, found {:?}",
            told(&changes)
        );
        assert!(!files.diff(&after).is_empty());
        before = after;
        injected += 1;
    }
    assert!(injected >= 40, "{injected}");
    let left =
        database.psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'dm_shadow_%'").await.unwrap();
    assert_eq!(left.trim(), "0", "a shadow database was left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_injected_change_is_found_on_15() {
    finds(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_injected_change_is_found_on_18() {
    finds(18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_shadow_is_never_the_live_database_nor_one_with_content() {
    let server = require!(Server::shared(15));
    let database = server.database("live").await.unwrap();
    let other = server.database("shadow").await.unwrap();
    database.psql("CREATE TABLE kept (id bigint)").await.unwrap();
    other.psql("CREATE TABLE kept (id bigint)").await.unwrap();
    let given = |database: &TestDatabase| ShadowPlace::Given(Secret::new(database.url()));
    // Another spelling of the same place is the same place.
    let disguised = Secret::new(database.url().replace("127.0.0.1", "localhost"));
    for place in [given(&database), ShadowPlace::Given(disguised)] {
        let error = replayed(&database, &place).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().contains("is the live database")),
            (ErrorKind::Invalid, true),
            "{error}"
        );
    }
    let error = replayed(&database, &given(&other)).await.unwrap_err();
    assert!(error.to_string().contains("not empty: it has the table public.kept"), "{error}");
    for database in [&database, &other] {
        assert_eq!(database.psql("SELECT count(*) FROM kept").await.unwrap().trim(), "0");
    }
    // An empty one is taken, and taken again.
    other.psql("DROP TABLE kept").await.unwrap();
    for _ in 0..2 {
        assert!(replayed(&database, &given(&other)).await.unwrap().objects.len() > 50);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_and_a_written_difference_make_the_same_schema() {
    let server = require!(Server::shared(15));
    let database = server.database("dump").await.unwrap();
    database.psql(BASE).await.unwrap();
    let port = engine(&database).schema().unwrap();
    let whole = live(&database).await;
    let dump = port.dump(&context(), &[]).await.unwrap();
    let copy = server.database("dump_copy").await.unwrap();
    copy.psql(&format!("BEGIN; {dump} COMMIT;")).await.unwrap();
    assert_eq!(told(&whole.diff(&live(&copy).await)), [""; 0]);
    // From nothing to the schema and back, and from the schema to its changed form and back.
    database.psql("ALTER TABLE items ADD COLUMN note text DEFAULT 'x', ALTER COLUMN price TYPE bigint, ALTER COLUMN price SET DEFAULT 7; \
        DROP INDEX items_name_idx; CREATE INDEX items_both ON items (name, price); CREATE TABLE extra (id bigint PRIMARY KEY, item_id bigint REFERENCES items); \
        DROP VIEW cheap; CREATE VIEW dear AS SELECT id FROM items; ALTER TYPE mood ADD VALUE 'fine' AFTER 'sad'").await.unwrap();
    let changed = live(&database).await;
    let script = port.script(&whole, &changed);
    copy.psql(&script.up.iter().map(|s| format!("{s};\n")).collect::<String>()).await.unwrap();
    assert_eq!(told(&changed.diff(&live(&copy).await)), [""; 0], "{script:#?}");
    assert_eq!(script.not_written.len(), 1, "{:?}", script.not_written);
    assert!(script.not_written[0].contains("values of an enum"), "{:?}", script.not_written);
    copy.psql(&script.down.iter().map(|s| format!("{s};\n")).collect::<String>()).await.unwrap();
    let back = live(&copy).await;
    assert_eq!(told(&whole.diff(&back)).len(), 1, "{:?}", told(&whole.diff(&back)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_each_statement_are_traced() {
    let server = require!(Server::shared(18));
    let database = server.database("trace").await.unwrap();
    let port = engine(&database).schema().unwrap();
    let mut shadow = port.shadow(&context(), &ShadowPlace::Temporary).await.unwrap();
    let script = |statements: &[&str]| ShadowScript {
        name: "2_x.sql".to_owned(),
        statements: statements.iter().enumerate().map(|(i, s)| (i + 1, (*s).to_owned())).collect(),
        transaction: true,
    };
    shadow
        .replay(&context(), &script(&["CREATE TABLE t (id int)", "CREATE ROLE nobody_makes_me"]), false)
        .await
        .unwrap();
    let traced = shadow
        .replay(
            &context(),
            &script(&[
                "ALTER TABLE t ALTER id TYPE bigint",
                "CREATE INDEX CONCURRENTLY i ON t (id)",
                "CREATE ROLE nobody_makes_me",
                "INSERT INTO t VALUES (1)",
            ]),
            true,
        )
        .await
        .unwrap();
    let error = shadow
        .replay(&context(), &script(&["SELECT 1", "ALTER TABLE nothing ADD x int"]), true)
        .await
        .unwrap_err();
    shadow.close(&context()).await.unwrap();
    let locks: Vec<String> = traced
        .iter()
        .map(|s| match &s.locks {
            Some(locks) => locks
                .iter()
                .map(|l| format!("{} {} {}", l.object, l.mode, l.rewritten))
                .collect::<Vec<_>>()
                .join(","),
            None => {
                if s.skipped {
                    "skipped".to_owned()
                } else {
                    "unseen".to_owned()
                }
            }
        })
        .collect();
    assert_eq!(locks, ["t ACCESS EXCLUSIVE true", "unseen", "skipped", "t ROW EXCLUSIVE false"]);
    assert!(error.to_string().starts_with("2_x.sql:2: "), "{error}");
    assert_eq!(
        database
            .psql("SELECT count(*) FROM pg_roles WHERE rolname = 'nobody_makes_me'")
            .await
            .unwrap()
            .trim(),
        "0"
    );
}
