//! The map of one member, built span by span (§5).

use std::sync::Arc;

use dm_core::{MemberSpec, Result};

use crate::page::{
    self, Extent, ExtentsPage, ExtentsTag, INLINE_EXTENTS, MemberEntry, MemberMap, PackId, SPAN_BYTES,
    SpanRef,
};
use crate::parent::ParentMember;
use crate::writer::Shared;

/// A member that is complete, its map not yet in a directory.
pub(crate) struct DoneMember {
    pub(crate) spec: MemberSpec,
    size: u64,
    pub(crate) digest: String,
    map: DoneMap,
}

enum DoneMap {
    Inline(Vec<Extent>),
    Pages(Vec<SpanRef>),
}

impl DoneMember {
    /// The member as a directory lists it; `packs` is the directory's list.
    pub(crate) fn into_entry(self, packs: &mut Vec<PackId>) -> MemberEntry {
        let map = match self.map {
            DoneMap::Inline(extents) => MemberMap::Extents(page::store_extents(&extents, packs)),
            DoneMap::Pages(spans) => MemberMap::Pages(spans),
        };
        MemberEntry { spec: self.spec, size: self.size, digest: self.digest, map }
    }
}

/// Gathers extents and writes the pages of spans that are complete. Holds one span, or up to [`INLINE_EXTENTS`].
pub(crate) struct MapBuilder {
    shared: Arc<Shared>,
    parent: Option<ParentMember>,
    /// Extents of the span that is being gathered, in any order.
    current: Vec<Extent>,
    /// Spans that are complete and not yet written, since the member may still turn out to be small.
    waiting: Vec<Span>,
    total: usize,
    spans: Vec<SpanRef>,
}

struct Span {
    offset: u64,
    extents: Vec<Extent>,
    /// Whether it is the parent's, extent by extent.
    same: bool,
}

impl MapBuilder {
    pub(crate) fn new(shared: Arc<Shared>, parent: Option<ParentMember>) -> Self {
        Self { shared, parent, current: Vec::new(), waiting: Vec::new(), total: 0, spans: Vec::new() }
    }

    pub(crate) fn add(&mut self, extent: Extent) {
        self.current.push(extent);
    }

    /// Every extent of the span that begins at `offset` has been added. `joined` says whether neighbours are joined.
    pub(crate) async fn end_span(&mut self, offset: u64, joined: bool) -> Result<()> {
        self.end(offset, joined, false).await
    }

    /// As [`end_span`](Self::end_span) for a span of which every extent is the parent's, and none is missing.
    pub(crate) async fn end_same_span(&mut self, offset: u64) -> Result<()> {
        self.end(offset, true, true).await
    }

    async fn end(&mut self, offset: u64, joined: bool, same: bool) -> Result<()> {
        let mut extents = std::mem::take(&mut self.current);
        if extents.is_empty() {
            return Ok(());
        }
        extents.sort_by_key(|e| e.offset);
        if joined {
            let mut runs = Vec::with_capacity(extents.len());
            for extent in extents {
                page::push_joined(&mut runs, extent);
            }
            extents = runs;
        }
        self.shared.use_packs(extents.iter().map(|e| e.pack));
        self.total += extents.len();
        self.waiting.push(Span { offset, extents, same });
        if self.total > INLINE_EXTENTS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        for Span { offset, extents, same } in std::mem::take(&mut self.waiting) {
            let earlier = self.parent.as_ref().and_then(|p| p.span_page(offset));
            let page = match earlier.filter(|_| same) {
                Some(earlier) => {
                    self.shared.pages.reuse(earlier);
                    earlier.clone()
                }
                None => {
                    let mut packs = Vec::new();
                    let extents = page::store_extents(&extents, &mut packs);
                    let page = ExtentsPage { page: ExtentsTag::Extents, packs, extents };
                    self.shared.pages.write(&page, earlier).await?
                }
            };
            self.spans.push(SpanRef { offset, page });
        }
        Ok(())
    }

    pub(crate) async fn finish(
        mut self,
        spec: MemberSpec,
        size: u64,
        digest: blake3::Hash,
    ) -> Result<DoneMember> {
        let map = if self.total <= INLINE_EXTENTS {
            DoneMap::Inline(self.waiting.into_iter().flat_map(|span| span.extents).collect())
        } else {
            self.flush().await?;
            DoneMap::Pages(self.spans)
        };
        Ok(DoneMember { spec, size, digest: digest.to_hex().to_string(), map })
    }
}

/// Where the span of an offset begins.
pub(crate) fn span_of(offset: u64) -> u64 {
    offset - offset % SPAN_BYTES
}

/// The digest of a member: every short digest with its offset, then the size (§5).
pub(crate) struct MemberDigest(blake3::Hasher);

impl MemberDigest {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(key))
    }

    pub(crate) fn add(&mut self, offset: u64, digest: &[u8]) {
        self.0.update(&offset.to_le_bytes()).update(digest);
    }

    pub(crate) fn finish(mut self, size: u64) -> blake3::Hash {
        self.0.update(&size.to_le_bytes());
        self.0.finalize()
    }
}
