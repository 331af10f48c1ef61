//! Writing a member of pages (§6): pages of zeros are left out, pages that the parent has at the same offset are named
//! where they lie, the rest is gathered into frames.

use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Block, BlockStream, Error, MemberSpec, OpContext, Progress, Result};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cpu::{Cpu, MAX_FRAME_CONTENT, compress, joined, short_digest};
use crate::map::{DoneMember, MapBuilder, MemberDigest, span_of};
use crate::page::{Extent, PackId, SHORT_DIGEST, push_joined};
use crate::parent::ParentMember;
use crate::write_stream::length;
use crate::writer::{MemberSummary, Shared};

/// Content of a frame when nothing is there to compare with: pages follow each other, and larger frames compress better and faster.
const FULL_FRAME_BYTES: usize = 1 << 20;
/// Content of a frame of changed pages, which may come from far apart: a restore reads it for each of its pages.
const CHANGED_FRAME_BYTES: usize = 256 << 10;

/// A block and the digests of its pages; a page of zeros has none.
struct Hashed {
    offset: u64,
    bytes: Bytes,
    digests: Vec<Option<[u8; SHORT_DIGEST]>>,
}

/// What the cutter hands to the writer, in order.
enum Step {
    /// Pages that the parent has.
    Reused(Extent),
    /// Pages in a new frame, still without its place.
    Frame(JoinHandle<Result<Result<Vec<u8>>>>, Vec<Extent>),
    /// The span that begins here is complete.
    EndSpan(u64),
}

pub(crate) async fn write(
    ctx: &OpContext,
    shared: &Arc<Shared>,
    spec: MemberSpec,
    page_bytes: usize,
    parent: Option<ParentMember>,
    blocks: BlockStream,
) -> Result<(DoneMember, MemberSummary)> {
    let cpu = shared.cpu();
    let (steps, mut taken) = mpsc::channel(2 * cpu.threads + 2);
    let mut map = MapBuilder::new(Arc::clone(shared), parent.clone());
    let mut lane = shared.packs.lane();
    let mut summary = MemberSummary::default();
    let cutter = Cutter::new(ctx, shared, page_bytes, parent, steps);
    let writing = async {
        while let Some(step) = taken.recv().await {
            match step {
                Step::Reused(extent) => {
                    summary.reused_bytes += u64::from(extent.length);
                    map.add(extent);
                }
                Step::Frame(work, runs) => {
                    let frame = joined(work.await)???;
                    let (pack, frame_offset) = lane.append(&frame).await?;
                    summary.stored_bytes += frame.len() as u64;
                    let frame_length = length(frame.len())?;
                    for run in runs {
                        map.add(Extent { pack, frame_offset, frame_length, ..run });
                    }
                }
                Step::EndSpan(offset) => map.end_span(offset, true).await?,
            }
        }
        Ok(())
    };
    // Cutting and writing go on side by side: the writer takes frames in order while later ones are compressed.
    let (end, ()) = Box::pin(ctx.run(async { tokio::try_join!(cutter.run(blocks), writing) })).await?;
    summary.size = end.size;
    let done = map.finish(spec, end.size, end.digest).await?;
    Ok((done, summary))
}

struct End {
    size: u64,
    digest: blake3::Hash,
}

/// Decides page by page, and gathers.
struct Cutter<'a> {
    ctx: &'a OpContext,
    shared: &'a Arc<Shared>,
    cpu: Cpu,
    page_bytes: usize,
    frame_bytes: usize,
    parent: Option<ParentMember>,
    steps: mpsc::Sender<Step>,
    digest: MemberDigest,
    span: Option<u64>,
    /// The parent's extents of this span, and where we are in them.
    there: Vec<Extent>,
    cursor: usize,
    reused: Option<Extent>,
    parts: Vec<Bytes>,
    gathered: usize,
    runs: Vec<Extent>,
}

impl<'a> Cutter<'a> {
    fn new(
        ctx: &'a OpContext,
        shared: &'a Arc<Shared>,
        page_bytes: usize,
        parent: Option<ParentMember>,
        steps: mpsc::Sender<Step>,
    ) -> Self {
        Self {
            ctx,
            shared,
            cpu: shared.cpu(),
            page_bytes,
            frame_bytes: if parent.is_some() { CHANGED_FRAME_BYTES } else { FULL_FRAME_BYTES },
            parent,
            steps,
            digest: MemberDigest::new(&shared.hash_key),
            span: None,
            there: Vec::new(),
            cursor: 0,
            reused: None,
            parts: Vec::new(),
            gathered: 0,
            runs: Vec::new(),
        }
    }

    async fn run(mut self, blocks: BlockStream) -> Result<End> {
        let (cpu, key, page_bytes) = (self.cpu.clone(), self.shared.hash_key, self.page_bytes);
        let mut hashed = blocks
            .map(|block| {
                let cpu = cpu.clone();
                async move {
                    let block = block?;
                    cpu.run(move || hash(block, &key, page_bytes)).await?
                }
            })
            .buffered(cpu.threads + 1);
        let mut at = 0;
        let mut whole = true;
        while let Some(block) = hashed.try_next().await? {
            if block.offset < at
                || block.offset % self.page_bytes as u64 != 0
                || !(whole || block.bytes.is_empty())
            {
                return Err(Error::internal(format!(
                    "a block of pages begins at {}, the member is at {at}",
                    block.offset
                )));
            }
            at = block.offset + block.bytes.len() as u64;
            whole = block.bytes.len() % self.page_bytes == 0;
            for (i, digest) in block.digests.iter().enumerate() {
                let start = i * self.page_bytes;
                let end = (start + self.page_bytes).min(block.bytes.len());
                let offset = block.offset + start as u64;
                self.enter(offset).await?;
                if let Some(digest) = digest {
                    self.digest.add(offset, digest);
                    self.page(offset, block.bytes.slice(start..end), digest).await?;
                }
            }
            self.ctx.progress(Progress::Bytes(block.bytes.len() as u64));
        }
        self.end_span().await?;
        Ok(End { size: at, digest: self.digest.finish(at) })
    }

    /// Makes the span of this offset the current one.
    async fn enter(&mut self, offset: u64) -> Result<()> {
        let span = span_of(offset);
        if self.span == Some(span) {
            return Ok(());
        }
        self.end_span().await?;
        self.span = Some(span);
        self.cursor = 0;
        self.there = match (&self.parent, &self.shared.parent) {
            (Some(member), Some(parent)) => member.span(&parent.pages, span).await?,
            _ => Vec::new(),
        };
        Ok(())
    }

    async fn end_span(&mut self) -> Result<()> {
        let Some(span) = self.span.take() else { return Ok(()) };
        self.cut().await?;
        if let Some(reused) = self.reused.take() {
            self.send(Step::Reused(reused)).await?;
        }
        self.send(Step::EndSpan(span)).await
    }

    async fn page(&mut self, offset: u64, bytes: Bytes, digest: &[u8; SHORT_DIGEST]) -> Result<()> {
        if let Some(found) = self.find(offset, bytes.len(), digest) {
            let mut run = self.reused.take().map_or_else(Vec::new, |r| vec![r]);
            push_joined(&mut run, found);
            self.reused = run.pop();
            return match run.pop() {
                Some(ended) => self.send(Step::Reused(ended)).await,
                None => Ok(()),
            };
        }
        let extent = Extent {
            offset,
            length: length(bytes.len())?,
            // The frame's place is known when it has been appended.
            pack: PackId { backup: self.shared.backup, n: 0 },
            frame_offset: 0,
            frame_length: 0,
            inner: length(self.gathered)?,
            digests: digest.to_vec(),
        };
        push_joined(&mut self.runs, extent);
        self.gathered += bytes.len();
        self.parts.push(bytes);
        if self.gathered + self.page_bytes > self.frame_bytes { self.cut().await } else { Ok(()) }
    }

    /// The parent's page at this offset, when it is the same.
    fn find(&mut self, offset: u64, bytes: usize, digest: &[u8; SHORT_DIGEST]) -> Option<Extent> {
        while self.there.get(self.cursor).is_some_and(|e| e.end() <= offset) {
            self.cursor += 1;
        }
        let extent = self.there.get(self.cursor).filter(|e| e.offset <= offset)?;
        let inside = usize::try_from(offset - extent.offset).ok()?;
        let theirs = extent.digests.get(inside / self.page_bytes * SHORT_DIGEST..)?.get(..SHORT_DIGEST)?;
        let their_bytes = (extent.length as usize - inside).min(self.page_bytes);
        if theirs != digest || their_bytes != bytes || inside % self.page_bytes != 0 {
            return None;
        }
        Some(Extent {
            offset,
            length: u32::try_from(bytes).ok()?,
            pack: extent.pack,
            frame_offset: extent.frame_offset,
            frame_length: extent.frame_length,
            inner: extent.inner + u32::try_from(inside).ok()?,
            digests: digest.to_vec(),
        })
    }

    /// Compresses what has been gathered.
    async fn cut(&mut self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        let runs = std::mem::take(&mut self.runs);
        let size = std::mem::take(&mut self.gathered);
        let level = self.cpu.level;
        let work = self.cpu.start(move || {
            let mut content = Vec::with_capacity(size);
            for part in &parts {
                content.extend_from_slice(part);
            }
            compress(&content, level)
        });
        self.send(Step::Frame(work, runs)).await
    }

    async fn send(&self, step: Step) -> Result<()> {
        // The writer only goes away when it failed, and then its error is the one that counts.
        self.steps.send(step).await.map_err(|_| Error::internal("the writer of the pages has ended"))
    }
}

fn hash(block: Block, key: &[u8; 32], page_bytes: usize) -> Result<Hashed> {
    static ZEROS: [u8; 65536] = [0; 65536];
    let Block::Data { offset, bytes } = block else {
        return Err(Error::internal("unchanged pages are not understood yet"));
    };
    if bytes.len() > MAX_FRAME_CONTENT {
        return Err(Error::internal(format!("a block of {} bytes is too large", bytes.len())));
    }
    let digests = bytes
        .chunks(page_bytes)
        .map(|page| (page != &ZEROS[..page.len()]).then(|| short_digest(key, page)))
        .collect();
    Ok(Hashed { offset, bytes, digests })
}
