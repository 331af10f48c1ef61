//! Snapshots of schemas, differences, shadow databases.

use dm_core::{Engine, ErrorKind, SchemaChange, SchemaSnapshot, Secret, ShadowPlace, ShadowScript};
use rusqlite::Connection;

use crate::support::{ctx, engine, place};

const BASE: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'none', price INT);
    CREATE TABLE lines (id INTEGER PRIMARY KEY, item_id INT REFERENCES items (id), n INT CHECK (n > 0));
    CREATE TABLE words (word TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE INDEX items_name ON items (name);
    CREATE UNIQUE INDEX lines_n ON lines (n) WHERE n > 3;
    CREATE VIEW cheap AS SELECT id FROM items WHERE price < 5;
    CREATE TRIGGER touch AFTER UPDATE ON items BEGIN UPDATE items SET price = 1 WHERE id = new.id; END;
    CREATE VIRTUAL TABLE notes USING fts5 (body);
";

/// One change each, and the object that has to be named.
const INJECTED: &[(&str, &str)] = &[
    ("ALTER TABLE items ADD COLUMN colour TEXT", "column items.colour"),
    ("ALTER TABLE items RENAME COLUMN colour TO shade", "column items.shade"),
    ("ALTER TABLE items DROP COLUMN shade", "column items.shade"),
    ("ALTER TABLE lines RENAME TO rows_of_it", "table rows_of_it"),
    ("DROP TABLE rows_of_it", "table rows_of_it"),
    ("CREATE TABLE extra (a)", "table extra"),
    ("DROP TABLE extra; CREATE TABLE extra (a TEXT)", "column extra.a"),
    ("DROP TABLE extra; CREATE TABLE extra (a TEXT NOT NULL)", "column extra.a"),
    ("DROP TABLE extra; CREATE TABLE extra (a TEXT NOT NULL DEFAULT 'x')", "column extra.a"),
    ("DROP TABLE extra; CREATE TABLE extra (a TEXT NOT NULL DEFAULT 'x', CHECK (a <> ''))", "table extra"),
    ("DROP TABLE extra; CREATE TABLE extra (a TEXT PRIMARY KEY) STRICT", "table extra"),
    ("DROP INDEX items_name", "index items_name"),
    ("CREATE INDEX items_name ON items (name DESC)", "index items_name"),
    ("DROP INDEX items_name; CREATE INDEX items_name ON items (name, price)", "index items_name"),
    ("DROP VIEW cheap", "view cheap"),
    ("CREATE VIEW cheap AS SELECT id FROM items WHERE price < 6", "view cheap"),
    ("DROP TRIGGER touch", "trigger touch"),
    ("CREATE TRIGGER touch AFTER DELETE ON items BEGIN SELECT 1; END", "trigger touch"),
    ("DROP TABLE words; CREATE TABLE words (word TEXT PRIMARY KEY)", "table words"),
    ("DROP TABLE notes", "table notes"),
    ("CREATE TABLE parents (id INTEGER PRIMARY KEY, code TEXT)", "table parents"),
    ("CREATE TABLE kids (id INTEGER PRIMARY KEY, parent INT)", "table kids"),
    (
        "DROP TABLE kids; CREATE TABLE kids (id INTEGER PRIMARY KEY, parent INT REFERENCES parents (id))",
        "table kids",
    ),
    (
        "DROP TABLE kids; CREATE TABLE kids (id INTEGER PRIMARY KEY, parent INT REFERENCES parents (id) ON DELETE CASCADE)",
        "table kids",
    ),
    (
        "DROP TABLE parents; CREATE TABLE parents (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT)",
        "table parents",
    ),
    ("DROP TABLE parents; CREATE TABLE parents (id INTEGER PRIMARY KEY, code TEXT UNIQUE)", "table parents"),
    (
        "DROP TABLE parents; CREATE TABLE parents (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE)",
        "table parents",
    ),
    ("DROP TABLE parents; CREATE TABLE parents (id INTEGER PRIMARY KEY, code INT)", "column parents.code"),
    ("DROP TABLE parents; CREATE TABLE parents (id INT, code INT)", "column parents.id"),
    (
        "DROP TABLE parents; CREATE TABLE parents (id INT, code INT, PRIMARY KEY (id, code))",
        "column parents.code",
    ),
    ("ALTER TABLE parents ADD COLUMN twice INT AS (code * 2)", "column parents.twice"),
    ("CREATE UNIQUE INDEX parents_code ON parents (code)", "index parents_code"),
    ("DROP INDEX parents_code; CREATE INDEX parents_code ON parents (code)", "index parents_code"),
    (
        "DROP INDEX parents_code; CREATE INDEX parents_code ON parents (code) WHERE code > 1",
        "index parents_code",
    ),
    (
        "DROP INDEX parents_code; CREATE INDEX parents_code ON parents (code) WHERE code > 2",
        "index parents_code",
    ),
    ("DROP INDEX parents_code; CREATE INDEX parents_code ON parents (code + 1)", "index parents_code"),
    ("CREATE VIEW dear AS SELECT id FROM items WHERE price > 5", "view dear"),
    ("CREATE TRIGGER instead INSTEAD OF INSERT ON dear BEGIN SELECT 1; END", "trigger instead"),
    ("DROP TRIGGER touch; CREATE TRIGGER touch AFTER DELETE ON items BEGIN SELECT 2; END", "trigger touch"),
    ("CREATE VIRTUAL TABLE notes USING fts5 (body, title)", "table notes"),
];

fn told(changes: &[SchemaChange]) -> Vec<String> {
    changes.iter().map(|c| format!("{} {:?}", c.object().title(), c.facets())).collect()
}

async fn replayed(engine: &dyn Engine, text: &str) -> SchemaSnapshot {
    let port = engine.schema().unwrap();
    let mut shadow = port.shadow(&ctx(), &ShadowPlace::Temporary).await.unwrap();
    let script =
        ShadowScript { name: "1.sql".to_owned(), statements: vec![(1, text.to_owned())], transaction: true };
    shadow.replay(&ctx(), &script, false).await.unwrap();
    let snapshot = shadow.snapshot(&ctx(), &[]).await.unwrap();
    shadow.close(&ctx()).await.unwrap();
    snapshot
}

#[tokio::test]
async fn every_injected_change_is_found_and_nothing_on_a_clean_schema() {
    let place = place(BASE);
    let engine = engine(&place.db);
    let port = engine.schema().unwrap();
    let files = replayed(&engine, BASE).await;
    let mut before = port.snapshot(&ctx(), &[]).await.unwrap();
    assert_eq!(told(&files.diff(&before)), [""; 0]);
    assert!(INJECTED.len() >= 40);
    for (statement, expected) in INJECTED {
        Connection::open(&place.db).unwrap().execute_batch(statement).unwrap();
        let after = port.snapshot(&ctx(), &[]).await.unwrap();
        let changes = before.diff(&after);
        assert!(changes.iter().any(|c| c.object().title() == *expected), "{statement}: {:?}", told(&changes));
        before = after;
    }
}

#[tokio::test]
async fn a_dump_and_a_written_difference_make_the_same_schema() {
    let place = place(BASE);
    let engine = engine(&place.db);
    let port = engine.schema().unwrap();
    let whole = port.snapshot(&ctx(), &[]).await.unwrap();
    let dump = port.dump(&ctx(), &[]).await.unwrap();
    assert_eq!(told(&replayed(&engine, &dump).await.diff(&whole)), [""; 0]);
    let left_out = port.snapshot(&ctx(), &["items".to_owned()]).await.unwrap();
    assert!(!left_out.objects.iter().any(|o| o.of.as_deref() == Some("items") || o.name == "items"));
    Connection::open(&place.db)
        .unwrap()
        .execute_batch("CREATE TABLE extra (a INT); CREATE INDEX extra_a ON extra (a); DROP VIEW cheap; DROP INDEX items_name;")
        .unwrap();
    let changed = port.snapshot(&ctx(), &[]).await.unwrap();
    let script = port.script(&whole, &changed);
    assert_eq!(script.not_written, [""; 0]);
    let up = script.up.iter().map(|s| format!("{s};")).collect::<String>();
    let down = script.down.iter().map(|s| format!("{s};")).collect::<String>();
    assert_eq!(told(&replayed(&engine, &format!("{BASE}{up}")).await.diff(&changed)), [""; 0], "{up}");
    assert_eq!(told(&replayed(&engine, &format!("{BASE}{up}{down}")).await.diff(&whole)), [""; 0], "{down}");
}

#[tokio::test]
async fn a_script_that_fails_says_where_and_the_live_file_stays_as_it_is() {
    let place = place(BASE);
    let engine = engine(&place.db);
    let before = std::fs::read(&place.db).unwrap();
    let port = engine.schema().unwrap();
    let mut shadow = port.shadow(&ctx(), &ShadowPlace::Temporary).await.unwrap();
    let script = ShadowScript {
        name: "2.sql".to_owned(),
        statements: vec![(1, "SELECT 1".to_owned()), (4, "DROP TABLE nothing".to_owned())],
        transaction: true,
    };
    let error = shadow.replay(&ctx(), &script, true).await.unwrap_err();
    assert!(error.to_string().starts_with("2.sql:4: "), "{error}");
    assert_eq!(std::fs::read(&place.db).unwrap(), before);
    let given = ShadowPlace::Given(Secret::new("sqlite:other.db"));
    let Err(error) = port.shadow(&ctx(), &given).await else { panic!("a shadow was given") };
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
