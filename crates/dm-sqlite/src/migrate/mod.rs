//! Migrations on SQLite.
//!
//! - [`split`]: where a statement ends.
//! - [`history`]: the tables.
//! - [`session`]: running, under the lock of [`lock`].
//! - [`backfill`]: many rows, in portions.

mod backfill;
mod history;
mod lock;
mod session;
mod split;

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    BackfillRequest, BackfillSession, Finding, ForeignEntry, ForeignTool, HistoryEntry, MigrationSession,
    MigrationSettings, MigrationTarget, OpContext, Result, ScriptStatement, TableSize,
};
use rusqlite::Connection;

use crate::error::sqlite;
use crate::pool::Pool;
use crate::worker;
use crate::{connect, disk};

/// The port's implementation.
pub(crate) struct SqliteMigrations {
    pub(crate) pool: Arc<Pool>,
}

impl SqliteMigrations {
    /// A look at the database by a connection that cannot write; `None` when there is no file yet and one may be made.
    async fn look<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        self.pool.check_open()?;
        let pool = Arc::clone(&self.pool);
        worker::spawn(self.pool.gate(ctx), "dm-sqlite-look", move || {
            if pool.options().create_if_missing && !disk::exists(pool.path()) {
                return Ok(None);
            }
            let connection = connect::live(pool.path(), pool.options(), connect::Purpose::Reading)?;
            work(&connection).map(Some)
        })?
        .wait()
        .await
    }
}

#[async_trait]
impl MigrationTarget for SqliteMigrations {
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
        Ok(self.look(ctx, move |connection| history::read(connection, &table)).await?.flatten())
    }

    async fn foreign_history(
        &self,
        ctx: &OpContext,
        tool: ForeignTool,
        table: &str,
    ) -> Result<Option<Vec<ForeignEntry>>> {
        let table = table.to_owned();
        Ok(self.look(ctx, move |connection| history::read_foreign(connection, tool, &table)).await?.flatten())
    }

    async fn table_sizes(&self, ctx: &OpContext) -> Result<Vec<TableSize>> {
        Ok(self.look(ctx, sizes).await?.unwrap_or_default())
    }

    /// None: whatever runs, runs in this process, and a process that dies leaves a transaction that SQLite undoes.
    async fn leftovers(&self, _ctx: &OpContext) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn connect(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
    ) -> Result<Box<dyn MigrationSession>> {
        Ok(Box::new(session::Session::open(ctx, &self.pool, settings).await?))
    }

    async fn backfill(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
        request: &BackfillRequest,
    ) -> Result<Box<dyn BackfillSession>> {
        Ok(Box::new(backfill::Backfill::open(ctx, &self.pool, settings, request).await?))
    }
}

/// The highest rowid stands for the number of rows: counting would read the whole table.
fn sizes(connection: &Connection) -> Result<Vec<TableSize>> {
    let mut statement = connection
        .prepare(
            "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )
        .map_err(sqlite)?;
    let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sqlite)?;
    let tables: Vec<(String, bool)> = tables.collect::<rusqlite::Result<_>>().map_err(sqlite)?;
    let mut sizes = Vec::with_capacity(tables.len());
    for (name, without_rowid) in tables {
        let rows: Option<i64> = match without_rowid {
            true => None,
            // A column may be called rowid; its greatest value is then as good an estimate as none. A table without any has no row.
            false => connection
                .query_row(&format!("SELECT max(rowid) FROM {}", crate::schema::quote(&name)), [], |row| {
                    Ok(Some(row.get::<_, Option<i64>>(0)?.unwrap_or(0)))
                })
                .unwrap_or(None),
        };
        sizes.push(TableSize {
            schema: None,
            name,
            rows: rows.and_then(|r| u64::try_from(r).ok()),
            bytes: None,
        });
    }
    Ok(sizes)
}
