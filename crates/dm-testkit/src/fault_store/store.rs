//! The wrapper.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use tokio::sync::watch;

use super::rule::Armed;
use super::upload::FaultUpload;
use super::{Call, Fault, Operation, Rule};

/// An [`ObjectStore`] around another one. Clones share the counters and the rules.
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    book: Mutex<Book>,
    /// Calls that wait, and a number that grows with each release.
    held: watch::Sender<(usize, u64)>,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    rules: Vec<Armed>,
}

/// What happens around and after a call that is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) truncate: bool,
    pub(super) corrupt: bool,
    pub(super) lose_answer: bool,
    pub(super) repeat: bool,
}

impl FaultStore {
    /// Wraps a store; troubles nothing until told to.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        let state = State { book: Mutex::default(), held: watch::Sender::new((0, 0)) };
        Self { inner, state: Arc::new(state) }
    }

    /// The store underneath, without faults: to look at, or to damage by hand.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner)
    }

    /// Adds a rule. It counts calls from now on.
    pub fn inject(&self, rule: Rule) {
        self.book().rules.push(Armed::new(rule));
    }

    /// Removes all rules and lets all held calls go on.
    pub fn heal(&self) {
        self.book().rules.clear();
        self.release();
    }

    /// The number of calls made, troubled ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.book().calls.len() as u64
    }

    /// The calls in the order they began.
    #[must_use]
    pub fn log(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    /// Forgets the calls made so far; rules keep their own counts.
    pub fn reset_log(&self) {
        self.book().calls.clear();
    }

    /// Waits until so many calls are held by [`Fault::Hold`]. Wrap it in a timeout.
    pub async fn held(&self, count: usize) {
        let mut changes = self.state.held.subscribe();
        // The sender lives in `self`, so this cannot fail while we wait.
        let _ = changes.wait_for(|(held, _)| *held >= count).await;
    }

    /// Lets the calls held now go on. The rule stays: the next call is held again.
    pub fn release(&self) {
        self.state.held.send_modify(|(_, releases)| *releases += 1);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.state.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what happens to it.
    pub(super) fn decide(&self, operation: Operation, path: &Path) -> Option<Fault> {
        let mut book = self.book();
        let number = book.calls.len() as u64 + 1;
        book.calls.push(Call { number, operation, path: path.clone() });
        // Every rule counts the call, the first one whose turn it is acts.
        let mut turns = book.rules.iter_mut().filter_map(|armed| armed.meet(operation, path));
        let first = turns.next();
        turns.for_each(drop);
        first
    }

    /// Lets the trouble come over a call, up to the point where the call itself is made.
    pub(super) async fn suffer(&self, fault: Option<Fault>, path: &Path) -> Result<Trouble> {
        match fault {
            None => Ok(Trouble::default()),
            Some(Fault::Fail) => Err(injected("the call failed")),
            Some(Fault::Deny) => {
                Err(Error::PermissionDenied { path: path.to_string(), source: "an injected fault".into() })
            }
            Some(Fault::FullDisk) => Err(Error::Generic {
                store: "FaultStore",
                source: std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
            }),
            Some(Fault::LoseAnswer) => Ok(Trouble { lose_answer: true, ..Trouble::default() }),
            Some(Fault::Repeat) => Ok(Trouble { repeat: true, ..Trouble::default() }),
            Some(Fault::Truncate) => Ok(Trouble { truncate: true, ..Trouble::default() }),
            Some(Fault::Corrupt) => Ok(Trouble { corrupt: true, ..Trouble::default() }),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(Trouble::default())
            }
            Some(Fault::Hold) => {
                let mut changes = self.state.held.subscribe();
                let (_, releases) = *changes.borrow_and_update();
                let _waiting = Waiting::new(&self.state.held);
                // The sender lives in `self`, so this cannot fail while we wait.
                let _ = changes.wait_for(|(_, now)| *now > releases).await;
                Ok(Trouble::default())
            }
        }
    }

    async fn begin(&self, operation: Operation, path: &Path) -> Result<Trouble> {
        let fault = self.decide(operation, path);
        self.suffer(fault, path).await
    }
}

/// Counts as held for as long as it lives, also when the caller gives up waiting.
struct Waiting<'a>(&'a watch::Sender<(usize, u64)>);

impl<'a> Waiting<'a> {
    fn new(held: &'a watch::Sender<(usize, u64)>) -> Self {
        held.send_modify(|(count, _)| *count += 1);
        Self(held)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|(count, _)| *count -= 1);
    }
}

pub(super) fn finish<T>(trouble: Trouble, answer: Result<T>) -> Result<T> {
    match answer {
        Ok(_) if trouble.lose_answer => Err(injected("the answer was lost")),
        answer => answer,
    }
}

fn injected(what: &str) -> Error {
    Error::Generic { store: "FaultStore", source: format!("{what} (injected)").into() }
}

fn damage(bytes: &Bytes, trouble: Trouble) -> Bytes {
    if trouble.truncate {
        return bytes.slice(..bytes.len() / 2);
    }
    let mut copy = bytes.to_vec();
    let middle = copy.len() / 2;
    if let (true, Some(byte)) = (trouble.corrupt, copy.get_mut(middle)) {
        *byte ^= 0x10;
    }
    copy.into()
}

pub(super) fn damage_payload(payload: PutPayload, trouble: Trouble) -> PutPayload {
    if trouble.truncate || trouble.corrupt { damage(&payload.into(), trouble).into() } else { payload }
}

async fn damage_result(result: GetResult, trouble: Trouble) -> Result<GetResult> {
    if !(trouble.truncate || trouble.corrupt) {
        return Ok(result);
    }
    // Length and range are said as before: the damage shows only in the bytes.
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
    let bytes = damage(&result.bytes().await?, trouble);
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let trouble = self.begin(Operation::Put, location).await?;
        if trouble.repeat {
            // What the first time answers is what nobody hears.
            let _ = self.inner.put_opts(location, payload.clone(), opts.clone()).await;
        }
        finish(trouble, self.inner.put_opts(location, damage_payload(payload, trouble), opts).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let trouble = self.begin(Operation::PutMultipart, location).await?;
        let inner = finish(trouble, self.inner.put_multipart_opts(location, opts).await)?;
        Ok(Box::new(FaultUpload { inner, path: location.clone(), store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        let trouble = self.begin(operation, location).await?;
        let result = finish(trouble, self.inner.get_opts(location, options).await)?;
        if operation == Operation::Head { Ok(result) } else { damage_result(result, trouble).await }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let trouble = self.begin(Operation::GetRanges, location).await?;
        let all = finish(trouble, self.inner.get_ranges(location, ranges).await)?;
        if trouble == Trouble::default() {
            return Ok(all);
        }
        Ok(all.iter().map(|bytes| damage(bytes, trouble)).collect())
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let trouble = store.begin(Operation::Delete, &location).await?;
                    if trouble.repeat {
                        let _ = store.inner.delete(&location).await;
                    }
                    finish(trouble, store.inner.delete(&location).await)?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let trouble = self.begin(Operation::List, &path).await?;
        let mut result = finish(trouble, self.inner.list_with_delimiter(prefix).await)?;
        if trouble.truncate {
            result.objects.truncate(result.objects.len() / 2);
            result.common_prefixes.truncate(result.common_prefixes.len() / 2);
        }
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let trouble = self.begin(Operation::Copy, to).await?;
        if trouble.repeat {
            let _ = self.inner.copy_opts(from, to, options.clone()).await;
        }
        finish(trouble, self.inner.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let trouble = self.begin(Operation::Rename, to).await?;
        finish(trouble, self.inner.rename_opts(from, to, options).await)
    }
}

impl FaultStore {
    fn listing(&self, prefix: Option<&Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let lines = async move {
            let path = prefix.clone().unwrap_or_default();
            let trouble = store.begin(Operation::List, &path).await?;
            let lines = match &offset {
                Some(offset) => store.inner.list_with_offset(prefix.as_ref(), offset),
                None => store.inner.list(prefix.as_ref()),
            };
            if trouble == Trouble::default() {
                return Ok::<_, Error>(lines);
            }
            let mut all: Vec<ObjectMeta> = finish(trouble, lines.try_collect().await)?;
            if trouble.truncate {
                all.truncate(all.len() / 2);
            }
            Ok(futures::stream::iter(all.into_iter().map(Ok)).boxed())
        };
        futures::stream::once(lines).try_flatten().boxed()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}
