//! Going forward and back: what changes the database by scripts.

use std::collections::BTreeSet;

use dm_core::{
    Direction, Effect, Error, HistoryEntry, MigrationSession, MigrationState, OpContext, PlanDigest,
    Progress, Result,
};
use serde::Serialize;

use crate::files::{MigrationFiles, MigrationScript, Script};
use crate::migrator::{Migrator, against};
use crate::problem::{ProblemKind, refuse};
use crate::script::cut;
use crate::select::{Goal, forward};

/// A migration that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoneMigration {
    /// Its version.
    pub version: i64,
    /// Its description.
    pub description: String,
    /// Which script.
    pub direction: Direction,
    /// How long its statements took.
    pub execution_time_ms: u64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationReport {
    /// What was run, in this order.
    pub migrations: Vec<DoneMigration>,
    /// Versions that another tool had applied or undone, and that the history took over.
    pub adopted: Vec<i64>,
    /// How long everything took.
    pub duration_ms: u64,
    /// The newest version that is applied now.
    pub newest: Option<i64>,
}

/// Which way a run goes, how far, and what it may do at the most.
struct Way<'a> {
    direction: Direction,
    goal: Goal,
    planned: Option<&'a PlanDigest>,
}

impl Migrator {
    /// Applies what is pending. With a digest, only what the plan of that digest said.
    ///
    /// # Errors
    /// `Conflict` when something is wrong with files or history, a script fails, or the plan went stale; `Busy` when another
    /// runner was not done in time; `Unreachable`, `Denied`. The effect says whether something was done.
    ///
    /// # Cancellation
    /// Cancel through the context: what runs as one transaction is undone, what runs statement by statement is
    /// [resumed](Self::resume) later.
    pub async fn up(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        goal: Goal,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        // The usual case at the start of a program takes no lock and writes nothing.
        let report = self.status(ctx, files).await?;
        // A version that is not there is said also where nothing is pending.
        forward(&report, goal)?;
        let in_step = self.settings().session.in_step.is_some();
        if report.problems.is_empty() && report.pending().next().is_none() && !in_step {
            return Ok(MigrationReport {
                migrations: Vec::new(),
                adopted: Vec::new(),
                duration_ms: 0,
                newest: report.newest_applied(),
            });
        }
        // Nor does what cannot go well anyway, unless only another runner is at it.
        if !report.problems.iter().any(|p| p.kind == ProblemKind::Unfinished) {
            refuse(&report.problems)?;
        }
        self.go(ctx, files, Way { direction: Direction::Up, goal, planned }).await
    }

    /// Undoes applied migrations, newest first.
    ///
    /// # Errors
    /// `Unsupported` when one has no script back: before anything runs. Else as [`up`](Self::up).
    ///
    /// # Cancellation
    /// As [`up`](Self::up).
    pub async fn down(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        goal: Goal,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        self.go(ctx, files, Way { direction: Direction::Down, goal, planned }).await
    }

    async fn go(&self, ctx: &OpContext, files: &MigrationFiles, way: Way<'_>) -> Result<MigrationReport> {
        let mut locked = self.locked(ctx).await?;
        let result = self.run(ctx, locked.session(), files, way).await;
        locked.end_run(result).await
    }

    /// Undoes the newest migrations and applies them again, under one lock.
    ///
    /// # Errors
    /// As [`down`](Self::down) and [`up`](Self::up).
    pub async fn redo(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        steps: usize,
    ) -> Result<MigrationReport> {
        let mut locked = self.locked(ctx).await?;
        let both = async {
            let back = Way { direction: Direction::Down, goal: Goal::Steps(steps), planned: None };
            let mut report = self.run(ctx, locked.session(), files, back).await?;
            if let Some(top) = report.migrations.iter().map(|m| m.version).max() {
                let again = Way { direction: Direction::Up, goal: Goal::To(top), planned: None };
                let again = self.run(ctx, locked.session(), files, again).await?;
                report.migrations.extend(again.migrations);
                report.newest = again.newest;
            }
            Ok(report)
        };
        let result: Result<MigrationReport> = Box::pin(both).await;
        locked.end_run(result).await
    }

    /// Runs what lies on a way, under the lock.
    async fn run(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
        way: Way<'_>,
    ) -> Result<MigrationReport> {
        let adopted = self.adopt_news(ctx, session, files).await?;
        let history = session.history(ctx).await?;
        let report = self.compared(ctx, files, &history).await?;
        refuse(&against(way.direction, report.problems.clone()))?;
        let scripts = self.scripts(&report, files, &history, way.direction, way.goal)?;
        // What cannot be cut keeps everything from beginning; forward it is among the problems.
        for (_, script) in &scripts {
            cut(self.target(), script)?;
        }
        if let Some(planned) = way.planned {
            let body: Vec<_> = scripts.iter().map(|(v, s)| (*v, &s.checksums.text)).collect();
            planned.require(&PlanDigest::of(&(way.direction, body))?)?;
        }
        let applied = history.iter().filter(|h| h.state == MigrationState::Applied);
        let mut applied: BTreeSet<i64> = applied.map(|h| h.version).collect();
        let mut migrations = Vec::new();
        for (version, script) in &scripts {
            let record = match way.direction {
                Direction::Up => files.get(*version).map(|m| forward_record(ctx, m)),
                Direction::Down => {
                    history.iter().find(|h| h.version == *version).map(|h| back_record(ctx, h, script))
                }
            };
            let record = record.ok_or_else(|| Error::internal("a version to run is nowhere on record"))?;
            let done = self.work(ctx, session).script(script, record).await;
            let done = done.map_err(|e| after(e, &migrations))?;
            ctx.progress(Progress::Item(script.file.clone()));
            match way.direction {
                Direction::Up => applied.insert(*version),
                Direction::Down => applied.remove(version),
            };
            migrations.push(done_migration(&done));
        }
        Ok(MigrationReport { migrations, adopted, duration_ms: 0, newest: applied.last().copied() })
    }
}

/// A failure when migrations before it are done.
fn after(error: Error, done: &[DoneMigration]) -> Error {
    match done.len() {
        0 => error,
        _ => error.with_effect(Effect::Partial),
    }
}

pub(crate) fn forward_record(ctx: &OpContext, migration: &MigrationScript) -> HistoryEntry {
    HistoryEntry {
        version: migration.version,
        description: migration.description.clone(),
        state: MigrationState::Applied,
        checksum: migration.up.checksums.bytes.clone(),
        text_checksum: migration.up.checksums.text.clone(),
        migration_sql: migration.up.text.clone(),
        rollback_sql: migration.down.as_ref().map(|s| s.text.clone()),
        applied_at: ctx.now(),
        applied_by: ctx.actor().name.clone(),
        execution_time_ms: 0,
        direction: Direction::Up,
        finished: 0,
        started: None,
        error: None,
        remark: None,
    }
}

/// What the history says once a migration is undone by this script.
pub(crate) fn back_record(ctx: &OpContext, entry: &HistoryEntry, script: &Script) -> HistoryEntry {
    HistoryEntry {
        state: MigrationState::RolledBack,
        direction: Direction::Down,
        rollback_sql: Some(script.text.clone()),
        applied_at: ctx.now(),
        applied_by: ctx.actor().name.clone(),
        execution_time_ms: 0,
        remark: None,
        ..entry.clone()
    }
}

pub(crate) fn done_migration(entry: &HistoryEntry) -> DoneMigration {
    DoneMigration {
        version: entry.version,
        description: entry.description.clone(),
        direction: entry.direction,
        execution_time_ms: entry.execution_time_ms,
    }
}
