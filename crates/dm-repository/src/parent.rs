//! The map of the backup that a new one is compared with (§6).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{BaseBackup, MemberSpec, OpContext, Result, SourceDescription, TableFacts};
use tokio::sync::Mutex;

use crate::index::PageReader;
use crate::page::{Directory, Inventory, MemberEntry, MemberMap, PackId, PageRef, Root};
use crate::page::{Extent, SHORT_DIGEST};

/// Directory pages kept in memory: members come in any order.
const KEPT_DIRECTORIES: usize = 16;

pub(crate) struct Parent {
    pub(crate) pages: PageReader,
    pub(crate) root: Root,
    pub(crate) inventory: Inventory,
    kept: Mutex<Vec<(usize, Arc<Directory>)>>,
}

/// A member of the parent.
#[derive(Clone)]
pub(crate) struct ParentMember {
    directory: Arc<Directory>,
    place: usize,
}

impl Parent {
    pub(crate) fn new(pages: PageReader, root: Root, inventory: Inventory) -> Self {
        Self { pages, root, inventory, kept: Mutex::new(Vec::new()) }
    }

    /// The member of this name, if the parent has it.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<ParentMember>> {
        let after = self.root.directories.partition_point(|d| d.first.as_str() <= name);
        let Some(index) = after.checked_sub(1) else { return Ok(None) };
        let mut kept = self.kept.lock().await;
        let directory = match kept.iter().position(|(i, _)| *i == index) {
            Some(place) => {
                let found = kept.remove(place);
                kept.push(found.clone());
                found.1
            }
            None => {
                let loaded = Arc::new(self.pages.directory(&self.root.directories[index].page).await?);
                if kept.len() >= KEPT_DIRECTORIES {
                    kept.remove(0);
                }
                kept.push((index, Arc::clone(&loaded)));
                loaded
            }
        };
        drop(kept);
        let place = directory.members.binary_search_by(|m| m.spec.name.as_str().cmp(name));
        Ok(place.ok().map(|place| ParentMember { directory, place }))
    }

    /// The directory pages by their digests.
    pub(crate) fn directories(&self) -> HashMap<&str, &PageRef> {
        self.root.directories.iter().map(|d| (d.page.d.as_str(), &d.page)).collect()
    }
}

#[async_trait]
impl BaseBackup for Parent {
    fn source(&self) -> &SourceDescription {
        &self.root.source
    }

    async fn member(&self, ctx: &OpContext, name: &str) -> Result<Option<(MemberSpec, u64)>> {
        let found = ctx.run(self.find(name)).await?;
        Ok(found.map(|m| (m.entry().spec.clone(), m.entry().size)))
    }

    fn tables(&self) -> &[TableFacts] {
        &self.root.tables
    }

    fn warnings(&self) -> &[String] {
        &self.root.warnings
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parent").field("source", &self.root.source.database).finish_non_exhaustive()
    }
}

impl ParentMember {
    pub(crate) fn entry(&self) -> &MemberEntry {
        &self.directory.members[self.place]
    }

    /// The page of the span that begins here.
    pub(crate) fn span_page(&self, offset: u64) -> Option<&PageRef> {
        match &self.entry().map {
            MemberMap::Extents(_) => None,
            MemberMap::Pages(spans) => spans.iter().find(|s| s.offset == offset).map(|s| &s.page),
        }
    }

    /// The extents of the span that begins here.
    pub(crate) async fn span(&self, pages: &PageReader, offset: u64) -> Result<Vec<Extent>> {
        match &self.entry().map {
            MemberMap::Extents(_) => {
                let all = pages.piece(self.entry(), &self.directory.packs, 0).await?;
                let span = offset..offset + crate::page::SPAN_BYTES;
                Ok(all.into_iter().filter(|e| span.contains(&e.offset)).collect())
            }
            MemberMap::Pages(spans) => match spans.iter().position(|s| s.offset == offset) {
                Some(piece) => pages.piece(self.entry(), &self.directory.packs, piece).await,
                None => Ok(Vec::new()),
            },
        }
    }

    /// Every block of a stream by its digest. Some 60 bytes a block; the first of equal ones stands for all.
    pub(crate) async fn blocks(&self, pages: &PageReader) -> Result<HashMap<[u8; SHORT_DIGEST], BlockPlace>> {
        let mut blocks = HashMap::new();
        for piece in 0..PageReader::pieces(self.entry()) {
            for extent in pages.piece(self.entry(), &self.directory.packs, piece).await? {
                if let Some((digest, place)) = BlockPlace::of(&extent) {
                    blocks.entry(digest).or_insert(place);
                }
            }
        }
        Ok(blocks)
    }
}

/// Where a block of the parent, or of an interrupted run, lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockPlace {
    pub(crate) pack: PackId,
    pub(crate) frame_offset: u64,
    pub(crate) frame_length: u32,
    pub(crate) inner: u32,
    pub(crate) length: u32,
}

impl BlockPlace {
    /// The block that an extent of a stream is, with its digest.
    pub(crate) fn of(extent: &Extent) -> Option<([u8; SHORT_DIGEST], Self)> {
        let digest = <[u8; SHORT_DIGEST]>::try_from(extent.digests.as_slice()).ok()?;
        let place = Self {
            pack: extent.pack,
            frame_offset: extent.frame_offset,
            frame_length: extent.frame_length,
            inner: extent.inner,
            length: extent.length,
        };
        Some((digest, place))
    }

    /// Makes an extent lie there.
    pub(crate) fn fill(self, extent: &mut Extent) {
        extent.pack = self.pack;
        extent.frame_offset = self.frame_offset;
        extent.frame_length = self.frame_length;
        extent.inner = self.inner;
    }
}
