//! One page: are we safe?

use chrono::{DateTime, TimeDelta, Utc};
use dm_backup::BackupRow;
use dm_core::{Action, ErrorKind, Finding, OpContext, Result, TargetName};
use dm_store::RecoveryProof;
use serde::Serialize;

use crate::DataManager;
use crate::pipeline::Operation;

const STATUS: Action = Action::read("system", "status");

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
    /// The newest proof of restore.
    pub last_proof: Option<RecoveryProof>,
}

/// The page.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The worst of the targets.
    pub verdict: Verdict,
    /// Target by target.
    pub targets: Vec<TargetStatus>,
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
        let (rows, problems) = match self.backups(ctx).await {
            Ok(service) => {
                let list = service.list(ctx, None).await?;
                (list.backups, list.problems)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names: Vec<TargetName> = rows.iter().map(|r| r.target.clone()).collect();
        for engine in self.engines() {
            names.push(TargetName::new(engine.id().as_str())?);
        }
        names.sort();
        names.dedup();
        let mut targets = Vec::with_capacity(names.len());
        for target in names {
            let last_proof = self.state(ctx).await?.store.last_proof(&target).await?;
            let of: Vec<&BackupRow> = rows.iter().filter(|r| r.target == target).collect();
            targets.push(judge(target, &of, last_proof, ctx.now()));
        }
        let worst = targets.iter().map(|t| t.verdict).max().unwrap_or(Verdict::Unprotected);
        let verdict = if problems.is_empty() { worst } else { worst.max(Verdict::AtRisk) };
        Ok(StatusReport { verdict, targets, problems, at: ctx.now() })
    }
}

fn judge(
    target: TargetName,
    rows: &[&BackupRow],
    last_proof: Option<RecoveryProof>,
    now: DateTime<Utc>,
) -> TargetStatus {
    use dm_backup::keep::Soundness;
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
            if last_proof.as_ref().is_some_and(|p| !p.ok) {
                reasons.push("the last restore was not equal to its backup".to_owned());
            }
            if !reasons.is_empty() {
                Verdict::AtRisk
            } else if last_proof.is_some() {
                Verdict::Proven
            } else {
                reasons.push(
                    "no backup has been restored and compared yet: run \"dm restore latest\"".to_owned(),
                );
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
        last_proof,
    }
}
