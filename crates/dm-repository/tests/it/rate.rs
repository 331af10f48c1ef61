//! A limit of bytes a second holds over everything, delays no lease and keeps nobody from giving up.

use std::sync::Arc;
use std::time::Duration;

use dm_repository::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::support::*;

const RATE: u64 = 64 << 10;

async fn limited(store: &Arc<TestStore>) -> Repository {
    let options = OpenOptions { rate_limit: Some(RateLimit::new(RATE)), ..open_options(None) };
    Repository::open(Arc::clone(store) as _, &ctx(), options).await.unwrap()
}

fn large() -> Sample {
    pages("file", noise(&mut StdRng::seed_from_u64(1), 4 << 20), 4096, 1 << 20)
}

#[tokio::test(start_paused = true)]
async fn writing_and_reading_keep_to_the_rate() {
    let store = TestStore::new();
    make(&store, None).await;
    let repository = limited(&store).await;
    let sample = large();
    let began = Instant::now();
    let header = back_up(&repository, "t", None, std::slice::from_ref(&sample)).await.unwrap();
    let seconds = header.sizes.stored / RATE;
    let took = began.elapsed().as_secs();
    // The last pack is let through when those before it are paid.
    assert!(took + 20 >= seconds && took <= seconds + 2, "{took} s for {} bytes", header.sizes.stored);

    let began = Instant::now();
    let before = store.fetched();
    assert_holds(&repository, &header, &[sample]).await;
    let seconds = (store.fetched() - before) / RATE;
    let took = began.elapsed().as_secs();
    assert!(took + 40 >= seconds && took <= seconds + 22, "{took} s, {seconds} expected");
}

#[tokio::test(start_paused = true)]
async fn giving_up_does_not_wait_for_packs_that_stand_in_line() {
    let store = TestStore::new();
    make(&store, None).await;
    let repository = limited(&store).await;
    let writer = begin(&repository, "t", None).await.unwrap();
    write_all(&writer, &[large()]).await.unwrap();
    let began = Instant::now();
    repository.list(&ctx(), None).await.unwrap();
    writer.abandon(&ctx()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(repository.list(&ctx(), None).await.unwrap().incomplete.is_empty());
}
