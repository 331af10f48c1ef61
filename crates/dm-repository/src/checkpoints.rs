//! Checkpoints of audit trails: small signed texts that are kept outside of the trail's own store (§13).

use bytes::Bytes;
use dm_core::{Error, OpContext, Result};
use object_store::path::Path;

use crate::repository::Repository;

/// More than any signed checkpoint is.
const MOST_BYTES: usize = 64 << 10;

/// A checkpoint as its key names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointEntry {
    /// Entries of the trail that it covers.
    pub size: u64,
    /// First 32 hexadecimal digits of BLAKE3 over the text.
    pub digest: String,
}

impl Repository {
    /// Keeps a signed checkpoint of the trail `origin`. Idempotent; what is there is never replaced, and another text for the
    /// same size stands beside it.
    ///
    /// # Errors
    /// `Invalid` for a text of more than 64 KiB; the store's.
    pub async fn put_checkpoint(&self, ctx: &OpContext, origin: &str, size: u64, note: &str) -> Result<()> {
        if note.is_empty() || note.len() > MOST_BYTES {
            return Err(Error::invalid(format!("a checkpoint of {} bytes", note.len())));
        }
        let digest = blake3::hash(note.as_bytes()).to_hex();
        let entry = CheckpointEntry { size, digest: digest.as_str()[..32].to_owned() };
        let bytes = Bytes::copy_from_slice(note.as_bytes());
        ctx.run(self.inner.storage.create_own(&entry.key(origin), bytes)).await
    }

    /// The checkpoints of a trail that are here, the smallest first. Foreign objects are passed over.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_checkpoints(&self, ctx: &OpContext, origin: &str) -> Result<Vec<CheckpointEntry>> {
        let folder = folder(origin);
        let objects = ctx.run(self.inner.storage.list(&folder)).await?;
        let mut entries: Vec<_> =
            objects.iter().filter_map(|meta| CheckpointEntry::of(meta.location.filename()?)).collect();
        entries.sort();
        Ok(entries)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// `Corrupt` when it is not what its key says; the store's.
    pub async fn read_checkpoint(
        &self,
        ctx: &OpContext,
        origin: &str,
        entry: &CheckpointEntry,
    ) -> Result<String> {
        let key = entry.key(origin);
        let bytes = ctx.run(self.inner.storage.get(&key)).await?;
        let text = String::from_utf8(bytes.to_vec()).ok();
        let whole = text.filter(|t| blake3::hash(t.as_bytes()).to_hex().starts_with(&entry.digest));
        whole.ok_or_else(|| Error::corrupt("the checkpoint is damaged").about(key.as_ref()))
    }
}

impl CheckpointEntry {
    fn key(&self, origin: &str) -> Path {
        Path::from(format!("{}/{:020}-{}.note", folder(origin), self.size, self.digest))
    }

    fn of(name: &str) -> Option<Self> {
        let (size, digest) = name.strip_suffix(".note")?.split_once('-')?;
        let sound = size.len() == 20 && digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        sound.then_some(())?;
        Some(Self { size: size.parse().ok()?, digest: digest.to_owned() })
    }
}

/// The folder of a trail: its name may hold anything, so its digest stands for it.
fn folder(origin: &str) -> Path {
    let digest = blake3::hash(origin.as_bytes()).to_hex();
    Path::from(format!("audit/{}/checkpoints", &digest.as_str()[..32]))
}
