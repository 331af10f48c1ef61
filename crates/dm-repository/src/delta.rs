//! What of a member differs from what is present (§11): compared by digests, so that what matches is never fetched.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Block, BlockStream, Error, Layout, OpContext, RestoreContent, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use crate::content::Part;
use crate::cpu::{Cpu, short_digest};
use crate::page::{Extent, MemberEntry, PackId, SHORT_DIGEST, push_joined};
use crate::reader::Reading;

impl Reading {
    pub(crate) async fn content_except(
        self: Arc<Self>,
        ctx: OpContext,
        entry: MemberEntry,
        packs: Vec<PackId>,
        present: BlockStream,
    ) -> Result<RestoreContent> {
        let entry = Arc::new(entry);
        match entry.spec.layout {
            Layout::Stream => {
                if self.is_present(&ctx, &entry, &packs, present).await? {
                    return Ok(stream::empty().boxed());
                }
                Ok(self.content(ctx, entry, packs))
            }
            Layout::Pages { page_bytes } => {
                let cpu = self.pages.repository.cpu.clone();
                let pages = page_digests(present, cpu, self.hash_key, u64::from(page_bytes), entry.size);
                let pieces = Arc::clone(&self).pieces(Arc::clone(&entry), packs);
                let differing = differing(pieces.boxed(), pages, page_bytes as usize, entry.size);
                Ok(self.fetched(ctx, &entry, differing, false))
            }
        }
    }

    /// Whether the present is the stream of the backup, block by block.
    async fn is_present(
        self: &Arc<Self>,
        ctx: &OpContext,
        entry: &Arc<MemberEntry>,
        packs: &[PackId],
        mut present: BlockStream,
    ) -> Result<bool> {
        let mut pieces = Arc::clone(self).pieces(Arc::clone(entry), packs.to_vec()).boxed();
        let mut rest = Bytes::new();
        let mut at = 0;
        while let Some(extents) = ctx.run(pieces.try_next()).await? {
            for extent in extents {
                let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
                let mut missing = extent.length as usize;
                while missing > 0 {
                    while rest.is_empty() {
                        let Some(block) = ctx.run(present.try_next()).await? else { return Ok(false) };
                        rest = in_order(block, &mut at)?;
                    }
                    let part = rest.split_to(rest.len().min(missing));
                    missing -= part.len();
                    hasher.update(&part);
                }
                if hasher.finalize().as_bytes()[..SHORT_DIGEST] != extent.digests[..] {
                    return Ok(false);
                }
            }
        }
        // Behind its end nothing may follow.
        while rest.is_empty() {
            let Some(block) = ctx.run(present.try_next()).await? else { return Ok(true) };
            rest = in_order(block, &mut at)?;
        }
        Ok(false)
    }
}

/// The bytes of a block of a stream that follows the one before.
fn in_order(block: Block, at: &mut u64) -> Result<Bytes> {
    match block {
        Block::Data { offset, bytes } if offset == *at => {
            *at += bytes.len() as u64;
            Ok(bytes)
        }
        other => Err(misplaced(other.offset(), *at)),
    }
}

fn misplaced(offset: u64, at: u64) -> Error {
    Error::internal(format!("what is present has a block at {offset} where one at {at} was expected"))
}

/// A page of the present that is not zeros.
struct Page {
    offset: u64,
    length: usize,
    digest: [u8; SHORT_DIGEST],
}

impl Page {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length as u64
    }
}

/// The pages of the present that are not zeros, as far as the member reaches.
fn page_digests(
    present: BlockStream,
    cpu: Cpu,
    key: [u8; 32],
    page_bytes: u64,
    size: u64,
) -> BoxStream<'static, Result<Page>> {
    let ahead = cpu.ahead;
    let mut at = 0;
    present
        .map(move |block| {
            let checked = block.and_then(|block| match block {
                Block::Data { offset, bytes } if offset >= at && offset.is_multiple_of(page_bytes) => {
                    at = offset + bytes.len() as u64;
                    Ok((offset, bytes))
                }
                other => Err(misplaced(other.offset(), at)),
            });
            let cpu = cpu.clone();
            async move {
                let (offset, bytes) = checked?;
                let pages = cpu.run(move || digest_pages(offset, &bytes, &key, page_bytes, size)).await?;
                Ok::<_, Error>(stream::iter(pages.into_iter().map(Ok)))
            }
        })
        .buffered(ahead + 1)
        .try_flatten()
        .boxed()
}

fn digest_pages(start: u64, bytes: &[u8], key: &[u8; 32], page_bytes: u64, size: u64) -> Vec<Page> {
    let mut pages = Vec::new();
    let mut offset = start;
    while offset < size && offset - start < bytes.len() as u64 {
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        // What stands behind the member's end is cut off by whoever writes.
        let length = usize::try_from(page_bytes.min(size - offset)).unwrap_or(usize::MAX);
        let page = &bytes[from..bytes.len().min(from.saturating_add(length))];
        if page.iter().any(|b| *b != 0) {
            pages.push(Page { offset, length: page.len(), digest: short_digest(key, page) });
        }
        offset += page_bytes;
    }
    pages
}

/// Goes through the map and the present side by side.
struct Merge {
    pieces: BoxStream<'static, Result<Vec<Extent>>>,
    present: BoxStream<'static, Result<Page>>,
    /// The next page of the present.
    page: Option<Page>,
    page_bytes: usize,
    size: u64,
    ended: bool,
}

fn differing(
    pieces: BoxStream<'static, Result<Vec<Extent>>>,
    present: BoxStream<'static, Result<Page>>,
    page_bytes: usize,
    size: u64,
) -> BoxStream<'static, Result<Vec<Part>>> {
    let merge = Merge { pieces, present, page: None, page_bytes, size, ended: false };
    stream::try_unfold(merge, |mut merge| async move {
        if merge.ended {
            return Ok(None);
        }
        if merge.page.is_none() {
            merge.page = merge.present.try_next().await?;
        }
        let mut parts = Vec::new();
        match merge.pieces.try_next().await? {
            Some(extents) => merge.piece(extents, &mut parts).await?,
            None => {
                merge.ended = true;
                merge.clear_before(u64::MAX, &mut parts).await?;
            }
        }
        Ok(Some((parts, merge)))
    })
    .boxed()
}

impl Merge {
    /// What of the extents of one piece differs.
    async fn piece(&mut self, extents: Vec<Extent>, parts: &mut Vec<Part>) -> Result<()> {
        for extent in extents {
            let mut wanted = Vec::new();
            for (i, digest) in extent.digests.chunks(SHORT_DIGEST).enumerate() {
                let offset = extent.offset + (i * self.page_bytes) as u64;
                let end = (offset + self.page_bytes as u64).min(extent.end());
                self.clear_before(offset, parts).await?;
                let same = match &self.page {
                    Some(page) if page.offset == offset => {
                        let same = page.digest == digest && page.range().end == end;
                        self.page = self.present.try_next().await?;
                        same
                    }
                    _ => false,
                };
                if !same {
                    let page = extent
                        .part(offset..end, self.page_bytes)
                        .ok_or_else(|| Error::corrupt("an extent of the member does not stand on pages"))?;
                    push_joined(&mut wanted, page);
                }
            }
            parts.extend(wanted.into_iter().map(Part::Stored));
        }
        Ok(())
    }

    /// Pages of the present before an offset, where the map has none: they become holes.
    async fn clear_before(&mut self, offset: u64, parts: &mut Vec<Part>) -> Result<()> {
        while let Some(page) = self.page.take_if(|page| page.offset < offset) {
            let range = page.offset..(page.offset + self.page_bytes as u64).min(self.size);
            match parts.last_mut() {
                Some(Part::Zeros(before)) if before.end == range.start => before.end = range.end,
                _ => parts.push(Part::Zeros(range)),
            }
            self.page = self.present.try_next().await?;
        }
        Ok(())
    }
}
