//! Readers' leases: a deletion waits for who reads, and a reader that was away for too long is told why its backup is gone.

use std::sync::Arc;

use dm_core::*;
use dm_repository::*;

use crate::support::*;

async fn two(store: &Arc<TestStore>, keys: Option<&Keys>) -> (Repository, BackupHeader, BackupHeader) {
    let repository = make(store, keys).await;
    let full = back_up(&repository, "shop", None, &small(1)).await.unwrap();
    let mut samples = small(1);
    samples[0].bytes[100_000] ^= 1;
    let next = back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &samples).await.unwrap();
    (repository, full, next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_in_the_middle_of_a_restore_waits_for_it() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let (repository, full, next) = two(&store, keys.as_ref()).await;
        let reading = reopen(&store.fork(), keys.as_ref()).await;
        let reader = reading.read(&ctx(), &next).await.unwrap();
        let members = reader.members(&ctx()).await.unwrap();
        let (first, rest) = members.split_first().unwrap();
        content(&reader, &first.0.name, first.1).await.unwrap();
        // What is read is deleted, and what it needs.
        repository.tombstone(&ctx(), &next, "test").await.unwrap();
        repository.tombstone(&ctx(), &full, "test").await.unwrap();
        for _ in 0..2 {
            store.advance(55 * 60);
            let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
            assert!(report.removed.is_empty() && report.waiting.len() == 2, "{report:?}");
        }
        for (spec, size) in rest {
            content(&reader, &spec.name, *size).await.unwrap();
        }
        reader.close().await.unwrap();
        let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
        assert_eq!(report.removed.len(), 2, "{report:?}");
        // Who comes now is told that there is none.
        let error = reading.read(&ctx(), &next).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_lease_ran_out_is_told_that_the_backup_was_deleted() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let (repository, full, next) = two(&store, keys.as_ref()).await;
        let reading = reopen(&store.fork(), keys.as_ref()).await;
        let reader = reading.read(&ctx(), &next).await.unwrap();
        let members = reader.members(&ctx()).await.unwrap();
        repository.tombstone(&ctx(), &next, "test").await.unwrap();
        repository.tombstone(&ctx(), &full, "test").await.unwrap();
        // The reader stands still for longer than anybody waits.
        store.advance(4 * 3600);
        assert_eq!(repository.sweep(&ctx(), SweepOptions::default()).await.unwrap().removed.len(), 2);
        for (spec, size) in &members {
            let error = content(&reader, &spec.name, *size).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{}: {error:?}", spec.name);
            assert!(error.to_string().contains("deleted while it was being read"), "{error}");
            assert!(error.hint().unwrap().contains("--place"));
        }
    }
}
