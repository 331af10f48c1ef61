//! What to do about a history that is not as a run leaves it: going on with a migration that ended in the middle, and a state that a
//! person declares.

use dm_core::{
    Direction, Error, ErrorKind, HistoryEntry, MigrationSession, MigrationState, OpContext, Result,
};
use serde::Serialize;

use crate::apply::{MigrationReport, back_record, done_migration, forward_record};
use crate::compare::{Standing, standing};
use crate::files::MigrationFiles;
use crate::migrator::Migrator;
use crate::run::StatementVerdict;

/// The state that a person declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It is applied.
    Applied,
    /// It is undone.
    RolledBack,
}

impl Migrator {
    /// Goes on with the migration whose runner died or that failed between its statements. What that left half-made is found
    /// and removed. `verdict` answers for a statement of which the engine cannot tell whether it was done.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` when statements that are done were edited, or nobody can tell what is done; else
    /// as [`up`](Self::up).
    pub async fn resume(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        verdict: Option<StatementVerdict>,
    ) -> Result<MigrationReport> {
        let mut locked = self.locked(ctx).await?;
        let result = self.resume_locked(ctx, locked.session(), files, verdict).await;
        locked.end_run(result).await
    }

    async fn resume_locked(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
        verdict: Option<StatementVerdict>,
    ) -> Result<MigrationReport> {
        let history = session.history(ctx).await?;
        let entry = history.iter().find(|h| standing(h) == Standing::Unfinished).cloned();
        let entry = entry.ok_or_else(|| {
            Error::not_found("no migration is unfinished")
                .with_hint("\"dm migrate up\" applies what is pending")
        })?;
        let migration = files.get(entry.version).ok_or_else(|| {
            Error::new(ErrorKind::Conflict, format!("the file of version {} is missing", entry.version))
                .with_hint("bring it back, or declare its state with \"dm migrate resolve\"")
        })?;
        let (script, record) = match entry.direction {
            Direction::Up => (migration.up.clone(), forward_record(ctx, migration)),
            Direction::Down => {
                let script = migration.down.clone().ok_or_else(|| {
                    Error::new(
                        ErrorKind::Conflict,
                        format!("the down script of version {} is missing", entry.version),
                    )
                    .with_hint("bring it back, or declare the state with \"dm migrate resolve\"")
                })?;
                // The text as it was begun stays on record until it is done.
                let record = HistoryEntry {
                    rollback_sql: entry.rollback_sql.clone(),
                    ..back_record(ctx, &entry, &script)
                };
                (script, record)
            }
        };
        let record = HistoryEntry { execution_time_ms: entry.execution_time_ms, ..record };
        let done = self.work(ctx, session).resume(&script, &entry, record, verdict).await?;
        let history = session.history(ctx).await?;
        let newest = history.iter().filter(|h| h.state == MigrationState::Applied).map(|h| h.version).max();
        Ok(MigrationReport {
            migrations: vec![done_migration(&done)],
            adopted: Vec::new(),
            duration_ms: 0,
            newest,
        })
    }

    /// Declares a migration applied or undone, without running anything.
    ///
    /// # Errors
    /// `Invalid` without a reason; `NotFound` when neither files nor history know the version.
    pub async fn resolve(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        version: i64,
        resolution: Resolution,
        reason: &str,
    ) -> Result<HistoryEntry> {
        if reason.trim().is_empty() {
            return Err(
                Error::invalid("a state is declared with a reason").with_hint("give one with --reason")
            );
        }
        let mut locked = self.locked(ctx).await?;
        let session = locked.session();
        let work = async {
            let recorded = session.history(ctx).await?.into_iter().find(|h| h.version == version);
            let base = match (files.get(version), recorded) {
                (Some(file), _) if resolution == Resolution::Applied => forward_record(ctx, file),
                (_, Some(entry)) => entry,
                (Some(file), None) => forward_record(ctx, file),
                (None, None) => {
                    return Err(Error::not_found(format!("there is no migration of version {version}"))
                        .with_hint("\"dm migrate status\" lists them"));
                }
            };
            let (state, direction) = match resolution {
                Resolution::Applied => (MigrationState::Applied, Direction::Up),
                Resolution::RolledBack => (MigrationState::RolledBack, Direction::Down),
            };
            let entry = HistoryEntry {
                state,
                direction,
                applied_at: ctx.now(),
                applied_by: ctx.actor().name.clone(),
                finished: 0,
                started: None,
                error: None,
                remark: Some(format!("declared: {}", reason.trim())),
                ..base
            };
            session.record(ctx, std::slice::from_ref(&entry)).await?;
            Ok(entry)
        };
        let result = work.await;
        locked.end(result).await
    }
}
