//! Writing a member of pages that nothing is there to compare with: pages of zeros are left out, all others are stored, so a
//! batch of them is digested and compressed in one go, while it is warm.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Block, BlockStream, Error, MemberSpec, OpContext, Progress, Result};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::cpu::{MAX_FRAME_CONTENT, compress_onto, short_digest};
use crate::map::{DoneMember, MapBuilder, MemberDigest, span_of};
use crate::member_summary::MemberSummary;
use crate::page::{Extent, PackId, SHORT_DIGEST, push_joined};
use crate::write_stream::length;
use crate::writer::Shared;

/// Content that one job takes.
const BATCH_BYTES: usize = 1 << 20;
/// Content of a frame at the fastest levels, which look no further back: what a source reads at once is compressed where it lies.
const FAST_FRAME_BYTES: usize = 256 << 10;

static ZEROS: [u8; 65536] = [0; 65536];

/// Whether a page is left out.
pub(crate) fn is_zeros(page: &[u8]) -> bool {
    ZEROS.get(..page.len()).is_some_and(|zeros| zeros == page)
}

/// Neighbouring blocks.
#[derive(Default)]
struct Batch {
    blocks: Vec<(u64, Bytes)>,
    /// Where the last one ends.
    end: u64,
}

/// What became of a batch.
struct Encoded {
    /// The frames, one after the other.
    stored: Vec<u8>,
    /// Where each ends in `stored`, and what it holds: extents still without their pack and their place in it.
    frames: Vec<(usize, Vec<Extent>)>,
    /// The content's bytes, zeros included, and where it ends in the member.
    bytes: u64,
    end: u64,
}

pub(crate) async fn write(
    ctx: &OpContext,
    shared: &Arc<Shared>,
    spec: MemberSpec,
    page_bytes: usize,
    blocks: BlockStream,
) -> Result<(DoneMember, MemberSummary)> {
    let cpu = shared.cpu();
    let encoder = Encoder {
        page_bytes,
        frame_bytes: if cpu.level <= 1 { FAST_FRAME_BYTES } else { BATCH_BYTES },
        level: cpu.level,
        key: shared.hash_key,
        pack: PackId { backup: shared.backup, n: 0 },
    };
    let mut encoded = batches(blocks, page_bytes)
        .map(|batch| {
            let cpu = &cpu;
            async move {
                let batch = batch?;
                let bytes = batch.blocks.iter().map(|(_, bytes)| bytes.len()).sum();
                cpu.run_on(bytes, move || encoder.encode(&batch)).await?
            }
        })
        .buffered(cpu.ahead + 1)
        .boxed();
    let mut map = MapBuilder::new(Arc::clone(shared), None);
    let mut digest = MemberDigest::new(&shared.hash_key);
    let mut lane = shared.packs.lane(&spec);
    let mut summary = MemberSummary::default();
    let mut span = 0;
    while let Some(batch) = ctx.run(encoded.try_next()).await? {
        let mut start = 0;
        for (end, mut extents) in batch.frames {
            let frame = batch.stored.get(start..end).unwrap_or_default();
            start = end;
            ctx.run(lane.append(frame, &mut extents)).await?;
            summary.stored_bytes += frame.len() as u64;
            for extent in extents {
                if span_of(extent.offset) != span {
                    ctx.run(map.end_span(span, true)).await?;
                    span = span_of(extent.offset);
                }
                let pages = extent.digests.chunks(SHORT_DIGEST);
                for (offset, short) in (extent.offset..).step_by(page_bytes).zip(pages) {
                    digest.add(offset, short);
                }
                map.add(extent);
            }
        }
        summary.size = batch.end;
        ctx.progress(Progress::Bytes(batch.bytes));
    }
    ctx.run(map.end_span(span, true)).await?;
    let done = map.finish(spec, summary.size, digest.finish(summary.size)).await?;
    Ok((done, summary))
}

/// Gathers blocks, which must stand one behind the other and on pages.
fn batches(blocks: BlockStream, page_bytes: usize) -> impl Stream<Item = Result<Batch>> + Send {
    let begun = (blocks.fuse(), 0_u64, true);
    futures::stream::try_unfold(begun, move |(mut blocks, mut at, mut whole)| async move {
        let (mut batch, mut gathered) = (Batch::default(), 0);
        while gathered < BATCH_BYTES {
            let Some(block) = blocks.try_next().await? else { break };
            let Block::Data { offset, bytes } = block else {
                return Err(Error::internal(
                    "pages are said to be unchanged, but the earlier backup has no such member of pages",
                ));
            };
            let end = offset.checked_add(bytes.len() as u64);
            let Some(end) = end.filter(|_| {
                offset >= at && offset.is_multiple_of(page_bytes as u64) && (whole || bytes.is_empty())
            }) else {
                return Err(Error::internal(format!(
                    "a block of pages begins at {offset}, the member is at {at}"
                )));
            };
            if bytes.len() > MAX_FRAME_CONTENT {
                return Err(Error::internal(format!("a block of {} bytes is too large", bytes.len())));
            }
            (at, whole) = (end, bytes.len().is_multiple_of(page_bytes));
            gathered += bytes.len();
            batch.blocks.push((offset, bytes));
        }
        batch.end = at;
        Ok((!batch.blocks.is_empty()).then_some((batch, (blocks, at, whole))))
    })
}

#[derive(Clone, Copy)]
struct Encoder {
    page_bytes: usize,
    frame_bytes: usize,
    level: i32,
    key: [u8; 32],
    /// Stands in extents until their frame has its place.
    pack: PackId,
}

impl Encoder {
    fn encode(&self, batch: &Batch) -> Result<Encoded> {
        let mut encoded = Encoded { stored: Vec::new(), frames: Vec::new(), bytes: 0, end: batch.end };
        let mut frame = OpenFrame::default();
        for (offset, bytes) in &batch.blocks {
            encoded.bytes += bytes.len() as u64;
            // Pages of this block that lie side by side and belong to the frame.
            let mut stretch: Option<Range<usize>> = None;
            for (index, page) in bytes.chunks(self.page_bytes).enumerate() {
                let at = index * self.page_bytes;
                if is_zeros(page) {
                    frame.take(bytes, &mut stretch);
                    continue;
                }
                let extent = Extent {
                    offset: offset + at as u64,
                    length: length(page.len())?,
                    pack: self.pack,
                    frame_offset: 0,
                    frame_length: 0,
                    inner: length(frame.bytes)?,
                    digests: short_digest(&self.key, page).to_vec(),
                };
                push_joined(&mut frame.extents, extent);
                frame.bytes += page.len();
                stretch.get_or_insert(at..at).end = at + page.len();
                if frame.bytes + self.page_bytes > self.frame_bytes {
                    frame.take(bytes, &mut stretch);
                    self.cut(&mut frame, &mut encoded)?;
                }
            }
            frame.take(bytes, &mut stretch);
        }
        self.cut(&mut frame, &mut encoded)?;
        Ok(encoded)
    }

    fn cut(&self, frame: &mut OpenFrame<'_>, encoded: &mut Encoded) -> Result<()> {
        if frame.parts.is_empty() {
            return Ok(());
        }
        let frame = std::mem::take(frame);
        compress_onto(&frame.parts, self.level, &mut encoded.stored)?;
        encoded.frames.push((encoded.stored.len(), frame.extents));
        Ok(())
    }
}

/// What is gathered for a frame.
#[derive(Default)]
struct OpenFrame<'a> {
    parts: Vec<&'a [u8]>,
    bytes: usize,
    extents: Vec<Extent>,
}

impl<'a> OpenFrame<'a> {
    fn take(&mut self, block: &'a [u8], stretch: &mut Option<Range<usize>>) {
        if let Some(part) = stretch.take().and_then(|range| block.get(range)) {
            self.parts.push(part);
        }
    }
}
