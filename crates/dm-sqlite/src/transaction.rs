//! Transactions with savepoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dm_core::{
    AccessMode, Effect, Error, ErrorKind, OpContext, Result, Row, Statement, Transaction, TransactionOptions,
};
use rusqlite::Connection;

use crate::error::sqlite;
use crate::pool::Lease;
use crate::schema::quote;
use crate::statement::{self, Class};

/// Begins a transaction on a connection. SQLite's transactions are serialisable, whatever was asked for.
pub(crate) async fn begin(
    lease: Lease,
    ctx: &OpContext,
    options: TransactionOptions,
) -> Result<Box<dyn Transaction>> {
    let read_only = options.access == AccessMode::ReadOnly;
    let gate = lease.pool().gate(ctx);
    // Built first, so that a caller who goes away during BEGIN has it rolled back too.
    let transaction =
        Box::new(Open { lease, read_only, over: false, alive: Arc::new(AtomicBool::new(true)) });
    transaction
        .lease
        .worker()?
        .submit(gate, move |connection| {
            if read_only {
                connection.pragma_update(None, "query_only", true).map_err(sqlite)?;
                connection.execute_batch("BEGIN").map_err(sqlite)?;
                // BEGIN alone fixes no snapshot; the first read does.
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(sqlite)
            } else {
                // The write lock now rather than at the first write: a read transaction that wants to write later
                // fails when somebody else wrote meanwhile, and no waiting mends that.
                connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)
            }
        })
        .wait()
        .await?;
    Ok(transaction)
}

struct Open {
    lease: Lease,
    read_only: bool,
    /// Committed or rolled back by the caller.
    over: bool,
    /// False once SQLite itself rolled back (disk full, an interrupted write); later statements must not then run
    /// as if nothing had happened, each in a transaction of its own.
    alive: Arc<AtomicBool>,
}

impl Open {
    async fn run<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alive = Arc::clone(&self.alive);
        let gate = self.lease.pool().gate(ctx);
        self.lease
            .worker()?
            .submit(gate, move |connection| {
                if !alive.load(Ordering::Acquire) {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "the engine has rolled the transaction back after an earlier error",
                    )
                    .with_hint("begin a new transaction"));
                }
                let result = work(connection);
                if connection.is_autocommit() {
                    alive.store(false, Ordering::Release);
                }
                result
            })
            .wait()
            .await
    }

    /// Ends the transaction however it stands, and makes the connection an ordinary one again.
    fn clean_up(&self) {
        let read_only = self.read_only;
        if let Ok(worker) = self.lease.worker() {
            let tainted = worker.tainter();
            worker.submit_and_forget(move |connection| {
                if restore_connection(connection, read_only).is_err() {
                    tainted.store(true, Ordering::Relaxed);
                }
            });
        }
    }
}

fn restore_connection(connection: &Connection, read_only: bool) -> Result<()> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").map_err(sqlite)?;
    }
    if read_only {
        connection.pragma_update(None, "query_only", false).map_err(sqlite)?;
    }
    Ok(())
}

fn check(statement: &Statement) -> Result<()> {
    match statement::classify(&statement.text) {
        Class::Control => Err(statement::control_refused()),
        Class::Session => {
            Err(Error::invalid("settings of the connection cannot change inside a transaction")
                .with_hint("run PRAGMA, ATTACH and temporary tables outside of it"))
        }
        Class::Rows | Class::Other => Ok(()),
    }
}

#[async_trait]
impl Transaction for Open {
    async fn query(&mut self, ctx: &OpContext, statement: Statement) -> Result<Vec<Row>> {
        check(&statement)?;
        self.run(ctx, move |connection| {
            let mut prepared = statement::prepare(connection, &statement)?;
            let columns = statement::columns(&prepared);
            let mut rows = prepared.raw_query();
            let mut all = Vec::new();
            while let Some(row) = rows.next().map_err(sqlite)? {
                all.push(statement::row(&columns, row)?);
            }
            Ok(all)
        })
        .await
    }

    async fn execute(&mut self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        check(&statement)?;
        self.run(ctx, move |connection| statement::execute(connection, &statement)).await
    }

    async fn savepoint(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        let text = format!("SAVEPOINT {}", plain(name)?);
        self.run(ctx, move |connection| connection.execute_batch(&text).map_err(sqlite)).await
    }

    async fn rollback_to(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        let text = format!("ROLLBACK TO {}", plain(name)?);
        let subject = name.to_owned();
        self.run(ctx, move |connection| {
            connection.execute_batch(&text).map_err(|e| {
                if e.to_string().contains("no such savepoint") {
                    Error::not_found("there is no such savepoint").about(subject).with_source(e)
                } else {
                    sqlite(e)
                }
            })
        })
        .await
    }

    async fn commit(mut self: Box<Self>, ctx: &OpContext) -> Result<()> {
        let result = self
            .run(ctx, |connection| {
                connection.execute_batch("COMMIT").map_err(|e| {
                    let error = sqlite(e);
                    // A lock or a deferred constraint: the transaction still stands and is rolled back below. After
                    // failed I/O nobody knows before the file is opened again.
                    let effect =
                        if error.kind() == ErrorKind::Unreachable { Effect::Unknown } else { Effect::None };
                    error.with_effect(effect)
                })
            })
            .await;
        self.end();
        result
    }

    async fn rollback(mut self: Box<Self>, ctx: &OpContext) -> Result<()> {
        self.over = true;
        let read_only = self.read_only;
        let result = self
            .lease
            .worker()?
            .submit(self.lease.pool().gate(ctx), move |connection| restore_connection(connection, read_only))
            .wait()
            .await;
        if result.is_err() {
            self.clean_up();
        }
        result
    }
}

impl Open {
    fn end(&mut self) {
        self.over = true;
        self.clean_up();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.over {
            self.clean_up();
        }
    }
}

fn plain(name: &str) -> Result<String> {
    let good = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if good {
        Ok(quote(name))
    } else {
        Err(Error::invalid(format!("\"{name}\" is not a plain identifier"))
            .with_hint("use letters, digits and _, beginning with a letter"))
    }
}
