//! A drill: the newest backup is restored into a throwaway place, proven as deeply as the engine can, and removed.
//!
//! Whatever is wrong with a backup is the drill's result and no error of it: the report says what, and
//! [`DrillReport::check`] makes an error of it. The place never gets its final name, nobody else may connect, and it goes
//! also when the drill fails or is cancelled; what could not be removed is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use dm_core::{
    ByteSize, CheckDepth, ConsistencyPoint, Destination, Effect, Engine, Error, ErrorKind, Finding, Level,
    OpContext, Progress, RecoveryPoint, RestoreRequest, RestoreTarget, Result, TableComparison, TableFacts,
};
use dm_repository::BackupHeader;
use serde::{Deserialize, Serialize};

use crate::preflight::refuse;
use crate::restore::place::{Place, Proof};
use crate::restore::{RestorePlan, close, look, point, target_of};
use crate::run::{Stage, Step, Steps};
use crate::{Assertion, AssertionResult, BackupService, DiskCheck, Selector};

/// What to drill, and how.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// The backup.
    pub selector: Selector,
    /// How far the log is replayed on top of it: [`RecoveryPoint::End`] proves the log as well.
    pub until: RecoveryPoint,
    /// Whether the point itself is left out.
    pub exclusive: bool,
    /// Only these tables, all when empty.
    pub tables: Vec<String>,
    /// The most connections or threads at once.
    pub jobs: usize,
    /// How much is checked.
    pub checks: CheckDepth,
    /// The application's own questions.
    pub assertions: Vec<Assertion>,
    /// The folder for the throwaway place and for temporary files; the system's when `None`.
    pub scratch_dir: Option<PathBuf>,
    /// What only the engine understands.
    pub settings: BTreeMap<String, String>,
    /// How to learn what is free on the disk of `scratch_dir`; nothing is checked without it.
    pub disk: DiskCheck,
}

impl DrillOptions {
    /// A drill of a backup, checked deeply, with the defaults.
    #[must_use]
    pub fn of(selector: Selector) -> Self {
        Self {
            selector,
            until: RecoveryPoint::Backup,
            exclusive: false,
            tables: Vec::new(),
            jobs: 2,
            checks: CheckDepth::Deep,
            assertions: Vec::new(),
            scratch_dir: None,
            settings: BTreeMap::new(),
            disk: DiskCheck::default(),
        }
    }
}

/// Why a drill did not get to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFailure {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// What it said, with its causes.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// What a drill found.
#[must_use = "what is wrong is in the report: call `check`"]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// The backup.
    pub backup: BackupHeader,
    /// When it began.
    pub at: DateTime<Utc>,
    /// Whether the backup was restored, and everything agrees.
    pub ok: bool,
    /// How far the log was replayed.
    pub until: RecoveryPoint,
    /// The last point that was in, as far as it was known before.
    pub reaches: Option<ConsistencyPoint>,
    /// The throwaway place.
    pub place: Option<String>,
    /// Table by table: recorded and found.
    pub tables: Vec<TableComparison>,
    /// Rows that were found in them.
    pub rows: u64,
    /// The engine's own checks.
    pub checks: Vec<Finding>,
    /// The application's own questions.
    pub assertions: Vec<AssertionResult>,
    /// The steps in order, each with its time.
    pub steps: Vec<Step>,
    /// From the first look to a place that is proven, in milliseconds: what a recovery would take.
    pub restore_ms: u64,
    /// From beginning to end, in milliseconds.
    pub duration_ms: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes written a second, comparison apart.
    pub bytes_per_second: u64,
    /// What differs, in a sentence.
    pub complaint: Option<String>,
    /// Why it did not get to its end.
    pub failure: Option<DrillFailure>,
    /// What could not be removed, and has to be by hand.
    pub left: Option<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl DrillReport {
    fn new(backup: BackupHeader, at: DateTime<Utc>, until: RecoveryPoint) -> Self {
        Self {
            backup,
            at,
            ok: false,
            until,
            reaches: None,
            place: None,
            tables: Vec::new(),
            rows: 0,
            checks: Vec::new(),
            assertions: Vec::new(),
            steps: Vec::new(),
            restore_ms: 0,
            duration_ms: 0,
            bytes: 0,
            bytes_per_second: 0,
            complaint: None,
            failure: None,
            left: None,
            warnings: Vec::new(),
        }
    }

    /// Turns what is wrong into an error.
    ///
    /// # Errors
    /// `CheckFailed` for a difference; the kind of the failure where the drill did not get to its end; `Partial` where all
    /// was well but something is left behind.
    pub fn check(&self) -> Result<()> {
        let error = match (&self.failure, &self.complaint, &self.left) {
            (Some(failure), ..) => {
                let error = Error::new(failure.kind, failure.message.clone());
                match &failure.hint {
                    Some(hint) => error.with_hint(hint.clone()),
                    None => error,
                }
            }
            (None, Some(complaint), _) => Error::new(ErrorKind::CheckFailed, complaint.clone())
                .with_hint("drill an earlier backup, take a full one now, and look after the storage"),
            (None, None, Some(left)) => {
                Error::new(ErrorKind::Partial, "the throwaway place could not be removed")
                    .with_hint(format!("remove it by hand: {left}"))
            }
            (None, None, None) => return Ok(()),
        };
        let effect = if self.left.is_some() { Effect::Partial } else { Effect::None };
        Err(error.about(self.backup.id.to_string()).with_effect(effect))
    }

    fn fail(&mut self, error: &Error) {
        self.failure = Some(DrillFailure {
            kind: error.kind(),
            message: error.full_message(),
            hint: error.hint().map(str::to_owned),
        });
    }

    fn take(&mut self, proof: Proof) {
        (_, self.rows) = TableFacts::tally(proof.comparison.tables.iter().filter_map(|t| t.found.as_ref()));
        self.tables = proof.comparison.tables;
        self.checks = proof.comparison.checks;
        self.assertions = proof.assertions;
        self.complaint = proof.complaint;
    }
}

impl BackupService {
    /// Restores a backup into a throwaway place, proves it, and removes the place. `Ok` means that there is a result,
    /// good or bad: call [`DrillReport::check`].
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the selector), `Unsupported`; what listing the repository fails with; `Interrupted`, `Timeout`.
    /// Everything that has to do with the chosen backup is in the report.
    ///
    /// # Cancellation
    /// Cancel through the context: the place is removed. Dropping the future leaves it behind, sealed.
    pub async fn drill(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        options: &DrillOptions,
    ) -> Result<DrillReport> {
        Box::pin(self.drill_steps(ctx, engine, options))
            .await
            .map_err(|e: Error| e.in_operation("backup drill").on_engine(engine.kind()))
    }

    async fn drill_steps(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        options: &DrillOptions,
    ) -> Result<DrillReport> {
        ctx.check()?;
        let mut steps = Steps::begin();
        let target = target_of(engine)?;
        let listing = ctx.run(self.repository.list(ctx, options.selector.target())).await?;
        let request = RestoreRequest {
            tables: options.tables.clone(),
            jobs: options.jobs,
            scratch_dir: options.scratch_dir.clone(),
            until: options.until.clone(),
            exclusive: options.exclusive,
            checks: options.checks,
            settings: options.settings.clone(),
            ..RestoreRequest::to(Destination::New(None))
        };
        let rows = (!options.tables.is_empty()).then_some(dm_core::BackupMode::Logical);
        let choice = point::choose(&listing, &options.selector, &request, engine.log().is_some(), rows)?;
        // The drill is of the first: that another one would do is no comfort, the point of this one is to know.
        let Some(backup) = choice.backups.into_iter().next() else {
            return Err(Error::internal("a backup was chosen and is not there"));
        };
        let mut report = DrillReport::new(backup.clone(), ctx.now(), choice.until.clone());
        report.warnings =
            choice.findings.iter().filter(|f| f.level >= Level::Warning).map(|f| f.message.clone()).collect();
        let destination = throwaway(ctx, &backup, options);
        let request = RestoreRequest { until: choice.until, destination: destination.clone(), ..request };
        let planning = Box::pin(self.plan_with(ctx, target.as_ref(), &listing, backup, &request));
        let planned = steps.time(Stage::Pre, "plan", planning).await;
        let outcome = match planned {
            Ok(plan) => self.attempt(ctx, target.as_ref(), &plan, options, &mut report, &mut steps).await,
            Err(error) => Err(error),
        };
        report.duration_ms = steps.elapsed_ms();
        report.steps = steps.done;
        if let Err(error) = outcome {
            if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Timeout) || ctx.check().is_err() {
                return Err(match &report.left {
                    Some(left) => error
                        .with_effect(Effect::Partial)
                        .with_hint(format!("remove what is left by hand: {left}")),
                    None => error,
                });
            }
            report.fail(&error);
        }
        report.ok = report.failure.is_none() && report.complaint.is_none();
        tracing::info!(backup = %report.backup.id, ok = report.ok, duration_ms = report.duration_ms, "drill ended");
        Ok(report)
    }

    /// From a plan to the removal of the place. What was found is put into the report.
    async fn attempt(
        &self,
        ctx: &OpContext,
        target: &dyn RestoreTarget,
        plan: &RestorePlan,
        options: &DrillOptions,
        report: &mut DrillReport,
        steps: &mut Steps,
    ) -> Result<()> {
        report.reaches = plan.preview.reaches.clone();
        refuse(&plan.preview.findings, "the drill")?;
        room_for(plan, options)?;
        // The lease before the log: what is listed under it, no expiry takes away until it ends.
        let reader = self.repository.read(ctx, &plan.backup).await?;
        report.warnings.extend(reader.warnings().iter().cloned());
        let made = async {
            let log = self.log_for(ctx, &plan.backup, &plan.until).await?;
            let asked = RestoreRequest { log, digest_key: reader.digest_key(), ..plan.request() };
            let looked = look(ctx, target, &reader, &asked, ctx.now()).await?;
            Place::make(ctx, target, &reader, &looked, &looked.preview, steps).await
        };
        let made = Box::pin(made).await;
        close(reader).await;
        let place = match made {
            Ok(place) => place,
            Err(error) => {
                // The place is gone, unless the error says what is left.
                if error.effect() == Effect::Partial {
                    report.left = Some(error.hint().unwrap_or("a sealed place").to_owned());
                }
                return Err(error);
            }
        };
        report.place = Some(place.name.clone());
        report.bytes = place.bytes;
        report.bytes_per_second = place.bytes.saturating_mul(1000) / place.written_ms.max(1);
        let proven = place.prove(ctx, &options.assertions, steps).await;
        report.restore_ms = steps.elapsed_ms();
        ctx.progress(Progress::Phase { name: "removing", total_bytes: None });
        let name = place.name.clone();
        if let Err(error) = steps.time(Stage::Post, "remove", place.discard(ctx)).await {
            tracing::warn!(place = name, %error, "the throwaway place could not be removed");
            report.left = Some(format!("{name} ({error})"));
        } else if let Destination::New(Some(path)) = &plan.destination
            && Path::new(path).is_absolute()
            && std::fs::symlink_metadata(path).is_ok()
        {
            report.left = Some(path.clone());
        }
        report.take(proven?);
        Ok(())
    }
}

/// Where a drill goes: files into the scratch folder, a database beside the engine's own under a name that it chooses.
fn throwaway(ctx: &OpContext, backup: &BackupHeader, options: &DrillOptions) -> Destination {
    if backup.mode == dm_core::BackupMode::Logical {
        return Destination::New(None);
    }
    let folder = options.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
    let id = ctx.run_id().to_string();
    let name = format!("dm-drill-{}", &id[id.len().saturating_sub(12)..]);
    Destination::New(Some(folder.join(name).display().to_string()))
}

/// Whether the disk has room for a place of files.
fn room_for(plan: &RestorePlan, options: &DrillOptions) -> Result<()> {
    let (Some(free), Destination::New(Some(path))) = (&options.disk.free, &plan.destination) else {
        return Ok(());
    };
    let Some(bytes) = free(Path::new(path)) else { return Ok(()) };
    let needed = plan.preview.bytes.saturating_add(options.disk.min_free_bytes);
    if bytes >= needed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Exhausted,
        format!("the drill needs {} and {} are free", ByteSize(needed), ByteSize(bytes)),
    )
    .about(path.clone())
    .with_hint("free space there, or name another folder for the drill"))
}
