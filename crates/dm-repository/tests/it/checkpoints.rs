//! Checkpoints of audit trails in a store whose objects nobody can replace or delete: an anchor under object lock.

use dm_core::ErrorKind;

use crate::support::*;

const TRAIL: &str = "example.com/shop";

#[tokio::test]
async fn a_locked_store_takes_every_checkpoint_and_keeps_it() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::append_only();
        let repository = make(&store, keys.as_ref()).await;
        let mut sizes = Vec::new();
        for size in [1, 2, 700] {
            let note = format!("{TRAIL}\n{size}\nsigned\n");
            // The answer is lost, it is tried again, and again by another program: what is there is neither replaced nor refused.
            store.fail(0, Fault::After);
            repository.put_checkpoint(&ctx(), TRAIL, size, &note).await.unwrap();
            reopen(&store, keys.as_ref()).await.put_checkpoint(&ctx(), TRAIL, size, &note).await.unwrap();
            sizes.push(size);
            let listed = repository.list_checkpoints(&ctx(), TRAIL).await.unwrap();
            assert_eq!(listed.iter().map(|entry| entry.size).collect::<Vec<_>>(), sizes);
            assert_eq!(
                repository.read_checkpoint(&ctx(), TRAIL, listed.last().unwrap()).await.unwrap(),
                note
            );
        }
        // Who rewrote the trail and has its key cannot put his checkpoint in the place of the one that is there.
        let before = repository.list_checkpoints(&ctx(), TRAIL).await.unwrap();
        repository.put_checkpoint(&ctx(), TRAIL, 2, "another log\n").await.unwrap();
        let after = repository.list_checkpoints(&ctx(), TRAIL).await.unwrap();
        assert!(after.len() == 4 && before.iter().all(|entry| after.contains(entry)), "{after:?}");
        assert_eq!(store.overwritten(), 0, "nothing was overwritten or removed");
        let error = repository.put_checkpoint(&ctx(), TRAIL, 3, "").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
