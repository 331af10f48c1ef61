//! Points in time, proven by rows, and refused where the log does not reach.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use dm_core::{
    Engine, Error, ErrorKind, Level, LogReader as _, OpContext, QueryPort, RecoveryPoint, RestoreRequest,
    Restored, Statement, Value,
};
use dm_testkit::conformance::Collected;
use dm_testkit::postgres::Server;
use dm_testkit::require;
use futures::TryStreamExt as _;

use crate::physical_support::{
    SEGMENT, Started, TestLog, base_backup, clock, engine, folder, hand_over, options, position, preview,
    sealed, to,
};
use crate::support::context;

/// What happened on the source after the backup.
struct Story {
    backup: Collected,
    log: TestLog,
    /// Where the log ends.
    end: u64,
    /// Between the first and the second row.
    after_one: DateTime<Utc>,
    after_two: String,
    /// The transaction of the third row.
    third: String,
    /// Behind the last row; nothing was committed since.
    after_all: DateTime<Utc>,
}

async fn tell(server: &Server) -> Story {
    server.psql("CREATE TABLE event (n int)").await.expect("a table");
    let backup = base_backup(server).await;
    let (mut log, mut at) = TestLog::from(&backup);
    let insert = async |n: u32| {
        let sql = format!("BEGIN; INSERT INTO event VALUES ({n}); SELECT pg_current_xact_id(); COMMIT");
        server.psql(&sql).await.expect("a row")
    };
    insert(1).await;
    let after_one = clock(server).await;
    at = log.ship_from(server, at).await;
    insert(2).await;
    let after_two = server.psql("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    server.psql("SELECT pg_create_restore_point('after two')").await.expect("a restore point");
    at = log.ship_from(server, at).await;
    // Another segment.
    server.psql("SELECT pg_switch_wal()").await.expect("a switch");
    let third = insert(3).await;
    at = log.ship_from(server, at).await;
    insert(4).await;
    let after_all = clock(server).await;
    let end = log.ship_from(server, at).await;
    Story { backup, log, end, after_one, after_two, third, after_all }
}

fn request(story: &Story, path: &Path, until: RecoveryPoint) -> RestoreRequest {
    RestoreRequest { until, log: Some(Arc::new(story.log.clone())), ..to(path) }
}

/// The rows that are there, asked through the port.
async fn rows(ctx: &OpContext, query: &dyn QueryPort) -> String {
    let text = "SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') AS rows FROM event";
    let rows: Vec<_> =
        query.query(ctx, Statement::new(text)).await.expect("a query").try_collect().await.expect("rows");
    match rows[0].get("rows") {
        Some(Value::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Restores to a point and gives the rows; the place is discarded.
async fn rows_at(
    engine: &dyn Engine,
    story: &Story,
    until: RecoveryPoint,
    exclusive: bool,
) -> Result<String, Error> {
    let home = folder();
    let data = home.path().join("restored");
    let asked = RestoreRequest { exclusive, ..request(story, &data, until) };
    let ctx = context();
    let session = sealed(&ctx, engine, &story.backup, &asked, &AtomicU64::new(0)).await?;
    let query = session.statements(&ctx).await.expect("statements").expect("a server");
    let rows = rows(&ctx, query.as_ref()).await;
    session.discard(&ctx).await.expect("it is removed");
    assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 0, "nothing is left");
    Ok(rows)
}

async fn points(major: u32) {
    let server = require!(Server::private(major, &options(major)));
    let story = tell(&server).await;
    let engine = engine(&server);
    let at = |until| rows_at(&engine, &story, until, false);
    let without = |until| rows_at(&engine, &story, until, true);
    use RecoveryPoint as Point;
    assert_eq!(at(Point::Backup).await.expect("the backup"), "");
    assert_eq!(at(Point::Time(story.after_one)).await.expect("a time"), "1");
    assert_eq!(at(Point::Position(story.after_two.clone())).await.expect("a position"), "1,2");
    assert_eq!(at(Point::Name("after two".into())).await.expect("a name"), "1,2");
    assert_eq!(at(Point::Transaction(story.third.clone())).await.expect("a transaction"), "1,2,3");
    assert_eq!(without(Point::Transaction(story.third.clone())).await.expect("before it"), "1,2");
    assert_eq!(at(Point::End).await.expect("the end"), "1,2,3,4");
    // No commit lies behind these: PostgreSQL by itself calls the log too short.
    assert_eq!(at(Point::Time(story.after_all)).await.expect("an idle time"), "1,2,3,4");
    let end = format!("{:X}/{:X}", story.end >> 32, story.end & 0xFFFF_FFFF);
    assert_eq!(at(Point::Position(end)).await.expect("the last position"), "1,2,3,4");
    // Searched for in vain.
    for missing in [Point::Name("never".into()), Point::Transaction("4000000".into())] {
        let error = at(missing).await.expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains("it came to"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_point_has_the_rows_up_to_it_15() {
    points(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_point_has_the_rows_up_to_it_18() {
    points(18).await;
}

/// What stands in the way of a point, one text.
async fn refusal(engine: &dyn Engine, story: &Story, asked: &RestoreRequest) -> Option<String> {
    let looked = preview(engine, &story.backup, asked).await;
    let errors: Vec<_> = looked.findings.iter().filter(|f| f.level == Level::Error).collect();
    if errors.is_empty() {
        return None;
    }
    let target = engine.restore().expect("a target");
    let opened = target.open(&context(), asked, &story.backup.manifest(), &looked).await;
    assert!(opened.is_err(), "what was refused is not opened");
    Some(errors.iter().map(|f| format!("{}; {}", f.message, f.mend.clone().unwrap_or_default())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_the_log_does_not_cover_is_refused_with_what_it_covers() {
    let server = require!(Server::private(15, &options(15)));
    let mut story = tell(&server).await;
    let engine = engine(&server);
    let home = folder();
    let data = home.path().join("restored");
    use RecoveryPoint as Point;
    let last = story.log.spans().last().expect("a span").last_at;
    let window = last.format("%Y-%m-%dT%H:%M:%S").to_string();
    for (until, word) in [
        (Point::Time(last + Duration::seconds(1)), "after the end"),
        (Point::Time(story.backup.source.consistency.at - Duration::seconds(1)), "before the backup"),
        (Point::Position("0/1000000".into()), "before the backup"),
        (Point::Position("FF/0".into()), "after the end"),
    ] {
        let told = refusal(&engine, &story, &request(&story, &data, until.clone())).await.expect("a refusal");
        assert!(told.contains(word), "{until}: {told}");
        if word == "after the end" {
            assert!(told.contains(&window) && told.contains("0/"), "{told}");
        }
    }
    let without = RestoreRequest { log: None, ..request(&story, &data, Point::End) };
    assert!(refusal(&engine, &story, &without).await.expect("a refusal").contains("needs the log"));
    for until in [Point::Backup, Point::End, Point::Name("after two".into())] {
        let asked = RestoreRequest { exclusive: true, ..request(&story, &data, until) };
        assert!(refusal(&engine, &story, &asked).await.is_some());
    }
    let asked = request(&story, &data, Point::Time(story.after_one));
    let looked = preview(&engine, &story.backup, &asked).await;
    assert_eq!(looked.reaches.expect("it is known").at, story.after_one);

    // A hole between the second and the third row.
    let hole = story.log.pieces.iter().position(|p| p.start >= position(&story.after_two)).expect("a piece");
    let missing = story.log.pieces.remove(hole);
    story.log.describe();
    for until in [Point::End, Point::Time(story.after_all), Point::Time(missing.sealed_at)] {
        let told = refusal(&engine, &story, &request(&story, &data, until.clone())).await;
        let told = told.unwrap_or_else(|| panic!("{until} is refused"));
        let start = format!("{:X}/{:X}", missing.start >> 32, missing.start & 0xFFFF_FFFF);
        assert!(told.contains("missing") && told.contains(&start), "{told}");
    }
    // Before it, everything is as it was.
    assert_eq!(rows_at(&engine, &story, Point::Time(story.after_one), false).await.expect("a time"), "1");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_never_taken_for_its_end() {
    let server = require!(Server::private(15, &options(15)));
    let mut story = tell(&server).await;
    let engine = engine(&server);
    // A bit in the piece that holds the third row.
    let at = story.log.pieces.iter().position(|p| p.start >= position(&story.after_two)).expect("a piece");
    let last = story.log.pieces.len() - 1;
    assert!(at < last);
    let piece = &mut story.log.pieces[at + 1];
    let mut bytes = piece.bytes.to_vec();
    let whole = piece.start.is_multiple_of(SEGMENT);
    let middle = if whole { 40 + 24 } else { bytes.len() / 2 };
    bytes[middle] ^= 0x10;
    piece.bytes = Bytes::from(bytes);
    for until in [RecoveryPoint::End, RecoveryPoint::Time(story.after_all)] {
        let error = rows_at(&engine, &story, until, false).await.expect_err("it is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.to_string().contains("damaged at"), "{error}");
    }
    assert_eq!(
        rows_at(&engine, &story, RecoveryPoint::Time(story.after_one), false).await.expect("a time"),
        "1"
    );
}

/// Restores the story to the first row, opens it there, and writes on: a second timeline, shipped to the same log.
async fn second_timeline(server: &Server, engine: &dyn Engine, story: &mut Story, data: &Path) -> Started {
    let asked = request(story, data, RecoveryPoint::Time(story.after_one));
    let ctx = context();
    let session = sealed(&ctx, engine, &story.backup, &asked, &AtomicU64::new(0)).await.expect("a restore");
    let Restored { reached, .. } = session.release(&ctx).await.expect("a release");
    let branch = position(&reached.expect("it is known").position.expect("a position"));
    let started = Started::new(server, data);
    started.psql("INSERT INTO event VALUES (20)");
    let end = position(&started.psql("SELECT pg_current_wal_flush_lsn()"));
    let history = fs::read(data.join("pg_wal/00000002.history")).expect("a history");
    story.log.ship(2, branch / SEGMENT * SEGMENT, data, end, clock(server).await).await;
    story.log.histories.insert(2, history.into());
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_on_along_the_newest_timeline_or_the_one_that_is_named() {
    let server = require!(Server::private(15, &options(15)));
    let mut story = tell(&server).await;
    let engine = engine(&server);
    let home = folder();
    let data = home.path().join("second");
    let _second = second_timeline(&server, &engine, &mut story, &data).await;
    assert_eq!(rows_at(&engine, &story, RecoveryPoint::End, false).await.expect("the newest"), "1,20");

    let third = home.path().join("third");
    let mut asked = request(&story, &third, RecoveryPoint::End);
    asked.settings.insert("timeline".into(), "current".into());
    let ctx = context();
    let session = sealed(&ctx, &engine, &story.backup, &asked, &AtomicU64::new(0)).await.expect("a restore");
    let restored = session.release(&ctx).await.expect("a release");
    assert_eq!(restored.reached.expect("it is known").timeline.as_deref(), Some("1"));
    let started = Started::new(&server, &third);
    assert_eq!(started.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM event"), "1,2,3,4");
    // The number two is taken.
    assert_eq!(started.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "3");

    // Without its record nobody can tell what the second timeline is.
    let history = story.log.histories.remove(&2).expect("it was there");
    let told = refusal(&engine, &story, &request(&story, &home.path().join("x"), RecoveryPoint::End)).await;
    assert!(told.as_deref().is_some_and(|t| t.contains("history of timeline 2 was not shipped")), "{told:?}");
    // A timeline that branched off before the backup is none of its future.
    let early = String::from_utf8(history.to_vec()).expect("text");
    let before = early.split('\t').nth(1).expect("a position").to_owned();
    story.log.histories.insert(2, early.replace(&before, "0/1000000").into());
    let mut asked = request(&story, &home.path().join("x"), RecoveryPoint::End);
    asked.settings.insert("timeline".into(), "2".into());
    let told = refusal(&engine, &story, &asked).await;
    assert!(told.as_deref().is_some_and(|t| t.contains("does not go on from the backup")), "{told:?}");
    assert_eq!(rows_at(&engine, &story, RecoveryPoint::End, false).await.expect("its own"), "1,2,3,4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_the_log_makes_in_the_sources_place_is_refused() {
    let server = require!(Server::private(15, &options(15)));
    let mut story = tell(&server).await;
    let live = server.data_dir().with_file_name("space");
    fs::create_dir(&live).expect("a folder");
    hand_over(server.data_dir(), &live);
    // Recovery to an instant ends at the first commit behind it: without one the record of the tablespace is still in.
    server.psql("INSERT INTO event VALUES (5)").await.expect("a row");
    server
        .psql(&format!("CREATE TABLESPACE late LOCATION '{}'", live.display()))
        .await
        .expect("a tablespace");
    server
        .psql("CREATE TABLE there (n int) TABLESPACE late; INSERT INTO event VALUES (6)")
        .await
        .expect("a row");
    let from = story.end;
    story.log.ship_from(&server, from).await;
    let engine = engine(&server);
    let error = rows_at(&engine, &story, RecoveryPoint::End, false).await.expect_err("it would write there");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains(&live.display().to_string()), "{error}");
    assert_eq!(
        rows_at(&engine, &story, RecoveryPoint::Time(story.after_all), false).await.expect("before it"),
        "1,2,3,4"
    );
}
