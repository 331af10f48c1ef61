//! Restore: definitions without indexes, rows in parallel, indexes and constraints, proof, and only then the name.

mod after;
mod compare;
mod content;
mod definitions;
mod merge;
mod needed;
mod opening;
mod pick;
mod place;
mod plan;
mod preview;
mod rows;
mod sealed;
mod session;
mod staging;

use async_trait::async_trait;
use dm_core::{
    OpContext, RestoreManifest, RestorePreview, RestoreRequest, RestoreSession, RestoreTarget, Restored,
    Result,
};
use sqlx::postgres::PgPool;

use crate::client::Client;
use crate::engine::check_open;
use crate::physical::restore as physical;

pub(crate) use place::create_like;

/// A server as a target of restores.
#[derive(Clone, Debug)]
pub(crate) struct PostgresRestore {
    pub(crate) client: Client,
    /// The engine's own idle connections: they must go before its database can be renamed.
    pub(crate) pool: PgPool,
}

#[async_trait]
impl RestoreTarget for PostgresRestore {
    async fn preview(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
    ) -> Result<RestorePreview> {
        check_open(&self.pool)?;
        if physical::is_ours(manifest) {
            return Box::pin(physical::preview(ctx, &self.client, request, manifest)).await;
        }
        preview::preview(ctx, &self.client, request, manifest).await
    }

    async fn open(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
        preview: &RestorePreview,
    ) -> Result<Box<dyn RestoreSession>> {
        check_open(&self.pool)?;
        if physical::is_ours(manifest) {
            return Box::pin(physical::open(ctx, &self.client, request, manifest, preview)).await;
        }
        if plan::Plan::load(preview)?.kind == plan::Kind::Merge {
            return Ok(Box::new(merge::open(ctx, self, request, manifest, preview).await?));
        }
        Ok(Box::new(opening::open(ctx, self, request, manifest, preview).await?))
    }

    async fn release_sealed(&self, ctx: &OpContext, location: &str) -> Result<Restored> {
        check_open(&self.pool)?;
        // Directories are called by their path, databases by their address.
        if location.starts_with('/') {
            return physical::release_sealed(location).await;
        }
        sealed::release(ctx, &self.client, &self.pool, location).await
    }
}
