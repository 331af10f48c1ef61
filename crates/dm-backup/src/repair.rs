//! Mending backups from a copy of the repository.

use dm_core::{BackupId, OpContext, Result, TargetName};
use dm_repository::{RepairReport, Repository};
use serde::Serialize;

use crate::{BackupService, VerifyScope};

/// A backup that was mended, or found whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairedBackup {
    /// The backup.
    pub id: BackupId,
    /// Its target.
    pub target: TargetName,
    /// What was done.
    #[serde(flatten)]
    pub report: RepairReport,
}

impl BackupService {
    /// Reads every object that backups need, and replaces what is missing or damaged by what a copy of the repository has.
    /// What cannot be mended is in the reports.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the selector); `Conflict` when it is no copy of this repository; `Denied` when this place may
    /// only be read or appended to; either store's.
    pub async fn repair(
        &self,
        ctx: &OpContext,
        scope: &VerifyScope,
        copy: &Repository,
    ) -> Result<Vec<RepairedBackup>> {
        let listing = ctx.run(self.repository.list(ctx, scope.target())).await?;
        let mut mended = Vec::new();
        for header in scope.choose(&listing)? {
            let report = self.repository.repair_from(ctx, copy, &header).await?;
            mended.push(RepairedBackup { id: header.id, target: header.target, report });
        }
        Ok(mended)
    }
}
