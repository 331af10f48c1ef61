//! What was there is there again: compared by digest, and by `pg_dump` as an independent witness.

use dm_core::{BackupRequest, Destination, Level};
use dm_testkit::postgres::Server;
use dm_testkit::require;

use crate::support::{
    Leftovers, backup, context, engine, engine_at, fresh_name, into, options, plain_dump, request, restore,
    sealed_by,
};

const AWKWARD: &str = include_str!("awkward.sql");

async fn awkward(major: u32) {
    let server = require!(Server::shared(major));
    let db = server.database("awkward").await.expect("a database");
    db.psql(AWKWARD).await.expect("the awkward schema");
    if major == 15 {
        // The servers of the other majors are built without XML and extensions.
        db.psql(
            "CREATE TABLE documents (x xml); INSERT INTO documents VALUES ('<a>b</a>'), (NULL), ('text &amp; more');
             CREATE SCHEMA extras; CREATE EXTENSION hstore SCHEMA extras; CREATE EXTENSION pg_trgm;
             CREATE TABLE tagged (t extras.hstore, word text); INSERT INTO tagged VALUES ('a=>1, \"b c\"=>NULL', 'words');
             CREATE INDEX ON tagged USING gin (word gin_trgm_ops);",
        )
        .await
        .expect("what only this server has");
    }
    let name = db.name().to_owned();
    db.psql(&format!(
        "COMMENT ON DATABASE {name} IS 'it''s'; ALTER DATABASE {name} SET work_mem = '5MB'; \
         ALTER DATABASE {name} SET search_path = \"$user\", public, \"Sales & more\"; REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC"
    ))
    .await
    .expect("settings");
    let engine = engine(&db);
    let before = plain_dump(&db, &name).await;
    let backup = backup(&engine, &request()).await;
    assert_eq!(plain_dump(&db, &name).await, before, "a backup changes nothing");
    let goal = fresh_name("round");
    let (comparison, restored) = restore(&engine, &backup, &into(Destination::New(Some(goal.clone())))).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    assert!(restored.location.ends_with(&goal) && restored.previous.is_none());
    assert_eq!(plain_dump(&db, &goal).await, before);
    // What a plain dump does not show.
    let views = "SELECT (SELECT sum(n) FROM z_first), (SELECT count(*) FROM a_second)";
    assert_eq!(db.psql_in(&goal, views).await.expect("views"), db.psql(views).await.expect("views"));
    let facts =
        "SELECT d.datacl IS NOT NULL, shobj_description(d.oid, 'pg_database'), s.setconfig FROM pg_database d
                 LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE datname = current_database()";
    assert_eq!(db.psql_in(&goal, facts).await.expect("facts"), db.psql(facts).await.expect("facts"));
    Leftovers(&db, vec![goal]).drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_data_of_15() {
    awkward(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_data_of_16() {
    awkward(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_data_of_18() {
    awkward(18).await;
}

/// A table of several parts, with indexes built early, and a row appended while it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_in_parts() {
    let server = require!(Server::shared(15));
    let db = server.database("large").await.expect("a database");
    // 17,000 heap blocks without 130 MB of text: few wide rows fill a page each.
    db.psql(
        "CREATE TABLE big (id int PRIMARY KEY, pad text) WITH (fillfactor = 10);
         ALTER TABLE big ALTER pad SET STORAGE PLAIN;
         INSERT INTO big SELECT g, repeat('x', 700) FROM generate_series(1, 17000) g;
         CREATE INDEX big_pad ON big (left(pad, 3), id); CREATE TABLE refers (id int REFERENCES big);
         INSERT INTO refers SELECT 1 + g % 17000 FROM generate_series(1, 100) g;",
    )
    .await
    .expect("tables");
    let engine = engine(&db);
    let request = BackupRequest { block_bytes: 256 << 10, ..request() };
    let backup = backup(&engine, &request).await;
    let parts = backup.members.iter().filter(|(m, _)| m.table.as_deref() == Some("public.big")).count();
    assert_eq!(parts, 2, "two ranges of heap blocks");
    let goal = fresh_name("large");
    let (comparison, _) = restore(&engine, &backup, &into(Destination::New(Some(goal.clone())))).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    let valid = "SELECT count(*) FROM pg_index WHERE indrelid = 'big'::regclass AND indisvalid";
    assert_eq!(db.psql_in(&goal, valid).await.expect("indexes"), "2");
    Leftovers(&db, vec![goal]).drop_all().await;
}

/// A planted defect: one changed row in the restored database is seen, in that table alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_changed_row_is_found() {
    let server = require!(Server::shared(15));
    let db = server.database("defect").await.expect("a database");
    db.psql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 1000) g;
         CREATE TABLE u AS SELECT * FROM t",
    )
    .await
    .expect("tables");
    let engine = engine(&db);
    let backup = backup(&engine, &request()).await;
    let goal = fresh_name("defect");
    let ctx = context();
    let session = sealed_by(ctx.clone(), &engine, &backup, &into(Destination::New(Some(goal.clone())))).await;
    // The superuser gets in where others may not.
    let run = ctx.run_id().as_uuid().simple().to_string();
    let place = format!("dm_restore_{}", &run[20..]);
    assert_eq!(
        db.psql_in("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{goal}'"))
            .await
            .expect("a count"),
        "0",
        "the final name comes last"
    );
    let before = session.compare(&context(), &backup.summary.tables).await.expect("a comparison");
    assert!(before.is_proven());
    db.psql_in(&place, "UPDATE u SET v = 'w500' WHERE id = 500").await.expect("the defect");
    let after = session.compare(&context(), &backup.summary.tables).await.expect("a comparison");
    let bad: Vec<_> = after.tables.iter().filter(|t| !t.equal).map(|t| t.expected.table.as_str()).collect();
    assert_eq!(bad, ["public.u"]);
    db.psql_in(&place, "DROP TABLE u").await.expect("another defect");
    let gone = session.compare(&context(), &backup.summary.tables).await.expect("a comparison");
    assert!(gone.tables.iter().any(|t| t.expected.table == "public.u" && t.found.is_none()));
    assert!(
        gone.checks.iter().any(|c| c.level == Level::Error && c.message.contains("tables")),
        "{:?}",
        gone.checks
    );
    session.discard(&context()).await.expect("a discard");
    let left = format!("SELECT count(*) FROM pg_database WHERE datname IN ('{place}', '{goal}')");
    assert_eq!(db.psql_in("postgres", &left).await.expect("a count"), "0");
}

/// In place: the old database is kept under another name, and other sessions are in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_place_keeps_what_stood_there() {
    let server = require!(Server::shared(15));
    let db = server.database("in_place").await.expect("a database");
    db.psql("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)").await.expect("a table");
    let engine = engine(&db);
    let backup = backup(&engine, &request()).await;
    db.psql("INSERT INTO t VALUES (3)").await.expect("a change");
    // The engine's own pool has a connection to the database; it must not be in the way.
    let rows = dm_core::Engine::query(&engine).expect("queries");
    rows.execute(&context(), dm_core::Statement::new("SELECT 1")).await.expect("a statement");
    let (comparison, restored) = restore(&engine, &backup, &into(Destination::InPlace)).await;
    assert!(comparison.is_proven());
    assert_eq!(db.psql("SELECT count(*) FROM t").await.expect("a count"), "2");
    let kept = restored.previous.expect("the old one is kept").rsplit('/').next().expect("a name").to_owned();
    assert_eq!(db.psql_in(&kept, "SELECT count(*) FROM t").await.expect("a count"), "3");
    rows.execute(&context(), dm_core::Statement::new("SELECT 1")).await.expect("the pool goes on");
    Leftovers(&db, vec![kept]).drop_all().await;
}

/// From one major to another: up is plain, down is said to be a risk and works for what both know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_versions() {
    let (old, new) = (require!(Server::shared(15)), require!(Server::shared(18)));
    let (from, to) =
        (old.database("from").await.expect("a database"), new.database("to").await.expect("a database"));
    from.psql(AWKWARD).await.expect("the awkward schema");
    let taken = backup(&engine(&from), &request()).await;
    let goal = fresh_name("up");
    let newer = engine(&to);
    let (comparison, _) = restore(&newer, &taken, &into(Destination::New(Some(goal.clone())))).await;
    assert!(comparison.is_proven(), "{comparison:#?}");

    let up = engine_at(&to, to.url_of(&goal));
    let taken = backup(&up, &request()).await;
    let goal_down = fresh_name("down");
    let wish = into(Destination::New(Some(goal_down.clone())));
    let id = dm_core::EngineId::new("main").expect("a name");
    let newer_tools = options(&to);
    let older = dm_postgres::PostgresEngine::connect(id, &dm_core::Secret::new(from.url()), newer_tools)
        .expect("a url");
    let target = dm_core::Engine::restore(&older).expect("a target");
    let preview = target.preview(&context(), &wish, &taken.manifest()).await.expect("a preview");
    assert!(preview.findings.iter().any(|f| f.check == "server_version" && f.level == Level::Warning));
    let (comparison, _) = restore(&older, &taken, &wish).await;
    assert!(comparison.is_proven(), "{comparison:#?}");
    Leftovers(&to, vec![goal]).drop_all().await;
    Leftovers(&from, vec![goal_down]).drop_all().await;
}
