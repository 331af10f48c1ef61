//! Migrations: the verbs through the pipeline, and what production demands besides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dm_core::{
    BackfillRequest, BackupId, Direction, Engine, EngineId, EngineKind, Error, ErrorKind, ForeignTool,
    HistoryEntry, MigrationSettings, MigrationState, MigrationTarget, OpContext, PlanDigest, Result,
};
use dm_lint::{Dialect, LintContext, LintFile, LintFinding, Severity, TableSize};
use dm_migrate::{
    BackfillPace, BackfillReport, EmbeddedFile, Goal, MigrationFiles, MigrationPlan, MigrationReport,
    Migrator, Resolution, RunSettings, SeedFiles, SeedReport, StatementVerdict, StatusReport,
};
use dm_repository::VerifyLevel;
use serde::Serialize;
use serde_json::json;

use crate::pipeline::Operation;
use crate::{BackupOptions, DataManager, OperationKind};

const STATUS: OperationKind = OperationKind::MigrateStatus;
const PLAN: OperationKind = OperationKind::MigratePlan;
const LINT: OperationKind = OperationKind::MigrateLint;
const NEW: OperationKind = OperationKind::MigrateNew;
const UP: OperationKind = OperationKind::MigrateUp;
const DOWN: OperationKind = OperationKind::MigrateDown;
const REDO: OperationKind = OperationKind::MigrateRedo;
const RESOLVE: OperationKind = OperationKind::MigrateResolve;
const BASELINE: OperationKind = OperationKind::MigrateBaseline;
const SEED: OperationKind = OperationKind::MigrateSeed;
const BACKFILL: OperationKind = OperationKind::MigrateBackfill;
const RESUME: OperationKind = OperationKind::MigrateResume;

/// A wait without a limit is one that nobody lives to see the end of.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where migrations come from.
#[derive(Clone, Debug, Default)]
pub enum MigrationSource {
    /// The folder of the configuration.
    #[default]
    Configured,
    /// This folder.
    Folder(PathBuf),
    /// Files that were embedded in the program when it was compiled; see [`embed_migrations!`](crate::embed_migrations).
    Embedded(&'static [EmbeddedFile]),
}

/// Which migrations, of which engine. The default: those of the configured folder, on the only engine.
#[derive(Clone, Debug, Default)]
pub struct MigrateOptions {
    /// The engine; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The files.
    pub source: MigrationSource,
    /// How far to go.
    pub goal: Goal,
    /// Applies also what is older than the newest applied migration.
    pub out_of_order: bool,
    /// Longest wait for another runner; the configuration's when `None`.
    pub wait: Option<Duration>,
    /// With the demands of production, whatever the configuration says.
    pub production: bool,
}

/// How production's demands were met.
struct ProductionProof {
    /// The verified backup that the run rests on.
    backup: BackupId,
    /// Whether it was made for this run.
    backup_made: bool,
}

/// What lint found, and whether it stops anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LintReport {
    /// What was looked at.
    pub files: Vec<String>,
    /// What was found, in the order of files.
    pub findings: Vec<LintFinding>,
}

impl LintReport {
    /// Whether nothing was found that is more than a notice.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|f| f.severity < Severity::Warning)
    }
}

/// The migrations of a [`DataManager`].
#[derive(Clone, Copy, Debug)]
pub struct Migrations<'a> {
    pub(crate) dm: &'a DataManager,
}

/// Everything that a verb works with.
pub(crate) struct Opened {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) migrator: Migrator,
    pub(crate) files: MigrationFiles,
}

impl Migrations<'_> {
    /// Compares the files with the database's history. Writes nothing into the database.
    ///
    /// # Errors
    /// `NotFound` without the folder; `Unreachable`, `Denied`. What is wrong with a migration is in the report.
    pub async fn status(&self, ctx: &OpContext, options: &MigrateOptions) -> Result<StatusReport> {
        let opened = self.open(options)?;
        let work = async { opened.migrator.status(ctx, &opened.files).await };
        self.dm.operate(ctx, Operation::new(STATUS, opened.engine.id().as_str()), work).await
    }

    /// What [`up`](Self::up) or [`down`](Self::down) would run, statement by statement, with the sizes of the tables. Writes
    /// nothing into the database.
    ///
    /// # Errors
    /// As [`status`](Self::status); `Unsupported` when a script back is missing.
    pub async fn plan(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        direction: Direction,
    ) -> Result<MigrationPlan> {
        let opened = self.open(options)?;
        let work = async { opened.migrator.plan(ctx, &opened.files, direction, options.goal).await };
        self.dm.operate(ctx, Operation::new(PLAN, opened.engine.id().as_str()), work).await
    }

    /// Reads the pending files (or with `all` every file) and says what they would do to a database in use.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn lint(&self, ctx: &OpContext, options: &MigrateOptions, all: bool) -> Result<LintReport> {
        let opened = self.open(options)?;
        let work = self.linted(ctx, &opened, all);
        self.dm.operate(ctx, Operation::new(LINT, opened.engine.id().as_str()), work).await
    }

    async fn linted(&self, ctx: &OpContext, opened: &Opened, all: bool) -> Result<LintReport> {
        let status = opened.migrator.status(ctx, &opened.files).await?;
        let pending: Vec<i64> = status.pending().map(|m| m.version).collect();
        let sizes = opened.migrator.target().table_sizes(ctx).await?;
        let name = |schema: Option<&str>, name: &str| match schema {
            None | Some("public") => name.to_owned(),
            Some(schema) => format!("{schema}.{name}"),
        };
        let sizes = sizes.iter().map(|s| {
            let size = TableSize { rows: s.rows.unwrap_or_default(), bytes: s.bytes.unwrap_or_default() };
            (name(s.schema.as_deref(), &s.name), size)
        });
        let config = &self.dm.config.migrate;
        let context = LintContext {
            lock_timeout: config.lock_timeout.is_some(),
            statement_timeout: config.statement_timeout.is_some(),
            sizes: Some(sizes.collect()),
            classified: config.classified.iter().cloned().collect(),
        };
        let files: Vec<LintFile> = opened
            .files
            .migrations
            .iter()
            .map(|m| LintFile {
                path: m.up.file.clone(),
                text: m.up.text.clone(),
                transaction: !m.up.no_transaction,
                judged: all || pending.contains(&m.version),
            })
            .collect();
        let findings = dm_lint::lint(dialect(opened.engine.kind())?, &files, &context);
        Ok(LintReport { files: files.into_iter().filter(|f| f.judged).map(|f| f.path).collect(), findings })
    }

    /// Applies what is pending; with a digest, only what the plan of that digest said. Safe to call at every start of a
    /// program, by any number of them at once: each migration is applied exactly once, and where nothing is pending no lock is
    /// taken and nothing is written.
    ///
    /// # Errors
    /// `Conflict` when something is wrong with files or history, a script fails or the plan went stale; `CheckFailed` when
    /// production's demands are not met; `Busy` when another runner was not done in time; `Unreachable`, `Denied`.
    ///
    /// # Cancellation
    /// Cancel through the context. A transactional migration under way is undone; one that runs statement by statement goes on
    /// with [`resume`](Self::resume).
    pub async fn up(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        let opened = self.open(options)?;
        let production = options.production || self.dm.config.migrate.production;
        let operation = Operation::new(UP, opened.engine.id().as_str())
            .with_details(json!({ "goal": options.goal, "production": production }));
        let work = async {
            if production && let Some(proof) = self.prove(ctx, options, &opened).await? {
                tracing::info!(backup = %proof.backup, made = proof.backup_made, "production's demands are met");
            }
            opened.migrator.up(ctx, &opened.files, options.goal, planned).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Sees to it that production's demands are met: timeouts, lint, staging, and a fresh verified backup, which is made when
    /// there is none. `None` when nothing is pending.
    async fn prove(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        opened: &Opened,
    ) -> Result<Option<ProductionProof>> {
        let config = &self.dm.config.migrate;
        let refuse = |message: String| Error::new(ErrorKind::CheckFailed, message);
        let status = opened.migrator.status(ctx, &opened.files).await?;
        if status.pending().next().is_none() || !status.problems.is_empty() {
            // Nothing to do, or what `up` itself refuses with a better word.
            return Ok(None);
        }
        if config.lock_timeout.is_none() || config.statement_timeout.is_none() {
            return Err(refuse("production demands time limits, and one is switched off".to_owned())
                .with_hint("set migrate.lock_timeout and migrate.statement_timeout"));
        }
        let lint = self.linted(ctx, opened, false).await?;
        if let Some(first) = lint.findings.iter().find(|f| f.severity >= Severity::Warning) {
            let count = lint.findings.iter().filter(|f| f.severity >= Severity::Warning).count();
            return Err(refuse(format!(
                "lint does not pass ({count} found): {}:{}: {} ({})",
                first.file, first.line, first.message, first.rule
            ))
            .with_hint("\"dm migrate lint\" shows all of it, with the safe way to write each; \"-- dm:ignore <rule>: <reason>\" accepts one"));
        }
        if let Some(name) = &config.staging {
            self.proven_in_staging(ctx, name, &status).await?;
        }
        let (backup, backup_made) = self.fresh_backup(ctx, options, opened).await?;
        Ok(Some(ProductionProof { backup, backup_made }))
    }

    /// Every pending file must be applied on the engine of staging, with the same content.
    async fn proven_in_staging(&self, ctx: &OpContext, name: &str, status: &StatusReport) -> Result<()> {
        let id = EngineId::new(name)?;
        let engine = self.dm.engine(Some(&id))?;
        let history = target(&engine)?.history(ctx, &self.dm.config.migrate.table).await?.unwrap_or_default();
        for migration in status.pending() {
            let there = history.iter().find(|h| h.version == migration.version);
            let why = match there {
                Some(h) if h.state != MigrationState::Applied => Some("is not applied"),
                Some(h) if h.checksum != migration.checksum => Some("was applied with another content"),
                Some(_) => None,
                None => Some("was never applied"),
            };
            if let Some(why) = why {
                let file = migration.file.as_deref().unwrap_or("the migration");
                return Err(Error::new(
                    ErrorKind::CheckFailed,
                    format!("{file} {why} on {id}, and production demands it"),
                )
                .with_hint(format!("run \"dm migrate up --engine {id}\" first, with the same files")));
            }
        }
        Ok(())
    }

    async fn fresh_backup(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        opened: &Opened,
    ) -> Result<(BackupId, bool)> {
        let name = self.dm.target_of(opened.engine.as_ref(), None)?;
        let oldest = self.dm.config.migrate.backup_within.before(ctx.now());
        let list = match self.dm.backup().list(ctx, Some(&name)).await {
            Ok(list) => list.backups,
            // There is no repository yet; the backup makes it.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let fresh = list.iter().rev().find(|b| {
            b.verified_at.is_some()
                && b.problems.is_empty()
                && !b.deleting
                && oldest.is_some_and(|oldest| b.consistent_at >= oldest)
        });
        if let Some(fresh) = fresh {
            return Ok((fresh.id, false));
        }
        let backup = BackupOptions {
            engine: options.engine.clone(),
            verify: Some(VerifyLevel::Stored),
            ..BackupOptions::default()
        };
        let report = self.dm.backup().run(&self.dm.child_run(ctx), &backup).await?;
        Ok((report.backup.id, true))
    }

    /// Undoes applied migrations, newest first: the last one, so many, or down to a version.
    ///
    /// # Errors
    /// `Unsupported` when one has no script back: before anything runs. Else as [`up`](Self::up).
    ///
    /// # Cancellation
    /// As [`up`](Self::up).
    pub async fn down(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        let opened = self.open(options)?;
        let operation =
            Operation::new(DOWN, opened.engine.id().as_str()).with_details(json!({ "goal": options.goal }));
        let work = async { opened.migrator.down(ctx, &opened.files, options.goal, planned).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Undoes the newest migrations and applies them again.
    ///
    /// # Errors
    /// As [`down`](Self::down) and [`up`](Self::up).
    pub async fn redo(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        steps: usize,
    ) -> Result<MigrationReport> {
        let opened = self.open(options)?;
        let operation =
            Operation::new(REDO, opened.engine.id().as_str()).with_details(json!({ "steps": steps }));
        let work = async { opened.migrator.redo(ctx, &opened.files, steps).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Goes on with the migration whose runner died or that failed between its statements.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` when statements that are done were edited, or nobody can tell what is done.
    pub async fn resume(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        verdict: Option<StatementVerdict>,
    ) -> Result<MigrationReport> {
        let opened = self.open(options)?;
        let work = async { opened.migrator.resume(ctx, &opened.files, verdict).await };
        self.dm.operate(ctx, Operation::new(RESUME, opened.engine.id().as_str()), work).await
    }

    /// Declares a migration applied or undone, without running anything. The reason stands in the history and in the trail.
    ///
    /// # Errors
    /// `Invalid` without a reason; `NotFound`.
    pub async fn resolve(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        version: i64,
        resolution: Resolution,
        reason: &str,
    ) -> Result<HistoryEntry> {
        let opened = self.open(options)?;
        let details = json!({ "version": version, "as": resolution, "reason": reason });
        let operation = Operation::new(RESOLVE, opened.engine.id().as_str()).with_details(details);
        let work = async { opened.migrator.resolve(ctx, &opened.files, version, resolution, reason).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Takes over what another tool applied; its own table stays as it is.
    ///
    /// # Errors
    /// `NotFound` when it has no history there; `Conflict` when one of its migrations failed.
    pub async fn adopt(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        tool: ForeignTool,
    ) -> Result<Vec<HistoryEntry>> {
        let opened = self.open(options)?;
        let operation =
            Operation::new(BASELINE, opened.engine.id().as_str()).with_details(json!({ "from": tool }));
        let work = async { opened.migrator.adopt(ctx, &opened.files, tool).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Runs the seeds that were not run yet, or were edited since. A folder of `None` is the configured one.
    ///
    /// # Errors
    /// `NotFound` without the folder; else as [`up`](Self::up).
    pub async fn seed(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        source: &MigrationSource,
    ) -> Result<SeedReport> {
        let engine = self.dm.engine(engine)?;
        let migrator = self.migrator(&engine, &MigrateOptions::default())?;
        let target = migrator.target();
        let seeds = match source {
            MigrationSource::Configured => {
                SeedFiles::read(&self.dm.config.migrate.seeds, target.extension(), target.comment())?
            }
            MigrationSource::Folder(folder) => SeedFiles::read(folder, target.extension(), target.comment())?,
            MigrationSource::Embedded(files) => SeedFiles::embedded(files, target.comment())?,
        };
        let work = async { migrator.seed(ctx, &seeds).await };
        self.dm.operate(ctx, Operation::new(SEED, engine.id().as_str()), work).await
    }

    /// Fills a column in portions while the application works; goes on where a run of the same name ended.
    ///
    /// # Errors
    /// `Invalid`, `Busy`, `Unreachable`, `Denied`; what is done by then stays, on record.
    ///
    /// # Cancellation
    /// Cancel through the context, at any time; the same call goes on later.
    pub async fn backfill(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        request: &BackfillRequest,
        pace: BackfillPace,
    ) -> Result<BackfillReport> {
        let engine = self.dm.engine(engine)?;
        let migrator = self.migrator(&engine, &MigrateOptions::default())?;
        let details = json!({ "name": request.name, "table": request.table });
        let operation = Operation::new(BACKFILL, engine.id().as_str()).with_details(details);
        let work = async { migrator.backfill(ctx, request, pace).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Makes the files of a new migration, called as those that are there; gives their paths.
    ///
    /// # Errors
    /// `Invalid` for a description without words; `AlreadyExists`, `Denied`; `Unsupported` for embedded files.
    pub async fn create(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        description: &str,
        one_way: bool,
    ) -> Result<Vec<PathBuf>> {
        let engine = self.dm.engine(options.engine.as_ref())?;
        let folder = self.folder(&engine, &options.source)?;
        let work = async {
            let target = target(&engine)?;
            let (extension, comment) = (target.extension(), target.comment());
            let files = match MigrationFiles::read(&folder, extension, comment) {
                Err(error) if error.kind() == ErrorKind::NotFound => MigrationFiles::default(),
                read => read?,
            };
            dm_migrate::NewMigration { description, one_way, contents: None }.create(
                &folder,
                &files,
                extension,
                comment,
                ctx.now(),
            )
        };
        let operation =
            Operation::new(NEW, engine.id().as_str()).with_details(json!({ "description": description }));
        self.dm.operate(ctx, operation, work).await
    }

    pub(crate) fn folder(&self, engine: &Arc<dyn Engine>, source: &MigrationSource) -> Result<PathBuf> {
        match source {
            MigrationSource::Folder(folder) => Ok(folder.clone()),
            MigrationSource::Embedded(_) => Err(Error::unsupported("embedded migrations have no folder")
                .with_hint("name the folder of their files")),
            MigrationSource::Configured => {
                let own = self.dm.config.engines.get(engine.id()).and_then(|e| e.migrations.clone());
                Ok(own.unwrap_or_else(|| self.dm.config.migrate.folder.clone()))
            }
        }
    }

    pub(crate) fn open(&self, options: &MigrateOptions) -> Result<Opened> {
        let engine = self.dm.engine(options.engine.as_ref())?;
        let migrator = self.migrator(&engine, options)?;
        let target = migrator.target();
        let files = match &options.source {
            MigrationSource::Embedded(files) => {
                MigrationFiles::embedded(files, target.extension(), target.comment())
            }
            source => {
                MigrationFiles::read(&self.folder(&engine, source)?, target.extension(), target.comment())?
            }
        };
        Ok(Opened { engine, migrator, files })
    }

    fn migrator(&self, engine: &Arc<dyn Engine>, options: &MigrateOptions) -> Result<Migrator> {
        let config = &self.dm.config.migrate;
        let settings = RunSettings {
            session: MigrationSettings {
                table: config.table.clone(),
                lock_timeout: config.lock_timeout,
                statement_timeout: config.statement_timeout,
                in_step: config.keep_sqlx.then_some(ForeignTool::Sqlx),
            },
            wait: options.wait.or(config.wait).unwrap_or(FOREVER),
            attempts: config.attempts,
            out_of_order: options.out_of_order,
        };
        Ok(Migrator::new(target(engine)?, settings))
    }
}

pub(crate) fn target(engine: &Arc<dyn Engine>) -> Result<Arc<dyn MigrationTarget>> {
    engine.migrations().ok_or_else(|| {
        Error::unsupported(format!("{} databases take no migrations", engine.kind())).on_engine(engine.kind())
    })
}

/// Whose grammar the files of an engine are written in.
pub(crate) fn dialect(kind: EngineKind) -> Result<Dialect> {
    match kind {
        EngineKind::Postgres => Ok(Dialect::Postgres),
        EngineKind::Sqlite => Ok(Dialect::Sqlite),
        other => Err(Error::unsupported(format!("there is no lint for the migrations of {other}"))),
    }
}
