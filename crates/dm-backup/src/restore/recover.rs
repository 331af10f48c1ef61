//! A recovery from the stop of the application to its start.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dm_core::{
    BackupMode, CheckDepth, Effect, Error, ErrorKind, LogReader, OpContext, RestoreRequest, RestoreTarget,
    Restored, Result,
};
use dm_repository::{BackupHeader, BackupReader};

use super::place::{Place, Proof};
use super::{
    ApplyOptions, Looked, Loss, Recovery, RestorePlan, RestoreReport, Unproven, digest_of, look, point,
};
use crate::hooks::{self, HookFailure, HookPhase, HookReport, Hooks, StartWhen};
use crate::pool;
use crate::preflight::refuse;
use crate::run::{Stage, Steps, millis};

/// From the second look to the start of the application.
pub(super) async fn recover(
    ctx: &OpContext,
    target: &dyn RestoreTarget,
    reader: &BackupReader,
    backup: &BackupHeader,
    log: Option<Arc<dyn LogReader>>,
    plan: &RestorePlan,
    options: &ApplyOptions,
) -> Result<RestoreReport> {
    let mut steps = Steps::begin();
    let asked = RestoreRequest { digest_key: reader.digest_key(), log, ..plan.request() };
    let looking = Box::pin(look(ctx, target, reader, &asked, plan.planned_at));
    let looked = steps.time(Stage::Pre, "look", looking).await?;
    plan.digest.require(&digest_of(backup, &asked, &looked.preview)?)?;
    refuse(&looked.preview.findings, "the restore")?;

    // Nothing was touched until here, and from here on the application may be down: its time counts.
    // A rehearsal touches nothing that the application uses, so it may go on.
    let hooks = if options.rehearse { Hooks::default() } else { options.hooks.clone() };
    let mut around = Around { ctx, plan, options, hooks, began_at: ctx.now(), reports: Vec::new() };
    let clock = std::time::Instant::now();
    if let Err(error) = around.stop(&mut steps).await {
        return Err(around.start_after(error, &mut steps).await);
    }
    let restored = Box::pin(restore(ctx, target, reader, &looked, plan, options, &mut steps)).await;
    let done = match restored {
        Ok(done) => done,
        Err(error) => return Err(around.start_after(error, &mut steps).await),
    };
    around.start(&done.restored, done.released, &mut steps).await?;
    let rto_ms = millis(clock.elapsed());
    Ok(around.report(done, backup, reader, steps, rto_ms, &looked))
}

/// A place that was released, or kept sealed as asked.
struct Done {
    restored: Restored,
    released: bool,
    proof: Proof,
    bytes: u64,
    written_ms: u64,
    /// Whether there were facts to compare with.
    had_facts: bool,
}

async fn restore(
    ctx: &OpContext,
    target: &dyn RestoreTarget,
    reader: &BackupReader,
    looked: &Looked,
    plan: &RestorePlan,
    options: &ApplyOptions,
    steps: &mut Steps,
) -> Result<Done> {
    let place = Place::make(ctx, target, reader, looked, &plan.preview, steps).await?;
    let proof = match place.prove(ctx, &options.assertions, steps).await {
        Ok(proof) => proof,
        Err(error) => return Err(place.discard_after(ctx, error).await),
    };
    if let Some(complaint) = &proof.complaint
        && options.unproven != Unproven::Release
    {
        let error = Error::new(ErrorKind::CheckFailed, complaint.clone());
        return Err(match options.unproven {
            Unproven::Discard => place.discard_after(ctx, error).await,
            _ => keep_unproven(ctx, place, error).await,
        });
    }
    if let Err(error) = ctx.check() {
        return Err(place.discard_after(ctx, error).await);
    }
    let (bytes, written_ms) = (place.bytes, place.written_ms);
    let had_facts = !place.expected.is_empty() || !proof.comparison.tables.is_empty();
    let released = !options.keep_sealed && !options.rehearse;
    let name = place.name.clone();
    let session = place.into_session();
    let restored = if options.rehearse {
        let tidy = pool::cleanup(ctx);
        steps
            .time(Stage::Post, "remove", session.discard(&tidy))
            .await
            .map_err(|e| e.with_effect(Effect::Partial).about(&name))?;
        Restored { location: plan.preview.location.clone(), ..Restored::default() }
    } else if options.keep_sealed {
        let location = steps.time(Stage::Post, "keep", session.keep(ctx)).await?;
        Restored { location, ..Restored::default() }
    } else {
        steps.time(Stage::Post, "release", session.release(ctx)).await.map_err(|e| {
            let effect = if e.effect() == Effect::None { Effect::Partial } else { e.effect() };
            let error = e.with_effect(effect);
            if error.hint().is_some() {
                error
            } else {
                error.with_hint(format!("the restored data is sealed: {name}"))
            }
        })?
    };
    tracing::info!(backup = %plan.backup.id, location = %restored.location, equal = proof.is_equal(), released, "restored");
    Ok(Done { restored, released, proof, bytes, written_ms, had_facts })
}

/// Leaves the place sealed for a person to look at: in good order where the engine can, as it is where not.
async fn keep_unproven(ctx: &OpContext, place: Place, error: Error) -> Error {
    let name = place.name.clone();
    let (name, how) = match place.into_session().keep(&pool::cleanup(ctx)).await {
        Ok(kept) => (kept, "release it all the same by that name, or remove it by hand"),
        Err(second) => {
            tracing::info!(place = name, error = %second, "the sealed place is left as it is");
            (name, "remove it by hand, or restore again and release what differs")
        }
    };
    error
        .with_effect(Effect::Partial)
        .about(&name)
        .with_hint(format!("it is kept sealed for you to look at; {how}"))
}

/// The hooks of a recovery, and what they said.
struct Around<'a> {
    ctx: &'a OpContext,
    plan: &'a RestorePlan,
    options: &'a ApplyOptions,
    hooks: Hooks,
    began_at: DateTime<Utc>,
    reports: Vec<HookReport>,
}

impl Around<'_> {
    fn environment(&self, phase: HookPhase, location: &str) -> Vec<(&'static str, String)> {
        vec![
            ("DM_PHASE", phase.to_string()),
            ("DM_BACKUP", self.plan.backup.id.to_string()),
            ("DM_TARGET", self.plan.backup.target.to_string()),
            ("DM_LOCATION", location.to_owned()),
            ("DM_RUN", self.ctx.run_id().to_string()),
        ]
    }

    /// Stops the application.
    async fn stop(&mut self, steps: &mut Steps) -> Result<()> {
        let Some(hook) = self.hooks.stop.clone() else { return Ok(()) };
        let environment = self.environment(HookPhase::Stop, &self.plan.preview.location);
        let running = hooks::run(self.ctx, HookPhase::Stop, &hook, &environment);
        let report = steps.time(Stage::Pre, "stop hook", running).await;
        let failed = (!report.ok && hook.on_failure == HookFailure::Fail).then(|| report.error());
        self.reports.push(report);
        self.ctx.check()?;
        failed.map_or(Ok(()), |error| {
            Err(error.with_hint("nothing was restored; see to the application, then try again"))
        })
    }

    /// Starts the application on the restored database.
    async fn start(&mut self, restored: &Restored, released: bool, steps: &mut Steps) -> Result<()> {
        let Some(hook) = self.hooks.start.clone() else { return Ok(()) };
        if !released && self.hooks.start_when != StartWhen::Always {
            return Ok(());
        }
        let mut environment = self.environment(HookPhase::Start, &restored.location);
        environment.push(("DM_OUTCOME", if released { "restored" } else { "sealed" }.to_owned()));
        // The database is there: that somebody cancels now is no reason to leave the application stopped.
        let ctx = self.ctx.clone().with_cancellation(Default::default());
        let report = steps
            .time(Stage::Post, "start hook", hooks::run(&ctx, HookPhase::Start, &hook, &environment))
            .await;
        let failed = (!report.ok && hook.on_failure == HookFailure::Fail).then(|| report.error());
        self.reports.push(report);
        failed.map_or(Ok(()), |error| {
            Err(error.with_effect(Effect::Applied).with_hint(format!(
                "the database is restored at {}: start the application by hand",
                restored.location
            )))
        })
    }

    /// After a failure: starts the application where that was asked for, and says how it stands.
    async fn start_after(&mut self, error: Error, steps: &mut Steps) -> Error {
        let hooks = self.hooks.clone();
        if hooks.is_empty() {
            return error;
        }
        let stands = match &hooks.start {
            Some(hook) if hooks.start_when == StartWhen::Always => {
                let mut environment = self.environment(HookPhase::Start, &self.plan.preview.location);
                environment.push(("DM_OUTCOME", "failed".to_owned()));
                let ctx = self.ctx.clone().with_cancellation(Default::default());
                let running = hooks::run(&ctx, HookPhase::Start, hook, &environment);
                let report = steps.time(Stage::Post, "start hook", running).await;
                if report.ok {
                    "the application was started again".to_owned()
                } else {
                    format!("the application is still stopped, {}", report.error())
                }
            }
            _ if hooks.stop.is_some() => {
                "the application was stopped and not started again: start it by hand when it may run"
                    .to_owned()
            }
            _ => return error,
        };
        let hint = error.hint().map_or_else(|| stands.clone(), |first| format!("{first}; {stands}"));
        error.with_hint(hint)
    }

    fn report(
        self,
        done: Done,
        backup: &BackupHeader,
        reader: &BackupReader,
        steps: Steps,
        rto_ms: u64,
        looked: &Looked,
    ) -> RestoreReport {
        let Done { restored, released, proof, bytes, written_ms, had_facts } = done;
        let plan = self.plan;
        let mut warnings = reader.warnings().to_vec();
        // Files of a whole server have their proof in the server; rows without facts have none of their own.
        let rows = plan.backup.mode == BackupMode::Logical;
        if !had_facts && rows && plan.checks != CheckDepth::None {
            warnings.push(
                "the backup recorded no facts of tables: only the engine's own checks were made".to_owned(),
            );
        }
        if plan.checks == CheckDepth::None {
            warnings.push("nothing was checked, as asked".to_owned());
        }
        warnings.extend(self.reports.iter().filter_map(|r| {
            r.problem.as_ref().map(|problem| format!("the {} hook ({}): {problem}", r.phase, r.command))
        }));
        let foreseen = point::last_point(backup, &looked.request, &looked.preview, self.began_at);
        let reached = restored.reached.unwrap_or(foreseen);
        RestoreReport {
            backup: backup.clone(),
            until: plan.until.clone(),
            recovery: Recovery {
                began_at: self.began_at,
                ended_at: self.ctx.now(),
                loss: Loss::between(reached.at, self.options.failed_at.unwrap_or(self.began_at)),
                rto_ms,
            },
            reached,
            location: restored.location,
            previous: restored.previous,
            tables: proof.comparison.tables,
            checks: proof.comparison.checks,
            assertions: proof.assertions,
            equal: proof.complaint.is_none(),
            comparison_ms: proof.comparison_ms,
            duration_ms: steps.elapsed_ms(),
            bytes,
            bytes_per_second: bytes.saturating_mul(1000) / written_ms.max(1),
            released,
            hooks: self.reports,
            steps: steps.done,
            notes: restored.notes,
            warnings,
        }
    }
}
