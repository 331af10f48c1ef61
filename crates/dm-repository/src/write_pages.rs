//! Writing a member of pages (§6): pages of zeros are left out, pages that the parent has at the same offset are named
//! where they lie, the rest is gathered into frames. Pages that the source knows to be the parent's are not even read.

use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Block, BlockStream, Error, MemberSpec, OpContext, Progress, Result};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cpu::{Cpu, MAX_FRAME_CONTENT, compress, joined, short_digest};
use crate::ground::Ground;
use crate::map::{DoneMember, MapBuilder, MemberDigest, span_of};
use crate::member_summary::MemberSummary;
use crate::page::{Extent, PackId, SHORT_DIGEST, SPAN_BYTES, push_joined};
use crate::parent::ParentMember;
use crate::write_fresh::is_zeros;
use crate::write_stream::length;
use crate::writer::Shared;

/// Content of a frame when nothing is there to compare with: pages follow each other, and larger frames compress better and faster.
const FULL_FRAME_BYTES: usize = 1 << 20;
/// Content of a frame of changed pages, which may come from far apart: a restore reads it for each of its pages.
const CHANGED_FRAME_BYTES: usize = 256 << 10;

/// A block as the cutter takes it.
enum Hashed {
    /// With the digests of its pages; a page of zeros has none.
    Data { offset: u64, bytes: Bytes, digests: Vec<Option<[u8; SHORT_DIGEST]>> },
    /// What the parent has there.
    Unchanged { offset: u64, length: u64 },
}

/// What the cutter hands to the writer, in order.
enum Step {
    /// Pages that the parent has.
    Reused(Extent),
    /// Pages in a new frame, still without its place.
    Frame(JoinHandle<Result<Result<Vec<u8>>>>, Vec<Extent>),
    /// The span that begins here is complete.
    EndSpan(u64),
    /// The span that begins here is complete, and all that the parent has there.
    EndSameSpan(u64),
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
    let (steps, mut taken) = mpsc::channel(2 * cpu.ahead + 2);
    let mut map = MapBuilder::new(Arc::clone(shared), parent.clone());
    let mut lane = shared.packs.lane(&spec);
    let mut summary = MemberSummary::default();
    let cutter = Cutter::new(ctx, shared, &spec.name, page_bytes, parent, steps);
    let writing = async {
        while let Some(step) = taken.recv().await {
            match step {
                Step::Reused(extent) => {
                    summary.found(shared, extent.pack, extent.length);
                    map.add(extent);
                }
                Step::Frame(work, mut runs) => {
                    let frame = joined(work.await)???;
                    lane.append(&frame, &mut runs).await?;
                    summary.stored_bytes += frame.len() as u64;
                    runs.into_iter().for_each(|run| map.add(run));
                }
                Step::EndSpan(offset) => map.end_span(offset, true).await?,
                Step::EndSameSpan(offset) => map.end_same_span(offset).await?,
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
    name: &'a str,
    cpu: Cpu,
    page_bytes: usize,
    frame_bytes: usize,
    parent: Option<ParentMember>,
    steps: mpsc::Sender<Step>,
    digest: MemberDigest,
    /// Where the last block ended, and whether that was the border of a page.
    at: u64,
    whole: bool,
    span: Option<u64>,
    /// What the parent has of this span.
    ground: Ground,
    /// What an interrupted run stored of it.
    resumed: Ground,
    /// Whether this span has pages that are not the parent's.
    fresh: bool,
    reused: Option<Extent>,
    parts: Vec<Bytes>,
    gathered: usize,
    runs: Vec<Extent>,
}

impl<'a> Cutter<'a> {
    fn new(
        ctx: &'a OpContext,
        shared: &'a Arc<Shared>,
        name: &'a str,
        page_bytes: usize,
        parent: Option<ParentMember>,
        steps: mpsc::Sender<Step>,
    ) -> Self {
        Self {
            ctx,
            shared,
            name,
            cpu: shared.cpu(),
            page_bytes,
            frame_bytes: if parent.is_some() { CHANGED_FRAME_BYTES } else { FULL_FRAME_BYTES },
            parent,
            steps,
            digest: MemberDigest::new(&shared.hash_key),
            at: 0,
            whole: true,
            span: None,
            ground: Ground::default(),
            resumed: Ground::default(),
            fresh: false,
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
                    match block? {
                        Block::Unchanged { offset, length } => Ok(Hashed::Unchanged { offset, length }),
                        Block::Data { offset, bytes } => {
                            cpu.run_on(bytes.len(), move || hash(offset, bytes, &key, page_bytes)).await?
                        }
                    }
                }
            })
            .buffered(cpu.ahead + 1);
        while let Some(block) = hashed.try_next().await? {
            match block {
                Hashed::Data { offset, bytes, digests } => self.data(offset, &bytes, &digests).await?,
                Hashed::Unchanged { offset, length } => self.unchanged(offset, length).await?,
            }
        }
        self.end_span().await?;
        Ok(End { size: self.at, digest: self.digest.finish(self.at) })
    }

    /// Checks that a block stands behind the one before and on a page, and passes it.
    fn pass(&mut self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length);
        if offset < self.at
            || !offset.is_multiple_of(self.page_bytes as u64)
            || !(self.whole || length == 0)
            || end.is_none()
        {
            return Err(Error::internal(format!(
                "a block of pages begins at {offset}, the member is at {}",
                self.at
            )));
        }
        self.at = end.unwrap_or(offset);
        self.whole = length.is_multiple_of(self.page_bytes as u64);
        Ok(())
    }

    async fn data(
        &mut self,
        offset: u64,
        bytes: &Bytes,
        digests: &[Option<[u8; SHORT_DIGEST]>],
    ) -> Result<()> {
        self.pass(offset, bytes.len() as u64)?;
        for (i, digest) in digests.iter().enumerate() {
            let start = i * self.page_bytes;
            let end = (start + self.page_bytes).min(bytes.len());
            let offset = offset + start as u64;
            self.enter(offset).await?;
            if let Some(digest) = digest {
                self.digest.add(offset, digest);
                self.page(offset, bytes.slice(start..end), digest).await?;
            }
        }
        self.ctx.progress(Progress::Bytes(bytes.len() as u64));
        Ok(())
    }

    /// Takes the parent's map of a range.
    async fn unchanged(&mut self, offset: u64, length: u64) -> Result<()> {
        self.pass(offset, length)?;
        let Some(size) = self.parent.as_ref().map(|p| p.entry().size) else {
            return Err(Error::internal(
                "pages are said to be unchanged, but the earlier backup has no such member of pages",
            ));
        };
        let range = offset..self.at;
        if range.end > size || !(self.whole || range.end == size) {
            return Err(Error::internal(format!(
                "the bytes {}..{} are said to be unchanged, but the earlier backup's member has {size}",
                range.start, range.end
            )));
        }
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(span_of(start) + SPAN_BYTES);
            self.enter(start).await?;
            for part in self.ground.take(&(start..end), self.page_bytes)? {
                for (i, digest) in part.digests.chunks(SHORT_DIGEST).enumerate() {
                    self.digest.add(part.offset + (i * self.page_bytes) as u64, digest);
                }
                self.reuse(part).await?;
            }
            start = end;
        }
        Ok(())
    }

    /// Makes the span of this offset the current one.
    async fn enter(&mut self, offset: u64) -> Result<()> {
        let span = span_of(offset);
        if self.span == Some(span) {
            return Ok(());
        }
        self.end_span().await?;
        self.span = Some(span);
        self.fresh = false;
        self.ground = match (&self.parent, &self.shared.parent) {
            (Some(member), Some(parent)) => Ground::new(member.span(&parent.pages, span).await?),
            _ => Ground::default(),
        };
        self.resumed = match &self.shared.resumed {
            Some(resumed) => Ground::new(resumed.span(self.name, self.page_bytes, span).await?),
            None => Ground::default(),
        };
        Ok(())
    }

    async fn end_span(&mut self) -> Result<()> {
        let Some(span) = self.span.take() else { return Ok(()) };
        self.cut().await?;
        if let Some(reused) = self.reused.take() {
            self.send(Step::Reused(reused)).await?;
        }
        let same = !self.fresh && self.ground.is_all_taken();
        self.send(if same { Step::EndSameSpan(span) } else { Step::EndSpan(span) }).await
    }

    async fn reuse(&mut self, found: Extent) -> Result<()> {
        let mut run = self.reused.take().map_or_else(Vec::new, |r| vec![r]);
        push_joined(&mut run, found);
        self.reused = run.pop();
        match run.pop() {
            Some(ended) => self.send(Step::Reused(ended)).await,
            None => Ok(()),
        }
    }

    async fn page(&mut self, offset: u64, bytes: Bytes, digest: &[u8; SHORT_DIGEST]) -> Result<()> {
        if let Some(found) = self.ground.find(offset, bytes.len(), digest, self.page_bytes) {
            return self.reuse(found).await;
        }
        self.fresh = true;
        if let Some(found) = self.resumed.find(offset, bytes.len(), digest, self.page_bytes) {
            return self.reuse(found).await;
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

fn hash(offset: u64, bytes: Bytes, key: &[u8; 32], page_bytes: usize) -> Result<Hashed> {
    if bytes.len() > MAX_FRAME_CONTENT {
        return Err(Error::internal(format!("a block of {} bytes is too large", bytes.len())));
    }
    let digests =
        bytes.chunks(page_bytes).map(|page| (!is_zeros(page)).then(|| short_digest(key, page))).collect();
    Ok(Hashed::Data { offset, bytes, digests })
}
