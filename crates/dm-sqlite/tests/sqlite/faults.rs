//! Damage, cancellation, missing rights.

use std::path::Path;
use std::time::Duration;

use dm_core::{Block, Destination, Engine, ErrorKind, Level, Progress, ProgressSink};
use dm_sqlite::SqliteOptions;
use futures::StreamExt;
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{Place, back_up, bring_back, ctx, engine, engine_with, eventually, names, place};

const MANY: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b);
CREATE INDEX i ON t (a);
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000)
INSERT INTO t SELECT x, 'row number ' || x, zeroblob(200) FROM n;";

fn flip(block: &Block, at: usize) -> Block {
    let mut bytes = block.bytes().unwrap().to_vec();
    bytes[at] ^= 0x20;
    Block::data(block.offset(), bytes)
}

async fn compared_after(
    place: &Place,
    name: &str,
    change: impl Fn(&[Block]) -> Vec<Block>,
) -> dm_core::Comparison {
    let engine = engine(&place.db);
    let mut backup = back_up(&engine, &place.request()).await.unwrap();
    backup.blocks = change(&backup.blocks);
    bring_back(&engine, &backup, Destination::New(Some(name.into())), &[]).await.unwrap().1
}

#[tokio::test]
async fn one_changed_cell_is_found_by_the_digest_alone() {
    let place = place("CREATE TABLE t(a); INSERT INTO t VALUES ('needle'), ('hay');");
    let comparison = compared_after(&place, "x.db", |blocks| {
        let at = blocks[0].bytes().unwrap().windows(6).position(|w| w == b"needle").unwrap();
        vec![flip(&blocks[0], at)]
    })
    .await;
    assert!(!comparison.is_proven());
    let wrong: Vec<_> = comparison.tables.iter().filter(|t| !t.equal).map(|t| &*t.expected.table).collect();
    assert_eq!(wrong, ["t"]);
    assert!(comparison.checks.iter().all(|c| c.level < Level::Error), "the structure is sound");
}

#[tokio::test]
async fn a_corrupt_page_is_found_by_integrity_check() {
    let place = place(MANY);
    let comparison = compared_after(&place, "x.db", |blocks| {
        let mut blocks = blocks.to_vec();
        let mut bytes = blocks[1].bytes().unwrap().to_vec();
        bytes[40_960..45_056].fill(0xa5);
        blocks[1] = Block::data(blocks[1].offset(), bytes);
        blocks
    })
    .await;
    assert!(!comparison.is_proven());
    assert!(
        comparison.checks.iter().any(|c| c.level == Level::Error && c.check == "integrity_check"),
        "{:?}",
        comparison.checks
    );
}

#[tokio::test]
async fn an_index_that_lies_is_found() {
    let place = place("CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES ('needle');");
    let comparison = compared_after(&place, "x.db", |blocks| {
        let bytes = blocks[0].bytes().unwrap();
        let places: Vec<_> = (0..=bytes.len() - 6).filter(|i| &bytes[*i..i + 6] == b"needle").collect();
        assert_eq!(places.len(), 2, "the row and the index");
        vec![flip(&blocks[0], places[1])]
    })
    .await;
    assert!(comparison.checks.iter().any(|c| c.level == Level::Error), "{comparison:?}");
}

#[tokio::test]
async fn a_damaged_source_makes_no_good_backup() {
    let place = place(MANY);
    let mut bytes = std::fs::read(&place.db).unwrap();
    bytes[409_600..413_696].fill(0xa5);
    std::fs::write(&place.db, bytes).unwrap();
    let error = back_up(&engine(&place.db), &place.request()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.hint().unwrap().contains("last good backup"));
    eventually("an empty scratch folder", || names(&place.scratch).is_empty()).await;
}

/// Cancels at the n-th report of progress.
struct CancelAt(std::sync::atomic::AtomicU64, CancellationToken);

impl ProgressSink for CancelAt {
    fn report(&self, _: Progress) {
        if self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            self.1.cancel();
        }
    }
}

#[tokio::test]
async fn cancelled_while_copying_leaves_nothing() {
    for journal in ["WAL", "DELETE"] {
        let place = place(&format!("PRAGMA journal_mode={journal};{MANY}"));
        let token = CancellationToken::new();
        let ctx = ctx()
            .with_cancellation(token.clone())
            .with_progress(std::sync::Arc::new(CancelAt(2.into(), token)));
        let error = engine(&place.db).backup().unwrap().open(&ctx, &place.request()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{journal}");
        assert_eq!(names(&place.scratch), [""; 0]);
        assert_eq!(
            Connection::open(&place.db).unwrap().execute("INSERT INTO t VALUES (0, 0, 0)", []).unwrap(),
            1
        );
    }
}

#[tokio::test]
async fn cancelled_or_dropped_while_reading_leaves_nothing() {
    let place = place(MANY);
    let engine = engine(&place.db);
    let token = CancellationToken::new();
    let ctx = ctx().with_cancellation(token.clone());
    let session = engine.backup().unwrap().open(&ctx, &place.request()).await.unwrap();
    let member = session.members()[0].clone();
    let mut stream = session.read(&ctx, &member).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    token.cancel();
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(stream.next().await.is_none(), "the stream ends with its error");
    assert_eq!(session.finish(&ctx).await.unwrap_err().kind(), ErrorKind::Internal);
    drop(stream);
    eventually("an empty scratch folder", || names(&place.scratch).is_empty()).await;

    let session = engine.backup().unwrap().open(&crate::support::ctx(), &place.request()).await.unwrap();
    let stream = session.read(&crate::support::ctx(), &member).await.unwrap();
    drop(session);
    drop(stream);
    eventually("an empty scratch folder", || names(&place.scratch).is_empty()).await;
}

#[tokio::test]
async fn a_restore_that_fails_midway_is_discarded() {
    let place = place(MANY);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let (ctx, port) = (ctx(), engine.restore().unwrap());
    let request = crate::support::restore_request(Destination::New(Some("n.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    let session = port.open(&ctx, &request, &backup.manifest, &preview).await.unwrap();
    let member = backup.manifest.members[0].0.clone();
    let first = &backup.blocks[0];
    let block = |offset| dm_core::RestoreBlock { offset, bytes: first.bytes().unwrap().clone() };
    let failing = vec![Ok(block(0)), Err(dm_core::Error::corrupt("a pack is damaged"))];
    let error = session.write(&ctx, &member, Box::pin(futures::stream::iter(failing))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for wrong in [vec![Ok(block(1 << 40))], vec![Ok(block(4096)), Ok(block(0))], vec![Ok(block(u64::MAX))]] {
        let error = session.write(&ctx, &member, Box::pin(futures::stream::iter(wrong))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    session.discard(&ctx).await.unwrap();
    assert_eq!(place.listing(), ["shop.db"]);
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn deny_writes(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o555)).unwrap();
}

#[tokio::test]
async fn a_read_only_folder_is_said_before() {
    if is_root() {
        eprintln!("SKIPPED: root may write everywhere, so the read-only folder is not tried");
        return;
    }
    let place = place("CREATE TABLE t(a);");
    deny_writes(&place.scratch);
    let engine = engine(&place.db);
    let preflight = engine.backup().unwrap().preflight(&ctx(), &place.request()).await.unwrap();
    assert!(preflight.findings.iter().any(|f| f.level == Level::Error && f.message.contains("not writable")));
    let error = back_up(&engine, &place.request()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_locked_database_is_busy_after_the_timeout() {
    let place = place("CREATE TABLE t(a);");
    let other = Connection::open(&place.db).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() };
    let engine = engine_with(&place.db, options);
    let error = back_up(&engine, &place.request()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.is_retryable());
    assert_eq!(engine.ping(&ctx()).await.unwrap_err().kind(), ErrorKind::Busy);
    other.execute_batch("COMMIT").unwrap();
    back_up(&engine, &place.request()).await.unwrap();
}

#[tokio::test]
async fn a_wait_for_a_lock_hears_the_cancellation() {
    let place = place("CREATE TABLE t(a);");
    let other = Connection::open(&place.db).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = SqliteOptions { busy_timeout: Duration::from_secs(3600), ..SqliteOptions::default() };
    let engine = engine_with(&place.db, options);
    let ctx = ctx().with_timeout(Duration::from_millis(100));
    assert_eq!(engine.ping(&ctx).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_function_that_only_the_application_has_is_a_warning() {
    use rusqlite::functions::FunctionFlags;
    let place = place("CREATE TABLE plain(a); INSERT INTO plain VALUES (1);");
    let app = Connection::open(&place.db).unwrap();
    let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_UTF8;
    app.create_scalar_function("own", 1, flags, |c| c.get::<i64>(0)).unwrap();
    app.create_collation("MINE", |a, b| b.cmp(a)).unwrap();
    app.execute_batch(
        "CREATE TABLE t(a, b AS (own(a)) VIRTUAL, c TEXT COLLATE MINE UNIQUE); CREATE INDEX i ON t(own(a));
         INSERT INTO t (a, c) VALUES (1, 'x'), (2, 'y');",
    )
    .unwrap();
    drop(app);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    assert_eq!(backup.facts("t").rows, 2, "{:?}", backup.summary.warnings);
    let (_, comparison) = bring_back(&engine, &backup, Destination::New(None), &[]).await.unwrap();
    assert!(comparison.is_proven(), "{comparison:?}");
    assert!(comparison.checks.iter().any(|c| c.level == Level::Warning), "{comparison:?}");
}
