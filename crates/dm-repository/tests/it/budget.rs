//! What a run may take: memory, requests at once. However slow the store, no more is read than the budget holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dm_core::*;
use dm_repository::*;
use dm_testkit::fault_store::{Fault as Trouble, FaultStore, Rule};
use futures::StreamExt;
use object_store::memory::InMemory;

use crate::support::*;

const MIB: u64 = 1 << 20;

async fn over(store: &Arc<FaultStore>, keys: Option<&Keys>, open: OpenOptions) -> Repository {
    let init = InitOptions { pack_bytes: MIB, ..init_options(keys) };
    Repository::init(Arc::clone(store) as _, &ctx(), init, open).await.unwrap()
}

/// Members of a MiB that no compression makes smaller, of both layouts.
fn members(count: u32) -> Vec<Sample> {
    use rand::{RngCore, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(dm_testkit::seed());
    let mut bytes = vec![0; 1 << 20];
    rng.fill_bytes(&mut bytes);
    // Nothing is looked for in other members: the same content is stored again.
    (0..count)
        .map(|i| {
            let bytes = bytes.clone();
            match i % 2 {
                0 => stream(&format!("data/t{i:03}"), bytes, 256 << 10),
                _ => pages(&format!("file/f{i:03}"), bytes, 8192, 256 << 10),
            }
        })
        .collect()
}

/// The most bytes that were read from the source and had not arrived in the store, over a backup of sixty members at once.
async fn peak(memory: u64, keys: Option<&Keys>) -> u64 {
    let arrived = TestStore::new();
    let store = Arc::new(FaultStore::new(Arc::clone(&arrived) as _));
    let options = OpenOptions { memory_bytes: memory, threads: 2, ..open_options(keys) };
    let repository = over(&store, keys, options).await;
    // Packs take their time; what is read meanwhile piles up.
    store.inject(Rule::always(Trouble::Delay(Duration::from_secs(10))).at("/packs/"));
    let writer = begin(&repository, "shop", None).await.unwrap();
    let (taken, peak) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let context = ctx();
    let samples = members(60);
    let writes = samples.iter().map(|sample| {
        let (taken, peak, arrived) = (Arc::clone(&taken), Arc::clone(&peak), Arc::clone(&arrived));
        let counted = blocks(sample).inspect(move |block| {
            let bytes = block.as_ref().ok().and_then(Block::bytes).map_or(0, |bytes| bytes.len() as u64);
            let taken = taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
            peak.fetch_max(taken.saturating_sub(arrived.stored()), Ordering::SeqCst);
        });
        writer.write_member(&context, sample.spec.clone(), counted.boxed())
    });
    let written = futures::future::join_all(writes.collect::<Vec<_>>()).await;
    assert!(written.iter().all(Result::is_ok));
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    store.heal();
    assert!(repository.verify(&ctx(), &header, VerifyLevel::Stored).await.unwrap().ok);
    peak.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn what_is_read_and_not_yet_stored_keeps_the_budget() {
    let held = peak(40 * MIB, Some(&Keys::new())).await;
    // What is counted is what was read; compressed copies come on top of it, and are part of the budget.
    assert!((10 * MIB..=40 * MIB).contains(&held), "{held}");
    // The judge sees what piles up where the budget is large.
    assert!(peak(1 << 30, None).await > 45 * MIB);
}

#[tokio::test]
async fn a_budget_that_holds_no_pack_is_refused_before_anything_is_written() {
    let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let options = OpenOptions { memory_bytes: 4 * MIB, ..open_options(None) };
    let repository = over(&store, None, options).await;
    store.reset_log();
    let error = begin(&repository, "shop", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains("--memory"), "{error:?}");
    assert_eq!(store.calls(), 0);
    // Who only looks needs no pack.
    assert!(repository.list(&ctx(), None).await.unwrap().backups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_made_at_once_than_there_are_connections() {
    let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let options = OpenOptions { connections: Some(3), memory_bytes: 1 << 30, ..open_options(None) };
    let repository = over(&store, None, options).await;
    let writer = begin(&repository, "shop", None).await.unwrap();
    store.inject(Rule::always(Trouble::Hold).at("/packs/"));
    let samples = members(12);
    let context = ctx();
    let writes = samples.iter().map(|s| writer.write_member(&context, s.spec.clone(), blocks(s)));
    let written = futures::future::join_all(writes.collect::<Vec<_>>());
    let watched = async {
        store.held(3).await;
        let more = tokio::time::timeout(Duration::from_secs(600), store.held(4)).await;
        store.heal();
        more
    };
    let (written, more) = tokio::join!(written, watched);
    assert!(more.is_err(), "a fourth request was made");
    assert!(written.iter().all(Result::is_ok));
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    assert_holds(&repository, &header, &samples).await;
}

/// Streams that rest while something else is asked of the store must not keep it waiting for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_enough_for_everything() {
    let keys = Keys::new();
    let one = || OpenOptions { connections: Some(1), ..open_options(Some(&keys)) };
    let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let repository = over(&store, Some(&keys), one()).await;
    let work = async {
        let (first, second) = (small(1), small(2));
        let full = back_up(&repository, "shop", None, &first).await.unwrap();
        let next =
            back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
        let anew = repository.rewrite(&ctx(), &next, None).await.unwrap();
        assert_holds(&repository, &anew, &second).await;
        for header in [&full, &next, &anew] {
            assert!(repository.verify(&ctx(), header, VerifyLevel::Full).await.unwrap().ok);
        }
        let place = Arc::new(InMemory::new());
        let copy = repository.open_copy(Arc::clone(&place) as _, &ctx(), one()).await.unwrap();
        assert!(repository.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap().is_whole());
        assert_holds(&copy, &next, &second).await;
        repository.tombstone(&ctx(), &next, "a test").await.unwrap();
        repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(120), Box::pin(work)).await.expect("it stands still");
}
