//! The log of a server: WAL, read through SQL.
//!
//! Files of `pg_wal` are read by polling, never behind what the server has flushed, and every page is checked to be what its
//! place says. A physical slot keeps the server from removing what was not shipped. No replication protocol, no agent: the
//! role needs EXECUTE on three functions, and REPLICATION for the slot.

mod file;
mod history;
mod holder;
mod preflight;
mod read;
mod segment;
mod server;
mod session;

use std::path::Path;
use std::sync::OnceLock;

use async_trait::async_trait;
use dm_core::{
    EngineKind, Error, ErrorKind, Finding, LogFile, LogHead, LogHolder, LogName, LogRequest, LogSession,
    LogSource, OpContext, Result,
};
use sqlx::postgres::{PgConnection, PgPool};

use crate::client::Client;
use crate::engine::check_open;
use crate::physical::{pooled, refuse_pooler};
use crate::session::{close, open_pinned};
use server::Identity;

/// A server as a source of log.
#[derive(Debug)]
pub(crate) struct PostgresLog {
    client: Client,
    /// The engine's pool, which tells whether the engine was closed.
    pool: PgPool,
    /// The server that was met first; no other may take its place under this source.
    known: OnceLock<u64>,
}

impl PostgresLog {
    pub(crate) fn new(client: Client, pool: PgPool) -> Self {
        Self { client, pool, known: OnceLock::new() }
    }

    fn same(&self, system: u64) -> Result<()> {
        let known = *self.known.get_or_init(|| system);
        if known == system {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("another server answers now: system {system}, before it was {known}"),
        )
        .with_hint("check the engine's url; a new cluster has a log, and needs backups, of its own"))
    }
}

#[async_trait]
impl LogSource for PostgresLog {
    async fn preflight(&self, ctx: &OpContext, request: &LogRequest) -> Result<Vec<Finding>> {
        check_open(&self.pool)?;
        holder::check_name(&request.holder)?;
        preflight::look(ctx, &self.client, request).await
    }

    async fn stream_id(&self, ctx: &OpContext) -> Result<String> {
        check_open(&self.pool)?;
        let mut connection = open_pinned(ctx, &self.client).await?;
        let identity = ctx.run(server::identity(&mut connection)).await;
        close(connection).await;
        let system = identity?.system;
        self.same(system)?;
        Ok(system.to_string())
    }

    async fn head(&self, ctx: &OpContext, holder: &str) -> Result<LogHead> {
        check_open(&self.pool)?;
        let mut connection = open_pinned(ctx, &self.client).await?;
        let head = ctx.run(Box::pin(head(&mut connection, holder))).await;
        close(connection).await;
        head
    }

    async fn follow(&self, ctx: &OpContext, request: &LogRequest) -> Result<Box<dyn LogSession>> {
        check_open(&self.pool)?;
        holder::check_name(&request.holder)?;
        if self.client.pgbouncer {
            return Err(pooled());
        }
        // Without the holder's name: a pooler would keep it on a connection that nobody follows through.
        let mut first = open_pinned(ctx, &self.client).await?;
        let mut second = open_pinned(ctx, &self.client).await?;
        refuse_pooler(ctx, &mut first, &mut second).await?;
        close(first).await;
        close(second).await;
        let mut connection = open_pinned(ctx, &holder::named(&self.client, &request.holder)).await?;
        let begun = ctx
            .run(Box::pin(async {
                let identity: Identity = server::identity(&mut connection).await?;
                self.same(identity.system)?;
                holder::lock(&mut connection, &request.holder).await?;
                session::Follower::begin(ctx, connection, identity, request.clone()).await
            }))
            .await;
        Ok(Box::new(begun.map_err(|e| e.on_engine(EngineKind::Postgres))?))
    }

    async fn read_file(&self, ctx: &OpContext, path: &Path) -> Result<LogFile> {
        ctx.run(file::read(path)).await.map_err(|e| e.on_engine(EngineKind::Postgres))
    }

    fn locate(&self, name: &str, sample: Option<&[u8]>) -> Result<LogName> {
        file::locate(name, sample)
    }

    async fn drop_holder(&self, ctx: &OpContext, holder: &str) -> Result<bool> {
        check_open(&self.pool)?;
        holder::check_name(holder)?;
        let mut connection = open_pinned(ctx, &holder::named(&self.client, holder)).await?;
        let dropped = ctx.run(Box::pin(drop_holder(&mut connection, holder))).await;
        close(connection).await;
        dropped
    }
}

async fn head(connection: &mut PgConnection, name: &str) -> Result<LogHead> {
    let identity = server::identity(connection).await?;
    let look = server::look(connection).await?.ok_or_else(|| {
        Error::new(ErrorKind::Unreachable, "the standby receives and replays nothing just now")
    })?;
    let holder = match holder::find(connection, name).await? {
        None => None,
        Some(slot) => Some(LogHolder {
            name: name.to_owned(),
            in_use: holder::in_use(connection, name).await?,
            lost: slot.lost || slot.from.is_none(),
            kept_bytes: slot.from.map_or(0, |from| look.end.offset.saturating_sub(from)),
        }),
    };
    Ok(LogHead { stream: identity.system.to_string(), end: look.end, at: look.now, holder })
}

async fn drop_holder(connection: &mut PgConnection, name: &str) -> Result<bool> {
    holder::lock(connection, name).await?;
    match holder::find(connection, name).await? {
        None => Ok(false),
        Some(slot) if !slot.physical => {
            Err(Error::invalid(format!("the replication slot \"{name}\" is a logical one, and not ours")))
        }
        Some(_) => holder::drop_slot(connection, name).await.map(|()| true),
    }
}
