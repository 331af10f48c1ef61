//! Backups: consistency, awkward databases, facts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dm_core::{
    BackupMode, BackupRequest, Destination, Engine, ErrorKind, Layout, Level, Progress, ProgressSink,
};
use dm_sqlite::{FreeSpace, SqliteOptions};
use rusqlite::Connection;

use crate::oracle;
use crate::support::{Backup, Place, back_up, bring_back, ctx, engine, engine_with, names, number, place};

pub(crate) const AWKWARD: &str = r#"
CREATE TABLE "we""ird; DROP TABLE x" ("a""b" TEXT, "select" INTEGER, "ü§" BLOB);
INSERT INTO "we""ird; DROP TABLE x" VALUES ('it''s', 1, x'00ff00'), (NULL, NULL, NULL), ('', -0.0, x'');
CREATE TABLE x (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
INSERT INTO x (v) VALUES (1), (1.5), ('text'), (x'0001'), (NULL), (9223372036854775807), (9e999), (-9e999), ('a' || char(0) || 'b');
DELETE FROM x WHERE id = 3;
CREATE TABLE wr (a TEXT, b INT, c BLOB, PRIMARY KEY (b, a)) WITHOUT ROWID;
INSERT INTO wr VALUES ('x', 2, zeroblob(3000)), ('y', 1, NULL);
CREATE TABLE st (a INTEGER, b TEXT, c ANY) STRICT;
INSERT INTO st VALUES (1, 'b', x'00');
CREATE TABLE gen (a INTEGER, b INTEGER GENERATED ALWAYS AS (a * 2) VIRTUAL, c INTEGER AS (a * 3) STORED);
INSERT INTO gen (a) VALUES (1), (2);
CREATE TABLE parent (a, b, PRIMARY KEY (a, b));
CREATE TABLE child (a, b, id INTEGER PRIMARY KEY, self REFERENCES child(id), FOREIGN KEY (a, b) REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
INSERT INTO parent VALUES (1, 2);
INSERT INTO child VALUES (1, 2, 3, 3);
CREATE TABLE empty (a);
CREATE TABLE dup (a);
INSERT INTO dup VALUES (1), (1), (1);
CREATE VIEW v AS SELECT * FROM x;
CREATE TRIGGER tr AFTER INSERT ON dup BEGIN INSERT INTO empty VALUES (new.a); END;
CREATE INDEX part ON x (v) WHERE v > 1;
CREATE INDEX expr ON st (lower(b) COLLATE NOCASE DESC);
CREATE VIRTUAL TABLE ft USING fts5 (title, body);
INSERT INTO ft VALUES ('hello', 'world of rows'), ('more', 'text');
CREATE VIRTUAL TABLE rt USING rtree (id, lo, hi);
INSERT INTO rt VALUES (1, 0.5, 1.5);
ANALYZE;
PRAGMA user_version = 77;
PRAGMA application_id = 1234;
"#;

async fn round_trip(place: &Place) -> Backup {
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(names(&place.scratch), [""; 0], "no temporary file is left");
    let to = place.file("back.db");
    let destination = Destination::New(Some(to.display().to_string()));
    let (restored, comparison) = bring_back(&engine, &backup, destination, &[]).await.unwrap();
    assert_eq!(restored.location, std::fs::canonicalize(&to).unwrap().display().to_string());
    assert!(comparison.is_proven(), "{comparison:?}");
    assert_eq!(comparison.tables.len(), backup.summary.tables.len());
    assert_eq!(std::fs::read(&to).unwrap(), backup.bytes(), "the file is the member, byte for byte");
    oracle::assert_same(&place.db, &to);
    backup
}

#[tokio::test]
async fn awkward_database() {
    let place = place(AWKWARD);
    let backup = round_trip(&place).await;
    assert_eq!(backup.summary.warnings, [""; 0]);
    assert_eq!(backup.facts(r#"we"ird; DROP TABLE x"#).rows, 3);
    assert_eq!(backup.facts("x").rows, 8);
    assert_eq!(backup.facts("sqlite_sequence").rows, 1);
    assert_eq!(backup.facts("ft_content").rows, 2, "a shadow table is counted");
    assert!(
        backup.summary.tables.iter().all(|t| t.table != "ft" && t.table != "v"),
        "what has no rows is not"
    );
    let attributes = &backup.manifest.source.attributes;
    assert_eq!(attributes["user_version"], 77);
    assert_eq!(attributes["application_id"], 1234);
    assert_eq!(attributes["encoding"], "UTF-8");
    assert_eq!(attributes["virtual_tables"], serde_json::json!(["ft", "rt"]));
}

#[tokio::test]
async fn awkward_database_in_wal_and_utf16_and_every_page_size() {
    for (pragmas, page) in [
        ("PRAGMA journal_mode=WAL;", 4096),
        ("PRAGMA encoding='UTF-16le';", 4096),
        ("PRAGMA encoding='UTF-16be'; PRAGMA journal_mode=WAL;", 4096),
        ("PRAGMA page_size=65536;", 65536),
        ("PRAGMA page_size=512; PRAGMA auto_vacuum=2;", 512),
        ("PRAGMA journal_mode=PERSIST;", 4096),
    ] {
        let place = place(&format!("{pragmas}{AWKWARD}"));
        let backup = round_trip(&place).await;
        assert_eq!(backup.manifest.members[0].0.layout, Layout::Pages { page_bytes: page }, "{pragmas}");
        assert!(backup.blocks.iter().all(|b| b.length() % u64::from(page) == 0));
    }
}

#[tokio::test]
async fn an_empty_file_and_an_empty_database() {
    let place = place("");
    std::fs::write(&place.db, b"").unwrap();
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(backup.summary.tables.len(), 1, "only the definitions");
    let (_, comparison) =
        bring_back(&engine, &backup, Destination::New(Some("e.db".into())), &[]).await.unwrap();
    assert!(comparison.is_proven());
    Connection::open(&place.db).unwrap().execute_batch("CREATE TABLE t(a); DROP TABLE t;").unwrap();
    round_trip(&place).await;
}

#[tokio::test]
async fn an_open_log_is_part_of_the_backup() {
    let place = place("PRAGMA journal_mode=WAL; CREATE TABLE t(a);");
    let writer = Connection::open(&place.db).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (1), (2);").unwrap();
    assert!(std::fs::metadata(place.file("shop.db-wal")).unwrap().len() > 0);
    let backup = back_up(&engine(&place.db), &place.request()).await.unwrap();
    assert_eq!(backup.facts("t").rows, 2);
    drop(writer);
}

/// Transfers between accounts never change the sum; a copy that mixes two moments does.
async fn consistent_under_writers(journal: &str, accounts: u32, least_backups: u32) {
    let place = place(&format!(
        "PRAGMA journal_mode={journal}; CREATE TABLE account (id INTEGER PRIMARY KEY, amount, pad);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {accounts})
         INSERT INTO account SELECT i, 100, zeroblob(500) FROM n;"
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let transfers = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (db, stop, transfers) = (place.db.clone(), Arc::clone(&stop), Arc::clone(&transfers));
        move || {
            let connection = Connection::open(db).unwrap();
            connection.busy_timeout(Duration::from_secs(30)).unwrap();
            connection.execute_batch("PRAGMA synchronous=OFF").unwrap();
            let mut seed = 1_u32;
            while !stop.load(Ordering::Relaxed) {
                let mut next = || {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    seed % accounts + 1
                };
                let (from, to) = (next(), next());
                connection
                    .execute_batch(&format!(
                        "BEGIN IMMEDIATE; UPDATE account SET amount = amount - 7 WHERE id = {from};
                         UPDATE account SET amount = amount + 7 WHERE id = {to}; COMMIT;"
                    ))
                    .unwrap();
                transfers.fetch_add(1, Ordering::Relaxed);
                // A writer that leaves no moment between its writes is the next test's.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let options = SqliteOptions { max_writer_stall: Duration::from_secs(60), ..SqliteOptions::default() };
    let engine = engine_with(&place.db, options);
    for round in 0..least_backups {
        let before = transfers.load(Ordering::Relaxed);
        let backup = back_up(&engine, &place.request()).await.unwrap();
        let name = format!("back{round}.db");
        let destination = Destination::New(Some(name.clone()));
        let (_, comparison) = bring_back(&engine, &backup, destination, &[]).await.unwrap();
        assert!(comparison.is_proven(), "{comparison:?}");
        let sum = number(&place.file(&name), "SELECT sum(amount) FROM account");
        assert_eq!(sum, i64::from(accounts) * 100);
        crate::support::eventually("a write after a backup", || transfers.load(Ordering::Relaxed) > before)
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[tokio::test]
async fn consistent_under_a_writer_in_wal() {
    consistent_under_writers("WAL", 20_000, 3).await;
}

#[tokio::test]
async fn consistent_under_a_writer_with_a_rollback_journal() {
    consistent_under_writers("DELETE", 20_000, 3).await;
}

/// Writes after every step of the copy that went forward, as a writer does who leaves no moment between his writes.
struct WriteAfterEveryStep(std::sync::Mutex<Connection>);

impl ProgressSink for WriteAfterEveryStep {
    fn report(&self, progress: Progress) {
        if matches!(progress, Progress::Bytes(_)) {
            // Refused while the last resort holds its view: that is what is looked at below.
            let _ = self.0.lock().unwrap().execute_batch("UPDATE t SET a = randomblob(1000) WHERE id = 1");
        }
    }
}

#[tokio::test]
async fn a_restless_writer_meets_the_last_resort_or_busy() {
    let place = place(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT i, zeroblob(1000) FROM n;",
    );
    let open = async |max_writer_stall| {
        let writer = Connection::open(&place.db).unwrap();
        writer.busy_timeout(Duration::ZERO).unwrap();
        let ctx = ctx().with_progress(Arc::new(WriteAfterEveryStep(writer.into())));
        let options = SqliteOptions { max_writer_stall, max_copy_restarts: 2, ..SqliteOptions::default() };
        engine_with(&place.db, options).backup().unwrap().open(&ctx, &place.request()).await
    };
    let error = open(Duration::ZERO).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.is_retryable());
    assert!(error.hint().unwrap().contains("WAL"));
    assert_eq!(names(&place.scratch), [""; 0]);
    assert!(open(Duration::from_secs(3600)).await.is_ok());
    assert_eq!(number(&place.db, "UPDATE t SET a = 1 WHERE id = 1 RETURNING 1"), 1, "the view is let go");
}

#[tokio::test]
async fn facts_see_one_changed_cell_and_ignore_order() {
    let place = place("CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z');");
    let engine = engine(&place.db);
    let first = back_up(&engine, &place.request()).await.unwrap();
    let sql = |text: &str| Connection::open(&place.db).unwrap().execute_batch(text).unwrap();
    sql("DELETE FROM t WHERE a = 1; INSERT INTO t VALUES (1, 'x'); VACUUM;");
    let same = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(first.facts("t"), same.facts("t"));
    sql("UPDATE t SET b = 'Y' WHERE a = 2");
    let changed = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(changed.facts("t").rows, 3);
    assert_ne!(first.facts("t"), changed.facts("t"));
    sql("UPDATE t SET b = 'y' WHERE a = 2; ALTER TABLE t RENAME COLUMN b TO c");
    let renamed = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(first.facts("t"), renamed.facts("t"), "the rows are the same");
    assert_ne!(first.facts("sqlite_schema"), renamed.facts("sqlite_schema"), "the definitions are not");
    let counted = BackupRequest { content_digests: false, ..place.request() };
    let counted = back_up(&engine, &counted).await.unwrap();
    assert_eq!((counted.facts("t").rows, counted.facts("t").digest), (3, None));
}

#[tokio::test]
async fn an_unchanged_database_gives_the_same_bytes() {
    let place = place(&format!("PRAGMA journal_mode=WAL;{AWKWARD}"));
    let engine = engine(&place.db);
    let first = back_up(&engine, &place.request()).await.unwrap();
    let second = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(first.bytes(), second.bytes());
    assert_eq!(place.listing(), ["shop.db"], "no log of ours is left beside it");
}

#[tokio::test]
async fn preflight_finds_what_is_wrong() {
    let place = place("CREATE TABLE t(a);");
    let ask = async |path: &std::path::Path, request: &BackupRequest, options: SqliteOptions| {
        let engine = engine_with(path, options);
        engine.backup().unwrap().preflight(&ctx(), request).await.unwrap()
    };
    let errors = |p: &dm_core::Preflight| -> Vec<String> {
        p.findings.iter().filter(|f| f.level == Level::Error).map(|f| f.check.clone()).collect()
    };
    let none: [String; 0] = [];
    let request = place.request();
    let good = ask(&place.db, &request, SqliteOptions::default()).await;
    assert_eq!(errors(&good), none);
    assert_eq!(good.estimated_bytes, 8192);
    assert!(good.scratch.unwrap().1 > 8192);

    let full = SqliteOptions { free_space: FreeSpace::new(|_| Ok(1000)), ..SqliteOptions::default() };
    assert_eq!(errors(&ask(&place.db, &request, full).await), ["disk_space"]);

    let away = BackupRequest { scratch_dir: Some(place.file("nowhere")), ..request.clone() };
    assert_eq!(errors(&ask(&place.db, &away, SqliteOptions::default()).await), ["disk_space"]);

    let text = place.file("text.db");
    std::fs::write(&text, "this is no database, only a long enough text".repeat(100)).unwrap();
    assert_eq!(errors(&ask(&text, &request, SqliteOptions::default()).await), ["open"]);
    assert_eq!(errors(&ask(&place.file("missing"), &request, SqliteOptions::default()).await), ["open"]);
    assert_eq!(errors(&ask(place.dir.path(), &request, SqliteOptions::default()).await), ["open"]);

    let some = BackupRequest { include_tables: vec!["t".into()], ..request.clone() };
    assert_eq!(errors(&ask(&place.db, &some, SqliteOptions::default()).await), ["request"]);
    let logical = BackupRequest { mode: Some(BackupMode::Logical), ..request };
    assert_eq!(errors(&ask(&place.db, &logical, SqliteOptions::default()).await), ["request"]);
    let refused = back_up(&engine(&place.db), &logical).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_read_only_engine_backs_up() {
    let place = place("CREATE TABLE t(a); INSERT INTO t VALUES (1);");
    let engine = engine_with(&place.db, SqliteOptions { read_only: true, ..SqliteOptions::default() });
    assert_eq!(back_up(&engine, &place.request()).await.unwrap().facts("t").rows, 1);
}

#[tokio::test]
async fn folders_of_the_dead_are_swept_and_of_the_living_not() {
    let place = place("CREATE TABLE t(a);");
    let dead = place.scratch.join(".dm-sqlite-snapshot-dead");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    let engine = engine(&place.db);
    let alive = engine.backup().unwrap().open(&ctx(), &place.request()).await.unwrap();
    assert!(!dead.exists());
    let second = engine.backup().unwrap().open(&ctx(), &place.request()).await.unwrap();
    assert_eq!(names(&place.scratch).len(), 2);
    drop((alive, second));
    crate::support::eventually("an empty scratch folder", || names(&place.scratch).is_empty()).await;
}
