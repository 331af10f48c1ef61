//! Opening connections, and pinning the settings that decide what rows look like as text.
//!
//! A row's digest is taken over its COPY text. That text depends on session settings, so every connection that reads
//! or compares rows sets all of them, whatever the role, the database or the server say.

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Executor};

use crate::client::Client;
use crate::error::reading;

/// Everything that changes the text of a value, hides a row, or ends a long session.
const PINNED: &str = "
    SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3;
    SET bytea_output = 'hex'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'; SET xmlbinary = 'base64';
    SET standard_conforming_strings = on; SET search_path = ''; SET row_security = off;
    SET quote_all_identifiers = off; SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off; SET default_transaction_deferrable = off;
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    SET jit = off; SET synchronize_seqscans = off; SET check_function_bodies = off; SET xmloption = content;
    SET max_parallel_workers_per_gather = 0; SET client_min_messages = warning;
    SET lc_monetary = 'C'";

/// Settings that only newer servers know; a server that lacks one has nothing to pin.
const PINNED_WHERE_KNOWN: &str = "
    SELECT count(set_config(s.name, v.value, false)) FROM pg_catalog.pg_settings s
    JOIN (VALUES ('idle_session_timeout', '0'), ('transaction_timeout', '0'),
                 ('client_connection_check_interval', '2000')) v(name, value) USING (name)";

/// Opens a connection and pins its settings.
pub(crate) async fn open_pinned(ctx: &OpContext, client: &Client) -> Result<PgConnection> {
    let mut connection = open(ctx, client).await?;
    ctx.run(async { pin(&mut connection).await.map_err(reading) }).await?;
    Ok(connection)
}

async fn pin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(PINNED).await?;
    // Only a superuser may choose the language of messages; others get the server's.
    match connection.execute("SET lc_messages = 'C'").await {
        Err(e) if e.as_database_error().is_some() => {}
        other => {
            other?;
        }
    }
    connection.execute(PINNED_WHERE_KNOWN).await.map(drop)
}

/// Opens a connection as it is, within the connect timeout.
pub(crate) async fn open(ctx: &OpContext, client: &Client) -> Result<PgConnection> {
    let options = client.connect_options().disable_statement_logging();
    ctx.run(async {
        match tokio::time::timeout(client.options.connect_timeout, PgConnection::connect_with(&options)).await
        {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(e)) => Err(unreachable_hint(reading(e), client)),
            Err(_) => Err(unreachable_hint(
                Error::new(ErrorKind::Unreachable, "the server did not answer in time"),
                client,
            )),
        }
    })
    .await
}

fn unreachable_hint(error: Error, client: &Client) -> Error {
    let error = error.about(client.location());
    match error.kind() {
        ErrorKind::Unreachable if error.hint().is_none() => {
            error.with_hint("check host and port of the engine's url, and that the server runs")
        }
        _ => error,
    }
}

/// Opens a connection for commands on whole databases: `postgres`, or `template1`, or the engine's own.
///
/// A database cannot be renamed or dropped over a connection to itself.
pub(crate) async fn open_control(ctx: &OpContext, client: &Client, avoid: &[&str]) -> Result<PgConnection> {
    let mut last = None;
    for database in ["postgres", client.database.as_str(), "template1"] {
        if avoid.contains(&database) {
            continue;
        }
        match open_pinned(ctx, &client.on_database(database)).await {
            Ok(connection) => return Ok(connection),
            Err(e) if e.kind() == ErrorKind::Unreachable => return Err(e),
            Err(e) => last = Some(e),
        }
    }
    Err(last
        .unwrap_or_else(|| Error::new(ErrorKind::Denied, "there is no other database to connect to"))
        .with_hint("allow the role to connect to the database postgres"))
}

/// Closes a connection in good order; whatever goes wrong no longer matters.
pub(crate) async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection was not closed in good order");
    }
}
