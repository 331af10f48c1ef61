//! Fetching frames: ranged reads, coalesced, decrypted and decompressed; frames that are used again are kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dm_core::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{SemaphorePermit, watch};

use crate::Identity;
use crate::cpu::{MAX_FRAME_CONTENT, decompress};
use crate::index::PageReader;
use crate::page::{Inventory, PackId};
use crate::paths;

/// Frames closer than this are fetched in one request.
const GAP_BYTES: u64 = 256 << 10;
/// The most that one request fetches.
const REQUEST_BYTES: u64 = 8 << 20;
/// Requests at once.
const REQUESTS: usize = 4;
/// Decompressed frames of one member kept for later use.
const KEPT_BYTES: usize = 16 << 20;
/// Batches of one member under way at once.
pub(crate) const AHEAD: usize = 2;
/// The first read of an encrypted pack: its header stands in it.
const HEADER_BYTES: u64 = 4 << 10;
/// age's chunks (c2sp.org/age): 64 KiB of content, 16 bytes of tag.
const CHUNK: u64 = 64 << 10;
const SEALED_CHUNK: u64 = CHUNK + 16;

/// A frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FrameId {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl FrameId {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

/// A frame that a batch uses, and the last batch of the member that does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) frame: FrameId,
    pub(crate) last: u64,
}

/// Fetches frames of one member. Batches that are under way at the same time share what both need, and what a later batch
/// needs again is kept as far as there is room: a frame is fetched once, however scattered its pages are.
pub(crate) struct Fetcher {
    pages: PageReader,
    sizes: HashMap<PackId, u64>,
    headers: Mutex<HashMap<PackId, Bytes>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    frames: HashMap<FrameId, (Bytes, u64)>,
    /// By the batch that needs them last.
    order: BTreeSet<(u64, FrameId)>,
    bytes: usize,
    /// What some batch is fetching just now.
    coming: HashMap<FrameId, watch::Receiver<Option<Bytes>>>,
}

impl Kept {
    fn insert(&mut self, frame: FrameId, content: &Bytes, last: u64) {
        if self.frames.contains_key(&frame) {
            return;
        }
        self.bytes += content.len();
        self.order.insert((last, frame));
        self.frames.insert(frame, (content.clone(), last));
        // What is needed for longest takes the room of many others.
        while self.bytes > KEPT_BYTES {
            let Some((_, frame)) = self.order.pop_last() else { break };
            self.forget(frame);
        }
    }

    /// Drops what no batch from this one on, nor one that is under way, needs.
    fn pass(&mut self, batch: u64) {
        while let Some((last, frame)) = self.order.first().copied() {
            if last + AHEAD as u64 >= batch {
                break;
            }
            self.order.pop_first();
            self.forget(frame);
        }
    }

    fn forget(&mut self, frame: FrameId) {
        if let Some((content, _)) = self.frames.remove(&frame) {
            self.bytes -= content.len();
        }
    }
}

impl Fetcher {
    pub(crate) fn new(pages: PageReader, inventory: &Inventory) -> Self {
        let sizes = inventory.packs.iter().map(|p| (p.id, p.size)).collect();
        Self { pages, sizes, headers: Mutex::new(HashMap::new()), kept: Mutex::new(Kept::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The contents of the frames of a batch. Batches are numbered in the order in which they are needed.
    pub(crate) async fn frames(&self, batch: u64, wanted: &[Wanted]) -> Result<HashMap<FrameId, Bytes>> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        let mut coming = Vec::new();
        let mut senders = HashMap::new();
        {
            let mut kept = self.lock();
            kept.pass(batch);
            for wanted in wanted {
                if let Some((content, _)) = kept.frames.get(&wanted.frame) {
                    found.insert(wanted.frame, content.clone());
                } else if let Some(other) = kept.coming.get(&wanted.frame).filter(|c| c.has_changed().is_ok())
                {
                    coming.push((*wanted, other.clone()));
                } else {
                    let (sender, receiver) = watch::channel(None);
                    kept.coming.insert(wanted.frame, receiver);
                    senders.insert(wanted.frame, sender);
                    missing.push(*wanted);
                }
            }
        }
        let fetched = self.fetch(missing.iter().map(|w| w.frame)).await?;
        {
            let mut kept = self.lock();
            for wanted in &missing {
                kept.coming.remove(&wanted.frame);
                if let (Some(content), true) = (fetched.get(&wanted.frame), wanted.last > batch) {
                    kept.insert(wanted.frame, content, wanted.last);
                }
            }
        }
        for (frame, sender) in senders {
            sender.send_replace(fetched.get(&frame).cloned());
        }
        found.extend(fetched);
        let mut failed = Vec::new();
        for (wanted, mut other) in coming {
            let content = other.wait_for(Option::is_some).await.ok().and_then(|content| content.clone());
            match content {
                Some(content) => {
                    found.insert(wanted.frame, content);
                }
                // The other batch failed; what it could not fetch may still be fetched here.
                None => failed.push(wanted.frame),
            }
        }
        found.extend(self.fetch(failed.into_iter()).await?);
        Ok(found)
    }

    async fn fetch(&self, frames: impl Iterator<Item = FrameId>) -> Result<HashMap<FrameId, Bytes>> {
        let mut packs: BTreeMap<PackId, Vec<FrameId>> = BTreeMap::new();
        for frame in frames {
            packs.entry(frame.pack).or_default().push(frame);
        }
        let requests: Vec<Vec<FrameId>> = packs.into_values().flat_map(coalesce).collect();
        let requests = requests.into_iter().map(|frames| async move {
            let owner = frames.first().map(|frame| frame.pack.backup);
            match (self.request(frames).await, owner) {
                (Err(error), Some(owner)) => Err(self.pages.explain(owner, error).await),
                (answer, _) => answer,
            }
        });
        let mut answers = futures::stream::iter(requests).buffer_unordered(REQUESTS);
        let mut found = HashMap::new();
        while let Some(frames) = answers.try_next().await? {
            found.extend(frames);
        }
        Ok(found)
    }

    /// Fetches frames of one pack that stand close together.
    async fn request(&self, frames: Vec<FrameId>) -> Result<Vec<(FrameId, Bytes)>> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
        let pack = first.pack;
        let key = paths::pack(&self.pages.target, pack.backup, pack.n);
        let size = *self.sizes.get(&pack).ok_or_else(|| {
            Error::corrupt("the map names a pack that the inventory lacks").about(key.as_ref())
        })?;
        let range = first.offset..last.range().end;
        let repository = &self.pages.repository;
        let result = if repository.description.encryption.is_some() {
            let identity = repository.backup_key(&self.pages.target, pack.backup).await?;
            let header = self.header(pack, size).await?;
            let sealed = sealed_range(&range, header.len() as u64, size)?;
            let _room = self.room(&sealed).await?;
            let bytes = repository.storage.get_range(&key, sealed.clone()).await?;
            let pack = SparsePack { size, header, start: sealed.start, bytes, at: 0 };
            repository.cpu.run(move || open_frames(pack, &identity, &frames)).await?
        } else {
            if range.end > size {
                return Err(
                    Error::corrupt("the map names a frame behind the end of the pack").about(key.as_ref())
                );
            }
            let _room = self.room(&range).await?;
            let bytes = repository.storage.get_range(&key, range.clone()).await?;
            repository
                .cpu
                .run(move || {
                    let cut = |frame: &FrameId| {
                        let at = usize::try_from(frame.offset - range.start).unwrap_or(usize::MAX);
                        bytes
                            .get(at..at + frame.length as usize)
                            .ok_or_else(|| Error::corrupt("the pack is short"))
                    };
                    frames
                        .iter()
                        .map(|frame| Ok((*frame, Bytes::from(decompress(cut(frame)?, MAX_FRAME_CONTENT)?))))
                        .collect::<Result<Vec<_>>>()
                })
                .await?
        };
        result.map_err(|e| e.about(key.as_ref()))
    }

    /// Room for what is fetched, from the first byte until its frames are open. Nothing else is waited for meanwhile.
    async fn room(&self, range: &Range<u64>) -> Result<SemaphorePermit<'_>> {
        let repository = &self.pages.repository;
        let bytes = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let room = repository.fetching.acquire_many(bytes.min(repository.memory.fetch_bytes)).await;
        room.map_err(|e| Error::internal("nothing more is fetched").with_source(e))
    }

    /// The age header and nonce of a pack.
    async fn header(&self, pack: PackId, size: u64) -> Result<Bytes> {
        if let Some(header) = self.headers.lock().unwrap_or_else(PoisonError::into_inner).get(&pack) {
            return Ok(header.clone());
        }
        let key = paths::pack(&self.pages.target, pack.backup, pack.n);
        let start = self.pages.repository.storage.get_range(&key, 0..HEADER_BYTES.min(size)).await?;
        // The header ends with the line "--- <MAC>"; sixteen bytes of nonce follow.
        let end = start
            .windows(5)
            .position(|w| w == b"\n--- ")
            .and_then(|mac| start[mac + 1..].iter().position(|c| *c == b'\n').map(|n| mac + 1 + n + 1 + 16))
            .filter(|end| *end <= start.len())
            .ok_or_else(|| Error::corrupt("the pack is not an age file").about(key.as_ref()))?;
        let header = start.slice(..end);
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, header.clone());
        Ok(header)
    }
}

/// Groups frames of one pack into requests.
fn coalesce(mut frames: Vec<FrameId>) -> Vec<Vec<FrameId>> {
    frames.sort_unstable();
    frames.dedup();
    let mut requests: Vec<Vec<FrameId>> = Vec::new();
    for frame in frames {
        match requests.last_mut() {
            Some(request)
                if request
                    .last()
                    .is_some_and(|l| frame.offset <= l.range().end.saturating_add(GAP_BYTES))
                    && request.first().is_some_and(|f| frame.range().end - f.offset <= REQUEST_BYTES) =>
            {
                request.push(frame);
            }
            _ => requests.push(vec![frame]),
        }
    }
    requests
}

/// Where the chunks that hold a range of the content stand in the sealed file.
fn sealed_range(range: &Range<u64>, header: u64, size: u64) -> Result<Range<u64>> {
    let start = header + range.start / CHUNK * SEALED_CHUNK;
    let end = (header + range.end.div_ceil(CHUNK) * SEALED_CHUNK).min(size);
    if start < end {
        Ok(start..end)
    } else {
        Err(Error::corrupt("the map names a frame behind the end of the pack"))
    }
}

/// An age file of which only the header and some chunks are at hand.
struct SparsePack {
    size: u64,
    header: Bytes,
    /// Where `bytes` stand in the file.
    start: u64,
    bytes: Bytes,
    at: u64,
}

impl Read for SparsePack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = if self.at < self.header.len() as u64 {
            &self.header[usize::try_from(self.at).unwrap_or(usize::MAX)..]
        } else {
            let there = self.at.checked_sub(self.start).and_then(|n| usize::try_from(n).ok());
            match there.and_then(|n| self.bytes.get(n..)) {
                Some(rest) if !rest.is_empty() => rest,
                _ if self.at >= self.size => return Ok(0),
                _ => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "this part was not fetched")),
            }
        };
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for SparsePack {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.size.checked_add_signed(n),
            SeekFrom::Current(n) => self.at.checked_add_signed(n),
        };
        self.at =
            target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.at)
    }
}

fn open_frames(
    pack: SparsePack,
    identity: &Arc<Identity>,
    frames: &[FrameId],
) -> Result<Vec<(FrameId, Bytes)>> {
    let damaged = |e: age::DecryptError| Error::corrupt("the pack cannot be decrypted").with_source(e);
    let unreadable = |e: io::Error| Error::corrupt("the pack cannot be decrypted").with_source(e);
    let keys = [identity.as_age() as &dyn age::Identity];
    let mut plain = age::Decryptor::new(pack).map_err(damaged)?.decrypt(keys.into_iter()).map_err(damaged)?;
    let mut opened = Vec::with_capacity(frames.len());
    for frame in frames {
        plain.seek(SeekFrom::Start(frame.offset)).map_err(unreadable)?;
        let mut stored = vec![0; frame.length as usize];
        plain.read_exact(&mut stored).map_err(unreadable)?;
        opened.push((*frame, Bytes::from(decompress(&stored, MAX_FRAME_CONTENT)?)));
    }
    Ok(opened)
}
