//! The schema of a database, object by object, and shadow databases.
//!
//! What an object is, the server says: its catalogs and `pg_get_*def`, under an empty search path so that every name is
//! qualified. Owners are not part of a schema (whoever replays the files owns what they make); what others may do is.

mod script;
mod shadow;
mod snapshot;

use std::ffi::OsString;

use async_trait::async_trait;
use dm_core::{OpContext, Result, SchemaScript, SchemaSnapshot, SchemaSource, Shadow, ShadowPlace};
use sqlx::postgres::PgPool;

use crate::catalog;
use crate::client::Client;
use crate::engine::check_open;
use crate::session::{close, open_pinned};
use crate::sql::quote_ident;
use crate::tools::ClientTools;

/// The schema port of an engine.
pub(crate) struct PostgresSchema {
    pub(crate) client: Client,
    pub(crate) pool: PgPool,
}

#[async_trait]
impl SchemaSource for PostgresSchema {
    async fn snapshot(&self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot> {
        check_open(&self.pool)?;
        let mut connection = open_pinned(ctx, &self.client).await?;
        let read = ctx.run(snapshot::read(&mut connection, leave_out)).await;
        close(connection).await;
        read
    }

    async fn dump(&self, ctx: &OpContext, leave_out: &[String]) -> Result<String> {
        check_open(&self.pool)?;
        let mut connection = open_pinned(ctx, &self.client).await?;
        let version = ctx.run(catalog::version(&mut connection)).await;
        close(connection).await;
        let tools = ClientTools::at_least(ctx, &self.client, version?.major, "pg_dump").await?;
        let mut arguments: Vec<OsString> =
            ["--schema-only", "--no-owner", "--no-password", "--encoding=UTF8"].map(Into::into).into();
        for table in leave_out {
            let pattern = table.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
            let pattern = if table.contains('.') { pattern } else { format!("*.{pattern}") };
            arguments.push(format!("--exclude-table={pattern}").into());
        }
        arguments.push(self.client.dbname_argument().into());
        let dumped = tools.run(ctx, &self.client, "pg_dump", arguments).await?.or_fail("pg_dump")?;
        Ok(script::of_dump(&String::from_utf8_lossy(&dumped.stdout)))
    }

    fn script(&self, from: &SchemaSnapshot, to: &SchemaSnapshot) -> SchemaScript {
        SchemaScript::between(from, to, &script::alter)
    }

    async fn shadow(&self, ctx: &OpContext, place: &ShadowPlace) -> Result<Box<dyn Shadow>> {
        check_open(&self.pool)?;
        Ok(Box::new(shadow::PostgresShadow::make(ctx, &self.client, place).await?))
    }
}
