//! A backup being read (§11): members in order, every byte compared with its digest.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{
    Error, ErrorKind, Layout, MemberSpec, OpContext, Progress, RestoreBlock, RestoreContent, Result,
    SourceDescription, TableFacts,
};
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

use crate::BackupHeader;
use crate::cpu::{joined, short_digest};
use crate::fetch::{Fetcher, FrameId};
use crate::index::PageReader;
use crate::lease::{Lease, Purpose};
use crate::map::MemberDigest;
use crate::page::{Directory, Extent, Inventory, MemberEntry, PackId, Root, SHORT_DIGEST};
use crate::repository::Repository;
use crate::writer::hash_key_of;

/// Content of the frames that one step of a restore holds.
const BATCH_BYTES: u64 = 8 << 20;
/// What a frame counts at least in a batch: extents do not say how large the frame around them is.
const FRAME_GUESS: u64 = 256 << 10;
/// Batches fetched ahead.
const AHEAD: usize = 2;

/// A backup being read. Its lease keeps deletion away and is renewed until [`close`](Self::close) or drop.
pub struct BackupReader {
    inner: Arc<Reading>,
    lease: Option<Lease>,
}

struct Reading {
    header: BackupHeader,
    root: Root,
    hash_key: [u8; 32],
    pages: PageReader,
    inventory: Inventory,
}

impl fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupReader").field("id", &self.inner.header.id).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens a backup for reading, under a lease. In a store that may only be read there is no lease, and a warning.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` when it is gone or marked, `Denied` without a key, `Corrupt`; the store's.
    pub async fn read(&self, ctx: &OpContext, header: &BackupHeader) -> Result<BackupReader> {
        self.read_for(ctx, header, Purpose::Read).await
    }

    pub(crate) async fn read_for(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        purpose: Purpose,
    ) -> Result<BackupReader> {
        let lease = ctx.run(self.lease_for(ctx, header, purpose)).await?;
        match ctx.run(self.open_reading(header)).await {
            Ok(inner) => Ok(BackupReader { inner: Arc::new(inner), lease }),
            Err(error) => {
                if let Some(lease) = lease {
                    lease.let_go().await;
                }
                Err(error)
            }
        }
    }

    async fn open_reading(&self, header: &BackupHeader) -> Result<Reading> {
        self.check_usable(&header.target, header.id).await?;
        let pages = PageReader { repository: Arc::clone(&self.inner), target: header.target.clone() };
        let root: Root = pages.read(&PageReader::root_of(header)).await?;
        let hash_key = hash_key_of(&root)?;
        let inventory = pages.inventory(header).await?;
        Ok(Reading { header: header.clone(), root, hash_key, pages, inventory })
    }

    /// A lease on a backup; `None` where the store may only be read.
    pub(crate) async fn lease_for(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        purpose: Purpose,
    ) -> Result<Option<Lease>> {
        let inner = &self.inner;
        match Lease::take(&inner.storage, inner.lifetime(), purpose, Some(&header.target), Some(header.id))
            .await
        {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.kind() == ErrorKind::Denied => {
                ctx.progress(Progress::Warning(
                    "the store may only be read: nothing keeps the backup from being deleted meanwhile"
                        .into(),
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl BackupReader {
    /// What `backup.json` says.
    #[must_use]
    pub fn header(&self) -> &BackupHeader {
        &self.inner.header
    }

    /// What was backed up.
    #[must_use]
    pub fn source(&self) -> &SourceDescription {
        &self.inner.root.source
    }

    /// What was recorded of the tables.
    #[must_use]
    pub fn tables(&self) -> &[TableFacts] {
        &self.inner.root.tables
    }

    /// What the source warned of.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.inner.root.warnings
    }

    /// Key of the content digests.
    #[must_use]
    pub fn digest_key(&self) -> [u8; 32] {
        self.inner.hash_key
    }

    /// The members with their sizes in bytes, in order of their names.
    ///
    /// # Errors
    /// `Corrupt`; the store's.
    pub async fn members(&self, ctx: &OpContext) -> Result<Vec<(MemberSpec, u64)>> {
        let mut members = Vec::new();
        for place in 0..self.inner.root.directories.len() {
            let directory = ctx.run(self.inner.directory(place)).await?;
            members.extend(directory.members.into_iter().map(|m| (m.spec, m.size)));
        }
        Ok(members)
    }

    /// The content of a member, in order; who consumes it reports the progress. The stream owns what it needs and
    /// holds a few dozen MiB at most; it is valid as long as the reader is open.
    #[must_use]
    pub fn content(&self, ctx: &OpContext, member_name: &str) -> RestoreContent {
        let inner = Arc::clone(&self.inner);
        let ctx = ctx.clone();
        let name = member_name.to_owned();
        async move {
            let (entry, packs) = ctx.run(inner.find(&name)).await?;
            Ok::<_, Error>(inner.content(ctx, entry, packs))
        }
        .try_flatten_stream()
        .boxed()
    }

    /// Ends the lease.
    ///
    /// # Errors
    /// The store's; the lease then runs out by itself.
    pub async fn close(self) -> Result<()> {
        match self.lease {
            Some(lease) => lease.release().await,
            None => Ok(()),
        }
    }

    /// Reads everything and compares it; gives one error for each member that does not hold.
    pub(crate) async fn check_all(&self, ctx: &OpContext) -> Result<Vec<Error>> {
        let mut failures = Vec::new();
        for place in 0..self.inner.root.directories.len() {
            let directory = match ctx.run(self.inner.directory(place)).await {
                Ok(directory) => directory,
                Err(error) if is_finding(&error) => {
                    failures.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for member in directory.members {
                let name = member.spec.name.clone();
                match self.check_member(ctx, member, directory.packs.clone()).await {
                    Ok(()) => {}
                    Err(error) if is_finding(&error) => failures.push(error.about(name)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(failures)
    }

    async fn check_member(&self, ctx: &OpContext, member: MemberEntry, packs: Vec<PackId>) -> Result<()> {
        let mut digest = MemberDigest::new(&self.inner.hash_key);
        let page = match member.spec.layout {
            Layout::Stream => None,
            Layout::Pages { page_bytes } => Some(u64::from(page_bytes)),
        };
        for piece in 0..PageReader::pieces(&member) {
            for extent in ctx.run(self.inner.pages.piece(&member, &packs, piece)).await? {
                for (i, short) in extent.digests.chunks(SHORT_DIGEST).enumerate() {
                    digest.add(extent.offset + i as u64 * page.unwrap_or(0), short);
                }
            }
        }
        if digest.finish(member.size).to_hex().as_str() != member.digest {
            return Err(Error::corrupt("the digest of the member does not hold"));
        }
        let mut content = Arc::clone(&self.inner).content(ctx.clone(), member, packs);
        while let Some(block) = ctx.run(content.try_next()).await? {
            ctx.progress(Progress::Bytes(block.bytes.len() as u64));
        }
        Ok(())
    }
}

/// Whether an error says something of the backup, not of the way to it.
pub(crate) fn is_finding(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid)
}

/// A task that stops when nobody waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Extents that are fetched together.
struct Batch {
    extents: Vec<Extent>,
    frames: Vec<FrameId>,
}

impl Reading {
    async fn directory(&self, place: usize) -> Result<Directory> {
        let wanted = &self.root.directories[place];
        let directory = self.pages.directory(&wanted.page).await?;
        if directory.members.len() == wanted.members as usize {
            return Ok(directory);
        }
        Err(Error::corrupt("a directory page has another number of members than the root says"))
    }

    async fn find(&self, name: &str) -> Result<(MemberEntry, Vec<PackId>)> {
        let missing = || Error::not_found("the backup has no such member").about(name);
        let after = self.root.directories.partition_point(|d| d.first.as_str() <= name);
        let directory = self.directory(after.checked_sub(1).ok_or_else(missing)?).await?;
        let entry = directory.members.into_iter().find(|m| m.spec.name == name).ok_or_else(missing)?;
        Ok((entry, directory.packs))
    }

    fn content(self: Arc<Self>, ctx: OpContext, entry: MemberEntry, packs: Vec<PackId>) -> RestoreContent {
        let fetcher = Arc::new(Fetcher::new(self.pages.clone(), &self.inventory));
        let key = self.hash_key;
        let layout = entry.spec.layout;
        let size = entry.size;
        let name = entry.spec.name.clone();
        let threads = self.pages.repository.cpu.clone();
        let fetched = Arc::clone(&self)
            .batches(entry, packs)
            .map(move |batch| {
                let (fetcher, cpu) = (Arc::clone(&fetcher), threads.clone());
                // A task of its own, so that it gets on while the consumer is busy.
                let task = batch.map(|batch| {
                    Task(tokio::spawn(async move {
                        let frames = fetcher.frames(&batch.frames).await?;
                        let (blocks, partly) = cpu.run(move || slice(&batch, frames, &key, layout)).await??;
                        fetcher.keep(partly.into_iter());
                        Ok::<_, Error>(blocks)
                    }))
                });
                async move {
                    let mut task = task?;
                    joined((&mut task.0).await)?
                }
            })
            .buffered(AHEAD)
            .map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok)))
            .try_flatten();
        let strict = layout == Layout::Stream;
        let mut at = 0;
        let checked = fetched.map(move |block| {
            let block: RestoreBlock = block?;
            let end = block.offset + block.bytes.len() as u64;
            if (strict && block.offset != at) || block.offset < at || end > size {
                return Err(Error::corrupt("the map of the member has a gap or an overlap"));
            }
            at = end;
            ctx.check()?;
            Ok((block, end))
        });
        // A stream that ends early is an error, not a short success.
        let mut last = 0;
        let ended = checked.map(Some).chain(stream::once(async { None })).filter_map(move |item| {
            let result = match item {
                Some(Ok((block, end))) => {
                    last = end;
                    Some(Ok(block))
                }
                Some(Err(error)) => {
                    last = size;
                    Some(Err(error))
                }
                None if strict && last != size => Some(Err(Error::corrupt("the member ends early"))),
                None => None,
            };
            std::future::ready(result)
        });
        // After an error nothing more comes.
        ended
            .scan(false, |failed, item| {
                let over = *failed;
                *failed |= item.is_err();
                std::future::ready((!over).then_some(item))
            })
            .map_err(move |e: Error| e.about(name.clone()))
            .boxed()
    }

    /// The extents of a member in batches of bounded size.
    fn batches(
        self: Arc<Self>,
        entry: MemberEntry,
        packs: Vec<PackId>,
    ) -> impl stream::Stream<Item = Result<Batch>> + Send + 'static {
        let pieces = PageReader::pieces(&entry);
        let source = Arc::new((entry, packs));
        stream::iter(0..pieces)
            .then(move |piece| {
                let (reading, source) = (Arc::clone(&self), Arc::clone(&source));
                async move { reading.pages.piece(&source.0, &source.1, piece).await }
            })
            .map_ok(|extents| stream::iter(cut(extents).into_iter().map(Ok)))
            .try_flatten()
    }
}

fn frame_of(extent: &Extent) -> FrameId {
    FrameId { pack: extent.pack, offset: extent.frame_offset, length: extent.frame_length }
}

fn cut(extents: Vec<Extent>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch { extents: Vec::new(), frames: Vec::new() };
    let mut seen: HashSet<FrameId> = HashSet::new();
    let mut cost = 0;
    for extent in extents {
        let frame = frame_of(&extent);
        if !seen.contains(&frame) {
            let more = FRAME_GUESS.max(u64::from(extent.inner) + u64::from(extent.length));
            if cost + more > BATCH_BYTES && !batch.extents.is_empty() {
                batches
                    .push(std::mem::replace(&mut batch, Batch { extents: Vec::new(), frames: Vec::new() }));
                seen.clear();
                cost = 0;
            }
            cost += more;
            seen.insert(frame);
            batch.frames.push(frame);
        }
        batch.extents.push(extent);
    }
    if !batch.extents.is_empty() {
        batches.push(batch);
    }
    batches
}

type Sliced = (Vec<RestoreBlock>, Vec<(FrameId, Bytes)>);

/// Cuts the extents out of their frames and compares them with their digests; gives also the frames that were used in
/// part only.
fn slice(batch: &Batch, frames: HashMap<FrameId, Bytes>, key: &[u8; 32], layout: Layout) -> Result<Sliced> {
    let mut used: HashMap<FrameId, usize> = HashMap::new();
    let mut blocks = Vec::with_capacity(batch.extents.len());
    for extent in &batch.extents {
        let id = frame_of(extent);
        let wrong =
            |why: &str| Error::corrupt(format!("the bytes {}..{} {why}", extent.offset, extent.end()));
        let frame = frames.get(&id).ok_or_else(|| Error::internal("a frame was not fetched"))?;
        let start = extent.inner as usize;
        let end = start + extent.length as usize;
        if end > frame.len() {
            return Err(wrong("lie behind the end of their frame"));
        }
        let bytes = frame.slice(start..end);
        let unit = match layout {
            Layout::Stream => bytes.len(),
            Layout::Pages { page_bytes } => page_bytes as usize,
        };
        let stated = extent.digests.chunks(SHORT_DIGEST);
        if stated.len() != bytes.len().div_ceil(unit)
            || !bytes.chunks(unit).zip(stated).all(|(part, digest)| short_digest(key, part) == digest)
        {
            return Err(wrong("are not what was written"));
        }
        *used.entry(id).or_default() += bytes.len();
        blocks.push(RestoreBlock { offset: extent.offset, bytes });
    }
    let partly =
        frames.into_iter().filter(|(id, content)| used.get(id).is_some_and(|n| *n < content.len())).collect();
    Ok((blocks, partly))
}
