//! Applying the keep-rules to a repository: the plan says of every backup and every part of a log what becomes of it and why,
//! the apply marks what goes and sweeps.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use dm_core::{BackupId, BackupKind, Effect, Finding, OpContext, PlanDigest, Progress, Result, TargetName};
use dm_repository::{BackupHeader, Listing, LogListing, SweepOptions, SweepReport};
use serde::{Deserialize, Serialize};

use crate::BackupService;
use crate::keep::{KeepReason, KeepRules, Soundness, decide};
use crate::log::{LogExpiry, expiry};
use crate::record::{candidates, is_complete, of_target, soundness};

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
pub enum Decision {
    /// It stays.
    Keep {
        /// Why, every reason.
        because: Vec<KeepReason>,
    },
    /// No rule keeps it.
    Delete,
}

/// One backup in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireEntry {
    /// The backup.
    pub id: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The moment that it shows.
    pub at: DateTime<Utc>,
    /// What it added to the repository.
    pub stored_bytes: u64,
    /// Bytes that stay only because a kept backup needs this one.
    pub pinned_bytes: u64,
    /// What becomes of it.
    #[serde(flatten)]
    pub decision: Decision,
}

impl ExpireEntry {
    /// The decision in words: `kept because: daily 2026-03-01, newest`, or `to be deleted`.
    #[must_use]
    pub fn explain(&self) -> String {
        match &self.decision {
            Decision::Delete => "to be deleted: no rule keeps it".to_owned(),
            Decision::Keep { because } => {
                let reasons: Vec<String> = because.iter().map(ToString::to_string).collect();
                format!("kept because: {}", reasons.join(", "))
            }
        }
    }
}

/// What expiry would do to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpirePlan {
    /// The target.
    pub target: TargetName,
    /// The rules.
    pub rules: KeepRules,
    /// The zone of days, weeks, months and years.
    pub zone: Tz,
    /// Every complete backup of the target, newest first.
    pub entries: Vec<ExpireEntry>,
    /// The logs of the target, one for each server.
    #[serde(default)]
    pub logs: Vec<LogExpiry>,
    /// Bytes of backups that would be freed.
    pub freed_bytes: u64,
    /// Bytes that stay only because a kept backup needs them.
    pub pinned_bytes: u64,
    /// What could not be read. While there is such a thing, everything stays.
    pub problems: Vec<Finding>,
    /// Digest of rules and decisions.
    pub digest: PlanDigest,
}

impl ExpirePlan {
    /// The backups that would go, newest first: none is referenced by one behind it.
    pub fn deletions(&self) -> impl Iterator<Item = BackupId> {
        self.entries.iter().filter(|e| e.decision == Decision::Delete).map(|e| e.id)
    }

    /// Bytes of log that would be freed.
    #[must_use]
    pub fn freed_log_bytes(&self) -> u64 {
        self.logs.iter().map(|log| log.freed_bytes).sum()
    }

    /// Pieces of log that would go.
    #[must_use]
    pub fn deleted_pieces(&self) -> u64 {
        self.logs.iter().map(LogExpiry::deleted_pieces).sum()
    }

    /// Whether applying it would change anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deletions().next().is_none() && self.logs.iter().all(|log| log.floors.is_empty())
    }
}

/// What an expiry (or a deletion) did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExpireReport {
    /// Backups that were marked.
    pub deleted: Vec<BackupId>,
    /// Backups that stay.
    pub kept: usize,
    /// Pieces of log that are listed no more.
    pub expired_pieces: u64,
    /// What the sweep removed, and what has to wait.
    pub sweep: SweepReport,
}

impl BackupService {
    /// Decides on every backup of a target, and on its logs. Reads only: this is the dry run. Needs no key.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; `Internal` when the plan cannot be serialised.
    pub async fn plan_expire(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        rules: &KeepRules,
        now: DateTime<Utc>,
        zone: Tz,
    ) -> Result<ExpirePlan> {
        let listing = ctx.run(self.repository.list(ctx, Some(target))).await?;
        // The log after the backups: a backup that is committed meanwhile stands behind all log that is judged.
        let mut logs = Vec::new();
        for stream in self.repository.log_streams(ctx, target).await? {
            let log = self.repository.list_log(ctx, target, &stream).await?;
            logs.push((stream, log));
        }
        plan(listing, logs, target, rules, now, zone)
    }

    /// Does what a plan says: marks what goes, backups newest first and then the beginnings of logs, and sweeps. With `wait` it stays until everything marked
    /// may be removed (about two lease times); otherwise a later sweep removes it.
    ///
    /// Idempotent: after an interruption a new plan holds what is left.
    ///
    /// # Errors
    /// `Conflict`: the plan went stale, nothing was changed. Otherwise what the repository fails with, effect `Partial` when
    /// something was marked before.
    ///
    /// # Cancellation
    /// Between two backups. What was marked stays marked and is swept later.
    pub async fn apply_expire(&self, ctx: &OpContext, plan: &ExpirePlan, wait: bool) -> Result<ExpireReport> {
        let now = self.plan_expire(ctx, &plan.target, &plan.rules, ctx.now(), plan.zone).await?;
        plan.digest.require(&now.digest)?;
        let going: Vec<BackupId> = now.deletions().collect();
        let kept = now.entries.len() - going.len();
        let listing = ctx.run(self.repository.list(ctx, Some(&plan.target))).await?;
        let headers = headers(&listing, &plan.target, &going);
        let reason = "expired: no keep-rule keeps it";
        let mut report = self.remove(ctx, &headers, (&plan.target, &now.logs), reason, wait).await?;
        report.kept = kept;
        Ok(report)
    }

    /// Marks backups in this order, then the logs of a target, and sweeps.
    pub(crate) async fn remove(
        &self,
        ctx: &OpContext,
        backups: &[BackupHeader],
        (target, logs): (&TargetName, &[LogExpiry]),
        reason: &str,
        wait: bool,
    ) -> Result<ExpireReport> {
        let mut report = ExpireReport::default();
        ctx.progress(Progress::Phase { name: "marking", total_bytes: None });
        for header in backups {
            let marked = match ctx.check() {
                Ok(()) => self.repository.tombstone(ctx, header, reason).await,
                Err(stopped) => Err(stopped),
            };
            if let Err(error) = marked {
                return Err(if report.deleted.is_empty() { error } else { partly(error, &report) });
            }
            tracing::info!(backup = %header.id, target = %header.target, reason, "backup marked for deletion");
            ctx.progress(Progress::Item(header.id.to_string()));
            report.deleted.push(header.id);
        }
        for log in logs {
            let marked = self.repository.expire_log(ctx, target, &log.stream, &log.floors).await;
            if let Err(error) = marked {
                return Err(if report.deleted.is_empty() { error } else { partly(error, &report) });
            }
            report.expired_pieces += log.deleted_pieces();
        }
        ctx.progress(Progress::Phase { name: "sweeping", total_bytes: None });
        match self.repository.sweep(ctx, SweepOptions { dry_run: false, wait }).await {
            Ok(swept) => report.sweep = swept,
            Err(error) if report.deleted.is_empty() => return Err(error),
            Err(error) => return Err(partly(error, &report)),
        }
        Ok(report)
    }
}

fn partly(error: dm_core::Error, report: &ExpireReport) -> dm_core::Error {
    let hint = format!(
        "{} backups are marked for deletion and will be swept; plan again for the rest",
        report.deleted.len()
    );
    let hint = error.hint().map_or_else(|| hint.clone(), |first| format!("{first}; {hint}"));
    error.with_effect(Effect::Partial).with_hint(hint)
}

/// The headers of these backups, in their order.
pub(crate) fn headers(listing: &Listing, target: &TargetName, ids: &[BackupId]) -> Vec<BackupHeader> {
    ids.iter().filter_map(|id| of_target(listing, target).find(|h| h.id == *id).cloned()).collect()
}

fn plan(
    listing: Listing,
    logs: Vec<(String, LogListing)>,
    target: &TargetName,
    rules: &KeepRules,
    now: DateTime<Utc>,
    zone: Tz,
) -> Result<ExpirePlan> {
    let candidates = candidates(&listing, target);
    let verdicts = decide(&candidates, rules, now, zone, is_complete(&listing));
    let entries: Vec<ExpireEntry> = verdicts
        .into_iter()
        .filter_map(|verdict| {
            let candidate = candidates.iter().find(|c| c.id == verdict.id)?;
            Some(ExpireEntry {
                id: verdict.id,
                kind: candidate.kind,
                at: candidate.at,
                stored_bytes: candidate.stored_bytes,
                pinned_bytes: verdict.pinned_bytes,
                decision: if verdict.is_kept() {
                    Decision::Keep { because: verdict.kept_because }
                } else {
                    Decision::Delete
                },
            })
        })
        .collect();
    let stays = |id: BackupId| entries.iter().any(|e| e.id == id && e.decision != Decision::Delete);
    let kept: Vec<expiry::Opener> = of_target(&listing, target)
        .filter(|header| stays(header.id))
        .filter_map(|h| expiry::Opener::of(h, soundness(&listing, h.id) != Soundness::Damaged))
        .collect();
    let ground = expiry::Ground {
        kept: &kept,
        within: rules.log_within,
        now,
        zone,
        complete: is_complete(&listing),
        under_way: !listing.incomplete.is_empty(),
    };
    let logs: Vec<LogExpiry> =
        logs.into_iter().map(|(stream, log)| expiry::decide(&stream, log, &ground)).collect();
    // What is shipped meanwhile changes no plan: the log counts by what would be taken from it.
    let floors: Vec<_> = logs.iter().map(|log| (&log.stream, &log.floors)).collect();
    let freed_bytes = entries.iter().filter(|e| e.decision == Decision::Delete).map(|e| e.stored_bytes).sum();
    let digest = PlanDigest::of(&(target, rules, zone, &entries, floors))?;
    Ok(ExpirePlan {
        target: target.clone(),
        rules: rules.clone(),
        zone,
        pinned_bytes: entries.iter().map(|e| e.pinned_bytes).sum(),
        entries,
        logs,
        freed_bytes,
        problems: listing.problems,
        digest,
    })
}
