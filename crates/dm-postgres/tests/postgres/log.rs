//! The log followed through SQL, compared with the server's own files byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_core::{
    Engine, EngineId, ErrorKind, Level, LogEvent, LogName, LogPosition, LogRequest, LogSession, LogSource,
    Secret,
};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::postgres::{Options, Place, Server, StopMode};
use dm_testkit::require;
use futures::TryStreamExt;

use crate::support::context;

const MAJORS: [u32; 2] = [15, 18];
const SEGMENT: u64 = 1 << 20;

/// Small segments, kept only as long as a slot or a checkpoint asks for.
fn options(major: u32) -> Options {
    let mut options = Options::physical(major)
        .with_setting("max_wal_size", "4MB")
        .with_setting("min_wal_size", "2MB")
        .with_setting("wal_keep_size", "0")
        .with_setting("checkpoint_timeout", "1h")
        .with_setting("autovacuum", "off");
    options.initdb_args.push("--wal-segsize=1".to_owned());
    options
}

fn source_at(url: &str) -> Arc<dyn LogSource> {
    let id = EngineId::new("main").expect("a name");
    PostgresEngine::connect(id, &Secret::new(url), PostgresOptions::default())
        .expect("a url")
        .log()
        .expect("a log")
}

fn source(server: &Server) -> Arc<dyn LogSource> {
    source_at(&server.url("postgres"))
}

/// Everything at once, asked for often.
fn eager(from: Option<LogPosition>) -> LogRequest {
    LogRequest { from, poll: Duration::from_millis(20), seal: Duration::ZERO, ..LogRequest::default() }
}

/// What was handed over, put together by timeline.
#[derive(Debug, Default)]
struct Taken {
    /// By timeline: where it begins and its bytes. A gap begins a new one.
    stretches: Vec<(u32, u64, Vec<u8>)>,
    histories: BTreeMap<u32, Vec<u8>>,
    gaps: Vec<(u32, u64, u64)>,
    sealed: Vec<chrono::DateTime<chrono::Utc>>,
}

impl Taken {
    fn take(&mut self, event: LogEvent) -> Option<LogPosition> {
        match event {
            LogEvent::Idle { .. } => None,
            LogEvent::History { timeline, bytes } => {
                self.histories.insert(timeline, bytes.to_vec());
                None
            }
            LogEvent::Gap { timeline, missing, .. } => {
                self.gaps.push((timeline, missing.start, missing.end));
                Some(LogPosition { timeline, offset: missing.end })
            }
            LogEvent::Piece(piece) => {
                assert_eq!(
                    piece.start / SEGMENT,
                    (piece.end() - 1) / SEGMENT,
                    "a piece crosses a border: {:X}",
                    piece.start
                );
                self.sealed.push(piece.sealed_at);
                let end = LogPosition { timeline: piece.timeline, offset: piece.end() };
                match self.stretches.last_mut() {
                    Some((timeline, start, bytes))
                        if *timeline == piece.timeline && *start + bytes.len() as u64 == piece.start =>
                    {
                        bytes.extend_from_slice(&piece.bytes);
                    }
                    last => {
                        let after_gap = self.gaps.last().is_some_and(|g| g.2 == piece.start);
                        let new_timeline = last.is_none_or(|l| l.0 != piece.timeline);
                        assert!(after_gap || new_timeline, "a hole before {:X}", piece.start);
                        self.stretches.push((piece.timeline, piece.start, piece.bytes.to_vec()));
                    }
                }
                Some(end)
            }
        }
    }

    fn position(&self) -> LogPosition {
        let (timeline, start, bytes) = self.stretches.last().expect("something was taken");
        LogPosition { timeline: *timeline, offset: start + bytes.len() as u64 }
    }

    /// Takes until the server had nothing more and the log reaches this place.
    async fn until(&mut self, session: &mut dyn LogSession, goal: LogPosition) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "{goal} is not reached: {:?}", self.position());
            if let Some(position) = self.take(session.next(&context()).await.expect("an event")) {
                session.confirm(&context(), position).await.expect("a confirmation");
            }
            if !self.stretches.is_empty() && self.position() >= goal {
                return;
            }
        }
    }

    /// Compares every whole segment that the server still has, and what there is of the last one; gives how many.
    fn compare(&self, pg_wal: &Path) -> usize {
        let mut compared = 0;
        for (timeline, start, bytes) in &self.stretches {
            let end = start + bytes.len() as u64;
            let mut at = *start;
            while at < end {
                let segment = at / SEGMENT;
                let to = end.min((segment + 1) * SEGMENT);
                let name = name(*timeline, at);
                if let Ok(file) = std::fs::read(pg_wal.join(&name)) {
                    let of = (at - segment * SEGMENT) as usize..(to - segment * SEGMENT) as usize;
                    let ours = &bytes[(at - start) as usize..(to - start) as usize];
                    assert!(file[of] == *ours, "{name} differs");
                    compared += 1;
                }
                at = to;
            }
        }
        compared
    }
}

fn name(timeline: u32, at: u64) -> String {
    let segment = at / SEGMENT;
    format!("{timeline:08X}{:08X}{:08X}", segment / 4096, segment % 4096)
}

fn pg_wal(server: &Server) -> PathBuf {
    server.data_dir().join("pg_wal")
}

async fn end(source: &dyn LogSource) -> LogPosition {
    source.head(&context(), "dm_log").await.expect("a head").end
}

/// Some megabytes of log, with a switch of segments in between.
async fn write(server: &Server, table: &str) {
    server
        .psql(&format!(
            "CREATE TABLE {table} AS SELECT i, repeat(md5(i::text), 4) AS t FROM generate_series(1, 15000) i;
             SELECT pg_switch_wal();
             INSERT INTO {table} SELECT i, 'x' FROM generate_series(1, 2000) i;
             SET synchronous_commit = on; INSERT INTO {table} VALUES (0, 'the last')"
        ))
        .await
        .expect("some writing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shipped_is_the_servers_own_bytes() {
    for major in MAJORS {
        let server = require!(Server::private(major, &options(major)));
        let source = source(&server);
        let stream = source.stream_id(&context()).await.expect("an id");
        let said = server.psql("SELECT system_identifier FROM pg_control_system()").await.expect("an id");
        assert_eq!(stream, said);
        let before = chrono::Utc::now();
        let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
        let mut taken = Taken::default();
        for round in 0..3 {
            write(&server, &format!("t{round}")).await;
            let goal = end(source.as_ref()).await;
            taken.until(session.as_mut(), goal).await;
            // Everything that is there now, compared before the server recycles it.
            assert!(taken.compare(&pg_wal(&server)) >= 2);
        }
        assert_eq!(taken.stretches.len(), 1);
        assert!(taken.stretches[0].2.len() as u64 > 5 * SEGMENT);
        assert!(taken.sealed.is_sorted(), "{:?}", taken.sealed);
        assert!(*taken.sealed.last().expect("a piece") >= before);
        // The slot follows, and the server recycles behind it.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let position = taken.position();
            session.confirm(&context(), position).await.expect("a confirmation");
            let kept = source.head(&context(), "dm_log").await.expect("a head").holder.expect("a slot");
            assert!(kept.in_use && !kept.lost);
            if kept.kept_bytes < 4096 {
                break;
            }
            assert!(Instant::now() < deadline, "the slot stays behind: {kept:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Somebody else may not, as long as we do.
        let other = source_at(&server.url("template1"));
        let error = other.follow(&context(), &eager(None)).await.err().expect("it is in use");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(
            source.drop_holder(&context(), "dm_log").await.expect_err("in use").kind(),
            ErrorKind::Busy
        );
        drop(session);
        let deadline = Instant::now() + Duration::from_secs(10);
        let dropped = loop {
            match source.drop_holder(&context(), "dm_log").await {
                Ok(dropped) => break dropped,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
        };
        assert!(dropped);
        assert!(!source.drop_holder(&context(), "dm_log").await.expect("nothing to do"));
        // And from where we were, another session goes on: in small pieces, the same bytes.
        write(&server, "more").await;
        let small = LogRequest { piece_bytes: 100_000, ..eager(Some(taken.position())) };
        let mut session = source.follow(&context(), &small).await.expect("a session");
        let goal = end(source.as_ref()).await;
        taken.until(session.as_mut(), goal).await;
        assert_eq!((taken.stretches.len(), taken.gaps.len()), (1, 0));
        taken.compare(&pg_wal(&server));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_changes_wait_for_their_piece_to_grow() {
    let server = require!(Server::private(15, &options(15)));
    let source = source(&server);
    let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
    let mut taken = Taken::default();
    taken.until(session.as_mut(), end(source.as_ref()).await).await;
    drop(session);
    let patient = LogRequest { seal: Duration::from_secs(3600), ..eager(Some(taken.position())) };
    let mut session = loop {
        match source.follow(&context(), &patient).await {
            Ok(session) => break session,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
        }
    };
    server.psql("CREATE TABLE small (i int)").await.expect("a table");
    let first = session.next(&context()).await.expect("an event");
    for _ in 0..5 {
        // It waits, and says up to when everything was handed over: before the change.
        assert_eq!(session.next(&context()).await.expect("an event"), first);
        assert!(matches!(first, LogEvent::Idle { .. }), "{first:?}");
    }
    // A full segment does not wait.
    write(&server, "large").await;
    let mut events = Vec::new();
    for _ in 0..50 {
        events.push(session.next(&context()).await.expect("an event"));
    }
    let last =
        events.iter().rev().find_map(|e| if let LogEvent::Piece(p) = e { Some(p.end()) } else { None });
    assert!(last.is_some_and(|end| end % SEGMENT == 0), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_leaves_no_gap() {
    for major in MAJORS {
        let server = require!(Server::private(major, &options(major)));
        let source = source(&server);
        let mut taken = Taken::default();
        let mut from = None;
        for mode in [StopMode::Fast, StopMode::Immediate, StopMode::Fast] {
            let mut session = source.follow(&context(), &eager(from)).await.expect("a session");
            write(&server, &format!("t{}", taken.sealed.len())).await;
            taken.until(session.as_mut(), end(source.as_ref()).await).await;
            server.psql("CHECKPOINT").await.expect("a checkpoint");
            server.restart(mode).expect("a restart");
            let error = loop {
                match session.next(&context()).await {
                    Ok(event) => drop(taken.take(event)),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
            from = Some(taken.position());
        }
        let mut session = source.follow(&context(), &eager(from)).await.expect("a session");
        taken.until(session.as_mut(), end(source.as_ref()).await).await;
        assert_eq!((taken.stretches.len(), taken.gaps.len()), (1, 0));
        taken.compare(&pg_wal(&server));
    }
}

/// PostgreSQL 18 gives up slots that nobody uses, at a checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_idle_only_while_nobody_follows_and_is_made_anew() {
    let options = options(18).with_setting("idle_replication_slot_timeout", "2s");
    let server = require!(Server::private(18, &options));
    let source = source(&server);
    let mut taken = Taken::default();
    let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
    write(&server, "first").await;
    taken.until(session.as_mut(), end(source.as_ref()).await).await;
    let lost = async || source.head(&context(), "dm_log").await.expect("a head").holder.expect("a slot").lost;
    // Nothing happens, and the slot is kept alive all the same.
    let quiet_until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < quiet_until {
        if let Some(position) = taken.take(session.next(&context()).await.expect("an event")) {
            session.confirm(&context(), position).await.expect("a confirmation");
        }
    }
    server.psql("CHECKPOINT").await.expect("a checkpoint");
    assert!(!lost().await, "the slot was given up although it is followed");
    drop(session);
    server
        .until(
            "the slot to be idle",
            "SELECT inactive_since < now() - interval '2.5 s' FROM pg_replication_slots",
        )
        .await
        .expect("idleness");
    server.psql("CHECKPOINT").await.expect("a checkpoint");
    assert!(lost().await, "the server gives up what nobody follows");
    // The log is still there: nothing is missing, and it is held again.
    write(&server, "second").await;
    let mut session = source.follow(&context(), &eager(Some(taken.position()))).await.expect("a session");
    taken.until(session.as_mut(), end(source.as_ref()).await).await;
    assert!(!lost().await);
    assert_eq!((taken.stretches.len(), taken.gaps.len()), (1, 0), "{:?}", taken.gaps);
    taken.compare(&pg_wal(&server));
}

/// A restore to an instant fetches the log up to the first piece that was sealed after it: a piece that claims too late an
/// instant would end it short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shipper_that_was_away_claims_nothing_that_it_has_not_handed_over() {
    let server = require!(Server::private(15, &options(15)));
    let source = source(&server);
    let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
    let mut taken = Taken::default();
    taken.until(session.as_mut(), end(source.as_ref()).await).await;
    drop(session);
    let mut commits = Vec::new();
    for round in 0..4 {
        write(&server, &format!("t{round}")).await;
        let lsn = end(source.as_ref()).await.offset;
        commits.push((lsn, chrono::Utc::now()));
    }
    // The server tells the time of its checkpoint in whole seconds.
    server.psql("SELECT pg_sleep(1.1)").await.expect("a pause");
    server.psql("CHECKPOINT").await.expect("a checkpoint");
    let goal = end(source.as_ref()).await;
    for complete_until in [None, taken.sealed.last().copied()] {
        let small = LogRequest { piece_bytes: 100_000, complete_until, ..eager(Some(taken.position())) };
        let mut session = loop {
            match source.follow(&context(), &small).await {
                Ok(session) => break session,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
            }
        };
        let (mut sealed, mut position) = (Vec::new(), 0);
        while position < goal.offset {
            match session.next(&context()).await.expect("an event") {
                LogEvent::Piece(piece) => {
                    position = piece.end();
                    sealed.push((position, piece.sealed_at));
                }
                LogEvent::Idle { at } => sealed.push((position.max(taken.position().offset), at)),
                event => panic!("{event:?}"),
            }
        }
        assert!(sealed.len() > 20 && sealed.is_sorted_by_key(|s| s.1), "{sealed:?}");
        for (end, at) in sealed {
            let missing = commits.iter().find(|(lsn, confirmed)| *confirmed <= at && *lsn > end);
            assert!(missing.is_none(), "sealed at {at} up to {end:X}, without {missing:X?}");
        }
    }
}

/// Makes the server recycle what no slot holds.
async fn recycle(server: &Server) {
    for _ in 0..4 {
        server
            .psql(
                "CREATE TABLE IF NOT EXISTS churn (t text);
                 INSERT INTO churn SELECT repeat(md5(i::text), 8) FROM generate_series(1, 8000) i;
                 SELECT pg_switch_wal(); CHECKPOINT",
            )
            .await
            .expect("some churn");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_dropped_by_hand_is_a_gap_and_is_made_anew() {
    for major in MAJORS {
        let server = require!(Server::private(major, &options(major)));
        let source = source(&server);
        let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
        let mut taken = Taken::default();
        write(&server, "first").await;
        taken.until(session.as_mut(), end(source.as_ref()).await).await;
        let before = taken.position();
        server.psql("SELECT pg_drop_replication_slot('dm_log')").await.expect("a drop");
        recycle(&server).await;
        assert!(!pg_wal(&server).join(name(1, before.offset)).exists(), "the log is gone");
        let goal = end(source.as_ref()).await;
        taken.until(session.as_mut(), goal).await;
        let [(1, start, until)] = taken.gaps[..] else { panic!("{:?}", taken.gaps) };
        assert_eq!(start, before.offset);
        assert_eq!(until % SEGMENT, 0, "log begins again with a segment");
        assert_eq!(taken.stretches.len(), 2);
        assert_eq!(taken.stretches[1].1, until);
        assert!(taken.compare(&pg_wal(&server)) >= 1);
        assert!(source.head(&context(), "dm_log").await.expect("a head").holder.expect("a slot").in_use);
        // A shipper that comes back after a drop without loss finds all of it.
        drop(session);
        let mut session = loop {
            match source.follow(&context(), &eager(Some(taken.position()))).await {
                Ok(session) => break session,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
            }
        };
        server.psql("SELECT pg_drop_replication_slot('dm_log')").await.expect("a drop");
        server.psql("CREATE TABLE after_the_drop (i int)").await.expect("a table");
        taken.until(session.as_mut(), end(source.as_ref()).await).await;
        assert_eq!(taken.gaps.len(), 1, "nothing was missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recycled_file_is_never_taken_for_the_log() {
    let server = require!(Server::private(15, &options(15)));
    recycle(&server).await;
    let source = source(&server);
    let now = end(source.as_ref()).await;
    // Files of the future hold the past.
    let mut future: Vec<PathBuf> = std::fs::read_dir(pg_wal(&server))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .filter(|p| {
            p.file_name().is_some_and(|n| n.len() == 24 && *n.to_string_lossy() > *name(1, now.offset))
        })
        .collect();
    future.sort();
    let recycled = future.first().expect("the server recycles");
    let error = source.read_file(&context(), recycled).await.expect_err("it is not what its name says");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    // The one being written to is recycled too, behind the end of the log.
    let current = pg_wal(&server).join(name(1, now.offset));
    let file = source.read_file(&context(), &current).await.expect("its first page is right");
    let error = file.events.try_collect::<Vec<_>>().await.expect_err("the rest is not");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    // Following ends where the log does.
    let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
    let mut taken = Taken::default();
    taken.until(session.as_mut(), now).await;
    assert!(taken.position().offset <= end(source.as_ref()).await.offset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_an_archive_command_are_read_without_a_connection() {
    let server = require!(Server::private(18, &options(18)));
    write(&server, "t").await;
    server.psql("SELECT pg_backup_start('x', true); SELECT pg_backup_stop(false)").await.ok();
    let segment = server.psql("SELECT pg_walfile_name(pg_switch_wal())").await.expect("a name");
    server.psql("CREATE TABLE u (i int); SELECT pg_switch_wal()").await.expect("a switch");
    let source = source(&server);
    let stream = source.stream_id(&context()).await.expect("an id");
    let path = pg_wal(&server).join(&segment);
    let own = std::fs::read(&path).expect("the file");
    server.stop(StopMode::Fast).expect("a stop");
    let file = source.read_file(&context(), &path).await.expect("a file");
    assert_eq!(file.stream, stream);
    let events: Vec<LogEvent> = file.events.try_collect().await.expect("its pieces");
    let [LogEvent::Piece(piece)] = &events[..] else { panic!("{events:?}") };
    assert!(piece.bytes == own);
    assert_eq!(name(piece.timeline, piece.start), segment);
    let located = source.locate(&segment, Some(&own)).expect("a place");
    assert_eq!(located, LogName::Bytes { timeline: 1, range: piece.start..piece.end() });
    // Under another's name it is refused; cut short, not there, not a name of the server's: each by its kind.
    let place = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    for (path, kind) in [
        (write("000000010000000000000FFF", &own), ErrorKind::Corrupt),
        (write(&segment, &own[..own.len() / 2]), ErrorKind::Corrupt),
        (write("000000010000000000000001", b"short"), ErrorKind::Corrupt),
        (write("notes.txt", b"x"), ErrorKind::Invalid),
        (write("00000002.history", b"what"), ErrorKind::Corrupt),
        (place.path().join("000000010000000000000009"), ErrorKind::NotFound),
    ] {
        let error = source.read_file(&context(), &path).await.expect_err("no such log");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    // A backup's note is a file of the server's that no restore needs.
    let note = pg_wal(&server).join(format!("{segment}.00000028.backup"));
    std::fs::write(&note, b"START WAL LOCATION").expect("a note");
    let file = source.read_file(&context(), &note).await.expect("a note");
    assert_eq!(file.stream, stream);
    assert!(file.events.try_collect::<Vec<_>>().await.expect("nothing").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_grants_are_enough_and_are_named_when_missing() {
    let server = require!(Server::private(15, &options(15)));
    let role = server.role("shipper", "").await.expect("a role");
    let url = format!("postgres://{}:{}@127.0.0.1:{}/postgres", role.name, role.password, server.port());
    let poor = source_at(&url);
    let request = eager(None);
    let errors = |findings: Vec<dm_core::Finding>| -> Vec<dm_core::Finding> {
        findings.into_iter().filter(|f| f.level == Level::Error).collect()
    };
    let found = errors(poor.preflight(&context(), &request).await.expect("a look"));
    assert_eq!(found.len(), 1, "{found:?}");
    // What it says is what mends it.
    let mend = found[0].mend.clone().expect("a mend");
    let grants = mend.split_once(": ").expect("statements").1.to_owned();
    assert_eq!(grants.matches("GRANT EXECUTE").count(), 3, "{grants}");
    server.psql(&grants).await.expect("grants");
    let findings = poor.preflight(&context(), &request).await.expect("a look");
    assert!(findings.iter().any(|f| f.level == Level::Warning && f.check == "holder"), "{findings:?}");
    assert!(errors(findings).is_empty());
    // Without a slot it works, as long as the server keeps the log.
    let mut session = poor.follow(&context(), &request).await.expect("a session");
    let mut taken = Taken::default();
    write(&server, "t").await;
    taken.until(session.as_mut(), end(poor.as_ref()).await).await;
    assert_eq!(server.psql("SELECT count(*) FROM pg_replication_slots").await.expect("a number"), "0");
    recycle(&server).await;
    taken.until(session.as_mut(), end(poor.as_ref()).await).await;
    taken.compare(&pg_wal(&server));
    assert_eq!(taken.gaps.len(), 1, "nothing held it");
    for bad in ["Bad", "", "a-b"] {
        let request = LogRequest { holder: bad.into(), ..eager(None) };
        assert_eq!(
            poor.preflight(&context(), &request).await.expect_err("a name").kind(),
            ErrorKind::Invalid
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_followed_to_the_end_of_the_old_and_onto_the_new_timeline() {
    for major in MAJORS {
        let primary = require!(Server::private(major, &options(major)));
        let place = require!(Place::new("log-standby"));
        let standby = require!(primary.standby(&place.join("standby"), &options(major)).await);
        let source = source(&standby);
        let mut session = source.follow(&context(), &eager(None)).await.expect("a session on a standby");
        let mut taken = Taken::default();
        write(&primary, "before").await;
        standby.until_caught_up(&primary).await.expect("it streams");
        let goal = end(source.as_ref()).await;
        taken.until(session.as_mut(), goal).await;
        assert!(taken.compare(&pg_wal(&primary)) >= 1, "a standby's log is the primary's");
        // The last commits before the promotion are of the old timeline.
        primary.psql("CREATE TABLE last_words AS SELECT generate_series(1, 500) i").await.expect("a table");
        standby.until_caught_up(&primary).await.expect("it streams");
        primary.stop(StopMode::Immediate).expect("a stop");
        standby.promote().expect("a promotion");
        write(&standby, "after").await;
        let goal = end(source.as_ref()).await;
        assert_eq!(goal.timeline, 2);
        taken.until(session.as_mut(), goal).await;
        assert!(taken.gaps.is_empty(), "{:?}", taken.gaps);
        let timelines: Vec<u32> = taken.stretches.iter().map(|s| s.0).collect();
        assert_eq!(timelines, [1, 2]);
        let own = std::fs::read(pg_wal(&standby).join("00000002.history")).expect("a history");
        assert_eq!(taken.histories.get(&2), Some(&own));
        let text = String::from_utf8(own).expect("text");
        let switch = text.split_whitespace().nth(1).expect("a place");
        let (high, low) = switch.split_once('/').expect("a place");
        let number = |t: &str| u64::from_str_radix(t, 16).expect("a number");
        let switch = (number(high) << 32) | number(low);
        let (_, start, bytes) = &taken.stretches[0];
        assert_eq!(start + bytes.len() as u64, switch, "the old timeline to its very end");
        assert_eq!(taken.stretches[1].1, switch - switch % SEGMENT, "the new one from its first segment");
        assert!(taken.compare(&pg_wal(&standby)) >= 2);
        // Who comes later, from the old timeline, finds the same way.
        drop(session);
        let from = LogPosition { timeline: 1, offset: switch - 8 };
        let mut late = Taken::default();
        let mut session = loop {
            match source.follow(&context(), &eager(Some(from))).await {
                Ok(session) => break session,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
            }
        };
        late.until(session.as_mut(), goal).await;
        assert_eq!(late.stretches[0].0, 1);
        assert_eq!(late.stretches[0].2, bytes[bytes.len() - 8..]);
        assert!(late.gaps.is_empty());
        // A server that ends before what was shipped is not the one that it was shipped from.
        let ahead = LogPosition { timeline: 2, offset: goal.offset + (1 << 30) };
        drop(session);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let error = source.follow(&context(), &eager(Some(ahead))).await.err().expect("it is ahead");
            if error.kind() == ErrorKind::Conflict {
                break;
            }
            assert!(error.kind() == ErrorKind::Busy && Instant::now() < deadline, "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_behind_the_address_is_noticed() {
    let first = require!(Server::private(15, &options(15)));
    let second = require!(Server::private(15, &options(15)));
    // One address, behind which now the one and then the other answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").port();
    let port = Arc::new(std::sync::atomic::AtomicU16::new(first.port()));
    let behind = Arc::clone(&port);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = behind.load(std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("a server");
                // A side that goes away ends it; the test looks at what the client makes of it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    second.psql(&format!("ALTER ROLE postgres PASSWORD '{}'", first.password())).await.expect("a password");
    let url = format!("postgres://postgres:{}@127.0.0.1:{address}/postgres", first.password());
    let source = source_at(&url);
    drop(source.follow(&context(), &eager(None)).await.expect("a session"));
    port.store(second.port(), std::sync::atomic::Ordering::SeqCst);
    let error = source.follow(&context(), &eager(None)).await.err().expect("it is another one");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
}
