//! Recording changes: what triggers write, read back, and what is said when they do not.

use std::sync::Arc;

use dm_core::{CaptureRequest, CaptureSource, ChangeKind, Engine, ErrorKind, RowChange, TableName};
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;
use serde_json::json;

use crate::support::{context, engine};

async fn shop(server: &Server, name: &str) -> (TestDatabase, Arc<dyn CaptureSource>) {
    let db = server.database(name).await.expect("a database");
    db.psql(
        "CREATE TABLE customers (id int PRIMARY KEY, name text, secret text, card text, n numeric, at timestamptz, j json);
         CREATE TABLE plain (id int PRIMARY KEY, v text);
         CREATE TABLE events (id int, day date) PARTITION BY RANGE (day);
         CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         CREATE VIEW names AS SELECT name FROM customers",
    )
    .await
    .expect("tables");
    let capture = engine(&db).capture().expect("it can");
    (db, capture)
}

fn of(table: &str) -> CaptureRequest {
    CaptureRequest::of(table.parse().expect("a name"))
}

async fn taken(capture: &Arc<dyn CaptureSource>) -> Vec<RowChange> {
    let changes = capture.waiting(&context(), 1000, u64::MAX).await.expect("changes");
    let keys: Vec<_> = changes.iter().map(|c| c.key.clone()).collect();
    capture.confirm(&context(), &keys).await.expect("confirmed");
    changes
}

async fn problems(capture: &Arc<dyn CaptureSource>) -> String {
    let status = capture.status(&context()).await.expect("a status");
    let tables = status.tables.into_iter().flat_map(|t| t.problems);
    tables.chain(status.problems).collect::<Vec<_>>().join("\n")
}

const OBJECTS: &str = "SELECT string_agg(x, ',' ORDER BY x) FROM (
    SELECT nspname::text FROM pg_namespace UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT evtname FROM pg_event_trigger UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT relname FROM pg_class WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace) s(x)
    WHERE x NOT LIKE 'pg_toast%' AND x NOT LIKE 'pg_temp%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_values_are_recorded_in_the_same_transaction() {
    let server = require!(Server::shared(15));
    let (db, capture) = shop(server, "capture_values").await;
    let before = db.psql(OBJECTS).await.expect("objects");
    assert!(capture.status(&context()).await.expect("a status").tables.is_empty());
    let request = CaptureRequest {
        exclude: vec!["secret".into()],
        mask: vec!["card".into()],
        digest: vec!["name".into()],
        ..of("customers")
    };
    for _ in 0..2 {
        let table = capture.install(&context(), &request).await.expect("installed");
        assert!(
            table.problems.is_empty() && table.table == TableName::of("public", "customers"),
            "{table:?}"
        );
    }
    capture.install(&context(), &of("plain")).await.expect("installed");
    db.psql(
        "INSERT INTO customers VALUES (1, 'Ann', 's3cret', '4111', 12345678901234567890.123456789, 'infinity', '{\"a\": [1]}');
         BEGIN; SET LOCAL dm.actor = 'alice';
         UPDATE customers SET name = 'Bea', secret = 'other', card = '4222' WHERE id = 1;
         UPDATE customers SET name = 'Ann' WHERE id = 1; COMMIT;
         BEGIN; DELETE FROM customers; ROLLBACK;
         UPDATE customers SET name = name; DELETE FROM customers",
    )
    .await
    .expect("changes");
    let changes = taken(&capture).await;
    let kinds: Vec<_> = changes.iter().map(|c| c.kind).collect();
    use ChangeKind::{Delete, Insert, Truncate, Update};
    assert_eq!(kinds, [Insert, Update, Update, Delete].map(Some), "{changes:?}");
    let after = |i: usize| changes[i].after.clone().expect("a row");
    assert_eq!(after(0)["n"], json!("12345678901234567890.123456789"), "no digit is lost");
    assert_eq!(
        (&after(0)["card"], &after(0)["at"], &after(0)["j"]),
        (&json!("***"), &json!("infinity"), &json!({"a": [1]}))
    );
    assert_eq!(after(0)["name"], after(2)["name"], "equal values have equal digests");
    assert_ne!(after(0)["name"], after(1)["name"]);
    assert!(after(0)["name"].as_str().is_some_and(|d| d.starts_with("sha256:") && d.len() == 71));
    let mut changed = changes[1].changed.clone();
    changed.sort();
    assert_eq!(changed, ["card", "name", "secret"], "that an excluded one changed is said");
    assert_eq!((changes[1].user.as_deref(), changes[0].user.as_deref()), (Some("alice"), None));
    assert_eq!((changes[1].ordinal, changes[2].ordinal), (1, 2));
    assert_eq!(changes[1].transaction, changes[2].transaction);
    assert_ne!(changes[0].transaction, changes[1].transaction);
    let all = format!("{changes:?}");
    assert!(!["s3cret", "4111", "4222", "Ann"].iter().any(|s| all.contains(s)), "{all}");
    assert!(taken(&capture).await.is_empty());
    // The application's own sequences are not disturbed, and a row of another role is that role's.
    let said = db
        .psql(
            "CREATE TABLE numbered (id serial PRIMARY KEY); CREATE ROLE capture_clerk; GRANT INSERT ON plain TO capture_clerk;
             INSERT INTO numbered DEFAULT VALUES; INSERT INTO plain VALUES (1, 'x'); SELECT lastval();
             SET ROLE capture_clerk; INSERT INTO plain VALUES (2, 'y'); RESET ROLE; SET session_replication_role = replica;
             INSERT INTO plain VALUES (3, 'z'); RESET session_replication_role; TRUNCATE plain",
        )
        .await
        .expect("changes");
    assert!(said.lines().any(|l| l.trim() == "1"), "lastval: {said}");
    let changes = taken(&capture).await;
    assert_eq!(
        changes.iter().map(|c| c.kind).collect::<Vec<_>>(),
        [Insert, Insert, Insert, Truncate].map(Some)
    );
    assert!(
        changes[1].role.as_deref().is_some_and(|r| r.ends_with(" as capture_clerk")),
        "{:?}",
        changes[1].role
    );
    db.psql("DROP TABLE numbered; DROP OWNED BY capture_clerk; DROP ROLE capture_clerk")
        .await
        .expect("dropped");
    for table in ["public.customers", "plain"] {
        capture.remove(&context(), &table.parse().expect("a name")).await.expect("removed");
    }
    assert!(capture.clear_away(&context()).await.expect("cleared"));
    assert_eq!(db.psql(OBJECTS).await.expect("objects"), before, "nothing is left");
    assert!(capture.clear_away(&context()).await.expect("nothing to clear"));
    let error = capture.remove(&context(), &TableName::bare("plain")).await.expect_err("not recorded");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_recorded_also_later_ones() {
    for major in [15, 18] {
        let server = require!(Server::shared(major));
        let (db, capture) = shop(server, "capture_partitions").await;
        capture.install(&context(), &of("events")).await.expect("installed");
        db.psql(
            "INSERT INTO events VALUES (1, '2025-05-05'); INSERT INTO events_2025 VALUES (2, '2025-05-06');
             CREATE TABLE events_2026 (id int, day date); INSERT INTO events_2026 VALUES (3, '2026-01-01');
             ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
             INSERT INTO events_2026 VALUES (4, '2026-01-01'); INSERT INTO events VALUES (5, '2027-01-01');
             UPDATE events SET day = '2026-07-07' WHERE id = 1; TRUNCATE events_2026; TRUNCATE events_2027",
        )
        .await
        .expect("changes");
        assert_eq!(problems(&capture).await, "");
        let changes = taken(&capture).await;
        use ChangeKind::{Delete, Insert, Truncate};
        let kinds: Vec<_> = changes.iter().filter_map(|c| c.kind).collect();
        assert_eq!(
            kinds,
            [Insert, Insert, Insert, Insert, Delete, Insert, Truncate, Truncate],
            "{changes:?}"
        );
        assert!(changes.iter().all(|c| c.table == Some(TableName::of("public", "events"))));
        assert_eq!(changes[2].partition, Some(TableName::of("public", "events_2026")));
        let error = capture.install(&context(), &of("events_2026")).await.expect_err("covered");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        db.psql("ALTER TABLE events_2025 DISABLE TRIGGER dm_capture_rows").await.expect("disabled");
        let found = problems(&capture).await;
        assert!(found.contains("events_2025 is missing or disabled: NOTHING"), "{found}");
        capture.install(&context(), &of("events")).await.expect("mended");
        assert_eq!(problems(&capture).await, "");
        db.psql("ALTER TABLE events DETACH PARTITION events_2026").await.expect("detached");
        capture.remove(&context(), &TableName::bare("events")).await.expect("removed");
        let left = db.psql("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await.expect("a count");
        assert!(left.lines().any(|l| l.trim() == "0"), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_schema_is_noticed_and_breaks_nothing() {
    let server = require!(Server::shared(15));
    let (db, capture) = shop(server, "capture_schema").await;
    let request = CaptureRequest { exclude: vec!["secret".into()], ..of("customers") };
    capture.install(&context(), &request).await.expect("installed");
    capture.install(&context(), &of("plain")).await.expect("installed");
    db.psql(
        "ALTER TABLE customers RENAME secret TO hidden; ALTER TABLE customers DROP n; ALTER TABLE plain ADD extra text;
         INSERT INTO customers (id, hidden) VALUES (1, 's3cret'); INSERT INTO plain VALUES (1, 'v', 'e')",
    )
    .await
    .expect("nothing of the application's fails");
    let changes = taken(&capture).await;
    assert!(!format!("{changes:?}").contains("s3cret"), "a renamed secret does not come out: {changes:?}");
    assert_eq!(changes[1].after, Some(json!({"id": 1, "v": "v", "extra": "e"})));
    let found = problems(&capture).await;
    for said in [
        "hidden came since",
        "and is masked until",
        "secret is gone",
        "n is gone",
        "extra came since, or has a new name, and is recorded",
    ] {
        assert!(found.contains(said), "{said}: {found}");
    }
    db.psql(
        "ALTER TABLE customers DISABLE TRIGGER dm_capture_truncate; ALTER TABLE plain RENAME TO simple;
         CREATE OR REPLACE FUNCTION dm_capture.record_all() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    .await
    .expect("tampering");
    let found = problems(&capture).await;
    for said in [
        "TRUNCATE on public.customers is missing or disabled",
        "is called public.simple now",
        "dm_capture.record_all is not as",
    ] {
        assert!(found.contains(said), "{said}: {found}");
    }
    let request = CaptureRequest { exclude: vec!["hidden".into()], ..of("customers") };
    capture.install(&context(), &request).await.expect("installed");
    capture.install(&context(), &of("simple")).await.expect("installed");
    assert_eq!(problems(&capture).await, "");
    db.psql("DROP TABLE simple").await.expect("dropped");
    assert!(problems(&capture).await.contains("the table is gone"));
    capture.remove(&context(), &TableName::bare("simple")).await.expect("removed");
    for (bad, kind) in [
        ("nothing", ErrorKind::NotFound),
        ("names", ErrorKind::Unsupported),
        ("dm_capture.changes", ErrorKind::Unsupported),
        ("pg_catalog.pg_class", ErrorKind::Unsupported),
        ("\"x\"\"; DROP TABLE customers; --\"", ErrorKind::NotFound),
    ] {
        assert_eq!(capture.install(&context(), &of(bad)).await.expect_err(bad).kind(), kind, "{bad}");
    }
}

/// Transactions that commit in another order than they began, garbage, and a taker that dies before it confirms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_differs_when_it_comes_again() {
    use dm_core::{Statement, TransactionOptions};
    let server = require!(Server::shared(15));
    let (db, capture) = shop(server, "capture_order").await;
    capture.install(&context(), &of("plain")).await.expect("installed");
    let port = engine(&db).query().expect("queries");
    let mut late = port.begin(&context(), TransactionOptions::default()).await.expect("a transaction");
    late.execute(&context(), Statement::new("INSERT INTO plain VALUES (1, 'late')")).await.expect("a row");
    db.psql("INSERT INTO plain VALUES (2, 'early')").await.expect("a row");
    let first = capture.waiting(&context(), 1000, u64::MAX).await.expect("changes");
    assert_eq!(first.len(), 1, "what is not committed is not there");
    let again = capture.waiting(&context(), 1000, u64::MAX).await.expect("changes");
    assert_eq!(first, again, "not confirmed, it comes again and is the same");
    assert_eq!(taken(&capture).await.len(), 1);
    late.commit(&context()).await.expect("a commit");
    assert_eq!(taken(&capture).await.len(), 1, "what began before and committed after is not lost");
    db.psql(
        "INSERT INTO dm_capture.changes (ordinal, at, captured, relation, operation, before, role)
         VALUES (1, 'infinity', 1, 0, 'insert', NULL, 'x'), (1, now(), 99, 0, 'insert', NULL, ''),
                (1, now(), 1, 0, 'explode', '[1]', ''), (-5, '4713-01-01 BC', 1, 0, 'insert', '\"text\"', '');
         INSERT INTO plain VALUES (3, 'z')",
    )
    .await
    .expect("garbage");
    let changes = taken(&capture).await;
    assert_eq!(changes.iter().filter(|c| c.defect.is_some()).count(), 4, "{changes:?}");
    assert_eq!(changes.len(), 5);
    db.psql("INSERT INTO plain SELECT i, repeat('x', 1000) FROM generate_series(10, 59) i")
        .await
        .expect("rows");
    let some = capture.waiting(&context(), 1000, 10_000).await.expect("changes");
    assert!((2..20).contains(&some.len()), "{}", some.len());
    assert_eq!(capture.waiting(&context(), 1000, 1).await.expect("changes").len(), 1);
    assert!(!capture.clear_away(&context()).await.expect("it is needed"));
}

/// The triggers run with their owner's rights, and whoever makes a change chooses the search path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_search_path_gets_no_hand_on_the_recording() {
    let server = require!(Server::shared(15));
    let (db, capture) = shop(server, "capture_hostile").await;
    capture.install(&context(), &of("plain")).await.expect("installed");
    let request = CaptureRequest { mask: vec!["secret".into()], ..of("customers") };
    capture.install(&context(), &request).await.expect("installed");
    // Everything that a recording might mean, as somebody else would have it.
    let trap = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END'";
    let functions = [
        "same(text, text) RETURNS boolean",
        "same(int8, int8) RETURNS boolean",
        "same(int4, int4) RETURNS boolean",
        "joined(text, text) RETURNS text",
        "more(int8, int4) RETURNS int8",
        "same_row(record, record) RETURNS boolean",
        "concat(text, text) RETURNS text",
        "concat(text, name, text) RETURNS text",
        "current_setting(text) RETURNS text",
        "current_setting(text, boolean) RETURNS text",
        "set_config(text, text, boolean) RETURNS text",
        "int8pl(int8, int8) RETURNS int8",
        "row_to_json(record) RETURNS json",
        "to_jsonb(record) RETURNS jsonb",
    ];
    let functions: String = functions.iter().map(|f| format!("CREATE FUNCTION evil.{f} {trap};\n")).collect();
    db.psql(&format!(
        "CREATE SCHEMA evil; {functions}
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
         CREATE OPERATOR evil.= (LEFTARG = int8, RIGHTARG = int8, FUNCTION = evil.same);
         CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.joined);
         CREATE OPERATOR evil.+ (LEFTARG = int8, RIGHTARG = int4, FUNCTION = evil.more);
         CREATE OPERATOR evil.*= (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.same_row);
         CREATE ROLE capture_mallory; GRANT USAGE ON SCHEMA public, evil TO capture_mallory;
         GRANT ALL ON plain, customers TO capture_mallory"
    ))
    .await
    .expect("a trap");
    let trapped = db.psql("SET search_path = evil, pg_catalog; SELECT 'a'::text = 'a'::text").await;
    assert!(trapped.expect_err("the trap works").to_string().contains("hijacked"));
    db.psql(
        "SET ROLE capture_mallory; SET search_path = evil, pg_catalog;
         INSERT INTO public.plain VALUES (1, 'v'); UPDATE public.plain SET v = 'w'; DELETE FROM public.plain;
         INSERT INTO public.customers (id, secret) VALUES (1, 's3cret'); UPDATE public.customers SET name = 'Ann';
         DELETE FROM public.customers; TRUNCATE public.plain",
    )
    .await
    .expect("nothing of it is met");
    let changes = taken(&capture).await;
    use ChangeKind::{Delete, Insert, Truncate, Update};
    let kinds: Vec<_> = changes.iter().filter_map(|c| c.kind).collect();
    assert_eq!(kinds, [Insert, Update, Delete, Insert, Update, Delete, Truncate], "{changes:?}");
    assert!(changes.iter().all(|c| c.role.as_deref().is_some_and(|r| r.ends_with(" as capture_mallory"))));
    db.psql("DROP OWNED BY capture_mallory; DROP ROLE capture_mallory").await.expect("dropped");
}

/// What PostgreSQL's type json holds, and no reader of JSON does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_nobody_can_read_is_recorded_and_stops_nothing() {
    let server = require!(Server::shared(15));
    let (db, capture) = shop(server, "capture_json").await;
    capture.install(&context(), &of("customers")).await.expect("installed");
    db.psql(
        r#"INSERT INTO customers (id, j) VALUES (1, '{"a": "\u0000"}'), (2, '{"a": "\ud800"}'), (3, '[1e999999]')"#,
    )
    .await
    .expect("the application's statement does not fail by the recording");
    let changes = taken(&capture).await;
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[0].after.as_ref().expect("a row")["j"], json!({"a": "\u{0}"}));
    assert!(changes[0].defect.is_none() && changes[2].defect.is_none(), "{changes:?}");
    assert_eq!(changes[2].after.as_ref().expect("a row")["j"], json!(["1e999999"]));
    let text = changes[1].after.as_ref().and_then(|row| row.as_str()).expect("the text as it is");
    assert!(text.contains(r"\ud800") && changes[1].defect.is_some(), "{:?}", changes[1]);
}
