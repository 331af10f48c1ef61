//! A store whose clock, faults and honesty the test controls.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeZone, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This call and every later one fails: the program was killed here.
    Dead,
    /// This call fails once, before anything happened.
    Before,
    /// This call fails once, after it was done.
    After,
}

/// The store of the tests.
#[derive(Debug)]
pub struct TestStore {
    inner: InMemory,
    clock_ms: AtomicU64,
    times: Mutex<HashMap<Path, DateTime<Utc>>>,
    calls: AtomicUsize,
    fault: Mutex<Option<(usize, Fault)>>,
    /// Takes create-only PUTs for plain ones.
    pub lies: bool,
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test store")
    }
}

impl TestStore {
    pub fn new() -> Arc<Self> {
        Self::with_lies(false)
    }

    pub fn with_lies(lies: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            clock_ms: AtomicU64::new(1_800_000_000_000),
            times: Mutex::default(),
            calls: AtomicUsize::new(0),
            fault: Mutex::new(None),
            lies,
        })
    }

    pub fn now(&self) -> DateTime<Utc> {
        Utc.timestamp_millis_opt(self.clock_ms.load(Ordering::SeqCst) as i64).unwrap()
    }

    pub fn advance(&self, seconds: u64) {
        self.clock_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Fails the n-th call from now (counted from zero).
    pub fn fail(&self, n: usize, fault: Fault) {
        *self.fault.lock().unwrap() = Some((self.calls() + n, fault));
    }

    pub fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// Every object.
    pub async fn dump(&self) -> Vec<(Path, Bytes)> {
        let list: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        let mut all = Vec::new();
        for meta in list {
            let bytes = self.inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
            all.push((meta.location, bytes));
        }
        all
    }

    /// Overwrites an object behind everybody's back; its time stays.
    pub async fn poke(&self, key: &Path, bytes: Bytes) {
        self.inner.put(key, bytes.into()).await.unwrap();
    }

    pub async fn lose(&self, key: &Path) {
        self.inner.delete(key).await.unwrap();
    }

    fn step(&self) -> Option<Fault> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Some((at, Fault::Dead)) if n >= at => Some(Fault::Dead),
            Some((at, other)) if n == at => {
                *fault = None;
                Some(other)
            }
            _ => None,
        }
    }

    fn error(fault: Fault) -> object_store::Error {
        // A kind that is not retried for the killed program, one that is for the passing fault.
        let kind = if fault == Fault::Dead {
            std::io::ErrorKind::StorageFull
        } else {
            std::io::ErrorKind::ConnectionReset
        };
        object_store::Error::Generic { store: "test", source: Box::new(std::io::Error::from(kind)) }
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = self.times.lock().unwrap().get(&meta.location) {
            meta.last_modified = *time;
        }
        meta
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.step();
        if let Some(fault @ (Fault::Dead | Fault::Before)) = fault {
            return Err(Self::error(fault));
        }
        if self.lies {
            options.mode = PutMode::Overwrite;
        }
        let result = self.inner.put_opts(key, payload, options).await?;
        self.times.lock().unwrap().insert(key.clone(), self.now());
        match fault {
            Some(fault) => Err(Self::error(fault)),
            None => Ok(result),
        }
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(fault) = self.step() {
            return Err(Self::error(fault));
        }
        let mut result = self.inner.get_opts(key, options).await?;
        result.meta = self.dated(result.meta);
        Ok(result)
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(fault) = self.step() {
            return Err(Self::error(fault));
        }
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if let Some(fault) = self.step() {
            return futures::stream::once(async move { Err(Self::error(fault)) }).boxed();
        }
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Some(fault) = self.step() {
            return futures::stream::once(async move { Err(Self::error(fault)) }).boxed();
        }
        let times = self.times.lock().unwrap().clone();
        self.inner
            .list(prefix)
            .map_ok(move |mut meta| {
                if let Some(time) = times.get(&meta.location) {
                    meta.last_modified = *time;
                }
                meta
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if let Some(fault) = self.step() {
            return Err(Self::error(fault));
        }
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        result.objects = result.objects.into_iter().map(|o| self.dated(o)).collect();
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
