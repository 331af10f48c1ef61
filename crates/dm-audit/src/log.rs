//! Appending and reading.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dm_core::{AuditEvent, AuditOutcome, AuditSink, Effect, Error, ErrorKind, OpContext, Result, RunId};
use dm_store::{Leaf, LeafFilter, LeafName, ListedLeaf, Page, RunEnd, RunStart, Store};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::{LEAF_VERSION, commitment, leaf_hash};
use crate::key::LogKey;
use crate::note::NoteVerifier;
use crate::redact::{redact_json, redact_text};

/// Which events. Empty fields match everything; `since` is inclusive, `until` exclusive.
pub type LogFilter = LeafFilter;

/// The audit log in a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    store: Store,
    /// The key that signs heads; the reason when one is meant to be there and is not.
    key: Arc<RwLock<Arc<Signing>>>,
}

/// The key that signs, if heads are signed at all, or why there is none.
pub(crate) type Signing = std::result::Result<Option<LogKey>, String>;

/// A line of the log, as it is listed and exported (one JSON object a line).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SealedEvent {
    /// Position in the chain; `None` while it waits for its seal.
    pub seq: Option<i64>,
    /// When it was sealed.
    pub sealed_at: Option<DateTime<Utc>>,
    /// Names the event.
    pub event_id: Uuid,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The run.
    pub run_id: RunId,
    /// Who.
    pub actor: String,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Whether anything happened.
    pub effect: Effect,
    /// Microseconds from intent to outcome.
    pub duration_us: u64,
    /// Parameters; `null` when erased.
    pub details: serde_json::Value,
    /// The error's message.
    pub error: Option<String>,
    /// The leaf's hash in hexadecimal.
    pub leaf_hash: String,
    /// Order of appending in this store; the cursor of a page that ends with this event.
    pub position: i64,
}

impl AuditLog {
    /// The audit log that lives in this store. Its heads are not signed: see [`signed_by`](Self::signed_by).
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, key: Arc::new(RwLock::new(Arc::new(Ok(None)))) }
    }

    /// Signs the heads with this key.
    #[must_use]
    pub fn signed_by(self, key: LogKey) -> Self {
        self.set_key(Ok(Some(key)));
        self
    }

    /// Heads should be signed and cannot be, for this reason. Every seal says so; nothing else is kept from happening.
    #[must_use]
    pub fn without_key(self, why: impl Into<String>) -> Self {
        self.set_key(Err(why.into()));
        self
    }

    /// From now on this key signs, in all clones of this log; see [`seal_with_new_key`](Self::seal_with_new_key).
    pub fn change_key(&self, key: LogKey) {
        self.set_key(Ok(Some(key)));
    }

    fn set_key(&self, key: Signing) {
        // A lock that is poisoned holds a whole value: it is only ever replaced.
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    pub(crate) fn key(&self) -> Arc<Signing> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why heads cannot be signed, when they should be.
    #[must_use]
    pub fn key_problem(&self) -> Option<String> {
        self.key().as_ref().as_ref().err().cloned()
    }

    /// The public key that signs, if there is one.
    #[must_use]
    pub fn verifier(&self) -> Option<NoteVerifier> {
        self.key().as_ref().as_ref().ok()?.as_ref().map(|key| key.verifier().clone())
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes the beginning of a run and its intent, in one transaction; both are durable when it returns.
    ///
    /// # Errors
    /// As [`Store::begin_run`]; nothing may then be applied.
    pub async fn begin_run(&self, start: &RunStart, event: &AuditEvent) -> Result<()> {
        self.store.begin_run_with_leaf(&redact_start(start), &leaf(event)?).await
    }

    /// Writes the end of a run and its outcome, in one transaction.
    ///
    /// # Errors
    /// As [`Store::finish_run`].
    pub async fn finish_run(&self, end: &RunEnd, event: &AuditEvent) -> Result<()> {
        self.store.finish_run_with_leaf(&redact_end(end), &leaf(event)?).await
    }

    /// Writes a run that was over before it began — a denial — and its outcome, in one transaction.
    ///
    /// # Errors
    /// As [`Store::begin_run`].
    pub async fn record_run(&self, start: &RunStart, end: &RunEnd, event: &AuditEvent) -> Result<()> {
        self.store.record_run_with_leaf(&redact_start(start), &redact_end(end), &leaf(event)?).await
    }

    /// Appends many events in one transaction: captured changes, imports.
    ///
    /// # Errors
    /// As [`AuditSink::append`]; none of them is then in the log.
    pub async fn append_all(&self, events: &[AuditEvent]) -> Result<()> {
        let leaves = events.iter().map(leaf).collect::<Result<Vec<_>>>()?;
        self.store.append_leaves(&leaves).await
    }

    /// Erases details, error and salt of a sealed event, for the run `run_id` of the action `audit:erase`, whose intent is in
    /// the log already. The leaf, its commitment and every proof stay; what the commitment was made of cannot be guessed
    /// without the salt. Gives the event's id.
    ///
    /// # Errors
    /// `NotFound` when there is no such event, `Invalid` when it is not sealed yet, `AlreadyExists` when it was erased;
    /// `Busy`, `Unreachable`.
    pub async fn erase(&self, name: &LeafName, run_id: RunId) -> Result<Uuid> {
        let (seq, leaf) = self.store.find_leaf(name).await?.ok_or_else(no_such_event)?;
        if leaf.erased_by.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "the event's payload is erased already"));
        }
        if seq.is_none() || !self.store.erase_payload(&leaf.event_id, run_id).await? {
            return Err(Error::invalid("the event is not sealed yet").with_hint("try again"));
        }
        Uuid::try_parse(&leaf.event_id).map_err(|e| Error::corrupt("an event's id is none").with_source(e))
    }

    /// A page of the log in the order of appending, sealed or not. The cursor is [`SealedEvent::position`].
    ///
    /// # Errors
    /// `Busy`, `Unreachable`; `Corrupt` when a row is not what an append writes.
    pub async fn log(&self, filter: &LogFilter, page: &Page<i64>) -> Result<Vec<SealedEvent>> {
        self.store.list_leaves(filter, page).await?.into_iter().map(event).collect()
    }
}

#[async_trait]
impl AuditSink for AuditLog {
    async fn append(&self, _: &OpContext, event: &AuditEvent) -> Result<()> {
        // The context's cancellation is not watched: that the work was interrupted is itself an event.
        self.store.append_leaves(&[leaf(event)?]).await
    }
}

pub(crate) fn no_such_event() -> Error {
    Error::not_found("there is no such event in the audit log")
        .with_hint("name it by its number or its id: \"dm audit log\" shows both (--json the id)")
}

fn leaf(event: &AuditEvent) -> Result<Leaf> {
    named_leaf(event, Uuid::now_v7())
}

/// The leaf of an event that has its name already.
pub(crate) fn named_leaf(event: &AuditEvent, event_id: Uuid) -> Result<Leaf> {
    let text = |text: &str| redact_text(text).replace('\0', "\u{fffd}");
    let details = serde_json::to_string(&redact_json(&event.intent.details))
        .map_err(|e| Error::internal("an audit event cannot be written as JSON").with_source(e))?;
    let error = event.error.as_deref().map(text);
    let mut salt = vec![0; 32];
    rand::rng().fill_bytes(&mut salt);
    let commitment = commitment(&salt, &details, error.as_deref());
    let mut leaf = Leaf {
        version: LEAF_VERSION,
        event_id: event_id.to_string(),
        at: event.at.timestamp_micros(),
        actor: text(&event.intent.actor),
        action: text(&event.intent.action),
        resource: text(&event.intent.resource),
        outcome: word(&event.outcome)?,
        effect: word(&event.effect)?,
        duration_us: i64::try_from(event.duration.as_micros()).unwrap_or(i64::MAX),
        run_id: event.intent.run_id.to_string(),
        details: Some(details),
        error,
        salt: Some(salt),
        commitment: commitment.to_vec(),
        leaf_hash: Vec::new(),
        erased_by: None,
    };
    leaf.leaf_hash = leaf_hash(&leaf).to_vec();
    Ok(leaf)
}

fn event(listed: ListedLeaf) -> Result<SealedEvent> {
    let about = format!("audit event {}", listed.leaf.event_id);
    let bad = |what: &str| {
        Error::corrupt(format!("its {what} is not what an append writes"))
            .about(about.clone())
            .with_hint("run the audit verification; it names the first bad entry")
    };
    let leaf = listed.leaf;
    let details = match &leaf.details {
        None => serde_json::Value::Null,
        Some(text) => serde_json::from_str(text).map_err(|_| bad("details"))?,
    };
    let sealed_at = match listed.seal {
        None => None,
        Some((_, micros)) => {
            Some(DateTime::from_timestamp_micros(micros).ok_or_else(|| bad("time of sealing"))?)
        }
    };
    Ok(SealedEvent {
        seq: listed.seal.map(|(seq, _)| seq),
        sealed_at,
        event_id: Uuid::try_parse(&leaf.event_id).map_err(|_| bad("event id"))?,
        at: DateTime::from_timestamp_micros(leaf.at).ok_or_else(|| bad("time"))?,
        run_id: leaf.run_id.parse().map_err(|_| bad("run id"))?,
        outcome: parse(&leaf.outcome).ok_or_else(|| bad("outcome"))?,
        effect: parse(&leaf.effect).ok_or_else(|| bad("effect"))?,
        duration_us: u64::try_from(leaf.duration_us).map_err(|_| bad("duration"))?,
        details,
        actor: leaf.actor,
        action: leaf.action,
        resource: leaf.resource,
        error: leaf.error,
        leaf_hash: hex::encode(&leaf.leaf_hash),
        position: listed.id,
    })
}

fn redact_start(start: &RunStart) -> RunStart {
    RunStart { resource: redact_text(&start.resource), ..start.clone() }
}

fn redact_end(end: &RunEnd) -> RunEnd {
    RunEnd {
        error: end.error.as_deref().map(redact_text),
        report: end.report.as_ref().map(redact_json),
        ..end.clone()
    }
}

fn word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(Error::internal("a value has no single word")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}
