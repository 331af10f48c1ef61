//! The engine itself.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use dm_core::{
    BackupSource, Capabilities, CaptureSource, Engine, EngineId, EngineKind, Finding, Health,
    MigrationTarget, OpContext, QueryPort, RestoreTarget, Result, SchemaSource, ServerVersion,
};

use crate::capture::Capture;
use crate::error::sqlite;
use crate::migrate::SqliteMigrations;
use crate::pool::Pool;
use crate::query::Queries;
use crate::restore::Target;
use crate::shape::SqliteSchema;
use crate::source::{self, Source};
use crate::{SqliteLocation, SqliteOptions, connect, diagnose, disk, preflight, schema, worker};

/// A SQLite database file.
#[derive(Debug)]
pub struct SqliteEngine {
    id: EngineId,
    location: SqliteLocation,
    pool: Arc<Pool>,
}

impl SqliteEngine {
    /// Makes an engine for a file. Nothing is opened yet: the file may be missing or damaged, and the engine still
    /// restores into its place.
    ///
    /// # Errors
    /// `Invalid` for options that contradict each other.
    pub fn open(id: EngineId, location: SqliteLocation, options: SqliteOptions) -> Result<Self> {
        let options = options.resolve(&location)?;
        let pool = Pool::new(&location, options);
        Ok(Self { id, location, pool })
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }

    fn kind(&self) -> EngineKind {
        EngineKind::Sqlite
    }

    fn location(&self) -> String {
        self.location.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.online_backup = true;
        capabilities.transactional_ddl = true;
        capabilities.page_exact_incrementals = true;
        capabilities.incrementals = true;
        capabilities
    }

    /// The version of the SQLite library in this program: there is no server.
    async fn version(&self, _ctx: &OpContext) -> Result<ServerVersion> {
        self.pool.check_open()?;
        if !self.pool.options().create_if_missing && !disk::exists(self.pool.path()) {
            return Err(connect::missing(self.pool.path()));
        }
        Ok(source::version())
    }

    async fn ping(&self, ctx: &OpContext) -> Result<Health> {
        let lease = self.pool.acquire(ctx).await?;
        let begun = Instant::now();
        let size = lease
            .worker()?
            .submit(self.pool.gate(ctx), |connection| {
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(sqlite)?;
                Ok(schema::pragma_number(connection, "page_count")?
                    .saturating_mul(schema::pragma_number(connection, "page_size")?))
            })
            .wait()
            .await?;
        Ok(Health {
            reachable: true,
            latency: begun.elapsed(),
            size_bytes: u64::try_from(size).ok(),
            connections: Some(self.pool.usage()),
        })
    }

    async fn diagnose(&self, ctx: &OpContext) -> Vec<Finding> {
        if let Err(error) = self.pool.check_open() {
            return vec![preflight::from_error("open", &error)];
        }
        let pool = Arc::clone(&self.pool);
        let look = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-look", move || {
            Ok(diagnose::look(pool.path(), pool.options()))
        });
        let findings = match look {
            Ok(running) => running.wait().await,
            Err(error) => Err(error),
        };
        findings.unwrap_or_else(|error| vec![preflight::from_error("open", &error)])
    }

    fn query(&self) -> Option<Arc<dyn QueryPort>> {
        Some(Arc::new(Queries { pool: Arc::clone(&self.pool) }))
    }

    fn backup(&self) -> Option<Arc<dyn BackupSource>> {
        Some(Arc::new(Source { pool: Arc::clone(&self.pool), name: self.location.name() }))
    }

    fn restore(&self) -> Option<Arc<dyn RestoreTarget>> {
        Some(Arc::new(Target { pool: Arc::clone(&self.pool) }))
    }

    fn capture(&self) -> Option<Arc<dyn CaptureSource>> {
        Some(Arc::new(Capture { pool: Arc::clone(&self.pool) }))
    }

    fn migrations(&self) -> Option<Arc<dyn MigrationTarget>> {
        Some(Arc::new(SqliteMigrations { pool: Arc::clone(&self.pool) }))
    }

    fn schema(&self) -> Option<Arc<dyn SchemaSource>> {
        Some(Arc::new(SqliteSchema { pool: Arc::clone(&self.pool) }))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
