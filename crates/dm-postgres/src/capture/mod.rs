//! Recording the changes of rows: triggers on the tables, and an outbox in the schema `dm_capture`.
//!
//! What is promised follows from how it is built:
//!
//! - One trigger function for all tables turns the row into JSON as it is at that moment, so that no change of a table's
//!   definition makes the application's statements fail. Where columns are kept out, one that was unknown at the
//!   installation is masked: a renamed secret does not come out.
//! - The outbox has neither a sequence nor a unique index. It is a queue that is read and then deleted from by place and
//!   identity, so that what commits late is neither lost nor waited for.
//! - The triggers are `ENABLE ALWAYS`: `session_replication_role` does not pass them by. Whoever may disable them (the
//!   table's owner, a superuser) can; the status says that they are.

mod install;
mod outbox;

use async_trait::async_trait;
use dm_core::{
    CaptureRequest, CaptureSource, CaptureStatus, CapturedTable, Error, OpContext, Result, RowChange,
    TableName,
};
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};

use crate::client::Client;
use crate::engine::check_open;
use crate::error::{reading, writing};
use crate::session::{close, open};

/// Where everything of it is.
const SCHEMA: &str = "dm_capture";
/// Serialises installations; "capture" in ASCII.
const LOCK: i64 = 0x0063_6170_7475_7265;

/// The capture port.
pub(crate) struct PostgresCapture {
    pub(crate) client: Client,
    pub(crate) pool: PgPool,
}

impl PostgresCapture {
    async fn connect(&self, ctx: &OpContext) -> Result<PgConnection> {
        check_open(&self.pool)?;
        open(ctx, &self.client).await
    }

    /// Runs `work` in one transaction that no other installation runs beside.
    async fn exclusively<T, F>(&self, ctx: &OpContext, work: F) -> Result<T>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T>,
    {
        let mut connection = self.connect(ctx).await?;
        let result = ctx
            .run(async {
                let mut transaction = connection.begin().await.map_err(reading)?;
                sqlx::query("SELECT pg_catalog.pg_advisory_xact_lock($1)")
                    .bind(LOCK)
                    .execute(&mut *transaction)
                    .await
                    .map_err(reading)?;
                let value = work(&mut transaction).await?;
                transaction.commit().await.map_err(writing)?;
                Ok(value)
            })
            .await;
        close(connection).await;
        result
    }
}

#[async_trait]
impl CaptureSource for PostgresCapture {
    async fn install(&self, ctx: &OpContext, request: &CaptureRequest) -> Result<CapturedTable> {
        let schema = self.client.schema.clone();
        self.exclusively(ctx, async |on| install::install(on, request, schema.as_deref()).await).await
    }

    async fn status(&self, ctx: &OpContext) -> Result<CaptureStatus> {
        let mut connection = self.connect(ctx).await?;
        let status = ctx.run(install::status(&mut connection)).await;
        close(connection).await;
        status
    }

    async fn remove(&self, ctx: &OpContext, table: &TableName) -> Result<()> {
        self.exclusively(ctx, async |on| install::remove(on, table).await).await
    }

    async fn clear_away(&self, ctx: &OpContext) -> Result<bool> {
        self.exclusively(ctx, async |on| install::clear_away(on).await).await
    }

    async fn waiting(&self, ctx: &OpContext, most: u32, most_bytes: u64) -> Result<Vec<RowChange>> {
        let mut connection = self.connect(ctx).await?;
        let changes = ctx.run(outbox::waiting(&mut connection, most, most_bytes)).await;
        close(connection).await;
        changes
    }

    async fn confirm(&self, ctx: &OpContext, keys: &[String]) -> Result<()> {
        let mut connection = self.connect(ctx).await?;
        let confirmed = ctx.run(outbox::confirm(&mut connection, keys)).await;
        close(connection).await;
        confirmed
    }
}

/// Whether anything was ever installed.
async fn is_installed(on: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar("SELECT pg_catalog.to_regclass('dm_capture.installation') IS NOT NULL")
        .fetch_one(on)
        .await
        .map_err(reading)
}

fn not_installed(table: &TableName) -> Error {
    Error::not_found(format!("the changes of {table} are not recorded"))
        .with_hint("\"dm audit capture status\" lists what is")
}
