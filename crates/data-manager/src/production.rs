//! What a migration has to pass before it reaches production: lint, staging, a fresh verified backup.

use dm_core::{BackupId, EngineId, EngineKind, Error, ErrorKind, MigrationState, OpContext, Result};
use dm_lint::{Dialect, LintContext, LintFile, LintFinding, Severity, TableSize};
use dm_migrate::StatusReport;
use dm_repository::VerifyLevel;
use serde::Serialize;

use crate::migrations::Opened;
use crate::pipeline::Operation;
use crate::{BackupOptions, MigrateOptions, Migrations, OperationKind, engines};

const LINT: OperationKind = OperationKind::MigrateLint;

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

/// How production's demands were met.
pub(crate) struct ProductionProof {
    /// The verified backup that the run rests on.
    pub(crate) backup: BackupId,
    /// Whether it was made for this run.
    pub(crate) backup_made: bool,
}

impl Migrations<'_> {
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
        // What the engine's own schema is, a file need not say.
        let own = self.dm.config.engines.get(opened.engine.id()).and_then(|e| e.schema.as_deref());
        let name = |schema: Option<&str>, name: &str| match schema {
            Some(schema) if schema != "public" && Some(schema) != own => format!("{schema}.{name}"),
            _ => name.to_owned(),
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

    /// Sees to it that production's demands are met: timeouts, lint, staging, and a fresh verified backup, which is made when
    /// there is none. `None` when nothing is pending.
    pub(crate) async fn prove(
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
        let history = engines::migrations(&engine)?
            .history(ctx, &self.dm.config.migrate.table)
            .await?
            .unwrap_or_default();
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
}

/// Whose grammar the files of an engine are written in.
pub(crate) fn dialect(kind: EngineKind) -> Result<Dialect> {
    match kind {
        EngineKind::Postgres => Ok(Dialect::Postgres),
        EngineKind::Sqlite => Ok(Dialect::Sqlite),
        other => Err(Error::unsupported(format!("there is no lint for the migrations of {other}"))),
    }
}
