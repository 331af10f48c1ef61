//! Backup, verification, restore and retention of backups.
//!
//! The policy that is the same for every engine: what an engine can do comes through the ports of `dm-core`, where bytes go
//! is the business of `dm-repository`. No code here asks which engine it is talking to.
//!
//! - [`BackupService::run`] makes a backup; nothing counts until it is committed.
//! - [`BackupService::plan_restore`] and [`BackupService::apply_restore`] bring one back, sealed until proven: with the
//!   application's own [`Hooks`] around it and its own [`Assertion`]s asked before anybody else may connect.
//! - [`BackupService::drill`] does the same for the proof alone, and removes what it made.
//! - [`keep`] decides which backups stay; [`BackupService::plan_expire`] shows it, [`BackupService::apply_expire`] does it.
//! - [`BackupService::ship_log`] brings the log between backups to the repository, [`BackupService::log_reader`] reads it.
//! - [`BackupService::list`], [`verify`](BackupService::verify), [`export`](BackupService::export) and the rest are what
//!   a person asks of a repository.
//!
//! Everything that deletes or overwrites is a plan first; a plan that no longer fits the world is refused.

pub mod keep;

mod assertions;
mod delete;
mod drill;
mod expire;
mod export;
mod hold;
mod hooks;
mod list;
mod log;
mod parent;
mod pool;
mod preflight;
mod record;
mod repair;
mod restore;
mod rewrite;
mod run;
mod run_hooks;
mod select;
mod verify;

use dm_repository::Repository;

pub use assertions::{ASSERTION_TIMEOUT, Assertion, AssertionResult, Comparator, Expect};
pub use delete::{DeleteEntry, DeletePlan};
pub use drill::{DrillFailure, DrillOptions, DrillReport};
pub use expire::{Decision, ExpireEntry, ExpirePlan, ExpireReport};
pub use export::{ExportFormat, ExportReport, ExportedFile};
pub use hold::HOLD_NAME;
pub use hooks::{HOOK_TIMEOUT, Hook, HookCommand, HookFailure, HookPhase, HookReport, Hooks, StartWhen};
pub use list::{BackupDetails, BackupList, BackupRow, BackupSize, SizeReport, TargetSize};
pub use log::{
    Fetched, LogDecision, LogExpiry, LogHole, LogKeepReason, LogRange, LogStatusReport, LogWindow,
    PushReport, ServerLog, ShipEnd, ShipOptions, ShipReport, StreamStatus, TargetLog,
};
pub use preflight::{DiskCheck, FreeSpace, refuse};
pub use repair::RepairedBackup;
pub use restore::{ApplyOptions, Loss, Recovery, RestorePlan, RestoreReport, Unproven};
pub use rewrite::{RewriteEntry, RewritePlan, RewriteReport, Rewritten};
pub use run::{RunOptions, RunReport, Stage, Step};
pub use run_hooks::{BackupHook, HookAction, Notice};
pub use select::{BackupPrefix, Selector};
pub use verify::{LeftOut, VerifiedBackup, VerifiedLog, VerifyReport, VerifyRequest, VerifyScope};

/// Everything that is done with the backups of one repository.
#[derive(Clone, Debug)]
pub struct BackupService {
    /// The repository.
    pub repository: Repository,
}

impl BackupService {
    /// The service over an open repository.
    #[must_use]
    pub fn new(repository: Repository) -> Self {
        Self { repository }
    }
}
