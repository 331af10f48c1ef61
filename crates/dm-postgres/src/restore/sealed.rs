//! A sealed database from its proof to its name, now or later.
//!
//! A database that is kept sealed says in its comment where it belongs and what the source's had besides its content:
//! [`release`] needs nothing else, neither the repository nor the plan.

use dm_core::{Error, OpContext, Restored, Result};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;

use super::opening::taken;
use super::place::{self, kept};
use crate::catalog::DatabaseProperties;
use crate::client::Client;
use crate::error::reading;
use crate::session::{close, open_control};
use crate::sql::{quote_ident, quote_literal};

/// What the comment of a sealed database begins with.
const MARKER: &str = "dm.postgres-sealed/1 ";

/// A database that nobody else may connect to, and what it becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// Its name now.
    pub(super) name: String,
    /// Its final name.
    pub(super) database: String,
    /// The name under which what stands at the final name is kept.
    pub(super) kept_as: Option<String>,
    /// Whether owners are restored.
    pub(super) owners: bool,
    /// What the source's database had besides its content.
    pub(super) properties: DatabaseProperties,
}

impl Sealed {
    /// Leaves it sealed, with its marker; gives its location.
    pub(super) async fn keep(&self, ctx: &OpContext, client: &Client) -> Result<String> {
        let marker = serde_json::to_string(self).map_err(|e| {
            Error::internal("the marker of a sealed database cannot be written").with_source(e)
        })?;
        let mut control = open_control(ctx, client, &[&self.name]).await?;
        let text = format!(
            "COMMENT ON DATABASE {} IS {}",
            quote_ident(&self.name),
            quote_literal(&format!("{MARKER}{marker}"))
        );
        place::command(&mut control, text).await.map_err(|e| kept(e, &self.name))?;
        close(control).await;
        Ok(client.on_database(&self.name).location())
    }

    /// Gives it its name, and opens it to others.
    pub(super) async fn open(&self, ctx: &OpContext, client: &Client, pool: &PgPool) -> Result<Restored> {
        let (sealed, name) = (&self.name, &self.database);
        let mut control = open_control(ctx, client, &[sealed, name]).await?;
        place::vacate(ctx, &mut control, pool, sealed).await.map_err(|e| kept(e, sealed))?;
        let mut kept_as = self.kept_as.as_deref();
        match (place::exists(&mut control, name).await?, kept_as.is_some()) {
            (true, true) => {
                place::vacate(ctx, &mut control, pool, name).await.map_err(|e| kept(e, sealed))?;
            }
            (true, false) => return Err(kept(taken(name), sealed)),
            (false, _) => kept_as = None,
        }
        place::unseal(&mut control, sealed, name, kept_as, &self.properties, self.owners)
            .await
            .map_err(|e| kept(e, sealed))?;
        close(control).await;
        let previous = kept_as.map(|k| client.on_database(k).location());
        Ok(Restored { location: client.on_database(name).location(), previous, ..Restored::default() })
    }
}

/// Opens a database that was kept sealed: by its location, as a report has it, or its bare name.
pub(super) async fn release(
    ctx: &OpContext,
    client: &Client,
    pool: &PgPool,
    location: &str,
) -> Result<Restored> {
    let name = match location.strip_prefix(&format!("{}/", client.server())) {
        Some(name) => name,
        None if location.contains("://") => {
            return Err(Error::not_found("the sealed database is on another server")
                .about(location)
                .with_hint("name the engine that it was restored with"));
        }
        None => location,
    };
    let mut control = open_control(ctx, client, &[name]).await?;
    let comment: Option<Option<String>> = sqlx::query_scalar(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = $1",
    )
    .bind(name)
    .fetch_optional(&mut control)
    .await
    .map_err(reading)?;
    close(control).await;
    let nothing = || {
        Error::not_found("there is no database that a restore left sealed")
            .about(name)
            .with_hint("give the location as the report of the restore has it")
    };
    let marker = comment.flatten().ok_or_else(nothing)?;
    let marker = marker.strip_prefix(MARKER).ok_or_else(nothing)?;
    let sealed: Sealed = serde_json::from_str(marker).map_err(|e| {
        Error::corrupt("the marker of a sealed database is not what it should be").about(name).with_source(e)
    })?;
    // Whoever copied or renamed it made something else of it.
    if sealed.name != name {
        return Err(nothing());
    }
    sealed.open(ctx, client, pool).await
}
