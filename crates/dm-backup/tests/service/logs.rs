//! Everything that can happen to the shipping of a log: what is read back is the log, or an error.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dm_backup::{Fetched, ShipEnd, ShipOptions, ShipReport};
use dm_core::{ErrorKind, LogPosition, Result};
use dm_testkit::fault_store::{Fault, Operation, Rule};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use tokio_util::sync::CancellationToken;

use crate::log_server::{FILE, STREAM, Server, at, log};
use crate::{World, target};

fn options() -> ShipOptions {
    ShipOptions {
        piece_bytes: 300,
        poll: Duration::ZERO,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        ..ShipOptions::of(target())
    }
}

async fn ship(world: &World, server: &Server) -> Result<ShipReport> {
    world.service.ship_log(&world.ctx, server, &options().once()).await
}

/// Reads a range back and compares it with the log itself.
async fn prove(world: &World, timeline: u32, range: Range<u64>) {
    let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
    let read: Vec<Bytes> = reader.read(&world.ctx, timeline, range.clone()).try_collect().await.unwrap();
    assert!(read.concat() == log(timeline, range.clone(), FILE), "{range:?}");
}

async fn fetch(world: &World, server: &Server, name: &str) -> Result<(Fetched, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wanted");
    let found = world.service.fetch_log(&world.ctx, server, &target(), None, name, &path).await;
    // Whatever happens, nothing half-written has the name, and nothing else is left.
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, usize::from(matches!(found, Ok(Fetched::Found { .. }))));
    found.map(|f| (f, std::fs::read(&path).unwrap_or_default()))
}

#[tokio::test]
async fn what_was_shipped_is_the_log() {
    let world = World::new().await;
    let server = Server::new();
    server.grow(2345);
    let first = ship(&world, &server).await.unwrap();
    assert_eq!((first.end, first.bytes, first.gaps.len()), (ShipEnd::CaughtUp, 3345, 0));
    assert_eq!(first.position, Some(LogPosition { timeline: 1, offset: 5345 }));
    prove(&world, 1, 2000..5345).await;
    let again = ship(&world, &server).await.unwrap();
    assert_eq!((again.pieces, again.from), (0, first.position));
    server.grow(1);
    ship(&world, &server).await.unwrap();
    prove(&world, 1, 2999..5346).await;
    let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
    assert_eq!(reader.spans().len(), 1);
    assert_eq!(reader.spans()[0].range, 2000..5346);
    assert_eq!(reader.end_of(1, at(2300)), Some(2600), "sealed at 2300 is not after it");
    assert_eq!(reader.end_of(1, at(5346)), None);
    assert_eq!(reader.end_of(2, at(0)), None);
    for (timeline, range) in [(1, 1999..2001), (1, 5000..5347), (2, 2000..2001)] {
        let error = reader.read(&world.ctx, timeline, range).try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    let status = world.service.log_status(&world.ctx, &target(), Some((&server, "x"))).await.unwrap();
    assert_eq!(status.streams[0].bytes, 3346);
    assert_eq!(status.server.unwrap().lag_bytes, Some(0));
    assert!(status.reasons.is_empty());
}

/// Nothing happened, and that is known: instants of a quiet time can be restored like others.
#[tokio::test]
async fn a_quiet_time_is_recorded_once() {
    let world = World::new().await;
    let server = Server::new();
    ship(&world, &server).await.unwrap();
    let mut known = at(3000);
    for quiet in [5, 50, 500] {
        server.state().quiet = quiet;
        for _ in 0..2 {
            let report = ship(&world, &server).await.unwrap();
            assert_eq!((report.pieces, report.complete_until), (0, Some(at(3000 + quiet))));
        }
        assert_eq!(world.keys("/quiet/").await.len(), 1, "only the newest is kept");
        let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
        let span = &reader.spans()[0];
        assert_eq!((span.range.end, span.last_at), (3000, at(3000 + quiet)));
        assert_eq!(reader.end_of(1, known), Some(3000));
        known = span.last_at;
        assert_eq!(reader.end_of(1, known), None);
        let status = world.service.log_status(&world.ctx, &target(), None).await.unwrap();
        assert_eq!(status.streams[0].complete_until, Some(known));
    }
    // The log goes on: what was said of the quiet time stays true, and ends nothing early.
    server.grow(1000);
    ship(&world, &server).await.unwrap();
    let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
    assert_eq!(reader.end_of(1, at(3400)), Some(3000));
    assert_eq!(reader.end_of(1, at(3700)), Some(3900));
    prove(&world, 1, 2000..4000).await;
}

/// Where nothing may be deleted, the records become rare.
#[tokio::test]
async fn a_store_that_keeps_everything_is_not_filled_with_quiet_times() {
    let world = World::new().await;
    let server = Server::new();
    ship(&world, &server).await.unwrap();
    world.store.inject(Rule::always(Fault::Deny).on(Operation::Delete));
    let cancel = CancellationToken::new();
    let ctx = world.ctx.clone().with_cancellation(cancel.clone());
    let endless = options();
    let mut shipping = Box::pin(world.service.ship_log(&ctx, &server, &endless));
    for _ in 0..600 {
        // Ten seconds of the server's go by.
        server.state().quiet += 10;
        for _ in 0..5 {
            assert!(futures::poll!(shipping.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    cancel.cancel();
    shipping.await.unwrap();
    let keys = world.keys("/quiet/").await.len();
    assert!((3..=10).contains(&keys), "{keys} records of 100 minutes");
}

/// A shipper that is killed anywhere, again and again, loses nothing and repeats nothing that matters.
#[tokio::test]
async fn a_kill_at_any_point_leaves_no_gap() {
    let seed = dm_testkit::seed();
    for round in 0..20_u64 {
        let world = World::new().await;
        let server = Server::new();
        let mut random = seed.wrapping_add(round).wrapping_mul(6_364_136_223_846_793_005) | 1;
        for _ in 0..15 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            server.grow(random >> 54);
            let endless = options();
            let mut shipping = Box::pin(world.service.ship_log(&world.ctx, &server, &endless));
            for _ in 0..(random >> 33) % 60 {
                assert!(futures::poll!(shipping.as_mut()).is_pending(), "seed {seed}");
                tokio::task::yield_now().await;
            }
        }
        server.grow(500);
        let report = ship(&world, &server).await.unwrap();
        assert!(report.gaps.is_empty(), "seed {seed}, round {round}: {:?}", report.gaps);
        let end = server.state().end;
        prove(&world, 1, 2000..end).await;
    }
}

#[tokio::test]
async fn a_store_that_fails_at_any_call_loses_nothing() {
    for (fault, for_good) in
        [(Fault::Deny, false), (Fault::Deny, true), (Fault::FullDisk, true), (Fault::LoseAnswer, false)]
    {
        let mut n = 1;
        loop {
            assert!(n < 300);
            let world = World::new().await;
            let server = Server::new();
            server.grow(900);
            world.trouble(n, fault, for_good);
            let patient = ShipOptions { give_up_after: Some(Duration::from_millis(20)), ..options().once() };
            let result = world.service.ship_log(&world.ctx, &server, &patient).await;
            let hit = world.heal(n);
            server.grow(77);
            let report = ship(&world, &server).await.unwrap();
            assert!(report.gaps.is_empty(), "call {n}: {:?}", report.gaps);
            let end = server.state().end;
            prove(&world, 1, 2000..end).await;
            if !hit {
                result.unwrap();
                break;
            }
            n += 1;
        }
        assert!(n > 10, "the failures were felt: {n}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_anew() {
    let mut n = 0;
    loop {
        let world = World::new().await;
        let server = Server::new();
        server.grow(700);
        server.state().cut_in = Some(n);
        let report = ship(&world, &server).await.unwrap();
        prove(&world, 1, 2000..3700).await;
        if server.state().cuts == 0 {
            assert_eq!(report.reconnects, 0);
            break;
        }
        assert!(report.gaps.is_empty());
        n += 1;
    }
    assert!(n > 10);
}

#[tokio::test]
async fn a_gap_is_recorded_and_asks_for_a_base() {
    let world = World::new().await;
    let server = Server::new();
    ship(&world, &server).await.unwrap();
    server.grow(4000);
    server.state().forgotten = 5500;
    let report = ship(&world, &server).await.unwrap();
    assert_eq!(report.gaps.len(), 1);
    assert!(report.alarms[0].contains("base backup"), "{:?}", report.alarms);
    let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
    let ranges: Vec<_> = reader.spans().iter().map(|s| s.range.clone()).collect();
    assert_eq!(ranges, [2000..3000, 6000..7000]);
    let status = world.service.log_status(&world.ctx, &target(), None).await.unwrap();
    assert_eq!((status.streams[0].gaps[0].start, status.streams[0].gaps[0].end), (3000, 6000));
    assert!(status.reasons[0].contains("gap"), "{:?}", status.reasons);
    let taken = world.ctx.now() + chrono::TimeDelta::hours(1);
    assert!(status.reasons_since(taken).is_empty(), "a base was taken since");
    // Behind the gap the log goes on: nobody is told that it ends here.
    for name in ["1-3", "1-5"] {
        assert_eq!(fetch(&world, &server, name).await.unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
    }
    assert!(matches!(fetch(&world, &server, "1-6").await.unwrap().0, Fetched::Found { .. }));
}

#[tokio::test]
async fn timelines_follow_each_other() {
    let world = World::new().await;
    let server = Server::new();
    server.grow(400);
    ship(&world, &server).await.unwrap();
    server.grow(100);
    {
        let mut state = server.state();
        state.left = vec![(1, 3500)];
        state.timeline = 2;
        state.forgotten = 3000;
        state.end = 5100;
    }
    let report = ship(&world, &server).await.unwrap();
    assert_eq!((report.histories.as_slice(), report.gaps.len()), (&[2][..], 0));
    prove(&world, 1, 2000..3500).await;
    prove(&world, 2, 3000..5100).await;
    let reader = world.service.log_reader(&world.ctx, &target(), STREAM).await.unwrap();
    assert_eq!(reader.history(&world.ctx, 2).await.unwrap().unwrap(), "2 at 3500");
    assert_eq!(reader.history(&world.ctx, 3).await.unwrap(), None);
    let (found, bytes) = fetch(&world, &server, "2.history").await.unwrap();
    assert!(matches!(found, Fetched::Found { .. }));
    assert_eq!(bytes, b"2 at 3500");
    // The last file of the old timeline, and the same of the new one, which begins with it.
    let (found, bytes) = fetch(&world, &server, "1-3").await.unwrap();
    assert!(matches!(found, Fetched::Found { bytes: 1000, padded_bytes: 500, .. }), "{found:?}");
    assert!(bytes[..500] == log(1, 3000..3500, FILE) && bytes[500..].iter().all(|b| *b == 0));
    assert!(fetch(&world, &server, "2-3").await.unwrap().1 == log(2, 3000..4000, FILE));
    for name in ["1-4", "2-2", "2-6", "3.history", "3-3"] {
        assert!(matches!(fetch(&world, &server, name).await.unwrap().0, Fetched::NotThere { .. }), "{name}");
    }
}

/// The end of the log and a failing store are never taken for each other.
#[tokio::test]
async fn a_failing_store_is_never_the_end_of_the_log() {
    let world = World::new().await;
    let server = Server::new();
    server.grow(2500);
    ship(&world, &server).await.unwrap();
    for (name, there) in [("1-3", true), ("1-5", true), ("1-6", false), ("1-1", false), ("7.history", false)]
    {
        for fault in [Fault::Deny, Fault::FullDisk] {
            let mut n = 1;
            loop {
                world.trouble(n, fault, true);
                let found = fetch(&world, &server, name).await;
                if !world.heal(n) {
                    let is_there = matches!(found.unwrap().0, Fetched::Found { .. });
                    assert_eq!(is_there, there, "{name}");
                    break;
                }
                assert!(found.is_err(), "{name}, call {n}: {found:?}");
                n += 1;
            }
            assert!(n > 2, "{name}: {n}");
        }
    }
    // Damage is no absence either.
    let keys = world.keys("logs/").await;
    for key in &keys {
        world.spoil(key).await;
    }
    assert_eq!(fetch(&world, &server, "1-3").await.unwrap_err().kind(), ErrorKind::Corrupt);
    // A name that nobody understands may be a piece.
    let odd = object_store::path::Path::from(format!("logs/{}/{STREAM}/00000001/odd", target()));
    world.store.inner().put(&odd, "x".into()).await.unwrap();
    assert_eq!(fetch(&world, &server, "1-9").await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(world.service.log_reader(&world.ctx, &target(), STREAM).await.is_err());
    // Without any log at all something is set up wrongly.
    let empty = World::new().await;
    assert_eq!(fetch(&empty, &server, "1-3").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn files_of_another_size_are_found_by_the_log_itself() {
    for size in [500, 4000] {
        let world = World::new().await;
        let server = Server::new();
        {
            let mut state = server.state();
            state.file_bytes = size;
            state.forgotten = 4000;
            state.end = 13_000;
        }
        ship(&world, &server).await.unwrap();
        let number = 8000 / size;
        let (found, bytes) = fetch(&world, &server, &format!("1-{number}")).await.unwrap();
        assert!(matches!(found, Fetched::Found { .. }), "{size}: {found:?}");
        assert!(bytes == log(1, 8000..8000 + size, size), "{size}");
        let gone = fetch(&world, &server, &format!("1-{}", 16_000 / size)).await.unwrap();
        assert!(matches!(gone.0, Fetched::NotThere { .. }), "{size}");
    }
}

#[tokio::test]
async fn a_pushed_file_is_there_once_and_completes_what_was_shipped() {
    let world = World::new().await;
    let server = Server::new();
    server.grow(400);
    ship(&world, &server).await.unwrap();
    let path = Path::new("/anywhere/1-3");
    for _ in 0..2 {
        let report = world.service.push_log(&world.ctx, &server, &target(), path).await.unwrap();
        assert_eq!((report.pieces, report.bytes, report.stream.as_str()), (2, 1000, STREAM));
    }
    let objects = world.keys("logs/").await.len();
    world.service.push_log(&world.ctx, &server, &target(), path).await.unwrap();
    assert_eq!(world.keys("logs/").await.len(), objects);
    prove(&world, 1, 2000..4000).await;
    assert!(fetch(&world, &server, "1-3").await.unwrap().1 == log(1, 3000..4000, FILE));
    // Shipping goes on behind it.
    server.grow(1700);
    let report = ship(&world, &server).await.unwrap();
    assert_eq!(report.from, Some(LogPosition { timeline: 1, offset: 4000 }));
    prove(&world, 1, 2000..5100).await;
    // A push that cannot be stored is no success.
    world.trouble(1, Fault::Deny, true);
    assert!(world.service.push_log(&world.ctx, &server, &target(), Path::new("1-9")).await.is_err());
    world.heal(1);
}

#[tokio::test]
async fn a_second_shipper_is_refused_and_a_told_one_stops() {
    let world = World::new().await;
    let server = Server::new();
    let cancel = CancellationToken::new();
    let ctx = world.ctx.clone().with_cancellation(cancel.clone());
    let (service, of) = (world.service.clone(), server.clone());
    let first = tokio::spawn(async move { service.ship_log(&ctx, &of, &options()).await });
    while world.keys("logs/").await.is_empty() {
        tokio::task::yield_now().await;
    }
    let error = ship(&world, &server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    server.grow(1234);
    while server.state().forgotten < 4234 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    let report = first.await.unwrap().unwrap();
    assert_eq!((report.end, report.position.unwrap().offset), (ShipEnd::Cancelled, 4234));
    prove(&world, 1, 2000..4234).await;
    // Without an end of its own, being cancelled is no failure; with one, it is.
    let stopped = world.ctx.clone().with_cancellation({
        let token = CancellationToken::new();
        token.cancel();
        token
    });
    let error = world.service.ship_log(&stopped, &server, &options().once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn a_long_outage_of_the_store_is_told_and_survived() {
    let world = World::new().await;
    let server = Server::new();
    server.grow(2000);
    world.store.reset_log();
    world.store.inject(Rule::from(8, Fault::Deny));
    let store = world.store.clone();
    let healing = tokio::spawn(async move {
        while store.calls() < 60 {
            tokio::task::yield_now().await;
        }
        store.heal();
    });
    let report = world.service.ship_log(&world.ctx, &server, &options().once()).await.unwrap();
    healing.await.unwrap();
    assert!(report.store_retries > 5, "{report:?}");
    assert!(report.gaps.is_empty());
    prove(&world, 1, 2000..5000).await;
}
