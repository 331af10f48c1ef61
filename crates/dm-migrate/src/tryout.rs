//! Trying migrations on a shadow database: what their files make, compared with what there is.

use std::collections::BTreeSet;

use dm_core::{
    Error, ErrorKind, MigrationTarget, OpContext, Result, SchemaChange, SchemaScript, SchemaSnapshot,
    SchemaSource, Shadow, ShadowPlace, ShadowScript, TracedStatement,
};
use serde::Serialize;

use crate::checksum::Checksums;
use crate::files::{MigrationFiles, Script};

/// How the live schema differs from what the files make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriftReport {
    /// Where the files were replayed.
    pub shadow: String,
    /// The files that were replayed.
    pub files: Vec<String>,
    /// What was done to the live database beside the files.
    pub changes: Vec<SchemaChange>,
    /// Statements that were passed over, because they are about the whole server: `file:line: statement`.
    pub skipped: Vec<String>,
}

/// A migration with the locks that its statements really took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracedMigration {
    /// The version.
    pub version: i64,
    /// Its file.
    pub file: String,
    /// Its statements.
    pub statements: Vec<TracedStatement>,
}

/// A shadow database and what is replayed on it.
pub struct Tryout<'a> {
    /// How files are cut.
    pub target: &'a dyn MigrationTarget,
    /// Where schemas are read.
    pub schema: &'a dyn SchemaSource,
    /// Where the shadow is made.
    pub place: ShadowPlace,
    /// The history's tables and those of other tools, which are no part of the schema.
    pub leave_out: Vec<String>,
}

impl Tryout<'_> {
    /// Replays the versions of `applied` and compares with the live schema. Writes nothing into the live database.
    ///
    /// # Errors
    /// `CheckFailed` when a file cannot be replayed; else as [`SchemaSource::shadow`].
    pub async fn drift(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        applied: &BTreeSet<i64>,
    ) -> Result<DriftReport> {
        let live = self.schema.snapshot(ctx, &self.leave_out).await?;
        let scripts: Vec<&Script> =
            files.migrations.iter().filter(|m| applied.contains(&m.version)).map(|m| &m.up).collect();
        let (made, shadow, skipped) = self.made_by(ctx, &scripts).await?;
        Ok(DriftReport {
            shadow,
            files: scripts.into_iter().map(|s| s.file.clone()).collect(),
            changes: made.diff(&live),
            skipped,
        })
    }

    /// What brings the schema that all files make to the live one, and back.
    ///
    /// # Errors
    /// As [`drift`](Self::drift).
    pub async fn difference(&self, ctx: &OpContext, files: &MigrationFiles) -> Result<SchemaScript> {
        let live = self.schema.snapshot(ctx, &self.leave_out).await?;
        let scripts: Vec<&Script> = files.migrations.iter().map(|m| &m.up).collect();
        let (made, ..) = self.made_by(ctx, &scripts).await?;
        Ok(self.schema.script(&made, &live))
    }

    /// The live schema as a script, proven: replayed, it makes the same schema.
    ///
    /// # Errors
    /// `CheckFailed` when it does not; else as [`drift`](Self::drift).
    pub async fn dump(&self, ctx: &OpContext) -> Result<String> {
        let live = self.schema.snapshot(ctx, &self.leave_out).await?;
        let text = self.schema.dump(ctx, &self.leave_out).await?;
        let script = Script {
            file: "the written schema".to_owned(),
            checksums: Checksums::of(&text),
            text: text.clone(),
            no_transaction: false,
        };
        let (made, ..) = self.made_by(ctx, &[&script]).await?;
        let changes = made.diff(&live);
        match changes.first() {
            None => Ok(text),
            Some(first) => Err(Error::new(
                ErrorKind::CheckFailed,
                format!(
                    "the live schema cannot be written as a script: replayed, {} of its objects differ, first the {}",
                    changes.len(),
                    first.object().title()
                ),
            )
            .with_hint("write the first migration by hand, and compare with \"dm migrate drift\"")),
        }
    }

    /// Replays the applied versions, and then the pending ones statement by statement with their locks.
    ///
    /// # Errors
    /// As [`drift`](Self::drift).
    pub async fn trace(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        applied: &BTreeSet<i64>,
        pending: &[i64],
    ) -> Result<Vec<TracedMigration>> {
        let mut shadow = self.schema.shadow(ctx, &self.place).await?;
        let done = self.traced(ctx, shadow.as_mut(), files, applied, pending).await;
        closed(ctx, shadow, done).await
    }

    async fn traced(
        &self,
        ctx: &OpContext,
        shadow: &mut dyn Shadow,
        files: &MigrationFiles,
        applied: &BTreeSet<i64>,
        pending: &[i64],
    ) -> Result<Vec<TracedMigration>> {
        for migration in files.migrations.iter().filter(|m| applied.contains(&m.version)) {
            self.replay(ctx, shadow, &migration.up, false).await?;
        }
        let mut traced = Vec::new();
        for migration in files.migrations.iter().filter(|m| pending.contains(&m.version)) {
            let statements = self.replay(ctx, shadow, &migration.up, true).await?;
            traced.push(TracedMigration {
                version: migration.version,
                file: migration.up.file.clone(),
                statements,
            });
        }
        Ok(traced)
    }

    async fn made_by(
        &self,
        ctx: &OpContext,
        scripts: &[&Script],
    ) -> Result<(SchemaSnapshot, String, Vec<String>)> {
        let mut shadow = self.schema.shadow(ctx, &self.place).await?;
        let location = shadow.location();
        let done = self.made_on(ctx, shadow.as_mut(), scripts).await;
        let (snapshot, skipped) = closed(ctx, shadow, done).await?;
        Ok((snapshot, location, skipped))
    }

    async fn made_on(
        &self,
        ctx: &OpContext,
        shadow: &mut dyn Shadow,
        scripts: &[&Script],
    ) -> Result<(SchemaSnapshot, Vec<String>)> {
        let mut skipped = Vec::new();
        for script in scripts {
            for statement in self.replay(ctx, shadow, script, false).await? {
                if statement.skipped {
                    skipped.push(format!("{}:{}: {}", script.file, statement.line, statement.statement));
                }
            }
        }
        Ok((shadow.snapshot(ctx, &self.leave_out).await?, skipped))
    }

    async fn replay(
        &self,
        ctx: &OpContext,
        shadow: &mut dyn Shadow,
        script: &Script,
        trace: bool,
    ) -> Result<Vec<TracedStatement>> {
        let statements = self.target.split(&script.text).map_err(|e| e.about(script.file.clone()))?;
        let script = ShadowScript {
            name: script.file.clone(),
            statements: statements.into_iter().map(|s| (s.line, s.text)).collect(),
            transaction: !script.no_transaction,
        };
        shadow.replay(ctx, &script, trace).await.map_err(|error| match error.kind() {
            ErrorKind::Interrupted | ErrorKind::Unreachable | ErrorKind::Timeout => error,
            _ => Error::new(ErrorKind::CheckFailed, "a migration cannot be replayed on the shadow database")
                .with_source(error)
                .with_hint("what it needs besides the files before it (a role, an extension) has to be there; mend the file, or the shadow's server"),
        })
    }
}

/// Removes the shadow, however the work on it ended; the work's own error is the one that counts.
async fn closed<T>(ctx: &OpContext, shadow: Box<dyn Shadow>, done: Result<T>) -> Result<T> {
    let closed = shadow.close(ctx).await;
    let done = done?;
    closed?;
    Ok(done)
}
