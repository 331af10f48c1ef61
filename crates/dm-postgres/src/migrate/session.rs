//! Running migrations.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dm_core::{
    Doubt, Effect, Error, ErrorKind, ForeignTool, HistoryEntry, MigrationSession, MigrationSettings,
    MigrationState, OpContext, Progress, Result, ScriptFailure, StartedStatement,
};
use futures::StreamExt;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgErrorPosition};
use sqlx::{Either, Executor};

use super::history::{self, Table};
use super::lock::{self, RUN_CLASS, WORK_CLASS};
use super::{doubt, search_path};
use crate::client::Client;
use crate::error::{reading, sqlstate, writing};
use crate::physical::refuse_pooler;
use crate::session::{close, open};
use crate::sql::dynamic;

/// active_sql_transaction: the server runs this statement outside of transactions only.
const NOT_IN_A_TRANSACTION: &str = "25001";

/// Two connections: one has the run lock, the other works.
pub(super) struct Session {
    locker: PgConnection,
    worker: PgConnection,
    table: Table,
    in_step: Option<(Table, ForeignTool)>,
    settings: String,
    /// The server's number of the working connection.
    pid: i32,
    locked: bool,
}

impl Session {
    pub(super) async fn open(ctx: &OpContext, client: &Client, settings: &MigrationSettings) -> Result<Self> {
        if client.pgbouncer {
            return Err(pooled());
        }
        let mut locker = open(ctx, client).await?;
        let mut worker = open(ctx, client).await?;
        let (own, table, in_step, pid) = ctx
            .run(async {
                refuse_pooler(ctx, &mut locker, &mut worker).await.map_err(|e| match e.kind() {
                    ErrorKind::Unsupported => pooled(),
                    _ => e,
                })?;
                let own = own_settings(&mut worker, client, settings).await?;
                for connection in [&mut locker, &mut worker] {
                    connection.execute(sqlx::raw_sql(dynamic(own.clone()))).await.map_err(reading)?;
                }
                let table = Table::resolve(&mut worker, &settings.table).await?;
                let in_step = match settings.in_step {
                    Some(tool) => Some((Table::resolve(&mut worker, tool.table()).await?, tool)),
                    None => None,
                };
                let pid = sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()")
                    .fetch_one(&mut worker)
                    .await
                    .map_err(reading)?;
                Ok((own, table, in_step, pid))
            })
            .await?;
        Ok(Self { locker, worker, table, in_step, settings: own, pid, locked: false })
    }

    /// Writes a record within whatever transaction is open.
    async fn put(&mut self, entry: &HistoryEntry) -> Result<()> {
        let in_step = self.in_step.as_ref().map(|(table, tool)| (table, *tool));
        history::put(&mut self.worker, &self.table, in_step, entry).await
    }

    /// Runs a text of one or more statements; tells how many ran, and where it failed.
    async fn script(&mut self, text: &str) -> Result<(), Failed> {
        let mut ran = 0;
        let mut results = self.worker.fetch_many(sqlx::raw_sql(dynamic(text)));
        while let Some(result) = results.next().await {
            match result {
                Ok(Either::Left(_)) => ran += 1,
                Ok(Either::Right(_)) => {}
                Err(error) => return Err(failed(error, text, ran)),
            }
        }
        Ok(())
    }

    /// Ends a statement that nobody waits for any more; the connection would not answer before.
    async fn stop_if_interrupted(&mut self, failed: &Failed) {
        let kind = failed.failure.error.kind();
        if failed.code.is_empty() && matches!(kind, ErrorKind::Interrupted | ErrorKind::Timeout) {
            let stop = sqlx::query("SELECT pg_catalog.pg_cancel_backend($1)").bind(self.pid);
            if let Err(error) = stop.execute(&mut self.locker).await {
                tracing::debug!(%error, "the statement under way could not be cancelled");
            }
        }
    }

    async fn plainly(&mut self, text: &'static str) -> Result<()> {
        self.worker.execute(text).await.map(drop).map_err(writing)
    }

    async fn in_transaction(
        &mut self,
        ctx: &OpContext,
        text: &str,
        mut record: HistoryEntry,
    ) -> Result<HistoryEntry, Failed> {
        let begun = Instant::now();
        let work = async {
            self.plainly("BEGIN").await?;
            self.script(text).await?;
            add_time(&mut record, begun);
            self.put(&record).await?;
            Ok::<_, Failed>(())
        };
        let result = interruptible(ctx, work).await;
        if let Err(failed) = result {
            self.stop_if_interrupted(&failed).await;
            // When the connection is gone the server has rolled back by itself.
            self.plainly("ROLLBACK").await.ok();
            return Err(failed);
        }
        // Not interruptible any more: the answer decides what is on record.
        self.plainly("COMMIT").await?;
        Ok(record)
    }

    /// For what the server refuses to run in a transaction.
    async fn outside(
        &mut self,
        ctx: &OpContext,
        statement: &str,
        mut record: HistoryEntry,
    ) -> Result<HistoryEntry, Failed> {
        let (mark, removed) = doubt::mark(&mut self.worker, statement).await?;
        for text in removed {
            ctx.progress(Progress::Warning(text));
        }
        let begun = Instant::now();
        let mut before = record.clone();
        before.state = MigrationState::Running;
        before.finished = record.finished.saturating_sub(1);
        before.started = Some(StartedStatement { number: record.finished, mark: Some(mark) });
        self.put(&before).await?;
        if let Err(failed) = interruptible(ctx, self.script(statement)).await {
            self.stop_if_interrupted(&failed).await;
            return Err(failed);
        }
        add_time(&mut record, begun);
        self.put(&record).await.map_err(|e| e.with_effect(Effect::Partial))?;
        Ok(record)
    }
}

#[async_trait]
impl MigrationSession for Session {
    async fn try_lock(&mut self, ctx: &OpContext) -> Result<bool> {
        ctx.run(async {
            if !lock::try_ours(&mut self.locker, RUN_CLASS, &self.table).await? {
                return Ok(false);
            }
            // Whoever has the first lock and not the others gives it back, so that everybody can try again.
            if !lock::try_ours(&mut self.worker, WORK_CLASS, &self.table).await? {
                lock::release_ours(&mut self.locker, RUN_CLASS, &self.table).await?;
                return Ok(false);
            }
            if !lock::try_sqlx(&mut self.worker).await? {
                lock::release_ours(&mut self.worker, WORK_CLASS, &self.table).await?;
                lock::release_ours(&mut self.locker, RUN_CLASS, &self.table).await?;
                return Ok(false);
            }
            self.locked = true;
            Ok(true)
        })
        .await
    }

    async fn check_lock(&mut self, ctx: &OpContext) -> Result<()> {
        let held = ctx.run(lock::has_ours(&mut self.locker, RUN_CLASS, &self.table)).await;
        match held {
            Ok(true) if self.locked => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Conflict, "the run lock was lost")),
            Err(e) if e.kind() == ErrorKind::Unreachable => {
                Err(Error::new(ErrorKind::Conflict, "the run lock was lost: its connection ended")
                    .with_source(e))
            }
            Err(e) => Err(e),
        }
    }

    async fn prepare(&mut self, ctx: &OpContext) -> Result<()> {
        ctx.run(async {
            history::prepare(&mut self.worker, &self.table).await?;
            match &self.in_step {
                Some((table, ForeignTool::Sqlx)) => history::prepare_sqlx(&mut self.worker, table).await,
                Some((_, tool)) => Err(Error::unsupported(format!(
                    "the history of {} can be adopted, not kept in step",
                    tool.as_str()
                ))),
                None => Ok(()),
            }
        })
        .await
    }

    async fn history(&mut self, ctx: &OpContext) -> Result<Vec<HistoryEntry>> {
        Ok(ctx.run(history::read(&mut self.worker, &self.table)).await?.unwrap_or_default())
    }

    async fn run_whole(
        &mut self,
        ctx: &OpContext,
        script: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        self.in_transaction(ctx, script, record).await.map_err(|f| f.failure)
    }

    async fn run_step(
        &mut self,
        ctx: &OpContext,
        statement: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure> {
        match self.in_transaction(ctx, statement, record.clone()).await {
            // The server itself says that this cannot be done in a transaction, before it does anything
            // (active_sql_transaction), or when a procedure wants to end the transaction (invalid_transaction_termination).
            Err(failed) if matches!(failed.code.as_str(), NOT_IN_A_TRANSACTION | "2D000") => {
                self.outside(ctx, statement, record).await
            }
            result => result,
        }
        .map_err(|f| f.failure)
    }

    async fn repeat_setting(&mut self, ctx: &OpContext, statement: &str) -> Result<()> {
        ctx.run(async { self.script(statement).await.map_err(|f| f.failure.error) }).await
    }

    async fn settle(&mut self, ctx: &OpContext, _statement: &str, mark: Option<&str>) -> Result<Doubt> {
        ctx.run(doubt::settle(&mut self.worker, mark)).await
    }

    async fn reset(&mut self, ctx: &OpContext) -> Result<()> {
        let text = format!("RESET SESSION AUTHORIZATION; RESET ALL; {}", self.settings);
        ctx.run(async { self.worker.execute(sqlx::raw_sql(dynamic(text))).await.map(drop).map_err(reading) })
            .await
    }

    async fn record(&mut self, ctx: &OpContext, records: &[HistoryEntry]) -> Result<()> {
        ctx.check()?;
        self.plainly("BEGIN").await?;
        for entry in records {
            if let Err(error) = self.put(entry).await {
                self.plainly("ROLLBACK").await.ok();
                return Err(error);
            }
        }
        self.plainly("COMMIT").await
    }

    async fn close(self: Box<Self>) {
        let Self { worker, locker, .. } = *self;
        // The worker first: whoever gets the run lock next needs the worker's too.
        close(worker).await;
        close(locker).await;
    }
}

/// What the session is given before each migration. Settings that not every server knows are looked for once: that look costs more than
/// a small migration.
async fn own_settings(
    connection: &mut PgConnection,
    client: &Client,
    settings: &MigrationSettings,
) -> Result<String> {
    let limit = |time: Option<Duration>| time.map_or(0, |t| t.as_millis().max(1));
    let mut text = format!(
        "SET lock_timeout = {}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = 0; \
         SET client_min_messages = warning;{}",
        limit(settings.lock_timeout),
        limit(settings.statement_timeout),
        search_path(client),
    );
    let newer = [("idle_session_timeout", "0"), ("client_connection_check_interval", "1000")];
    let known: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pg_catalog.pg_settings WHERE name = ANY ($1)")
            .bind(newer.map(|(name, _)| name).to_vec())
            .fetch_all(connection)
            .await
            .map_err(reading)?;
    for (name, value) in newer.into_iter().filter(|(name, _)| known.iter().any(|k| k == name)) {
        // Writing to a String cannot fail.
        let _ = write!(text, " SET {name} = {value};");
    }
    Ok(text)
}

fn pooled() -> Error {
    Error::unsupported(
        "a pooler stands between here and the server that lends connections by the transaction: neither the run lock nor a \
         session's settings hold there",
    )
    .with_hint("give migrations a url of the server itself, or of a pooler that lends by the session")
}

fn add_time(record: &mut HistoryEntry, begun: Instant) {
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    record.execution_time_ms = record.execution_time_ms.saturating_add(ms);
}

/// A failure with the server's code for it.
struct Failed {
    failure: ScriptFailure,
    code: String,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { failure: error.into(), code: String::new() }
    }
}

/// Runs work until it is done or the context says stop.
async fn interruptible<T>(
    ctx: &OpContext,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut failed = None;
    let result = ctx
        .run(async {
            work.await.map_err(|failure| {
                failed = Some(failure);
                Error::interrupted()
            })
        })
        .await;
    result.map_err(|error| failed.unwrap_or_else(|| error.into()))
}

/// lock_not_available, deadlock_detected, serialization_failure: the same again may succeed.
pub(super) fn is_passing(code: &str) -> bool {
    matches!(code, "55P03" | "40P01" | "40001")
}

/// Says where a script failed, in the server's own words.
fn failed(error: sqlx::Error, text: &str, ran: usize) -> Failed {
    let code = sqlstate(&error).unwrap_or_default();
    let told = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    let hint = told.and_then(PgDatabaseError::hint).map(str::to_owned);
    let offset = told.and_then(PgDatabaseError::position).and_then(|position| match position {
        PgErrorPosition::Original(at) => {
            text.char_indices().nth(at.saturating_sub(1)).map(|(offset, _)| offset)
        }
        PgErrorPosition::Internal { .. } => None,
    });
    // A lost connection tells nothing of what ran.
    let ran = told.is_some().then_some(ran);
    let mut mapped = writing(error);
    if let Some(hint) = hint {
        mapped = mapped.with_hint(format!("the server says: {hint}"));
    } else if code == NOT_IN_A_TRANSACTION {
        mapped = mapped.with_hint(
            "give it a file of its own whose first line is \"-- no-transaction\": such a file runs statement by statement",
        );
    }
    Failed { failure: ScriptFailure { error: mapped, ran, offset, passing: is_passing(&code) }, code }
}
