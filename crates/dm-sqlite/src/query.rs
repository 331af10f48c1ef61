//! Statements outside a transaction.

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    Error, OpContext, QueryPort, Result, Row, RowStream, Statement, Transaction, TransactionOptions,
};
use futures::stream;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::error::sqlite;
use crate::pool::{Lease, Pool};
use crate::statement::{self, Class};
use crate::transaction;
use crate::worker::{Gate, Running};

/// Rows that may wait between SQLite and the reader.
const ROWS_IN_FLIGHT: usize = 64;

/// The query port.
#[derive(Debug)]
pub(crate) struct Queries {
    pub(crate) pool: Arc<Pool>,
}

enum Message {
    Started,
    Row(Row),
}

#[async_trait]
impl QueryPort for Queries {
    async fn query(&self, ctx: &OpContext, statement: Statement) -> Result<RowStream> {
        let class = refuse_control(&statement)?;
        let lease = self.lease(ctx, class).await?;
        let gate = self.pool.gate(ctx);
        let (send, mut receive) = mpsc::channel(ROWS_IN_FLIGHT);
        let running = lease.worker()?.submit(Arc::clone(&gate), move |connection| {
            let result = stream_rows(connection, &statement, class, &send);
            leave_no_transaction(connection)?;
            result
        });
        match receive.recv().await {
            Some(_) => Ok(rows(Reading { receive, running, gate, _lease: lease })),
            None => {
                running.wait().await?;
                Ok(Box::pin(stream::empty()))
            }
        }
    }

    async fn execute(&self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        let class = refuse_control(&statement)?;
        let lease = self.lease(ctx, class).await?;
        lease
            .worker()?
            .submit(self.pool.gate(ctx), move |connection| {
                let result = statement::execute(connection, &statement);
                leave_no_transaction(connection)?;
                result
            })
            .wait()
            .await
    }

    async fn begin(&self, ctx: &OpContext, options: TransactionOptions) -> Result<Box<dyn Transaction>> {
        transaction::begin(self.pool.acquire(ctx).await?, ctx, options).await
    }
}

impl Queries {
    async fn lease(&self, ctx: &OpContext, class: Class) -> Result<Lease> {
        let lease = self.pool.acquire(ctx).await?;
        if class == Class::Session {
            lease.worker()?.taint();
        }
        Ok(lease)
    }
}

fn refuse_control(statement: &Statement) -> Result<Class> {
    match statement::classify(&statement.text) {
        Class::Control => Err(statement::control_refused()),
        class => Ok(class),
    }
}

/// Whatever the statement was, the next user of the connection finds no open transaction.
fn leave_no_transaction(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    connection.execute_batch("ROLLBACK").map_err(sqlite)
}

fn stream_rows(
    connection: &Connection,
    statement: &Statement,
    class: Class,
    send: &mpsc::Sender<Message>,
) -> Result<()> {
    let mut prepared = statement::prepare(connection, statement)?;
    // A change that gives rows is undone when its reader goes away, so it commits only behind its last row.
    let own_transaction = class == Class::Rows && !prepared.readonly();
    if own_transaction {
        connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
    }
    let columns = statement::columns(&prepared);
    let deliver = |message| send.blocking_send(message).map_err(|_| Error::interrupted());
    // Errors of the first step (a constraint, a lock) are the call's own, not the stream's.
    let mut rows = prepared.raw_query();
    let mut next = rows.next().map_err(sqlite)?.map(|row| statement::row(&columns, row)).transpose()?;
    deliver(Message::Started)?;
    while let Some(row) = next {
        deliver(Message::Row(row))?;
        next = rows.next().map_err(sqlite)?.map(|row| statement::row(&columns, row)).transpose()?;
    }
    drop(rows);
    drop(prepared);
    if own_transaction {
        connection.execute_batch("COMMIT").map_err(sqlite)?;
    }
    Ok(())
}

struct Reading {
    receive: mpsc::Receiver<Message>,
    running: Running<()>,
    gate: Arc<Gate>,
    _lease: Lease,
}

fn rows(reading: Reading) -> RowStream {
    Box::pin(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        loop {
            let message = match reading.gate.check() {
                Ok(()) => tokio::select! {
                    biased;
                    message = reading.receive.recv() => message,
                    () = reading.gate.closing() => None,
                },
                Err(_) => None,
            };
            match message {
                Some(Message::Row(row)) => return Some((Ok(row), Some(reading))),
                Some(Message::Started) => {}
                None => {
                    // Closed from here or from there: either way the thread's answer tells why.
                    drop(reading.receive);
                    return match reading.running.wait().await {
                        Ok(()) => None,
                        Err(error) => Some((Err(error), None)),
                    };
                }
            }
        }
    }))
}
