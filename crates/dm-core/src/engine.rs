//! The one port that every adapter implements.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    BackupSource, CaptureSource, EngineId, Finding, LogSource, MigrationTarget, OpContext, QueryPort,
    RestoreTarget, Result, SchemaSource,
};

/// The family of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EngineKind {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
    /// MongoDB.
    Mongodb,
    /// Redis.
    Redis,
    /// The tests' engine in memory.
    Memory,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::Mongodb => "mongodb",
            Self::Redis => "redis",
            Self::Memory => "memory",
        })
    }
}

/// A server's version as it names itself, and its number for comparisons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVersion {
    /// For example `15.18 (Debian 15.18-0+deb12u1)`.
    pub text: String,
    /// The major version: 15.
    pub major: u32,
    /// The minor version: 18.
    pub minor: u32,
}

/// How well an engine does what its ports offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// A backup does not block writers.
    pub online_backup: bool,
    /// Schema changes take part in transactions.
    pub transactional_ddl: bool,
    /// A second backup stores only changed pages, to the page.
    pub page_exact_incrementals: bool,
    /// A backup's content is cut so that unchanged parts are recognised, if less finely than by page.
    pub incrementals: bool,
    /// Log shipping and points in time between backups.
    pub point_in_time: bool,
    /// Prepared transactions.
    pub two_phase_commit: bool,
}

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The server answered and a trivial query succeeded.
    pub reachable: bool,
    /// Round trip of a trivial query.
    pub latency: Duration,
    /// The size of the database in bytes, where it is cheap to know.
    pub size_bytes: Option<u64>,
    /// Connections in use and the most there can be, where the engine has such.
    pub connections: Option<(u32, u32)>,
}

/// A database that the system looks after.
///
/// Accessors return `None` for what the engine cannot do; the facade then answers
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported). Nobody outside the adapter asks which engine it is.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// Its name in the configuration.
    fn id(&self) -> &EngineId;

    /// Its family, for display and for manifests.
    fn kind(&self) -> EngineKind;

    /// Where it is, without secrets.
    fn location(&self) -> String;

    /// How well it does what it offers.
    fn capabilities(&self) -> Capabilities;

    /// The server's version.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `NotFound` (no such database).
    async fn version(&self, ctx: &OpContext) -> Result<ServerVersion>;

    /// One round trip.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    async fn ping(&self, ctx: &OpContext) -> Result<Health>;

    /// What `dm doctor` wants to know: connectivity, privileges, client tools, settings. Reads only; what is wrong
    /// is a finding, not an error.
    async fn diagnose(&self, ctx: &OpContext) -> Vec<Finding>;

    /// Statements.
    fn query(&self) -> Option<Arc<dyn QueryPort>> {
        None
    }

    /// Being backed up.
    fn backup(&self) -> Option<Arc<dyn BackupSource>> {
        None
    }

    /// Being restored into.
    fn restore(&self) -> Option<Arc<dyn RestoreTarget>> {
        None
    }

    /// Its log.
    fn log(&self) -> Option<Arc<dyn LogSource>> {
        None
    }

    /// Migrations.
    fn migrations(&self) -> Option<Arc<dyn MigrationTarget>> {
        None
    }

    /// Recording the changes of rows.
    fn capture(&self) -> Option<Arc<dyn CaptureSource>> {
        None
    }

    /// Its schema, object by object, and databases to try scripts in.
    fn schema(&self) -> Option<Arc<dyn SchemaSource>> {
        None
    }

    /// Closes connections in good order. Idempotent; using the engine afterwards fails with `Unreachable`.
    async fn close(&self);
}
