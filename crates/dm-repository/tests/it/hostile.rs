//! Stores that are slow or busy, and hosts whose clocks are a day off: what is done is done right, or not at all.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use dm_core::{BackupKind, OpContext};
use dm_repository::*;
use dm_testkit::FixedClock;
use dm_testkit::fault_store::{Fault, FaultStore, Rule};
use object_store::memory::InMemory;

use crate::support::*;

async fn over(store: &Arc<FaultStore>) -> Repository {
    let keys = Keys::new();
    let (init, open) = (init_options(Some(&keys)), open_options(Some(&keys)));
    Repository::init(Arc::clone(store) as _, &ctx(), init, open).await.unwrap()
}

/// Two backups, a verification, a restore and an expiry, end to end.
async fn a_day(repository: &Repository) {
    let (first, second) = (small(1), small(2));
    let full = back_up(repository, "shop", None, &first).await.unwrap();
    let next = back_up(repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
    for header in [&full, &next] {
        assert!(repository.verify(&ctx(), header, VerifyLevel::Full).await.unwrap().ok);
    }
    assert_holds(repository, &full, &first).await;
    assert_holds(repository, &next, &second).await;
    repository.tombstone(&ctx(), &next, "a test").await.unwrap();
    repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    let listed = repository.list(&ctx(), None).await.unwrap();
    assert_eq!(listed.backups.iter().map(|b| b.id).collect::<Vec<_>>(), [full.id]);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_delays_and_harms_nothing() {
    // "429 Too Many Requests" and "503 Slow Down" for every third call, and for whole rows of them.
    for row in [1_u64, 3] {
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        let repository = over(&store).await;
        store.reset_log();
        for n in (1..4000).step_by(10) {
            for k in 0..row {
                store.inject(Rule::nth(n + k, if k % 2 == 0 { Fault::Fail } else { Fault::LoseAnswer }));
            }
        }
        a_day(&repository).await;
        assert!(store.calls() > 100);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_is_only_slow() {
    let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let repository = over(&store).await;
    store.inject(Rule::always(Fault::Delay(Duration::from_secs(3))));
    a_day(&repository).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_whose_clocks_are_a_day_off_neither_sweep_nor_outlive_each_other() {
    let store = TestStore::new();
    let (slow, fast) = (make(&store, None).await, reopen(&store, None).await);
    let at = |days| {
        let clock = Arc::new(FixedClock::new(store.now() + TimeDelta::days(days)));
        OpContext::new(dm_core::Actor::service("test")).with_clock(clock)
    };
    let (behind, ahead) = (at(-1), at(1));
    // A backup of the host that is behind is under way when the other sweeps: leases are judged by the store's clock.
    let writer = begin(&slow, "shop", None).await.unwrap();
    write_all(&writer, &small(1)).await.unwrap();
    let swept = fast.sweep(&ahead, SweepOptions::default()).await.unwrap();
    assert!(swept.removed.is_empty() && swept.marked.is_empty(), "{swept:?}");
    let first = writer.commit(&behind, source(behind.now()), summary()).await.unwrap();
    let base = Some((&first, BackupKind::Incremental));
    let writer = begin(&fast, "shop", base).await.unwrap();
    write_all(&writer, &small(2)).await.unwrap();
    let second = writer.commit(&ahead, source(ahead.now()), summary()).await.unwrap();
    // The order comes from parents: a child of a parent that seems to be of the future comes after it.
    let writer = begin(&slow, "shop", Some((&second, BackupKind::Incremental))).await.unwrap();
    write_all(&writer, &small(3)).await.unwrap();
    let third = writer.commit(&behind, source(behind.now()), summary()).await.unwrap();
    let listed = slow.list(&behind, None).await.unwrap();
    let ids: Vec<_> = listed.backups.iter().map(|b| b.id).collect();
    let place = |header: &BackupHeader| ids.iter().position(|id| *id == header.id).unwrap();
    assert!(place(&first) < place(&second) && place(&second) < place(&third), "{ids:?}");
    for (header, content) in [(&first, 1), (&second, 2), (&third, 3)] {
        assert_holds(&fast, header, &small(content)).await;
    }
    // What is marked by one goes for the other only when the store's time has passed.
    slow.tombstone(&behind, &third, "a test").await.unwrap();
    let swept = fast.sweep(&ahead, SweepOptions::default()).await.unwrap();
    assert!(swept.removed.is_empty() && !swept.waiting.is_empty(), "{swept:?}");
    store.advance(3 * 3600);
    let swept = fast.sweep(&behind, SweepOptions::default()).await.unwrap();
    assert_eq!(swept.removed, [third.id]);
}
