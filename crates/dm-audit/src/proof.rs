//! Proofs about single events, checked without the store: that an event is in the log (c2sp.org/tlog-proof), and that a
//! newer head continues an older one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dm_core::{Error, ErrorKind, OpContext, Result};
use dm_store::{Leaf, LeafName};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::encoding::{LEAF_VERSION, commitment, leaf_hash};
use crate::log::AuditLog;
use crate::merkle::{Hash, consistency_proof, inclusion_proof, verify_consistency, verify_inclusion};
use crate::note::NoteVerifier;
use crate::tiles::{TileSet, signed};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// An event in the form that its hash is computed from; the `extra` of a proof.
///
/// Not the [`Leaf`] that the store has, though most columns are the same: this one is a format that others read for years, in
/// hexadecimal and without what a proof is to show; a leaf is a row, and changes with the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenEvent {
    /// Version of the encoding.
    pub version: i64,
    /// UUID.
    pub event_id: String,
    /// Microseconds of UTC since 1970.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub resource: String,
    /// How it ended.
    pub outcome: String,
    /// Whether anything happened.
    pub effect: String,
    /// Microseconds from intent to outcome.
    pub duration_us: i64,
    /// The run.
    pub run_id: String,
    /// Commitment to the payload, in hexadecimal.
    pub commitment: String,
    /// The payload with what opens the commitment; left out when it is to stay private, or was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<ProvenPayload>,
}

/// What a commitment is opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenPayload {
    /// JSON text, byte for byte.
    pub details: String,
    /// The error's message.
    pub error: Option<String>,
    /// Salt in hexadecimal.
    pub salt: String,
}

/// That an event is in the log, and everything that is needed to check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventProof {
    /// The event.
    pub event: ProvenEvent,
    /// Position in the tree, from 0; the position in the chain is one more.
    pub index: u64,
    /// Hashes from the leaf's sibling up, in hexadecimal.
    pub path: Vec<String>,
    /// The signed head that it leads to.
    pub checkpoint: SignedCheckpoint,
}

/// That a newer head continues an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// Leaves of the older tree.
    pub old_size: u64,
    /// Hashes by RFC 6962, section 2.1.2, in hexadecimal.
    pub path: Vec<String>,
    /// The newer signed head.
    pub checkpoint: SignedCheckpoint,
}

impl AuditLog {
    /// Proves that an event is in the log, by the newest signed head or by one from outside. The payload is part of the proof
    /// only when asked for.
    ///
    /// # Errors
    /// `NotFound` for an event that is not there or not covered by the head; `Corrupt` when the tree does not lead to the
    /// head; `Busy`, `Unreachable`.
    pub async fn prove(
        &self,
        ctx: &OpContext,
        name: &LeafName,
        by: Option<&SignedCheckpoint>,
        with_payload: bool,
    ) -> Result<EventProof> {
        ctx.check()?;
        let (seq, leaf) = match self.store().find_leaf(name).await? {
            Some((Some(seq), leaf)) => (seq, leaf),
            Some((None, _)) => {
                return Err(Error::not_found("the event is not sealed yet").with_hint("try again"));
            }
            None => return Err(crate::log::no_such_event()),
        };
        let signed_head = match by {
            Some(head) => head.clone(),
            None => self.checkpoint().await?.ok_or_else(|| {
                Error::not_found("the log has no signed checkpoint yet")
                    .with_hint("\"dm audit checkpoint\" says why it is not signed")
            })?,
        };
        let head = Checkpoint::read_unchecked(&signed_head.note)?;
        let index = u64::try_from(seq - 1).unwrap_or_default();
        if index >= head.size {
            return Err(Error::not_found(format!(
                "the event is number {seq}, and the checkpoint covers {} entries",
                head.size
            ))
            .with_hint("take a newer checkpoint"));
        }
        let tiles = TileSet::load(self.store(), |node| {
            inclusion_proof(index, head.size, node);
        })
        .await?;
        let path = tiles.compute(|node| inclusion_proof(index, head.size, node))?;
        let proof = EventProof {
            event: proven(&leaf, with_payload),
            index,
            path: path.iter().map(hex::encode).collect(),
            checkpoint: signed_head,
        };
        proof.leads_to(&head).map_err(|e| {
            Error::corrupt(format!("the proof does not hold: {e}"))
                .with_hint("run \"dm audit verify\"; it names the first bad entry")
        })?;
        Ok(proof)
    }

    /// Proves that the newest signed head continues an older one.
    ///
    /// # Errors
    /// `NotFound` when nothing is signed yet; `CheckFailed` when it does not continue it; `Corrupt`, `Busy`, `Unreachable`.
    pub async fn prove_consistency(&self, ctx: &OpContext, old: &Checkpoint) -> Result<ConsistencyProof> {
        ctx.check()?;
        let newest = self
            .checkpoint()
            .await?
            .ok_or_else(|| Error::not_found("the log has no signed checkpoint yet"))?;
        let new = Checkpoint::read_unchecked(&newest.note)?;
        if old.size > new.size {
            return Err(inconsistent(old, &new));
        }
        let path = if old.size == 0 {
            Vec::new()
        } else {
            let tiles = TileSet::load(self.store(), |node| {
                consistency_proof(old.size, new.size, node);
            })
            .await?;
            tiles.compute(|node| consistency_proof(old.size, new.size, node))?
        };
        if !verify_consistency(old.size, new.size, &old.root, &new.root, &path) {
            return Err(inconsistent(old, &new));
        }
        Ok(ConsistencyProof {
            old_size: old.size,
            path: path.iter().map(hex::encode).collect(),
            checkpoint: newest,
        })
    }
}

fn inconsistent(old: &Checkpoint, new: &Checkpoint) -> Error {
    failed(format!(
        "the log's head ({} entries) does not continue the checkpoint ({} entries)",
        new.size, old.size
    ))
    .with_hint("run \"dm audit verify --checkpoint\"; it names the first bad entry")
}

impl EventProof {
    /// The proof as c2sp.org/tlog-proof writes it, with the event as its extra data.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn to_text(&self) -> Result<String> {
        let event = serde_json::to_vec(&self.event)
            .map_err(|e| Error::internal("an event cannot be written as JSON").with_source(e))?;
        let mut text = format!("{HEADER}\nextra {}\nindex {}\n", BASE64.encode(event), self.index);
        for hash in &self.path {
            text.push_str(&BASE64.encode(hash_of(hash)?));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint.note);
        Ok(text)
    }

    /// Reads what [`to_text`](Self::to_text) wrote. Nothing is checked yet.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn read(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::invalid(format!("this is not a proof of an event: {what}"));
        let (head, note) = text.split_once("\n\n").ok_or_else(|| bad("it has no checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(bad("its first line is another"));
        }
        let event = lines
            .next()
            .and_then(|line| line.strip_prefix("extra "))
            .and_then(|extra| BASE64.decode(extra).ok())
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| bad("the event is missing in its second line"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index
            .and_then(|digits| digits.parse::<u64>().ok().filter(|n| n.to_string() == *digits))
            .ok_or_else(|| bad("its index is missing"))?;
        let path = lines
            .map(|line| BASE64.decode(line).ok().filter(|hash| hash.len() == 32).map(hex::encode))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad("a line is not a hash"))?;
        Ok(Self { event, index, path, checkpoint: SignedCheckpoint::of_note(note)? })
    }

    /// Checks everything that there is to check without the store: the signature, the path, the event's hash, and its
    /// payload when that is part of the proof. A head that was kept elsewhere must be the one of the proof.
    ///
    /// # Errors
    /// `CheckFailed` with what does not hold; `Invalid` for what is not a proof.
    pub fn check(&self, key: &NoteVerifier, kept: Option<&Checkpoint>) -> Result<Checkpoint> {
        let head = Checkpoint::open(&self.checkpoint.note, key)?;
        if let Some(kept) = kept
            && *kept != head
        {
            return Err(failed(format!(
                "the proof is by a checkpoint of {} entries with the root {}, and the one given has {} and {}",
                head.size,
                hex::encode(head.root),
                kept.size,
                hex::encode(kept.root)
            ))
            .with_hint("make the proof by the checkpoint that you keep: dm audit prove EVENT --checkpoint FILE"));
        }
        self.leads_to(&head)?;
        Ok(head)
    }

    fn leads_to(&self, head: &Checkpoint) -> Result<()> {
        let leaf = self.event.leaf()?;
        if let (Some(salt), Some(details)) = (&leaf.salt, &leaf.details)
            && commitment(salt, details, leaf.error.as_deref())[..] != leaf.commitment
        {
            return Err(failed("the payload is not the one that the event committed to".into()));
        }
        let path = self.path.iter().map(|hash| hash_of(hash)).collect::<Result<Vec<_>>>()?;
        if verify_inclusion(self.index, head.size, &leaf_hash(&leaf), &path, &head.root) {
            return Ok(());
        }
        Err(failed(format!("the event is not entry {} of the log that the checkpoint signs", self.index + 1)))
    }
}

impl ConsistencyProof {
    /// Checks without the store that the newer head is signed by the key and continues the older one.
    ///
    /// # Errors
    /// `CheckFailed`, `Invalid`.
    pub fn check(&self, key: &NoteVerifier, old: &Checkpoint) -> Result<Checkpoint> {
        let new = Checkpoint::open(&self.checkpoint.note, key)?;
        let path = self.path.iter().map(|hash| hash_of(hash)).collect::<Result<Vec<_>>>()?;
        if old.size == self.old_size && verify_consistency(old.size, new.size, &old.root, &new.root, &path) {
            return Ok(new);
        }
        Err(inconsistent(old, &new))
    }
}

impl ProvenEvent {
    fn leaf(&self) -> Result<Leaf> {
        if self.version != LEAF_VERSION {
            return Err(Error::invalid(format!(
                "the event's encoding has the unknown version {}",
                self.version
            )));
        }
        let bytes = |text: &str| {
            hex::decode(text).map_err(|_| Error::invalid("the event holds no hexadecimal digits"))
        };
        let payload = self.payload.as_ref();
        Ok(Leaf {
            version: self.version,
            event_id: self.event_id.clone(),
            at: self.at,
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            outcome: self.outcome.clone(),
            effect: self.effect.clone(),
            duration_us: self.duration_us,
            run_id: self.run_id.clone(),
            details: payload.map(|p| p.details.clone()),
            error: payload.and_then(|p| p.error.clone()),
            salt: payload.map(|p| bytes(&p.salt)).transpose()?,
            commitment: bytes(&self.commitment)?,
            leaf_hash: Vec::new(),
            erased_by: None,
        })
    }
}

fn proven(leaf: &Leaf, with_payload: bool) -> ProvenEvent {
    let payload = match (&leaf.details, &leaf.salt) {
        (Some(details), Some(salt)) if with_payload => Some(ProvenPayload {
            details: details.clone(),
            error: leaf.error.clone(),
            salt: hex::encode(salt),
        }),
        _ => None,
    };
    ProvenEvent {
        version: leaf.version,
        event_id: leaf.event_id.clone(),
        at: leaf.at,
        actor: leaf.actor.clone(),
        action: leaf.action.clone(),
        resource: leaf.resource.clone(),
        outcome: leaf.outcome.clone(),
        effect: leaf.effect.clone(),
        duration_us: leaf.duration_us,
        run_id: leaf.run_id.clone(),
        commitment: hex::encode(&leaf.commitment),
        payload,
    }
}

/// A position or an event's id, as a person writes it.
///
/// # Errors
/// `Invalid`.
pub fn leaf_name(text: &str) -> Result<LeafName> {
    if let Ok(seq) = text.parse::<u64>() {
        return Ok(LeafName::Seq(signed(seq)));
    }
    match uuid::Uuid::try_parse(text) {
        Ok(id) => Ok(LeafName::Event(id.to_string())),
        Err(_) => Err(Error::invalid(format!("\"{text}\" names no event"))
            .with_hint("give its number or its event_id, as \"dm audit log --json\" shows them")),
    }
}

fn hash_of(text: &str) -> Result<Hash> {
    let hash = hex::decode(text).ok().and_then(|hash| Hash::try_from(hash).ok());
    hash.ok_or_else(|| Error::invalid("a hash is 64 hexadecimal digits"))
}

fn failed(message: String) -> Error {
    Error::new(ErrorKind::CheckFailed, message)
}
