//! Restoring: a plan that says what would happen, and applying it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dm_backup::{ApplyOptions, Assertion, Hooks, RestoreReport, Selector, Unproven};
use dm_core::{
    BackupMode, CheckDepth, Destination, Engine, EngineId, Error, OpContext, RecoveryPoint, RestoreRequest,
    Restored, Result, TableFacts, TargetName, TenantFilter,
};
use dm_store::{ProofKind, RecoveryProof};
use serde::Serialize;

use crate::operations::OperationKind;
use crate::pipeline::{Notes, Operation};
use crate::{DataManager, engines};

const PLAN: OperationKind = OperationKind::RestorePlan;
const RUN: OperationKind = OperationKind::RestoreRun;
const RELEASE: OperationKind = OperationKind::RestoreRelease;

/// The engine's setting that chooses among histories.
pub(crate) const TIMELINE: &str = "timeline";

/// What to restore, and where to. The default: the latest backup of the only engine, to a new place beside it.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The engine whose backup it is; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target, when it is not called like the engine.
    pub target: Option<TargetName>,
    /// A backup id, the beginning of one, or `latest`; empty means `latest`.
    pub which: String,
    /// A URL, a path or a database name; a new place beside the engine's own when `None`.
    pub to: Option<String>,
    /// Into the engine's own database; what stands there is kept under another name.
    pub in_place: bool,
    /// Only these tables, all when empty.
    pub tables: Vec<String>,
    /// Only the rows of one tenant and what belongs to them. In place, they take the place of that tenant's rows there.
    pub tenant: Option<TenantFilter>,
    /// Connections or threads at once; the configuration's number when `None`.
    pub jobs: Option<usize>,
    /// `latest` means the latest that was verified.
    pub verified_only: bool,
    /// `latest` means the latest of rows, or of files; the one that suits the restore when `None`.
    pub mode: Option<BackupMode>,
    /// How far the log is replayed. Where there is no log, an instant means the newest backup at or before it.
    pub until: RecoveryPoint,
    /// Whether the point itself is left out.
    pub exclusive: bool,
    /// Along which history, where a database has several (PostgreSQL's timeline); the newest when `None`.
    pub timeline: Option<String>,
    /// What stands at the destination and matches is kept, only the rest is fetched.
    pub delta: bool,
    /// How much is checked; as the configuration says when `None`.
    pub checks: Option<CheckDepth>,
    /// Where the engine may put temporary files; the system's place when `None`.
    pub scratch_dir: Option<PathBuf>,
    /// What only the engine understands.
    pub settings: BTreeMap<String, String>,
    /// What to do when the comparison finds a difference, or a question is answered wrongly.
    pub unproven: Unproven,
    /// Does and compares everything, then takes it back: the report says what would have changed. Hooks are not run.
    pub rehearse: bool,
    /// Leaves the proven place sealed as well; [`DataManager::release_sealed`] opens it.
    pub keep_sealed: bool,
    /// Questions of the application's own, asked before the release. Those of the configuration come on top where the
    /// restore is of everything, and started.
    pub assertions: Vec<Assertion>,
    /// Commands that stop and start the application. The configuration's take the place of a missing one where the restore
    /// replaces what stands there.
    pub hooks: Hooks,
    /// When the failure happened that is recovered from, for the measured loss; the beginning of the recovery when `None`.
    pub failed_at: Option<DateTime<Utc>>,
}

/// What a restore would do. Dereferences to [`dm_backup::RestorePlan`].
#[derive(Clone, Debug, Serialize)]
pub struct RestorePlan {
    #[serde(flatten)]
    plan: dm_backup::RestorePlan,
    #[serde(flatten)]
    options: ApplyOptions,
    #[serde(skip)]
    engine: Arc<dyn Engine>,
}

impl RestorePlan {
    /// How it will be applied: hooks, questions, what becomes of a place that is not proven.
    #[must_use]
    pub fn options(&self) -> &ApplyOptions {
        &self.options
    }
}

impl Deref for RestorePlan {
    type Target = dm_backup::RestorePlan;

    fn deref(&self) -> &Self::Target {
        &self.plan
    }
}

impl DataManager {
    /// Says what a restore would do. Reads only.
    ///
    /// # Errors
    /// `NotFound` (no repository, no such backup, no such table), `Invalid`, `Unsupported`, `Unreachable`, `Denied`.
    pub async fn plan_restore(&self, ctx: &OpContext, options: &RestoreOptions) -> Result<RestorePlan> {
        if options.in_place && options.to.is_some() {
            return Err(Error::invalid("a restore goes either in place or to another place, not both")
                .with_hint("leave out --in-place, or --to"));
        }
        let target = self.restore_target(ctx, options).await?;
        let resource = target.to_string();
        let mut planned = None;
        let work = async {
            let service = self.backups(ctx).await?;
            let (engine, destination) = self.destination(options, &target)?;
            let request = RestoreRequest {
                tables: options.tables.clone(),
                tenant: options.tenant.clone(),
                jobs: options.jobs.unwrap_or_else(|| self.jobs()),
                scratch_dir: options.scratch_dir.clone(),
                until: options.until.clone(),
                exclusive: options.exclusive,
                delta: options.delta,
                checks: self.check_depth(options.checks),
                settings: with_timeline(
                    &self.engine_settings(self.engine_of(&target), &options.settings),
                    options.timeline.as_deref(),
                ),
                ..RestoreRequest::to(destination)
            };
            let selector = selector(&target, &options.which, options.verified_only, options.mode)?;
            let plan = service.plan_restore(ctx, engine.as_ref(), &selector, &request).await?;
            let summary = serde_json::json!({ "backup": plan.backup.id, "location": plan.preview.location });
            let options = self.apply_options(options, &plan);
            planned = Some(RestorePlan { plan, options, engine });
            Ok(summary)
        };
        self.operate(ctx, Operation::new(PLAN, resource), work).await?;
        planned.ok_or_else(|| Error::internal("a restore was planned and the plan is missing"))
    }

    fn apply_options(&self, options: &RestoreOptions, plan: &dm_backup::RestorePlan) -> ApplyOptions {
        let whole = options.tables.is_empty() && options.tenant.is_none();
        let assertions = if whole && plan.checks != CheckDepth::None {
            self.questions(self.engine_of(&plan.backup.target), &options.assertions)
        } else {
            options.assertions.clone()
        };
        ApplyOptions {
            unproven: options.unproven,
            rehearse: options.rehearse,
            keep_sealed: options.keep_sealed,
            assertions,
            hooks: self.hooks(&options.hooks, options.in_place || options.delta),
            failed_at: options.failed_at,
        }
    }

    /// Does what a plan says: restores to the sealed place, compares, releases. The proof is recorded.
    ///
    /// # Errors
    /// `Conflict` when the plan went stale; `CheckFailed` when the comparison finds a difference; see
    /// [`dm_backup::BackupService::apply_restore`].
    pub async fn apply_restore(&self, ctx: &OpContext, plan: RestorePlan) -> Result<RestoreReport> {
        let details = serde_json::json!({
            "backup": plan.plan.backup.id, "location": plan.plan.preview.location, "tables": plan.plan.tables,
            "until": plan.plan.until, "keep_sealed": plan.options.keep_sealed, "hooks": plan.options.hooks,
        });
        let notes = Notes::default();
        let operation =
            Operation::new(RUN, plan.plan.backup.target.as_str()).with_details(details).noting(&notes);
        let work = async {
            let service = self.backups(ctx).await?;
            let result =
                service.apply_restore(ctx, plan.engine.as_ref(), &plan.plan, plan.options.clone()).await;
            self.record_restore(ctx, &plan, &result).await?;
            if let Ok(report) = &result {
                let (_, rows) = TableFacts::tally(report.tables.iter().map(|t| &t.expected));
                notes.put("rows", rows);
                notes.put("bytes", report.bytes);
            }
            result
        };
        self.operate(ctx, operation, work).await
    }

    /// Opens a place that a restore left sealed, by the name that its report gave.
    ///
    /// # Errors
    /// `NotFound` when there is no such place, or it was not left by a restore; `AlreadyExists` when its final name is
    /// taken; `Unsupported` where the engine leaves none.
    pub async fn release_sealed(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        location: &str,
    ) -> Result<Restored> {
        let engine = self.engine(engine)?;
        let details = serde_json::json!({ "location": location });
        let operation = Operation::new(RELEASE, engine.id().as_str()).with_details(details);
        // A sealed place is opened where it stands: no repository is needed for it, and there may be none any more.
        let work = async {
            let target = engine.restore().ok_or_else(|| {
                Error::unsupported(format!("{} databases cannot be restored into", engine.kind()))
            })?;
            target.release_sealed(ctx, location).await
        };
        self.operate(ctx, operation, work).await
    }

    /// A restore that was compared is a proof, a failed comparison is one of the contrary; a restore that broke off
    /// before proves nothing.
    async fn record_restore(
        &self,
        ctx: &OpContext,
        plan: &RestorePlan,
        result: &Result<RestoreReport>,
    ) -> Result<()> {
        let (ok, restore_time_ms, results) = match result {
            Ok(report) => (
                report.equal,
                Some(report.duration_ms),
                serde_json::json!({
                    "tables": TableFacts::tally(report.tables.iter().map(|t| &t.expected)).0,
                    "comparison_ms": report.comparison_ms,
                    "assertions": report.assertions,
                    "reached": report.reached,
                    "recovery": report.recovery,
                }),
            ),
            Err(error) if error.kind() == dm_core::ErrorKind::CheckFailed => {
                (false, None, serde_json::json!({ "error": error.to_string() }))
            }
            Err(_) => return Ok(()),
        };
        let proof = RecoveryProof {
            backup_id: plan.backup.id,
            target: plan.backup.target.clone(),
            at: ctx.now(),
            kind: if plan.options.rehearse { ProofKind::Drill } else { ProofKind::Restore },
            ok,
            restore_time_ms,
            results,
        };
        self.state(ctx).await?.store.record_proof(&proof).await
    }

    /// Whose backups are meant: of the target that was named, or of the engine in the mode that suits the request.
    async fn restore_target(&self, ctx: &OpContext, options: &RestoreOptions) -> Result<TargetName> {
        let (target, engine) = (options.target.as_ref(), options.engine.as_ref());
        if !options.tables.is_empty() || options.tenant.is_some() {
            return self.target(ctx, target, engine, Some(BackupMode::Logical)).await;
        }
        // A point of the log, and a folder to restore into, are of the whole server.
        let to_folder = options.to.as_ref().is_some_and(|to| to.contains('/') && !to.contains("://"));
        if to_folder || options.until != RecoveryPoint::Backup {
            return self.target_for_files(ctx, target, engine, options.mode).await;
        }
        self.target(ctx, target, engine, options.mode).await
    }

    fn destination(
        &self,
        options: &RestoreOptions,
        target: &TargetName,
    ) -> Result<(Arc<dyn Engine>, Destination)> {
        let named = options.engine.as_ref().or_else(|| self.engine_of(target));
        let Some(to) = &options.to else {
            let destination = if options.in_place { Destination::InPlace } else { Destination::New(None) };
            return Ok((self.engine(named)?, destination));
        };
        let (other, destination) = engines::destination(to)?;
        let engine = match other {
            Some(mut other) => {
                // The other server is talked to with the client tools of the engine whose backup it is.
                let own = self.engine(named).ok();
                other.bin_dir = own.and_then(|e| self.config.engines.get(e.id())?.bin_dir.clone());
                engines::open(&EngineId::new("restore-target")?, &other)?
            }
            None => self.engine(named)?,
        };
        Ok((engine, destination))
    }
}

/// `latest`, an id, or the beginning of one.
pub(crate) fn selector(
    target: &TargetName,
    which: &str,
    verified_only: bool,
    mode: Option<BackupMode>,
) -> Result<Selector> {
    if which.is_empty() || which == "latest" {
        return Ok(Selector::Latest { target: target.clone(), verified_only, mode });
    }
    Ok(Selector::Id { target: None, id: which.parse()? })
}

pub(crate) fn with_timeline(
    settings: &BTreeMap<String, String>,
    timeline: Option<&str>,
) -> BTreeMap<String, String> {
    let mut settings = settings.clone();
    if let Some(timeline) = timeline {
        settings.insert(TIMELINE.to_owned(), timeline.to_owned());
    }
    settings
}
