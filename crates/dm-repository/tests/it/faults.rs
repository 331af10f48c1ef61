//! Killed, interrupted or disturbed at every call to the store: what is listed is whole, and a re-run works.

use dm_core::*;
use dm_repository::*;

use crate::support::*;

async fn run(
    store: &std::sync::Arc<TestStore>,
    keys: Option<&Keys>,
    base: &BackupHeader,
    samples: &[Sample],
) -> Result<BackupHeader> {
    let repository = Repository::open(std::sync::Arc::clone(store) as _, &ctx(), open_options(keys)).await?;
    back_up(&repository, "shop", Some((base, BackupKind::Incremental)), samples).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_backup_is_whole_or_absent() {
    for keys in [None, Some(Keys::new())] {
        let mut n = 0;
        loop {
            let store = TestStore::new();
            let repository = make(&store, keys.as_ref()).await;
            let first = small(1);
            let full = back_up(&repository, "shop", None, &first).await.unwrap();
            let second = small(2);

            let dying = store.fork();
            dying.fail(n, Fault::Dead);
            let result = run(&dying, keys.as_ref(), &full, &second).await;
            let died = dying.calls() > n;
            if let Err(error) = &result {
                // The fault is a full disk.
                assert_eq!(error.kind(), ErrorKind::Exhausted, "call {n}: {error:?}");
            }

            let repository = reopen(&store.fork(), keys.as_ref()).await;
            let listing = repository.list(&ctx(), None).await.unwrap();
            assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
            assert_eq!(listing.backups[0], full);
            for backup in &listing.backups {
                let verification = repository.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap();
                assert!(verification.ok, "call {n}: {:?}", verification.findings);
            }
            assert_holds(&repository, &full, &first).await;
            match (&result, listing.backups.get(1)) {
                (Ok(header), found) => assert_eq!(found, Some(header), "call {n}"),
                (Err(_), Some(found)) => assert_holds(&repository, found, &second).await,
                (Err(_), None) => {}
            }
            let again = run(&store.fork(), keys.as_ref(), &full, &second).await.unwrap();

            // What the dead left is swept when nobody waits for it any more, and nothing else is.
            store.advance(25 * 3600);
            repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
            store.advance(3 * 3600);
            repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
            let listing = repository.list(&ctx(), None).await.unwrap();
            assert!(listing.incomplete.is_empty(), "call {n}: {listing:?}");
            assert!(listing.backups.iter().any(|b| b.id == again.id));
            assert_holds(&repository, &full, &first).await;
            assert_holds(&repository, &again, &second).await;
            if !died {
                result.unwrap();
                break;
            }
            n += 1;
        }
        assert!(n > 25, "only {n} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn passing_faults_at_every_call_are_survived() {
    for fault in [Fault::Before, Fault::After] {
        let mut n = 0;
        loop {
            let store = TestStore::new();
            let repository = make(&store, None).await;
            let full = back_up(&repository, "shop", None, &small(1)).await.unwrap();
            let second = small(2);
            let disturbed = store.fork();
            let before = disturbed.calls();
            disturbed.fail(n, fault);
            let header = run(&disturbed, None, &full, &second)
                .await
                .unwrap_or_else(|e| panic!("call {n}, {fault:?}: {e:?}"));
            assert_holds(&repository, &header, &second).await;
            if disturbed.calls() - before <= n {
                break;
            }
            n += 1;
        }
        assert!(n > 25, "only {n} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_of_deletion_nothing_kept_is_lost() {
    let mut n = 0;
    loop {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let kept_samples = small(1);
        let kept = back_up(&repository, "shop", None, &kept_samples).await.unwrap();
        let gone =
            back_up(&repository, "shop", Some((&kept, BackupKind::Incremental)), &small(2)).await.unwrap();
        let dying = store.fork();
        dying.fail(n, Fault::Dead);
        let deletion = async {
            let repository =
                Repository::open(std::sync::Arc::clone(&dying) as _, &ctx(), open_options(None)).await?;
            repository.tombstone(&ctx(), &gone, "test").await?;
            store.advance(2 * 3600);
            repository.sweep(&ctx(), SweepOptions::default()).await
        };
        let result = deletion.await;
        let died = dying.calls() > n;
        let repository = reopen(&store.fork(), None).await;
        for _ in 0..3 {
            store.advance(3 * 3600);
            repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
        }
        let listing = repository.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
        assert_holds(&repository, &kept, &kept_samples).await;
        if let Some(other) = listing.backups.get(1) {
            assert!(repository.verify(&ctx(), other, VerifyLevel::Full).await.unwrap().ok, "call {n}");
            assert!(listing.tombstoned.is_empty());
        } else {
            let left = store
                .dump()
                .await
                .into_iter()
                .filter(|(k, _)| k.as_ref().contains(&gone.id.to_string()))
                .count();
            assert_eq!(left, 1, "call {n}: only the mark is left");
        }
        if !died {
            assert_eq!(result.unwrap().removed, [gone.id]);
            break;
        }
        n += 1;
    }
    assert!(n > 20, "only {n} calls");
}
