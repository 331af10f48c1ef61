//! The documents that are not index pages: backup headers, pins, verifications (§1, §8).

use chrono::{DateTime, Utc};
use dm_core::{
    BackupId, BackupKind, BackupMode, ConsistencyPoint, EngineKind, Finding, RepositoryId, ServerVersion,
    TargetName,
};
use serde::{Deserialize, Serialize};

use crate::verify_options::SampleProgress;

/// Format name of a commit.
pub(crate) const BACKUP_FORMAT: &str = "dm-backup";

/// What `backup.json` says of a backup: everything that listing, planning and choosing need, and no contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The backup.
    pub id: BackupId,
    /// What was backed up.
    pub target: TargetName,
    /// The repository that it was written to.
    pub repository: RepositoryId,
    /// How much it may reuse.
    pub kind: BackupKind,
    /// The backup that it was compared with.
    pub parent: Option<BackupId>,
    /// Every other backup whose packs or pages its map names; sorted.
    pub references: Vec<BackupId>,
    /// The engine.
    pub engine: EngineKind,
    /// The server's version.
    pub engine_version: ServerVersion,
    /// What tells the database from a copy of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_identifier: Option<String>,
    /// Rows or files.
    pub mode: BackupMode,
    /// The database's name.
    pub database: String,
    /// The program that wrote it, with its version.
    pub tool: String,
    /// When it began, by the writer's clock.
    pub started_at: DateTime<Utc>,
    /// When it was complete, by the writer's clock.
    pub finished_at: DateTime<Utc>,
    /// The moment that it shows.
    pub consistency: ConsistencyPoint,
    /// Bytes.
    pub sizes: Sizes,
    /// Numbers of things.
    pub counts: Counts,
    /// Whether packs and pages are encrypted.
    pub encrypted: bool,
    /// The root page.
    pub root: RootRef,
    /// The list of stored objects that verify walks without a key.
    pub inventory: InventoryRef,
    /// The interrupted backup that it went on from, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed: Option<ResumedFrom>,
    /// The backup that it was rewritten from, which had the same content.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewrites: Option<RewrittenFrom>,
    /// Fields of later minor versions.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

impl BackupHeader {
    /// The kind that retention goes by: a backup that was written anew is judged as what it was before.
    #[must_use]
    pub fn judged_kind(&self) -> BackupKind {
        self.rewrites.map_or(self.kind, |from| from.kind)
    }
}

/// The backup that another one stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrittenFrom {
    /// The backup. It may be gone.
    pub backup: BackupId,
    /// What it was.
    pub kind: BackupKind,
}

/// Sizes of a backup in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The sum of the members' sizes: what a restore writes.
    pub logical: u64,
    /// What was read from the engine.
    pub read: u64,
    /// What this backup added to the repository: its own packs and pages as stored.
    pub stored: u64,
}

/// What an interrupted backup had stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedFrom {
    /// The interrupted backup. Nothing of this one lies there.
    pub backup: BackupId,
    /// Bytes of packs, as stored, that were not sent again.
    pub bytes: u64,
}

/// Numbers of things in a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Members.
    pub members: u64,
    /// Tables with facts.
    pub tables: u64,
    /// Rows of those tables.
    pub rows: u64,
    /// Own packs.
    pub packs: u64,
    /// Own index pages.
    pub pages: u64,
}

/// Where the map begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRef {
    /// The page's number.
    pub n: u32,
    /// BLAKE3 of its JSON text.
    pub d: String,
}

/// The inventory object as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryRef {
    /// Its size.
    pub size: u64,
    /// BLAKE3 of the stored object.
    pub digest: String,
}

/// Whether a backup is pinned, by the latest word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinState {
    /// Pinned, or unpinned again.
    pub pinned: bool,
    /// When that was said.
    pub at: DateTime<Utc>,
    /// Who said it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// How deep a verification looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyLevel {
    /// Every object is there with its size.
    Quick,
    /// The same, and a part of the stored bytes is as it was written. Needs no key.
    Sampled,
    /// Every byte that is stored is as it was written. Needs no key.
    #[default]
    Stored,
    /// Everything is decrypted, decompressed and compared with its content digests as well.
    Full,
}

impl std::fmt::Display for VerifyLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Quick => "quick",
            Self::Sampled => "sampled",
            Self::Stored => "stored",
            Self::Full => "full",
        })
    }
}

/// The result of a verification, as it is recorded beside the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How deep it looked.
    pub level: VerifyLevel,
    /// Whether nothing of level `Error` was found.
    pub ok: bool,
    /// What was found, naming the objects; the first hundred.
    pub findings: Vec<Finding>,
    /// Who asked.
    pub by: String,
    /// Objects looked at.
    #[serde(default)]
    pub objects: u64,
    /// Stored bytes read.
    #[serde(default)]
    pub bytes: u64,
    /// Since when every stored byte is known to be as it was written, by this verification or those before it: when the reading
    /// began that came to its end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proven_at: Option<DateTime<Utc>>,
    /// Where samples have come to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample: Option<SampleProgress>,
}

impl Verification {
    /// When every stored byte was last known to be as it was written; `None` when it never was, or damage was found since.
    #[must_use]
    pub fn proven_at(&self) -> Option<DateTime<Utc>> {
        let itself = (self.level >= VerifyLevel::Stored).then_some(self.at);
        self.proven_at.or(itself).filter(|_| self.ok)
    }
}

/// Format names of the numbered records, and the folders that hold them.
pub(crate) const PIN_FORMAT: &str = "dm-pin";
pub(crate) const PINS: &str = "pins";
pub(crate) const VERIFICATION_FORMAT: &str = "dm-verification";
pub(crate) const VERIFICATIONS: &str = "verifications";
