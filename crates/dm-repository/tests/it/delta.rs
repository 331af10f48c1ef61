//! A restore over something that is there: only what differs is fetched.

use std::collections::BTreeMap;

use dm_core::*;
use dm_repository::*;
use futures::{StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::sparse::Sparse;
use crate::support::*;

async fn back_up_sparse(repository: &Repository, rng: &mut StdRng, member: &Sparse) -> BackupHeader {
    let writer = begin(repository, "t", None).await.unwrap();
    writer.write_member(&ctx(), member.spec(), member.blocks(rng, None).0).await.unwrap();
    writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_from_any_present_makes_it_the_backup() {
    let seed = dm_testkit::seed();
    for round in 0..60 {
        println!("seed {seed}, round {round}");
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
        let keys = rng.random_range(0..4).eq(&0).then(Keys::new);
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let member = Sparse::random(&mut rng);
        let header = back_up_sparse(&repository, &mut rng, &member).await;
        let mut present = member.clone();
        present.churn(&mut rng);
        let reader = repository.read(&ctx(), &header).await.unwrap();
        let before = store.fetched();
        let there = present.blocks(&mut rng, None).0;
        let mut differing = reader.content_except(&ctx(), &member.spec().name, there);
        let mut made: BTreeMap<u64, Vec<u8>> = present
            .pages
            .iter()
            .filter(|(n, _)| **n < member.count())
            .map(|(n, p)| (*n, p.clone()))
            .collect();
        // What the present has behind the member's end is cut off by whoever writes.
        if let Some(last) = made.get_mut(&(member.count() - 1)) {
            last.truncate(member.page_len(member.count() - 1));
        }
        let mut at = 0;
        while let Some(block) = differing.try_next().await.unwrap() {
            assert!(block.offset >= at, "ascending");
            at = block.offset + block.bytes.len() as u64;
            assert!(at <= member.size);
            for (i, bytes) in block.bytes.chunks(member.page as usize).enumerate() {
                let n = block.offset / member.page + i as u64;
                assert_eq!(bytes.len(), member.page_len(n));
                if bytes.iter().all(|b| *b == 0) {
                    assert!(made.remove(&n).is_some(), "page {n} was a hole already");
                } else {
                    let before = made.insert(n, bytes.to_vec());
                    assert!(before.is_none_or(|b| b != bytes), "page {n} was there already");
                }
            }
        }
        made.retain(|_, page| page.iter().any(|b| *b != 0));
        // The last page, where the present is shorter: zeros follow.
        for (n, page) in &mut made {
            page.resize(member.page_len(*n), 0);
        }
        assert!(made == member.pages, "the pages differ");
        if present.pages == member.pages {
            assert_eq!(store.fetched(), before, "nothing differs, nothing is fetched");
        }
        reader.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_present_is_not_fetched_and_another_is_fetched_whole() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let mut rng = StdRng::seed_from_u64(3);
    let sample = stream("rows", noise(&mut rng, 200_000), 30_000);
    let empty = stream("none", Vec::new(), 10);
    let header = back_up(&repository, "t", None, &[sample.clone(), empty.clone()]).await.unwrap();
    let reader = repository.read(&ctx(), &header).await.unwrap();
    let differing = async |name: &str, bytes: Vec<u8>, block: usize| {
        let there = blocks(&stream("x", bytes, block));
        let parts: Vec<RestoreBlock> =
            reader.content_except(&ctx(), name, there).try_collect().await.unwrap();
        parts.iter().flat_map(|b| b.bytes.to_vec()).collect::<Vec<u8>>()
    };
    for block in [1000, 30_000, 200_000] {
        assert!(differing("rows", sample.bytes.clone(), block).await.is_empty());
    }
    assert_eq!(store.fetched(), 0);
    let mut changed = sample.bytes.clone();
    changed[150_000] ^= 1;
    let mut longer = sample.bytes.clone();
    longer.push(0);
    for other in [changed, longer, sample.bytes[..199_999].to_vec(), Vec::new()] {
        assert!(differing("rows", other, 1000).await == sample.bytes);
    }
    assert!(differing("none", Vec::new(), 10).await.is_empty());
    assert!(differing("none", b"x".to_vec(), 10).await.is_empty(), "only the size differs");
    let missing: dm_core::Result<Vec<RestoreBlock>> =
        reader.content_except(&ctx(), "gone", blocks(&empty)).try_collect().await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let failing = futures::stream::iter(vec![Err(Error::new(ErrorKind::Denied, "no"))]).boxed();
    let failed: dm_core::Result<Vec<RestoreBlock>> =
        reader.content_except(&ctx(), "rows", failing).try_collect().await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Denied);
    reader.close().await.unwrap();
}

/// A file of pages of which some changed, and were known to have changed.
async fn increment(
    repository: &Repository,
    parent: &BackupHeader,
    bytes: &[u8],
    changed: &[usize],
) -> BackupHeader {
    const PAGE: usize = 8192;
    let mut list: Vec<dm_core::Result<Block>> = Vec::new();
    let mut at = 0;
    for page in changed {
        let offset = page * PAGE;
        list.push(Ok(Block::Unchanged { offset: at as u64, length: (offset - at) as u64 }));
        list.push(Ok(Block::data(offset as u64, bytes[offset..offset + PAGE].to_vec())));
        at = offset + PAGE;
    }
    list.push(Ok(Block::Unchanged { offset: at as u64, length: (bytes.len() - at) as u64 }));
    let writer = begin(repository, "t", Some((parent, BackupKind::Incremental))).await.unwrap();
    let spec = spec("file", Layout::Pages { page_bytes: PAGE as u32 });
    writer.write_member(&ctx(), spec, futures::stream::iter(list).boxed()).await.unwrap();
    writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thirty_increments_a_restore_fetches_little_more_and_no_frame_twice() {
    const PAGES: usize = 24 << 7;
    for hot in [true, false] {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let mut rng = StdRng::seed_from_u64(9);
        let mut file = pages("file", noise(&mut rng, PAGES * 8192), 8192, 1 << 20);
        let full = back_up(&repository, "t", None, std::slice::from_ref(&file)).await.unwrap();
        let restore = async |header: &BackupHeader, bytes: &[u8]| {
            let before = store.fetched();
            let reader = repository.read(&ctx(), header).await.unwrap();
            assert!(content(&reader, "file", bytes.len() as u64).await.unwrap() == bytes);
            reader.close().await.unwrap();
            store.fetched() - before
        };
        let of_full = restore(&full, &file.bytes).await;
        assert!(of_full <= store.stored(), "{of_full} of {}", store.stored());
        let mut last = full;
        let mut chosen: Vec<usize> = Vec::new();
        for _ in 0..30 {
            if chosen.is_empty() || !hot {
                chosen = rand::seq::index::sample(&mut rng, PAGES, PAGES / 100).into_vec();
                chosen.sort_unstable();
            }
            for page in &chosen {
                let fresh = noise(&mut rng, 8192);
                file.bytes[page * 8192..(page + 1) * 8192].copy_from_slice(&fresh);
            }
            last = increment(&repository, &last, &file.bytes, &chosen).await;
        }
        let fetched = restore(&last, &file.bytes).await;
        if hot {
            assert!(fetched * 100 <= of_full * 103, "{fetched} after {of_full}");
        } else {
            // Every frame still has a page that counts; each is fetched once.
            assert!(fetched <= store.stored(), "{fetched} of {}", store.stored());
        }
    }
}
