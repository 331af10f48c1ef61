//! A store in memory whose n-th call fails, and that can be looked into and spoilt.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

#[derive(Debug, Default)]
struct Shared {
    calls: AtomicU64,
    /// The call that fails, counted from 1; 0 for none.
    fail_at: AtomicU64,
    /// Every later call fails as well: the store is gone.
    for_good: AtomicBool,
}

#[derive(Clone, Debug)]
pub(crate) struct FaultStore {
    inner: Arc<InMemory>,
    shared: Arc<Shared>,
}

impl std::fmt::Display for FaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultStore")
    }
}

impl FaultStore {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(InMemory::new()), shared: Arc::default() }
    }

    pub(crate) fn fail_at(&self, call: u64, for_good: bool) {
        self.shared.calls.store(0, Ordering::SeqCst);
        self.shared.for_good.store(for_good, Ordering::SeqCst);
        self.shared.fail_at.store(call, Ordering::SeqCst);
    }

    /// Stops failing; gives whether a call failed.
    pub(crate) fn heal(&self) -> bool {
        let at = self.shared.fail_at.swap(0, Ordering::SeqCst);
        self.shared.calls.load(Ordering::SeqCst) >= at
    }

    /// Keys with this in them.
    pub(crate) async fn keys(&self, part: &str) -> Vec<Path> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        all.into_iter().map(|m| m.location).filter(|p| p.as_ref().contains(part)).collect()
    }

    /// Flips a bit in the middle of an object.
    pub(crate) async fn spoil(&self, key: &Path) {
        let mut bytes = self.inner.get(key).await.unwrap().bytes().await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.inner.put(key, bytes.into()).await.unwrap();
    }

    fn call(&self, key: &str) -> Result<()> {
        let n = self.shared.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let at = self.shared.fail_at.load(Ordering::SeqCst);
        if at != 0 && (n == at || (n > at && self.shared.for_good.load(Ordering::SeqCst))) {
            // Not of the sort that is tried again.
            return Err(Error::PermissionDenied { path: key.to_owned(), source: "ordered failure".into() });
        }
        Ok(())
    }

    fn listing(&self, prefix: Option<&Path>) -> Result<()> {
        self.call(prefix.map_or("", |p| p.as_ref()))
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.call(key.as_ref())?;
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(key.as_ref())?;
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(key.as_ref())?;
        self.inner.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call(key.as_ref())?;
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let keys = keys.and_then(move |key| {
            let allowed = this.call(key.as_ref()).map(|()| key);
            async move { allowed }
        });
        self.inner.delete_stream(keys.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.listing(prefix) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.listing(prefix) {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.listing(prefix)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(to.as_ref())?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.call(to.as_ref())?;
        self.inner.rename_opts(from, to, options).await
    }
}
