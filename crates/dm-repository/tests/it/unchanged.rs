//! Pages that are said to be unchanged: the map is the one of reading everything.

use std::collections::BTreeMap;

use dm_core::*;
use dm_repository::*;
use futures::{StreamExt, TryStreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::sparse::Sparse;
use crate::support::*;

async fn write(
    repository: &Repository,
    parent: Option<&BackupHeader>,
    member: &Sparse,
    (blocks, read): (BlockStream, u64),
) -> (BackupHeader, MemberSummary) {
    let writer = begin(repository, "t", parent.map(|p| (p, BackupKind::Incremental))).await.unwrap();
    assert_eq!(writer.base().is_some(), parent.is_some());
    let summary_of = writer.write_member(&ctx(), member.spec(), blocks).await.unwrap();
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    assert_eq!(header.sizes.read, read);
    assert_eq!(summary_of.size, member.size);
    (header, summary_of)
}

/// The digest of the only member, out of the directory page.
async fn member_digest(store: &TestStore, id: BackupId) -> String {
    for (key, bytes) in store.dump().await {
        let key = key.to_string();
        if key.contains(&id.to_string()) && key.ends_with(".page") {
            let page: serde_json::Value =
                serde_json::from_slice(&zstd::decode_all(bytes.as_ref()).unwrap()).unwrap();
            if page["page"] == "directory" {
                return page["members"][0]["digest"].as_str().unwrap().to_owned();
            }
        }
    }
    panic!("no directory page")
}

async fn assert_reads_back(repository: &Repository, header: &BackupHeader, member: &Sparse) {
    let reader = repository.read(&ctx(), header).await.unwrap();
    let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut content = reader.content(&ctx(), &member.spec().name);
    while let Some(block) = content.try_next().await.unwrap() {
        for (i, page) in block.bytes.chunks(member.page as usize).enumerate() {
            found.insert(block.offset / member.page + i as u64, page.to_vec());
        }
    }
    assert!(found == member.pages, "the pages differ");
    reader.close().await.unwrap();
    let verification = repository.verify(&ctx(), header, VerifyLevel::Full).await.unwrap();
    assert!(verification.ok, "{:?}", verification.findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_mixture_of_read_and_unchanged_pages_is_a_whole_backup() {
    let seed = dm_testkit::seed();
    for round in 0..40 {
        println!("seed {seed}, round {round}");
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let mut member = Sparse::random(&mut rng);
        let first = member.blocks(&mut rng, None);
        let (mut parent, _) = write(&repository, None, &member, first).await;
        for _ in 0..3 {
            let base = member.clone();
            member.churn(&mut rng);
            let mixed = member.blocks(&mut rng, Some(&base));
            let (mixed, of_mixed) = write(&repository, Some(&parent), &member, mixed).await;
            let whole = member.blocks(&mut rng, None);
            let (whole, of_whole) = write(&repository, Some(&parent), &member, whole).await;
            assert_reads_back(&repository, &mixed, &member).await;
            assert_eq!(of_mixed.reused_bytes, of_whole.reused_bytes);
            assert_eq!((mixed.counts.pages, &mixed.references), (whole.counts.pages, &whole.references));
            if mixed.counts.pages > 1 {
                assert_eq!(member_digest(&store, mixed.id).await, member_digest(&store, whole.id).await);
            }
            parent = mixed;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_unchanged_is_refused() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let base = vec![pages("file", vec![1; 3 * 4096 + 100], 4096, 8192), stream("rows", vec![1; 100], 100)];
    let full = back_up(&repository, "t", None, &base).await.unwrap();
    let refused = async |parent: Option<&BackupHeader>, name: &str, layout, list: Vec<Block>| {
        let writer = begin(&repository, "t", parent.map(|p| (p, BackupKind::Incremental))).await.unwrap();
        let blocks = futures::stream::iter(list.into_iter().map(Ok)).boxed();
        let result = writer.write_member(&ctx(), spec(name, layout), blocks).await;
        writer.abandon(&ctx()).await.unwrap();
        result
    };
    let paged = Layout::Pages { page_bytes: 4096 };
    let unchanged = |offset, length| vec![Block::Unchanged { offset, length }];
    for (what, result) in [
        ("no base", refused(None, "file", paged, unchanged(0, 4096)).await),
        ("no such member", refused(Some(&full), "other", paged, unchanged(0, 4096)).await),
        (
            "another page size",
            refused(Some(&full), "file", Layout::Pages { page_bytes: 8192 }, unchanged(0, 8192)).await,
        ),
        ("another layout", refused(Some(&full), "rows", paged, unchanged(0, 100)).await),
        ("a stream", refused(Some(&full), "rows", Layout::Stream, unchanged(0, 100)).await),
        ("past the end", refused(Some(&full), "file", paged, unchanged(0, 4 * 4096)).await),
        ("far past the end", refused(Some(&full), "file", paged, unchanged(4096, u64::MAX - 10)).await),
        ("half a page", refused(Some(&full), "file", paged, unchanged(0, 2048)).await),
        ("not on a page", refused(Some(&full), "file", paged, unchanged(100, 4096)).await),
        (
            "behind a short page",
            refused(
                Some(&full),
                "file",
                paged,
                vec![
                    Block::Unchanged { offset: 3 * 4096, length: 100 },
                    Block::data(4 * 4096, vec![1; 4096]),
                ],
            )
            .await,
        ),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Internal, "{what}");
    }
    let whole = refused(Some(&full), "file", paged, unchanged(0, 3 * 4096 + 100)).await.unwrap();
    assert_eq!((whole.size, whole.reused_bytes, whole.stored_bytes), (3 * 4096 + 100, 3 * 4096 + 100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_unchanged_when_every_byte_is() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let mut content = vec![1; 5 * 4096 + 100];
    content[4096..8192].fill(0);
    let base = vec![pages("file", content.clone(), 4096, 8192), stream("rows", vec![1; 300], 100)];
    let full = back_up(&repository, "t", None, &base).await.unwrap();
    let unchanged = async |member: Sample| {
        let writer = begin(&repository, "t", Some((&full, BackupKind::Incremental))).await.unwrap();
        let summary = writer.write_member(&ctx(), member.spec.clone(), blocks(&member)).await.unwrap();
        writer.abandon(&ctx()).await.unwrap();
        summary.unchanged
    };
    assert!(unchanged(pages("file", content.clone(), 4096, 4096)).await, "cut into other blocks");
    assert!(unchanged(stream("rows", vec![1; 300], 100)).await, "a stream");
    assert!(!unchanged(stream("rows", vec![2; 300], 100)).await, "another stream");
    assert!(!unchanged(pages("other", content.clone(), 4096, 8192)).await, "the base has no such member");
    for (what, place) in [("a page", 17), ("a hole", 5000), ("the last byte", 5 * 4096 + 99)] {
        let mut other = content.clone();
        other[place] ^= 1;
        assert!(!unchanged(pages("file", other, 4096, 8192)).await, "{what} differs");
    }
    assert!(!unchanged(pages("file", content[..5 * 4096].to_vec(), 4096, 8192)).await, "shorter");
    let longer = [content[..5 * 4096].to_vec(), vec![1; 100], vec![0; 3996], vec![0; 4096]].concat();
    assert!(!unchanged(pages("file", longer, 4096, 8192)).await, "longer by zeros");
    assert!(!unchanged(pages("file", content[..4096].to_vec(), 4096, 8192)).await, "a hole that is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_base_tells_its_members() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let first = samples(1);
    let full = back_up(&repository, "t", None, &first).await.unwrap();
    let writer = begin(&repository, "t", Some((&full, BackupKind::Incremental))).await.unwrap();
    let base = writer.base().unwrap();
    assert_eq!(base.source().database, "shop");
    for sample in &first {
        let found = base.member(&ctx(), &sample.spec.name).await.unwrap();
        assert_eq!(found, Some((sample.spec.clone(), sample.bytes.len() as u64)));
    }
    for missing in ["", "data/t", "zzz", "data/t/0000x"] {
        assert_eq!(base.member(&ctx(), missing).await.unwrap(), None);
    }
    writer.abandon(&ctx()).await.unwrap();
}
