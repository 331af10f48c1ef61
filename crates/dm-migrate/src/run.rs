//! Running one script: as one transaction with its record, or statement by statement with a record of each.

use std::time::Duration;

use dm_core::{
    Direction, Doubt, Effect, Error, ErrorKind, HistoryEntry, MigrationSession, MigrationState,
    MigrationTarget, OpContext, Progress, Result, ScriptFailure,
};

use crate::files::Script;
use crate::lock::{jittered, pause_for};
use crate::script::{Cut, Unit, cut, line_of};

/// The first wait before a statement is tried again that did not get a lock, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// What a person says about a statement of which nobody else knows whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementVerdict {
    /// It was done: go on behind it.
    Done,
    /// It was not done, or may be done twice.
    Again,
}

/// Runs scripts on a session that has the lock.
pub(crate) struct Work<'a> {
    pub(crate) target: &'a dyn MigrationTarget,
    pub(crate) session: &'a mut dyn MigrationSession,
    pub(crate) ctx: &'a OpContext,
    /// How often a statement is tried that does not get a lock in time.
    pub(crate) attempts: u32,
}

impl Work<'_> {
    /// Runs a script from its beginning; `record` is what the history says once it is done.
    pub(crate) async fn script(&mut self, script: &Script, record: HistoryEntry) -> Result<HistoryEntry> {
        self.ctx.check()?;
        self.session.check_lock(self.ctx).await?;
        self.session.reset(self.ctx).await?;
        self.ctx.progress(Progress::Phase { name: "migrating", total_bytes: None });
        match cut(self.target, script)? {
            Cut::Whole { text, offset, statements } => {
                self.whole(script, &text, offset, statements.len(), record).await
            }
            Cut::Steps(units) => {
                let begun = HistoryEntry {
                    state: MigrationState::Running,
                    finished: 0,
                    started: None,
                    error: None,
                    ..record.clone()
                };
                self.session.record(self.ctx, &[begun]).await?;
                self.steps(script, &units, 0, record).await
            }
        }
    }

    /// Goes on with a script whose first statements are done; `entry` is what the history says of it now.
    pub(crate) async fn resume(
        &mut self,
        script: &Script,
        entry: &HistoryEntry,
        record: HistoryEntry,
        verdict: Option<StatementVerdict>,
    ) -> Result<HistoryEntry> {
        self.session.check_lock(self.ctx).await?;
        self.session.reset(self.ctx).await?;
        let Cut::Steps(units) = cut(self.target, script)? else {
            return Err(Error::invalid(
                "it was begun statement by statement, and its file now asks for one transaction",
            )
            .about(script.file.clone())
            .with_hint("put \"-- no-transaction\" back on its first line"));
        };
        let recorded = match record.direction {
            Direction::Up => Some(entry.migration_sql.clone()),
            Direction::Down => entry.rollback_sql.clone(),
        };
        self.check_done_part(script, recorded.as_deref(), entry.finished)?;
        let mut done = entry.finished;
        if let Some(started) = &entry.started {
            let unit = units.iter().find(|u| u.first <= started.number && started.number <= u.last);
            let text = unit.map_or("", |u| u.text.as_str());
            let found = match verdict {
                Some(StatementVerdict::Done) => Doubt::Done,
                Some(StatementVerdict::Again) => Doubt::NotDone(Vec::new()),
                None => self.session.settle(self.ctx, text, started.mark.as_deref()).await?,
            };
            match found {
                Doubt::Done => {
                    done = started.number;
                    let ends = units.last().is_none_or(|u| u.last == done);
                    let state = if ends { record.state } else { MigrationState::Running };
                    let entry =
                        HistoryEntry { state, finished: done, started: None, error: None, ..record.clone() };
                    self.session.record(self.ctx, &[entry]).await?;
                }
                Doubt::NotDone(texts) => {
                    texts.into_iter().for_each(|t| self.ctx.progress(Progress::Warning(t)));
                }
                Doubt::Unknown => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("nobody can tell whether statement {} was done: {}", started.number, beginning(text)),
                    )
                    .about(script.file.clone())
                    .with_hint("look in the database, then \"dm migrate resume --statement done\" or \"--statement again\""));
                }
            }
        }
        for setting in units.iter().filter(|u| u.is_setting && u.last <= done) {
            self.session.repeat_setting(self.ctx, &setting.text).await?;
        }
        self.steps(script, &units, done, record).await
    }

    /// What is done must still be what the file begins with.
    fn check_done_part(&self, script: &Script, recorded: Option<&str>, finished: u32) -> Result<()> {
        let Some(recorded) = recorded.filter(|text| !text.is_empty()) else { return Ok(()) };
        let count = usize::try_from(finished).unwrap_or(usize::MAX);
        let texts = |text: &str| -> Result<Vec<String>> {
            Ok(self.target.split(text)?.into_iter().take(count).map(|s| s.text).collect())
        };
        let (then, now) = (texts(recorded)?, texts(&script.text)?);
        let differs =
            then.iter().zip(&now).position(|(a, b)| a != b).or((now.len() < then.len()).then_some(now.len()));
        match differs {
            None => Ok(()),
            Some(at) => Err(Error::new(
                ErrorKind::Conflict,
                format!("statement {} was edited, and it is among the {finished} that are done", at + 1),
            )
            .about(script.file.clone())
            .with_hint("take that edit back; only statements that are not done can be mended")),
        }
    }

    async fn whole(
        &mut self,
        script: &Script,
        text: &str,
        base: usize,
        statements: usize,
        record: HistoryEntry,
    ) -> Result<HistoryEntry> {
        let record = HistoryEntry { finished: number(statements), started: None, error: None, ..record };
        let mut attempt = 1;
        loop {
            match self.session.run_whole(self.ctx, text, record.clone()).await {
                Ok(entry) => return Ok(entry),
                Err(failure) if failure.passing && attempt < self.attempts => {
                    self.wait_to_retry(script, attempt, &failure).await?;
                    self.session.reset(self.ctx).await?;
                    attempt += 1;
                }
                Err(failure) => {
                    let error = told(script, text, base, 1, &failure, self.target);
                    self.keep_failure(&record, &error, failure.error.effect()).await;
                    return Err(wrap(script, error, failure.error));
                }
            }
        }
    }

    async fn steps(
        &mut self,
        script: &Script,
        units: &[Unit],
        done: u32,
        record: HistoryEntry,
    ) -> Result<HistoryEntry> {
        let mut last = record.clone();
        for unit in units.iter().filter(|u| u.first > done) {
            self.ctx.check()?;
            self.session.check_lock(self.ctx).await?;
            let ends = units.last().is_some_and(|u| u.last == unit.last);
            let state = if ends { record.state } else { MigrationState::Running };
            let entry = HistoryEntry {
                state,
                finished: unit.last,
                started: None,
                error: None,
                execution_time_ms: last.execution_time_ms,
                ..record.clone()
            };
            last = self.step(script, unit, entry).await?;
        }
        Ok(last)
    }

    async fn step(&mut self, script: &Script, unit: &Unit, record: HistoryEntry) -> Result<HistoryEntry> {
        let mut attempt = 1;
        loop {
            match self.session.run_step(self.ctx, &unit.text, record.clone()).await {
                Ok(entry) => return Ok(entry),
                Err(failure) if failure.passing && attempt < self.attempts => {
                    self.wait_to_retry(script, attempt, &failure).await?;
                    attempt += 1;
                    // A concurrent index that did not get its lock is there and not valid.
                    let started = self.recorded(record.version).await?.and_then(|e| e.started);
                    if let Some(started) = started
                        && let Doubt::NotDone(texts) =
                            self.session.settle(self.ctx, &unit.text, started.mark.as_deref()).await?
                    {
                        texts.into_iter().for_each(|t| self.ctx.progress(Progress::Warning(t)));
                    }
                }
                Err(failure) => {
                    let error = told(script, &unit.text, unit.offset, unit.first, &failure, self.target);
                    // What stands in the history of the statement stays; whoever resumes needs it.
                    if let Ok(Some(entry)) = self.recorded(record.version).await {
                        let failed = HistoryEntry {
                            state: MigrationState::Failed,
                            error: Some(error.clone()),
                            ..entry
                        };
                        self.keep(failed).await;
                    }
                    let done = unit.first > 1;
                    let effect = if done { Effect::Partial } else { failure.error.effect() };
                    return Err(wrap(script, error, failure.error.with_effect(effect)));
                }
            }
        }
    }

    async fn recorded(&mut self, version: i64) -> Result<Option<HistoryEntry>> {
        Ok(self.session.history(self.ctx).await?.into_iter().find(|e| e.version == version))
    }

    async fn wait_to_retry(&mut self, script: &Script, attempt: u32, failure: &ScriptFailure) -> Result<()> {
        let pause = jittered((FIRST_RETRY * 2_u32.saturating_pow(attempt - 1)).min(LONGEST_RETRY));
        self.ctx.progress(Progress::Warning(format!(
            "{}: {}; trying again ({attempt} of {})",
            script.file,
            failure.error,
            self.attempts.saturating_sub(1)
        )));
        pause_for(self.ctx, pause).await
    }

    /// Records that a transactional script failed and left nothing.
    async fn keep_failure(&mut self, record: &HistoryEntry, why: &str, effect: Effect) {
        if effect == Effect::Unknown {
            // Nobody knows whether it was committed: the history says so by itself.
            return;
        }
        let failed = match record.direction {
            Direction::Up => HistoryEntry {
                state: MigrationState::Failed,
                finished: 0,
                error: Some(why.to_owned()),
                ..record.clone()
            },
            // It is applied as before; why it could not be undone stands beside it.
            Direction::Down => match self.recorded(record.version).await {
                Ok(Some(entry)) => HistoryEntry { error: Some(format!("undoing it failed: {why}")), ..entry },
                _ => return,
            },
        };
        self.keep(failed).await;
    }

    async fn keep(&mut self, entry: HistoryEntry) {
        // The script's own failure is what the caller must hear of.
        let unhindered = self.ctx.clone().with_cancellation(Default::default());
        if let Err(error) = self.session.record(&unhindered, &[entry]).await {
            tracing::warn!(%error, "the failure is not in the history of migrations");
        }
    }
}

/// Which statement on which line failed, and why.
fn told(
    script: &Script,
    text: &str,
    base: usize,
    first: u32,
    failure: &ScriptFailure,
    target: &dyn MigrationTarget,
) -> String {
    let statements = target.split(text).unwrap_or_default();
    let by_offset = failure.offset.and_then(|at| statements.iter().rposition(|s| s.offset <= at));
    let index = by_offset.or(failure.ran).filter(|i| *i < statements.len());
    let why = failure.error.full_message();
    match index.and_then(|i| statements.get(i).map(|s| (i, s))) {
        Some((i, statement)) => {
            let line = line_of(&script.text, base + failure.offset.unwrap_or(statement.offset));
            let number = i + usize::try_from(first).unwrap_or(1);
            format!("statement {number} on line {line} failed: {} ({why})", beginning(&statement.text))
        }
        None => format!("it failed: {why}"),
    }
}

/// The beginning of a statement, on one line.
pub(crate) fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn wrap(script: &Script, message: String, error: Error) -> Error {
    use ErrorKind::{Busy, Denied, Exhausted, Interrupted, Timeout, Unreachable};
    let kind = match error.kind() {
        kind @ (Busy | Denied | Exhausted | Interrupted | Timeout | Unreachable) => kind,
        // The request was right; what the script asks for is not to be had.
        _ => ErrorKind::Conflict,
    };
    let effect = error.effect();
    let hint = match (effect, error.hint()) {
        (Effect::Partial, Some(hint)) => {
            format!("{hint}; what is done stays done, and \"dm migrate resume\" goes on")
        }
        (Effect::Partial, None) => "mend it, then \"dm migrate resume\" goes on from there".to_owned(),
        (Effect::Unknown, _) => "\"dm migrate status\" tells whether it was applied".to_owned(),
        (_, Some(hint)) => hint.to_owned(),
        (_, None) if matches!(kind, Busy | Interrupted | Unreachable) => {
            "nothing of it was applied; run again".to_owned()
        }
        (_, None) => "nothing of it was applied; mend the file and run again".to_owned(),
    };
    Error::new(kind, message).about(script.file.clone()).with_effect(effect).with_hint(hint)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
