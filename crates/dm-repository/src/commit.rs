//! The commit (§9.2): everything durable, then the map's last pages, then `backup.json`, then a second look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dm_core::{
    BackupId, Effect, Error, ErrorKind, OpContext, Result, SessionSummary, SourceDescription, TableFacts,
};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::cpu::compress;
use crate::format::BACKUP_FORMAT;
use crate::lease::Lease;
use crate::map::DoneMember;
use crate::page::{
    DIRECTORY_MEMBERS, Directory, DirectoryRef, DirectoryTag, Inventory, MemberMap, PackId, Root, RootTag,
    Stored,
};
use crate::repository::{Inner, Repository};
use crate::writer::BackupWriter;
use crate::{BackupHeader, Counts, InventoryRef, ResumedFrom, RootRef, Sizes, document, paths, tombstone};

impl BackupWriter {
    /// Makes the backup whole. When this returns `Ok` the backup is durable and every reader sees it.
    ///
    /// # Errors
    /// `Conflict` when a backup that this one references was deleted meanwhile, or the lease ran out: the backup is then
    /// withdrawn. The store's own; the effect is `Unknown` when nobody knows whether the commit arrived.
    ///
    /// # Cancellation
    /// Until the commit object is created, dropping the future leaves garbage for the sweep; afterwards the backup
    /// stands, unless it would have been withdrawn.
    pub async fn commit(
        self,
        ctx: &OpContext,
        source: SourceDescription,
        summary: SessionSummary,
    ) -> Result<BackupHeader> {
        let shared = &self.shared;
        let storage = &shared.repository.storage;
        let (target, backup) = (&shared.target, shared.backup);
        let mut own_packs = ctx.run(shared.packs.finish()).await?;
        let (members, foreign_packs, logical) = {
            let mut written = shared.lock();
            (std::mem::take(&mut written.done), std::mem::take(&mut written.foreign_packs), written.logical)
        };
        let resumed = shared.resumed.as_ref().map(|resumed| {
            let packs: Vec<Stored> =
                shared.lock().resumed_packs.iter().filter_map(|n| resumed.packs.get(n).cloned()).collect();
            let bytes = packs.iter().map(|p| p.size).sum();
            own_packs.extend(packs);
            own_packs.sort();
            ResumedFrom { backup: resumed.from, bytes }
        });
        let own: BTreeSet<u32> = own_packs.iter().map(|p| p.id.n).collect();
        let members_count = members.len() as u64;
        let directories = ctx.run(self.write_directories(members)).await?;
        let (tables, rows) = TableFacts::tally(&summary.tables);
        let root = Root {
            page: RootTag::Root,
            hash_key: hex::encode(shared.hash_key),
            source: source.clone(),
            tables: summary.tables,
            warnings: summary.warnings,
            directories,
        };
        let root = ctx.run(shared.pages.write(&root, None)).await?;
        let (own_pages, foreign_pages) = shared.pages.finish();
        let references: BTreeSet<BackupId> =
            foreign_packs.iter().map(|p| p.backup).chain(foreign_pages.iter().map(|(b, _)| *b)).collect();
        let stored = own_packs.iter().chain(&own_pages).map(|s| s.size).sum();
        let counts = Counts {
            members: members_count,
            tables,
            rows,
            packs: own_packs.len() as u64,
            pages: own_pages.len() as u64,
        };
        let inventory = self.inventory(own_packs, own_pages, &foreign_packs, &foreign_pages, &references)?;
        let inventory = ctx.run(self.write_inventory(&inventory)).await?;
        let header = BackupHeader {
            id: backup,
            target: target.clone(),
            repository: shared.repository.description.id,
            kind: self.start.kind,
            parent: self.start.parent.as_ref().map(|p| p.id),
            references: references.into_iter().collect(),
            engine: source.engine,
            engine_version: source.version,
            system_identifier: source.system_identifier,
            mode: source.mode,
            database: source.database,
            tool: concat!("dm ", env!("CARGO_PKG_VERSION")).to_owned(),
            started_at: self.start.started_at,
            finished_at: ctx.now(),
            consistency: source.consistency,
            sizes: Sizes { logical, read: shared.read_bytes.load(Ordering::Relaxed), stored },
            counts,
            encrypted: shared.repository.description.encryption.is_some(),
            root: RootRef { n: root.n, d: root.d },
            inventory,
            resumed: resumed.filter(|r| r.bytes > 0),
            rewrites: self.rewrites,
            unknown: serde_json::Map::new(),
        };
        let commit = document::write(BACKUP_FORMAT, &header)?;
        ctx.check()?;
        self.lease.prove().await?;
        shared.repository.check_references(&header).await?;
        // From here on the operation is no longer interrupted: it is done, or it takes itself back.
        storage.create_own(&paths::commit(target, backup), commit).await.map_err(|e| {
            e.with_effect(Effect::Unknown).with_hint("list the backups: the commit may have arrived")
        })?;
        if let Err(error) = shared.repository.second_look(&header, &self.lease).await {
            tombstone::mark(storage, ctx, target, backup, "withdrawn: its ground was deleted meanwhile")
                .await
                .map_err(|e| e.with_effect(Effect::Unknown))?;
            return Err(error);
        }
        self.follow_rewrap(ctx).await;
        if let Err(error) = self.tidy(ctx, &own).await {
            tracing::warn!(%error, "what only the way to a finished backup needed was left");
        }
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "the lease of a finished backup was left to run out");
        }
        Ok(header)
    }

    /// Recipients that were changed while the backup was made, by a rewrap that may not have seen its commit, get its key here.
    async fn follow_rewrap(&self, ctx: &OpContext) {
        let Some(sealed_in) = self.sealed_in else { return };
        let inner = &self.shared.repository;
        let followed = async {
            let now = inner.sealing().await?;
            if now.generation == sealed_in {
                return Ok(());
            }
            let Some(identity) = &self.identity else {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the recipients were changed while the backup was made",
                ));
            };
            let sealed = crate::log_keys::seal(identity, &now.recipients)?;
            let key = paths::key(&self.shared.target, self.shared.backup, now.generation);
            inner.storage.create(&key, sealed).await.map(drop)
        };
        if let Err(error) = followed.await {
            tracing::warn!(%error, "the backup is not sealed to the newest recipients");
            ctx.progress(dm_core::Progress::Warning(format!(
                "the backup is good, but not sealed to the repository's newest recipients: {error}; \"dm backup key rewrap\" does it"
            )));
        }
    }

    /// Removes what only the way to the commit needed: the journal, packs that came from an interrupted backup and that the map
    /// does not name, and that backup itself. What stays is no harm: nothing names it.
    async fn tidy(&self, ctx: &OpContext, packs: &BTreeSet<u32>) -> Result<()> {
        let shared = &self.shared;
        let storage = &shared.repository.storage;
        let (target, backup) = (&shared.target, shared.backup);
        let journal = storage.list(&paths::journal(target, backup)).await?;
        let mut useless: Vec<Path> = journal.into_iter().map(|o| o.location).collect();
        if shared.resumed.is_some() {
            let all = storage.list(&paths::packs(target, backup)).await?.into_iter().map(|o| o.location);
            let is_named = |key: &Path| {
                key.filename().and_then(|f| paths::number(f, "pack")).is_some_and(|n| packs.contains(&n))
            };
            useless.extend(all.filter(|key| !is_named(key)));
        }
        storage.delete_all(useless).await?;
        if let Some(resumed) = &shared.resumed {
            let repository = Repository { inner: Arc::clone(&shared.repository) };
            repository.retire(ctx, target, resumed.from, &self.lease).await?;
        }
        Ok(())
    }

    /// Groups the members into pages. Where a page ends depends on names alone, so that a new table changes one page.
    async fn write_directories(&self, mut members: Vec<DoneMember>) -> Result<Vec<DirectoryRef>> {
        members.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let mut pages: Vec<Directory> = Vec::new();
        let mut open = false;
        for member in members {
            if !open {
                pages.push(Directory {
                    page: DirectoryTag::Directory,
                    packs: Vec::new(),
                    members: Vec::new(),
                });
            }
            let Some(page) = pages.last_mut() else { continue };
            let cut = blake3::hash(member.spec.name.as_bytes()).as_bytes()[0] < 4;
            let entry = member.into_entry(&mut page.packs);
            page.members.push(entry);
            open = !cut && page.members.len() < DIRECTORY_MEMBERS;
        }
        let earlier =
            self.shared.parent.as_deref().map(crate::parent::Parent::directories).unwrap_or_default();
        let writes = pages.iter().map(|page| {
            let earlier = &earlier;
            async move {
                let json_digest = page_digest(page)?;
                let written =
                    self.shared.pages.write(page, earlier.get(json_digest.as_str()).copied()).await?;
                for member in &page.members {
                    if let MemberMap::Pages(spans) = &member.map {
                        spans.iter().for_each(|s| self.shared.pages.reuse(&s.page));
                    }
                }
                Ok::<_, Error>(DirectoryRef {
                    first: page.members.first().map(|m| m.spec.name.clone()).unwrap_or_default(),
                    members: u32::try_from(page.members.len()).unwrap_or(u32::MAX),
                    page: written,
                })
            }
        });
        futures::stream::iter(writes.collect::<Vec<_>>()).buffered(4).try_collect().await
    }

    /// The list of everything stored that the backup needs. What belongs to others is copied from the parent's list.
    fn inventory(
        &self,
        packs: Vec<Stored>,
        pages: Vec<Stored>,
        foreign_packs: &BTreeSet<PackId>,
        foreign_pages: &BTreeSet<(BackupId, u32)>,
        references: &BTreeSet<BackupId>,
    ) -> Result<Inventory> {
        let mut inventory = Inventory { packs, pages, keys: self.keys.clone() };
        let Some(parent) = &self.shared.parent else { return Ok(inventory) };
        let by_id = |list: &[Stored]| list.iter().map(|s| (s.id, s.clone())).collect::<BTreeMap<_, _>>();
        let missing = || Error::corrupt("the parent's inventory lacks an object that its map names");
        let (known_packs, known_pages) = (by_id(&parent.inventory.packs), by_id(&parent.inventory.pages));
        for pack in foreign_packs {
            inventory.packs.push(known_packs.get(pack).cloned().ok_or_else(missing)?);
        }
        for (backup, n) in foreign_pages {
            let id = PackId { backup: *backup, n: *n };
            inventory.pages.push(known_pages.get(&id).cloned().ok_or_else(missing)?);
        }
        inventory
            .keys
            .extend(parent.inventory.keys.iter().filter(|k| references.contains(&k.id.backup)).cloned());
        Ok(inventory)
    }

    async fn write_inventory(&self, inventory: &Inventory) -> Result<InventoryRef> {
        let json = serde_json::to_vec(inventory)
            .map_err(|e| Error::internal("cannot write the inventory").with_source(e))?;
        let cpu = self.shared.cpu();
        let level = cpu.level;
        let stored = Bytes::from(cpu.run(move || compress(&json, level)).await??);
        let described =
            InventoryRef { size: stored.len() as u64, digest: blake3::hash(&stored).to_hex().to_string() };
        let key = paths::inventory(&self.shared.target, self.shared.backup);
        self.shared.repository.storage.create_own(&key, stored).await?;
        Ok(described)
    }
}

impl Inner {
    /// What the commit relied on still holds after it became visible: a deleter that did not see the commit is seen here.
    pub(crate) async fn second_look(&self, header: &BackupHeader, lease: &Lease) -> Result<()> {
        if self.storage.exists(&paths::tombstone(&header.target, header.id)).await? {
            return Err(Error::new(
                ErrorKind::Conflict,
                "this backup was taken for an interrupted one and marked",
            )
            .with_hint("run the backup again"));
        }
        self.check_references(header).await?;
        // A gap between this proof and the one before the commit means that a sweep may have passed us unseen.
        lease.prove().await.map(drop)
    }

    /// Every backup that this one references is committed and not marked.
    pub(crate) async fn check_references(&self, header: &BackupHeader) -> Result<()> {
        let storage = &self.storage;
        for id in &header.references {
            let marked = storage.exists(&paths::tombstone(&header.target, *id)).await?;
            if marked || !storage.exists(&paths::commit(&header.target, *id)).await? {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "a backup that this one builds on was deleted meanwhile",
                )
                .about(id.to_string())
                .with_hint("run the backup again"));
            }
        }
        Ok(())
    }
}

fn page_digest(page: &Directory) -> Result<String> {
    let json =
        serde_json::to_vec(page).map_err(|e| Error::internal("cannot write an index page").with_source(e))?;
    Ok(blake3::hash(&json).to_hex().to_string())
}
