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
use futures::{StreamExt, TryFutureExt, TryStreamExt};
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

/// What all programs see of the store.
#[derive(Debug)]
struct Data {
    objects: InMemory,
    clock_ms: AtomicU64,
    times: Mutex<HashMap<Path, DateTime<Utc>>>,
    /// Takes create-only PUTs for plain ones.
    lies: bool,
    /// Lets nothing be deleted or overwritten.
    append_only: bool,
    overwritten: AtomicUsize,
}

/// The store as one program sees it: its calls are counted, fail or wait apart from those of others.
#[derive(Debug)]
pub struct TestStore {
    inner: Arc<Data>,
    calls: Arc<AtomicUsize>,
    listed: Arc<AtomicUsize>,
    fetched: Arc<AtomicU64>,
    stored: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<(usize, Fault)>>>,
    gate: NextGate,
}

/// The call that stands still, and where.
type NextGate = Arc<Mutex<Option<(usize, Arc<Gate>)>>>;

/// Where a program stands still.
#[derive(Debug)]
pub struct Gate {
    reached: tokio::sync::Semaphore,
    open: tokio::sync::Semaphore,
}

impl Gate {
    /// Waits until the program stands at the gate.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub fn open(&self) {
        self.open.add_permits(1);
    }
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
        Self::of(lies, false)
    }

    /// A store whose credentials may write and read, and nothing else.
    pub fn append_only() -> Arc<Self> {
        Self::of(false, true)
    }

    /// Objects that were written a second time, copied over, or deleted.
    pub fn overwritten(&self) -> usize {
        self.inner.overwritten.load(Ordering::SeqCst)
    }

    fn of(lies: bool, append_only: bool) -> Arc<Self> {
        let data = Data {
            objects: InMemory::new(),
            clock_ms: AtomicU64::new(1_800_000_000_000),
            times: Mutex::default(),
            lies,
            append_only,
            overwritten: AtomicUsize::new(0),
        };
        Self::over(Arc::new(data))
    }

    fn over(inner: Arc<Data>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            calls: Arc::default(),
            listed: Arc::default(),
            fetched: Arc::default(),
            stored: Arc::default(),
            sent: Arc::default(),
            fault: Arc::default(),
            gate: Arc::default(),
        })
    }

    /// The same objects as another program sees them.
    pub fn fork(&self) -> Arc<Self> {
        Self::over(Arc::clone(&self.inner))
    }

    fn same(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            calls: Arc::clone(&self.calls),
            listed: Arc::clone(&self.listed),
            fetched: Arc::clone(&self.fetched),
            stored: Arc::clone(&self.stored),
            sent: Arc::clone(&self.sent),
            fault: Arc::clone(&self.fault),
            gate: Arc::clone(&self.gate),
        }
    }

    /// Stands still at the n-th call from now, before it is done.
    pub fn pause(&self, n: usize) -> Arc<Gate> {
        let gate =
            Arc::new(Gate { reached: tokio::sync::Semaphore::new(0), open: tokio::sync::Semaphore::new(0) });
        *self.gate.lock().unwrap() = Some((self.calls() + n, Arc::clone(&gate)));
        gate
    }

    pub fn now(&self) -> DateTime<Utc> {
        Utc.timestamp_millis_opt(self.inner.clock_ms.load(Ordering::SeqCst) as i64).unwrap()
    }

    pub fn advance(&self, seconds: u64) {
        self.inner.clock_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Names that were listed.
    pub fn listed(&self) -> usize {
        self.listed.load(Ordering::SeqCst)
    }

    /// Bytes of packs that were fetched.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::SeqCst)
    }

    /// Bytes of packs that were stored.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::SeqCst)
    }

    /// Bytes of all objects that were stored.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
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
        let list: Vec<ObjectMeta> = self.inner.objects.list(None).try_collect().await.unwrap();
        let mut all = Vec::new();
        for meta in list {
            let bytes = self.inner.objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
            all.push((meta.location, bytes));
        }
        all
    }

    /// Overwrites an object behind everybody's back; its time stays.
    pub async fn poke(&self, key: &Path, bytes: Bytes) {
        self.inner.objects.put(key, bytes.into()).await.unwrap();
    }

    pub async fn lose(&self, key: &Path) {
        self.inner.objects.delete(key).await.unwrap();
    }

    async fn step(&self) -> Option<Fault> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().take_if(|(at, _)| *at == n);
        if let Some((_, gate)) = gate {
            gate.reached.add_permits(1);
            gate.open.acquire().await.unwrap().forget();
        }
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

    /// Puts everything back as it was dumped.
    pub async fn restore(&self, objects: &[(Path, Bytes)]) {
        for (key, _) in self.dump().await {
            self.lose(&key).await;
        }
        for (key, bytes) in objects {
            self.poke(key, bytes.clone()).await;
        }
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = self.inner.times.lock().unwrap().get(&meta.location) {
            meta.last_modified = *time;
        }
        meta
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.step().await;
        if let Some(fault @ (Fault::Dead | Fault::Before)) = fault {
            return Err(Self::error(fault));
        }
        if self.inner.lies {
            options.mode = PutMode::Overwrite;
        }
        if options.mode == PutMode::Overwrite && self.inner.objects.head(key).await.is_ok() {
            self.inner.overwritten.fetch_add(1, Ordering::SeqCst);
        }
        let bytes = payload.content_length() as u64;
        let result = self.inner.objects.put_opts(key, payload, options).await?;
        self.sent.fetch_add(bytes, Ordering::SeqCst);
        if key.as_ref().contains("/packs/") {
            self.stored.fetch_add(bytes, Ordering::SeqCst);
        }
        self.inner.times.lock().unwrap().insert(key.clone(), self.now());
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
        self.inner.objects.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(fault) = self.step().await {
            return Err(Self::error(fault));
        }
        let mut result = self.inner.objects.get_opts(key, options).await?;
        result.meta = self.dated(result.meta);
        if key.as_ref().contains("/packs/") {
            self.fetched.fetch_add(result.range.end - result.range.start, Ordering::SeqCst);
        }
        Ok(result)
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(fault) = self.step().await {
            return Err(Self::error(fault));
        }
        self.inner.objects.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.same();
        async move {
            match this.step().await {
                Some(fault) => Err(Self::error(fault)),
                None if this.inner.append_only => {
                    Err(Error::PermissionDenied { path: "delete".into(), source: "append-only".into() })
                }
                None => Ok(this.inner.objects.delete_stream(keys)),
            }
        }
        .try_flatten_stream()
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.same();
        let prefix = prefix.cloned();
        async move {
            if let Some(fault) = this.step().await {
                return Err(Self::error(fault));
            }
            let listed: Vec<ObjectMeta> = this.inner.objects.list(prefix.as_ref()).try_collect().await?;
            this.listed.fetch_add(listed.len(), Ordering::SeqCst);
            let dated: Vec<_> = listed.into_iter().map(|o| Ok(this.dated(o))).collect();
            Ok(futures::stream::iter(dated))
        }
        .try_flatten_stream()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if let Some(fault) = self.step().await {
            return Err(Self::error(fault));
        }
        let mut result = self.inner.objects.list_with_delimiter(prefix).await?;
        result.objects = result.objects.into_iter().map(|o| self.dated(o)).collect();
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.step().await;
        if let Some(fault @ (Fault::Dead | Fault::Before)) = fault {
            return Err(Self::error(fault));
        }
        self.inner.objects.copy_opts(from, to, options).await?;
        self.inner.times.lock().unwrap().insert(to.clone(), self.now());
        match fault {
            Some(fault) => Err(Self::error(fault)),
            None => Ok(()),
        }
    }
}
