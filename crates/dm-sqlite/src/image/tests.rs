//! The judge is SQLite itself: what is read from pages must be what it says of the same file.

use std::path::PathBuf;

use dm_core::TableFacts;
use rusqlite::Connection;

use super::*;
use crate::facts::Frozen;

const KEY: [u8; 32] = [7; 32];

fn database(sql: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(sql).unwrap();
    (dir, path)
}

/// What the pages say, and what SQLite says.
fn both(path: &Path, table: &str, threads: usize) -> (Option<ContentDigest>, Result<Option<TableFacts>>) {
    let frozen = Frozen::open(path, threads).unwrap();
    let by_pages = Image::open(path).unwrap().and_then(|image| {
        let form = Form::of(frozen.connection(), table).ok().flatten()?;
        image.digest(&form, KEY, threads).unwrap()
    });
    (by_pages, frozen.by_sqlite(table, Some(KEY)))
}

fn assert_plain(path: &Path, table: &str) {
    for threads in [1, 3] {
        let (by_pages, by_sqlite) = both(path, table, threads);
        assert!(by_pages.is_some(), "{table} is read from its pages");
        assert_eq!(by_pages, by_sqlite.unwrap().unwrap().digest, "{table} with {threads} threads");
    }
}

const ZOO: &str = "
    CREATE TABLE alias (id INTEGER PRIMARY KEY, v TEXT);
    INSERT INTO alias VALUES (-9223372036854775808, 'least'), (-1, 'é'), (0, NULL), (9223372036854775807, 'most');
    CREATE TABLE named (a TEXT, id INTEGER, PRIMARY KEY (id));
    INSERT INTO named VALUES ('x', 300), ('y', 70000);
    CREATE TABLE descending (id INTEGER PRIMARY KEY DESC, v);
    INSERT INTO descending VALUES (5, 'five'), (NULL, 'none'), (7, 'seven');
    CREATE TABLE other_key (id INT PRIMARY KEY, v);
    INSERT INTO other_key VALUES (5, 1), (NULL, 2), ('text', 3);
    CREATE TABLE reals (a REAL, b DOUBLE PRECISION, c FLOATING POINT, d NUMERIC, e);
    INSERT INTO reals VALUES (1, 2, 3, 4, 5), (1.5, -0.0, 1e300, 9e999, -9e999), (1e15, 123456789012, 0, 1, 0.1),
        ('text', x'00', NULL, 'n', 7.0);
    CREATE TABLE numbers (n);
    INSERT INTO numbers VALUES (0), (1), (-1), (127), (128), (-128), (-129), (32767), (32768), (-32769), (8388607), (8388608), (-8388609),
        (2147483647), (2147483648), (-2147483649), (140737488355327), (140737488355328), (-140737488355329), (9223372036854775807), (-9223372036854775808);
    CREATE TABLE long (id INTEGER PRIMARY KEY, t TEXT, b BLOB);
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO long SELECT i, printf('%.*c', i * 37, 'x'), zeroblob(i * i) FROM n;
    INSERT INTO long VALUES (1000, 'a' || char(0) || 'b', x'ff00ff');
    CREATE TABLE many (id INTEGER PRIMARY KEY, v TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
        INSERT INTO many SELECT i * 3, 'row ' || i FROM n;
    DELETE FROM many WHERE id % 7 = 0;
    CREATE TABLE empty (a, b);
    CREATE TABLE strict_one (a INT, b REAL, c TEXT, d BLOB, e ANY) STRICT;
    INSERT INTO strict_one VALUES (1, 2, '3', x'04', 5), (1, 2.5, '', x'', '5');
    CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
    INSERT INTO counted (v) VALUES (1), (2);
    CREATE INDEX many_v ON many (v);";

#[test]
fn the_pages_say_what_sqlite_says() {
    for setting in [
        "",
        "PRAGMA page_size = 512;",
        "PRAGMA page_size = 65536;",
        "PRAGMA page_size = 1024; PRAGMA auto_vacuum = FULL;",
    ] {
        let (_dir, path) = database(&format!("{setting}{ZOO}"));
        for table in [
            "alias",
            "named",
            "descending",
            "other_key",
            "reals",
            "numbers",
            "long",
            "many",
            "empty",
            "strict_one",
            "counted",
            "sqlite_sequence",
        ] {
            assert_plain(&path, table);
        }
    }
}

#[test]
fn what_only_sqlite_knows_is_left_to_it() {
    let (_dir, path) = database(
        "CREATE TABLE added (a); INSERT INTO added VALUES (1); ALTER TABLE added ADD COLUMN b DEFAULT 'later';
         CREATE TABLE keyed (a PRIMARY KEY, b) WITHOUT ROWID; INSERT INTO keyed VALUES (1, 2);
         CREATE TABLE computed (a, b AS (a + 1) STORED, c AS (a + 2)); INSERT INTO computed VALUES (1);",
    );
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE large (a); INSERT INTO large VALUES (zeroblob(17000000));")
        .unwrap();
    for table in ["added", "keyed", "computed", "large", "sqlite_schema"] {
        let (by_pages, by_sqlite) = both(&path, table, 2);
        assert_eq!(by_pages, None, "{table}");
        assert!(by_sqlite.unwrap().unwrap().rows > 0);
    }
    let (_dir, path) =
        database("PRAGMA encoding = 'UTF-16le'; CREATE TABLE wide (a); INSERT INTO wide VALUES ('é');");
    assert!(Image::open(&path).unwrap().is_none());
    let facts = Frozen::open(&path, 2).unwrap().one("wide", Some(KEY)).unwrap().unwrap();
    assert_eq!(facts.rows, 1);
}

/// Numbers that look random, the same in every run (Knuth's MMIX).
fn numbers() -> impl Iterator<Item = usize> {
    let mut state = 42_u64;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).ok()
    })
}

#[test]
fn damage_is_never_read_differently() {
    let (dir, path) = database(
        "PRAGMA page_size = 512; CREATE TABLE t (id INTEGER PRIMARY KEY, a REAL, b TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
            INSERT INTO t SELECT i, i * 1.5, printf('%.*c', (i % 50) * 20, 'x') FROM n;",
    );
    let sound = std::fs::read(&path).unwrap();
    let (before, _) = both(&path, "t", 1);
    let (mut noticed, mut told_apart) = (0, 0);
    let mut random = numbers();
    for round in 0..300 {
        // Not in the first page: another definition would be another table. Every second time where a page says what is in it.
        let mut at = 512 + random.next().unwrap() % (sound.len() - 512);
        if round % 2 == 0 {
            at = at / 512 * 512 + at % 24;
        }
        let mut broken = sound.clone();
        broken[at] ^= 1 << (random.next().unwrap() % 8);
        let path = dir.path().join("broken.db");
        std::fs::write(&path, &broken).unwrap();
        let (by_pages, by_sqlite) = both(&path, "t", 1);
        match (by_pages, by_sqlite) {
            (None, _) => noticed += 1,
            (Some(by_pages), Ok(Some(facts))) => {
                assert_eq!(Some(by_pages), facts.digest, "round {round}: byte {at}");
                told_apart += u32::from(Some(by_pages) != before);
            }
            (Some(_), other) => panic!("round {round}: byte {at}: SQLite says {other:?}"),
        }
    }
    // Both ends of the judgement were met.
    assert!(noticed > 20 && told_apart > 50, "{noticed} left to SQLite, {told_apart} other contents");
}

#[test]
fn a_file_cut_short_is_left_to_sqlite() {
    let (_dir, path) = database(ZOO);
    let sound = std::fs::read(&path).unwrap();
    std::fs::write(&path, &sound[..sound.len() / 2 / 4096 * 4096]).unwrap();
    let (by_pages, by_sqlite) = both(&path, "many", 2);
    assert_eq!(by_pages, None);
    assert!(by_sqlite.is_err());
}
