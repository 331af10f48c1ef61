//! The log followed through SQL, compared with the server's own files byte for byte.

use std::time::{Duration, Instant};

use dm_core::{ErrorKind, LogEvent, LogName, LogPosition, LogRequest};
use dm_testkit::postgres::{Place, Server, StopMode};
use dm_testkit::require;
use futures::TryStreamExt;

use crate::log_support::{
    MAJORS, SEGMENT, Taken, eager, end, name, options, pg_wal, source, source_at, write,
};
use crate::support::context;

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
        // From where we were, another session goes on: in small pieces, the same bytes. The slot held them.
        write(&server, "more").await;
        let small = LogRequest { piece_bytes: 100_000, ..eager(Some(taken.position())) };
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut session = loop {
            match source.follow(&context(), &small).await {
                Ok(session) => break session,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
        };
        let goal = end(source.as_ref()).await;
        taken.until(session.as_mut(), goal).await;
        assert_eq!((taken.stretches.len(), taken.gaps.len()), (1, 0));
        taken.compare(&pg_wal(&server));
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
