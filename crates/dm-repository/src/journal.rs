//! The journal of a running backup (§14): which packs are durable and what lies in them, so that a later run goes on from
//! there.
//!
//! What was written to a pack waits here until the pack is durable; then it is written down. A run that dies loses the packs
//! that were open or on their way, and nothing else. The journal serves its writer alone: a backup without one is as good.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dm_core::{BackupId, BackupKind, Error, Layout, MemberSpec, RepositoryId, Result, TargetName};
use serde::{Deserialize, Serialize};

use crate::cpu::{compress, decompress};
use crate::index::MAX_PAGE;
use crate::page::{self, Extent, PackId, StoredExtent};
use crate::repository::Inner;
use crate::{Identity, Recipient, keys, paths};

/// The version of journals. One of another version is not read: its backup is begun anew.
pub(crate) const VERSION: u32 = 1;

/// The hexadecimal digits of the digest that a page begins with.
const DIGITS: usize = 64;

/// What the pages of a journal are sealed with. They say what the backup is made of, and whoever goes on with it believes them:
/// so in an encrypted repository they are encrypted, and authenticated, with a secret that the host has.
#[derive(Clone)]
pub(crate) enum JournalKey {
    /// The repository is not encrypted.
    Open,
    Sealed {
        identity: Identity,
        authentic: [u8; 32],
    },
}

impl JournalKey {
    /// The key that this host has; `None` when it has none, and then its backups cannot be gone on with.
    pub(crate) fn of(repository: &Inner) -> Option<Self> {
        if repository.description.encryption.is_none() {
            return Some(Self::Open);
        }
        let identity = repository.host_secret()?;
        Some(Self::Sealed {
            identity: identity.clone(),
            authentic: identity.derived("data-manager repository journal 1"),
        })
    }

    fn digest(&self, json: &[u8]) -> blake3::Hash {
        match self {
            Self::Open => blake3::hash(json),
            Self::Sealed { authentic, .. } => blake3::keyed_hash(authentic, json),
        }
    }

    fn seal(&self, json: &[u8], level: i32) -> Result<Bytes> {
        let mut content = self.digest(json).to_hex().as_bytes().to_vec();
        content.extend_from_slice(json);
        let frame = compress(&content, level)?;
        Ok(Bytes::from(match self {
            Self::Open => frame,
            Self::Sealed { identity, .. } => keys::seal(&[identity.recipient()], &frame)?,
        }))
    }

    /// A page as it was sealed by a holder of the same key.
    pub(crate) fn open(&self, stored: &[u8]) -> Result<JournalPage> {
        let damaged = || Error::corrupt("the journal page is not what a holder of this key wrote");
        let content = match self {
            Self::Open => decompress(stored, MAX_PAGE)?,
            Self::Sealed { identity, .. } => {
                let frame = keys::open_sealed(stored, &[identity]).map_err(|e| damaged().with_source(e))?;
                decompress(&frame, MAX_PAGE)?
            }
        };
        let (digest, json) = content.split_at_checked(DIGITS).ok_or_else(damaged)?;
        let digest = blake3::Hash::from_hex(digest).map_err(|e| damaged().with_source(e))?;
        // This comparison takes the same time wherever they differ.
        if digest != self.digest(json) {
            return Err(damaged());
        }
        let version: JournalVersion = serde_json::from_slice(json).map_err(|e| damaged().with_source(e))?;
        if version.journal != VERSION {
            return Err(Error::unsupported(format!("the journal is of version {}", version.journal)));
        }
        serde_json::from_slice(json).map_err(|e| damaged().with_source(e))
    }
}

#[derive(Deserialize)]
struct JournalVersion {
    journal: u32,
}

/// What a run has to know to go on; the same in every page of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JournalHead {
    pub(crate) repository: RepositoryId,
    pub(crate) target: TargetName,
    pub(crate) kind: BackupKind,
    pub(crate) hash_key: String,
    /// The backup's key object, in an encrypted repository.
    pub(crate) key: Option<BackupKey>,
}

/// A key object, what it opens, and for whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BackupKey {
    pub(crate) size: u64,
    pub(crate) digest: String,
    /// Its public half: packs are encrypted to it.
    pub(crate) recipient: Recipient,
    /// Who can open the key object.
    pub(crate) sealed_to: Vec<Recipient>,
    /// The generation of those recipients, and the key object's number.
    #[serde(default)]
    pub(crate) generation: u32,
}

/// A page of a journal. It names packs by number, so that it reads the same in the folder of the run that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JournalPage {
    pub(crate) journal: u32,
    pub(crate) head: JournalHead,
    /// Packs that are durable.
    pub(crate) packs: Vec<JournalPack>,
    /// What lies in them, by name.
    pub(crate) members: Vec<JournalMember>,
}

/// A pack that is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JournalPack {
    pub(crate) n: u32,
    pub(crate) size: u64,
    pub(crate) digest: String,
    /// What the store called these bytes when it took them.
    pub(crate) etag: Option<String>,
}

/// What of a member lies in these packs; an extent's pack is its place in the page's list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JournalMember {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) layout: Layout,
    pub(crate) extents: Vec<StoredExtent>,
}

/// The extents of one pack by member.
type Contents = HashMap<Arc<str>, (Layout, Vec<Extent>)>;

#[derive(Default)]
struct State {
    /// In packs that are not durable yet.
    waiting: HashMap<u32, Contents>,
    /// In packs that are, and not written down yet.
    durable: Vec<(JournalPack, Contents)>,
    /// Nothing is written down any more.
    ended: bool,
}

/// The journal that a run writes.
pub(crate) struct Journal {
    repository: Arc<Inner>,
    target: TargetName,
    backup: BackupId,
    key: Option<JournalKey>,
    head: JournalHead,
    state: Mutex<State>,
    /// The number of the next page; one page is written at a time, with all that came in meanwhile.
    next: tokio::sync::Mutex<u32>,
}

impl Journal {
    /// A journal whose first page has this number. Without a key nothing is written down.
    pub(crate) fn new(
        repository: Arc<Inner>,
        backup: BackupId,
        key: Option<JournalKey>,
        head: JournalHead,
        first: u32,
    ) -> Self {
        let state = State { ended: key.is_none(), ..State::default() };
        Self {
            repository,
            target: head.target.clone(),
            backup,
            key,
            head,
            state: Mutex::new(state),
            next: tokio::sync::Mutex::new(first),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes extents of one member in a pack that is still open.
    pub(crate) fn add(&self, spec: &MemberSpec, pack: u32, extents: &[Extent]) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let members = state.waiting.entry(pack).or_default();
        if let Some((_, known)) = members.get_mut(spec.name.as_str()) {
            known.extend_from_slice(extents);
        } else {
            members.insert(Arc::from(spec.name.as_str()), (spec.layout, extents.to_vec()));
        }
    }

    /// Writes down what lies in a pack that is durable now. A failure ends the journal, not the backup.
    pub(crate) async fn durable(&self, pack: JournalPack) {
        let Some(key) = &self.key else { return };
        {
            let mut state = self.lock();
            let contents = state.waiting.remove(&pack.n).unwrap_or_default();
            state.durable.push((pack, contents));
        }
        let mut next = self.next.lock().await;
        let durable = std::mem::take(&mut self.lock().durable);
        if durable.is_empty() || self.lock().ended {
            return;
        }
        match self.write(key, *next, durable).await {
            Ok(()) => *next += 1,
            Err(error) => {
                tracing::warn!(backup = %self.backup, %error, "the journal ends here: a run after an interruption sends again what comes now");
                *self.lock() = State { ended: true, ..State::default() };
            }
        }
    }

    async fn write(&self, key: &JournalKey, n: u32, durable: Vec<(JournalPack, Contents)>) -> Result<()> {
        let mut places: Vec<PackId> =
            durable.iter().map(|(pack, _)| PackId { backup: self.backup, n: pack.n }).collect();
        let mut members: BTreeMap<Arc<str>, (Layout, Vec<Extent>)> = BTreeMap::new();
        let mut packs = Vec::with_capacity(durable.len());
        for (pack, contents) in durable {
            packs.push(pack);
            for (name, (layout, extents)) in contents {
                members.entry(name).or_insert_with(|| (layout, Vec::new())).1.extend(extents);
            }
        }
        let page = JournalPage {
            journal: VERSION,
            head: self.head.clone(),
            packs,
            members: members
                .into_iter()
                .map(|(name, (layout, mut extents))| {
                    extents.sort_by_key(|e| e.offset);
                    // A member that was begun twice may have written the same place twice: either serves.
                    let mut end = 0;
                    extents.retain(|e| {
                        e.offset >= end && {
                            end = e.end();
                            true
                        }
                    });
                    let extents = page::store_extents(&extents, &mut places);
                    JournalMember { name: name.to_string(), layout, extents }
                })
                .collect(),
        };
        let (key, level) = (key.clone(), self.repository.cpu.level);
        let stored = self
            .repository
            .cpu
            .run(move || {
                let json = serde_json::to_vec(&page)
                    .map_err(|e| Error::internal("cannot write a journal page").with_source(e))?;
                key.seal(&json, level)
            })
            .await??;
        self.repository.storage.create_own(&paths::journal_page(&self.target, self.backup, n), stored).await
    }

    /// Whether pages were written, by this run or the one that it goes on from.
    pub(crate) async fn has_pages(&self) -> bool {
        *self.next.lock().await > 0
    }
}
