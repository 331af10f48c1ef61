//! Migrations against schemas: drift, files out of a schema, locks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use dm_core::{
    Engine, EngineKind, Error, ErrorKind, ForeignTool, OpContext, Result, SchemaSource, ShadowPlace,
};
use dm_lint::Effect;
use dm_migrate::{
    DriftReport, MigrationFiles, MigrationPlan, NewMigration, Resolution, Standing, TracedMigration, Tryout,
};
use serde::Serialize;
use serde_json::json;

use crate::migrations::Opened;
use crate::pipeline::Operation;
use crate::production::dialect;
use crate::{MigrateOptions, Migrations, OperationKind};

const DRIFT: OperationKind = OperationKind::MigrateDrift;
/// A trace is a plan that is tried.
const TRACE: OperationKind = OperationKind::MigratePlan;
const NEW: OperationKind = OperationKind::MigrateNew;
const BASELINE: OperationKind = OperationKind::MigrateBaseline;

/// A migration that was written out of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenMigration {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// What has to be written by hand, and why.
    pub not_written: Vec<String>,
}

/// What the statements of a planned migration do, as far as their text says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedLocks {
    /// The migration.
    pub version: i64,
    /// The statement's number in its script, from 1.
    pub number: u32,
    /// Its effects on what was there before.
    pub effects: Vec<Effect>,
}

impl Migrations<'_> {
    /// Replays the applied files on a shadow database and compares what they make with the live schema, object by object. Writes
    /// nothing into the live database.
    ///
    /// # Errors
    /// `Invalid` when the shadow is the live database or holds something; `CheckFailed` when a file cannot be replayed;
    /// `Unsupported` where the engine has no schema; `Unreachable`, `Denied`.
    pub async fn drift(&self, ctx: &OpContext, options: &MigrateOptions) -> Result<DriftReport> {
        let opened = self.open(options)?;
        let work = async {
            let applied = applied(ctx, &opened).await?;
            let schema = schema(opened.engine.as_ref())?;
            self.tryout(&opened, schema.as_ref()).drift(ctx, &opened.files, &applied).await
        };
        self.dm.operate(ctx, Operation::new(DRIFT, opened.engine.id().as_str()), work).await
    }

    /// Runs the pending files on a shadow database, statement by statement, and says which locks each really took.
    ///
    /// # Errors
    /// As [`drift`](Self::drift).
    pub async fn trace(&self, ctx: &OpContext, options: &MigrateOptions) -> Result<Vec<TracedMigration>> {
        let opened = self.open(options)?;
        let work = async {
            let applied = applied(ctx, &opened).await?;
            let status = opened.migrator.status(ctx, &opened.files).await?;
            let pending: Vec<i64> = status.pending().map(|m| m.version).collect();
            let schema = schema(opened.engine.as_ref())?;
            self.tryout(&opened, schema.as_ref()).trace(ctx, &opened.files, &applied, &pending).await
        };
        self.dm.operate(ctx, Operation::new(TRACE, opened.engine.id().as_str()), work).await
    }

    /// The locks of a plan's statements, as far as their text says. Asks nobody.
    #[must_use]
    pub fn locks(&self, engine: EngineKind, plan: &MigrationPlan) -> Vec<PlannedLocks> {
        let Ok(dialect) = dialect(engine) else { return Vec::new() };
        let mut locks = Vec::new();
        for migration in &plan.migrations {
            let text: String = migration.statements.iter().map(|s| format!("{};\n", s.text)).collect();
            let effects = dm_lint::effects(dialect, &text);
            // A statement that the lint cannot read leaves the rest without a number.
            if effects.len() != migration.statements.len() {
                continue;
            }
            locks.extend(migration.statements.iter().zip(effects).map(|(statement, known)| PlannedLocks {
                version: migration.version,
                number: statement.number,
                effects: known.effects,
            }));
        }
        locks
    }

    /// Writes a migration that brings what the files make to the schema of this (development) database, and its way back.
    ///
    /// # Errors
    /// `NotFound` when nothing differs; else as [`drift`](Self::drift) and [`create`](Self::create).
    pub async fn create_from_diff(
        &self,
        ctx: &OpContext,
        options: &MigrateOptions,
        description: &str,
        one_way: bool,
    ) -> Result<WrittenMigration> {
        let opened = self.open(options)?;
        let folder = self.folder(&opened.engine, &options.source)?;
        let work = async {
            let schema = schema(opened.engine.as_ref())?;
            let script = self.tryout(&opened, schema.as_ref()).difference(ctx, &opened.files).await?;
            if script.up.is_empty() && script.not_written.is_empty() {
                return Err(Error::not_found(
                    "the database's schema is what the files make: there is nothing to write",
                )
                .with_hint("change the development database first"));
            }
            let target = opened.migrator.target();
            let notes: String = script
                .not_written
                .iter()
                .map(|n| format!("{} not written: {n}\n", target.comment()))
                .collect();
            let lines =
                |statements: &[String]| statements.iter().map(|s| format!("{s};\n")).collect::<String>();
            let (up, down) = (format!("{notes}{}", lines(&script.up)), lines(&script.down));
            let new = NewMigration { description, one_way, contents: Some((&up, &down)) };
            let files =
                new.create(&folder, &opened.files, target.extension(), target.comment(), ctx.now())?;
            Ok(WrittenMigration { files, not_written: script.not_written })
        };
        let details = json!({ "description": description, "from_diff": true });
        let operation = Operation::new(NEW, opened.engine.id().as_str()).with_details(details);
        self.dm.operate(ctx, operation, work).await
    }

    /// Writes the first migration from the live schema, proven by replaying it, and records it as applied.
    ///
    /// # Errors
    /// `AlreadyExists` when there are migrations; `CheckFailed` when the script does not make the same schema; else as
    /// [`drift`](Self::drift).
    pub async fn baseline(&self, ctx: &OpContext, options: &MigrateOptions) -> Result<WrittenMigration> {
        let engine = self.dm.engine(options.engine.as_ref())?;
        let folder = self.folder(&engine, &options.source)?;
        std::fs::create_dir_all(&folder).map_err(|e| {
            Error::new(ErrorKind::Denied, "the folder of the migrations cannot be made")
                .about(folder.display().to_string())
                .with_source(e)
        })?;
        let opened = self.open(options)?;
        let work = async {
            let status = opened.migrator.status(ctx, &opened.files).await?;
            if !status.migrations.is_empty() {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "there are migrations already, in the folder or in the history",
                )
                .with_hint("a baseline from the schema is the first migration; \"dm migrate drift\" compares, \"dm migrate new --from-diff\" writes what is missing"));
            }
            let schema = schema(opened.engine.as_ref())?;
            let text = self.tryout(&opened, schema.as_ref()).dump(ctx).await?;
            let target = opened.migrator.target();
            let (extension, comment) = (target.extension(), target.comment());
            let new = NewMigration { description: "baseline", one_way: true, contents: Some((&text, "")) };
            let paths = new.create(&folder, &opened.files, extension, comment, ctx.now())?;
            let files = MigrationFiles::read(&folder, extension, comment)?;
            let version = files.migrations.last().map_or(0, |m| m.version);
            let reason = "the schema was there before its history";
            opened.migrator.resolve(ctx, &files, version, Resolution::Applied, reason).await?;
            Ok(WrittenMigration { files: paths, not_written: Vec::new() })
        };
        let operation =
            Operation::new(BASELINE, opened.engine.id().as_str()).with_details(json!({ "from": "schema" }));
        self.dm.operate(ctx, operation, work).await
    }

    fn tryout<'a>(&self, opened: &'a Opened, schema: &'a dyn SchemaSource) -> Tryout<'a> {
        let config = self.dm.config.engines.get(opened.engine.id());
        let place = match config.and_then(|e| e.shadow_url.clone()) {
            Some(url) => ShadowPlace::Given(url),
            None => ShadowPlace::Temporary,
        };
        let table = &self.dm.config.migrate.table;
        let own = ["", "_backfills", "_seeds"].map(|end| format!("{table}{end}"));
        let others = [ForeignTool::Sqlx, ForeignTool::Refinery].map(|tool| tool.table().to_owned());
        let leave_out = own.into_iter().chain(others).collect();
        Tryout { target: opened.migrator.target(), schema, place, leave_out }
    }
}

fn schema(engine: &dyn Engine) -> Result<std::sync::Arc<dyn SchemaSource>> {
    engine.schema().ok_or_else(|| {
        Error::unsupported(format!("{} databases have no schema to compare", engine.kind()))
            .on_engine(engine.kind())
    })
}

async fn applied(ctx: &OpContext, opened: &Opened) -> Result<BTreeSet<i64>> {
    let status = opened.migrator.status(ctx, &opened.files).await?;
    Ok(status.migrations.iter().filter(|m| m.standing == Standing::Applied).map(|m| m.version).collect())
}
