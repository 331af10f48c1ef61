//! Drills: restores for the proof alone, each recorded in `recovery_tests`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dm_backup::{Assertion, DiskCheck, DrillReport};
use dm_core::{
    BackupMode, CheckDepth, Engine, EngineId, OpContext, RecoveryPoint, Result, TableFacts, TargetName,
};
use dm_store::{ProofKind, RecoveryProof};

use crate::Backups;
use crate::backups::free_bytes;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::restores::{selector, with_timeline};

const DRILL: OperationKind = OperationKind::BackupDrill;

/// What to drill. The default: the latest backup of the only engine, checked as deeply as its engine can.
#[derive(Clone, Debug, Default)]
pub struct DrillOptions {
    /// The engine whose backup it is, and on which it is drilled; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target, when it is not called like the engine.
    pub target: Option<TargetName>,
    /// A backup id, the beginning of one, or `latest`; empty means `latest`.
    pub which: String,
    /// `latest` means the latest that was verified.
    pub verified_only: bool,
    /// `latest` means the latest of rows, or of files.
    pub mode: Option<BackupMode>,
    /// How far the log is replayed; [`RecoveryPoint::End`] proves the log as well.
    pub until: RecoveryPoint,
    /// Whether the point itself is left out.
    pub exclusive: bool,
    /// Along which history, where a database has several.
    pub timeline: Option<String>,
    /// Only these tables, all when empty.
    pub tables: Vec<String>,
    /// Connections or threads at once; the configuration's number when `None`.
    pub jobs: Option<usize>,
    /// How much is checked; deeply when `None`.
    pub checks: Option<CheckDepth>,
    /// Questions of the application's own; those of the configuration come on top where the drill is of everything.
    pub assertions: Vec<Assertion>,
    /// The folder for a throwaway place of files, and for temporary ones; the system's when `None`.
    pub scratch_dir: Option<PathBuf>,
    /// What only the engine understands.
    pub settings: BTreeMap<String, String>,
}

impl Backups<'_> {
    /// Restores a backup into a throwaway place, proves it, removes the place, and records the result. `Ok` means that there
    /// is a result, good or bad: [`DrillReport::check`] makes an error of a bad one.
    ///
    /// # Errors
    /// `NotFound` (no repository, no such backup), `Invalid`, `Unsupported`, `Interrupted`; see
    /// [`dm_backup::BackupService::drill`].
    ///
    /// # Cancellation
    /// Cancel through the context: the place is removed, and nothing is recorded.
    pub async fn drill(&self, ctx: &OpContext, options: &DrillOptions) -> Result<DrillReport> {
        let (target, engine) = (options.target.as_ref(), options.engine.as_ref());
        let of = if options.until != RecoveryPoint::Backup && options.tables.is_empty() {
            self.dm.target_for_files(ctx, target, engine, options.mode).await?
        } else {
            self.dm.target(ctx, target, engine, options.mode).await?
        };
        let (engine, target) = self.dm.engine_and_target(options.engine.as_ref(), Some(&of), options.mode)?;
        let details = serde_json::json!({ "backup": options.which, "until": options.until });
        let operation = Operation::new(DRILL, target.as_str()).with_details(details);
        let drill = dm_backup::DrillOptions {
            selector: selector(&target, &options.which, options.verified_only, options.mode)?,
            until: options.until.clone(),
            exclusive: options.exclusive,
            tables: options.tables.clone(),
            jobs: options.jobs.unwrap_or_else(|| self.dm.jobs()),
            checks: options.checks.unwrap_or(CheckDepth::Deep),
            assertions: self.questions_of(options, engine.as_ref()),
            scratch_dir: options.scratch_dir.clone(),
            settings: with_timeline(
                &self.dm.engine_settings(Some(engine.id()), &options.settings),
                options.timeline.as_deref(),
            ),
            disk: DiskCheck { repository: None, free: Some(Arc::new(free_bytes)), min_free_bytes: 0 },
        };
        let work = async {
            let report = self.dm.backups(ctx).await?.drill(ctx, engine.as_ref(), &drill).await?;
            self.dm.state(ctx).await?.store.record_proof(&proof(&report)).await?;
            Ok(report)
        };
        self.dm.operate(ctx, operation, work).await
    }

    fn questions_of(&self, options: &DrillOptions, engine: &dyn Engine) -> Vec<Assertion> {
        if options.tables.is_empty() && options.checks != Some(CheckDepth::None) {
            self.dm.questions(Some(engine.id()), &options.assertions)
        } else {
            options.assertions.clone()
        }
    }
}

fn proof(report: &DrillReport) -> RecoveryProof {
    let differing: Vec<_> = report.tables.iter().filter(|t| !t.equal).collect();
    RecoveryProof {
        backup_id: report.backup.id,
        target: report.backup.target.clone(),
        at: report.at,
        kind: ProofKind::Drill,
        ok: report.ok,
        restore_time_ms: (report.restore_ms > 0).then_some(report.restore_ms),
        results: serde_json::json!({
            "until": report.until,
            "tables": TableFacts::tally(report.tables.iter().map(|t| &t.expected)).0,
            "rows": report.rows,
            "bytes": report.bytes,
            "differing": differing,
            "checks": report.checks,
            "assertions": report.assertions,
            "steps": report.steps,
            "complaint": report.complaint,
            "failure": report.failure,
            "left": report.left,
        }),
    }
}
