//! Restores of chosen tables.

use dm_core::{Destination, Engine, ErrorKind, Level};
use rusqlite::Connection;

use crate::oracle;
use crate::support::{back_up, bring_back, ctx, engine, number, place, restore_request};

const SHOP: &str = "
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, up TEXT AS (upper(name)) STORED);
CREATE INDEX by_name ON users (name);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users(id), total);
CREATE TABLE loose (a);
CREATE TABLE log (entry);
CREATE TABLE pairs (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
INSERT INTO users (name) VALUES ('ann'), ('bob'), ('cy');
DELETE FROM users WHERE name = 'bob';
INSERT INTO orders VALUES (1, 1, 10), (2, 3, 20);
INSERT INTO loose (rowid, a) VALUES (5, 'five'), (9, 'nine');
INSERT INTO pairs VALUES (1, 2), (3, 4);
CREATE TRIGGER noted AFTER INSERT ON orders BEGIN INSERT INTO log VALUES (new.id); END;
CREATE VIRTUAL TABLE ft USING fts5 (body);
";

#[tokio::test]
async fn to_a_new_file() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let to = place.file("some.db");
    let (_, comparison) =
        bring_back(&engine, &backup, Destination::New(Some("some.db".into())), &["users", "lo*", "pairs"])
            .await
            .unwrap();
    assert!(comparison.is_proven(), "{comparison:?}");
    let compared: Vec<_> = comparison.tables.iter().map(|t| t.expected.table.as_str()).collect();
    assert_eq!(compared, ["log", "loose", "pairs", "users"]);
    assert_eq!(number(&to, "SELECT count(*) FROM sqlite_schema WHERE name = 'by_name'"), 1);
    assert_eq!(number(&to, "SELECT count(*) FROM sqlite_schema WHERE name = 'orders'"), 0);
    assert_eq!(number(&to, "SELECT rowid FROM loose WHERE a = 'nine'"), 9);
    assert_eq!(number(&to, "SELECT seq FROM sqlite_sequence WHERE name = 'users'"), 3);
    assert_eq!(place.listing(), ["shop.db", "some.db"]);
    if let (Some(whole), Some(some)) = (oracle::dump(&place.db), oracle::dump(&to)) {
        for line in some.lines().filter(|l| l.starts_with("INSERT INTO users")) {
            assert!(whole.contains(line), "{line}");
        }
    }
}

#[tokio::test]
async fn in_place_replaces_rows_and_nothing_else() {
    for journal in ["WAL", "DELETE"] {
        let place = place(&format!("PRAGMA journal_mode={journal};{SHOP}"));
        let engine = engine(&place.db);
        let backup = back_up(&engine, &place.request()).await.unwrap();
        Connection::open(&place.db)
            .unwrap()
            .execute_batch(
                "DELETE FROM orders; INSERT INTO orders VALUES (7, 1, 70); DROP TABLE pairs;
                 INSERT INTO users (name) VALUES ('dan');",
            )
            .unwrap();
        let logged = number(&place.db, "SELECT count(*) FROM log");
        let (restored, comparison) =
            bring_back(&engine, &backup, Destination::InPlace, &["orders", "pairs"]).await.unwrap();
        assert!(comparison.is_proven(), "{comparison:?}");
        assert_eq!(number(&place.db, "SELECT sum(total) FROM orders"), 30);
        assert_eq!(number(&place.db, "SELECT count(*) FROM pairs"), 2);
        assert_eq!(number(&place.db, "SELECT count(*) FROM users"), 3, "other tables stay");
        assert_eq!(number(&place.db, "SELECT count(*) FROM log"), logged, "no trigger ran");
        let kept = restored.previous.unwrap();
        assert_eq!(number(kept.as_ref(), "SELECT sum(total) FROM orders"), 70);
        assert!(place.listing().iter().all(|n| !n.starts_with('.')), "{:?}", place.listing());
    }
}

#[tokio::test]
async fn in_place_into_another_shape_is_refused_whole() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    Connection::open(&place.db)
        .unwrap()
        .execute_batch("DELETE FROM loose; ALTER TABLE orders ADD COLUMN extra;")
        .unwrap();
    let error = bring_back(&engine, &backup, Destination::InPlace, &["loose", "orders"]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(number(&place.db, "SELECT count(*) FROM loose"), 0, "the first table was rolled back too");
    assert!(place.listing().iter().all(|n| !n.contains("before-restore")), "{:?}", place.listing());
}

#[tokio::test]
async fn what_cannot_be_chosen() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let port = engine.restore().unwrap();
    for (table, kind) in [
        ("nosuch", ErrorKind::NotFound),
        ("ft", ErrorKind::Unsupported),
        ("ft_data", ErrorKind::Unsupported),
        ("sqlite_sequence", ErrorKind::Unsupported),
    ] {
        let request = restore_request(Destination::New(None), &[table]);
        let error = port.preview(&ctx(), &request, &backup.manifest).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{table}");
    }
    let request = restore_request(Destination::InPlace, &["users"]);
    let preview = port.preview(&ctx(), &request, &backup.manifest).await.unwrap();
    assert!(preview.findings.iter().all(|f| f.level < Level::Error));
    assert!(preview.findings.iter().any(|f| f.message.contains("users has 2 rows now")));
}
