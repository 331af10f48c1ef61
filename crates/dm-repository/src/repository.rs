//! A repository: made once, opened often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{
    BackupId, BackupKind, BlockStream, Error, Finding, MemberSpec, OpContext, RepositoryId, RestoreContent,
    Result, SessionSummary, SourceDescription, TableFacts, TargetName,
};
use object_store::ObjectStore;

use crate::{BackupHeader, Identity, PinState, Recipient, Verification, VerifyLevel};

/// How a repository is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Who can read its backups. Unencrypted when empty.
    pub recipients: Vec<Recipient>,
    /// Who can read the maps of its backups; given if and only if there are recipients.
    pub index_recipient: Option<Recipient>,
    /// Size of a pack in bytes; at least 64 KiB.
    pub pack_bytes: u64,
    /// How long a lease lives by the store's clock; at least a second.
    pub lease: Duration,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            index_recipient: None,
            pack_bytes: 32 << 20,
            lease: Duration::from_secs(60),
        }
    }
}

/// How a repository is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Keys that read backups. Needed to restore and for a full verification only.
    pub identities: Vec<Identity>,
    /// Key that reads maps. Without it (or an identity) an encrypted repository takes full backups only.
    pub index_identity: Option<Identity>,
    /// zstd level, 1 to 19.
    pub zstd_level: i32,
    /// Threads that compress, hash and decompress.
    pub threads: usize,
    /// Bytes of packs held in memory at once; at least two packs are.
    pub memory_bytes: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            identities: Vec::new(),
            index_identity: None,
            zstd_level: 3,
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            memory_bytes: 96 << 20,
        }
    }
}

/// What a backup begins with.
#[derive(Clone, Debug)]
pub struct BackupStart {
    /// What is backed up.
    pub target: TargetName,
    /// How much it may reuse.
    pub kind: BackupKind,
    /// The backup to compare with; `None` if and only if the kind is full.
    pub parent: Option<BackupHeader>,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// What became of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSummary {
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of new frames, compressed.
    pub stored_bytes: u64,
    /// Bytes that the parent had.
    pub reused_bytes: u64,
}

/// The backups of a repository.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Whole backups, oldest first: by consistency point, a parent before its children.
    pub backups: Vec<BackupHeader>,
    /// What could not be read or does not fit together.
    pub problems: Vec<Finding>,
    /// The latest word on pins.
    pub pins: BTreeMap<BackupId, PinState>,
    /// The latest verification of each.
    pub verified: BTreeMap<BackupId, Verification>,
    /// Backups that are marked for deletion.
    pub tombstoned: BTreeSet<BackupId>,
    /// Backups without a commit: running ones and what interrupted ones left.
    pub incomplete: BTreeSet<BackupId>,
}

/// How to sweep.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Wait until marked backups may be removed (leases end or expire); otherwise leave them to a later sweep.
    pub wait: bool,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Backups whose objects were (or would be) removed.
    pub removed: Vec<BackupId>,
    /// Interrupted backups that were (or would be) marked.
    pub marked: Vec<BackupId>,
    /// Marked backups that have to wait, and why.
    pub waiting: Vec<(BackupId, String)>,
    /// Marks that were withdrawn because a backup references what they marked.
    pub unmarked: Vec<BackupId>,
    /// Objects that were (or would be) removed.
    pub objects: u64,
    /// Bytes that were (or would be) freed.
    pub bytes: u64,
    /// What could not be read and therefore counts as referenced.
    pub problems: Vec<Finding>,
}

/// A repository in a store.
#[derive(Clone, Debug)]
pub struct Repository;

/// A backup being written.
#[derive(Debug)]
pub struct BackupWriter;

/// A backup being read.
#[derive(Debug)]
pub struct BackupReader;

fn soon() -> Error {
    Error::internal("not yet built")
}
#[allow(missing_docs, clippy::unused_async, unused_variables, clippy::missing_errors_doc)]
impl Repository {
    pub async fn init(
        store: Arc<dyn ObjectStore>,
        ctx: &OpContext,
        init: InitOptions,
        open: OpenOptions,
    ) -> Result<Self> {
        Err(soon())
    }
    pub async fn open(store: Arc<dyn ObjectStore>, ctx: &OpContext, open: OpenOptions) -> Result<Self> {
        Err(soon())
    }
    pub fn id(&self) -> RepositoryId {
        RepositoryId::generate()
    }
    pub fn is_encrypted(&self) -> bool {
        false
    }
    pub fn can_read_index(&self) -> bool {
        true
    }
    pub fn single_writer(&self) -> bool {
        false
    }
    pub async fn begin(&self, ctx: &OpContext, start: BackupStart) -> Result<BackupWriter> {
        Err(soon())
    }
    pub async fn list(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<Listing> {
        Err(soon())
    }
    pub async fn header(&self, ctx: &OpContext, target: &TargetName, id: BackupId) -> Result<BackupHeader> {
        Err(soon())
    }
    pub async fn read(&self, ctx: &OpContext, header: &BackupHeader) -> Result<BackupReader> {
        Err(soon())
    }
    pub async fn verify(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        level: VerifyLevel,
    ) -> Result<Verification> {
        Err(soon())
    }
    pub async fn pin(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        pinned: bool,
        reason: &str,
    ) -> Result<()> {
        Err(soon())
    }
    pub async fn tombstone(&self, ctx: &OpContext, header: &BackupHeader, reason: &str) -> Result<()> {
        Err(soon())
    }
    pub async fn sweep(&self, ctx: &OpContext, options: SweepOptions) -> Result<SweepReport> {
        Err(soon())
    }
}
#[allow(missing_docs, clippy::unused_async, unused_variables, clippy::missing_errors_doc)]
impl BackupWriter {
    pub fn id(&self) -> BackupId {
        BackupId::generate()
    }
    pub fn digest_key(&self) -> [u8; 32] {
        [0; 32]
    }
    pub async fn write_member(
        &self,
        ctx: &OpContext,
        spec: MemberSpec,
        blocks: BlockStream,
    ) -> Result<MemberSummary> {
        Err(soon())
    }
    pub async fn commit(
        self,
        ctx: &OpContext,
        source: SourceDescription,
        summary: SessionSummary,
    ) -> Result<BackupHeader> {
        Err(soon())
    }
    pub async fn abandon(self, ctx: &OpContext) -> Result<()> {
        Err(soon())
    }
}
#[allow(
    missing_docs,
    clippy::unused_async,
    unused_variables,
    clippy::missing_errors_doc,
    clippy::unimplemented
)]
impl BackupReader {
    pub fn header(&self) -> &BackupHeader {
        unimplemented!()
    }
    pub fn source(&self) -> &SourceDescription {
        unimplemented!()
    }
    pub fn tables(&self) -> &[TableFacts] {
        &[]
    }
    pub fn warnings(&self) -> &[String] {
        &[]
    }
    pub fn digest_key(&self) -> [u8; 32] {
        [0; 32]
    }
    pub async fn members(&self, ctx: &OpContext) -> Result<Vec<(MemberSpec, u64)>> {
        Err(soon())
    }
    pub fn content(&self, ctx: &OpContext, member_name: &str) -> RestoreContent {
        Box::pin(futures::stream::empty())
    }
    pub async fn close(self) -> Result<()> {
        Err(soon())
    }
}
