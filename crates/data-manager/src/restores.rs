//! Restoring: a plan that says what would happen, and applying it.

use std::ops::Deref;
use std::sync::Arc;

use dm_backup::{ApplyOptions, RestoreReport, Selector, Unproven};
use dm_core::{
    Action, Destination, Engine, EngineId, Error, OpContext, RestoreRequest, Result, TargetName, TenantFilter,
};
use dm_store::{ProofKind, RecoveryProof};
use serde::Serialize;

use crate::pipeline::Operation;
use crate::{DataManager, engines};

const PLAN: Action = Action::read("restore", "plan");
const RUN: Action = Action::write("restore", "run");

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
    /// What to do when the comparison finds a difference.
    pub unproven: Unproven,
    /// Does and compares everything, then takes it back: the report says what would have changed.
    pub rehearse: bool,
}

/// What a restore would do. Dereferences to [`dm_backup::RestorePlan`].
#[derive(Clone, Debug, Serialize)]
pub struct RestorePlan {
    #[serde(flatten)]
    plan: dm_backup::RestorePlan,
    #[serde(skip)]
    engine: Arc<dyn Engine>,
    #[serde(skip)]
    unproven: Unproven,
    #[serde(skip)]
    rehearse: bool,
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
        let target = self.target(options.target.as_ref(), options.engine.as_ref(), None)?;
        let resource = target.to_string();
        let mut planned = None;
        let work = async {
            let service = self.backups(ctx).await?;
            let (engine, destination) = self.destination(options)?;
            let request = RestoreRequest {
                tables: options.tables.clone(),
                tenant: options.tenant.clone(),
                jobs: options.jobs.unwrap_or_else(|| self.jobs()),
                ..RestoreRequest::to(destination)
            };
            let selector = selector(&target, &options.which, options.verified_only)?;
            let plan = service.plan_restore(ctx, engine.as_ref(), &selector, &request).await?;
            let summary = serde_json::json!({ "backup": plan.backup.id, "location": plan.preview.location });
            planned =
                Some(RestorePlan { plan, engine, unproven: options.unproven, rehearse: options.rehearse });
            Ok(summary)
        };
        self.operate(ctx, Operation::new(PLAN, resource), work).await?;
        planned.ok_or_else(|| Error::internal("a restore was planned and the plan is missing"))
    }

    /// Does what a plan says: restores to the sealed place, compares, releases. The proof is recorded.
    ///
    /// # Errors
    /// `Conflict` when the plan went stale; `CheckFailed` when the comparison finds a difference; see
    /// [`dm_backup::BackupService::apply_restore`].
    pub async fn apply_restore(&self, ctx: &OpContext, plan: RestorePlan) -> Result<RestoreReport> {
        let details = serde_json::json!({
            "backup": plan.plan.backup.id, "location": plan.plan.preview.location, "tables": plan.plan.tables,
        });
        let operation = Operation::new(RUN, plan.plan.backup.target.as_str()).with_details(details);
        let work = async {
            let service = self.backups(ctx).await?;
            let options = ApplyOptions { unproven: plan.unproven, rehearse: plan.rehearse };
            let result = service.apply_restore(ctx, plan.engine.as_ref(), &plan.plan, options).await;
            self.record_restore(ctx, &plan.plan, &result).await?;
            result
        };
        self.operate(ctx, operation, work).await
    }

    /// A restore that was compared is a proof, a failed comparison is one of the contrary; a restore that broke off
    /// before proves nothing.
    async fn record_restore(
        &self,
        ctx: &OpContext,
        plan: &dm_backup::RestorePlan,
        result: &Result<RestoreReport>,
    ) -> Result<()> {
        let (ok, restore_time_ms, results) = match result {
            Ok(report) => (
                report.equal,
                Some(report.duration_ms),
                serde_json::json!({ "tables": report.tables.len(), "comparison_ms": report.comparison_ms }),
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
            kind: ProofKind::Restore,
            ok,
            restore_time_ms,
            results,
        };
        self.state(ctx).await?.store.record_proof(&proof).await
    }

    fn destination(&self, options: &RestoreOptions) -> Result<(Arc<dyn Engine>, Destination)> {
        let Some(to) = &options.to else {
            let destination = if options.in_place { Destination::InPlace } else { Destination::New(None) };
            return Ok((self.engine(options.engine.as_ref())?, destination));
        };
        let (other, destination) = engines::destination(to)?;
        let engine = match other {
            Some(mut other) => {
                // The other server is talked to with the client tools of the engine whose backup it is.
                let own = self.engine(options.engine.as_ref()).ok();
                other.bin_dir = own.and_then(|e| self.config.engines.get(e.id())?.bin_dir.clone());
                engines::open(&EngineId::new("restore-target")?, &other)?
            }
            None => self.engine(options.engine.as_ref())?,
        };
        Ok((engine, destination))
    }
}

/// `latest`, an id, or the beginning of one.
pub(crate) fn selector(target: &TargetName, which: &str, verified_only: bool) -> Result<Selector> {
    if which.is_empty() || which == "latest" {
        return Ok(Selector::Latest { target: target.clone(), verified_only });
    }
    Ok(Selector::Id { target: None, id: which.parse()? })
}
