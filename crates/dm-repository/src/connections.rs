//! The most requests to a store at once.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Lets so many requests be under way; clones share the number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Option<Arc<Semaphore>>);

impl Connections {
    /// At most so many, at least one; any number when `None`.
    pub(crate) fn new(most: Option<usize>) -> Self {
        Self(most.map(|most| Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)))))
    }

    /// A connection, for a request that is polled to its end.
    pub(crate) async fn take(&self) -> Result<Option<OwnedSemaphorePermit>> {
        match &self.0 {
            None => Ok(None),
            Some(connections) => Arc::clone(connections).acquire_owned().await.map(Some).map_err(generic),
        }
    }

    /// Makes a request when it is its turn. It is made in a task of its own: a connection must never lie in a future that
    /// nobody polls while somebody else waits for one. Dropping the future ends the request.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        if self.0.is_none() {
            return request.boxed();
        }
        let connections = self.clone();
        let mut task = Task(tokio::spawn(async move {
            let _connection = connections.take().await?;
            request.await
        }));
        async move { (&mut task.0).await.map_err(generic)? }.boxed()
    }
}

/// A task that ends with who waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "connections", source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_no_more() {
        for (most, expected) in [(Some(3), 3), (Some(0), 1), (None, 12)] {
            let connections = Connections::new(most);
            let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let requests = (0..12).map(|_| {
                let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
                connections.run(async move {
                    peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
            });
            let done = futures::future::join_all(requests.collect::<Vec<_>>()).await;
            assert!(done.iter().all(Result::is_ok));
            assert_eq!(peak.load(Ordering::SeqCst), expected);
        }
    }

    /// With one connection: a stream of requests that rests between two of them lets others get on.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_polls_gets_on() {
        let connections = Connections::new(Some(1));
        let request = || {
            connections.run(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            })
        };
        let mut stream = futures::stream::iter(0..4).map(|_| request()).buffer_unordered(2);
        let mut done = 0;
        while stream.next().await.is_some() {
            request().await.unwrap();
            done += 1;
        }
        assert_eq!(done, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_frees_the_connection() {
        let connections = Connections::new(Some(1));
        let hanging = connections.run(std::future::pending::<Result<()>>());
        assert!(tokio::time::timeout(Duration::from_secs(1), hanging).await.is_err());
        connections.run(async { Ok(()) }).await.unwrap();
    }
}
