//! Going on with a backup that was interrupted (§14): what it stored is copied by the store itself into the folder of the new
//! backup, and need not be sent again where the source still says the same.
//!
//! The new backup has its own id, its own lease and its own objects, so the dead run may even be alive, or be swept while we
//! copy: nothing of the order of commits and sweeps depends on it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dm_core::{BackupId, Error, ErrorKind, Layout, OpContext, Progress, Result, TargetName};
use futures::{StreamExt, stream};
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::journal::{JournalHead, JournalKey, JournalPack, JournalPage};
use crate::lease::{self, Lease};
use crate::map::span_of;
use crate::page::{self, Extent, PackId, SHORT_DIGEST, SPAN_BYTES, Stored, push_joined};
use crate::parent::BlockPlace;
use crate::repository::{Inner, Repository};
use crate::{BackupStart, paths, tombstone};

/// How many of the newest folders are looked at.
const LOOKED_AT: usize = 8;
/// The most journal pages that are read, and whose packs are copied, at once.
const AT_ONCE: usize = 8;
/// Journal pages kept in memory.
const KEPT_PAGES: usize = 32;

/// An interrupted backup, as its folder shows it.
struct Interrupted {
    id: BackupId,
    /// Numbers of its journal pages.
    pages: Vec<u32>,
    packs: HashMap<Path, ObjectMeta>,
    bytes: u64,
}

/// What a run goes on from.
pub(crate) struct Resumed {
    /// The interrupted backup.
    pub(crate) from: BackupId,
    /// What the new backup takes over: its key and the key of its digests.
    pub(crate) head: JournalHead,
    /// The packs, by number, in the folder of the new backup.
    pub(crate) packs: BTreeMap<u32, Stored>,
    /// The first number that is free for packs, and for journal pages.
    pub(crate) next_pack: u32,
    pub(crate) next_page: u32,
    journal: JournalKey,
    repository: Arc<Inner>,
    target: TargetName,
    backup: BackupId,
    /// Which journal pages tell of a span of a member: a digest of the name stands for it, some 40 bytes an entry.
    index: HashMap<(u64, u32), Vec<u32>>,
    /// The members in it, by the same digests.
    names: HashSet<u64>,
    kept: Mutex<VecDeque<(u32, Arc<JournalPage>)>>,
}

impl Repository {
    /// Copies what an interrupted backup of the target stored into the folder of the one that begins. Of several, the one that
    /// stored most. A journal that cannot be used is said, and is no error: everything is sent again then.
    ///
    /// # Errors
    /// The store's where nothing can be listed or written; `Interrupted`.
    pub(crate) async fn resume(
        &self,
        ctx: &OpContext,
        start: &BackupStart,
        backup: BackupId,
        lease: &Lease,
        hash_key: Option<[u8; 32]>,
    ) -> Result<Option<Resumed>> {
        let Some(key) = JournalKey::of(&self.inner) else {
            tracing::info!(
                "no key for a journal: this backup cannot be gone on with, nor can an earlier one"
            );
            return Ok(None);
        };
        for found in ctx.run(self.interrupted(&start.target, backup)).await? {
            let unusable = |error: &Error| {
                tracing::warn!(backup = %found.id, %error, "an interrupted backup cannot be gone on with");
                ctx.progress(Progress::Warning(format!(
                    "what the interrupted backup {} stored cannot be used and is sent again: {error}",
                    found.id
                )));
            };
            let head = match ctx.run(self.head_of(&key, &start.target, &found)).await {
                Ok(head) => head,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    unusable(&error);
                    continue;
                }
            };
            if !fits(&head, start, hash_key) {
                continue;
            }
            let sealed = match ctx.run(self.key_of(&start.target, found.id, &head)).await {
                Ok(sealed) => sealed,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    unusable(&error);
                    continue;
                }
            };
            ctx.progress(Progress::Phase { name: "resuming", total_bytes: Some(found.bytes) });
            if let (Some(sealed), Some(key)) = (sealed, &head.key) {
                // Keys come first, also here.
                let own = paths::key(&start.target, backup, key.generation);
                ctx.run(self.inner.storage.create_own(&own, sealed)).await?;
            }
            return self.adopt(ctx, key, head, &found, backup, lease).await.map(Some);
        }
        Ok(None)
    }

    /// Folders without commit and mark that have a journal; what stored most comes first.
    async fn interrupted(&self, target: &TargetName, own: BackupId) -> Result<Vec<Interrupted>> {
        let storage = &self.inner.storage;
        let (folders, _) = storage.children(Some(&paths::target(target))).await?;
        let mut ids: Vec<BackupId> = folders.iter().filter_map(|f| f.parse().ok()).collect();
        // The time in an id is a host's: good enough to look at the newest first.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let marked = self.marked(target).await?;
        let mut found = Vec::new();
        for id in ids.into_iter().filter(|id| *id != own && !marked.contains(id)).take(LOOKED_AT) {
            if storage.exists(&paths::commit(target, id)).await? {
                continue;
            }
            let folder = paths::backup(target, id);
            let mut one = Interrupted { id, pages: Vec::new(), packs: HashMap::new(), bytes: 0 };
            for object in storage.list(&folder).await? {
                match paths::inside(&object.location, &folder).as_slice() {
                    [kind, file] if kind == "journal" => one.pages.extend(paths::number(file, "page")),
                    [kind, _] if kind == "packs" => {
                        one.bytes += object.size;
                        one.packs.insert(object.location.clone(), object);
                    }
                    _ => {}
                }
            }
            one.pages.sort_unstable();
            if !one.pages.is_empty() {
                found.push(one);
            }
        }
        found.sort_by_key(|one| std::cmp::Reverse(one.bytes));
        Ok(found)
    }

    /// What the journal says of its backup: the first page that can be read.
    async fn head_of(
        &self,
        key: &JournalKey,
        target: &TargetName,
        found: &Interrupted,
    ) -> Result<JournalHead> {
        let mut first = None;
        for n in found.pages.iter().take(AT_ONCE) {
            match load(&self.inner, key, target, found.id, *n).await {
                Ok((page, _)) => {
                    let head = page.head;
                    if head.repository != self.id() || head.target != *target {
                        return Err(Error::corrupt("its journal is of another repository or target"));
                    }
                    return Ok(head);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::corrupt("its journal is empty")))
    }

    /// The interrupted backup's key object, when the repository is encrypted and its recipients are the same.
    async fn key_of(&self, target: &TargetName, id: BackupId, head: &JournalHead) -> Result<Option<Bytes>> {
        let Some(key) = &head.key else {
            return match self.is_encrypted() {
                true => Err(Error::corrupt("its journal names no key")),
                false => Ok(None),
            };
        };
        let current = self.inner.sealing().await?;
        if key.generation != current.generation || key.sealed_to != current.recipients {
            return Err(Error::new(ErrorKind::Conflict, "it was encrypted to other recipients"));
        }
        let path = paths::key(target, id, key.generation);
        let sealed = self.inner.storage.get(&path).await?;
        if sealed.len() as u64 != key.size || blake3::hash(&sealed).to_hex().as_str() != key.digest {
            return Err(Error::corrupt("its key object is not the one that was written").about(path.as_ref()));
        }
        Ok(Some(sealed))
    }

    /// Copies packs, and then the journal page that tells of them, page by page. So the new folder can be gone on with as well.
    async fn adopt(
        &self,
        ctx: &OpContext,
        key: JournalKey,
        head: JournalHead,
        found: &Interrupted,
        backup: BackupId,
        lease: &Lease,
    ) -> Result<Resumed> {
        let target = &head.target.clone();
        let mut resumed = Resumed {
            from: found.id,
            head,
            packs: BTreeMap::new(),
            next_pack: found
                .packs
                .keys()
                .filter_map(|p| paths::number(p.filename()?, "pack"))
                .max()
                .map_or(0, |n| n + 1),
            next_page: found.pages.last().map_or(0, |n| n + 1),
            journal: key,
            repository: Arc::clone(&self.inner),
            target: target.clone(),
            backup,
            index: HashMap::new(),
            names: HashSet::new(),
            kept: Mutex::new(VecDeque::new()),
        };
        let (key, head) = (resumed.journal.clone(), resumed.head.clone());
        // Each may hold a pack, to look at its bytes.
        let at_once = self.inner.memory.packs.min(AT_ONCE);
        let mut copied = stream::iter(found.pages.clone())
            .map(|n| {
                let (key, head) = (&key, &head);
                async move { (n, ctx.run(self.adopt_page(ctx, key, head, found, backup, n)).await) }
            })
            .buffered(at_once);
        let (mut lost, mut first) = (0, None);
        while let Some((n, page)) = copied.next().await {
            match page.and_then(|page| resumed.learn(n, &page)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    // What is damaged or gone concerns one page; a store that fails would fail again at every other.
                    let goes_on = matches!(
                        error.kind(),
                        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported
                    );
                    lost += 1;
                    first.get_or_insert(error);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        drop(copied);
        match first {
            None => self.retire(ctx, target, found.id, lease).await?,
            Some(error) => {
                tracing::warn!(backup = %found.id, lost, %error, "not all of an interrupted backup can be used");
                ctx.progress(Progress::Warning(format!(
                    "a part of what the interrupted backup {} stored cannot be used and is sent again: {error}",
                    found.id
                )));
            }
        }
        tracing::info!(backup = %backup, from = %found.id, packs = resumed.packs.len(), "goes on from an interrupted backup");
        Ok(resumed)
    }

    async fn adopt_page(
        &self,
        ctx: &OpContext,
        key: &JournalKey,
        head: &JournalHead,
        found: &Interrupted,
        backup: BackupId,
        n: u32,
    ) -> Result<JournalPage> {
        let (storage, target) = (&self.inner.storage, &head.target);
        let (page, from) = load(&self.inner, key, target, found.id, n).await?;
        if page.head != *head {
            return Err(Error::corrupt("the pages of its journal do not agree").about(from.as_ref()));
        }
        for pack in &page.packs {
            let from = paths::pack(target, found.id, pack.n);
            let there = found.packs.get(&from);
            let there = there.ok_or_else(|| Error::not_found("a pack is gone").about(from.as_ref()))?;
            self.check_pack(pack, there).await?;
            storage.copy(&from, &paths::pack(target, backup, pack.n)).await?;
            ctx.progress(Progress::Bytes(pack.size));
        }
        storage.copy(&from, &paths::journal_page(target, backup, n)).await?;
        Ok(page)
    }

    /// A pack is as it was written when the store still calls it the same. Where it does not, its bytes must be the same.
    async fn check_pack(&self, pack: &JournalPack, there: &ObjectMeta) -> Result<()> {
        let changed = || Error::corrupt("a pack is not as it was written").about(there.location.as_ref());
        if there.size != pack.size {
            return Err(changed());
        }
        if pack.etag.is_some() && pack.etag == there.e_tag {
            return Ok(());
        }
        let bytes = self.inner.storage.get_large(&there.location).await?;
        let digest = self.inner.cpu.run(move || blake3::hash(&bytes)).await?;
        if digest.to_hex().as_str() == pack.digest { Ok(()) } else { Err(changed()) }
    }

    /// Marks an interrupted backup that another one took everything from, unless its writer may still be there.
    pub(crate) async fn retire(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        id: BackupId,
        lease: &Lease,
    ) -> Result<()> {
        let storage = &self.inner.storage;
        let now = ctx.run(lease.prove()).await?;
        let holders = ctx.run(lease::holders(storage, Some(lease.holder()))).await?;
        if holders.iter().any(|h| h.is_alive(now, self.inner.lifetime()) && h.names(id)) {
            return Ok(());
        }
        if ctx.run(storage.exists(&paths::commit(target, id))).await? {
            return Ok(());
        }
        ctx.run(tombstone::mark(storage, ctx, target, id, "interrupted; another backup went on from it"))
            .await
    }
}

/// Whether what was stored can be named by the backup that begins: the digests are keyed alike. A backup that is compared with
/// nothing takes the key over, from one that was not either.
fn fits(head: &JournalHead, start: &BackupStart, hash_key: Option<[u8; 32]>) -> bool {
    match hash_key {
        Some(key) => head.hash_key == hex::encode(key),
        None => head.kind == start.kind,
    }
}

fn name_hash(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

fn span_number(layout: Layout, offset: u64) -> u32 {
    match layout {
        // A block of a stream is looked for wherever it stood.
        Layout::Stream => 0,
        Layout::Pages { .. } => u32::try_from(offset / SPAN_BYTES).unwrap_or(u32::MAX),
    }
}

impl Resumed {
    /// Notes what a page tells.
    fn learn(&mut self, n: u32, page: &JournalPage) -> Result<()> {
        let packs = self.packs_of(page);
        let mut places = BTreeSet::new();
        for member in &page.members {
            let extents = page::load_extents(&member.extents, &packs)?;
            let name = name_hash(&member.name);
            places.extend(extents.iter().map(|e| (name, span_number(member.layout, e.offset))));
        }
        for place in places {
            self.names.insert(place.0);
            self.index.entry(place).or_default().push(n);
        }
        for pack in &page.packs {
            let id = PackId { backup: self.backup, n: pack.n };
            self.packs.insert(pack.n, Stored { id, size: pack.size, digest: pack.digest.clone() });
        }
        Ok(())
    }

    /// Whether something of a member may have been stored.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.contains(&name_hash(name))
    }

    fn packs_of(&self, page: &JournalPage) -> Vec<PackId> {
        page.packs.iter().map(|pack| PackId { backup: self.backup, n: pack.n }).collect()
    }

    async fn page(&self, n: u32) -> Result<Arc<JournalPage>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = kept().iter().find(|(kept, _)| *kept == n) {
            return Ok(Arc::clone(page));
        }
        let (page, _) = load(&self.repository, &self.journal, &self.target, self.backup, n).await?;
        let page = Arc::new(page);
        let mut kept = kept();
        kept.push_back((n, Arc::clone(&page)));
        if kept.len() > KEPT_PAGES {
            kept.pop_front();
        }
        Ok(page)
    }

    /// What was stored of a member that has this layout, in the order in which it was written down.
    async fn extents(&self, name: &str, layout: Layout, span: u32) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        for n in self.index.get(&(name_hash(name), span)).into_iter().flatten() {
            let page = self.page(*n).await?;
            let place = page.members.binary_search_by(|m| m.name.as_str().cmp(name));
            let member = place.ok().map(|place| &page.members[place]).filter(|m| m.layout == layout);
            if let Some(member) = member {
                found.extend(page::load_extents(&member.extents, &self.packs_of(&page))?);
            }
        }
        Ok(found)
    }

    /// The extents of a span of a member of pages.
    pub(crate) async fn span(&self, name: &str, page_bytes: usize, offset: u64) -> Result<Vec<Extent>> {
        let layout = Layout::Pages { page_bytes: u32::try_from(page_bytes).unwrap_or(u32::MAX) };
        let mut by_page: BTreeMap<u64, Extent> = BTreeMap::new();
        for extent in self.extents(name, layout, span_number(layout, offset)).await? {
            for i in 0..extent.digests.len() / SHORT_DIGEST {
                let at = extent.offset + (i * page_bytes) as u64;
                let end = (at + page_bytes as u64).min(extent.end());
                if let Some(page) = extent.part(at..end, page_bytes).filter(|p| span_of(p.offset) == offset) {
                    by_page.insert(at, page);
                }
            }
        }
        let mut joined = Vec::new();
        for page in by_page.into_values() {
            push_joined(&mut joined, page);
        }
        Ok(joined)
    }

    /// Every block of a stream by its digest.
    pub(crate) async fn blocks(&self, name: &str) -> Result<HashMap<[u8; SHORT_DIGEST], BlockPlace>> {
        let extents = self.extents(name, Layout::Stream, 0).await?;
        Ok(extents.iter().filter_map(BlockPlace::of).collect())
    }
}

async fn load(
    repository: &Inner,
    key: &JournalKey,
    target: &TargetName,
    backup: BackupId,
    n: u32,
) -> Result<(JournalPage, Path)> {
    let path = paths::journal_page(target, backup, n);
    let stored = repository.storage.get_large(&path).await?;
    let key = key.clone();
    let page = repository.cpu.run(move || key.open(&stored)).await?.map_err(|e| e.about(path.as_ref()))?;
    Ok((page, path))
}
