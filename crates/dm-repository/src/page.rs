//! Index pages (§5): their JSON, and extents as they stand in memory.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use dm_core::{BackupId, Error, MemberSpec, Result, SourceDescription, TableFacts};
use serde::{Deserialize, Serialize};

/// The logical offsets that one extents page covers.
pub(crate) const SPAN_BYTES: u64 = 256 << 20;
/// The most extents that a member carries in its directory.
pub(crate) const INLINE_EXTENTS: usize = 64;
/// The most members of a directory page.
pub(crate) const DIRECTORY_MEMBERS: usize = 512;
/// The bytes of a content digest that an extent keeps.
pub(crate) const SHORT_DIGEST: usize = 16;

/// Names a page of this or another backup of the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PageRef {
    /// The backup that wrote it. Always there, so that a page reads the same wherever it is referenced from.
    pub(crate) b: BackupId,
    pub(crate) n: u32,
    /// BLAKE3 of the page's JSON text.
    pub(crate) d: String,
}

/// Names a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(BackupId, u32)", into = "(BackupId, u32)")]
pub(crate) struct PackId {
    pub(crate) backup: BackupId,
    pub(crate) n: u32,
}

impl From<(BackupId, u32)> for PackId {
    fn from((backup, n): (BackupId, u32)) -> Self {
        Self { backup, n }
    }
}

impl From<PackId> for (BackupId, u32) {
    fn from(pack: PackId) -> Self {
        (pack.backup, pack.n)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Root {
    pub(crate) page: RootTag,
    pub(crate) hash_key: String,
    pub(crate) source: SourceDescription,
    pub(crate) tables: Vec<TableFacts>,
    pub(crate) warnings: Vec<String>,
    pub(crate) directories: Vec<DirectoryRef>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DirectoryRef {
    pub(crate) first: String,
    pub(crate) members: u32,
    #[serde(rename = "ref")]
    pub(crate) page: PageRef,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) page: DirectoryTag,
    /// Packs of the inline extents.
    pub(crate) packs: Vec<PackId>,
    pub(crate) members: Vec<MemberEntry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemberEntry {
    pub(crate) spec: MemberSpec,
    pub(crate) size: u64,
    pub(crate) digest: String,
    #[serde(flatten)]
    pub(crate) map: MemberMap,
}

/// Where a member's extents stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MemberMap {
    /// Here.
    Extents(Vec<StoredExtent>),
    /// In pages, one for each span that has any.
    Pages(Vec<SpanRef>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpanRef {
    /// Where the span begins.
    pub(crate) offset: u64,
    #[serde(rename = "ref")]
    pub(crate) page: PageRef,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExtentsPage {
    pub(crate) page: ExtentsTag,
    pub(crate) packs: Vec<PackId>,
    pub(crate) extents: Vec<StoredExtent>,
}

/// `[offset, length, pack, frame_offset, frame_length, inner_offset, "digests"]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredExtent(u64, u32, u32, u64, u32, u32, String);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RootTag {
    Root,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DirectoryTag {
    Directory,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExtentsTag {
    Extents,
}

/// A run of a member's bytes and where they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) pack: PackId,
    pub(crate) frame_offset: u64,
    pub(crate) frame_length: u32,
    pub(crate) inner: u32,
    /// One digest for a stream, one for each page otherwise; 16 bytes each.
    pub(crate) digests: Vec<u8>,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Whether the other continues this one, in the member and in the same frame.
    fn continues(&self, next: &Self) -> bool {
        self.pack == next.pack
            && self.frame_offset == next.frame_offset
            && self.end() == next.offset
            && self.inner + self.length == next.inner
    }

    /// The part of an extent of pages that covers a range inside of it; `None` when the range does not begin and end on
    /// pages (the extent's end aside).
    pub(crate) fn part(&self, range: Range<u64>, page_bytes: usize) -> Option<Self> {
        let page = page_bytes as u64;
        let start = range.start.checked_sub(self.offset)?;
        let length = range.end.checked_sub(range.start).filter(|n| *n > 0)?;
        if start % page != 0 || range.end > self.end() || (length % page != 0 && range.end != self.end()) {
            return None;
        }
        let first = usize::try_from(start / page).ok()? * SHORT_DIGEST;
        let digests = usize::try_from(length.div_ceil(page)).ok()? * SHORT_DIGEST;
        Some(Self {
            offset: range.start,
            length: u32::try_from(length).ok()?,
            pack: self.pack,
            frame_offset: self.frame_offset,
            frame_length: self.frame_length,
            inner: self.inner + u32::try_from(start).ok()?,
            digests: self.digests.get(first..first + digests)?.to_vec(),
        })
    }

    fn absorb(&mut self, next: &Self) {
        self.length += next.length;
        self.digests.extend_from_slice(&next.digests);
    }
}

/// Appends, joining what stands side by side both in the member and in the frame. Only for members of pages.
pub(crate) fn push_joined(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        // A span's first extent is never joined to the one before, so that a span's page depends on the span alone.
        Some(last) if last.continues(&next) && !next.offset.is_multiple_of(SPAN_BYTES) => last.absorb(&next),
        _ => extents.push(next),
    }
}

/// Extents as they are stored, with packs by their place in `packs`, which grows as needed.
pub(crate) fn store_extents(extents: &[Extent], packs: &mut Vec<PackId>) -> Vec<StoredExtent> {
    let mut places: std::collections::HashMap<PackId, usize> =
        packs.iter().enumerate().map(|(i, p)| (*p, i)).collect();
    extents
        .iter()
        .map(|e| {
            let place = *places.entry(e.pack).or_insert_with(|| {
                packs.push(e.pack);
                packs.len() - 1
            });
            #[allow(clippy::cast_possible_truncation)]
            let place = place as u32;
            let digests = STANDARD_NO_PAD.encode(&e.digests);
            StoredExtent(e.offset, e.length, place, e.frame_offset, e.frame_length, e.inner, digests)
        })
        .collect()
}

/// Reads stored extents and checks that they are sorted, do not overlap and carry whole digests.
pub(crate) fn load_extents(stored: &[StoredExtent], packs: &[PackId]) -> Result<Vec<Extent>> {
    let bad = |why: &str| Error::corrupt(format!("the map of a member is wrong: {why}"));
    let mut extents: Vec<Extent> = Vec::with_capacity(stored.len());
    for StoredExtent(offset, length, pack, frame_offset, frame_length, inner, digests) in stored {
        let pack = packs.get(*pack as usize).copied().ok_or_else(|| bad("an extent names no pack"))?;
        let digests = STANDARD_NO_PAD.decode(digests).map_err(|_| bad("a digest is not base64"))?;
        let end = offset.checked_add(u64::from(*length));
        if digests.is_empty() || digests.len() % SHORT_DIGEST != 0 || *length == 0 || end.is_none() {
            return Err(bad("an extent has no length or no digest"));
        }
        if extents.last().is_some_and(|last| last.end() > *offset) {
            return Err(bad("extents overlap"));
        }
        extents.push(Extent {
            offset: *offset,
            length: *length,
            pack,
            frame_offset: *frame_offset,
            frame_length: *frame_length,
            inner: *inner,
            digests,
        });
    }
    Ok(extents)
}

/// `inventory.json.zst`: every stored object that the backup needs, its own and those of others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) packs: Vec<Stored>,
    pub(crate) pages: Vec<Stored>,
    pub(crate) keys: Vec<Stored>,
}

/// `["<backup>", n, size, "<BLAKE3 of the stored bytes>"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(BackupId, u32, u64, String)", into = "(BackupId, u32, u64, String)")]
pub(crate) struct Stored {
    pub(crate) id: PackId,
    pub(crate) size: u64,
    pub(crate) digest: String,
}

impl From<(BackupId, u32, u64, String)> for Stored {
    fn from((backup, n, size, digest): (BackupId, u32, u64, String)) -> Self {
        Self { id: PackId { backup, n }, size, digest }
    }
}

impl From<Stored> for (BackupId, u32, u64, String) {
    fn from(stored: Stored) -> Self {
        (stored.id.backup, stored.id.n, stored.size, stored.digest)
    }
}
