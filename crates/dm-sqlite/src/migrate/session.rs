//! Running migrations, on a connection of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dm_core::{
    Doubt, Effect, Error, ErrorKind, ForeignTool, HistoryEntry, MigrationSession, MigrationSettings,
    OpContext, Result, ScriptFailure,
};
use rusqlite::Connection;

use super::history;
use super::lock::FileLock;
use super::split::{first_words, split};
use crate::connect::{self, Purpose};
use crate::error::sqlite;
use crate::pool::Pool;
use crate::worker::{Gate, Worker};

/// What a wait without a limit is: longer than anybody waits.
pub(super) const FOREVER: Duration = Duration::from_secs(7 * 86_400);

const LOCK_SUFFIX: &str = "-migrate-lock";

pub(super) struct Session {
    pool: Arc<Pool>,
    worker: Worker,
    table: String,
    in_step: Option<ForeignTool>,
    lock_timeout: Duration,
    statement_timeout: Option<Duration>,
    lock: Option<FileLock>,
}

impl Session {
    pub(super) async fn open(
        ctx: &OpContext,
        pool: &Arc<Pool>,
        settings: &MigrationSettings,
    ) -> Result<Self> {
        pool.check_open()?;
        let lock_timeout = settings.lock_timeout.unwrap_or(FOREVER);
        let opening = Arc::clone(pool);
        let worker = Worker::start(Gate::new(ctx, lock_timeout, None), move || {
            connect::live(opening.path(), opening.options(), Purpose::Statements)
        })
        .await?;
        Ok(Self {
            pool: Arc::clone(pool),
            worker,
            table: settings.table.clone(),
            in_step: settings.in_step,
            lock_timeout,
            statement_timeout: settings.statement_timeout,
            lock: None,
        })
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        limit: Option<Duration>,
        job: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.worker.submit(Gate::new(ctx, self.lock_timeout, limit), job).wait().await
    }

    /// Runs a text in a transaction with its record.
    async fn in_transaction(
        &self,
        ctx: &OpContext,
        text: &str,
        mut record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        let (text, table, in_step) = (text.to_owned(), self.table.clone(), self.in_step);
        let mut place = None;
        let (send, told) = std::sync::mpsc::channel();
        let result = self
            .on_thread(ctx, self.statement_timeout, move |connection| {
                let begun = Instant::now();
                connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
                let work = run(connection, &text)
                    .map_err(|failed| {
                        // The receiver outlives the job.
                        send.send((failed.ran, failed.offset)).ok();
                        failed.error
                    })
                    .and_then(|()| {
                        add_time(&mut record, begun);
                        history::put(connection, &table, in_step, &record)
                    })
                    .and_then(|()| connection.execute_batch("COMMIT").map_err(sqlite));
                if let Err(error) = work {
                    if !connection.is_autocommit() {
                        connection.execute_batch("ROLLBACK").map_err(sqlite)?;
                    }
                    return Err(error);
                }
                Ok(record)
            })
            .await;
        if let Ok(found) = told.try_recv() {
            place = Some(found);
        }
        result.map_err(|error| ScriptFailure {
            passing: error.kind() == ErrorKind::Busy,
            ran: place.map(|(ran, _)| ran),
            offset: place.and_then(|(_, offset)| offset),
            error,
        })
    }

    /// For what cannot run in a transaction, or means nothing in one: pragmas, VACUUM, ATTACH. Each can be done again.
    async fn outside(
        &self,
        ctx: &OpContext,
        statement: &str,
        mut record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        let (text, table, in_step) = (statement.to_owned(), self.table.clone(), self.in_step);
        let result = self
            .on_thread(ctx, self.statement_timeout, move |connection| {
                let begun = Instant::now();
                run(connection, &text).map_err(|failed| failed.error)?;
                add_time(&mut record, begun);
                history::put(connection, &table, in_step, &record)
                    .map_err(|e| e.with_effect(Effect::Partial))?;
                Ok(record)
            })
            .await;
        result.map_err(|error| ScriptFailure {
            passing: error.kind() == ErrorKind::Busy && error.effect() == Effect::None,
            ran: Some(0),
            offset: None,
            error,
        })
    }
}

/// Where a script failed.
struct Failed {
    error: Error,
    ran: usize,
    offset: Option<usize>,
}

/// Runs every statement of a text.
fn run(connection: &Connection, text: &str) -> Result<(), Failed> {
    let statements = split(text).map_err(|error| Failed { error, ran: 0, offset: None })?;
    for (ran, statement) in statements.iter().enumerate() {
        let done = connection.prepare(&statement.text).and_then(|mut prepared| {
            let mut rows = prepared.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        done.map_err(|error| {
            let inside = match &error {
                rusqlite::Error::SqlInputError { offset, .. } => usize::try_from(*offset).unwrap_or_default(),
                _ => 0,
            };
            Failed { offset: Some(statement.offset + inside), ran, error: sqlite(error) }
        })?;
    }
    Ok(())
}

fn add_time(record: &mut HistoryEntry, begun: Instant) {
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    record.execution_time_ms = record.execution_time_ms.saturating_add(ms);
}

#[async_trait]
impl MigrationSession for Session {
    async fn try_lock(&mut self, _ctx: &OpContext) -> Result<bool> {
        self.lock = FileLock::try_take(self.pool.path(), LOCK_SUFFIX)?;
        Ok(self.lock.is_some())
    }

    async fn check_lock(&mut self, _ctx: &OpContext) -> Result<()> {
        match &self.lock {
            Some(lock) if lock.is_held() => Ok(()),
            _ => Err(Error::new(ErrorKind::Conflict, "the run lock was lost: somebody removed its file")),
        }
    }

    async fn prepare(&mut self, ctx: &OpContext) -> Result<()> {
        let (table, in_step) = (self.table.clone(), self.in_step);
        self.on_thread(ctx, None, move |connection| {
            history::prepare(connection, &table)?;
            match in_step {
                Some(ForeignTool::Sqlx) => history::prepare_sqlx(connection, ForeignTool::Sqlx.table()),
                Some(tool) => Err(Error::unsupported(format!(
                    "the history of {} can be adopted, not kept in step",
                    tool.as_str()
                ))),
                None => Ok(()),
            }
        })
        .await
    }

    async fn history(&mut self, ctx: &OpContext) -> Result<Vec<HistoryEntry>> {
        let table = self.table.clone();
        let read = self.on_thread(ctx, None, move |connection| history::read(connection, &table)).await?;
        Ok(read.unwrap_or_default())
    }

    async fn run_whole(
        &mut self,
        ctx: &OpContext,
        script: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        self.in_transaction(ctx, script, record).await
    }

    async fn run_step(
        &mut self,
        ctx: &OpContext,
        statement: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        let word = first_words(statement, 1);
        match word.first().map(String::as_str) {
            Some("pragma" | "vacuum" | "attach" | "detach") => self.outside(ctx, statement, record).await,
            _ => self.in_transaction(ctx, statement, record).await,
        }
    }

    async fn repeat_setting(&mut self, ctx: &OpContext, statement: &str) -> Result<()> {
        let text = statement.to_owned();
        self.on_thread(ctx, None, move |connection| run(connection, &text).map_err(|failed| failed.error))
            .await
    }

    async fn settle(&mut self, _ctx: &OpContext, _statement: &str, _mark: Option<&str>) -> Result<Doubt> {
        // What runs outside of a transaction here can be done again.
        Ok(Doubt::NotDone(Vec::new()))
    }

    /// A new connection: a pragma of the one before must not reach the next migration.
    async fn reset(&mut self, ctx: &OpContext) -> Result<()> {
        let foreign_keys = self.pool.options().foreign_keys;
        let changed = self
            .on_thread(ctx, None, move |connection| {
                let now: bool =
                    connection.pragma_query_value(None, "foreign_keys", |r| r.get(0)).map_err(sqlite)?;
                let attached: i64 = connection
                    .query_row(
                        "SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp')",
                        [],
                        |r| r.get(0),
                    )
                    .map_err(sqlite)?;
                Ok(now != foreign_keys || attached > 0)
            })
            .await?;
        if changed {
            let opening = Arc::clone(&self.pool);
            let fresh = Worker::start(Gate::new(ctx, self.lock_timeout, None), move || {
                connect::live(opening.path(), opening.options(), Purpose::Statements)
            })
            .await?;
            drop(std::mem::replace(&mut self.worker, fresh).shut());
        }
        Ok(())
    }

    async fn record(&mut self, ctx: &OpContext, records: &[HistoryEntry]) -> Result<()> {
        let (records, table, in_step) = (records.to_vec(), self.table.clone(), self.in_step);
        self.on_thread(ctx, None, move |connection| {
            let transaction = connection.transaction().map_err(sqlite)?;
            for entry in &records {
                history::put(&transaction, &table, in_step, entry)?;
            }
            transaction.commit().map_err(sqlite)
        })
        .await
    }

    async fn close(self: Box<Self>) {
        let Self { worker, lock, .. } = *self;
        if let Some(thread) = worker.shut() {
            // Closing may checkpoint, which blocks; a panicked thread has nothing more to close.
            tokio::task::spawn_blocking(move || thread.join().ok()).await.ok();
        }
        if let Some(lock) = lock {
            lock.release();
        }
    }
}
