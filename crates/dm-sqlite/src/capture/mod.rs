//! Recording the changes of rows: triggers on the tables, and an outbox in the same file.
//!
//! Applications open the file with libraries of their own, so the triggers use nothing but what every SQLite has: no
//! function of ours, no extension, no temporary table. What SQLite has no word for, the application says itself by a row
//! of `dm_capture_session`: for whom it acts, and (by that row's own identity) in which transaction.

mod install;
mod outbox;
mod triggers;

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    CaptureRequest, CaptureSource, CaptureStatus, CapturedTable, OpContext, Result, RowChange, TableName,
};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::sqlite;
use crate::pool::Pool;
use crate::schema;

/// Begins the name of everything that belongs to it.
const PREFIX: &str = "dm_capture_";

/// The capture port.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) pool: Arc<Pool>,
}

impl Capture {
    async fn with<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lease = self.pool.acquire(ctx).await?;
        lease.worker()?.submit(self.pool.gate_for_long_work(ctx), work).wait().await
    }

    async fn changing<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let change = move |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
            let value = work(&transaction)?;
            transaction.commit().map_err(sqlite)?;
            Ok(value)
        };
        self.with(ctx, change).await
    }
}

#[async_trait]
impl CaptureSource for Capture {
    async fn install(&self, ctx: &OpContext, request: &CaptureRequest) -> Result<CapturedTable> {
        let request = request.clone();
        self.changing(ctx, move |on| install::install(on, &request)).await
    }

    async fn status(&self, ctx: &OpContext) -> Result<CaptureStatus> {
        self.with(ctx, |on| install::status(on)).await
    }

    async fn remove(&self, ctx: &OpContext, table: &TableName) -> Result<()> {
        let table = table.clone();
        self.changing(ctx, move |on| install::remove(on, &table)).await
    }

    async fn clear_away(&self, ctx: &OpContext) -> Result<bool> {
        self.changing(ctx, install::clear_away).await
    }

    async fn waiting(&self, ctx: &OpContext, most: u32, most_bytes: u64) -> Result<Vec<RowChange>> {
        self.with(ctx, move |on| outbox::waiting(on, most, most_bytes)).await
    }

    async fn confirm(&self, ctx: &OpContext, keys: &[String]) -> Result<()> {
        let keys = keys.to_vec();
        self.changing(ctx, move |on| outbox::confirm(on, &keys)).await
    }
}

/// Whether anything was ever installed.
fn is_installed(on: &Connection) -> Result<bool> {
    Ok(schema::definition(on, "main", "table", "dm_capture_tables")?.is_some())
}
