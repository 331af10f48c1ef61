//! Making a backup: look, choose the base, open the snapshot, write the members, commit, verify.
//!
//! Nothing is a backup until it is committed. What a run stored before it failed or was cancelled is no backup and no reader
//! ever sees it; it stays for a while, so that the next run need not send it again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dm_core::{
    BackupKind, BackupRequest, BackupSession, BackupSource, Effect, Engine, Error, ErrorKind, Finding, Level,
    MemberSpec, OpContext, Progress, Result, SessionSummary, SourceDescription, TargetName,
};
use dm_repository::{BackupHeader, BackupStart, BackupWriter, ResumedFrom, Verification, VerifyLevel};
use serde::{Deserialize, Serialize};

use crate::BackupService;
use crate::hooks::{HookPhase, HookReport};
use crate::parent::{self, Origin};
use crate::pool;
use crate::preflight::{DiskCheck, refuse, source_of};
use crate::run_hooks::{BackupHook, RunHooks};

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The target: the folder of its backups. A backup of one tenant goes to a target of its own beside it
    /// ([`TenantFilter::target`](dm_core::TenantFilter::target)).
    pub target: TargetName,
    /// Full, differential or incremental.
    pub kind: BackupKind,
    /// What the engine is asked for. The digest key is filled in.
    pub request: BackupRequest,
    /// How deep to verify right after the commit; not at all when `None`.
    pub verify_after: Option<VerifyLevel>,
    /// What to ask of the local disks.
    pub disk: DiskCheck,
    /// Whether to begin anew, and leave alone what an interrupted run of the target stored.
    pub no_resume: bool,
    /// What runs before, during and after it, in this order.
    pub hooks: Vec<BackupHook>,
}

impl RunOptions {
    /// A full backup of a target with the defaults, without a verification.
    #[must_use]
    pub fn full(target: TargetName) -> Self {
        Self {
            target,
            kind: BackupKind::Full,
            request: BackupRequest::default(),
            verify_after: None,
            disk: DiskCheck::default(),
            no_resume: false,
            hooks: Vec::new(),
        }
    }

    /// The same of another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: BackupKind) -> Self {
        self.kind = kind;
        self
    }
}

/// When a step of a run took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Before the snapshot.
    Pre,
    /// While it was open.
    During,
    /// After the commit.
    Post,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub stage: Stage,
    /// What: `preflight` (repository, disk, connections, base), `open`, `read`, `commit` (index, inventory, integrity of what it
    /// rests on), `verify`, and `hook <name>`.
    pub name: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The backup.
    pub backup: BackupHeader,
    /// Tables with facts (row count, content digest).
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Bytes read from the engine.
    pub read_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Bytes that stood there already.
    pub reused_bytes: u64,
    /// The interrupted backup that it went on from, and the bytes that were not sent again.
    pub resumed: Option<ResumedFrom>,
    /// From the first look to the end, in milliseconds.
    pub duration_ms: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The preflight's findings.
    pub findings: Vec<Finding>,
    /// The verification, where one was asked for.
    pub verification: Option<Verification>,
    /// The hooks that ran.
    #[serde(default)]
    pub hooks: Vec<HookReport>,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// What the engine recorded of the source (how changes were found, corrupt pages); it is in the backup, and can be large.
    #[serde(skip)]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// Times the steps.
pub(crate) struct Steps {
    began: Instant,
    pub(crate) done: Vec<Step>,
}

impl Steps {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    pub(crate) async fn time<T>(&mut self, stage: Stage, name: &str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let result = work.await;
        let step = Step { stage, name: name.to_owned(), duration_ms: millis(began.elapsed()) };
        tracing::debug!(step = name, duration_ms = step.duration_ms, "step ended");
        self.done.push(step);
        result
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A snapshot and the place that it goes to.
struct Opened {
    writer: BackupWriter,
    session: Box<dyn BackupSession>,
}

impl BackupService {
    /// Makes a backup. `Ok` means: committed, durable, and verified where that was asked for.
    ///
    /// # Errors
    /// - `Unsupported`: the engine cannot, or this kind of backup is not possible here; the hint names the alternative.
    /// - `NotFound`, `Invalid`, `Denied`, `Exhausted`: the preflight found what would make it fail.
    /// - `CheckFailed` with effect `Applied`: committed, but the verification found it damaged.
    /// - `Interrupted`: the context was cancelled; no backup was committed.
    /// - what engine and repository fail with; no backup was committed unless the effect says otherwise.
    ///
    /// # Cancellation
    /// Cancel through the context, or drop the future: what was stored stays for a day, and the next run of the target goes on
    /// from it. It reads the source anew; what says the same is not sent again. Running again is always safe.
    pub async fn run(&self, ctx: &OpContext, engine: &dyn Engine, options: RunOptions) -> Result<RunReport> {
        let mut hooks = RunHooks::new(ctx, options.hooks.clone(), options.target.clone(), options.kind);
        let mut steps = Steps::begin();
        match Box::pin(self.run_steps(ctx, engine, options, &mut hooks, &mut steps)).await {
            Ok(report) => Ok(report),
            Err(error) => {
                let error = error.in_operation("backup run").on_engine(engine.kind());
                Err(Box::pin(hooks.failed(error, &mut steps)).await)
            }
        }
    }

    async fn run_steps(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        mut options: RunOptions,
        hooks: &mut RunHooks<'_>,
        steps: &mut Steps,
    ) -> Result<RunReport> {
        ctx.check()?;
        if let Some(tenant) = &options.request.tenant {
            options.target = tenant.target(&options.target, self.repository.id())?;
        }
        let source = source_of(engine)?;
        parent::require_capability(options.kind, engine.kind(), engine.capabilities())?;
        parent::require_index(options.kind, self.repository.can_read_index())?;
        ctx.progress(Progress::Phase { name: "checking", total_bytes: None });
        let (look, jobs) =
            steps.time(Stage::Pre, "preflight", Box::pin(self.look(ctx, engine, &options))).await?;
        options.request.jobs = jobs;
        refuse(&look.findings, "the backup")?;
        let mut warnings: Vec<String> = look
            .findings
            .iter()
            .filter(|f| f.level == Level::Warning)
            .map(|f| format!("{}: {}", f.check, f.message))
            .collect();

        hooks.at(HookPhase::Before, steps).await.map_err(|e| e.with_hint("no backup was begun"))?;
        let opened = steps
            .time(Stage::Pre, "open", Box::pin(self.open(ctx, engine, source.as_ref(), &options)))
            .await?;
        hooks.backup = Some(opened.writer.id());
        if let Err(error) = hooks.at(HookPhase::During, steps).await {
            drop(opened.session);
            let error = error.with_hint("no backup was committed; see to the hook, then run it again");
            return Err(suspend(ctx, opened.writer, error).await);
        }
        ctx.progress(Progress::Phase { name: "reading", total_bytes: Some(look.estimated_bytes) });
        let written =
            steps.time(Stage::During, "read", Box::pin(write(ctx, opened, options.request.jobs))).await?;
        warnings.extend(written.summary.warnings.iter().cloned());

        ctx.progress(Progress::Phase { name: "committing", total_bytes: None });
        let Written { writer, source, summary, reused_bytes } = written;
        let attributes = source.attributes.clone();
        let backup = steps.time(Stage::During, "commit", writer.commit(ctx, source, summary)).await?;
        tracing::info!(backup = %backup.id, target = %backup.target, kind = %backup.kind, stored = backup.sizes.stored, "backup committed");

        let mut verification = None;
        if let Some(level) = options.verify_after {
            ctx.progress(Progress::Phase { name: "verifying", total_bytes: None });
            let verified =
                steps.time(Stage::Post, "verify", self.repository.verify(ctx, &backup, level)).await;
            verification = Some(proven(&backup, verified)?);
        }
        let after = hooks.at(HookPhase::After, steps).await;
        after.map_err(|e| {
            e.with_effect(Effect::Applied).with_hint(format!("the backup {} is committed", backup.id))
        })?;
        let told = hooks.reports.iter().filter_map(|r| Some((r, r.problem.as_ref()?)));
        warnings.extend(told.map(|(r, problem)| format!("the {} hook ({}): {problem}", r.phase, r.command)));
        for warning in &warnings {
            ctx.progress(Progress::Warning(warning.clone()));
        }
        Ok(RunReport {
            tables: backup.counts.tables,
            rows: backup.counts.rows,
            read_bytes: backup.sizes.read,
            stored_bytes: backup.sizes.stored,
            reused_bytes,
            resumed: backup.resumed,
            backup,
            duration_ms: steps.elapsed_ms(),
            warnings,
            findings: look.findings,
            verification,
            hooks: std::mem::take(&mut hooks.reports),
            steps: std::mem::take(&mut steps.done),
            attributes,
        })
    }

    /// Begins in the repository and opens the snapshot. The digest key comes from the base, so the base is chosen first, by
    /// what is known; when the open source turns out to be another one, the choice is made once more.
    async fn open(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        source: &dyn BackupSource,
        options: &RunOptions,
    ) -> Result<Opened> {
        let mut origin = Origin::expected(engine.kind(), options.request.mode);
        for _ in 0..2 {
            let base = self.base_for(ctx, options, &origin).await?;
            let start = BackupStart {
                target: options.target.clone(),
                kind: options.kind,
                parent: base.clone(),
                started_at: ctx.now(),
                resume: !options.no_resume,
            };
            let writer = ctx.run(self.repository.begin(ctx, start)).await?;
            let request = BackupRequest {
                digest_key: writer.digest_key(),
                base: writer.base(),
                ..options.request.clone()
            };
            let session = match ctx.run(source.open(ctx, &request)).await {
                Ok(session) => session,
                Err(error) => return Err(suspend(ctx, writer, error).await),
            };
            origin = Origin::of(session.describe());
            if base.is_none_or(|base| origin.fits(&base)) {
                return Ok(Opened { writer, session });
            }
            drop(session);
            let other = Error::new(ErrorKind::Conflict, "the database is another one than a moment ago");
            suspend(ctx, writer, other).await;
        }
        Err(Error::new(ErrorKind::Conflict, "the database is another one than a moment ago")
            .with_hint("look whether somebody replaces the server just now, then try again"))
    }

    async fn base_for(
        &self,
        ctx: &OpContext,
        options: &RunOptions,
        origin: &Origin,
    ) -> Result<Option<BackupHeader>> {
        if options.kind == BackupKind::Full {
            return Ok(None);
        }
        let listing = ctx.run(self.repository.list(ctx, Some(&options.target))).await?;
        parent::choose(&listing, &options.target, options.kind, origin).map(Some)
    }
}

/// Everything is in the repository but the commit.
struct Written {
    writer: BackupWriter,
    source: SourceDescription,
    summary: SessionSummary,
    reused_bytes: u64,
}

/// Writes every member and ends the snapshot; suspends the backup when that fails.
async fn write(ctx: &OpContext, opened: Opened, jobs: usize) -> Result<Written> {
    let Opened { writer, session } = opened;
    let (writer, session) = (Arc::new(writer), Arc::new(session));
    let reused = Arc::new(AtomicU64::new(0));
    let result = Box::pin(write_rounds(ctx, jobs, &writer, &session, &reused)).await;
    let lost = || Error::internal("a task of the backup outlived it");
    let writer = Arc::try_unwrap(writer).map_err(|_| lost())?;
    let finished = match (result, Arc::try_unwrap(session)) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(_)) => Err(lost()),
        (Ok(()), Ok(session)) => {
            let source = session.describe().clone();
            ctx.run(session.finish(ctx)).await.map(|mut summary| (source.completed(&mut summary), summary))
        }
    };
    match finished {
        Ok((source, summary)) => {
            Ok(Written { writer, source, summary, reused_bytes: reused.load(Ordering::Relaxed) })
        }
        Err(error) => Err(suspend(ctx, writer, error).await),
    }
}

/// The members that there are, then those that the session has when these were read, until it has none.
async fn write_rounds(
    ctx: &OpContext,
    jobs: usize,
    writer: &Arc<BackupWriter>,
    session: &Arc<Box<dyn BackupSession>>,
    reused: &Arc<AtomicU64>,
) -> Result<()> {
    let mut round = session.members().to_vec();
    while !round.is_empty() {
        pool::each(ctx, jobs, round, |task, member| {
            write_member(task, Arc::clone(writer), Arc::clone(session), member, Arc::clone(reused))
        })
        .await?;
        round = ctx.run(session.more_members(ctx)).await?;
    }
    Ok(())
}

async fn write_member(
    ctx: OpContext,
    writer: Arc<BackupWriter>,
    session: Arc<Box<dyn BackupSession>>,
    member: MemberSpec,
    reused: Arc<AtomicU64>,
) -> Result<()> {
    let name = member.name.clone();
    let blocks = session.read(&ctx, &member).await.map_err(|e| e.about(&name))?;
    // The writer reports the bytes as it takes them.
    let written = Box::pin(writer.write_member(&ctx, member.clone(), blocks)).await;
    let summary = written.map_err(|e| e.about(&name))?;
    if summary.unchanged {
        session.member_unchanged(&member);
    }
    reused.fetch_add(summary.reused_bytes, Ordering::Relaxed);
    ctx.progress(Progress::Item(name));
    Ok(())
}

/// Leaves what was stored to the next run, and gives back the error that led here. Where the place is full, nothing is left:
/// the next run would find it as full. That this fails as well changes nothing for the reader: without a commit there is no
/// backup, and a later sweep removes the folder.
async fn suspend(ctx: &OpContext, writer: BackupWriter, error: Error) -> Error {
    let id = writer.id();
    let cleanup = pool::cleanup(ctx);
    let ended = match error.kind() {
        ErrorKind::Exhausted => writer.abandon(&cleanup).await,
        _ => writer.suspend(&cleanup).await,
    };
    match ended {
        Ok(()) => tracing::info!(backup = %id, %error, "backup ended without a commit"),
        Err(second) => {
            tracing::warn!(backup = %id, error = %second, "an unfinished backup could not be put in order; a later sweep removes it");
            ctx.progress(Progress::Warning(format!(
                "{id} is unfinished and could not be put in order: {second}"
            )));
        }
    }
    error
}

/// The verification right after the commit, or the error that says what stands there.
fn proven(backup: &BackupHeader, verified: Result<Verification>) -> Result<Verification> {
    match verified {
        Ok(verification) if verification.ok => Ok(verification),
        Ok(verification) => {
            let found: Vec<&str> = verification
                .findings
                .iter()
                .filter(|f| f.level == Level::Error)
                .take(3)
                .map(|f| f.message.as_str())
                .collect();
            Err(Error::new(
                ErrorKind::CheckFailed,
                format!("committed, but the verification found it damaged: {}", found.join("; ")),
            )
            .about(backup.id.to_string())
            .with_effect(Effect::Applied)
            .with_hint("look after the storage, then take another full backup"))
        }
        Err(error) => {
            Err(error.with_effect(Effect::Applied).about(backup.id.to_string()).with_hint(format!(
                "the backup {} is committed, only its verification did not end: verify it again",
                backup.id
            )))
        }
    }
}
