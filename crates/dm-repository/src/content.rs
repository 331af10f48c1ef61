//! The content of one member (§11): its map in batches, their frames fetched ahead, every byte compared with its digest.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Error, Layout, OpContext, RestoreBlock, RestoreContent, Result};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

use crate::cpu::{joined, short_digest};
use crate::fetch::{AHEAD, Fetcher, FrameId, Wanted};
use crate::index::PageReader;
use crate::page::{Extent, MemberEntry, PackId, SHORT_DIGEST};
use crate::reader::Reading;

/// Content of the frames that one step of a restore fetches.
const BATCH_BYTES: u64 = 8 << 20;
/// What a frame counts at least in a batch: extents do not say how large the frame around them is.
const FRAME_GUESS: u64 = 256 << 10;
/// The most frames of a batch, those at hand from earlier ones included.
const BATCH_FRAMES: usize = 96;

/// A task that stops when nobody waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A part of a member that a restore writes.
pub(crate) enum Part {
    Stored(Extent),
    /// A hole where something else stands.
    Zeros(Range<u64>),
}

/// Parts that are written together.
#[derive(Default)]
struct Batch {
    number: u64,
    extents: Vec<Extent>,
    zeros: Vec<Range<u64>>,
    frames: Vec<Wanted>,
}

impl Reading {
    /// A member from its first byte to its last.
    pub(crate) fn content(
        self: Arc<Self>,
        ctx: OpContext,
        entry: Arc<MemberEntry>,
        packs: Vec<PackId>,
    ) -> RestoreContent {
        let whole = Arc::clone(&self)
            .pieces(Arc::clone(&entry), packs)
            .map_ok(|extents| extents.into_iter().map(Part::Stored).collect());
        self.fetched(ctx, &entry, whole.boxed(), entry.spec.layout == Layout::Stream)
    }

    /// The member's map, piece by piece.
    pub(crate) fn pieces(
        self: Arc<Self>,
        entry: Arc<MemberEntry>,
        packs: Vec<PackId>,
    ) -> impl Stream<Item = Result<Vec<Extent>>> + Send + 'static {
        let source = Arc::new((entry, packs));
        stream::iter(0..PageReader::pieces(&source.0)).then(move |piece| {
            let (reading, source) = (Arc::clone(&self), Arc::clone(&source));
            async move { reading.pages.piece(&source.0, &source.1, piece).await }
        })
    }

    /// Fetches the parts of a member, given in pieces. `whole` says that they cover it without a gap.
    pub(crate) fn fetched(
        self: Arc<Self>,
        ctx: OpContext,
        entry: &MemberEntry,
        pieces: stream::BoxStream<'static, Result<Vec<Part>>>,
        whole: bool,
    ) -> RestoreContent {
        let fetcher = Arc::new(Fetcher::new(self.pages.clone(), &self.inventory));
        let key = self.hash_key;
        let layout = entry.spec.layout;
        let size = entry.size;
        let name = entry.spec.name.clone();
        let threads = self.pages.repository.cpu.clone();
        let mut number = 0;
        let fetched = pieces
            .map_ok(move |parts| {
                let batches = cut(parts, number);
                number += batches.len() as u64;
                stream::iter(batches.into_iter().map(Ok))
            })
            .try_flatten()
            .map(move |batch| {
                let (fetcher, cpu) = (Arc::clone(&fetcher), threads.clone());
                // A task of its own, so that it gets on while the consumer is busy.
                let task = batch.map(|batch| {
                    Task(tokio::spawn(async move {
                        let frames = fetcher.frames(batch.number, &batch.frames).await?;
                        cpu.run(move || slice(&batch, &frames, &key, layout)).await?
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
        let mut at = 0;
        let checked = fetched.map(move |block| {
            let block: RestoreBlock = block?;
            let end = block.offset + block.bytes.len() as u64;
            if (whole && block.offset != at) || block.offset < at || end > size {
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
                None if whole && last != size => Some(Err(Error::corrupt("the member ends early"))),
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
}

fn frame_of(extent: &Extent) -> FrameId {
    FrameId { pack: extent.pack, offset: extent.frame_offset, length: extent.frame_length }
}

/// Cuts the parts of one piece into batches, numbered from `first` on, and says of each frame which batch is the last to
/// use it.
fn cut(parts: Vec<Part>, first: u64) -> Vec<Batch> {
    let mut batches = vec![Batch::default()];
    // The batch that used a frame last, so far.
    let mut used: HashMap<FrameId, usize> = HashMap::new();
    let mut cost = 0;
    for part in parts {
        let extent = match part {
            Part::Zeros(range) => {
                if let Some(batch) = batches.last_mut() {
                    batch.zeros.push(range);
                }
                continue;
            }
            Part::Stored(extent) => extent,
        };
        let frame = frame_of(&extent);
        let length = u64::from(extent.length);
        // A frame that an earlier batch had is likely to be at hand still.
        let more = match used.get(&frame) {
            Some(last) if last + 1 == batches.len() => 0,
            Some(_) => length,
            None => FRAME_GUESS.max(u64::from(extent.inner) + length),
        };
        let full = batches.last().is_some_and(|batch| batch.frames.len() >= BATCH_FRAMES);
        if (cost + more > BATCH_BYTES && cost > 0) || (full && more > 0) {
            batches.push(Batch::default());
            cost = 0;
        }
        cost += more;
        let place = batches.len() - 1;
        if used.insert(frame, place) != Some(place) {
            batches[place].frames.push(Wanted { frame, last: 0 });
        }
        batches[place].extents.push(extent);
    }
    for (place, batch) in batches.iter_mut().enumerate() {
        batch.number = first + place as u64;
        for wanted in &mut batch.frames {
            wanted.last = first + used.get(&wanted.frame).copied().unwrap_or_default() as u64;
        }
    }
    batches
}

/// Cuts the extents out of their frames and compares them with their digests.
fn slice(
    batch: &Batch,
    frames: &HashMap<FrameId, Bytes>,
    key: &[u8; 32],
    layout: Layout,
) -> Result<Vec<RestoreBlock>> {
    let mut blocks = Vec::with_capacity(batch.extents.len());
    for extent in &batch.extents {
        let wrong =
            |why: &str| Error::corrupt(format!("the bytes {}..{} {why}", extent.offset, extent.end()));
        let frame =
            frames.get(&frame_of(extent)).ok_or_else(|| Error::internal("a frame was not fetched"))?;
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
        blocks.push(RestoreBlock { offset: extent.offset, bytes });
    }
    if !batch.zeros.is_empty() {
        batch.zeros.iter().for_each(|range| push_zeros(&mut blocks, range));
        blocks.sort_by_key(|block| block.offset);
    }
    Ok(blocks)
}

fn push_zeros(blocks: &mut Vec<RestoreBlock>, range: &Range<u64>) {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let mut offset = range.start;
    while offset < range.end {
        let length = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(ZEROS.len());
        blocks.push(RestoreBlock { offset, bytes: Bytes::from_static(&ZEROS[..length]) });
        offset += length as u64;
    }
}
