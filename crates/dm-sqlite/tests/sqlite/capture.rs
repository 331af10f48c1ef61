//! Recording changes: what triggers write, read back, and what is said when they do not.

use dm_core::{CaptureRequest, CaptureSource, ChangeKind, Engine, ErrorKind, RowChange, TableName};
use rusqlite::Connection;
use serde_json::json;
use std::sync::Arc;

use crate::support::{Place, ctx, engine, place};

const SHOP: &str = "
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, secret TEXT, card TEXT, photo BLOB, weight REAL);
    CREATE TABLE \"we\"\"ird; DROP TABLE customers; --'x\" (\"a\"\"b'c\" TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE VIEW names AS SELECT name FROM customers;
    CREATE VIRTUAL TABLE words USING fts5(word);";

fn capture(place: &Place) -> Arc<dyn CaptureSource> {
    engine(&place.db).capture().unwrap()
}

fn of(table: &str) -> CaptureRequest {
    CaptureRequest::of(TableName::bare(table))
}

/// As an application writes: with a library of its own, and none of our functions.
fn application(place: &Place, sql: &str) {
    Connection::open(&place.db).unwrap().execute_batch(sql).unwrap();
}

async fn taken(capture: &Arc<dyn CaptureSource>) -> Vec<RowChange> {
    let changes = capture.waiting(&ctx(), 1000, u64::MAX).await.unwrap();
    let keys: Vec<_> = changes.iter().map(|c| c.key.clone()).collect();
    capture.confirm(&ctx(), &keys).await.unwrap();
    changes
}

async fn problems(capture: &Arc<dyn CaptureSource>) -> String {
    let status = capture.status(&ctx()).await.unwrap();
    let tables = status.tables.into_iter().flat_map(|t| t.problems);
    tables.chain(status.problems).collect::<Vec<_>>().join("\n")
}

fn schema(place: &Place) -> Vec<String> {
    let connection = Connection::open(&place.db).unwrap();
    let mut prepared = connection.prepare("SELECT type || name FROM sqlite_schema ORDER BY 1").unwrap();
    prepared.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn old_and_new_values_are_recorded_in_the_same_transaction() {
    let place = place(SHOP);
    let before = schema(&place);
    let capture = capture(&place);
    assert!(capture.status(&ctx()).await.unwrap().tables.is_empty());
    let request =
        CaptureRequest { exclude: vec!["secret".into()], mask: vec!["card".into()], ..of("customers") };
    capture.install(&ctx(), &request).await.unwrap();
    capture.install(&ctx(), &request).await.unwrap();
    application(
        &place,
        "INSERT INTO customers VALUES (1, 'Ann \"q\" ü 🦀', 's3cret', '4111', x'00ff', 0.1);
         BEGIN; INSERT INTO dm_capture_session (user) VALUES ('alice');
         UPDATE customers SET name = 'Bea', secret = 'other', card = '4222', weight = 9e999 WHERE id = 1;
         DELETE FROM dm_capture_session; COMMIT;
         BEGIN; DELETE FROM customers; ROLLBACK;
         UPDATE customers SET name = name; DELETE FROM customers;",
    );
    let changes = taken(&capture).await;
    let kinds: Vec<_> = changes.iter().map(|c| c.kind.unwrap()).collect();
    assert_eq!(kinds, [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete], "{changes:?}");
    let row = json!({"id": 1, "name": "Ann \"q\" ü 🦀", "card": "***", "photo": "\\x00ff", "weight": 0.1});
    assert_eq!((changes[0].before.as_ref(), changes[0].after.as_ref()), (None, Some(&row)));
    assert_eq!(changes[1].before.as_ref(), Some(&row));
    let row = json!({"id": 1, "name": "Bea", "card": "***", "photo": "\\x00ff", "weight": "Inf"});
    assert_eq!(changes[1].after.as_ref(), Some(&row));
    assert_eq!(
        changes[1].changed,
        ["name", "secret", "card", "weight"],
        "that an excluded one changed is said"
    );
    assert_eq!((changes[1].user.as_deref(), changes[0].user.as_deref()), (Some("alice"), None));
    assert!(changes[1].transaction.is_some() && changes.iter().all(|c| c.at.is_some() && c.defect.is_none()));
    let all = format!("{changes:?}");
    assert!(!all.contains("s3cret") && !all.contains("4111") && !all.contains("4222"), "{all}");
    assert!(taken(&capture).await.is_empty());
    // A transaction that does not take its user back cannot be committed.
    let connection = Connection::open(&place.db).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys = ON; BEGIN; INSERT INTO dm_capture_session (user) VALUES ('x')")
        .unwrap();
    assert!(connection.execute_batch("COMMIT").unwrap_err().to_string().contains("FOREIGN KEY"));
    drop(connection);
    capture.remove(&ctx(), &TableName::bare("CUSTOMERS")).await.unwrap();
    assert!(capture.clear_away(&ctx()).await.unwrap());
    assert_eq!(schema(&place), before, "nothing is left");
    assert_eq!(
        capture.remove(&ctx(), &TableName::bare("customers")).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn names_break_out_of_nothing() {
    let place = place(SHOP);
    let capture = capture(&place);
    let name = "we\"ird; DROP TABLE customers; --'x";
    capture.install(&ctx(), &CaptureRequest { mask: vec!["a\"b'c".into()], ..of(name) }).await.unwrap();
    let connection = Connection::open(&place.db).unwrap();
    connection
        .execute(&format!("INSERT INTO \"{}\" VALUES ('k', 5)", name.replace('"', "\"\"")), [])
        .unwrap();
    let changes = taken(&capture).await;
    assert_eq!(changes[0].table, Some(TableName::bare(name)));
    assert_eq!(changes[0].after, Some(json!({"a\"b'c": "***", "v": 5})));
    assert_eq!(problems(&capture).await, "");
    assert!(schema(&place).contains(&"tablecustomers".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused() {
    let place = place(SHOP);
    let capture = capture(&place);
    let kind = async |request: CaptureRequest| capture.install(&ctx(), &request).await.unwrap_err().kind();
    assert_eq!(kind(of("nothing")).await, ErrorKind::NotFound);
    assert_eq!(kind(of("names")).await, ErrorKind::Unsupported);
    assert_eq!(kind(of("words")).await, ErrorKind::Unsupported);
    assert_eq!(kind(of("words_data")).await, ErrorKind::Unsupported);
    assert_eq!(kind(of("sqlite_schema")).await, ErrorKind::Unsupported);
    assert_eq!(
        kind(CaptureRequest { exclude: vec!["nope".into()], ..of("customers") }).await,
        ErrorKind::NotFound
    );
    let both = CaptureRequest { exclude: vec!["card".into()], mask: vec!["card".into()], ..of("customers") };
    assert_eq!(kind(both).await, ErrorKind::Invalid);
    assert_eq!(
        kind(CaptureRequest { digest: vec!["card".into()], ..of("customers") }).await,
        ErrorKind::Unsupported
    );
    assert!(!schema(&place).iter().any(|name| name.contains("dm_capture")), "nothing was made for it");
}

#[tokio::test]
async fn a_change_of_the_schema_is_noticed() {
    let place = place(SHOP);
    let capture = capture(&place);
    let request = CaptureRequest { exclude: vec!["secret".into()], ..of("customers") };
    capture.install(&ctx(), &request).await.unwrap();
    application(&place, "ALTER TABLE customers ADD COLUMN phone TEXT");
    assert!(problems(&capture).await.contains("phone came since"), "{}", problems(&capture).await);
    capture.install(&ctx(), &request).await.unwrap();
    assert_eq!(problems(&capture).await, "");
    // A renamed secret does not come out.
    application(
        &place,
        "ALTER TABLE customers RENAME COLUMN secret TO hidden; INSERT INTO customers (hidden) VALUES ('s3cret')",
    );
    let found = problems(&capture).await;
    assert!(found.contains("hidden came since") && found.contains("secret is gone"), "{found}");
    assert!(!format!("{:?}", taken(&capture).await).contains("s3cret"));
    application(&place, "DROP TRIGGER dm_capture_1_update");
    assert!(problems(&capture).await.contains("dm_capture_1_update is missing"));
    let request = CaptureRequest { exclude: vec!["hidden".into()], ..of("customers") };
    capture.install(&ctx(), &request).await.unwrap();
    assert_eq!(problems(&capture).await, "");
    application(
        &place,
        "DROP TRIGGER dm_capture_1_insert; CREATE TRIGGER dm_capture_1_insert AFTER INSERT ON customers BEGIN SELECT 1; END",
    );
    assert!(problems(&capture).await.contains("not as this program writes it"));
    application(&place, "PRAGMA foreign_keys = OFF; INSERT INTO dm_capture_session (user) VALUES ('left')");
    assert!(problems(&capture).await.contains("left its row in dm_capture_session"));
    application(&place, "DROP TABLE customers");
    assert!(problems(&capture).await.contains("the table is gone"));
    capture.remove(&ctx(), &TableName::bare("customers")).await.unwrap();
}

#[tokio::test]
async fn a_table_of_many_columns_is_recorded() {
    let names: Vec<_> = (0..300).map(|i| format!("c{i}")).collect();
    let place = place(&format!("CREATE TABLE wide ({})", names.join(", ")));
    let capture = capture(&place);
    capture.install(&ctx(), &of("wide")).await.unwrap();
    application(&place, "INSERT INTO wide (c0, c299) VALUES (1, 'x'); UPDATE wide SET c150 = 2");
    let changes = taken(&capture).await;
    assert_eq!(changes[1].after.as_ref().unwrap().as_object().unwrap().len(), 300);
    assert_eq!(changes[1].changed, ["c150"]);
}

#[tokio::test]
async fn garbage_in_the_outbox_is_taken_over_as_such_and_goes() {
    let place = place(SHOP);
    let capture = capture(&place);
    capture.install(&ctx(), &of("customers")).await.unwrap();
    application(
        &place,
        "INSERT INTO customers (id) VALUES (1);
         INSERT INTO dm_capture_changes (id, at, table_name, operation, before, after, changed)
         VALUES (x'ff00', 'yesterday', '', 'explode', 'no json', x'ff', '{}'), ('', 5, 't', 'insert', '[]', NULL, NULL),
                ('id', '2026-01-01T00:00:00Z', 't', 'insert', NULL, '{\"a\": 1e999}', 'null');
         INSERT INTO customers (id) VALUES (2);",
    );
    let changes = taken(&capture).await;
    let defects: Vec<_> = changes.iter().map(|c| c.defect.is_some()).collect();
    assert_eq!(defects, [false, true, true, true, false], "{changes:?}");
    assert!(capture.waiting(&ctx(), 10, 1000).await.unwrap().is_empty(), "all of it went");
    // A limit of bytes still gives one.
    application(&place, "INSERT INTO customers (id, name) VALUES (3, 'x'), (4, 'y')");
    assert_eq!(capture.waiting(&ctx(), 10, 1).await.unwrap().len(), 1);
    assert!(!capture.clear_away(&ctx()).await.unwrap(), "what waits is not thrown away");
}
