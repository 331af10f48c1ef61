//! Two programs at once, one of them standing still at any call: a backup that was reported whole stays whole, and one
//! that builds on deleted ground is never reported.

use std::sync::Arc;

use dm_core::*;
use dm_repository::*;

use crate::support::*;

fn tiny(seed: u64) -> Vec<Sample> {
    let mut all = samples(seed);
    all[0].bytes.truncate(40 << 10);
    all[1].bytes.truncate(20_000);
    all[1].block = 10_000;
    all
}

/// What others do while the writer stands still.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Mark,
    MarkAndSweep,
    MarkSweepAndForget,
    OnlyTime,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_stands_still_while_its_parent_is_deleted() {
    for meanwhile in
        [Meanwhile::Mark, Meanwhile::MarkAndSweep, Meanwhile::MarkSweepAndForget, Meanwhile::OnlyTime]
    {
        let (mut succeeded, mut refused) = (0, 0);
        for n in 0.. {
            let store = TestStore::new();
            let repository = make(&store, None).await;
            let first = tiny(1);
            let parent = back_up(&repository, "shop", None, &first).await.unwrap();
            let mut second = first.clone();
            second[0].bytes[0] ^= 1;
            let slow = store.fork();
            let writing = reopen(&slow, None).await;
            let gate = slow.pause(n);
            let task = tokio::spawn({
                let (parent, second) = (parent.clone(), second.clone());
                async move { back_up(&writing, "shop", Some((&parent, BackupKind::Incremental)), &second).await }
            });
            // Either the writer stands at the gate, or it has ended.
            let ended = loop {
                if task.is_finished() {
                    break true;
                }
                tokio::select! {
                    () = gate.reached() => break false,
                    () = tokio::task::yield_now() => {}
                }
            };
            if ended {
                task.await.unwrap().unwrap();
                break;
            }
            let marked = match meanwhile {
                Meanwhile::OnlyTime => None,
                _ => Some(repository.tombstone(&ctx(), &parent, "test").await),
            };
            let times: &[u64] = match meanwhile {
                Meanwhile::Mark => &[],
                Meanwhile::MarkAndSweep => &[4 * 3600, 4 * 3600],
                Meanwhile::MarkSweepAndForget => &[4 * 3600, 4 * 3600, 9 * 86_400, 4 * 3600],
                Meanwhile::OnlyTime => &[4 * 3600],
            };
            for seconds in times {
                store.advance(*seconds);
                repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
            }
            gate.open();
            let result = task.await.unwrap();
            let listing = repository.list(&ctx(), None).await.unwrap();
            match result {
                Ok(header) => {
                    succeeded += 1;
                    assert!(listing.problems.is_empty(), "{meanwhile:?} call {n}: {:?}", listing.problems);
                    assert!(listing.backups.iter().any(|b| b.id == header.id), "{meanwhile:?} call {n}");
                    assert_holds(&repository, &header, &second).await;
                    // It stays so, whatever is swept later.
                    for _ in 0..3 {
                        store.advance(4 * 3600);
                        repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
                    }
                    assert_holds(&repository, &header, &second).await;
                    assert_holds(&repository, &parent, &first).await;
                }
                Err(error) => {
                    refused += 1;
                    assert!(
                        matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound),
                        "{meanwhile:?} call {n}: {error:?}"
                    );
                    assert!(
                        listing.backups.iter().all(|b| b.id == parent.id),
                        "{meanwhile:?} call {n}: {listing:?}"
                    );
                    for backup in &listing.backups {
                        assert_holds(&repository, backup, &first).await;
                    }
                }
            }
            // A mark that was refused left the parent alone.
            if let Some(Err(error)) = marked {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert_holds(&repository, &parent, &first).await;
            }
        }
        assert!(succeeded > 0 && refused > 10, "{meanwhile:?}: {succeeded} {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleter_that_stands_still_while_a_child_is_committed() {
    for dies in [false, true] {
        stand_still_while_a_child_is_committed(dies).await;
    }
}

/// With `dies`, the deleter's call is its last one.
async fn stand_still_while_a_child_is_committed(dies: bool) {
    let mut unmarked = 0;
    for n in 0.. {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let first = tiny(1);
        let parent = back_up(&repository, "shop", None, &first).await.unwrap();
        let mut second = first.clone();
        second[0].bytes[0] ^= 1;
        let slow = store.fork();
        let deleting = reopen(&slow, None).await;
        let writer = begin(&repository, "shop", Some((&parent, BackupKind::Incremental))).await.unwrap();
        write_all(&writer, &second).await.unwrap();
        let gate = slow.pause(n);
        let task = tokio::spawn({
            let parent = parent.clone();
            async move {
                deleting.tombstone(&ctx(), &parent, "test").await?;
                deleting.sweep(&ctx(), SweepOptions::default()).await
            }
        });
        let ended = loop {
            if task.is_finished() {
                break true;
            }
            tokio::select! {
                () = gate.reached() => break false,
                () = tokio::task::yield_now() => {}
            }
        };
        let committed = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await;
        if dies {
            slow.fail(0, Fault::Dead);
        }
        gate.open();
        let deleted = task.await.unwrap();
        if let (Ok(header), false) = (&committed, dies) {
            // Not only in the end: the deleter has taken its mark back by the time it says so.
            let listing = repository.list(&ctx(), None).await.unwrap();
            assert!(listing.backups.iter().any(|b| b.id == header.id), "call {n}: {:?}", listing.problems);
        }
        for _ in 0..3 {
            store.advance(4 * 3600);
            unmarked += repository.sweep(&ctx(), SweepOptions::default()).await.unwrap().unmarked.len();
        }
        let listing = repository.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
        match &committed {
            Ok(header) => {
                assert_holds(&repository, header, &second).await;
                assert_holds(&repository, &parent, &first).await;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                assert!(listing.backups.iter().all(|b| b.id == parent.id));
            }
        }
        drop(deleted);
        if ended {
            assert!(n > 10);
            // The deleter died between its mark and its second look: only the sweep could mend that.
            assert_eq!(unmarked > 0, dies);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_waits_for_readers_and_writers_that_were_there_before_the_mark() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let content_before = tiny(1);
    let doomed = back_up(&repository, "shop", None, &content_before).await.unwrap();
    let reader = repository.read(&ctx(), &doomed).await.unwrap();
    repository.tombstone(&ctx(), &doomed, "test").await.unwrap();
    assert_eq!(repository.read(&ctx(), &doomed).await.unwrap_err().kind(), ErrorKind::Conflict);
    let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert!(report.waiting[0].1.contains("less than a lease"), "{report:?}");
    store.advance(3700);
    let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert!(report.removed.is_empty());
    assert!(report.waiting[0].1.contains("still there"), "{report:?}");
    assert_eq!(content(&reader, "schema/pre", 999).await.unwrap(), content_before[3].bytes);
    reader.close().await.unwrap();
    let dry = repository.sweep(&ctx(), SweepOptions { dry_run: true, wait: false }).await.unwrap();
    assert_eq!(dry.removed, [doomed.id]);
    assert!(store.dump().await.iter().any(|(k, _)| k.as_ref().contains("/packs/")));
    let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert_eq!((report.removed.clone(), report.objects, report.bytes), (dry.removed, dry.objects, dry.bytes));
    assert!(!store.dump().await.iter().any(|(k, _)| k.as_ref().contains("/packs/")));
    // The mark stays for a week, then it goes too.
    store.advance(8 * 86_400);
    repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert!(!store.dump().await.iter().any(|(k, _)| k.as_ref().starts_with("tombstones")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_referenced_pinned_or_the_last_proof_is_not_deleted() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let content_before = tiny(1);
    let full = back_up(&repository, "shop", None, &content_before).await.unwrap();
    let mut changed = content_before.clone();
    changed[0].bytes[0] ^= 1;
    let child = back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &changed).await.unwrap();
    let refused = |error: Error, word: &str| {
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(repository.tombstone(&ctx(), &full, "x").await.unwrap_err(), &child.id.to_string());
    repository.pin(&ctx(), &child, true, "audit").await.unwrap();
    refused(repository.tombstone(&ctx(), &child, "x").await.unwrap_err(), "audit");
    assert!(repository.list(&ctx(), None).await.unwrap().pins[&child.id].pinned);
    repository.pin(&ctx(), &child, false, "audit is over").await.unwrap();
    repository.tombstone(&ctx(), &child, "x").await.unwrap();
    repository.tombstone(&ctx(), &child, "twice").await.unwrap();
    assert_eq!(repository.pin(&ctx(), &child, true, "late").await.unwrap_err().kind(), ErrorKind::Conflict);
    repository.verify(&ctx(), &full, VerifyLevel::Stored).await.unwrap();
    refused(repository.tombstone(&ctx(), &full, "x").await.unwrap_err(), "newest verified");
    let newer = back_up(&repository, "shop", None, &content_before).await.unwrap();
    repository.verify(&ctx(), &newer, VerifyLevel::Stored).await.unwrap();
    repository.tombstone(&ctx(), &full, "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_commit_counts_as_referencing_everything() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let content_before = tiny(1);
    let full = back_up(&repository, "shop", None, &content_before).await.unwrap();
    let other = back_up(&repository, "shop", None, &content_before).await.unwrap();
    repository.tombstone(&ctx(), &full, "x").await.unwrap();
    let key = object_store::path::Path::from(format!("backups/shop/{}/backup.json", other.id));
    let whole = store.dump().await.into_iter().find(|(k, _)| *k == key).unwrap().1;
    store.poke(&key, whole.slice(..whole.len() / 2)).await;
    store.advance(4 * 3600);
    let report = repository.sweep(&ctx(), SweepOptions { dry_run: false, wait: true }).await.unwrap();
    assert!(report.removed.is_empty() && report.problems.len() == 1, "{report:?}");
    assert_eq!(repository.list(&ctx(), None).await.unwrap().problems.len(), 1);
    store.poke(&key, whole).await;
    let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert_eq!(report.removed, [full.id]);
    assert_holds(&repository, &other, &content_before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lies_about_create_only_has_one_writer() {
    let store = TestStore::with_lies(true);
    let repository = make(&store, None).await;
    assert!(repository.single_writer());
    let content_before = tiny(1);
    let full = back_up(&repository, "shop", None, &content_before).await.unwrap();
    assert_holds(&repository, &full, &content_before).await;
    let writer = begin(&repository, "shop", None).await.unwrap();
    assert_eq!(begin(&repository, "shop", None).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(repository.sweep(&ctx(), SweepOptions::default()).await.unwrap_err().kind(), ErrorKind::Busy);
    writer.abandon(&ctx()).await.unwrap();
    back_up(&repository, "shop", None, &content_before).await.unwrap();
    let honest = reopen(&TestStore::new_furnished().await, None).await;
    assert!(!honest.single_writer());
}

impl TestStore {
    async fn new_furnished() -> Arc<Self> {
        let store = Self::new();
        make(&store, None).await;
        store
    }
}
