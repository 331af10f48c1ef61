//! Connections that all see one snapshot.

use std::sync::{Arc, Mutex, PoisonError};

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::Client;
use crate::error::reading;
use crate::session::{close, open_pinned};
use crate::sql::{dynamic, quote_literal};

/// Up to so many connections in transactions of the same snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    client: Client,
    id: String,
    idle: Mutex<Vec<PgConnection>>,
    permits: Arc<Semaphore>,
}

/// A connection on loan. It goes back only when its work ended well: after an error its state is not trusted.
pub(super) struct Loan {
    pub(super) connection: PgConnection,
    permit: OwnedSemaphorePermit,
}

impl Snapshot {
    /// Wraps an exported snapshot.
    pub(super) fn new(client: Client, id: String, jobs: usize) -> Self {
        Self { client, id, idle: Mutex::default(), permits: Arc::new(Semaphore::new(jobs.max(1))) }
    }

    /// Waits for a place and gives a connection that sees the snapshot.
    pub(super) async fn borrow(&self, ctx: &OpContext) -> Result<Loan> {
        let permits = Arc::clone(&self.permits);
        let permit = ctx
            .run(async {
                permits.acquire_owned().await.map_err(|_| Error::internal("the snapshot was closed"))
            })
            .await?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open(ctx).await?,
        };
        Ok(Loan { connection, permit })
    }

    /// Takes a connection back.
    pub(super) fn give_back(&self, loan: Loan) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(loan.connection);
        drop(loan.permit);
    }

    /// Closes what is idle.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            close(connection).await;
        }
    }

    async fn open(&self, ctx: &OpContext) -> Result<PgConnection> {
        let mut connection = open_pinned(ctx, &self.client).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(&self.id)
        );
        ctx.run(async {
            connection.execute(sqlx::raw_sql(dynamic(begin))).await.map_err(|e| {
                let error = reading(e);
                match error.kind() {
                    ErrorKind::Invalid | ErrorKind::NotFound => {
                        Error::new(ErrorKind::Conflict, "the snapshot was lost").with_source(error)
                    }
                    _ => error,
                }
            })
        })
        .await?;
        Ok(connection)
    }
}
