//! Deleting certain backups by hand. What other backups need, what is pinned, and the last verified full one are refused,
//! with the way out.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, BackupKind, Error, OpContext, PlanDigest, Result, TargetName};
use dm_repository::{BackupHeader, Listing};
use serde::{Deserialize, Serialize};

use crate::expire::{ExpireReport, headers};
use crate::keep::Soundness;
use crate::list::referrers;
use crate::record::{held, is_complete, of_target, pinned, soundness};
use crate::select::find;
use crate::{BackupService, Selector};

/// One backup that would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteEntry {
    /// The backup.
    pub id: BackupId,
    /// Its target.
    pub target: TargetName,
    /// Its kind.
    pub kind: BackupKind,
    /// The moment that it shows.
    pub at: DateTime<Utc>,
    /// Bytes that would be freed.
    pub stored_bytes: u64,
}

/// What a deletion would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletePlan {
    /// What would go, newest first.
    pub entries: Vec<DeleteEntry>,
    /// Why, for the record.
    pub reason: String,
    /// Bytes that would be freed.
    pub freed_bytes: u64,
    /// Digest of the entries.
    pub digest: PlanDigest,
}

impl BackupService {
    /// Says what deleting these backups would do.
    ///
    /// # Errors
    /// As [`select`](Self::select); `Invalid` for what must not go, naming every reason and its mend; `Corrupt` when not all
    /// backups can be read, so that nobody knows what they need.
    pub async fn plan_delete(
        &self,
        ctx: &OpContext,
        selectors: &[Selector],
        reason: &str,
    ) -> Result<DeletePlan> {
        let listing = ctx.run(self.repository.list(ctx, None)).await?;
        let mut going: Vec<BackupHeader> = Vec::new();
        for selector in selectors {
            let header = find(&listing, selector)?;
            if !going.iter().any(|h| h.id == header.id) {
                going.push(header);
            }
        }
        plan(&listing, &going, reason)
    }

    /// Does what a plan says; see [`apply_expire`](Self::apply_expire) for `wait`, errors and cancellation.
    ///
    /// # Errors
    /// As [`plan_delete`](Self::plan_delete) and [`apply_expire`](Self::apply_expire).
    pub async fn apply_delete(&self, ctx: &OpContext, plan: &DeletePlan, wait: bool) -> Result<ExpireReport> {
        let listing = ctx.run(self.repository.list(ctx, None)).await?;
        let going: Vec<BackupHeader> =
            plan.entries.iter().flat_map(|e| headers(&listing, &e.target, &[e.id])).collect();
        plan.digest.require(&self::plan(&listing, &going, &plan.reason)?.digest)?;
        let mut report = ExpireReport::default();
        if let Some(first) = plan.entries.first() {
            // The log stays: the next expiry judges what its windows are without these.
            report = self.remove(ctx, &going, (&first.target, &[]), &plan.reason, wait).await?;
        }
        let targets: BTreeSet<&TargetName> = plan.entries.iter().map(|e| &e.target).collect();
        let all: usize = targets.iter().map(|t| of_target(&listing, t).count()).sum();
        report.kept = all - report.deleted.len();
        Ok(report)
    }
}

fn plan(listing: &Listing, going: &[BackupHeader], reason: &str) -> Result<DeletePlan> {
    refuse(listing, going)?;
    let ids: BTreeSet<BackupId> = going.iter().map(|h| h.id).collect();
    // The listing has parents before children; whoever marks children first leaves nothing dangling when interrupted.
    let entries: Vec<DeleteEntry> = listing
        .backups
        .iter()
        .rev()
        .filter(|h| ids.contains(&h.id))
        .map(|h| DeleteEntry {
            id: h.id,
            target: h.target.clone(),
            kind: h.kind,
            at: h.consistency.at,
            stored_bytes: h.sizes.stored,
        })
        .collect();
    let freed_bytes = entries.iter().map(|e| e.stored_bytes).sum();
    Ok(DeletePlan {
        digest: PlanDigest::of(&(&entries, reason))?,
        entries,
        reason: reason.to_owned(),
        freed_bytes,
    })
}

/// Refuses, with every reason at once.
fn refuse(listing: &Listing, going: &[BackupHeader]) -> Result<()> {
    if !is_complete(listing) {
        let first = listing.problems.first().map_or("", |p| p.message.as_str());
        return Err(Error::corrupt(format!(
            "not all backups can be read, so nobody knows what they need: {first}"
        ))
        .with_hint("verify the repository and mend what it names; nothing is deleted until then"));
    }
    let ids: BTreeSet<BackupId> = going.iter().map(|h| h.id).collect();
    let referrers = referrers(listing);
    let (mut reasons, mut mends) = (Vec::new(), BTreeSet::new());
    for header in going {
        if pinned(listing, header.id) {
            reasons.push(format!("{} is pinned", header.id));
            mends.insert("unpin it first".to_owned());
        }
        if let Some(reason) = held(listing, header.id) {
            reasons.push(format!("{} is held ({reason})", header.id));
            mends.insert("release its holds first, with a reason: \"dm backup release\"".to_owned());
        }
        let staying: Vec<&BackupId> =
            referrers.get(&header.id).into_iter().flatten().filter(|id| !ids.contains(id)).collect();
        if let Some(first) = staying.first() {
            reasons.push(format!(
                "{} is needed by {} other backups, {first} for one",
                header.id,
                staying.len()
            ));
            mends.insert("delete those as well, or wait until they expire".to_owned());
        }
        if is_last_verified_full(listing, header, &ids) {
            reasons.push(format!("{} is the last verified full backup of {}", header.id, header.target));
            mends.insert("take another full backup and verify it first".to_owned());
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let mends: Vec<String> = mends.into_iter().collect();
    Err(Error::invalid(format!("nothing was deleted: {}", reasons.join("; "))).with_hint(mends.join("; ")))
}

/// Whether it is a verified full one, and the target has no other that stays.
fn is_last_verified_full(listing: &Listing, header: &BackupHeader, going: &BTreeSet<BackupId>) -> bool {
    let verified_full = |h: &BackupHeader| {
        h.judged_kind() == BackupKind::Full && soundness(listing, h.id) == Soundness::Verified
    };
    verified_full(header)
        && !of_target(listing, &header.target).any(|h| !going.contains(&h.id) && verified_full(h))
}
