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
use crate::journal::{BackupKey, Journal, JournalHead, JournalKey};
use crate::lease::{self, Lease, Purpose};
use crate::map::DoneMember;
use crate::member_summary::MemberSummary;
use crate::packs::Packs;
use crate::page::{PackId, Root, Stored};
use crate::parent::Parent;
use crate::repository::{Inner, Repository};
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

/// What a writer is made of.
struct Begun {
    shared: Arc<Shared>,
    keys: Vec<Stored>,
    sealed_in: Option<u32>,
    identity: Option<Identity>,
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

impl Repository {
    /// Begins a backup: takes a lease, reads the parent's map, writes the backup's key.
    ///
    /// # Errors
    /// `Invalid` for a parent that does not go with the kind or target, `Unsupported` when the parent's map cannot be
    /// read here (take a full backup), `NotFound` or `Conflict` when the parent is gone or marked, `Busy` in
    /// single-writer mode, `Denied`, `Unreachable`, `Exhausted`.
    pub async fn begin(&self, ctx: &OpContext, start: BackupStart) -> Result<BackupWriter> {
        self.begin_with(ctx, start, None).await
    }

    /// The same; a backup without a parent takes this key for its digests.
    pub(crate) async fn begin_with(
        &self,
        ctx: &OpContext,
        start: BackupStart,
        hash_key: Option<[u8; 32]>,
    ) -> Result<BackupWriter> {
        self.check_start(&start)?;
        let inner = &self.inner;
        let backup = BackupId::generate();
        let target = start.target.clone();
        let lease = ctx
            .run(Lease::take(&inner.storage, inner.lifetime(), Purpose::Backup, Some(&target), Some(backup)))
            .await?;
        match self.begin_under(ctx, &start, &lease, backup, hash_key).await {
            Ok(begun) => Ok(BackupWriter {
                shared: begun.shared,
                lease,
                start,
                keys: begun.keys,
                sealed_in: begun.sealed_in,
                identity: begun.identity,
                rewrites: None,
            }),
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
        hash_key: Option<[u8; 32]>,
    ) -> Result<Begun> {
        let inner = &self.inner;
        let target = start.target.clone();
        if self.single_writer() {
            self.refuse_others(lease).await?;
        }
        let parent = match &start.parent {
            None => None,
            Some(header) => Some(Arc::new(ctx.run(self.open_parent(&target, header)).await?)),
        };
        let parents_key = parent.as_ref().map(|p| hash_key_of(&p.root.hash_key)).transpose()?;
        if hash_key.is_some() && parents_key.is_some() && hash_key != parents_key {
            return Err(Error::invalid("the earlier backup's digests are of another key")
                .with_hint("write it anew as a full one"));
        }
        let parents_key = parents_key.or(hash_key);
        let resumed = match start.resume {
            true => Box::pin(self.resume(ctx, start, backup, lease, parents_key)).await?,
            false => None,
        };
        let (head, identity) = match &resumed {
            Some(resumed) => (resumed.head.clone(), None),
            None => self.new_head(ctx, start, backup, parents_key).await?,
        };
        let sealed_in = head.key.as_ref().map(|key| key.generation);
        let hash_key = hash_key_of(&head.hash_key)?;
        let mut keys = Vec::new();
        let mut page_recipients = Vec::new();
        let pack_recipient = head.key.as_ref().map(|key| key.recipient.clone());
        if let (Some(key), Some(encryption)) = (&head.key, &inner.description.encryption) {
            keys.push(Stored {
                id: PackId { backup, n: key.generation },
                size: key.size,
                digest: key.digest.clone(),
            });
            page_recipients = vec![key.recipient.clone(), encryption.index_recipient.clone()];
        }
        let (next_pack, next_page) = resumed.as_ref().map_or((0, 0), |r| (r.next_pack, r.next_page));
        let key = JournalKey::of(inner);
        let journal = Arc::new(Journal::new(Arc::clone(inner), backup, key, head, next_page));
        let packs = Arc::new(Packs::new(
            inner.storage.clone(),
            target.clone(),
            backup,
            pack_recipient,
            inner.description.pack_bytes,
            inner.options.memory_bytes,
            Arc::clone(&journal),
            next_pack,
        ));
        let pages = PageWriter::new(Arc::clone(inner), target.clone(), backup, page_recipients);
        let shared = Arc::new(Shared {
            repository: Arc::clone(inner),
            target,
            backup,
            hash_key,
            parent,
            resumed,
            journal,
            packs,
            pages,
            members: Mutex::new(Members::default()),
            read_bytes: AtomicU64::new(0),
        });
        Ok(Begun { shared, keys, sealed_in, identity })
    }

    /// What a backup that goes on from nothing begins with: a digest key, and in an encrypted repository its identity, which is
    /// stored here.
    async fn new_head(
        &self,
        ctx: &OpContext,
        start: &BackupStart,
        backup: BackupId,
        hash_key: Option<[u8; 32]>,
    ) -> Result<(JournalHead, Option<Identity>)> {
        let inner = &self.inner;
        let hash_key = hash_key.unwrap_or_else(|| {
            let mut key = [0; 32];
            rand::rng().fill_bytes(&mut key);
            key
        });
        let (key, identity) = match self.is_encrypted() {
            false => (None, None),
            true => {
                let identity = Identity::generate();
                let to = ctx.run(inner.sealing()).await?;
                let written = inner.write_key(&start.target, backup, &identity, &to);
                let (size, digest) = ctx.run(written).await?;
                let recipient = identity.recipient();
                let (sealed_to, generation) = (to.recipients, to.generation);
                (Some(BackupKey { size, digest, recipient, sealed_to, generation }), Some(identity))
            }
        };
        let head = JournalHead {
            repository: inner.description.id,
            target: start.target.clone(),
            kind: start.kind,
            hash_key: hex::encode(hash_key),
            key,
        };
        Ok((head, identity))
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

    /// Ends the run and leaves what it stored to another one: [`Repository::begin`] for the same target goes on from there,
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
