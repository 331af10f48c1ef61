//! Keys of the log (§12): pieces are sealed to an identity of the log, and that is sealed to the recipients like a backup's. So a
//! rewrap writes one small object for each, and touches no piece.
//!
//! A host that has any secret of its own makes one such key for each generation of recipients and finds it again: a document beside
//! it says the public half, authenticated with that secret, since whoever can write into the store could name another.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{Error, Result};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::recipients::RecipientsGeneration;
use crate::repository::Inner;
use crate::{Identity, Recipient, document, keys, paths};

const FORMAT: &str = "dm-log-key";
const MAC_KEY: &str = "data-manager repository log key 1";
/// How an age file begins.
const AGE_FILE: &[u8] = b"age-encryption.org/v1";
const LOST: &str = "copy it back from another place; without it, take a base backup: points of time behind it need no older log";
/// Documents of that many keys are looked at before another key is made.
const LOOKED_AT: usize = 64;

/// `dm-log-key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    id: Uuid,
    /// The generation whose recipients can open it since it was made.
    generation: u32,
    /// The public half.
    recipient: Recipient,
    /// BLAKE3 of the object that holds the private half.
    digest: String,
    at: DateTime<Utc>,
    mac: String,
}

impl Record {
    fn sign(&self, inner: &Inner, secret: &Identity) -> blake3::Hash {
        let text = format!(
            "data-manager log key\n{}\n{}\n{}\n{}\n{}\n",
            inner.description.id, self.id, self.generation, self.recipient, self.digest
        );
        blake3::keyed_hash(&secret.derived(MAC_KEY), text.as_bytes())
    }
}

/// The key that this host seals log to.
#[derive(Clone)]
pub(crate) struct Own {
    generation: u32,
    recipient: Recipient,
}

/// The log keys that can be opened here, by id.
pub(crate) type Opened = BTreeMap<Uuid, Arc<Identity>>;

impl Inner {
    /// Whom a piece of log is sealed to; nobody in an unencrypted repository.
    pub(crate) async fn log_recipients(&self, now: DateTime<Utc>) -> Result<Vec<Recipient>> {
        if self.description.encryption.is_none() {
            return Ok(Vec::new());
        }
        let sealing = self.sealing().await?;
        // Without any secret nobody here could tell its own key from one that somebody put there.
        let Some(secret) = self.host_secret() else { return Ok(sealing.recipients) };
        // Two pieces at once must not make two keys.
        let mut own = self.log_key.lock().await;
        if let Some(own) = own.as_ref().filter(|own| own.generation == sealing.generation) {
            return Ok(vec![own.recipient.clone()]);
        }
        let recipient = match self.find_log_key(secret, &sealing).await? {
            Some(recipient) => recipient,
            None => self.make_log_key(secret, &sealing, now).await?,
        };
        *own = Some(Own { generation: sealing.generation, recipient: recipient.clone() });
        Ok(vec![recipient])
    }

    async fn find_log_key(
        &self,
        secret: &Identity,
        sealing: &RecipientsGeneration,
    ) -> Result<Option<Recipient>> {
        let (folders, _) = self.storage.children(Some(&paths::log_keys())).await?;
        let mut ids: Vec<Uuid> = folders.iter().filter_map(|f| f.parse().ok()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        for id in ids.into_iter().take(LOOKED_AT) {
            let Some(bytes) = self.storage.find(&paths::log_key_record(id)).await? else { continue };
            let Ok(record) = document::read::<Record>(FORMAT, &bytes) else {
                tracing::warn!(%id, "the document of a log key cannot be read; another key is used");
                continue;
            };
            let genuine =
                blake3::Hash::from_hex(&record.mac).is_ok_and(|mac| mac == record.sign(self, secret));
            if !genuine || record.id != id || record.generation != sealing.generation {
                continue;
            }
            // What is sealed to a key whose private half is gone is lost.
            let sealed = self.storage.find(&paths::log_key(id, record.generation)).await?;
            if sealed.is_some_and(|s| blake3::hash(&s).to_hex().as_str() == record.digest) {
                return Ok(Some(record.recipient));
            }
            tracing::warn!(%id, "a log key is missing or damaged; another one is made");
        }
        Ok(None)
    }

    async fn make_log_key(
        &self,
        secret: &Identity,
        sealing: &RecipientsGeneration,
        now: DateTime<Utc>,
    ) -> Result<Recipient> {
        let (id, identity) = (Uuid::now_v7(), Identity::generate());
        let sealed = seal(&identity, &sealing.recipients)?;
        let mut record = Record {
            id,
            generation: sealing.generation,
            recipient: identity.recipient(),
            digest: blake3::hash(&sealed).to_hex().to_string(),
            at: now,
            mac: String::new(),
        };
        record.mac = record.sign(self, secret).to_hex().to_string();
        self.storage.create_own(&paths::log_key(id, sealing.generation), sealed).await?;
        self.storage.create_own(&paths::log_key_record(id), document::write(FORMAT, &record)?).await?;
        Ok(record.recipient)
    }

    /// Every log key that can be opened here. Those that were opened before are not read again.
    pub(crate) async fn opened_log_keys(&self) -> Result<Opened> {
        let mut opened = self.log_keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, generations) in self.log_key_objects().await? {
            if opened.contains_key(&id) {
                continue;
            }
            if let Some(identity) = self.open_log_key(id, &generations).await? {
                opened.insert(id, Arc::new(identity));
            }
        }
        *self.log_keys.lock().unwrap_or_else(PoisonError::into_inner) = opened.clone();
        Ok(opened)
    }

    /// The log keys with the generations that each is sealed for, ascending.
    pub(crate) async fn log_key_objects(&self) -> Result<BTreeMap<Uuid, Vec<u32>>> {
        let folder = paths::log_keys();
        let mut found: BTreeMap<Uuid, Vec<u32>> = BTreeMap::new();
        for key in self.storage.list_as(&folder, |object| object.location).await? {
            if let [id, file] = paths::inside(&key, &folder).as_slice()
                && let (Ok(id), Some(n)) = (id.parse(), paths::number(file, "age"))
            {
                found.entry(id).or_default().push(n);
            }
        }
        found.values_mut().for_each(|generations| generations.sort_unstable());
        Ok(found)
    }

    /// A log key, opened with one of ours; `None` where none of them opens it, or all its objects are damaged.
    pub(crate) async fn open_log_key(&self, id: Uuid, generations: &[u32]) -> Result<Option<Identity>> {
        let ours: Vec<&Identity> = self.options.identities.iter().collect();
        for generation in generations.iter().rev() {
            let key = paths::log_key(id, *generation);
            let Some(sealed) = self.storage.find(&key).await? else { continue };
            match keys::open_sealed(&sealed, &ours) {
                Ok(text) => return keys::identity_of(&text, &key).map(Some),
                Err(age::DecryptError::NoMatchingKeys) => {}
                Err(error) => tracing::warn!(%key, %error, "an object of a log key is damaged"),
            }
        }
        Ok(None)
    }

    /// Whether a log key is what its record says, as far as can be told here.
    pub(crate) async fn check_log_key(&self, id: Uuid, generations: &[u32]) -> Result<()> {
        let key = paths::log_key_record(id);
        let record: Record = document::read(FORMAT, &self.storage.get(&key).await?)
            .map_err(|error| error.about(key.as_ref()).with_hint(LOST))?;
        let corrupt = |message: &str, key: &Path| Error::corrupt(message).about(key.as_ref()).with_hint(LOST);
        if record.id != id {
            return Err(corrupt("it is the record of another log key", &key));
        }
        if generations.is_empty() {
            let key = paths::log_key(id, record.generation);
            return Err(Error::not_found(
                "a log key is missing: nobody can read the log that is sealed to it",
            )
            .about(key.as_ref())
            .with_hint(LOST));
        }
        for generation in generations {
            let key = paths::log_key(id, *generation);
            let sealed = self.storage.get(&key).await?;
            let whole = if *generation == record.generation {
                blake3::hash(&sealed).to_hex().as_str() == record.digest
            } else {
                sealed.starts_with(AGE_FILE)
            };
            if !whole {
                return Err(corrupt("it is not the log key that was written", &key));
            }
        }
        match self.open_log_key(id, generations).await? {
            Some(identity) if identity.recipient() != record.recipient => {
                Err(corrupt("the log key is not that of its record", &key))
            }
            _ => Ok(()),
        }
    }

    /// Seals a log key once more, for another generation; gives what was sent where.
    pub(crate) async fn rewrap_log_key(
        &self,
        id: Uuid,
        identity: &Identity,
        generation: &RecipientsGeneration,
    ) -> Result<(Path, blake3::Hash)> {
        let sealed = seal(identity, &generation.recipients)?;
        let (key, digest) = (paths::log_key(id, generation.generation), blake3::hash(&sealed));
        self.storage.create(&key, sealed).await.map(|_| (key, digest))
    }
}

/// An identity, sealed to recipients.
pub(crate) fn seal(identity: &Identity, recipients: &[Recipient]) -> Result<Bytes> {
    if recipients.is_empty() {
        return Err(Error::internal("a key would be sealed to nobody"));
    }
    let text = format!("{}\n", identity.to_secret_text().expose());
    Ok(Bytes::from(keys::seal(recipients, text.as_bytes())?))
}
