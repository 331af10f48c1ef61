//! A rewrite that is signed with the log's own key: the heads that an anchor kept say where it begins.

use dm_audit::{AuditVerification, Checkpoint, Kept, SignedCheckpoint};

use crate::support::{Place, ctx};
use crate::tree::Signed;
use crate::{event, on_both};

on_both!(the_heads_of_an_anchor_name_the_entry_that_was_rewritten,);

impl Signed {
    fn opened(&self, note: &SignedCheckpoint) -> Checkpoint {
        Checkpoint::open(&note.note, &self.log.verifier().unwrap()).unwrap()
    }

    /// Held against two heads, then narrowed by others.
    async fn narrowed(
        &self,
        first: &Checkpoint,
        last: &Checkpoint,
        more: &[Checkpoint],
    ) -> AuditVerification {
        let kept = [first, last].map(|head| Kept { place: "a friend".into(), checkpoint: head.clone() });
        let mut result = self.log.verify_against(&ctx(), None, &kept).await.unwrap();
        let narrowed = self.log.narrow(&mut result, "the anchor", more).await.unwrap();
        let inside = |head: &&Checkpoint| head.size > first.size && head.size < last.size;
        assert_eq!(narrowed, !result.ok && more.iter().any(|head| inside(&head)), "{result:?}");
        result
    }
}

async fn the_heads_of_an_anchor_name_the_entry_that_was_rewritten(place: Place) {
    const ENTRIES: u64 = 20;
    let log = Signed::new(place, 3).await;
    let mut heads = vec![log.opened(&log.log.checkpoint().await.unwrap().unwrap())];
    for entry in 3..ENTRIES {
        heads.push(log.opened(&log.add(entry..entry + 1).await));
    }
    log.copy().await;
    let (first, last) = (&heads[0], &heads[heads.len() - 1]);
    assert!(log.narrowed(first, last, &heads).await.ok);
    for begins in [4, 11, 12, 20] {
        // Everything from there on anew, sealed and signed by whoever has the store and the key.
        let keeps = begins - 1;
        log.place
            .raw(&format!(
                "DELETE FROM audit_leaves WHERE id > {keeps}; DELETE FROM audit_seals WHERE seq > {keeps}"
            ))
            .await;
        log.place
            .raw(&format!("DELETE FROM audit_tiles; DELETE FROM audit_checkpoints WHERE size > {keeps}"))
            .await;
        std::fs::remove_file(log.folder.path().join("audit.key.last")).unwrap();
        let other = (keeps..ENTRIES).map(|i| event(100 + i)).collect::<Vec<_>>();
        log.log.append_all(&other).await.unwrap();
        assert_eq!(log.log.seal(&ctx()).await.unwrap().unsigned, None);
        assert!(log.log.verify(&ctx()).await.unwrap().ok, "it is consistent in itself, and well signed");
        let told = |result: &AuditVerification| {
            let span = result.rewritten.clone().unwrap();
            let bad = result.first_bad.clone().unwrap();
            assert_eq!(bad.seq, i64::try_from(span.to).ok(), "{bad:?}");
            (span.from, span.to, bad.why)
        };
        let (from, to, _) = told(&log.narrowed(first, last, &[]).await);
        assert_eq!((from, to), (4, ENTRIES), "two heads alone say this");
        // Each head of the anchor: the entry itself. Every third: the two of them around it.
        let (from, to, why) = told(&log.narrowed(first, last, &heads).await);
        assert_eq!((from, to), (begins, begins), "{why}");
        assert!(why.contains(&format!("from entry {begins} on")), "{why}");
        let some: Vec<_> = heads.iter().filter(|head| head.size % 3 == 0).cloned().collect();
        let (from, to, why) = told(&log.narrowed(first, last, &some).await);
        assert_eq!((from, to), ((begins - 1) / 3 * 3 + 1, begins.next_multiple_of(3).min(ENTRIES)), "{why}");
        log.restore().await;
    }
    // What names itself is not a rewrite: nothing is narrowed.
    log.place.raw("UPDATE audit_leaves SET actor = 'user:nobody' WHERE id = 7").await;
    let mut result = log
        .log
        .verify_against(&ctx(), None, &[Kept { place: "a friend".into(), checkpoint: last.clone() }])
        .await
        .unwrap();
    assert!(!log.log.narrow(&mut result, "the anchor", &heads).await.unwrap());
    assert_eq!((result.first_bad.unwrap().seq, result.rewritten), (Some(7), None));
}
