//! Migrations: the verbs through the pipeline. What production demands besides is in `production`, what needs a shadow database in
//! `schemas`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dm_core::{
    BackfillRequest, Direction, Engine, EngineId, Error, ErrorKind, ForeignTool, HistoryEntry,
    MigrationSettings, OpContext, PlanDigest, Result,
};
use dm_migrate::{
    BackfillPace, BackfillReport, EmbeddedFile, Goal, MigrationFiles, MigrationPlan, MigrationReport,
    Migrator, Resolution, RunSettings, SeedFiles, SeedReport, StatementVerdict, StatusReport,
};
use serde_json::json;

use crate::pipeline::Operation;
use crate::production::dialect;
use crate::{DataManager, OperationKind, engines};

const STATUS: OperationKind = OperationKind::MigrateStatus;
const PLAN: OperationKind = OperationKind::MigratePlan;
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
        let dialect = dialect(opened.engine.kind()).ok();
        let relations = |statement: &str| dm_lint::relations(dialect?, statement);
        let work =
            async { opened.migrator.plan(ctx, &opened.files, direction, options.goal, &relations).await };
        self.dm.operate(ctx, Operation::new(PLAN, opened.engine.id().as_str()), work).await
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
            let target = engines::migrations(&engine)?;
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
        Ok(Migrator::new(engines::migrations(engine)?, settings))
    }
}
