//! Who can read what is written from now on (§4): the recipients of `repository.json` are generation 0, and each change of them is
//! a record of its own, the next generation. Records are never changed; the highest one counts.
//!
//! Whoever can write into the store could add one. So a record carries proofs, made with secret keys, and who is about to seal
//! something believes a record only with a proof that it can check, or when the configuration names the same recipients.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, OpContext, RepositoryId, Result};
use serde::{Deserialize, Serialize};

use crate::repository::{Inner, Repository};
use crate::{Identity, Recipient, document, paths};

pub(crate) const FORMAT: &str = "dm-recipients";
const PROOF_KEY: &str = "data-manager repository recipients 1";

/// `dm-recipients`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) repository: RepositoryId,
    pub(crate) generation: u32,
    /// BLAKE3 of the document of the generation before.
    pub(crate) previous: String,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) by: String,
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) proofs: Vec<Proof>,
}

/// What only a holder of a private key can have made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The public half of the key.
    pub(crate) key: Recipient,
    pub(crate) mac: String,
}

/// One generation of recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecipientsGeneration {
    /// Its number; 0 is what the repository was made with.
    pub generation: u32,
    /// Who can read what was sealed in it.
    pub recipients: Vec<Recipient>,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Who made it; `None` of generation 0.
    pub by: Option<String>,
    /// Why; `None` of generation 0.
    pub reason: Option<String>,
    /// Whether a key that is at hand proves that it was made by somebody who holds the same key. Always `false` of generation 0,
    /// which carries no proof.
    pub proven: bool,
}

/// Every generation, oldest first; there is at least one.
#[derive(Debug)]
pub(crate) struct History {
    generations: Vec<RecipientsGeneration>,
    /// BLAKE3 of the newest document.
    pub(crate) digest: String,
}

impl History {
    pub(crate) fn current(&self) -> &RecipientsGeneration {
        // There is always generation 0.
        &self.generations[self.generations.len() - 1]
    }

    pub(crate) fn all(&self) -> &[RecipientsGeneration] {
        &self.generations
    }
}

impl Record {
    /// What a proof is about, as a text that is written the same everywhere.
    fn statement(&self) -> String {
        let mut text =
            format!("data-manager recipients\n{}\n{}\n{}\n", self.repository, self.generation, self.previous);
        for recipient in &self.recipients {
            let _ = writeln!(text, "{recipient}");
        }
        text
    }

    fn mac(&self, identity: &Identity) -> blake3::Hash {
        blake3::keyed_hash(&identity.derived(PROOF_KEY), self.statement().as_bytes())
    }

    /// Adds the proof of a key.
    pub(crate) fn prove(&mut self, identity: &Identity) {
        let key = identity.recipient();
        if !self.proofs.iter().any(|p| p.key == key) {
            let mac = self.mac(identity).to_hex().to_string();
            self.proofs.push(Proof { key, mac });
        }
    }

    /// Whether the key proves it; `None` where it says nothing.
    fn is_proven_by(&self, identity: &Identity) -> Option<bool> {
        let key = identity.recipient();
        let proof = self.proofs.iter().find(|p| p.key == key)?;
        // This comparison takes the same time wherever they differ.
        Some(blake3::Hash::from_hex(&proof.mac).is_ok_and(|stated| stated == self.mac(identity)))
    }
}

/// Whether two lists name the same keys.
pub(crate) fn same(a: &[Recipient], b: &[Recipient]) -> bool {
    let set = |list: &[Recipient]| list.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    set(a) == set(b)
}

/// Recipients in one line.
pub(crate) fn listed(recipients: &[Recipient]) -> String {
    recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Repository {
    /// Every generation of recipients, oldest first; the last one counts. Empty in an unencrypted repository.
    ///
    /// # Errors
    /// `Corrupt` when a record is damaged, missing between others, or not genuine; the store's.
    pub async fn recipients(&self, ctx: &OpContext) -> Result<Vec<RecipientsGeneration>> {
        if !self.is_encrypted() {
            return Ok(Vec::new());
        }
        Ok(ctx.run(self.inner.history()).await?.all().to_vec())
    }
}

impl Inner {
    /// The generations as they stand in the store now. One listing, when nothing is new.
    pub(crate) async fn history(&self) -> Result<Arc<History>> {
        let folder = paths::recipients();
        let (_, files) = self.storage.children(Some(&folder)).await?;
        let mut numbers: Vec<u32> = files.iter().filter_map(|f| paths::number(f, "json")).collect();
        numbers.sort_unstable();
        let newest = numbers.last().copied().unwrap_or(0);
        let known = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.current().generation == newest) {
            return Ok(known);
        }
        if let Some(missing) = (1..=newest).find(|n| numbers.binary_search(n).is_err()) {
            return Err(Error::corrupt("a record of the repository's recipients is missing")
                .about(paths::recipients_record(missing).as_ref())
                .with_hint(BROKEN));
        }
        let loaded = Arc::new(self.load_history(newest).await?);
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// As they stand there, whatever was read before.
    pub(crate) async fn history_anew(&self) -> Result<Arc<History>> {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.history().await
    }

    async fn load_history(&self, newest: u32) -> Result<History> {
        let description = &self.description;
        let mut history = History {
            generations: vec![RecipientsGeneration {
                generation: 0,
                recipients: description.encryption.iter().flat_map(|e| e.recipients.clone()).collect(),
                at: description.created_at,
                by: None,
                reason: None,
                proven: false,
            }],
            digest: blake3::hash(&self.storage.get(&paths::repository()).await?).to_hex().to_string(),
        };
        for generation in 1..=newest {
            let key = paths::recipients_record(generation);
            let bytes = self.storage.get(&key).await?;
            let about = |e: Error| e.about(key.as_ref()).with_hint(BROKEN);
            let record: Record = document::read(FORMAT, &bytes).map_err(about)?;
            let wrong = if record.repository != description.id {
                Some("it is of another repository")
            } else if record.generation != generation {
                Some("it is of another generation")
            } else if record.previous != history.digest {
                Some("it does not follow on the one before")
            } else if record.recipients.is_empty() {
                Some("it names nobody")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                return Err(about(Error::corrupt(format!(
                    "a record of the recipients is not usable: {wrong}"
                ))));
            }
            let proven = self.is_genuine(&record, &history.current().recipients).map_err(about)?;
            history.digest = blake3::hash(&bytes).to_hex().to_string();
            history.generations.push(RecipientsGeneration {
                generation,
                recipients: record.recipients,
                at: record.at,
                by: Some(record.by),
                reason: Some(record.reason),
                proven,
            });
        }
        Ok(history)
    }

    /// Whether a key that is at hand proves a record. The index key may, and who could read before it.
    fn is_genuine(&self, record: &Record, before: &[Recipient]) -> Result<bool> {
        let mut proven = false;
        let index = self.options.index_identity.iter();
        let authors = self.options.identities.iter().filter(|i| before.contains(&i.recipient()));
        for identity in index.chain(authors) {
            match record.is_proven_by(identity) {
                Some(false) => {
                    return Err(Error::corrupt(
                        "a record of the recipients is forged: its proof does not hold",
                    ));
                }
                Some(true) => proven = true,
                None => {}
            }
        }
        Ok(proven)
    }

    /// The generation that something new is sealed to, when this host has reason to believe it.
    ///
    /// # Errors
    /// `Conflict` when the configuration names others, or nothing here can tell whether a change is genuine; those of
    /// [`history`](Self::history).
    pub(crate) async fn sealing(&self) -> Result<RecipientsGeneration> {
        let history = self.history().await?;
        let current = history.current();
        let expected = &self.options.expected_recipients;
        let believed = match expected.is_empty() {
            _ if current.proven => true,
            true => current.generation == 0,
            false => same(expected, &current.recipients),
        };
        if believed {
            return Ok(current.clone());
        }
        let there = listed(&current.recipients);
        Err(if expected.is_empty() {
            Error::new(
                ErrorKind::Conflict,
                format!(
                    "the recipients of the repository were changed (generation {}), and nothing here can tell whether by their owner",
                    current.generation
                ),
            )
            .with_hint(format!(
                "if the change is yours, write it into the configuration: [repository] recipients = {}; or give the index key",
                quoted(&current.recipients)
            ))
        } else {
            Error::new(
                ErrorKind::Conflict,
                format!("the repository seals to {there}, but the configuration names {}", listed(expected)),
            )
            .with_hint(format!(
                "to change the repository: \"dm backup key rewrap\", where a private key is; to follow it, where that change is yours: [repository] recipients = {}",
                quoted(&current.recipients)
            ))
        })
    }

    /// What to do when none of the keys at hand opens something that was sealed in these generations.
    pub(crate) async fn no_identity(&self, message: &'static str, sealed_in: &[u32]) -> Error {
        let error = Error::new(ErrorKind::Denied, message);
        // The advice is worth less than the error: where it cannot be read, generation 0 stands for it.
        let history = self.history().await.ok();
        let generations = history.as_ref().map(|h| h.all()).unwrap_or_default();
        let mut wanted: Vec<Recipient> = Vec::new();
        for generation in generations.iter().filter(|g| sealed_in.contains(&g.generation)) {
            wanted.extend(
                generation.recipients.iter().filter(|r| !wanted.contains(r)).cloned().collect::<Vec<_>>(),
            );
        }
        if wanted.is_empty() {
            wanted = match history.as_ref() {
                Some(history) => history.current().recipients.clone(),
                None => self.description.encryption.iter().flat_map(|e| e.recipients.clone()).collect(),
            };
        }
        let mut hints = vec![format!("give an identity (private key) of one of: {}", listed(&wanted))];
        for identity in &self.options.identities {
            let given = identity.recipient();
            let index = self.description.encryption.as_ref().map(|e| &e.index_recipient);
            let named: Vec<u32> =
                generations.iter().filter(|g| g.recipients.contains(&given)).map(|g| g.generation).collect();
            hints.push(match (named.first(), named.last()) {
                _ if index == Some(&given) => {
                    format!("{given} is the index key, which opens maps and no contents")
                }
                (None, _) | (_, None) => {
                    format!("{given} never was a key of this repository; is it that of another one?")
                }
                (Some(first), _) if sealed_in.iter().all(|g| g < first) => format!(
                    "{given} was added in generation {first}, and this was not sealed to it yet: run \"dm backup key rewrap\" where an older key is"
                ),
                (_, Some(last)) => format!("{given} was removed behind generation {last}"),
            });
        }
        if self.options.identities.is_empty() {
            hints.push("where it is lost, nobody can read this any more".to_owned());
        }
        error.with_hint(hints.join("; "))
    }
}

const BROKEN: &str = "nothing is sealed until it is known to whom; put the record back from a copy (\"dm backup copy --place <copy> --to primary\"), \
                      reading goes on meanwhile";

/// Recipients as the configuration writes them.
fn quoted(recipients: &[Recipient]) -> String {
    let quoted: Vec<String> = recipients.iter().map(|r| format!("\"{r}\"")).collect();
    format!("[{}]", quoted.join(", "))
}
