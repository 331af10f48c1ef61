//! What was written is what is read.

use dm_core::*;
use dm_repository::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_incremental_and_differential_read_back() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let first = samples(1);
        let full = back_up(&repository, "shop", None, &first).await.unwrap();
        assert_holds(&repository, &full, &first).await;
        assert!(full.references.is_empty());
        assert_eq!(full.sizes.logical, first.iter().map(|s| s.bytes.len() as u64).sum::<u64>());
        assert_eq!(full.encrypted, keys.is_some());

        let mut second = first.clone();
        second[0].bytes[5000] ^= 1;
        second[0].bytes[600_000..601_000].fill(9);
        second[1].bytes.extend_from_slice(b"more rows");
        second.push(stream("data/new/0000", b"new".to_vec(), 10));
        let incremental =
            back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
        assert_holds(&repository, &incremental, &second).await;
        assert_eq!(incremental.references, [full.id]);
        assert!(incremental.sizes.stored < full.sizes.stored / 3, "{:?} {:?}", incremental.sizes, full.sizes);

        let mut third = second.clone();
        third[0].bytes.truncate(500_000);
        third[0].bytes[40 << 10..44 << 10].fill(1);
        third.remove(1);
        let chained = back_up(&repository, "shop", Some((&incremental, BackupKind::Incremental)), &third)
            .await
            .unwrap();
        assert_holds(&repository, &chained, &third).await;
        let differential =
            back_up(&repository, "shop", Some((&full, BackupKind::Differential)), &third).await.unwrap();
        assert_eq!(differential.references, [full.id]);
        assert_holds(&repository, &differential, &third).await;

        let listing = repository.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty(), "{:?}", listing.problems);
        let order: Vec<BackupId> = listing.backups.iter().map(|b| b.id).collect();
        assert_eq!(order, [full.id, incremental.id, chained.id, differential.id]);
        assert_eq!(repository.header(&ctx(), &target("shop"), chained.id).await.unwrap(), chained);
        for backup in &listing.backups {
            for level in [VerifyLevel::Quick, VerifyLevel::Stored, VerifyLevel::Full] {
                let verification = repository.verify(&ctx(), backup, level).await.unwrap();
                assert!(verification.ok, "{level}: {:?}", verification.findings);
            }
        }
        let leases =
            store.dump().await.into_iter().filter(|(k, _)| k.as_ref().starts_with("leases/")).count();
        assert_eq!(leases, 0, "leases are released");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_second_backup_stores_nearly_nothing() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let mut rng = StdRng::seed_from_u64(5);
        let first = vec![
            pages("main.db", noise(&mut rng, 8 << 20), 4096, 1 << 20),
            stream("rows", noise(&mut rng, 4 << 20), 50_000),
        ];
        let full = back_up(&repository, "shop", None, &first).await.unwrap();
        let again =
            back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &first).await.unwrap();
        assert_holds(&repository, &again, &first).await;
        assert_eq!((again.counts.packs, again.counts.pages), (0, 1));
        assert!(again.sizes.stored < 4096, "{}", again.sizes.stored);

        let mut changed = first.clone();
        changed.truncate(1);
        let count = changed[0].bytes.len() / 4096;
        for _ in 0..count / 100 {
            let page = rng.random_range(0..count);
            changed[0].bytes[page * 4096] ^= 1;
        }
        let small =
            back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &changed).await.unwrap();
        assert_holds(&repository, &small, &changed).await;
        assert!(small.sizes.stored * 10 <= full.sizes.stored, "{:?} of {:?}", small.sizes, full.sizes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_members_have_pages_of_extents() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    // Two spans, most of it holes, and more than 64 extents in the first.
    let mut bytes = vec![0; (300 << 20) + 512];
    for i in 0..200 {
        bytes[i * 8192] = 1 + i as u8;
    }
    bytes[299 << 20] = 7;
    let mut sample = pages("sparse.db", bytes, 4096, 4 << 20);
    let full = back_up(&repository, "t", None, std::slice::from_ref(&sample)).await.unwrap();
    assert!(full.counts.pages >= 3, "{:?}", full.counts);
    assert_holds(&repository, &full, std::slice::from_ref(&sample)).await;
    sample.bytes[299 << 20] = 8;
    let next =
        back_up(&repository, "t", Some((&full, BackupKind::Incremental)), std::slice::from_ref(&sample))
            .await
            .unwrap();
    // Only the changed span, its directory and the root are new.
    assert_eq!(next.counts.pages, 3);
    assert_holds(&repository, &next, &[sample]).await;
    let verification = repository.verify(&ctx(), &next, VerifyLevel::Full).await.unwrap();
    assert!(verification.ok, "{:?}", verification.findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_members_share_packs_and_directories_end_by_name() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let many: Vec<Sample> =
        (0..1500).map(|i| stream(&format!("data/t{i:05}"), format!("row {i}").into_bytes(), 100)).collect();
    let full = back_up(&repository, "t", None, &many).await.unwrap();
    assert!(full.counts.packs <= 3, "{:?}", full.counts);
    assert!(full.counts.pages > 10, "{:?}", full.counts);
    assert_holds(&repository, &full, &many).await;
    let mut more = many.clone();
    more.push(stream("data/t00700b", b"x".to_vec(), 10));
    let next = back_up(&repository, "t", Some((&full, BackupKind::Incremental)), &more).await.unwrap();
    assert_eq!(next.counts.pages, 2, "one directory and the root");
    assert_holds(&repository, &next, &more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_fails_is_left_out_and_others_go_on() {
    use futures::StreamExt;
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let writer = begin(&repository, "t", None).await.unwrap();
    let good = samples(2);
    let broken = futures::stream::iter(vec![
        Ok(Block::data(0, vec![1; 10])),
        Err(Error::not_found("dropped meanwhile")),
    ])
    .boxed();
    let failed = writer.write_member(&ctx(), spec("gone", Layout::Stream), broken).await.unwrap_err();
    assert_eq!((failed.kind(), failed.subject()), (ErrorKind::NotFound, Some("gone")));
    let gap = futures::stream::iter(vec![Ok(Block::data(5, vec![1; 10]))]).boxed();
    assert_eq!(
        writer.write_member(&ctx(), spec("gap", Layout::Stream), gap).await.unwrap_err().kind(),
        ErrorKind::Internal
    );
    write_all(&writer, &good).await.unwrap();
    let twice = writer.write_member(&ctx(), good[0].spec.clone(), blocks(&good[0])).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Invalid);
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    assert_holds(&repository, &header, &good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_backup_leaves_only_its_mark() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let writer = begin(&repository, "t", None).await.unwrap();
    write_all(&writer, &samples(3)).await.unwrap();
    writer.abandon(&ctx()).await.unwrap();
    let left: Vec<String> = store.dump().await.into_iter().map(|(k, _)| k.to_string()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let listing = repository.list(&ctx(), None).await.unwrap();
    assert!(listing.backups.is_empty() && listing.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_stops_a_backup_and_leaves_no_backup() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let writer = begin(&repository, "t", None).await.unwrap();
    let token = ctx().cancellation().clone();
    let context = ctx().with_cancellation(token.clone());
    token.cancel();
    let sample = &samples(4)[0];
    let error = writer.write_member(&context, sample.spec.clone(), blocks(sample)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let error = writer.commit(&context, source(chrono::Utc::now()), summary()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(repository.list(&ctx(), None).await.unwrap().backups.is_empty());
}
