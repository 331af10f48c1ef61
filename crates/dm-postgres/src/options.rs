//! What a caller may set on an engine.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one PostgreSQL engine. What the URL says (`connection_limit`, `connect_timeout` ...) goes before these.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The most connections for statements. Backups and restores use up to their `jobs` besides.
    pub pool_max: u32,
    /// How long a statement waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long the making of a connection may take.
    pub connect_timeout: Duration,
    /// How long a statement may run; no limit when `None`. Backups and restores are not limited by it.
    pub query_timeout: Option<Duration>,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// The folder of `pg_dump`, `pg_restore` and `pg_dumpall`; looked for on `PATH` and in the distributions'
    /// folders when `None`.
    pub bin_dir: Option<PathBuf>,
    /// How the connections name themselves to the server.
    pub application_name: String,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pool_max: 10,
            acquire_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            query_timeout: None,
            idle_timeout: Duration::from_secs(600),
            bin_dir: None,
            application_name: "dm".to_owned(),
        }
    }
}
