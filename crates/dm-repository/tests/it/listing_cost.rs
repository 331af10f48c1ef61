//! What listing and expiry ask of a store grows with the number of backups, and not with the number of packs.

use dm_core::BackupKind;
use dm_repository::{SweepOptions, VerifyLevel};

use crate::support::*;

/// Calls and listed names of a listing, a plan's reading and a sweep, with so many backups of so many bytes each.
async fn cost(backups: usize, bytes: usize) -> (usize, usize, usize) {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(7);
    let mut parent = None;
    for _ in 0..backups {
        let content = [stream("rows", noise(&mut rng, bytes), 20_000)];
        let base = parent.as_ref().map(|header| (header, BackupKind::Incremental));
        let header = back_up(&repository, "shop", base, &content).await.unwrap();
        repository.verify(&ctx(), &header, VerifyLevel::Quick).await.unwrap();
        parent = Some(header);
    }
    let packs = store.dump().await.iter().filter(|(key, _)| key.as_ref().contains("/packs/")).count();
    let (calls, listed) = (store.calls(), store.listed());
    assert_eq!(repository.list(&ctx(), None).await.unwrap().backups.len(), backups);
    repository.sweep(&ctx(), SweepOptions { dry_run: true, wait: false }).await.unwrap();
    (store.calls() - calls, store.listed() - listed, packs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_packs_costs_nothing() {
    let (calls, listed, few) = cost(6, 20_000).await;
    let (calls_of_many, listed_of_many, many) = cost(6, 2_000_000).await;
    assert!(many >= 20 * few, "{many} packs against {few}");
    assert_eq!((calls_of_many, listed_of_many), (calls, listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_backup_costs_the_same() {
    let (one, two, three) = (cost(5, 1000).await.0, cost(10, 1000).await.0, cost(15, 1000).await.0);
    assert_eq!(two - one, three - two);
    // Its commit and its latest verification when it is listed, its commit once more in the sweep.
    assert_eq!(two - one, 5 * 3);
}
