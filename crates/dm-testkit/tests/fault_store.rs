//! Every fault does what it says, to the call it names and to no other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;
use std::time::Duration;

use dm_testkit::fault_store::{Fault, FaultStore, Operation, Rule};
use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, Result};

fn store() -> FaultStore {
    FaultStore::new(Arc::new(InMemory::new()))
}

async fn read(store: &dyn ObjectStore, key: &str) -> Result<Vec<u8>> {
    Ok(store.get(&key.into()).await?.bytes().await?.to_vec())
}

#[tokio::test]
async fn calls_are_counted_and_named() {
    let store = store();
    store.put(&"a/1".into(), "x".into()).await.unwrap();
    store.head(&"a/1".into()).await.unwrap();
    read(&store, "a/1").await.unwrap();
    let _: Vec<_> = store.list(Some(&"a".into())).try_collect().await.unwrap();
    store.delete(&"a/1".into()).await.unwrap();
    let operations: Vec<_> = store.log().into_iter().map(|call| call.operation).collect();
    use Operation::{Delete, Get, Head, List, Put};
    assert_eq!(operations, [Put, Head, Get, List, Delete]);
    assert_eq!(store.log()[3].path.as_ref(), "a");
    assert_eq!(store.calls(), 5);
}

#[tokio::test]
async fn only_the_nth_fitting_call_fails() {
    let store = store();
    store.inject(Rule::nth(2, Fault::Fail).on(Operation::Put).at("packs/"));
    store.put(&"packs/1".into(), "1".into()).await.unwrap();
    store.put(&"index/1".into(), "1".into()).await.unwrap();
    read(&store, "packs/1").await.unwrap();
    assert!(store.put(&"packs/2".into(), "2".into()).await.is_err());
    assert!(read(store.inner().as_ref(), "packs/2").await.is_err());
    store.put(&"packs/2".into(), "2".into()).await.unwrap();
}

#[tokio::test]
async fn a_crash_stops_everything_until_healed() {
    let store = store();
    store.inject(Rule::from(2, Fault::Fail).on_writes());
    store.put(&"a".into(), "1".into()).await.unwrap();
    for _ in 0..3 {
        assert!(store.delete(&"a".into()).await.is_err());
    }
    assert_eq!(read(&store, "a").await.unwrap(), b"1");
    store.heal();
    store.delete(&"a".into()).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_was_done() {
    let store = store();
    store.inject(Rule::nth(1, Fault::LoseAnswer));
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    assert!(store.put_opts(&"a".into(), "1".into(), create.clone()).await.is_err());
    assert!(matches!(
        store.put_opts(&"a".into(), "2".into(), create).await,
        Err(Error::AlreadyExists { .. })
    ));
    assert_eq!(read(&store, "a").await.unwrap(), b"1");
}

#[tokio::test]
async fn damage_is_silent_on_the_way_in_and_out() {
    let store = store();
    store.inject(Rule::nth(1, Fault::Truncate).on(Operation::Put));
    store.put(&"short".into(), "abcdef".into()).await.unwrap();
    assert_eq!(read(&store, "short").await.unwrap(), b"abc");
    store.put(&"whole".into(), "abcdef".into()).await.unwrap();
    store.inject(Rule::nth(1, Fault::Corrupt).on(Operation::Get));
    assert_eq!(read(&store, "whole").await.unwrap(), b"abctef");
    assert_eq!(read(&store, "whole").await.unwrap(), b"abcdef");
    store.inject(Rule::nth(1, Fault::Truncate).on(Operation::GetRanges));
    assert_eq!(store.get_ranges(&"whole".into(), &[0..4, 1..3]).await.unwrap()[0].as_ref(), b"ab");
    store.inject(Rule::nth(1, Fault::Truncate).on(Operation::List));
    let seen: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn errors_are_of_the_kind_asked_for() {
    let store = store();
    store.inject(Rule::nth(1, Fault::Deny));
    store.inject(Rule::nth(2, Fault::FullDisk));
    assert!(matches!(store.get(&"a".into()).await, Err(Error::PermissionDenied { .. })));
    let Err(Error::Generic { source, .. }) = store.put(&"a".into(), "1".into()).await else {
        panic!("the disk was to be full");
    };
    let error = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn a_held_call_waits_for_its_release() {
    let store = store();
    store.inject(Rule::nth(1, Fault::Hold).on(Operation::Put));
    let writer = tokio::spawn({
        let store = store.clone();
        async move { store.put(&"a".into(), "1".into()).await }
    });
    tokio::time::timeout(Duration::from_secs(60), store.held(1)).await.unwrap();
    assert!(read(&store, "a").await.is_err());
    assert!(!writer.is_finished());
    store.release();
    writer.await.unwrap().unwrap();
    assert_eq!(read(&store, "a").await.unwrap(), b"1");

    // A caller that gives up is held no more.
    store.inject(Rule::nth(1, Fault::Hold).on(Operation::Delete));
    let path = "a".into();
    let giving_up = tokio::time::timeout(Duration::from_millis(1), store.delete(&path));
    assert!(giving_up.await.is_err());
    store.held(0).await;
    assert_eq!(read(&store, "a").await.unwrap(), b"1");
}

#[tokio::test]
async fn parts_keep_their_order_and_can_be_troubled() {
    let store = store();
    store.inject(Rule::nth(1, Fault::Delay(Duration::from_millis(5))).on(Operation::PutPart));
    let mut upload = store.put_multipart(&"big".into()).await.unwrap();
    let (first, second) = (upload.put_part("one".into()), upload.put_part("two".into()));
    tokio::try_join!(first, second).unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(&store, "big").await.unwrap(), b"onetwo");

    store.inject(Rule::nth(1, Fault::Fail).on(Operation::PutPart));
    store.inject(Rule::nth(1, Fault::Fail).on(Operation::Complete));
    let mut upload = store.put_multipart(&"other".into()).await.unwrap();
    assert!(upload.put_part("one".into()).await.is_err());
    assert!(upload.complete().await.is_err());
    assert!(read(&store, "other").await.is_err());
    upload.abort().await.unwrap();
}

#[tokio::test]
async fn a_repeated_write_answers_like_the_second_one() {
    let store = store();
    store.inject(Rule::nth(1, Fault::Repeat));
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let answer = store.put_opts(&"a".into(), "1".into(), create).await;
    assert!(matches!(answer, Err(Error::AlreadyExists { .. })), "{answer:?}");
    assert_eq!(read(&store, "a").await.unwrap(), b"1");
}
