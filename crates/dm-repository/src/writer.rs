//! A backup being written: begun, filled member by member, abandoned or committed.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use dm_core::{
    BackupId, BackupKind, BaseBackup, Block, BlockStream, Effect, Error, ErrorKind, Layout, MemberSpec,
    OpContext, Result, TargetName,
};
use futures::StreamExt;
use rand::RngCore;

use crate::cpu::Cpu;
use crate::index::{PageReader, PageWriter};
use crate::lease::{self, Lease, Purpose};
use crate::map::DoneMember;
use crate::packs::Packs;
use crate::page::{PackId, Root, Stored};
use crate::parent::Parent;
use crate::repository::{Inner, Repository};
use crate::{BackupHeader, Identity, paths, write_fresh, write_pages, write_stream};

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

/// A backup being written. Dropping it without [`commit`](Self::commit) or [`abandon`](Self::abandon) leaves garbage that
/// a later sweep removes, and no backup.
pub struct BackupWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lease: Lease,
    pub(crate) start: BackupStart,
    pub(crate) keys: Vec<Stored>,
}

/// What the members being written share.
pub(crate) struct Shared {
    pub(crate) repository: Arc<Inner>,
    pub(crate) target: TargetName,
    pub(crate) backup: BackupId,
    pub(crate) hash_key: [u8; 32],
    pub(crate) parent: Option<Arc<Parent>>,
    pub(crate) packs: Arc<Packs>,
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
    pub(crate) logical: u64,
}

impl Shared {
    pub(crate) fn cpu(&self) -> Cpu {
        self.repository.cpu.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the packs of other backups that a map names.
    pub(crate) fn use_packs(&self, packs: impl Iterator<Item = PackId>) {
        let mut members = self.lock();
        members.foreign_packs.extend(packs.filter(|p| p.backup != self.backup));
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

impl Repository {
    /// Begins a backup: takes a lease, reads the parent's map, writes the backup's key.
    ///
    /// # Errors
    /// `Invalid` for a parent that does not go with the kind or target, `Unsupported` when the parent's map cannot be
    /// read here (take a full backup), `NotFound` or `Conflict` when the parent is gone or marked, `Busy` in
    /// single-writer mode, `Denied`, `Unreachable`, `Exhausted`.
    pub async fn begin(&self, ctx: &OpContext, start: BackupStart) -> Result<BackupWriter> {
        self.check_start(&start)?;
        let inner = &self.inner;
        let backup = BackupId::generate();
        let target = start.target.clone();
        let lease = ctx
            .run(Lease::take(&inner.storage, inner.lifetime(), Purpose::Backup, Some(&target), Some(backup)))
            .await?;
        match self.begin_under(ctx, &start, &lease, backup).await {
            Ok((shared, keys)) => Ok(BackupWriter { shared, lease, start, keys }),
            Err(error) => {
                lease.let_go().await;
                Err(error)
            }
        }
    }

    async fn begin_under(
        &self,
        ctx: &OpContext,
        start: &BackupStart,
        lease: &Lease,
        backup: BackupId,
    ) -> Result<(Arc<Shared>, Vec<Stored>)> {
        let inner = &self.inner;
        let target = start.target.clone();
        if self.single_writer() {
            self.refuse_others(lease).await?;
        }
        let parent = match &start.parent {
            None => None,
            Some(header) => Some(Arc::new(ctx.run(self.open_parent(&target, header)).await?)),
        };
        let hash_key = match &parent {
            Some(parent) => hash_key_of(&parent.root)?,
            None => {
                let mut key = [0; 32];
                rand::rng().fill_bytes(&mut key);
                key
            }
        };
        let mut keys = Vec::new();
        let mut page_recipients = Vec::new();
        let mut pack_recipient = None;
        if let Some(encryption) = &inner.description.encryption {
            let identity = Identity::generate();
            let (size, digest) = ctx.run(inner.write_key(&target, backup, &identity, encryption)).await?;
            keys.push(Stored { id: PackId { backup, n: 0 }, size, digest });
            page_recipients = vec![identity.recipient(), encryption.index_recipient.clone()];
            pack_recipient = Some(identity.recipient());
        }
        let packs = Arc::new(Packs::new(
            inner.storage.clone(),
            target.clone(),
            backup,
            pack_recipient,
            inner.description.pack_bytes,
            inner.options.memory_bytes,
        ));
        let pages = PageWriter::new(Arc::clone(inner), target.clone(), backup, page_recipients);
        let shared = Arc::new(Shared {
            repository: Arc::clone(inner),
            target,
            backup,
            hash_key,
            parent,
            packs,
            pages,
            members: Mutex::new(Members::default()),
            read_bytes: AtomicU64::new(0),
        });
        Ok((shared, keys))
    }

    fn check_start(&self, start: &BackupStart) -> Result<()> {
        let Some(parent) = &start.parent else {
            return match start.kind {
                BackupKind::Full => Ok(()),
                kind => Err(Error::invalid(format!("a {kind} backup needs an earlier one to compare with"))
                    .with_hint("take a full backup first")),
            };
        };
        let why = match start.kind {
            BackupKind::Full => Some("a full backup is compared with nothing"),
            BackupKind::Differential if parent.kind != BackupKind::Full => {
                Some("a differential backup is compared with a full one")
            }
            _ if parent.target != start.target => Some("the earlier backup is of another target"),
            _ if parent.repository != self.id() => Some("the earlier backup is of another repository"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(Error::invalid(why).about(parent.id.to_string()));
        }
        if self.can_read_index() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "a {} backup needs the map of an earlier one, and it is encrypted",
            start.kind
        ))
        .with_hint("give the index identity of the repository, or take a full backup"))
    }

    /// In single-writer mode any other live lease is one too many.
    pub(crate) async fn refuse_others(&self, lease: &Lease) -> Result<()> {
        let now = lease.prove().await?;
        let others = lease::holders(&self.inner.storage, Some(lease.holder())).await?;
        if others.iter().any(|h| h.is_alive(now, self.inner.lifetime())) {
            return Err(Error::new(
                ErrorKind::Busy,
                "another program is at work and this store does not honour create-only writes",
            )
            .with_hint(
                "wait until it ends (or its lease runs out), or use a store with conditional writes",
            ));
        }
        Ok(())
    }

    async fn open_parent(&self, target: &TargetName, header: &BackupHeader) -> Result<Parent> {
        self.check_usable(target, header.id).await?;
        let pages = PageReader { repository: Arc::clone(&self.inner), target: target.clone() };
        let root: Root = pages.read(&PageReader::root_of(header)).await?;
        let inventory = pages.inventory(header).await?;
        Ok(Parent::new(pages, root, inventory))
    }

    /// A backup that may be referenced or read: committed and not marked.
    pub(crate) async fn check_usable(&self, target: &TargetName, id: BackupId) -> Result<()> {
        let storage = &self.inner.storage;
        if storage.exists(&paths::tombstone(target, id)).await? {
            return Err(Error::new(ErrorKind::Conflict, "the backup is marked for deletion")
                .about(id.to_string())
                .with_hint("choose another backup"));
        }
        if !storage.exists(&paths::commit(target, id)).await? {
            return Err(Error::not_found("there is no such backup").about(id.to_string()));
        }
        Ok(())
    }
}

pub(crate) fn hash_key_of(root: &Root) -> Result<[u8; 32]> {
    hex::decode(&root.hash_key)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .ok_or_else(|| Error::corrupt("the root page has no usable hash key"))
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

    /// Writes one member; several may be written at once. Reports each block as [`dm_core::Progress::Bytes`].
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
        let parent = match &shared.parent {
            Some(parent) => {
                let member = ctx.run(parent.find(&spec.name)).await?;
                member.filter(|m| m.entry().spec.layout == spec.layout)
            }
            None => None,
        };
        let counting = Arc::clone(shared);
        let blocks = blocks
            .inspect(move |block| {
                if let Some(bytes) = block.as_ref().ok().and_then(Block::bytes) {
                    counting.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            })
            .boxed();
        let (done, summary) = match spec.layout {
            Layout::Stream => write_stream::write(ctx, shared, spec, parent, blocks).await?,
            Layout::Pages { page_bytes } => {
                if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
                    return Err(Error::invalid(format!(
                        "pages of {page_bytes} bytes: use a power of two, 512 to 65536"
                    )));
                }
                match parent {
                    // Nothing is there to compare with.
                    None => write_fresh::write(ctx, shared, spec, page_bytes as usize, blocks).await?,
                    parent => {
                        write_pages::write(ctx, shared, spec, page_bytes as usize, parent, blocks).await?
                    }
                }
            }
        };
        let mut members = shared.lock();
        members.logical += summary.size;
        members.done.push(done);
        Ok(summary)
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
        storage.delete_all(objects.into_iter().map(|o| o.location).collect()).await?;
        self.lease.release().await.map_err(|e| e.with_effect(Effect::Applied))
    }
}
