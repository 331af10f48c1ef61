//! A repository: made once, opened often.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, Error, ErrorKind, OpContext, Progress, RepositoryId, Result, TargetName};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::cpu::Cpu;
use crate::memory::Memory;
use crate::place::{Probe, foreign, plant, probe};
use crate::recipients::{History, RecipientsGeneration};
use crate::storage::Storage;
use crate::{Identity, RateLimit, Recipient, document, keys, log_keys, paths};

const FORMAT: &str = "dm-repository";
const MIN_PACK_BYTES: u64 = 64 << 10;
const MAX_PACK_BYTES: u64 = 1 << 30;

/// How a repository is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Who can read its backups. Unencrypted when empty.
    pub recipients: Vec<Recipient>,
    /// Who can read the maps of its backups; given if and only if there are recipients.
    pub index_recipient: Option<Recipient>,
    /// Size of a pack in bytes, 64 KiB to 1 GiB.
    pub pack_bytes: u64,
    /// How long a lease lives by the store's clock; whole seconds, at least one.
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
    /// Key of this host alone, for hosts that have neither of the above: it seals the journal of a running backup, so that a
    /// later run goes on with it. Without any key an interrupted backup of an encrypted repository begins anew.
    pub journal_identity: Option<Identity>,
    /// The recipients that this host expects to seal to, as its configuration says; what the repository says is believed when
    /// empty, as far as a key at hand proves it.
    pub expected_recipients: Vec<Recipient>,
    /// zstd level, 1 to 19.
    pub zstd_level: i32,
    /// Threads that compress, hash and decompress.
    pub threads: usize,
    /// Bytes held in memory at once: packs being filled and on their way, what members have read ahead, what is being fetched.
    pub memory_bytes: u64,
    /// The most requests to the store at once; leases have one more. No limit when `None`.
    pub connections: Option<usize>,
    /// The most bytes a second to and from the store; no limit when `None`.
    pub rate_limit: Option<RateLimit>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            identities: Vec::new(),
            index_identity: None,
            journal_identity: None,
            expected_recipients: Vec::new(),
            zstd_level: 3,
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            memory_bytes: 192 << 20,
            connections: None,
            rate_limit: None,
        }
    }
}

/// `repository.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) id: RepositoryId,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) encryption: Option<Encryption>,
    pub(crate) pack_bytes: u64,
    pub(crate) lease_seconds: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Encryption {
    pub(crate) scheme: String,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) index_recipient: Recipient,
}

/// A repository in a store. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) storage: Storage,
    pub(crate) description: Description,
    pub(crate) options: OpenOptions,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    /// Bytes that may be fetched and opened just now.
    pub(crate) fetching: Semaphore,
    single_writer: bool,
    keys: Mutex<HashMap<BackupId, Arc<Identity>>>,
    /// The generations of recipients, as they were last seen.
    pub(crate) history: Mutex<Option<Arc<History>>>,
    /// The key that log is sealed to here.
    pub(crate) log_key: tokio::sync::Mutex<Option<log_keys::Own>>,
    /// Log keys that were opened.
    pub(crate) log_keys: Mutex<log_keys::Opened>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes a repository in an empty place and opens it.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one, or anything else; `Invalid` options; `Denied`, `Unreachable`, `Exhausted`.
    pub async fn init(
        store: Arc<dyn ObjectStore>,
        ctx: &OpContext,
        init: InitOptions,
        open: OpenOptions,
    ) -> Result<Self> {
        let document = document::write(FORMAT, &describe(&init, ctx.now())?)?;
        plant(&store, ctx, document).await?;
        Self::open(store, ctx, open).await
    }

    /// Opens the place that holds a copy of this repository; an empty place becomes one.
    ///
    /// # Errors
    /// `Conflict` when another repository is there, `AlreadyExists` when something else is; as [`open`](Self::open).
    pub async fn open_copy(
        &self,
        store: Arc<dyn ObjectStore>,
        ctx: &OpContext,
        open: OpenOptions,
    ) -> Result<Self> {
        let copy = match Self::open(Arc::clone(&store), ctx, open.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let document = ctx.run(self.inner.storage.get(&paths::repository())).await?;
                match plant(&store, ctx, document).await {
                    // Somebody else began it in the same moment.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    planted => planted?,
                }
                Self::open(store, ctx, open).await?
            }
            opened => opened?,
        };
        if copy.id() == self.id() {
            return Ok(copy);
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the place holds another repository ({}), no copy of this one ({})",
                copy.id(),
                self.id()
            ),
        )
        .with_hint("give the copy an empty folder or a prefix of its own"))
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` when something else is there or a key does not belong to it,
    /// `Unsupported` when it is of a newer version, `Corrupt`, `Denied`, `Unreachable`.
    pub async fn open(store: Arc<dyn ObjectStore>, ctx: &OpContext, open: OpenOptions) -> Result<Self> {
        let mut storage =
            Storage::new(store).with_rate(open.rate_limit.clone()).with_connections(open.connections);
        if !(1..=19).contains(&open.zstd_level) {
            return Err(Error::invalid(format!("zstd level {} is not between 1 and 19", open.zstd_level)));
        }
        let key = paths::repository();
        let Some(bytes) = ctx.run(storage.find(&key)).await? else {
            return Err(match foreign(&storage, ctx).await? {
                Some(foreign) => Error::invalid(format!(
                    "this is not a repository: it holds \"{foreign}\" and no repository.json"
                ))
                .with_hint("check the location; a repository needs an empty place of its own"),
                None => Error::not_found("there is no repository here")
                    .with_hint("check the location, or make a repository there first"),
            });
        };
        let description: Description = document::read(FORMAT, &bytes).map_err(|e| e.about(key.as_ref()))?;
        check(&description)?;
        if let (Some(encryption), Some(identity)) = (&description.encryption, &open.index_identity)
            && identity.recipient() != encryption.index_recipient
        {
            return Err(Error::invalid("the index identity does not belong to this repository")
                .with_hint(format!("give the private key of {}, or none", encryption.index_recipient)));
        }
        let honours = match ctx.run(probe(&storage)).await? {
            Probe::Honoured => true,
            Probe::Overwritten => false,
            Probe::Unknown => {
                storage = storage.without_create();
                false
            }
            // Whoever may only read needs no create; whoever wants to write will be told by the write.
            Probe::ReadOnly => true,
        };
        if !honours {
            ctx.progress(Progress::Warning(
                "this store does not honour create-only writes: single-writer mode, only one program may write at a time"
                    .into(),
            ));
            tracing::warn!("the store does not honour create-only writes: single-writer mode");
        }
        let memory = Memory::new(open.memory_bytes, description.pack_bytes, open.threads);
        let cpu = Cpu::new(open.threads, memory.ahead, open.zstd_level);
        let inner = Inner {
            storage,
            description,
            options: open,
            cpu,
            fetching: Semaphore::new(memory.fetch_bytes as usize),
            memory,
            single_writer: !honours,
            keys: Mutex::new(HashMap::new()),
            history: Mutex::new(None),
            log_key: tokio::sync::Mutex::new(None),
            log_keys: Mutex::new(BTreeMap::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.inner.description.id
    }

    /// Whether backups are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.inner.description.encryption.is_some()
    }

    /// Whether maps of earlier backups can be read here; without, only full backups can be taken.
    #[must_use]
    pub fn can_read_index(&self) -> bool {
        !self.is_encrypted() || self.inner.options.index_identity.is_some() || self.can_read_contents()
    }

    /// Whether the contents of backups can be read here, as far as the keys given tell.
    #[must_use]
    pub fn can_read_contents(&self) -> bool {
        !self.is_encrypted() || !self.inner.options.identities.is_empty()
    }

    /// Whether the store does not honour create-only writes, so that only one program may write at a time.
    #[must_use]
    pub fn single_writer(&self) -> bool {
        self.inner.single_writer
    }

    /// How long a lease lives by the store's clock.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.inner.description.lease_seconds)
    }
}

impl Inner {
    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.description.lease_seconds)
    }

    /// A secret of this host, whatever it is good for otherwise: it tells what the host wrote from what others put there.
    pub(crate) fn host_secret(&self) -> Option<&Identity> {
        let options = &self.options;
        options
            .index_identity
            .as_ref()
            .or_else(|| options.identities.first())
            .or(options.journal_identity.as_ref())
    }

    /// Writes a backup's key object: its identity, to all recipients of a generation.
    pub(crate) async fn write_key(
        &self,
        target: &TargetName,
        id: BackupId,
        identity: &Identity,
        to: &RecipientsGeneration,
    ) -> Result<(u64, String)> {
        let sealed = log_keys::seal(identity, &to.recipients)?;
        let facts = (sealed.len() as u64, blake3::hash(&sealed).to_hex().to_string());
        self.storage.create_own(&paths::key(target, id, to.generation), sealed).await?;
        Ok(facts)
    }

    /// The generations of recipients that a backup's key is sealed to, ascending.
    pub(crate) async fn key_generations(&self, target: &TargetName, id: BackupId) -> Result<Vec<u32>> {
        let (_, files) = self.storage.children(Some(&paths::keys(target, id))).await?;
        let mut generations: Vec<u32> = files.iter().filter_map(|f| paths::number(f, "age")).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// The identity of a backup, opened with one of ours.
    pub(crate) async fn backup_key(&self, target: &TargetName, id: BackupId) -> Result<Arc<Identity>> {
        if let Some(key) = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(key));
        }
        let ours: Vec<&Identity> = self.options.identities.iter().collect();
        let generations = self.key_generations(target, id).await?;
        if ours.is_empty() {
            let message = "the backup is encrypted and no identity was given";
            let error = Box::pin(self.no_identity(message, &generations)).await;
            return Err(error.about(id.to_string()));
        }
        let mut last = None;
        for generation in generations.iter().rev() {
            let key = paths::key(target, id, *generation);
            let sealed = self.storage.get(&key).await?;
            match keys::open_sealed(&sealed, &ours) {
                Ok(text) => {
                    let identity = Arc::new(keys::identity_of(&text, &key)?);
                    self.keys
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(id, Arc::clone(&identity));
                    return Ok(identity);
                }
                // Damage says more than a key that does not fit.
                Err(age::DecryptError::NoMatchingKeys) if last.is_some() => {}
                Err(error) => last = Some((key, error)),
            }
        }
        Err(match last {
            Some((_, error @ age::DecryptError::NoMatchingKeys)) => {
                let message = "none of the identities given opens this backup";
                let refused = Box::pin(self.no_identity(message, &generations)).await;
                refused.about(id.to_string()).with_source(error)
            }
            Some((key, error)) => Error::corrupt("the backup's key object is damaged")
                .about(key.as_ref())
                .with_hint("where there is a copy of the repository, \"dm backup repair\" mends it")
                .with_source(error),
            None => Error::corrupt("the backup's key object is missing")
                .about(paths::keys(target, id).as_ref())
                .with_hint("where there is a copy of the repository, \"dm backup repair\" puts it back"),
        })
    }
}

fn describe(init: &InitOptions, now: DateTime<Utc>) -> Result<Description> {
    let encryption = match (&init.recipients[..], &init.index_recipient) {
        ([], None) => None,
        ([], Some(_)) => {
            return Err(Error::invalid("an index recipient without recipients: nothing would be encrypted")
                .with_hint("name the recipients who may restore"));
        }
        (_, None) => {
            return Err(Error::invalid("an encrypted repository needs an index recipient").with_hint(
                "make a second key for the maps; hosts that take incremental backups hold its private half",
            ));
        }
        (recipients, Some(index)) => Some(Encryption {
            scheme: "age-x25519".into(),
            recipients: recipients.to_vec(),
            index_recipient: index.clone(),
        }),
    };
    let description = Description {
        id: RepositoryId::generate(),
        created_at: now,
        encryption,
        pack_bytes: init.pack_bytes,
        lease_seconds: init.lease.as_secs(),
    };
    check(&description)?;
    Ok(description)
}

fn check(description: &Description) -> Result<()> {
    if !(MIN_PACK_BYTES..=MAX_PACK_BYTES).contains(&description.pack_bytes) {
        return Err(Error::invalid(format!(
            "packs of {} bytes: use 64 KiB to 1 GiB",
            description.pack_bytes
        )));
    }
    if !(1..=86_400).contains(&description.lease_seconds) {
        return Err(Error::invalid(format!("a lease of {} s: use 1 s to a day", description.lease_seconds)));
    }
    match &description.encryption {
        Some(e) if e.scheme != "age-x25519" => {
            Err(Error::unsupported(format!("the encryption scheme \"{}\" is unknown here", e.scheme)))
        }
        Some(e) if e.recipients.is_empty() => Err(Error::invalid("encryption without recipients")),
        _ => Ok(()),
    }
}
