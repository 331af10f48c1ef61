//! Bringing a backup back: plan, fill a sealed place, compare, and only then open it.
//!
//! The place stays sealed until the comparison with what the backup recorded went through. Where it did not, the place is
//! kept sealed for a person to look at, or removed, as asked; it is never opened by itself.

mod fill;
mod proof;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dm_core::{
    Comparison, Destination, Effect, Engine, Error, ErrorKind, Finding, Level, OpContext, PlanDigest,
    Progress, RestoreManifest, RestorePreview, RestoreRequest, RestoreSession, RestoreTarget, Restored,
    Result, TableComparison, TableFacts, TenantFilter,
};
use dm_repository::{BackupHeader, BackupReader};
use serde::{Deserialize, Serialize};

use self::fill::fill;
use self::proof::{differences, expected_tables, is_proven};
use crate::keep::Soundness;
use crate::preflight::refuse;
use crate::record::soundness;
use crate::run::millis;
use crate::select::find;
use crate::{BackupService, Selector, pool};

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
    /// What the engine says would happen.
    pub preview: RestorePreview,
    /// Digest of what the plan rests on.
    pub digest: PlanDigest,
}

/// What to do with a restored place whose content is not what the backup recorded.
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
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions {
    /// What to do when the proof fails.
    pub unproven: Unproven,
    /// Does and compares everything, then takes it back: nothing is released. The report says what would have changed.
    pub rehearse: bool,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The backup.
    pub backup: BackupHeader,
    /// Where it is now.
    pub location: String,
    /// Where what stood there before was kept, if anything.
    pub previous: Option<String>,
    /// Table by table: recorded and found.
    pub tables: Vec<TableComparison>,
    /// The engine's own checks.
    pub checks: Vec<Finding>,
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
    /// Whether the place is open to others; a rehearsal took it back.
    pub released: bool,
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
        location: &preview.location,
        consequences: &preview.consequences,
        members: &preview.members,
        bytes: preview.bytes,
        problems: problems.collect(),
    })
}

fn target_of(engine: &dyn Engine) -> Result<Arc<dyn RestoreTarget>> {
    engine.restore().ok_or_else(|| {
        Error::unsupported(format!("{} databases cannot be restored into", engine.kind()))
            .on_engine(engine.kind())
    })
}

impl BackupService {
    /// Says what a restore would do. Reads only. Findings of level `Error` in the preview make the apply refuse.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the selector), `Unsupported` (another engine's backup), `Unreachable`, `Denied`, `Corrupt`.
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
            let backup = find(&listing, selector)?;
            let reader = self.repository.read(ctx, &backup).await?;
            let looked = look(ctx, target.as_ref(), &reader, request).await;
            close(reader).await;
            let mut preview = looked?.preview;
            let digest = digest_of(&backup, request, &preview)?;
            if soundness(&listing, backup.id) == Soundness::Damaged {
                preview.findings.push(
                    Finding::new(
                        Level::Warning,
                        "verification",
                        "the last verification found this backup damaged",
                    )
                    .with_mend("choose another one: the list says which were verified"),
                );
            }
            Ok(RestorePlan {
                backup,
                destination: request.destination.clone(),
                tables: request.tables.clone(),
                tenant: request.tenant.clone(),
                jobs: request.jobs,
                scratch_dir: request.scratch_dir.clone(),
                preview,
                digest,
            })
        };
        plan.await.map_err(|e: Error| e.in_operation("restore plan"))
    }

    /// Does what a plan says.
    ///
    /// # Errors
    /// - `Conflict`: the plan went stale. Nothing was changed.
    /// - `CheckFailed`: what stands there is not what the backup recorded. The sealed place was kept (effect `Partial`) or
    ///   removed (effect `None`), as asked.
    /// - `Interrupted`, `Corrupt`, `Exhausted` ...: the sealed place was removed (effect `None`), or the hint names what is left.
    ///
    /// # Cancellation
    /// Cancel through the context: the sealed place is then removed. Dropping the future leaves it behind, sealed.
    pub async fn apply_restore(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        plan: &RestorePlan,
        options: ApplyOptions,
    ) -> Result<RestoreReport> {
        let report = async {
            ctx.check()?;
            let target = target_of(engine)?;
            let backup = self.repository.header(ctx, &plan.backup.target, plan.backup.id).await?;
            let reader = self.repository.read(ctx, &backup).await?;
            let report = restore(ctx, target.as_ref(), &reader, &backup, plan, options).await;
            close(reader).await;
            report
        };
        report.await.map_err(|e: Error| e.in_operation("restore").on_engine(engine.kind()))
    }
}

/// Ends the reader's lease. A lease that could not be ended runs out by itself.
async fn close(reader: BackupReader) {
    if let Err(error) = reader.close().await {
        tracing::warn!(%error, "the reader's lease could not be ended; it runs out by itself");
    }
}

struct Looked {
    request: RestoreRequest,
    manifest: RestoreManifest,
    preview: RestorePreview,
}

async fn look(
    ctx: &OpContext,
    target: &dyn RestoreTarget,
    reader: &BackupReader,
    request: &RestoreRequest,
) -> Result<Looked> {
    let members = ctx.run(reader.members(ctx)).await?;
    let manifest =
        RestoreManifest { source: reader.source().clone(), members, tables: reader.tables().to_vec() };
    let request = RestoreRequest { digest_key: reader.digest_key(), ..request.clone() };
    let preview = ctx.run(target.preview(ctx, &request, &manifest)).await?;
    Ok(Looked { request, manifest, preview })
}

/// From the second look to the release.
async fn restore(
    ctx: &OpContext,
    target: &dyn RestoreTarget,
    reader: &BackupReader,
    backup: &BackupHeader,
    plan: &RestorePlan,
    options: ApplyOptions,
) -> Result<RestoreReport> {
    let began = Instant::now();
    let asked = RestoreRequest {
        tables: plan.tables.clone(),
        tenant: plan.tenant.clone(),
        jobs: plan.jobs,
        digest_key: reader.digest_key(),
        scratch_dir: plan.scratch_dir.clone(),
        ..RestoreRequest::to(plan.destination.clone())
    };
    let Looked { request, manifest, preview } = look(ctx, target, reader, &asked).await?;
    plan.digest.require(&digest_of(backup, &asked, &preview)?)?;
    refuse(&preview.findings, "the restore")?;
    let expected = expected_tables(&manifest, &preview, &request);

    // Not raced with the cancellation: whoever drops a half-made place cannot remove it.
    let session: Arc<Box<dyn RestoreSession>> =
        Arc::new(target.open(ctx, &request, &manifest, &plan.preview).await?);
    let place =
        session.location().unwrap_or_else(|| format!("the sealed place of {}", plan.preview.location));
    let bytes = Arc::new(AtomicU64::new(0));
    let filled = fill(ctx, reader, &session, &manifest, &plan.preview, request.jobs, &bytes).await;
    let filled_in = began.elapsed();
    let compared = match filled {
        Ok(()) => compare(ctx, session.as_ref().as_ref(), &expected).await,
        Err(error) => Err(error),
    };
    let session = Arc::try_unwrap(session).map_err(|_| {
        Error::internal("a task of the restore outlived it")
            .with_effect(Effect::Partial)
            .with_hint(format!("what is left is sealed: {place}"))
    })?;
    let comparison_ms = millis(began.elapsed().saturating_sub(filled_in));
    let comparison = match compared {
        Ok(comparison) => comparison,
        Err(error) => return Err(discard(ctx, session, &place, error).await),
    };
    let equal = is_proven(&comparison, &expected);
    if !equal && options.unproven != Unproven::Release {
        let error = Error::new(ErrorKind::CheckFailed, differences(&comparison, &expected));
        return Err(if options.unproven == Unproven::Discard {
            discard(ctx, session, &place, error).await
        } else {
            // Dropping the session leaves the place as it is.
            error.with_effect(Effect::Partial).about(&place).with_hint(
                "it is kept sealed for you to look at; remove it by hand, or restore again and release what differs",
            )
        });
    }
    if let Err(error) = ctx.check() {
        return Err(discard(ctx, session, &place, error).await);
    }
    let (restored, released) = if options.rehearse {
        session
            .discard(&pool::cleanup(ctx))
            .await
            .map_err(|e| e.with_effect(Effect::Partial).about(&place))?;
        (Restored { location: plan.preview.location.clone(), ..Restored::default() }, false)
    } else {
        (release(ctx, session, &place).await?, true)
    };
    tracing::info!(backup = %backup.id, location = %restored.location, equal, released, "restored");
    let bytes = bytes.load(Ordering::Relaxed);
    let mut warnings = reader.warnings().to_vec();
    if expected.is_empty() && comparison.tables.is_empty() {
        warnings.push(
            "the backup recorded no facts of tables: only the engine's own checks were made".to_owned(),
        );
    }
    Ok(RestoreReport {
        backup: backup.clone(),
        location: restored.location,
        previous: restored.previous,
        tables: comparison.tables,
        checks: comparison.checks,
        equal,
        comparison_ms,
        duration_ms: millis(began.elapsed()),
        bytes,
        bytes_per_second: bytes.saturating_mul(1000) / millis(filled_in).max(1),
        released,
        warnings,
    })
}

async fn release(ctx: &OpContext, session: Box<dyn RestoreSession>, place: &str) -> Result<Restored> {
    session.release(ctx).await.map_err(|e| {
        let effect = if e.effect() == Effect::None { Effect::Partial } else { e.effect() };
        let error = e.with_effect(effect);
        if error.hint().is_some() {
            error
        } else {
            error.with_hint(format!("the restored data is sealed: {place}"))
        }
    })
}

async fn compare(
    ctx: &OpContext,
    session: &dyn RestoreSession,
    expected: &[TableFacts],
) -> Result<Comparison> {
    ctx.progress(Progress::Phase { name: "comparing", total_bytes: None });
    ctx.run(session.compare(ctx, expected)).await
}

/// Removes the sealed place, and gives back the error that led here, with what is left if that failed.
async fn discard(ctx: &OpContext, session: Box<dyn RestoreSession>, place: &str, error: Error) -> Error {
    match session.discard(&pool::cleanup(ctx)).await {
        Ok(()) => error.with_effect(Effect::None),
        Err(second) => {
            tracing::warn!(place, error = %second, "the sealed place could not be removed");
            let hint = format!("what is left is sealed and must be removed by hand: {place} ({second})");
            let hint = error.hint().map_or_else(|| hint.clone(), |first| format!("{first}; {hint}"));
            error.with_effect(Effect::Partial).with_hint(hint)
        }
    }
}
