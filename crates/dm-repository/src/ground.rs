//! What the parent has of one span of a member of pages (§6): found page by page, or taken over unread.

use std::ops::Range;

use dm_core::{Error, Result};

use crate::page::{Extent, SHORT_DIGEST};

/// The parent's extents of one span. Questions come in order of offsets.
#[derive(Default)]
pub(crate) struct Ground {
    extents: Vec<Extent>,
    cursor: usize,
    bytes: u64,
    taken: u64,
}

impl Ground {
    pub(crate) fn new(extents: Vec<Extent>) -> Self {
        let bytes = extents.iter().map(|e| u64::from(e.length)).sum();
        Self { extents, cursor: 0, bytes, taken: 0 }
    }

    /// Whether everything that the parent has here was found or taken: what came of it is the parent's own page of
    /// the map, unless something else was added.
    pub(crate) fn is_all_taken(&self) -> bool {
        self.bytes > 0 && self.taken == self.bytes
    }

    fn pass(&mut self, offset: u64) {
        while self.extents.get(self.cursor).is_some_and(|e| e.end() <= offset) {
            self.cursor += 1;
        }
    }

    /// The page at this offset, when it is the same.
    pub(crate) fn find(
        &mut self,
        offset: u64,
        bytes: usize,
        digest: &[u8; SHORT_DIGEST],
        page_bytes: usize,
    ) -> Option<Extent> {
        self.pass(offset);
        let extent = self.extents.get(self.cursor).filter(|e| e.offset <= offset)?;
        let end = offset + bytes as u64;
        let page = extent.part(offset..end.min(extent.end()), page_bytes)?;
        // A short page has a part only where the parent's is as short.
        if page.length as usize != bytes || page.digests != digest {
            return None;
        }
        self.taken += u64::from(page.length);
        Some(page)
    }

    /// Everything that lies in this range, cut at its borders; what is left out is zeros.
    pub(crate) fn take(&mut self, range: &Range<u64>, page_bytes: usize) -> Result<Vec<Extent>> {
        self.pass(range.start);
        let mut parts = Vec::new();
        for extent in self.extents[self.cursor..].iter().take_while(|e| e.offset < range.end) {
            let inside = extent.offset.max(range.start)..extent.end().min(range.end);
            let part = extent
                .part(inside, page_bytes)
                .ok_or_else(|| Error::corrupt("an extent of the earlier backup does not stand on pages"))?;
            self.taken += u64::from(part.length);
            parts.push(part);
        }
        Ok(parts)
    }
}
