//! Beginning a backup: the lease, the base that it is compared with, what an interrupted one left, and its key.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use dm_core::{BackupId, BackupKind, Error, ErrorKind, OpContext, Result, TargetName};
use rand::RngCore;
use tokio::sync::Semaphore;

use crate::index::{PageReader, PageWriter};
use crate::journal::{BackupKey, Journal, JournalHead, JournalKey};
use crate::lease::{self, Lease, Purpose};
use crate::packs::Packs;
use crate::page::{PackId, Root, Stored};
use crate::parent::Parent;
use crate::repository::Repository;
use crate::writer::{BackupStart, BackupWriter, Members, Shared, hash_key_of};
use crate::{BackupHeader, Identity, paths};

/// What a writer is made of.
struct Begun {
    shared: Arc<Shared>,
    keys: Vec<Stored>,
    sealed_in: Option<u32>,
    identity: Option<Identity>,
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
        self.inner.memory.check_writing()?;
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
            inner.memory.packs,
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
            turns: Semaphore::new(inner.memory.members),
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
