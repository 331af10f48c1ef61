//! Making backups need no others: each is written anew with the same content, so that what only they kept alive can go.
//!
//! The first one of a target becomes a full backup, the next ones incremental to the one before: what they share is stored once. The
//! backups that they stand for are marked when nothing needs them any more; what those referenced goes with the next expiry.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use dm_core::{
    BackupId, BackupKind, Effect, Error, ErrorKind, OpContext, PlanDigest, Progress, Result, TargetName,
};
use dm_repository::{BackupHeader, LeftBackup, Listing, SweepOptions, SweepReport, VerifyLevel};
use serde::{Deserialize, Serialize};

use crate::expire::Decision;
use crate::keep::{KeepReason, KeepRules};
use crate::record::{held, is_complete, of_target};
use crate::select::find;
use crate::{BackupService, Selector};

/// A backup that would be written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteEntry {
    /// The backup.
    pub id: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The moment that it shows.
    pub at: DateTime<Utc>,
    /// The backups that it needs now.
    pub references: Vec<BackupId>,
    /// What a restore of it writes: at most so much is read.
    pub bytes: u64,
    /// The backup that stands for it already, from an earlier run.
    pub done: Option<BackupId>,
}

/// What rewriting would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RewritePlan {
    /// The target.
    pub target: TargetName,
    /// Oldest first.
    pub entries: Vec<RewriteEntry>,
    /// Whether the old ones stay.
    pub keep: bool,
    /// Old backups that nothing needs afterwards: those that are rewritten, and those that only they kept alive.
    pub freed: Vec<BackupId>,
    /// Their stored bytes; what the new ones take is known when they are written.
    pub freed_bytes: u64,
    /// Backups that cannot be rewritten, and why.
    pub left: Vec<LeftBackup>,
    /// Digest of the entries.
    pub digest: PlanDigest,
}

/// What a rewriting did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RewriteReport {
    /// Old backups and those that stand for them.
    pub rewritten: Vec<Rewritten>,
    /// Old backups that were marked for deletion.
    pub deleted: Vec<BackupId>,
    /// Old backups that stay, and why.
    pub left: Vec<LeftBackup>,
    /// What the sweep removed, and what has to wait.
    pub sweep: SweepReport,
}

/// A backup and the one that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// The old one.
    pub old: BackupId,
    /// The new one.
    pub new: BackupId,
    /// What the new one takes.
    pub stored_bytes: u64,
    /// Whether an earlier run had made it.
    pub was_there: bool,
}

impl BackupService {
    /// Says what rewriting these backups would free; without any, those that the keep-rules keep and that keep others alive which
    /// no rule wants.
    ///
    /// # Errors
    /// As [`select`](Self::select); `Corrupt` when not all backups can be read.
    #[allow(clippy::too_many_arguments, reason = "the rules and their clock are one question")]
    pub async fn plan_rewrite(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        selectors: &[Selector],
        rules: &KeepRules,
        now: DateTime<Utc>,
        zone: Tz,
        keep: bool,
    ) -> Result<RewritePlan> {
        let listing = ctx.run(self.repository.list(ctx, Some(target))).await?;
        if !is_complete(&listing) {
            let first = listing.problems.first().map_or("", |p| p.message.as_str());
            return Err(Error::corrupt(format!(
                "not all backups can be read, so nobody knows what they need: {first}"
            ))
            .with_hint("verify the repository and mend what it names; nothing is rewritten until then"));
        }
        let chosen: BTreeSet<BackupId> = if selectors.is_empty() {
            self.pinning(ctx, target, rules, now, zone).await?
        } else {
            let found = selectors.iter().map(|selector| find(&listing, selector).map(|h| h.id));
            found.collect::<Result<_>>()?
        };
        plan(&listing, target, &chosen, keep)
    }

    /// Kept backups that reference what nothing but references keeps.
    async fn pinning(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        rules: &KeepRules,
        now: DateTime<Utc>,
        zone: Tz,
    ) -> Result<BTreeSet<BackupId>> {
        let expiry = self.plan_expire(ctx, target, rules, now, zone).await?;
        let only_referenced = |decision: &Decision| match decision {
            Decision::Keep { because } => {
                because.iter().all(|r| matches!(r, KeepReason::ReferencedBy { .. }))
            }
            Decision::Delete => true,
        };
        let unwanted: BTreeSet<BackupId> =
            expiry.entries.iter().filter(|e| only_referenced(&e.decision)).map(|e| e.id).collect();
        let listing = ctx.run(self.repository.list(ctx, Some(target))).await?;
        let chosen = of_target(&listing, target)
            .filter(|h| !unwanted.contains(&h.id) && h.references.iter().any(|r| unwanted.contains(r)))
            .map(|h| h.id)
            .collect();
        Ok(chosen)
    }

    /// Does what a plan says: writes each backup anew, verifies what was written, moves pins, and marks what nothing needs any more.
    ///
    /// # Errors
    /// `Conflict` when the plan went stale; `Denied` without a private key in an encrypted repository; what the repository fails
    /// with, effect `Partial` when something was written before.
    ///
    /// # Cancellation
    /// Safe: run again, it goes on. A backup that was written anew is not written twice.
    pub async fn apply_rewrite(&self, ctx: &OpContext, plan: &RewritePlan) -> Result<RewriteReport> {
        let listing = ctx.run(self.repository.list(ctx, Some(&plan.target))).await?;
        let chosen = plan.entries.iter().map(|e| e.id).chain(plan.left.iter().map(|l| l.id)).collect();
        plan.digest.require(&self::plan(&listing, &plan.target, &chosen, plan.keep)?.digest)?;
        let mut report = RewriteReport { left: plan.left.clone(), ..RewriteReport::default() };
        match Box::pin(self.rewrite_all(ctx, plan, &listing, &mut report)).await {
            Ok(()) => Ok(report),
            Err(error) if report.rewritten.is_empty() => Err(error),
            Err(error) => {
                let hint = "run it again: what was written anew is not written twice";
                let hint = error.hint().map_or_else(|| hint.to_owned(), |first| format!("{first}; {hint}"));
                Err(error.with_effect(Effect::Partial).with_hint(hint))
            }
        }
    }

    async fn rewrite_all(
        &self,
        ctx: &OpContext,
        plan: &RewritePlan,
        listing: &Listing,
        report: &mut RewriteReport,
    ) -> Result<()> {
        let header = |id: BackupId| listing.backups.iter().find(|h| h.id == id);
        let mut onto: Option<BackupHeader> = None;
        for entry in &plan.entries {
            let Some(old) = header(entry.id) else { continue };
            let there = entry.done.and_then(header).cloned();
            let was_there = there.is_some();
            let new = match there {
                Some(new) => new,
                None => self.rewrite_one(ctx, old, onto.as_ref()).await?,
            };
            report.rewritten.push(Rewritten {
                old: old.id,
                new: new.id,
                stored_bytes: new.sizes.stored,
                was_there,
            });
            ctx.progress(Progress::Item(new.id.to_string()));
            let sound = self.repository.verify(ctx, &new, VerifyLevel::Stored).await?;
            if !sound.ok {
                let first = sound.findings.first().map_or("", |f| f.message.as_str());
                return Err(Error::corrupt(format!("what was written anew is damaged: {first}"))
                    .about(new.id.to_string())
                    .with_hint(
                        "delete it, look after the storage, and run it again; the old one is untouched",
                    ));
            }
            if let Some(pin) = listing.pins.get(&old.id).filter(|pin| pin.pinned) {
                self.repository.pin(ctx, &new, true, &pin.reason).await?;
            }
            onto = Some(new);
        }
        if plan.keep {
            return Ok(());
        }
        ctx.progress(Progress::Phase { name: "marking", total_bytes: None });
        for Rewritten { old, new, .. } in report.rewritten.clone().iter().rev() {
            let Some(old) = header(*old) else { continue };
            ctx.check()?;
            let reason = format!("rewritten as {new}");
            let was_pinned = listing.pins.get(&old.id).is_some_and(|pin| pin.pinned);
            if was_pinned {
                self.repository.pin(ctx, old, false, &reason).await?;
            }
            match self.repository.tombstone(ctx, old, &reason).await {
                Ok(()) => report.deleted.push(old.id),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    report.left.push(left(old, &error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        ctx.progress(Progress::Phase { name: "sweeping", total_bytes: None });
        report.sweep = self.repository.sweep(ctx, SweepOptions::default()).await?;
        Ok(())
    }

    /// Incremental to the one before where their digests are of one key, which they are unless a full backup lies between.
    async fn rewrite_one(
        &self,
        ctx: &OpContext,
        old: &BackupHeader,
        onto: Option<&BackupHeader>,
    ) -> Result<BackupHeader> {
        match Box::pin(self.repository.rewrite(ctx, old, onto)).await {
            Err(error) if onto.is_some() && error.kind() == ErrorKind::Invalid => {
                Box::pin(self.repository.rewrite(ctx, old, None)).await
            }
            rewritten => rewritten,
        }
    }
}

fn left(header: &BackupHeader, reason: &str) -> LeftBackup {
    LeftBackup { target: header.target.clone(), id: header.id, reason: reason.to_owned() }
}

fn plan(
    listing: &Listing,
    target: &TargetName,
    chosen: &BTreeSet<BackupId>,
    keep: bool,
) -> Result<RewritePlan> {
    let stands_for: BTreeMap<BackupId, BackupId> =
        of_target(listing, target).filter_map(|h| Some((h.rewrites?.backup, h.id))).collect();
    let (mut entries, mut stay) = (Vec::new(), Vec::new());
    for header in of_target(listing, target).filter(|h| chosen.contains(&h.id)) {
        if header.references.is_empty() && !stands_for.contains_key(&header.id) {
            stay.push(left(header, "it needs no other backup: there is nothing to free"));
        } else if let Some(reason) = held(listing, header.id) {
            stay.push(left(header, &format!("it is held ({reason}): release the hold first, with a reason")));
        } else {
            entries.push(RewriteEntry {
                id: header.id,
                kind: header.kind,
                at: header.consistency.at,
                references: header.references.clone(),
                bytes: header.sizes.logical,
                done: stands_for.get(&header.id).copied(),
            });
        }
    }
    let going: BTreeSet<BackupId> = entries.iter().map(|e| e.id).collect();
    let (mut freed, mut freed_bytes) = (Vec::new(), 0);
    if !keep {
        let needed: BTreeSet<BackupId> = of_target(listing, target)
            .filter(|h| !going.contains(&h.id))
            .flat_map(|h| h.references.iter().copied())
            .collect();
        let touched: BTreeSet<BackupId> =
            entries.iter().flat_map(|e| e.references.iter().copied()).chain(going.iter().copied()).collect();
        for header in of_target(listing, target) {
            let pinned = listing.pins.get(&header.id).is_some_and(|pin| pin.pinned);
            let stays = needed.contains(&header.id) || (!going.contains(&header.id) && pinned);
            if touched.contains(&header.id) && !stays {
                freed.push(header.id);
                freed_bytes += header.sizes.stored;
            }
        }
    }
    Ok(RewritePlan {
        target: target.clone(),
        digest: PlanDigest::of(&(target, &entries, keep))?,
        entries,
        keep,
        freed,
        freed_bytes,
        left: stay,
    })
}
