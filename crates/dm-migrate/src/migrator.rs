//! The verbs, each for an engine that takes migrations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_core::{
    Direction, Error, ErrorKind, ForeignTool, HistoryEntry, MigrationSession, MigrationSettings,
    MigrationState, MigrationTarget, OpContext, PlanDigest, Progress, Result,
};
use serde::Serialize;

use crate::compare::{StatusReport, adopt, compare};
use crate::files::{MigrationFiles, MigrationScript, Script};
use crate::lock::acquire;
use crate::plan::{MigrationPlan, PlannedMigration, PlannedStatement, named};
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

/// The state that a person declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It is applied.
    Applied,
    /// It is undone.
    RolledBack,
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

    async fn compared(
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

    /// What a run would do. Writes nothing.
    ///
    /// # Errors
    /// As [`status`](Self::status); `NotFound` for a version that is not there; `Unsupported` when a script back is missing.
    pub async fn plan(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        direction: Direction,
        goal: Goal,
    ) -> Result<MigrationPlan> {
        let history = self.target.history(ctx, self.table()).await?.unwrap_or_default();
        let report = self.compared(ctx, files, &history).await?;
        let sizes = self.target.table_sizes(ctx).await?;
        let scripts = match direction {
            Direction::Up => forward(&report, goal)?
                .into_iter()
                .filter_map(|v| files.get(v).map(|m| (v, m.up.clone())))
                .collect(),
            Direction::Down => back(self.target.comment(), &report, files, &history, goal)?,
        };
        let migrations = scripts.into_iter().map(|(version, script)| {
            let described = report.migrations.iter().find(|m| m.version == version);
            // What cannot be cut is among the problems.
            let statements = self.target.split(&script.text).unwrap_or_default();
            PlannedMigration {
                version,
                description: described.map(|m| m.description.clone()).unwrap_or_default(),
                file: script.file,
                checksum: script.checksums.text,
                transaction: !script.no_transaction,
                statements: (1..)
                    .zip(statements)
                    .map(|(number, s)| PlannedStatement {
                        number,
                        line: s.line,
                        tables: named(&s.text, &sizes).into_iter().cloned().collect(),
                        text: s.text,
                    })
                    .collect(),
            }
        });
        Ok(MigrationPlan {
            direction,
            goal,
            origin: report.origin.clone(),
            migrations: migrations.collect(),
            problems: match direction {
                Direction::Up => report.problems,
                Direction::Down => report.problems.into_iter().filter(stops_going_back).collect(),
            },
        })
    }

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
        let begun = Instant::now();
        // The usual case at the start of a program takes no lock and writes nothing.
        let report = self.status(ctx, files).await?;
        // A version that is not there is said also where nothing is pending.
        forward(&report, goal)?;
        let in_step = self.settings.session.in_step.is_some();
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
        let mut session = self.locked(ctx).await?;
        let result = self.up_locked(ctx, session.as_mut(), files, goal, planned).await;
        session.close().await;
        let mut report = result?;
        report.duration_ms = elapsed(begun);
        Ok(report)
    }

    async fn up_locked(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
        goal: Goal,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        let adopted = self.adopt_news(ctx, session, files).await?;
        let history = session.history(ctx).await?;
        let report = self.compared(ctx, files, &history).await?;
        refuse(&report.problems)?;
        let versions = forward(&report, goal)?;
        let chosen: Vec<&MigrationScript> = versions.iter().filter_map(|v| files.get(*v)).collect();
        if let Some(planned) = planned {
            let body: Vec<_> = chosen.iter().map(|m| (m.version, &m.up.checksums.text)).collect();
            planned.require(&PlanDigest::of(&(Direction::Up, body))?)?;
        }
        let mut migrations = Vec::new();
        for migration in chosen {
            let record = forward_record(ctx, migration);
            let mut work = self.work(ctx, session);
            let done = work.script(&migration.up, record).await.map_err(|e| after(e, &migrations))?;
            ctx.progress(Progress::Item(migration.up.file.clone()));
            migrations.push(done_migration(&done));
        }
        let newest = versions.iter().copied().chain(report.newest_applied()).max();
        let newest = if migrations.is_empty() { report.newest_applied() } else { newest };
        Ok(MigrationReport { migrations, adopted, duration_ms: 0, newest })
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
        let begun = Instant::now();
        let mut session = self.locked(ctx).await?;
        let result = self.down_locked(ctx, session.as_mut(), files, goal, planned).await;
        session.close().await;
        let mut report = result?;
        report.duration_ms = elapsed(begun);
        Ok(report)
    }

    async fn down_locked(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
        goal: Goal,
        planned: Option<&PlanDigest>,
    ) -> Result<MigrationReport> {
        let adopted = self.adopt_news(ctx, session, files).await?;
        let history = session.history(ctx).await?;
        let report = self.compared(ctx, files, &history).await?;
        let problems: Vec<Problem> =
            report.problems.iter().filter(|p| stops_going_back(p)).cloned().collect();
        refuse(&problems)?;
        let scripts = back(self.target.comment(), &report, files, &history, goal)?;
        for (_, script) in &scripts {
            cut(self.target(), script)?;
        }
        if let Some(planned) = planned {
            let body: Vec<_> = scripts.iter().map(|(v, s)| (*v, &s.checksums.text)).collect();
            planned.require(&PlanDigest::of(&(Direction::Down, body))?)?;
        }
        let mut migrations = Vec::new();
        for (version, script) in &scripts {
            let entry = history.iter().find(|h| h.version == *version).cloned();
            let entry = entry.ok_or_else(|| Error::internal("a version to undo is not in the history"))?;
            let record = HistoryEntry {
                state: MigrationState::RolledBack,
                direction: Direction::Down,
                rollback_sql: Some(script.text.clone()),
                applied_at: ctx.now(),
                applied_by: ctx.actor().name.clone(),
                execution_time_ms: 0,
                remark: None,
                ..entry
            };
            let done =
                self.work(ctx, session).script(script, record).await.map_err(|e| after(e, &migrations))?;
            ctx.progress(Progress::Item(script.file.clone()));
            migrations.push(done_migration(&done));
        }
        let undone = |v: &i64| scripts.iter().any(|(version, _)| version == v);
        let applied = history.iter().filter(|h| h.state == MigrationState::Applied).map(|h| h.version);
        let newest = applied.filter(|v| !undone(v)).max();
        Ok(MigrationReport { migrations, adopted, duration_ms: 0, newest })
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
        let begun = Instant::now();
        let mut session = self.locked(ctx).await?;
        let both = async {
            let mut report = self.down_locked(ctx, session.as_mut(), files, Goal::Steps(steps), None).await?;
            if let Some(top) = report.migrations.iter().map(|m| m.version).max() {
                let again = self.up_locked(ctx, session.as_mut(), files, Goal::To(top), None).await?;
                report.migrations.extend(again.migrations);
                report.newest = again.newest;
            }
            Ok(report)
        };
        let result: Result<MigrationReport> = Box::pin(both).await;
        session.close().await;
        let mut report = result?;
        report.duration_ms = elapsed(begun);
        Ok(report)
    }

    /// Takes over what another tool applied. Its table stays as it is.
    ///
    /// # Errors
    /// `NotFound` when it has no history here; `Conflict` when one of its migrations failed.
    pub async fn adopt(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        tool: ForeignTool,
    ) -> Result<Vec<HistoryEntry>> {
        let foreign = self.target.foreign_history(ctx, tool, tool.table()).await?.ok_or_else(|| {
            Error::not_found(format!(
                "{} has no history here: there is no table {}",
                tool.as_str(),
                tool.table()
            ))
        })?;
        let mut session = self.locked(ctx).await?;
        let work = async {
            let history = session.history(ctx).await?;
            let (adopted, problems) = adopt(files, &history, &foreign, tool, ctx.now(), false);
            refuse(&problems)?;
            session.record(ctx, &adopted).await?;
            Ok(adopted)
        };
        let result = work.await;
        session.close().await;
        result
    }

    async fn adopt_news(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
    ) -> Result<Vec<i64>> {
        let Some(tool) = self.settings.session.in_step else { return Ok(Vec::new()) };
        let history = session.history(ctx).await?;
        let foreign = self.target.foreign_history(ctx, tool, tool.table()).await?.unwrap_or_default();
        // A table that was only just made knows nothing yet: what is applied is written into it, not undone.
        let all = !foreign.is_empty();
        let (adopted, problems) = adopt(files, &history, &foreign, tool, ctx.now(), all);
        refuse(&problems)?;
        if all {
            session.record(ctx, &adopted).await?;
        } else {
            let applied: Vec<HistoryEntry> =
                history.into_iter().filter(|h| h.state == MigrationState::Applied).collect();
            session.record(ctx, &applied).await?;
        }
        Ok(adopted.iter().map(|h| h.version).collect())
    }

    pub(crate) async fn locked(&self, ctx: &OpContext) -> Result<Box<dyn MigrationSession>> {
        let mut session = self.target.connect(ctx, &self.settings.session).await?;
        acquire(session.as_mut(), ctx, self.settings.wait).await?;
        session.prepare(ctx).await?;
        Ok(session)
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

/// Only what leaves it open what is applied keeps one from going back.
fn stops_going_back(problem: &Problem) -> bool {
    use ProblemKind::{Dirty, Duplicate, HalfDone, Unfinished};
    matches!(problem.kind, Unfinished | HalfDone | Duplicate | Dirty)
}

/// The first problem as an error, with the number of the others.
fn refuse(problems: &[Problem]) -> Result<()> {
    let Some(first) = problems.first() else { return Ok(()) };
    let more = match problems.len() {
        1 => String::new(),
        n => format!(" (and {} more; \"dm migrate status\" lists them)", n - 1),
    };
    Err(Error::new(ErrorKind::Conflict, format!("{}{more}", first.message)).with_hint(first.mend.clone()))
}

/// A failure when migrations before it are done.
fn after(error: Error, done: &[DoneMigration]) -> Error {
    match done.len() {
        0 => error,
        _ => error.with_effect(dm_core::Effect::Partial),
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

pub(crate) fn done_migration(entry: &HistoryEntry) -> DoneMigration {
    DoneMigration {
        version: entry.version,
        description: entry.description.clone(),
        direction: entry.direction,
        execution_time_ms: entry.execution_time_ms,
    }
}

pub(crate) fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
