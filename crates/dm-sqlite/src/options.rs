//! How the engine opens its file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dm_core::{Error, Result};

use crate::{OpenMode, SqliteLocation};

/// Asks how many bytes are free for this user at a path. Replaced in tests, which cannot fill a disk.
#[derive(Clone)]
pub struct FreeSpace(Arc<Ask>);

type Ask = dyn Fn(&Path) -> Result<u64> + Send + Sync;

impl FreeSpace {
    /// Asks this function instead of the file system.
    pub fn new(ask: impl Fn(&Path) -> Result<u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    pub(crate) fn at(&self, path: &Path) -> Result<u64> {
        (self.0)(path)
    }
}

impl Default for FreeSpace {
    /// Asks the file system.
    fn default() -> Self {
        Self::new(crate::disk::free_bytes)
    }
}

impl fmt::Debug for FreeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeSpace")
    }
}

/// Options of a SQLite engine. Start from [`Default`].
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The most connections for statements and transactions, at least 1. Backup and restore use their own.
    pub max_connections: usize,
    /// How long a connection waits for a lock that another one holds.
    pub busy_timeout: Duration,
    /// How long one statement may run; no limit when `None`.
    pub query_timeout: Option<Duration>,
    /// Never write.
    pub read_only: bool,
    /// Create the file (mode 0600) when it is missing.
    pub create_if_missing: bool,
    /// Enforce foreign keys on every connection.
    pub foreign_keys: bool,
    /// In rollback-journal mode a writer can commit only between the steps of a backup's copy. This is the longest
    /// that the last resort, one long step, may be expected to take; above it the backup answers `Busy`.
    pub max_writer_stall: Duration,
    /// In rollback-journal mode a copy begins anew when somebody wrote. After so many new beginnings comes the last
    /// resort.
    pub max_copy_restarts: u32,
    /// How free disk space is found out.
    pub free_space: FreeSpace,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_connections: 4,
            busy_timeout: Duration::from_secs(5),
            query_timeout: None,
            read_only: false,
            create_if_missing: false,
            foreign_keys: true,
            max_writer_stall: Duration::from_secs(2),
            max_copy_restarts: 8,
            free_space: FreeSpace::default(),
        }
    }
}

impl SqliteOptions {
    /// Checks the options, and joins them with what the location's `mode` asks for: it can only restrict a
    /// read-only engine further, never open it.
    pub(crate) fn resolve(mut self, location: &SqliteLocation) -> Result<Self> {
        match location.mode() {
            Some(OpenMode::ReadOnly) => self.read_only = true,
            Some(OpenMode::ReadWrite) => self.create_if_missing = false,
            Some(OpenMode::Create) => self.create_if_missing = true,
            None => {}
        }
        if self.max_connections == 0 {
            return Err(Error::invalid("max_connections is 0").with_hint("use at least 1"));
        }
        if self.read_only && self.create_if_missing {
            return Err(Error::invalid("a read-only engine cannot create its file")
                .with_hint("leave out read_only or create_if_missing"));
        }
        Ok(self)
    }
}
