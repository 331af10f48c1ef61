//! One page: are we safe?

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dm_backup::{BackupRow, TargetLog};
use dm_core::{BackupMode, Engine, ErrorKind, Finding, OpContext, Period, Result, TargetName};
use dm_repository::Repository;
use dm_store::{ProofKind, RecoveryProof};
use serde::Serialize;

use crate::doctor::finding_of;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::{AuditStatus, DataManager, PlaceStatus};

const STATUS: OperationKind = OperationKind::Status;

/// Backups older than this are stale; twice the default schedule's day.
const STALE_AFTER: TimeDelta = TimeDelta::hours(48);

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A recent backup that was proven restorable.
    Proven,
    /// A recent backup that nobody has restored yet.
    Protected,
    /// There is a backup, and something about it is wrong: stale, damaged, unreadable.
    AtRisk,
    /// There is none.
    Unprotected,
}

/// One target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// Its name.
    pub target: TargetName,
    /// The answer.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<String>,
    /// How many backups there are.
    pub backups: usize,
    /// The newest complete backup.
    pub last_backup: Option<BackupRow>,
    /// The newest verification that found its backup sound.
    pub last_verified_at: Option<DateTime<Utc>>,
    /// The newest proof of any kind.
    pub last_proof: Option<RecoveryProof>,
    /// The newest drill, whether it held or not.
    pub last_drill: Option<RecoveryProof>,
    /// The newest restore or drill that held.
    pub last_good_proof: Option<RecoveryProof>,
    /// How old that is, in seconds.
    pub proof_age_s: Option<u64>,
    /// Whether it is older than the configuration allows.
    pub proof_is_stale: bool,
    /// The log between backups, where it is shipped: its newest position and time, gaps, how far behind the server it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<TargetLog>,
}

/// How far the change of recipients has come.
#[derive(Clone, Debug, Serialize)]
pub struct KeyStatus {
    /// The generation of recipients that counts.
    pub generation: u32,
    /// Encrypted backups.
    pub backups: u64,
    /// Those of them that not every recipient of this generation can read.
    pub backups_behind: u64,
    /// Keys of the log that not every recipient of this generation can open.
    pub log_keys_behind: u64,
}

/// The page.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The worst of the targets.
    pub verdict: Verdict,
    /// Target by target.
    pub targets: Vec<TargetStatus>,
    /// The audit trail: its signed head, and the places that have it.
    pub audit: AuditStatus,
    /// The copies of the repository, and how far each is behind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<PlaceStatus>,
    /// Who can read an encrypted repository whose recipients were changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyStatus>,
    /// What could not be read.
    pub problems: Vec<Finding>,
    /// When this was looked at.
    pub at: DateTime<Utc>,
}

impl DataManager {
    /// Looks at repository and state and says whether the data is safe.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Corrupt`; a repository that does not exist yet is no error but a verdict.
    pub async fn status(&self, ctx: &OpContext) -> Result<StatusReport> {
        self.operate(ctx, Operation::new(STATUS, "*"), self.look(ctx)).await
    }

    async fn look(&self, ctx: &OpContext) -> Result<StatusReport> {
        let (rows, mut problems, keys) = match self.backups(ctx).await {
            Ok(service) => {
                let list = service.list(ctx, None).await?;
                (list.backups, list.problems, key_status(ctx, &service.repository).await)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), Vec::new(), Ok(None)),
            Err(error) => return Err(error),
        };
        let keys = keys.unwrap_or_else(|error| {
            problems.push(finding_of("keys", &error));
            None
        });
        let mut names: Vec<TargetName> = rows.iter().map(|r| r.target.clone()).collect();
        for engine in self.engines() {
            // An engine is protected by its rows or by its server's files: only where there is neither, one is missed.
            let by_rows = TargetName::new(engine.id().as_str())?;
            let whole = self.target_of(engine.as_ref(), Some(BackupMode::Physical))?;
            if !names.contains(&by_rows) && !names.contains(&whole) {
                names.push(self.target_of(engine.as_ref(), None)?);
            }
        }
        let mut logs = self.logs_of(ctx, &names).await?;
        names.extend(logs.keys().cloned());
        names.sort();
        names.dedup();
        let mut targets = Vec::with_capacity(names.len());
        for target in names {
            let proofs = self.proofs(ctx, &target).await?;
            let of: Vec<&BackupRow> = rows.iter().filter(|r| r.target == target).collect();
            let log = logs.remove(&target);
            let mut status = judge(target, &of, proofs, self.config.recovery.drill_max_age, ctx.now());
            status.consider(log);
            targets.push(status);
        }
        let worst = targets.iter().map(|t| t.verdict).max().unwrap_or(Verdict::Unprotected);
        let verdict = if problems.is_empty() { worst } else { worst.max(Verdict::AtRisk) };
        let audit = self.audit_status(ctx).await?;
        let places = self.place_status(ctx).await;
        Ok(StatusReport { verdict, targets, audit, places, keys, problems, at: ctx.now() })
    }

    /// The logs that are shipped: of the targets named, and of the servers' own targets.
    async fn logs_of(
        &self,
        ctx: &OpContext,
        names: &[TargetName],
    ) -> Result<BTreeMap<TargetName, TargetLog>> {
        let mut places: BTreeMap<TargetName, &Arc<dyn Engine>> = BTreeMap::new();
        for engine in self.engines().filter(|e| e.log().is_some()) {
            places.insert(self.target_of(engine.as_ref(), Some(BackupMode::Physical))?, engine);
            let own = |name: &&TargetName| self.engine_of(name) == Some(engine.id());
            places.extend(names.iter().filter(own).map(|name| (name.clone(), engine)));
        }
        let mut logs = BTreeMap::new();
        for (target, engine) in places {
            match self.log_of(ctx, engine.as_ref(), &target).await {
                Ok(log) if log.streams.is_empty() => {}
                Ok(log) => {
                    logs.insert(target, log);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(logs)
    }

    async fn proofs(&self, ctx: &OpContext, target: &TargetName) -> Result<Proofs> {
        let store = &self.state(ctx).await?.store;
        let last = store.last_proof(target).await?;
        let drills = store.proofs(target, Some(ProofKind::Drill), LOOKED_BACK).await?;
        let restores = store.proofs(target, Some(ProofKind::Restore), LOOKED_BACK).await?;
        let newest = |a: Option<RecoveryProof>, b: Option<RecoveryProof>| match (a, b) {
            (Some(a), Some(b)) => Some(if b.at > a.at { b } else { a }),
            (a, b) => a.or(b),
        };
        let good = |proofs: &[RecoveryProof]| proofs.iter().find(|p| p.ok).cloned();
        Ok(Proofs {
            last,
            last_good: newest(good(&drills), good(&restores)),
            last_restored: newest(drills.first().cloned(), restores.first().cloned()),
            last_drill: drills.into_iter().next(),
        })
    }
}

/// Looks at every backup's key objects only where the recipients were ever changed.
async fn key_status(ctx: &OpContext, repository: &Repository) -> Result<Option<KeyStatus>> {
    if !repository.is_encrypted() || repository.recipients(ctx).await?.len() < 2 {
        return Ok(None);
    }
    let list = repository.key_list(ctx).await?;
    Ok(Some(KeyStatus {
        generation: list.generation,
        backups: list.backups,
        backups_behind: list.behind.len() as u64,
        log_keys_behind: list.log_keys_behind,
    }))
}

impl TargetStatus {
    /// A backup whose log has a hole, or is not shipped any more, cannot be brought to the present.
    fn consider(&mut self, log: Option<TargetLog>) {
        if let (Some(log), Some(base)) = (&log, &self.last_backup) {
            let reasons = log.reasons_since(base.consistent_at);
            if !reasons.is_empty() {
                self.verdict = self.verdict.max(Verdict::AtRisk);
                self.reasons.extend(reasons);
            }
        }
        self.log = log;
    }
}

/// So many proofs of a kind are looked through for one that held.
const LOOKED_BACK: u32 = 100;

/// What is known of a target's restores.
struct Proofs {
    last: Option<RecoveryProof>,
    last_drill: Option<RecoveryProof>,
    last_restored: Option<RecoveryProof>,
    last_good: Option<RecoveryProof>,
}

fn judge(
    target: TargetName,
    rows: &[&BackupRow],
    proofs: Proofs,
    max_age: Period,
    now: DateTime<Utc>,
) -> TargetStatus {
    use dm_backup::keep::Soundness;
    let age = proofs.last_good.as_ref().map(|p| now - p.at);
    // A period that reaches back before all time makes nothing stale.
    let oldest = max_age.before(now);
    let stale = proofs.last_good.as_ref().is_some_and(|p| oldest.is_some_and(|oldest| p.at < oldest));
    let last = rows.iter().max_by_key(|r| r.consistent_at).copied();
    let mut reasons = Vec::new();
    let verdict = match last {
        None => {
            reasons.push("there is no backup: run \"dm backup run\"".to_owned());
            Verdict::Unprotected
        }
        Some(last) => {
            if now - last.consistent_at > STALE_AFTER {
                reasons
                    .push(format!("the last backup is {} hours old", (now - last.consistent_at).num_hours()));
            }
            if last.proof == Soundness::Damaged {
                reasons.push("the last backup was found damaged: take a full one now".to_owned());
            }
            match &proofs.last_restored {
                Some(p) if !p.ok && p.kind == ProofKind::Drill => {
                    reasons.push(format!("the last drill failed: {}", failure_of(p)));
                }
                Some(p) if !p.ok => reasons.push("the last restore was not equal to its backup".to_owned()),
                _ => {}
            }
            if !reasons.is_empty() {
                Verdict::AtRisk
            } else if let (Some(age), true) = (age, stale) {
                reasons.push(format!(
                    "the last proof of a restore is {} days old: run \"dm backup drill\"",
                    age.num_days()
                ));
                Verdict::Protected
            } else if proofs.last_good.is_some() {
                Verdict::Proven
            } else {
                reasons
                    .push("no backup has been restored and compared yet: run \"dm backup drill\"".to_owned());
                Verdict::Protected
            }
        }
    };
    TargetStatus {
        target,
        verdict,
        reasons,
        backups: rows.len(),
        last_backup: last.cloned(),
        last_verified_at: rows
            .iter()
            .filter(|r| r.proof == Soundness::Verified)
            .filter_map(|r| r.verified_at)
            .max(),
        last_proof: proofs.last,
        last_drill: proofs.last_drill,
        proof_age_s: age.map(|age| u64::try_from(age.num_seconds()).unwrap_or(0)),
        proof_is_stale: stale,
        log: None,
        last_good_proof: proofs.last_good,
    }
}

/// What a failed drill recorded, in a few words.
fn failure_of(proof: &RecoveryProof) -> String {
    let text = |pointer: &str| proof.results.pointer(pointer).and_then(|v| v.as_str());
    text("/failure/message").or_else(|| text("/complaint")).unwrap_or("it says not why").to_owned()
}
