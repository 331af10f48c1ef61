//! Logical backup: definitions by `pg_dump`, rows by `COPY`, all under one exported snapshot. A physical backup, which is
//! asked for by its mode, is made in [`physical`].

mod large_objects;
mod members;
mod open;
mod preflight;
mod rows;
mod scope;
mod session;
mod snapshot;
mod tenant;
pub(crate) mod toc;

use async_trait::async_trait;
use dm_core::{BackupMode, BackupRequest, BackupSession, BackupSource, OpContext, Preflight, Result};

pub(crate) use large_objects::{
    FACTS_MEMBER as LARGE_OBJECT_LIST, FRAME_BYTES, FRAME_HEAD, LargeObjectFacts, MEMBER as LARGE_OBJECTS,
    digest_all as digest_large_objects,
};
pub(crate) use members::{SEQUENCES, SequenceValue, TableCopy};
pub(crate) use open::{scratch, scratch_failed};
pub(crate) use preflight::{client_tools, connections};

use sqlx::postgres::PgPool;

use crate::client::Client;
use crate::engine::check_open;
use crate::physical;

/// The member with the archive of definitions.
pub(crate) const SCHEMA: &str = "schema/schema.dump";
/// The member with the roles of the server.
pub(crate) const GLOBALS: &str = "globals.sql";
/// The name under which large objects stand among the tables' facts.
pub(crate) const LARGE_OBJECT_FACTS: &str = "pg_catalog.pg_largeobject";

/// A database as a source of backups.
#[derive(Clone, Debug)]
pub(crate) struct PostgresBackup {
    pub(crate) client: Client,
    /// The engine's pool, which tells whether the engine was closed.
    pub(crate) pool: PgPool,
}

#[async_trait]
impl BackupSource for PostgresBackup {
    async fn preflight(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Preflight> {
        check_open(&self.pool)?;
        match request.mode.unwrap_or_default() {
            BackupMode::Logical => preflight::look(ctx, &self.client, request).await,
            BackupMode::Physical => Box::pin(physical::look(ctx, &self.client, request)).await,
        }
    }

    async fn open(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Box<dyn BackupSession>> {
        check_open(&self.pool)?;
        Ok(match request.mode.unwrap_or_default() {
            BackupMode::Logical => Box::new(Box::pin(open::open(ctx, &self.client, request)).await?),
            BackupMode::Physical => Box::new(Box::pin(physical::open(ctx, &self.client, request)).await?),
        })
    }
}
