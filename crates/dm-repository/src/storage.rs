//! The few calls that the format needs of a store, with retries and one meaning for every failure.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use dm_core::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use crate::RateLimit;
use crate::connections::Connections;
use crate::error::{is_transient, store_error};

/// What came of a create-only PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object holds our bytes now.
    Ours,
    /// There was one with other bytes before.
    Taken,
}

#[derive(Clone, Debug)]
pub(crate) struct Storage {
    store: Arc<dyn ObjectStore>,
    /// Whether the store knows create-only PUTs at all (it may still not honour them).
    knows_create: bool,
    rate: Option<RateLimit>,
    connections: Connections,
}

/// How passing failures are tried again: six times in all, over some seconds.
pub(crate) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(5)
        .with_jitter()
}

impl Storage {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, knows_create: true, rate: None, connections: Connections::default() }
    }

    /// The same with a limit of bytes a second.
    pub(crate) fn with_rate(mut self, rate: Option<RateLimit>) -> Self {
        self.rate = rate;
        self
    }

    /// The same with so many requests at once.
    pub(crate) fn with_connections(mut self, most: Option<usize>) -> Self {
        self.connections = Connections::new(most);
        self
    }

    /// The same for a lease, which must not come late because packs stand in line: it has a connection of its own.
    pub(crate) fn for_lease(&self) -> Self {
        Self { connections: Connections::default(), ..self.clone() }
    }

    /// The same without create-only PUTs, for a store that answers them with "not implemented".
    pub(crate) fn without_create(mut self) -> Self {
        self.knows_create = false;
        self
    }

    /// Waits until the limit of bytes a second lets so many pass.
    pub(crate) async fn admit(&self, bytes: u64) {
        if let Some(rate) = &self.rate {
            rate.pass(bytes).await;
        }
    }

    /// Creates an object. A PUT whose outcome is unknown is made again; finding our own bytes there is success.
    pub(crate) async fn create(&self, key: &Path, bytes: Bytes) -> Result<Created> {
        self.admit(bytes.len() as u64).await;
        self.create_admitted(key, bytes).await
    }

    /// The same for an object that was [admitted](Self::admit) before.
    pub(crate) async fn create_admitted(&self, key: &Path, bytes: Bytes) -> Result<Created> {
        self.create_named(key, bytes).await.map(|(created, _)| created)
    }

    /// The same; gives what the store calls the bytes that lie there now.
    async fn create_named(&self, key: &Path, bytes: Bytes) -> Result<(Created, Option<String>)> {
        let put = || {
            let (store, key, bytes) = (Arc::clone(&self.store), key.clone(), bytes.clone());
            let knows_create = self.knows_create;
            self.connections.run(async move {
                let mode = if knows_create {
                    PutMode::Create
                } else {
                    match store.head(&key).await {
                        Ok(_) => {
                            return Err(StoreError::AlreadyExists {
                                path: key.to_string(),
                                source: "exists".into(),
                            });
                        }
                        Err(StoreError::NotFound { .. }) => PutMode::Overwrite,
                        Err(error) => return Err(error),
                    }
                };
                let options = PutOptions { mode, ..PutOptions::default() };
                store.put_opts(&key, PutPayload::from_bytes(bytes), options).await
            })
        };
        match put.retry(backoff()).when(is_transient).await {
            Ok(put) => Ok((Created::Ours, put.e_tag)),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                let there = self.head(key).await?;
                let same = there.size == bytes.len() as u64 && self.get(key).await? == bytes;
                Ok((if same { Created::Ours } else { Created::Taken }, there.e_tag))
            }
            Err(error) => Err(store_error(error, key.as_ref())),
        }
    }

    /// Creates an object under a key that nobody else can have chosen.
    pub(crate) async fn create_own(&self, key: &Path, bytes: Bytes) -> Result<()> {
        self.admit(bytes.len() as u64).await;
        self.create_own_admitted(key, bytes).await.map(drop)
    }

    /// The same for an object that was [admitted](Self::admit) before. Gives what the store calls these bytes, if anything.
    pub(crate) async fn create_own_admitted(&self, key: &Path, bytes: Bytes) -> Result<Option<String>> {
        match self.create_named(key, bytes).await? {
            (Created::Ours, etag) => Ok(etag),
            (Created::Taken, _) => Err(Error::new(ErrorKind::Conflict, "somebody else wrote this object")
                .about(key.as_ref())
                .with_hint(
                    "a folder of the repository is being written by two programs, or was copied over",
                )),
        }
    }

    /// Lets the store copy an object to a key that nobody else can have chosen: nothing is sent.
    pub(crate) async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let copy = || {
            let (store, from, to) = (Arc::clone(&self.store), from.clone(), to.clone());
            self.connections.run(async move { store.copy(&from, &to).await })
        };
        copy.retry(backoff()).when(is_transient).await.map_err(|error| store_error(error, from.as_ref()))
    }

    /// One bare create-only PUT: for the probe.
    pub(crate) async fn try_create(&self, key: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(key, PutPayload::from_bytes(bytes), options).await.map(drop)
    }

    /// A small object: counted, but not held up.
    pub(crate) async fn get(&self, key: &Path) -> Result<Bytes> {
        let get = || {
            let (store, key) = (Arc::clone(&self.store), key.clone());
            self.connections.run(async move { store.get(&key).await?.bytes().await })
        };
        let bytes = get
            .retry(backoff())
            .when(is_transient)
            .await
            .map_err(|error| store_error(error, key.as_ref()))?;
        if let Some(rate) = &self.rate {
            rate.count(bytes.len() as u64);
        }
        Ok(bytes)
    }

    /// An object, or `None` when there is none.
    pub(crate) async fn find(&self, key: &Path) -> Result<Option<Bytes>> {
        match self.get(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A large object, under the limit of bytes a second.
    pub(crate) async fn get_large(&self, key: &Path) -> Result<Bytes> {
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        self.get(key).await
    }

    pub(crate) async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes> {
        let length = range.end - range.start;
        self.admit(length).await;
        let get = || {
            let (store, key, range) = (Arc::clone(&self.store), key.clone(), range.clone());
            self.connections.run(async move { store.get_range(&key, range).await })
        };
        let bytes = get
            .retry(backoff())
            .when(is_transient)
            .await
            .map_err(|error| store_error(error, key.as_ref()))?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!("the object ends before byte {}", range.end)).about(key.as_ref()))
    }

    pub(crate) async fn head(&self, key: &Path) -> Result<ObjectMeta> {
        let head = || {
            let (store, key) = (Arc::clone(&self.store), key.clone());
            self.connections.run(async move { store.head(&key).await })
        };
        head.retry(backoff()).when(is_transient).await.map_err(|error| store_error(error, key.as_ref()))
    }

    pub(crate) async fn exists(&self, key: &Path) -> Result<bool> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every object below a folder, to the end of the listing or an error: never a part of it.
    pub(crate) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>> {
        self.list_as(folder, |object| object).await
    }

    /// The same, keeping only what is made of each object: a long listing in little memory.
    pub(crate) async fn list_as<T>(&self, folder: &Path, each: impl Fn(ObjectMeta) -> T) -> Result<Vec<T>> {
        let list = || async {
            // Whoever lists waits for the end of it, and for nothing else.
            let _connection = self.connections.take().await?;
            self.store.list(Some(folder)).map_ok(&each).try_collect::<Vec<_>>().await
        };
        match list.retry(backoff()).when(is_transient).await {
            Ok(objects) => Ok(objects),
            Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(store_error(error, folder.as_ref())),
        }
    }

    /// The names directly below a folder: of folders, and of objects.
    pub(crate) async fn children(&self, folder: Option<&Path>) -> Result<(Vec<String>, Vec<String>)> {
        let list = || {
            let (store, folder) = (Arc::clone(&self.store), folder.cloned());
            self.connections.run(async move { store.list_with_delimiter(folder.as_ref()).await })
        };
        let listed = match list.retry(backoff()).when(is_transient).await {
            Ok(listed) => listed,
            Err(StoreError::NotFound { .. }) => return Ok((Vec::new(), Vec::new())),
            Err(error) => return Err(store_error(error, folder.map_or("", AsRef::as_ref))),
        };
        let folders = listed.common_prefixes.iter().filter_map(Path::filename).map(str::to_owned).collect();
        let objects =
            listed.objects.iter().filter_map(|o| o.location.filename()).map(str::to_owned).collect();
        Ok((folders, objects))
    }

    /// Deletes objects; one that is gone already is no failure.
    pub(crate) async fn delete(&self, keys: Vec<Path>) -> Result<()> {
        for key in &keys {
            let delete = || {
                let (store, key) = (Arc::clone(&self.store), key.clone());
                self.connections.run(async move { store.delete(&key).await })
            };
            match delete.retry(backoff()).when(is_transient).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(store_error(error, key.as_ref())),
            }
        }
        Ok(())
    }

    /// Deletes many objects of a dead folder, in whatever order the store likes: as one request where it takes many keys at once.
    pub(crate) async fn delete_all(&self, keys: Vec<Path>) -> Result<()> {
        let store = Arc::clone(&self.store);
        let deleting = self.connections.run(async move {
            let mut deleted = store.delete_stream(futures::stream::iter(keys.into_iter().map(Ok)).boxed());
            while let Some(result) = deleted.next().await {
                match result {
                    Ok(_) | Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        deleting.await.map_err(|error| store_error(error, "delete"))
    }
}
