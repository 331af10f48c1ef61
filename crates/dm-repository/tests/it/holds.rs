//! Legal holds, stores that let nothing be deleted, and backups written anew.

use std::sync::Arc;

use dm_core::*;
use dm_repository::*;

use crate::support::*;

async fn chain(
    store: &Arc<TestStore>,
    keys: Option<&Keys>,
) -> (Repository, Vec<(BackupHeader, Vec<Sample>)>) {
    let repository = make(store, keys).await;
    let mut samples = small(1);
    let mut chain = vec![(back_up(&repository, "shop", None, &samples).await.unwrap(), samples.clone())];
    for i in 0..2 {
        samples[0].bytes[100_000 + i] ^= 1;
        samples[1].bytes.extend_from_slice(b"more rows\n");
        let parent = chain[i].0.clone();
        let base = Some((&parent, BackupKind::Incremental));
        chain.push((back_up(&repository, "shop", base, &samples).await.unwrap(), samples.clone()));
    }
    (repository, chain)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_outlives_pins_and_is_copied_and_ends_with_a_reason() {
    let store = TestStore::new();
    let (repository, chain) = chain(&store, None).await;
    let last = &chain[2].0;
    let soon = ctx().now() + chrono::Duration::hours(1);
    assert_eq!(repository.hold(&ctx(), last, "a", " ", None).await.unwrap_err().kind(), ErrorKind::Invalid);
    let past = Some(ctx().now() - chrono::Duration::hours(1));
    assert_eq!(repository.hold(&ctx(), last, "a", "x", past).await.unwrap_err().kind(), ErrorKind::Invalid);
    repository.hold(&ctx(), last, "a", "case a", None).await.unwrap();
    repository.hold(&ctx(), last, "b", "case b", Some(soon)).await.unwrap();
    let holds = |r: Repository| async move { r.list(&ctx(), None).await.unwrap().holds };
    assert_eq!(holds(repository.clone()).await[&last.id].len(), 2);
    let error = repository.tombstone(&ctx(), last, "test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("case a"), "{error}");

    let second = TestStore::new();
    let copy = repository.open_copy(Arc::clone(&second) as _, &ctx(), open_options(None)).await.unwrap();
    let report = repository.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap();
    assert_eq!(report.holds, 2);
    assert_eq!(repository.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap().holds, 0);
    assert!(copy.tombstone(&ctx(), last, "test").await.is_err());

    repository.release_hold(&ctx(), last, "a", "settled").await.unwrap();
    let error = repository.release_hold(&ctx(), last, "a", "settled").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(repository.tombstone(&ctx(), last, "test").await.is_err(), "the other hold stands");
    // A clock that leaps ahead ends no hold: the newest backup is as old as before.
    let listing = repository.list(&ctx(), None).await.unwrap();
    assert_eq!(listing.holds[&last.id][0].name, "b");
    repository.release_hold(&ctx(), last, "b", "settled too").await.unwrap();
    repository.tombstone(&ctx(), last, "test").await.unwrap();

    // A record that cannot be read counts as a hold.
    let (damaged, kept) = (TestStore::new(), &chain[1].0);
    damaged.restore(&store.dump().await).await;
    let repository = reopen(&damaged.fork(), None).await;
    repository.hold(&ctx(), kept, "c", "case c", None).await.unwrap();
    let key = object_store::path::Path::from(format!("holds/shop/{}/00000000.json", kept.id));
    damaged.poke(&key, "{}".into()).await;
    let error = repository.tombstone(&ctx(), kept, "test").await.unwrap_err();
    assert!(error.to_string().contains("a hold cannot be read"), "{error}");
    assert!(!repository.list(&ctx(), None).await.unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_may_be_deleted_backups_are_made_read_and_only_marked() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::append_only();
        let (repository, chain) = chain(&store, keys.as_ref()).await;
        for (header, samples) in &chain {
            assert_holds(&repository, header, samples).await;
        }
        let last = &chain[2].0;
        repository.tombstone(&ctx(), last, "expired").await.unwrap();
        store.advance(9 * 3600);
        for wait in [false, true] {
            let report = repository.sweep(&ctx(), SweepOptions { dry_run: false, wait }).await.unwrap();
            assert!(report.only_marks && report.removed.is_empty() && report.bytes == 0, "{report:?}");
            assert!(report.waiting[0].1.contains("lets nothing be deleted"), "{report:?}");
        }
        let listing = repository.list(&ctx(), None).await.unwrap();
        assert_eq!((listing.backups.len(), listing.tombstoned.len()), (2, 1));
        // An abandoned run is marked as well; another goes on.
        let writer = begin(&repository, "shop", None).await.unwrap();
        write_all(&writer, &chain[0].1).await.unwrap();
        writer.abandon(&ctx()).await.unwrap();
        let again = back_up(&repository, "shop", None, &chain[0].1).await.unwrap();
        assert_holds(&repository, &again, &chain[0].1).await;
        assert_eq!(store.overwritten(), 0, "nothing was overwritten or removed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_backup_needs_no_other_and_reads_the_same() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let (repository, chain) = chain(&store, keys.as_ref()).await;
        let (second, third) = (&chain[1], &chain[2]);
        let new = repository.rewrite(&ctx(), &second.0, None).await.unwrap();
        assert_eq!(
            (new.kind, new.judged_kind(), new.rewrites.map(|r| r.backup), new.references.len()),
            (BackupKind::Full, BackupKind::Incremental, Some(second.0.id), 0)
        );
        assert_eq!((&new.consistency, new.sizes.logical), (&second.0.consistency, second.0.sizes.logical));
        let next = repository.rewrite(&ctx(), &third.0, Some(&new)).await.unwrap();
        assert_eq!(next.references, [new.id]);
        assert!(next.sizes.stored < new.sizes.stored / 2, "what both have is stored once");
        // The old ones go, and what they referenced.
        for (header, _) in chain.iter().rev() {
            repository.tombstone(&ctx(), header, "rewritten").await.unwrap();
        }
        store.advance(9 * 3600);
        assert_eq!(repository.sweep(&ctx(), SweepOptions::default()).await.unwrap().removed.len(), 3);
        assert_holds(&repository, &new, &second.1).await;
        assert_holds(&repository, &next, &third.1).await;
        assert!(repository.verify(&ctx(), &next, VerifyLevel::Full).await.unwrap().ok);
        // And it can be built on.
        let more =
            back_up(&repository, "shop", Some((&next, BackupKind::Incremental)), &third.1).await.unwrap();
        assert!(more.sizes.stored < new.sizes.stored / 2);
        if keys.is_some() {
            let keyless = reopen(&store.fork(), None).await;
            let error = keyless.rewrite(&ctx(), &next, None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.hint().is_some(), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_rewrite_is_done_or_not_and_done_by_the_next() {
    let mut n = 0;
    loop {
        let store = TestStore::new();
        let (_, chain) = chain(&store, None).await;
        let last = &chain[2];
        let dying = store.fork();
        let repository = reopen(&dying, None).await;
        let before = dying.calls();
        dying.fail(n, Fault::Dead);
        let result = repository.rewrite(&ctx(), &last.0, None).await;
        let died = dying.calls() > before + n;
        let repository = reopen(&store.fork(), None).await;
        let listing = repository.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
        for (header, samples) in &chain {
            assert_holds(&repository, header, samples).await;
        }
        if let Some(new) = listing.backups.iter().find(|b| b.rewrites.is_some_and(|r| r.backup == last.0.id))
        {
            assert_holds(&repository, new, &last.1).await;
        } else {
            assert!(result.is_err(), "call {n}");
            let new = repository.rewrite(&ctx(), &last.0, None).await.unwrap();
            assert_holds(&repository, &new, &last.1).await;
        }
        if !died {
            result.unwrap();
            break;
        }
        n += 1;
    }
    assert!(n > 25, "only {n} calls");
}

#[tokio::test(start_paused = true)]
async fn passing_faults_at_every_call_of_a_rewrite_are_survived() {
    for fault in [Fault::Before, Fault::After] {
        let mut n = 0;
        loop {
            let store = TestStore::new();
            let (_, chain) = chain(&store, None).await;
            let disturbed = store.fork();
            let repository = reopen(&disturbed, None).await;
            let before = disturbed.calls();
            disturbed.fail(n, fault);
            let new = repository.rewrite(&ctx(), &chain[2].0, None).await;
            let new = new.unwrap_or_else(|e| panic!("call {n}, {fault:?}: {e:?}"));
            assert_holds(&repository, &new, &chain[2].1).await;
            if disturbed.calls() - before <= n {
                break;
            }
            n += 1;
        }
        assert!(n > 25, "only {n} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_at_the_end_and_damage_on_the_way_are_seen() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let mut holes = vec![0_u8; 300 << 10];
    holes[..8192].fill(7);
    holes[120_000] = 1;
    let samples = vec![
        pages("file/holes", holes.clone(), 4096, 64 << 10),
        pages("file/nothing", vec![0; 50_001], 4096, 64 << 10),
        pages("file/empty", Vec::new(), 4096, 64 << 10),
        stream("data/empty", Vec::new(), 100),
    ];
    let full = back_up(&repository, "shop", None, &samples).await.unwrap();
    let mut changed = samples.clone();
    changed[0].bytes[0] = 8;
    let next = back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &changed).await.unwrap();
    let new = repository.rewrite(&ctx(), &next, None).await.unwrap();
    assert_holds(&repository, &new, &changed).await;

    let pack = store
        .dump()
        .await
        .into_iter()
        .find(|(key, _)| key.as_ref().contains(&full.id.to_string()) && key.as_ref().ends_with(".pack"));
    let (key, bytes) = pack.unwrap();
    let mut damaged = bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    store.poke(&key, damaged.into()).await;
    let before = repository.list(&ctx(), None).await.unwrap().backups.len();
    assert_eq!(repository.rewrite(&ctx(), &next, None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        repository.list(&ctx(), None).await.unwrap().backups.len(),
        before,
        "no damage is written anew"
    );
}
