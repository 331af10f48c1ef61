//! A backup being written: filled member by member, suspended or abandoned.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use dm_core::{
    BackupId, BackupKind, BaseBackup, Block, BlockStream, Effect, Error, Layout, MemberSpec, OpContext,
    Result, TargetName,
};
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::cpu::Cpu;
use crate::index::PageWriter;
use crate::journal::Journal;
use crate::lease::{self, Lease};
use crate::map::DoneMember;
use crate::member_summary::MemberSummary;
use crate::packs::Packs;
use crate::page::{PackId, Stored};
use crate::parent::Parent;
use crate::repository::Inner;
use crate::resume::Resumed;
use crate::{BackupHeader, Identity, RewrittenFrom, paths, write_fresh, write_pages, write_stream};

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
    /// Whether to go on from what an interrupted backup of the target stored.
    pub resume: bool,
}

/// A backup being written. Dropping it without [`commit`](Self::commit) or [`abandon`](Self::abandon) leaves garbage that
/// a later sweep removes, and no backup.
pub struct BackupWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lease: Lease,
    pub(crate) start: BackupStart,
    pub(crate) keys: Vec<Stored>,
    /// The generation of recipients that its key is sealed to; `None` in an unencrypted repository.
    pub(crate) sealed_in: Option<u32>,
    /// Its key, where this run made it.
    pub(crate) identity: Option<Identity>,
    /// The backup whose content it is.
    pub(crate) rewrites: Option<RewrittenFrom>,
}

/// What the members being written share.
pub(crate) struct Shared {
    pub(crate) repository: Arc<Inner>,
    pub(crate) target: TargetName,
    pub(crate) backup: BackupId,
    pub(crate) hash_key: [u8; 32],
    pub(crate) parent: Option<Arc<Parent>>,
    /// What an interrupted backup stored.
    pub(crate) resumed: Option<Resumed>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) packs: Arc<Packs>,
    /// Members that may be written at once.
    pub(crate) turns: Semaphore,
    pub(crate) pages: PageWriter,
    pub(crate) members: Mutex<Members>,
    pub(crate) read_bytes: AtomicU64,
}

/// What has been written.
#[derive(Default)]
pub(crate) struct Members {
    names: HashSet<String>,
    pub(crate) done: Vec<DoneMember>,
    pub(crate) foreign_packs: BTreeSet<PackId>,
    /// Packs that came from an interrupted backup and that the map names.
    pub(crate) resumed_packs: BTreeSet<u32>,
    pub(crate) logical: u64,
}

impl Shared {
    pub(crate) fn cpu(&self) -> Cpu {
        self.repository.cpu.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the packs of other backups, and of an interrupted one, that a map names.
    pub(crate) fn use_packs(&self, packs: impl Iterator<Item = PackId>) {
        let mut members = self.lock();
        for pack in packs {
            if pack.backup != self.backup {
                members.foreign_packs.insert(pack);
            } else if self.resumed.as_ref().is_some_and(|r| r.packs.contains_key(&pack.n)) {
                members.resumed_packs.insert(pack.n);
            }
        }
    }
}

impl fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupWriter")
            .field("id", &self.id())
            .field("target", &self.start.target)
            .finish_non_exhaustive()
    }
}

pub(crate) fn hash_key_of(hash_key: &str) -> Result<[u8; 32]> {
    hex::decode(hash_key)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .ok_or_else(|| Error::corrupt("the backup has no usable hash key"))
}

impl BackupWriter {
    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> BackupId {
        self.shared.backup
    }

    /// Key of the content digests of this backup and of all that are compared with it.
    #[must_use]
    pub fn digest_key(&self) -> [u8; 32] {
        self.shared.hash_key
    }

    /// What a source may ask about the backup that this one is compared with; `None` when it is compared with nothing.
    #[must_use]
    pub fn base(&self) -> Option<Arc<dyn BaseBackup>> {
        self.shared.parent.clone().map(|parent| parent as _)
    }

    /// Bytes of packs so far, as stored.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shared.packs.stored_bytes()
    }

    /// Writes one member; several may be written at once, as many as the budget of memory holds: others wait. Reports each block as [`dm_core::Progress::Bytes`].
    ///
    /// # Errors
    /// The stream's own; `Invalid` for a name that was written before or bad pages; the store's. A member that failed
    /// is no part of the backup; others may go on.
    ///
    /// # Cancellation
    /// Dropping the future leaves the member out.
    pub async fn write_member(
        &self,
        ctx: &OpContext,
        spec: MemberSpec,
        blocks: BlockStream,
    ) -> Result<MemberSummary> {
        let name = spec.name.clone();
        if !self.shared.lock().names.insert(name.clone()) {
            return Err(Error::invalid("a member of this name was written before").about(name));
        }
        let result = Box::pin(self.write_named(ctx, spec, blocks)).await;
        if result.is_err() {
            self.shared.lock().names.remove(&name);
        }
        result.map_err(|e| e.about(name))
    }

    async fn write_named(
        &self,
        ctx: &OpContext,
        spec: MemberSpec,
        blocks: BlockStream,
    ) -> Result<MemberSummary> {
        let shared = &self.shared;
        // Before anything is read: what waits holds nothing.
        let turn = ctx.run(async { Ok(shared.turns.acquire().await) }).await?;
        let _turn = turn.map_err(|e| Error::internal("the backup takes no more members").with_source(e))?;
        let parent = match &shared.parent {
            Some(parent) => {
                let member = ctx.run(parent.find(&spec.name)).await?;
                member.filter(|m| m.entry().spec.layout == spec.layout)
            }
            None => None,
        };
        let earlier = parent.clone();
        let counting = Arc::clone(shared);
        let blocks = blocks
            .inspect(move |block| {
                if let Some(bytes) = block.as_ref().ok().and_then(Block::bytes) {
                    counting.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            })
            .boxed();
        let (done, mut summary) = match spec.layout {
            Layout::Stream => write_stream::write(ctx, shared, spec, parent, blocks).await?,
            Layout::Pages { page_bytes } => {
                if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
                    return Err(Error::invalid(format!(
                        "pages of {page_bytes} bytes: use a power of two, 512 to 65536"
                    )));
                }
                let is_known = shared.resumed.as_ref().is_some_and(|resumed| resumed.knows(&spec.name));
                match parent {
                    // Nothing is there to compare with.
                    None if !is_known => {
                        write_fresh::write(ctx, shared, spec, page_bytes as usize, blocks).await?
                    }
                    parent => {
                        write_pages::write(ctx, shared, spec, page_bytes as usize, parent, blocks).await?
                    }
                }
            }
        };
        // Of the same key, over every page or block and the size (§5).
        summary.unchanged = earlier.is_some_and(|earlier| earlier.entry().digest == done.digest);
        let mut members = shared.lock();
        members.logical += summary.size;
        members.done.push(done);
        Ok(summary)
    }

    /// The interrupted backup that this one goes on from.
    #[must_use]
    pub fn resumed_from(&self) -> Option<BackupId> {
        self.shared.resumed.as_ref().map(|resumed| resumed.from)
    }

    /// Ends the run and leaves what it stored to another one: [`Repository::begin`](crate::Repository::begin) for the same target goes on from there,
    /// until a sweep takes it for garbage. Where nothing was stored, the backup is [abandoned](Self::abandon).
    ///
    /// # Errors
    /// Those of `abandon`. That what was still in memory did not become durable is none: it is sent again.
    pub async fn suspend(self, ctx: &OpContext) -> Result<()> {
        let salvage = async {
            self.shared.packs.salvage().await;
            Ok(())
        };
        if let Err(error) = ctx.run(salvage).await {
            tracing::debug!(%error, "what an interrupted backup still held was not stored in time");
        }
        if !self.shared.journal.has_pages().await {
            return self.abandon(ctx).await;
        }
        self.lease.release().await
    }

    /// Gives the backup up: marks what was written for the sweep and removes it where that is safe at once.
    ///
    /// # Errors
    /// The store's; what is left then is garbage for a later sweep.
    pub async fn abandon(self, ctx: &OpContext) -> Result<()> {
        let storage = self.shared.repository.storage.clone();
        let (target, backup) = (self.shared.target.clone(), self.shared.backup);
        // Uploads that are still running end before the folder is emptied.
        self.shared.packs.give_up().await;
        crate::tombstone::mark(&storage, ctx, &target, backup, "abandoned").await?;
        // Nothing can reference a backup that was never committed, and its only writer is here.
        let objects = storage.list(&paths::backup(&target, backup)).await?;
        // Where nothing may be deleted, the mark is all.
        lease::deleted(storage.delete_all(objects.into_iter().map(|o| o.location).collect()).await)?;
        self.lease.release().await.map_err(|e| e.with_effect(Effect::Applied))
    }
}
