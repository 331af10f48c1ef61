//! Index pages as stored: read with their digests checked, written once (§5).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dm_core::{BackupId, Error, ErrorKind, Result, TargetName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cpu::{compress, decompress};
use crate::page::{
    Directory, Extent, ExtentsPage, Inventory, MemberEntry, MemberMap, PackId, PageRef, Stored,
};
use crate::repository::Inner;
use crate::{BackupHeader, Recipient, keys, page, paths};

/// The largest page that a reader takes: far above what a writer makes.
pub(crate) const MAX_PAGE: usize = 256 << 20;

/// Reads pages of one target.
#[derive(Clone)]
pub(crate) struct PageReader {
    pub(crate) repository: Arc<Inner>,
    pub(crate) target: TargetName,
}

impl PageReader {
    /// A page, its digest checked.
    pub(crate) async fn read<T: DeserializeOwned + Send + 'static>(&self, page: &PageRef) -> Result<T> {
        let key = paths::page(&self.target, page.b, page.n);
        let stored = match self.repository.storage.get_large(&key).await {
            Ok(stored) => stored,
            Err(error) => return Err(self.explain(page.b, error).await),
        };
        let json = self.unseal(page.b, stored).await.map_err(|e| e.about(key.as_ref()))?;
        let digest = page.d.clone();
        self.repository
            .cpu
            .run(move || {
                if blake3::hash(&json).to_hex().as_str() != digest {
                    return Err(Error::corrupt("the page is not the one that was written"));
                }
                serde_json::from_slice(&json)
                    .map_err(|e| Error::corrupt("the page is not of the expected form").with_source(e))
            })
            .await?
            .map_err(|e| e.about(key.as_ref()))
    }

    /// An object of a backup is not there: the store lost it, or a sweep took it because nobody kept it any more.
    pub(crate) async fn explain(&self, owner: BackupId, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        match self.repository.storage.exists(&paths::tombstone(&self.target, owner)).await {
            Ok(true) => Error::new(
                ErrorKind::Conflict,
                "the backup was deleted while it was being read: its reader had no lease, or was stopped for longer than a lease lasts",
            )
            .about(owner.to_string())
            .with_hint("take another backup, or this one from a copy of the repository (--place)")
            .with_source(error),
            _ => error,
        }
    }

    async fn unseal(&self, backup: BackupId, stored: Bytes) -> Result<Vec<u8>> {
        let frame = if self.repository.description.encryption.is_some() {
            let damaged = |e: age::DecryptError| Error::corrupt("the page is damaged").with_source(e);
            match &self.repository.options.index_identity {
                Some(index) => keys::open_sealed(&stored, &[index]).map_err(damaged)?,
                None if self.repository.options.identities.is_empty() => {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        "the map of the backup is encrypted and no key was given",
                    )
                    .with_hint("give the index identity, or an identity of the repository"));
                }
                None => {
                    let key = self.repository.backup_key(&self.target, backup).await?;
                    keys::open_sealed(&stored, &[&key]).map_err(damaged)?
                }
            }
        } else {
            stored.to_vec()
        };
        self.repository.cpu.run(move || decompress(&frame, MAX_PAGE)).await?
    }

    /// The list of stored objects of a backup.
    pub(crate) async fn inventory(&self, header: &BackupHeader) -> Result<Inventory> {
        let key = paths::inventory(&self.target, header.id);
        let stored = self.repository.storage.get_large(&key).await?;
        if stored.len() as u64 != header.inventory.size
            || blake3::hash(&stored).to_hex().as_str() != header.inventory.digest
        {
            return Err(Error::corrupt("the inventory is not the one that was written").about(key.as_ref()));
        }
        let json = self.repository.cpu.run(move || decompress(&stored, MAX_PAGE)).await?;
        serde_json::from_slice(&json.map_err(|e| e.about(key.as_ref()))?).map_err(|e| {
            Error::corrupt("the inventory is not of the expected form").about(key.as_ref()).with_source(e)
        })
    }

    /// Where a header says the map begins.
    pub(crate) fn root_of(header: &BackupHeader) -> PageRef {
        PageRef { b: header.id, n: header.root.n, d: header.root.d.clone() }
    }

    /// The number of pieces in which a member's map is read.
    pub(crate) fn pieces(entry: &MemberEntry) -> usize {
        match &entry.map {
            MemberMap::Extents(_) => 1,
            MemberMap::Pages(spans) => spans.len(),
        }
    }

    /// One piece of a member's map: its inline extents, or those of one span.
    pub(crate) async fn piece(
        &self,
        entry: &MemberEntry,
        packs: &[PackId],
        piece: usize,
    ) -> Result<Vec<Extent>> {
        match &entry.map {
            MemberMap::Extents(extents) => page::load_extents(extents, packs),
            MemberMap::Pages(spans) => match spans.get(piece) {
                None => Ok(Vec::new()),
                Some(span) => {
                    let loaded: ExtentsPage = self.read(&span.page).await?;
                    let extents = page::load_extents(&loaded.extents, &loaded.packs)?;
                    let inside = span.offset..span.offset + page::SPAN_BYTES;
                    if extents.iter().all(|e| inside.contains(&e.offset)) {
                        Ok(extents)
                    } else {
                        Err(Error::corrupt("an extent stands in the wrong page"))
                    }
                }
            },
        }
    }

    /// The directory page at a place.
    pub(crate) async fn directory(&self, page: &PageRef) -> Result<Directory> {
        self.read(page).await
    }
}

/// Writes the pages of one backup and remembers which pages of others it names.
pub(crate) struct PageWriter {
    repository: Arc<Inner>,
    target: TargetName,
    backup: BackupId,
    /// Backup key and index key; empty when unencrypted.
    recipients: Vec<Recipient>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    next: u32,
    own: Vec<Stored>,
    foreign: BTreeSet<(BackupId, u32)>,
}

impl PageWriter {
    pub(crate) fn new(
        repository: Arc<Inner>,
        target: TargetName,
        backup: BackupId,
        recipients: Vec<Recipient>,
    ) -> Self {
        Self { repository, target, backup, recipients, written: Mutex::new(Written::default()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a page, or names the one of an earlier backup that is the same.
    pub(crate) async fn write<T: Serialize>(&self, page: &T, earlier: Option<&PageRef>) -> Result<PageRef> {
        let json = serde_json::to_vec(page)
            .map_err(|e| Error::internal("cannot write an index page").with_source(e))?;
        let digest = blake3::hash(&json).to_hex().to_string();
        if let Some(earlier) = earlier.filter(|e| e.d == digest) {
            self.reuse(earlier);
            return Ok(earlier.clone());
        }
        let level = self.repository.cpu.level;
        let frame = self.repository.cpu.run(move || compress(&json, level)).await??;
        let stored = Bytes::from(if self.recipients.is_empty() {
            frame
        } else {
            keys::seal(&self.recipients, &frame)?
        });
        let n = {
            let mut written = self.lock();
            written.next += 1;
            written.next - 1
        };
        let facts = Stored {
            id: PackId { backup: self.backup, n },
            size: stored.len() as u64,
            digest: blake3::hash(&stored).to_hex().to_string(),
        };
        self.repository.storage.create_own(&paths::page(&self.target, self.backup, n), stored).await?;
        self.lock().own.push(facts);
        Ok(PageRef { b: self.backup, n, d: digest })
    }

    /// Remembers that a page is named by this backup.
    pub(crate) fn reuse(&self, page: &PageRef) {
        if page.b != self.backup {
            self.lock().foreign.insert((page.b, page.n));
        }
    }

    /// The pages written, in order, and those of other backups that are named.
    pub(crate) fn finish(&self) -> (Vec<Stored>, BTreeSet<(BackupId, u32)>) {
        let written = self.lock();
        let mut own = written.own.clone();
        own.sort();
        (own, written.foreign.clone())
    }
}
