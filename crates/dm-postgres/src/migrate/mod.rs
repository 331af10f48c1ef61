//! Migrations on PostgreSQL.
//!
//! - [`split`]: where a statement ends.
//! - [`history`]: the tables.
//! - [`session`]: running, under the lock of [`lock`].
//! - [`doubt`]: statements that cannot run in a transaction, and what a killed one left.
//! - [`backfill`]: many rows, in portions.

mod backfill;
mod doubt;
mod history;
mod lock;
mod session;
mod split;

use async_trait::async_trait;
use dm_core::{
    BackfillRequest, BackfillSession, Finding, ForeignEntry, ForeignTool, HistoryEntry, MigrationSession,
    MigrationSettings, MigrationTarget, OpContext, Result, ScriptStatement, TableSize,
};
use futures::future::BoxFuture;
use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgPool};

use crate::client::Client;
use crate::engine::check_open;
use crate::error::reading;
use crate::session::{close, open};
use crate::sql::{dynamic, quote_ident};
use history::Table;
use session::Session;

/// The port's implementation.
pub(crate) struct PostgresMigrations {
    client: Client,
    pool: PgPool,
}

impl PostgresMigrations {
    pub(crate) fn new(client: Client, pool: PgPool) -> Self {
        let mut client = client;
        client.options.application_name = "dm migrate".to_owned();
        Self { client, pool }
    }

    /// A look at the database in a transaction that cannot write. Everything is the transaction's own, and no statement has a name,
    /// so that it works, and leaves nothing behind, through a pooler too.
    async fn look<T: Send>(
        &self,
        ctx: &OpContext,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send,
    ) -> Result<T> {
        check_open(&self.pool)?;
        let mut connection = open(ctx, &self.client).await?;
        let result = ctx
            .run(async {
                let schema = search_path(&self.client).replacen("SET ", "SET LOCAL ", 1);
                let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '60s';{schema}");
                connection.execute(sqlx::raw_sql(dynamic(begin))).await.map_err(reading)?;
                let found = work(&mut connection).await;
                connection.execute("ROLLBACK").await.map_err(reading)?;
                found
            })
            .await;
        close(connection).await;
        result
    }
}

/// The schema of the URL, as a setting.
fn search_path(client: &Client) -> String {
    client.schema.as_ref().map_or_else(String::new, |s| format!(" SET search_path = {};", quote_ident(s)))
}

#[async_trait]
impl MigrationTarget for PostgresMigrations {
    fn extension(&self) -> &'static str {
        "sql"
    }

    fn comment(&self) -> &'static str {
        "--"
    }

    fn is_transactional(&self) -> bool {
        true
    }

    fn split(&self, script: &str) -> Result<Vec<ScriptStatement>> {
        split::split(script)
    }

    async fn history(&self, ctx: &OpContext, table: &str) -> Result<Option<Vec<HistoryEntry>>> {
        let table = table.to_owned();
        self.look(ctx, |connection| {
            Box::pin(async move {
                let table = Table::resolve(connection, &table).await?;
                history::read(connection, &table).await
            })
        })
        .await
    }

    async fn foreign_history(
        &self,
        ctx: &OpContext,
        tool: ForeignTool,
        table: &str,
    ) -> Result<Option<Vec<ForeignEntry>>> {
        let table = table.to_owned();
        self.look(ctx, |connection| {
            Box::pin(async move {
                let table = Table::resolve(connection, &table).await?;
                history::read_foreign(connection, tool, &table).await
            })
        })
        .await
    }

    async fn table_sizes(&self, ctx: &OpContext) -> Result<Vec<TableSize>> {
        self.look(ctx, |connection| Box::pin(sizes(connection))).await
    }

    async fn leftovers(&self, ctx: &OpContext) -> Result<Vec<Finding>> {
        self.look(ctx, |connection| Box::pin(doubt::leftovers(connection))).await
    }

    async fn connect(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
    ) -> Result<Box<dyn MigrationSession>> {
        check_open(&self.pool)?;
        Ok(Box::new(Session::open(ctx, &self.client, settings).await?))
    }

    async fn backfill(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
        request: &BackfillRequest,
    ) -> Result<Box<dyn BackfillSession>> {
        check_open(&self.pool)?;
        Ok(Box::new(backfill::Backfill::open(ctx, &self.client, settings, request).await?))
    }
}

async fn sizes(connection: &mut PgConnection) -> Result<Vec<TableSize>> {
    let rows: Vec<(String, String, f32, i64)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text, c.reltuples, pg_catalog.pg_total_relation_size(c.oid)
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
          ORDER BY 1, 2",
    )
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    let size = |(schema, name, rows, bytes): (String, String, f32, i64)| TableSize {
        schema: Some(schema),
        name,
        // -1 (0 on old servers) means: never looked at. An estimate, so the loss of digits is none.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be positive"
        )]
        rows: (rows >= 1.0).then_some(rows as u64),
        bytes: u64::try_from(bytes).ok(),
    };
    Ok(rows.into_iter().map(size).collect())
}
