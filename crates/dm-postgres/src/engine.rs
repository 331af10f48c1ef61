//! The engine itself.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use dm_core::{
    BackupSource, Capabilities, CaptureSource, Engine, EngineId, EngineKind, Error, ErrorKind, Finding,
    Health, Level, LogSource, MigrationTarget, OpContext, QueryPort, RestoreTarget, Result, SchemaSource,
    Secret, ServerVersion,
};
use sqlx::ConnectOptions;
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::PostgresOptions;
use crate::backup::PostgresBackup;
use crate::capture::PostgresCapture;
use crate::catalog;
use crate::client::Client;
use crate::diagnose;
use crate::error::reading;
use crate::log::PostgresLog;
use crate::migrate::PostgresMigrations;
use crate::query::PostgresQuery;
use crate::restore::PostgresRestore;
use crate::schema::PostgresSchema;
use crate::session::{close, open};
use crate::sql::{dynamic, quote_ident, quote_literal};

/// A PostgreSQL database.
#[derive(Clone)]
pub struct PostgresEngine {
    id: EngineId,
    client: Client,
    pool: PgPool,
}

impl PostgresEngine {
    /// An engine for the database of a URL: `postgres://user:password@host:5432/database?sslmode=require`.
    ///
    /// Nothing is connected to until something is asked. Parameters that object mappers put into URLs (`schema`,
    /// `connection_limit`, `pool_timeout`, `connect_timeout`, `socket_timeout`, `pgbouncer`) are honoured; others that
    /// PostgreSQL does not know are left out.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot be used.
    pub fn connect(id: EngineId, url: &Secret, options: PostgresOptions) -> Result<Self> {
        let client = Client::parse(url, options)?;
        let pool = pool(&client);
        Ok(Self { id, client, pool })
    }

    fn check_open(&self) -> Result<()> {
        check_open(&self.pool)
    }

    async fn health(&self, ctx: &OpContext) -> Result<Health> {
        self.check_open()?;
        let mut connection = open(ctx, &self.client).await?;
        let result = ctx
            .run(async {
                let begun = Instant::now();
                connection.execute("SELECT 1").await.map_err(reading)?;
                let latency = begun.elapsed();
                // Each for itself: a role may be kept from one without the database being ill.
                let size = sqlx::query_scalar::<_, i64>(
                    "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())",
                )
                .fetch_one(&mut connection)
                .await
                .ok();
                let connections = sqlx::query_as::<_, (i64, i64)>(
                    "SELECT pg_catalog.sum(numbackends)::int8, pg_catalog.current_setting('max_connections')::int8
                       FROM pg_catalog.pg_stat_database",
                )
                .fetch_one(&mut connection)
                .await
                .ok();
                Ok(Health {
                    reachable: true,
                    latency,
                    size_bytes: size.and_then(|s| u64::try_from(s).ok()),
                    connections: connections
                        .and_then(|(used, most)| Some((u32::try_from(used).ok()?, u32::try_from(most).ok()?))),
                })
            })
            .await;
        close(connection).await;
        result
    }
}

/// The pool of statements: lazy, and with the session settings that values are decoded under.
pub(crate) fn pool(client: &Client) -> PgPool {
    let options = &client.options;
    let mut settings = String::from(
        "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; \
         SET extra_float_digits = 1; SET standard_conforming_strings = on;",
    );
    if let Some(limit) = options.query_timeout {
        settings.push_str(&format!(" SET statement_timeout = {};", limit.as_millis().max(1)));
    }
    if let Some(schema) = &client.schema {
        settings.push_str(&format!(" SET search_path = {};", quote_ident(schema)));
    }
    // A statement whose caller is gone shall end, not run on; servers before 14 cannot notice.
    settings.push_str(&format!(
        " SELECT pg_catalog.set_config(name, {}, false) FROM pg_catalog.pg_settings \
         WHERE name = 'client_connection_check_interval' AND setting = '0'",
        quote_literal("1000")
    ));
    let settings: Arc<str> = settings.into();
    PgPoolOptions::new()
        .max_connections(options.pool_max.max(1))
        .min_connections(0)
        .acquire_timeout(options.acquire_timeout)
        .idle_timeout(options.idle_timeout)
        .after_connect(move |connection, _| {
            let settings = Arc::clone(&settings);
            Box::pin(
                async move { connection.execute(sqlx::raw_sql(dynamic(settings.as_ref()))).await.map(drop) },
            )
        })
        .connect_lazy_with(client.connect_options().disable_statement_logging())
}

impl fmt::Debug for PostgresEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresEngine")
            .field("id", &self.id)
            .field("location", &self.client.location())
            .finish()
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }

    fn kind(&self) -> EngineKind {
        EngineKind::Postgres
    }

    fn location(&self) -> String {
        self.client.location()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.online_backup = true;
        capabilities.transactional_ddl = true;
        capabilities.incrementals = true;
        capabilities.point_in_time = true;
        capabilities.page_exact_incrementals = true;
        capabilities.two_phase_commit = true;
        capabilities
    }

    async fn version(&self, ctx: &OpContext) -> Result<ServerVersion> {
        self.check_open()?;
        let mut connection = open(ctx, &self.client).await?;
        let version = ctx.run(catalog::version(&mut connection)).await;
        close(connection).await;
        version
    }

    async fn ping(&self, ctx: &OpContext) -> Result<Health> {
        self.health(ctx).await
    }

    async fn diagnose(&self, ctx: &OpContext) -> Vec<Finding> {
        match self.check_open() {
            Ok(()) => diagnose::diagnose(ctx, &self.client).await,
            Err(error) => vec![Finding::new(Level::Error, "reachable", error.to_string())],
        }
    }

    fn query(&self) -> Option<Arc<dyn QueryPort>> {
        Some(Arc::new(PostgresQuery::new(self.client.clone(), self.pool.clone())))
    }

    fn backup(&self) -> Option<Arc<dyn BackupSource>> {
        Some(Arc::new(PostgresBackup { client: self.client.clone(), pool: self.pool.clone() }))
    }

    fn restore(&self) -> Option<Arc<dyn RestoreTarget>> {
        Some(Arc::new(PostgresRestore { client: self.client.clone(), pool: self.pool.clone() }))
    }

    fn log(&self) -> Option<Arc<dyn LogSource>> {
        Some(Arc::new(PostgresLog::new(self.client.clone(), self.pool.clone())))
    }

    fn capture(&self) -> Option<Arc<dyn CaptureSource>> {
        Some(Arc::new(PostgresCapture { client: self.client.clone(), pool: self.pool.clone() }))
    }

    fn migrations(&self) -> Option<Arc<dyn MigrationTarget>> {
        Some(Arc::new(PostgresMigrations::new(self.client.clone(), self.pool.clone())))
    }

    fn schema(&self) -> Option<Arc<dyn SchemaSource>> {
        Some(Arc::new(PostgresSchema { client: self.client.clone(), pool: self.pool.clone() }))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Fails once the engine was closed: backups and restores make connections of their own, and must not then.
pub(crate) fn check_open(pool: &PgPool) -> Result<()> {
    match pool.is_closed() {
        true => {
            Err(Error::new(ErrorKind::Unreachable, "the engine was closed").on_engine(EngineKind::Postgres))
        }
        false => Ok(()),
    }
}
