//! Connections that all see one snapshot.

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use crate::client::Client;
use crate::error::reading;
use crate::lending::{Lending, Loan};
use crate::session::open_pinned;
use crate::sql::{dynamic, quote_literal};

/// Up to so many connections in transactions of the same snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    client: Client,
    id: String,
    lending: Lending,
}

impl Snapshot {
    /// Wraps an exported snapshot.
    pub(super) fn new(client: Client, id: String, jobs: usize) -> Self {
        Self { client, id, lending: Lending::new(Vec::new(), jobs) }
    }

    /// Waits for a place and gives a connection that sees the snapshot.
    pub(super) async fn borrow(&self, ctx: &OpContext) -> Result<Loan> {
        self.lending.borrow(ctx, Box::pin(self.open(ctx))).await
    }

    /// Takes a connection back.
    pub(super) fn give_back(&self, loan: Loan) {
        self.lending.give_back(loan);
    }

    /// Closes what is idle.
    pub(super) async fn close(&self) {
        self.lending.close().await;
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
