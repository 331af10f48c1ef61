//! The audit trail: read, verified, proven.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dm_audit::{
    AuditLog, AuditVerification, Checkpoint, ConsistencyProof, EventProof, Kept, LogFilter, LogHead, LogKey,
    NoteVerifier, SealReport, SealedEvent, SignedCheckpoint, leaf_name,
};
use dm_core::{Error, ErrorKind, OpContext, Result};
use dm_store::{Page, Store};
use serde::Serialize;

use crate::anchors::signers;
use crate::config::AuditConfig;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::{Captures, Config, DataManager};

const LOG: OperationKind = OperationKind::AuditLog;
const VERIFY: OperationKind = OperationKind::AuditVerify;
const CHECKPOINT: OperationKind = OperationKind::AuditCheckpoint;
const PROVE: OperationKind = OperationKind::AuditProve;
const KEY: OperationKind = OperationKind::AuditKey;
const ERASE: OperationKind = OperationKind::AuditErase;
const REPLACE_KEY: OperationKind = OperationKind::AuditReplaceKey;

/// The longest that a critical action waits for another program that seals.
const SETTLE: Duration = Duration::from_secs(10);

/// The trail of a [`DataManager`].
#[derive(Clone, Copy, Debug)]
pub struct Audits<'a> {
    pub(crate) dm: &'a DataManager,
}

/// What the trail is held against, beside itself.
#[derive(Clone, Debug, Default)]
pub struct AuditVerifyOptions {
    /// A head that was noted.
    pub from: Option<LogHead>,
    /// Signed checkpoints that were kept outside: from where, and the note.
    pub checkpoints: Vec<(String, String)>,
    /// The public key that signed them; the trail's own keys when `None`.
    pub key: Option<NoteVerifier>,
}

/// The key that signs the trail's heads.
#[derive(Clone, Debug, Serialize)]
pub struct AuditKey {
    /// The public key: what a verifier needs.
    pub vkey: String,
    /// The name of the log.
    pub origin: String,
    /// The file with the private key.
    pub file: PathBuf,
}

impl<'a> Audits<'a> {
    /// The changes of rows, as the engines record them.
    #[must_use]
    pub fn capture(&self) -> Captures<'a> {
        Captures { dm: self.dm }
    }

    /// Reads the trail, a page at a time; [`SealedEvent::position`] is the cursor to go on from.
    ///
    /// # Errors
    /// `Unreachable`; `Corrupt` for a row that no append writes.
    pub async fn log(
        &self,
        ctx: &OpContext,
        filter: &LogFilter,
        page: &Page<i64>,
    ) -> Result<Vec<SealedEvent>> {
        let work = async { self.dm.audit_log(ctx).await?.log(filter, page).await };
        self.dm.operate(ctx, Operation::new(LOG, "*"), work).await
    }

    /// Seals what is committed, then recomputes every leaf, the chain, the tree and its signed heads. With a head that was
    /// noted outside or a checkpoint that was kept there, a cut tail, a wiped log and a rewritten chain are found too;
    /// without, only inner consistency can be claimed.
    ///
    /// # Errors
    /// `Unreachable`; `Invalid` for what is not a checkpoint, `CheckFailed` for one that none of the keys signed. Damage is
    /// not an error but in the report.
    pub async fn verify(&self, ctx: &OpContext, options: &AuditVerifyOptions) -> Result<AuditVerification> {
        let work = async {
            let audit = self.dm.audit_log(ctx).await?;
            let mut kept = opened(audit, options).await?;
            // Read before anything new is signed and taken there.
            let unread = self.dm.read_anchors(ctx, audit, &mut kept).await?;
            let sealed = self.dm.seal_and_anchor(ctx, audit).await?;
            let mut verification = audit.verify_against(ctx, options.from, &kept).await?;
            verification.unsigned = sealed.unsigned;
            verification.unread = unread;
            self.dm.narrow(ctx, audit, &mut verification).await?;
            Ok(verification)
        };
        self.dm.operate(ctx, Operation::new(VERIFY, "*"), work).await
    }

    /// Seals what is committed and gives the newest signed head.
    ///
    /// # Errors
    /// `CheckFailed` when it cannot be signed, saying why; `NotFound` for an empty trail; `Unreachable`.
    pub async fn checkpoint(&self, ctx: &OpContext) -> Result<SignedCheckpoint> {
        let work = async { newest(self.dm.seal_and_anchor(ctx, self.dm.audit_log(ctx).await?).await?) };
        self.dm.operate(ctx, Operation::new(CHECKPOINT, "*"), work).await
    }

    /// Proves that an event, by its number or its id, is in the trail: by the newest signed head, or by one that was kept.
    /// The payload is part of the proof only when asked for.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Corrupt`, `CheckFailed`, `Unreachable`.
    pub async fn prove(
        &self,
        ctx: &OpContext,
        event: &str,
        by: Option<&str>,
        with_payload: bool,
    ) -> Result<EventProof> {
        let work = async {
            let name = leaf_name(event)?;
            let audit = self.dm.audit_log(ctx).await?;
            let report = self.dm.seal_and_anchor(ctx, audit).await?;
            let head = match by {
                Some(note) => {
                    opened_by_any(audit, note, None).await?;
                    SignedCheckpoint::of_note(note)?
                }
                None => newest(report)?,
            };
            audit.prove(ctx, &name, Some(&head), with_payload).await
        };
        self.dm.operate(ctx, Operation::new(PROVE, event), work).await
    }

    /// Proves that the newest signed head continues one that was kept.
    ///
    /// # Errors
    /// `CheckFailed` when it does not; `Invalid`, `Unreachable`.
    pub async fn prove_consistency(&self, ctx: &OpContext, old: &str) -> Result<ConsistencyProof> {
        let work = async {
            let audit = self.dm.audit_log(ctx).await?;
            let old = opened_by_any(audit, old, None).await?;
            newest(audit.seal(ctx).await?)?;
            audit.prove_consistency(ctx, &old).await
        };
        self.dm.operate(ctx, Operation::new(PROVE, "*"), work).await
    }

    /// The key that signs; made when there is none and the trail was never signed.
    ///
    /// # Errors
    /// `NotFound` when there is none, saying why; `Unreachable`.
    pub async fn key(&self, ctx: &OpContext) -> Result<AuditKey> {
        let work = async {
            let state = self.dm.state(ctx).await?;
            described(&state.audit, &key_file(&self.dm.config, &state.store))
        };
        self.dm.operate(ctx, Operation::new(KEY, "*"), work).await
    }

    /// Erases the payload (details and error) of a sealed event, by its number or its id. The event itself, the chain and every
    /// proof stay; the erasure is in the trail. Gives the event's id.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `AlreadyExists` when it was erased, `Conflict` when it is held; `Unreachable`.
    pub async fn erase(&self, ctx: &OpContext, event: &str) -> Result<String> {
        // One run for the erasure alone: the leaf names it.
        let ctx = &ctx.in_own_run();
        let work = async {
            let (audit, name) = (self.dm.audit_log(ctx).await?, leaf_name(event)?);
            if let Some((_, leaf)) = audit.store().find_leaf(&name).await?
                && self.dm.audit_holds()?.iter().any(|hold| hold.holds(&leaf))
            {
                return Err(Error::new(ErrorKind::Conflict, "the event's payload is held")
                    .with_hint("audit.holds of the configuration says so"));
            }
            let id = audit.erase(&name, ctx.run_id()).await?;
            Ok(id.to_string())
        };
        self.dm.operate(ctx, Operation::new(ERASE, event), work).await
    }

    /// Lets a new key sign from here on, whatever became of the old one: whose file is kept beside it when it is still
    /// there. What was signed before must be continued, and the change is in the trail.
    ///
    /// # Errors
    /// `CheckFailed` when the log does not continue what was signed; `Denied`, `Unreachable`.
    pub async fn replace_key(&self, ctx: &OpContext) -> Result<AuditKey> {
        let work = async {
            let state = self.dm.state(ctx).await?;
            let path = key_file(&self.dm.config, &state.store);
            // What waits is still the old key's to sign.
            state.audit.seal(ctx).await?;
            LogKey::set_aside(&path)?;
            let key = LogKey::create(&path, self.dm.config.audit.origin.as_deref())?;
            state.audit.change_key(key);
            let report = state.audit.seal_with_new_key(ctx).await?;
            if let Some(why) = report.unsigned {
                return Err(Error::new(ErrorKind::CheckFailed, why));
            }
            described(&state.audit, &path)
        };
        self.dm.operate(ctx, Operation::new(REPLACE_KEY, "*"), work).await
    }
}

/// How the trail is: for the page of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct AuditStatus {
    /// The name of the log, once it was signed.
    pub origin: Option<String>,
    /// Entries that its newest signed head covers.
    pub size: u64,
    /// Why the head is not signed; `None` when it is.
    pub unsigned: Option<String>,
    /// The places that it is taken to, with those that fail.
    pub anchors: Vec<AnchorStatus>,
}

/// How far one place has the signed heads.
#[derive(Clone, Debug, Serialize)]
pub struct AnchorStatus {
    /// Where.
    pub anchor: String,
    /// Entries that the newest head there covers.
    pub size: i64,
    /// When that was taken there.
    pub at: Option<DateTime<Utc>>,
    /// Why the last try failed; `None` when it did not.
    pub failure: Option<String>,
}

impl DataManager {
    /// Seals, signs, and takes the signed head to the anchors. What of that fails but the sealing is in the answer, and in the
    /// store's record of the anchors.
    pub(crate) async fn seal_and_anchor(&self, ctx: &OpContext, audit: &AuditLog) -> Result<SealReport> {
        let report = audit.seal(ctx).await?;
        let anchors = self.anchors()?;
        let timeout = self.config.audit.anchor_timeout;
        for state in audit.publish(ctx, &anchors, timeout).await? {
            if let Some(failure) = state.failure {
                tracing::warn!(anchor = %state.anchor, "the audit trail's checkpoint is not there: {failure}");
            }
        }
        Ok(report)
    }

    /// Waits until everything appended so far is sealed, signed and anchored, as far as that can be: critical actions do not
    /// begin and do not end in the window in which only their own hash speaks for them. A place that cannot be reached does
    /// not keep a restore from happening: it is said, and made up for.
    pub(crate) async fn settle(&self, ctx: &OpContext, audit: &AuditLog) {
        let unhindered = ctx.clone().with_cancellation(Default::default());
        let give_up = Instant::now() + SETTLE;
        loop {
            match self.seal_and_anchor(&unhindered, audit).await {
                Ok(report) if report.led => {
                    if let Some(why) = report.unsigned {
                        tracing::warn!("the audit trail is sealed, but its head is not signed: {why}");
                    }
                    return;
                }
                Ok(_) if Instant::now() < give_up => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(_) => return tracing::warn!("another program is still sealing the audit trail"),
                Err(error) => return tracing::warn!(%error, "a critical action is not sealed yet"),
            }
        }
    }

    /// How the trail is. Seals nothing.
    pub(crate) async fn audit_status(&self, ctx: &OpContext) -> Result<AuditStatus> {
        let audit = self.audit_log(ctx).await?;
        let states = audit.store().anchor_states().await?;
        let configured = self.anchors()?;
        let anchors = configured.iter().map(|anchor| {
            let state = states.iter().find(|s| s.anchor == anchor.name());
            AnchorStatus {
                anchor: anchor.name().to_owned(),
                size: state.map_or(0, |s| s.size),
                at: state.and_then(|s| s.at),
                failure: state.and_then(|s| s.failure.clone()),
            }
        });
        let anchors = anchors.collect();
        let head = audit.checkpoint().await?;
        Ok(AuditStatus {
            size: head.as_ref().map_or(0, |head| head.size),
            origin: head.map(|head| head.origin),
            unsigned: audit.key_problem(),
            anchors,
        })
    }
}

fn described(audit: &AuditLog, file: &Path) -> Result<AuditKey> {
    match audit.key_problem() {
        Some(why) => Err(Error::not_found(why)),
        None => match audit.verifier() {
            Some(key) => Ok(AuditKey { vkey: key.to_string(), origin: key.name().into(), file: file.into() }),
            None => Err(Error::not_found("the trail is kept in memory and not signed")),
        },
    }
}

fn newest(report: SealReport) -> Result<SignedCheckpoint> {
    match (report.checkpoint, report.unsigned) {
        (_, Some(why)) => {
            Err(Error::new(ErrorKind::CheckFailed, format!("the trail's head is not signed: {why}"))
                .with_hint(
                    "run \"dm audit verify\"; if the key is lost, make a new one: dm audit key --replace",
                ))
        }
        (Some(checkpoint), None) => Ok(checkpoint),
        (None, None) => Err(Error::not_found("the trail has no signed checkpoint yet")),
    }
}

async fn opened(audit: &AuditLog, options: &AuditVerifyOptions) -> Result<Vec<Kept>> {
    let mut kept = Vec::with_capacity(options.checkpoints.len());
    for (place, note) in &options.checkpoints {
        let checkpoint =
            opened_by_any(audit, note, options.key.as_ref()).await.map_err(|e| e.about(place.clone()))?;
        kept.push(Kept { place: place.clone(), checkpoint });
    }
    Ok(kept)
}

/// Opens a checkpoint by the key given, else by one of the trail's own.
async fn opened_by_any(audit: &AuditLog, note: &str, key: Option<&NoteVerifier>) -> Result<Checkpoint> {
    if let Some(key) = key {
        return Checkpoint::open(note, key);
    }
    let keys = signers(audit).await?;
    let said = Checkpoint::read_unchecked(note)?;
    keys.iter().find_map(|key| Checkpoint::open(note, key).ok()).ok_or_else(|| {
        Error::new(
            ErrorKind::CheckFailed,
            format!("the checkpoint of {} is signed by none of this trail's keys", said.origin),
        )
        .with_hint("give the public key that signed it: --key VKEY")
    })
}

/// Where the private key is: as configured, else beside the state's file, else beside the configuration.
pub(crate) fn key_file(config: &Config, store: &Store) -> PathBuf {
    let beside = |file: &Path| file.with_file_name("audit.key");
    match (&config.audit.key_file, store.file(), &config.file) {
        (Some(file), _, _) => file.clone(),
        (None, Some(state), _) => beside(state),
        (None, None, Some(file)) => beside(file),
        (None, None, None) => PathBuf::from("audit.key"),
    }
}

/// The trail in a store, with the key that signs it. A key is made only for a trail that was never signed: one that is
/// missing was lost, or is on another host.
pub(crate) async fn with_key(store: Store, config: &Config) -> Result<AuditLog> {
    let path = key_file(config, &store);
    let AuditConfig { key_file: configured, origin, .. } = &config.audit;
    let log = AuditLog::new(store);
    if log.store().is_in_memory() && configured.is_none() {
        return Ok(log);
    }
    let key = match LogKey::open(&path) {
        Ok(None) => match log.store().checkpoint_keys().await?.pop() {
            Some(other) => {
                let file = path.display();
                let why = format!("{file} is missing, the key that signs the trail ({other})");
                return Ok(log.without_key(why));
            }
            None => LogKey::create(&path, origin.as_deref()),
        },
        Ok(Some(key)) => Ok(key),
        Err(error) => Err(error),
    };
    Ok(match key {
        Ok(key) => log.signed_by(key),
        Err(error) => log.without_key(error.to_string()),
    })
}
