//! A limit of bytes a second, shared by all transfers of a program.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Objects up to this size are counted but never wait: a lease must not come late because packs stand in line.
const FREE_BYTES: u64 = 64 << 10;

/// The most bytes a second to and from repositories; clones share one budget. Objects pass whole: after one has passed, the
/// next waits for as long as its bytes take at this rate.
#[derive(Clone, Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Transfers wait in line, in the order in which they came.
    line: tokio::sync::Mutex<()>,
    /// When everything that passed so far is paid.
    paid: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit of its own.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), inner: Arc::default() }
    }

    /// The limit in bytes a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Waits until a transfer of this size may begin, and counts it. Dropping the future counts nothing.
    pub(crate) async fn pass(&self, bytes: u64) {
        if bytes > FREE_BYTES {
            self.wait().await;
        }
        self.count(bytes);
    }

    /// Waits until what passed is paid: before a transfer whose size is known only afterwards.
    pub(crate) async fn wait(&self) {
        let _turn = self.inner.line.lock().await;
        loop {
            let paid = *self.inner.paid.lock().unwrap_or_else(PoisonError::into_inner);
            match paid {
                // Small objects may pass meanwhile, and move the time on.
                Some(paid) if paid > Instant::now() => tokio::time::sleep_until(paid).await,
                _ => return,
            }
        }
    }

    /// Counts bytes that passed.
    pub(crate) fn count(&self, bytes: u64) {
        let mut paid = self.inner.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        #[allow(clippy::cast_precision_loss)]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *paid = Some(paid.map_or(now, |paid| paid.max(now)) + takes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_transfers_at_once_keep_the_rate_and_wait_no_longer_than_needed() {
        let limit = RateLimit::new(1 << 20);
        let began = Instant::now();
        let transfers = (0..40).map(|_| {
            let limit = limit.clone();
            tokio::spawn(async move { limit.pass(512 << 10).await })
        });
        futures::future::join_all(transfers.collect::<Vec<_>>()).await;
        // Forty halves of a MiB; the last one began when the others were paid.
        let took = began.elapsed();
        assert!((19.4..19.6).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn small_objects_do_not_wait_and_are_counted() {
        let limit = RateLimit::new(64 << 10);
        limit.pass(640 << 10).await;
        let began = Instant::now();
        for _ in 0..10 {
            limit.pass(64 << 10).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        limit.pass((64 << 10) + 1).await;
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_costs_the_others_nothing() {
        let limit = RateLimit::new(1 << 20);
        limit.pass(10 << 20).await;
        let began = Instant::now();
        for _ in 0..3 {
            let gave_up = tokio::time::timeout(Duration::from_secs(1), limit.pass(100 << 20)).await;
            assert!(gave_up.is_err());
        }
        limit.pass(1 << 20).await;
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_not_saved_up() {
        let limit = RateLimit::new(1 << 20);
        limit.pass(1 << 20).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        limit.pass(5 << 20).await;
        limit.pass(1 << 20).await;
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}
