//! Bringing a backup back: plan, fill a sealed place, compare, ask, and only then open it.
//!
//! The place stays sealed until the comparison with what the backup recorded went through and the application's own
//! questions were answered. Where not, the place is kept sealed for a person to look at, or removed, as asked; it is never
//! opened by itself. Around it all, [`Hooks`] stop and start the application, and the report says what the recovery
//! cost: the data that is lost (RPO) and the time that it took (RTO).

mod fill;
pub(crate) mod place;
pub(crate) mod point;
mod proof;
mod recover;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dm_core::{
    CheckDepth, Clock, ConsistencyPoint, Destination, Engine, Error, Finding, Level, LogReader, OpContext,
    PlanDigest, RecoveryPoint, RestoreManifest, RestorePreview, RestoreRequest, RestoreTarget, Result,
    TableComparison, TenantFilter,
};
use dm_repository::{BackupHeader, BackupReader, Listing};
use serde::{Deserialize, Serialize};

use crate::keep::Soundness;
use crate::record::soundness;
use crate::run::Step;
use crate::{Assertion, AssertionResult, BackupService, HookReport, Hooks, Selector};

/// What a restore would do, in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupHeader,
    /// Where to.
    pub destination: Destination,
    /// Only these tables, all when empty.
    pub tables: Vec<String>,
    /// Only the rows of one tenant and what they refer to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tenant: Option<TenantFilter>,
    /// The most connections or threads at once.
    pub jobs: usize,
    /// Where the engine may put temporary files.
    pub scratch_dir: Option<PathBuf>,
    /// How far the log is replayed on top of the backup.
    #[serde(default)]
    pub until: RecoveryPoint,
    /// Whether the point itself is left out.
    #[serde(default)]
    pub exclusive: bool,
    /// Whether what stands at the destination and matches is kept.
    #[serde(default)]
    pub delta: bool,
    /// How much the comparison looks at.
    #[serde(default)]
    pub checks: CheckDepth,
    /// What only the engine understands.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// When it was made, by the context's clock. The second look before it is applied sees the same moment, so that names
    /// with a time in them are the same.
    pub planned_at: DateTime<Utc>,
    /// What would be lost.
    pub loss: Loss,
    /// What the engine says would happen.
    pub preview: RestorePreview,
    /// Digest of what the plan rests on.
    pub digest: PlanDigest,
}

impl RestorePlan {
    /// The plan as the request that it was made of, but for the log and the key of digests.
    pub(crate) fn request(&self) -> RestoreRequest {
        RestoreRequest {
            tables: self.tables.clone(),
            tenant: self.tenant.clone(),
            jobs: self.jobs,
            scratch_dir: self.scratch_dir.clone(),
            until: self.until.clone(),
            exclusive: self.exclusive,
            delta: self.delta,
            checks: self.checks,
            settings: self.settings.clone(),
            ..RestoreRequest::to(self.destination.clone())
        }
    }
}

/// What a recovery loses: everything that was committed after the last point that is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The last point that will be in.
    pub from: DateTime<Utc>,
    /// Up to when there may have been something: the failure, or now.
    pub to: DateTime<Utc>,
    /// The time between, in milliseconds; 0 when there is none.
    pub lost_ms: u64,
}

impl Loss {
    fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        Self { from, to, lost_ms: u64::try_from((to - from).num_milliseconds()).unwrap_or(0) }
    }
}

/// What to do with a restored place whose content is not what the backup recorded, or that answers the application's
/// own questions wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unproven {
    /// Leave it sealed, and fail naming it.
    #[default]
    KeepSealed,
    /// Remove it, and fail.
    Discard,
    /// Open it all the same; the report says what differs.
    Release,
}

/// How to apply a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplyOptions {
    /// What to do when the proof fails.
    pub unproven: Unproven,
    /// Does and compares everything, then takes it back: nothing is released, and no hook is run. The report says what
    /// would have changed.
    pub rehearse: bool,
    /// Leaves the proven place sealed as well, to be opened by [`RestoreTarget::release_sealed`].
    pub keep_sealed: bool,
    /// The application's own questions, asked before the release.
    pub assertions: Vec<Assertion>,
    /// The commands that stop and start the application.
    pub hooks: Hooks,
    /// When the failure happened that is recovered from; the beginning of the recovery when `None`.
    pub failed_at: Option<DateTime<Utc>>,
}

/// What a recovery cost, measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// When it began: before the application was stopped.
    pub began_at: DateTime<Utc>,
    /// When it was over: after the application was started.
    pub ended_at: DateTime<Utc>,
    /// The recovery point: from the last point that is in to the failure.
    pub loss: Loss,
    /// The recovery time: from the stop to the start, in milliseconds.
    pub rto_ms: u64,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The backup.
    pub backup: BackupHeader,
    /// How far the log was to be replayed.
    #[serde(default)]
    pub until: RecoveryPoint,
    /// The last point that is in.
    pub reached: ConsistencyPoint,
    /// Where it is now.
    pub location: String,
    /// Where what stood there before was kept, if anything.
    pub previous: Option<String>,
    /// Table by table: recorded and found.
    pub tables: Vec<TableComparison>,
    /// The engine's own checks.
    pub checks: Vec<Finding>,
    /// The application's own questions.
    #[serde(default)]
    pub assertions: Vec<AssertionResult>,
    /// Whether everything agrees.
    pub equal: bool,
    /// How long the comparison took, in milliseconds.
    pub comparison_ms: u64,
    /// From beginning to end, in milliseconds.
    pub duration_ms: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes a second, comparison apart.
    pub bytes_per_second: u64,
    /// Whether the place is open to others. Otherwise `location` is the name under which it can be released; a rehearsal
    /// took it back.
    pub released: bool,
    /// What was run around it.
    #[serde(default)]
    pub hooks: Vec<HookReport>,
    /// What it cost.
    pub recovery: Recovery,
    /// The steps in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What a person has to do next.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What a plan rests on. The adapter's notes are left out: a second look may give other ones (a temporary name),
/// and it is the plan's that are used.
#[derive(Serialize)]
struct Basis<'a> {
    backup: &'a BackupHeader,
    destination: &'a Destination,
    tables: &'a [String],
    tenant: Option<&'a TenantFilter>,
    jobs: usize,
    until: &'a RecoveryPoint,
    exclusive: bool,
    delta: bool,
    checks: CheckDepth,
    settings: &'a BTreeMap<String, String>,
    location: &'a str,
    consequences: &'a [String],
    members: &'a [usize],
    bytes: u64,
    problems: Vec<&'a str>,
}

fn digest_of(
    backup: &BackupHeader,
    request: &RestoreRequest,
    preview: &RestorePreview,
) -> Result<PlanDigest> {
    let problems = preview.findings.iter().filter(|f| f.level == Level::Error).map(|f| f.check.as_str());
    PlanDigest::of(&Basis {
        backup,
        destination: &request.destination,
        tables: &request.tables,
        tenant: request.tenant.as_ref(),
        jobs: request.jobs,
        until: &request.until,
        exclusive: request.exclusive,
        delta: request.delta,
        checks: request.checks,
        settings: &request.settings,
        location: &preview.location,
        consequences: &preview.consequences,
        members: &preview.members,
        // The log grows while it is shipped: how much of it the end means is no reason to plan again.
        bytes: if request.until == RecoveryPoint::End { 0 } else { preview.bytes },
        problems: problems.collect(),
    })
}

pub(crate) fn target_of(engine: &dyn Engine) -> Result<Arc<dyn RestoreTarget>> {
    engine.restore().ok_or_else(|| {
        Error::unsupported(format!("{} databases cannot be restored into", engine.kind()))
            .on_engine(engine.kind())
    })
}

impl BackupService {
    /// Says what a restore would do. Reads only. Findings of level `Error` in the preview make the apply refuse.
    ///
    /// `latest` with a point in time means the newest backup from which the log leads there. Where there is no log, the
    /// points are the backups themselves: an instant means the newest one at or before it, and the plan says so.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the selector, a point before the backup), `Unsupported` (another engine's backup, a point that
    /// nothing leads to), `Unreachable`, `Denied`, `Corrupt`.
    pub async fn plan_restore(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        selector: &Selector,
        request: &RestoreRequest,
    ) -> Result<RestorePlan> {
        let plan = async {
            let target = target_of(engine)?;
            let listing = ctx.run(self.repository.list(ctx, selector.target())).await?;
            let prefer = point::preference(request);
            let choice = point::choose(&listing, selector, request, engine.log().is_some(), prefer)?;
            self.plan_first(ctx, target.as_ref(), &listing, choice, request).await
        };
        Box::pin(plan).await.map_err(|e: Error| e.in_operation("restore plan"))
    }

    /// The plan with the first of the chosen backups from which the engine gets to the point; where there is none, the
    /// plan with the first, which says why not.
    async fn plan_first(
        &self,
        ctx: &OpContext,
        target: &dyn RestoreTarget,
        listing: &Listing,
        choice: point::Choice,
        request: &RestoreRequest,
    ) -> Result<RestorePlan> {
        let asked = RestoreRequest { until: choice.until, ..request.clone() };
        let mut first = None;
        for backup in choice.backups {
            let mut plan = self.plan_with(ctx, target, listing, backup, &asked).await?;
            plan.preview.findings.extend(choice.findings.iter().cloned());
            if !point::is_unreachable(&plan.preview) {
                return Ok(plan);
            }
            first.get_or_insert(plan);
        }
        first.ok_or_else(|| Error::internal("a backup was chosen and is not there"))
    }

    /// The plan with one certain backup.
    pub(crate) async fn plan_with(
        &self,
        ctx: &OpContext,
        target: &dyn RestoreTarget,
        listing: &Listing,
        backup: BackupHeader,
        request: &RestoreRequest,
    ) -> Result<RestorePlan> {
        let log = self.log_for(ctx, &backup, &request.until).await?;
        let request = RestoreRequest { log, ..request.clone() };
        let reader = self.repository.read(ctx, &backup).await?;
        let planned_at = ctx.now();
        let looked = look(ctx, target, &reader, &request, planned_at).await;
        close(reader).await;
        let mut preview = looked?.preview;
        let digest = digest_of(&backup, &request, &preview)?;
        if soundness(listing, backup.id) == Soundness::Damaged {
            preview.findings.push(
                Finding::new(
                    Level::Warning,
                    "verification",
                    "the last verification found this backup damaged",
                )
                .with_mend("choose another one: the list says which were verified"),
            );
        }
        let loss = Loss::between(point::last_point(&backup, &request, &preview, ctx.now()).at, ctx.now());
        Ok(RestorePlan {
            planned_at,
            backup,
            destination: request.destination,
            tables: request.tables,
            tenant: request.tenant,
            jobs: request.jobs,
            scratch_dir: request.scratch_dir,
            until: request.until,
            exclusive: request.exclusive,
            delta: request.delta,
            checks: request.checks,
            settings: request.settings,
            loss,
            preview,
            digest,
        })
    }

    /// Does what a plan says: stops the application, restores, compares, asks, releases, starts the application.
    ///
    /// # Errors
    /// - `Conflict`: the plan went stale. Nothing was changed, nothing was run.
    /// - `CheckFailed`: what stands there is not what the backup recorded, or answers wrongly. The sealed place was kept
    ///   (effect `Partial`) or removed (effect `None`), as asked. Or a hook failed: the message says which.
    /// - `Interrupted`, `Corrupt`, `Exhausted` ...: the sealed place was removed (effect `None`), or the hint names what is left.
    ///
    /// # Cancellation
    /// Cancel through the context: the sealed place is then removed, and the application started where that was asked for
    /// always. Dropping the future leaves the place behind, sealed, and the application as it was.
    pub async fn apply_restore(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        plan: &RestorePlan,
        options: ApplyOptions,
    ) -> Result<RestoreReport> {
        let report = async {
            ctx.check()?;
            if !options.assertions.is_empty() && plan.checks == CheckDepth::None {
                return Err(Error::invalid("checks of your own need a restore that is started")
                    .with_hint("leave the checks at standard, or leave your own out"));
            }
            if options.rehearse && options.keep_sealed {
                return Err(Error::invalid(
                    "a rehearsal takes everything back: there is nothing to keep sealed",
                )
                .with_hint("ask for the one or the other"));
            }
            let parts = !plan.tables.is_empty() || plan.tenant.is_some();
            if options.keep_sealed && parts && plan.destination == Destination::InPlace {
                return Err(Error::invalid("rows that are put into a database cannot be kept sealed")
                    .with_hint("restore them to a new database, or rehearse it: nothing is then changed"));
            }
            let target = target_of(engine)?;
            let backup = self.repository.header(ctx, &plan.backup.target, plan.backup.id).await?;
            // The lease before the log: what is listed under it, no expiry takes away until it ends.
            let reader = self.repository.read(ctx, &backup).await?;
            let report = match self.log_for(ctx, &backup, &plan.until).await {
                Ok(log) => {
                    let recovering =
                        recover::recover(ctx, target.as_ref(), &reader, &backup, log, plan, &options);
                    Box::pin(recovering).await
                }
                Err(error) => Err(error),
            };
            close(reader).await;
            report
        };
        Box::pin(report).await.map_err(|e: Error| e.in_operation("restore").on_engine(engine.kind()))
    }

    /// The log that leads from a backup on; `None` where nothing of it is asked for.
    pub(crate) async fn log_for(
        &self,
        ctx: &OpContext,
        backup: &BackupHeader,
        until: &RecoveryPoint,
    ) -> Result<Option<Arc<dyn LogReader>>> {
        if *until == RecoveryPoint::Backup {
            return Ok(None);
        }
        let stream = backup.system_identifier.as_deref().ok_or_else(|| {
            Error::unsupported("the backup does not say which log is its own").about(backup.id.to_string())
        })?;
        self.log_reader(ctx, &backup.target, stream).await.map(Some)
    }
}

/// Ends the reader's lease. A lease that could not be ended runs out by itself.
pub(crate) async fn close(reader: BackupReader) {
    if let Err(error) = reader.close().await {
        tracing::warn!(%error, "the reader's lease could not be ended; it runs out by itself");
    }
}

/// A backup, and what the engine says of bringing it back.
pub(crate) struct Looked {
    pub(crate) request: RestoreRequest,
    pub(crate) manifest: RestoreManifest,
    pub(crate) preview: RestorePreview,
}

/// The moment of a plan.
#[derive(Debug)]
struct At(DateTime<Utc>);

impl Clock for At {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

pub(crate) async fn look(
    ctx: &OpContext,
    target: &dyn RestoreTarget,
    reader: &BackupReader,
    request: &RestoreRequest,
    at: DateTime<Utc>,
) -> Result<Looked> {
    let ctx = &ctx.clone().with_clock(Arc::new(At(at)));
    let members = ctx.run(reader.members(ctx)).await?;
    let manifest =
        RestoreManifest { source: reader.source().clone(), members, tables: reader.tables().to_vec() };
    let request = RestoreRequest { digest_key: reader.digest_key(), ..request.clone() };
    let preview = ctx.run(target.preview(ctx, &request, &manifest)).await?;
    Ok(Looked { request, manifest, preview })
}
