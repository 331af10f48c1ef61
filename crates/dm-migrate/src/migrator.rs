//! Migrations of one engine: what reads, and the session for what changes. The verbs that change are in `apply`, `adopt` and `mend`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_core::{
    Direction, ForeignTool, HistoryEntry, MigrationSession, MigrationSettings, MigrationTarget, OpContext,
    Result,
};

use crate::apply::MigrationReport;
use crate::compare::{StatusReport, adopt, compare};
use crate::files::{MigrationFiles, Script};
use crate::lock::acquire;
use crate::plan::{MigrationPlan, PlannedMigration, PlannedStatement, Relations};
use crate::problem::{Problem, ProblemKind};
use crate::run::Work;
use crate::script::cut;
use crate::select::{Goal, back, forward};

/// How migrations are run.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// What the engine's session is given.
    pub session: MigrationSettings,
    /// How long to wait for another runner.
    pub wait: Duration,
    /// How often a statement is tried that does not get its lock in time, at least once.
    pub attempts: u32,
    /// Whether migrations older than the newest applied one are applied too.
    pub out_of_order: bool,
}

/// Migrations of one engine.
pub struct Migrator {
    target: Arc<dyn MigrationTarget>,
    settings: RunSettings,
}

impl Migrator {
    /// A migrator for an engine.
    #[must_use]
    pub fn new(target: Arc<dyn MigrationTarget>, settings: RunSettings) -> Self {
        Self { target, settings }
    }

    /// The engine's side.
    #[must_use]
    pub fn target(&self) -> &dyn MigrationTarget {
        self.target.as_ref()
    }

    fn table(&self) -> &str {
        &self.settings.session.table
    }

    /// Compares files and history. Writes nothing.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; `Invalid` when another program's table has the history's name. What is wrong with a
    /// migration is in the report.
    pub async fn status(&self, ctx: &OpContext, files: &MigrationFiles) -> Result<StatusReport> {
        let history = self.target.history(ctx, self.table()).await?.unwrap_or_default();
        let mut report = self.compared(ctx, files, &history).await?;
        report.leftovers = self.target.leftovers(ctx).await?;
        Ok(report)
    }

    pub(crate) async fn compared(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        history: &[HistoryEntry],
    ) -> Result<StatusReport> {
        let mut history = history.to_vec();
        let mut dirty = Vec::new();
        if let Some(tool) = self.settings.session.in_step {
            let (adopted, problems) = self.news(ctx, files, &history, tool).await?;
            history.retain(|h| !adopted.iter().any(|a| a.version == h.version));
            history.extend(adopted);
            history.sort_by_key(|h| h.version);
            dirty = problems;
        }
        let mut report = compare(files, &history, self.table(), self.settings.out_of_order);
        report.problems.extend(dirty);
        for migration in &mut report.migrations {
            migration.transaction &= self.target.is_transactional();
        }
        let unapplied: Vec<i64> = report.pending().map(|m| m.version).collect();
        for migration in unapplied.iter().filter_map(|v| files.get(*v)) {
            report.problems.extend(self.unfit(&migration.up).map(|p| p.of(migration.version)));
        }
        Ok(report)
    }

    /// Why a script cannot be run, as far as that shows without running it.
    fn unfit(&self, script: &Script) -> Option<Problem> {
        let error = cut(self.target(), script).err()?;
        let is_empty = self.target.split(&script.text).is_ok_and(|s| s.is_empty());
        let kind = if is_empty { ProblemKind::Empty } else { ProblemKind::BadScript };
        let mend = error.hint().unwrap_or("mend the file");
        Some(Problem::new(kind, error.to_string(), mend).in_file(script.file.clone()))
    }

    /// What another tool did since it was last looked at.
    async fn news(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        history: &[HistoryEntry],
        tool: ForeignTool,
    ) -> Result<(Vec<HistoryEntry>, Vec<Problem>)> {
        let foreign = self.target.foreign_history(ctx, tool, tool.table()).await?;
        Ok(match foreign {
            Some(foreign) => adopt(files, history, &foreign, tool, ctx.now(), true),
            None => Default::default(),
        })
    }

    /// What a run would do. Writes nothing. `relations` is what a grammar says of the tables of a statement.
    ///
    /// # Errors
    /// As [`status`](Self::status); `NotFound` for a version that is not there; `Unsupported` when a script back is missing.
    pub async fn plan(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        direction: Direction,
        goal: Goal,
        relations: &Relations<'_>,
    ) -> Result<MigrationPlan> {
        let history = self.target.history(ctx, self.table()).await?.unwrap_or_default();
        let report = self.compared(ctx, files, &history).await?;
        let sizes = self.target.table_sizes(ctx).await?;
        let scripts = self.scripts(&report, files, &history, direction, goal)?;
        let migrations = scripts.into_iter().map(|(version, script)| {
            let described = report.migrations.iter().find(|m| m.version == version);
            // What cannot be cut is among the problems.
            let statements = self.target.split(&script.text).unwrap_or_default();
            PlannedMigration {
                version,
                description: described.map(|m| m.description.clone()).unwrap_or_default(),
                file: script.file,
                checksum: script.checksums.text,
                transaction: !script.no_transaction && self.target.is_transactional(),
                statements: (1..)
                    .zip(statements)
                    .map(|(number, s)| PlannedStatement::of(number, s, &sizes, relations))
                    .collect(),
            }
        });
        Ok(MigrationPlan {
            direction,
            goal,
            origin: report.origin.clone(),
            migrations: migrations.collect(),
            problems: against(direction, report.problems),
        })
    }

    /// The scripts to run, in their order.
    pub(crate) fn scripts(
        &self,
        report: &StatusReport,
        files: &MigrationFiles,
        history: &[HistoryEntry],
        direction: Direction,
        goal: Goal,
    ) -> Result<Vec<(i64, Script)>> {
        match direction {
            Direction::Up => Ok(forward(report, goal)?
                .into_iter()
                .filter_map(|v| files.get(v).map(|m| (v, m.up.clone())))
                .collect()),
            Direction::Down => back(self.target.comment(), report, files, history, goal),
        }
    }

    /// A session with the run lock and a history.
    pub(crate) async fn locked(&self, ctx: &OpContext) -> Result<Locked> {
        let begun = Instant::now();
        let mut session = self.target.connect(ctx, &self.settings.session).await?;
        acquire(session.as_mut(), ctx, self.settings.wait).await?;
        session.prepare(ctx).await?;
        Ok(Locked { session, begun })
    }

    pub(crate) fn work<'a>(&'a self, ctx: &'a OpContext, session: &'a mut dyn MigrationSession) -> Work<'a> {
        Work { target: self.target(), session, ctx, attempts: self.settings.attempts.max(1) }
    }

    pub(crate) fn settings(&self) -> &RunSettings {
        &self.settings
    }

    pub(crate) fn target_arc(&self) -> Arc<dyn MigrationTarget> {
        Arc::clone(&self.target)
    }
}

impl std::fmt::Debug for Migrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A session that has the run lock.
pub(crate) struct Locked {
    session: Box<dyn MigrationSession>,
    begun: Instant,
}

impl Locked {
    pub(crate) fn session(&mut self) -> &mut dyn MigrationSession {
        self.session.as_mut()
    }

    /// Lets go of the lock, however the work ended.
    pub(crate) async fn end<T>(self, result: Result<T>) -> Result<T> {
        self.session.close().await;
        result
    }

    /// The same for work that says how long it took, waiting included.
    pub(crate) async fn end_run(self, result: Result<MigrationReport>) -> Result<MigrationReport> {
        let begun = self.begun;
        let report = self.end(result).await?;
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(MigrationReport { duration_ms, ..report })
    }
}

/// The problems that keep one from going that way.
pub(crate) fn against(direction: Direction, problems: Vec<Problem>) -> Vec<Problem> {
    use ProblemKind::{Dirty, Duplicate, HalfDone, Unfinished};
    match direction {
        Direction::Up => problems,
        // Only what leaves it open what is applied.
        Direction::Down => problems
            .into_iter()
            .filter(|p| matches!(p.kind, Unfinished | HalfDone | Duplicate | Dirty))
            .collect(),
    }
}
