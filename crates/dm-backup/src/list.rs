//! What is in the repository: rows, one backup in full, sizes, pins.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use dm_core::{
    BackupId, BackupKind, BackupMode, EngineKind, Finding, MemberSpec, OpContext, Result, TableFacts,
    TargetName,
};
use dm_repository::{BackupHeader, Hold, Listing, PinState, Verification, VerifyLevel};
use serde::{Deserialize, Serialize};

use crate::keep::Soundness;
use crate::record::{is_marked, pinned, soundness};
use crate::select::find;
use crate::{BackupService, Selector};

/// One line of the list of backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRow {
    /// The backup.
    pub id: BackupId,
    /// What was backed up.
    pub target: TargetName,
    /// The engine.
    pub engine: EngineKind,
    /// The database's name.
    pub database: String,
    /// Rows or files.
    pub mode: BackupMode,
    /// How much it may reuse.
    pub kind: BackupKind,
    /// The backup that it was compared with.
    pub parent: Option<BackupId>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was complete.
    pub finished_at: DateTime<Utc>,
    /// The moment that it shows.
    pub consistent_at: DateTime<Utc>,
    /// What a restore writes.
    pub bytes: u64,
    /// What it added to the repository.
    pub stored_bytes: u64,
    /// Tables with facts.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// When it was last verified, however that ended.
    pub verified_at: Option<DateTime<Utc>>,
    /// How deep that looked.
    pub verified_level: Option<VerifyLevel>,
    /// Since when every stored byte is known to be as it was written.
    #[serde(default)]
    pub proven_at: Option<DateTime<Utc>>,
    /// What the verifications proved.
    pub proof: Soundness,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Why, as it was said.
    pub pin_reason: Option<String>,
    /// The legal holds on it.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// The backup that it was rewritten from.
    #[serde(default)]
    pub rewrites: Option<BackupId>,
    /// Backups that need this one.
    pub referenced_by: Vec<BackupId>,
    /// Whether it is marked for deletion.
    pub deleting: bool,
    /// What the last verification found.
    pub problems: Vec<Finding>,
}

/// The list of backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupList {
    /// Oldest first.
    pub backups: Vec<BackupRow>,
    /// What could not be read; the list may lack what stands there.
    pub problems: Vec<Finding>,
    /// Backups without a commit: running ones, and what interrupted ones left.
    pub incomplete: Vec<BackupId>,
}

/// One backup in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupDetails {
    /// Its line in the list.
    pub row: BackupRow,
    /// What its commit says.
    pub header: BackupHeader,
    /// The latest word on its pin.
    pub pin: Option<PinState>,
    /// Its latest verification.
    pub verification: Option<Verification>,
    /// Its members with their sizes; absent where its map cannot be read here.
    pub members: Option<Vec<(MemberSpec, u64)>>,
    /// Tables with row counts and digests, as recorded.
    pub tables: Vec<TableFacts>,
    /// What the engine warned of.
    pub warnings: Vec<String>,
    /// Why the map could not be read.
    pub map_problem: Option<String>,
}

/// The size of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSize {
    /// The backup.
    pub id: BackupId,
    /// What a restore writes.
    pub bytes: u64,
    /// What it added to the repository.
    pub stored_bytes: u64,
    /// What deleting it alone would free: nothing, while another backup needs it.
    pub unique_bytes: u64,
    /// How many backups need it.
    pub referenced_by: usize,
}

/// The sizes of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSize {
    /// The target.
    pub target: TargetName,
    /// Oldest first.
    pub backups: Vec<BackupSize>,
    /// The sum of what restores would write.
    pub bytes: u64,
    /// What the target takes in the repository.
    pub stored_bytes: u64,
    /// The part of it that no deletion of a single backup frees, because another one needs it.
    pub pinned_by_reference_bytes: u64,
}

/// Sizes, target by target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeReport {
    /// By name.
    pub targets: Vec<TargetSize>,
    /// All together.
    pub stored_bytes: u64,
    /// What could not be read, and is therefore not counted.
    pub problems: Vec<Finding>,
}

impl BackupService {
    /// Lists the backups of a target, or all.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; what cannot be read of a single backup is a problem in the list.
    pub async fn list(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<BackupList> {
        let listing = ctx.run(self.repository.list(ctx, target)).await?;
        let backups = rows(&listing);
        Ok(BackupList {
            backups,
            problems: listing.problems,
            incomplete: listing.incomplete.into_iter().collect(),
        })
    }

    /// Shows one backup in full. Where its map cannot be read here (no key), the rest is shown nevertheless.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, as [`select`](Self::select); `Unreachable`.
    pub async fn show(&self, ctx: &OpContext, selector: &Selector) -> Result<BackupDetails> {
        let listing = ctx.run(self.repository.list(ctx, selector.target())).await?;
        let header = find(&listing, selector)?;
        let row = row(&listing, &header, &referrers(&listing));
        let mut details = BackupDetails {
            row,
            pin: listing.pins.get(&header.id).cloned(),
            verification: listing.verified.get(&header.id).cloned(),
            members: None,
            tables: Vec::new(),
            warnings: Vec::new(),
            map_problem: None,
            header,
        };
        match self.repository.read(ctx, &details.header).await {
            Ok(reader) => {
                match ctx.run(reader.members(ctx)).await {
                    Ok(members) => details.members = Some(members),
                    Err(error) => details.map_problem = Some(error.to_string()),
                }
                details.tables = reader.tables().to_vec();
                details.warnings = reader.warnings().to_vec();
                if let Err(error) = reader.close().await {
                    tracing::warn!(%error, "the reader's lease could not be ended; it runs out by itself");
                }
            }
            Err(error) => details.map_problem = Some(error.to_string()),
        }
        ctx.check()?;
        Ok(details)
    }

    /// Sizes of a target, or of all. In a target every byte is counted once, where it was first written.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn size(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<SizeReport> {
        let listing = ctx.run(self.repository.list(ctx, target)).await?;
        let referrers = referrers(&listing);
        let mut targets: BTreeMap<&TargetName, TargetSize> = BTreeMap::new();
        for header in &listing.backups {
            let referenced_by = referrers.get(&header.id).map_or(0, BTreeSet::len);
            let stored = header.sizes.stored;
            let of = targets.entry(&header.target).or_insert_with(|| TargetSize {
                target: header.target.clone(),
                backups: Vec::new(),
                bytes: 0,
                stored_bytes: 0,
                pinned_by_reference_bytes: 0,
            });
            of.bytes += header.sizes.logical;
            of.stored_bytes += stored;
            of.pinned_by_reference_bytes += if referenced_by > 0 { stored } else { 0 };
            of.backups.push(BackupSize {
                id: header.id,
                bytes: header.sizes.logical,
                stored_bytes: stored,
                unique_bytes: if referenced_by > 0 { 0 } else { stored },
                referenced_by,
            });
        }
        let targets: Vec<TargetSize> = targets.into_values().collect();
        let stored_bytes = targets.iter().map(|t| t.stored_bytes).sum();
        Ok(SizeReport { targets, stored_bytes, problems: listing.problems })
    }

    /// Pins a backup: no rule and no deletion touches it until it is unpinned. Idempotent.
    ///
    /// # Errors
    /// As [`select`](Self::select); `Invalid` without a reason; what writing fails with.
    pub async fn pin(&self, ctx: &OpContext, selector: &Selector, reason: &str) -> Result<BackupHeader> {
        self.set_pin(ctx, selector, true, reason).await
    }

    /// Takes a pin away. Idempotent.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub async fn unpin(&self, ctx: &OpContext, selector: &Selector, reason: &str) -> Result<BackupHeader> {
        self.set_pin(ctx, selector, false, reason).await
    }

    async fn set_pin(
        &self,
        ctx: &OpContext,
        selector: &Selector,
        pin: bool,
        reason: &str,
    ) -> Result<BackupHeader> {
        let listing = ctx.run(self.repository.list(ctx, selector.target())).await?;
        let header = find(&listing, selector)?;
        if pinned(&listing, header.id) != pin {
            self.repository.pin(ctx, &header, pin, reason).await?;
        }
        Ok(header)
    }
}

/// Which backups need which: to a backup those that reference it.
pub(crate) fn referrers(listing: &Listing) -> HashMap<BackupId, BTreeSet<BackupId>> {
    let mut referrers: HashMap<BackupId, BTreeSet<BackupId>> = HashMap::new();
    for header in listing.backups.iter().filter(|h| !is_marked(listing, h)) {
        for reference in &header.references {
            referrers.entry(*reference).or_default().insert(header.id);
        }
    }
    referrers
}

fn rows(listing: &Listing) -> Vec<BackupRow> {
    let referrers = referrers(listing);
    listing.backups.iter().map(|header| row(listing, header, &referrers)).collect()
}

fn row(
    listing: &Listing,
    header: &BackupHeader,
    referrers: &HashMap<BackupId, BTreeSet<BackupId>>,
) -> BackupRow {
    let verification = listing.verified.get(&header.id);
    let pin = listing.pins.get(&header.id).filter(|p| p.pinned);
    BackupRow {
        id: header.id,
        target: header.target.clone(),
        engine: header.engine,
        database: header.database.clone(),
        mode: header.mode,
        kind: header.kind,
        parent: header.parent,
        started_at: header.started_at,
        finished_at: header.finished_at,
        consistent_at: header.consistency.at,
        bytes: header.sizes.logical,
        stored_bytes: header.sizes.stored,
        tables: header.counts.tables,
        rows: header.counts.rows,
        verified_at: verification.map(|v| v.at),
        verified_level: verification.map(|v| v.level),
        proven_at: verification.and_then(Verification::proven_at),
        proof: soundness(listing, header.id),
        pinned: pin.is_some(),
        pin_reason: pin.map(|p| p.reason.clone()),
        holds: listing.holds.get(&header.id).cloned().unwrap_or_default(),
        rewrites: header.rewrites.map(|from| from.backup),
        referenced_by: referrers.get(&header.id).into_iter().flatten().copied().collect(),
        deleting: is_marked(listing, header),
        problems: verification.map(|v| v.findings.clone()).unwrap_or_default(),
    }
}
