//! A bounded pool of connections for statements.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dm_core::{EngineKind, Error, ErrorKind, OpContext, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connect::{self, Purpose};
use crate::worker::{Gate, Worker};
use crate::{SqliteLocation, SqliteOptions};

/// Connections and what they are opened with.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    options: SqliteOptions,
    /// Whether nobody writes the file, so that no lock is taken and no file is made beside it.
    immutable: bool,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    worker: Worker,
    file: Option<FileId>,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Device and inode: whether a connection still has the file open that the path names now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl Pool {
    pub(crate) fn new(location: &SqliteLocation, options: SqliteOptions) -> Arc<Self> {
        Arc::new(Self {
            path: location.path().to_owned(),
            immutable: false,
            permits: Arc::new(Semaphore::new(options.max_connections)),
            options,
            idle: Mutex::default(),
        })
    }

    /// Connections for reading a file that nobody writes: a sealed restore.
    pub(crate) fn immutable(path: PathBuf, options: SqliteOptions) -> Arc<Self> {
        Arc::new(Self {
            path,
            immutable: true,
            permits: Arc::new(Semaphore::new(options.max_connections)),
            options,
            idle: Mutex::default(),
        })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(crate) fn options(&self) -> &SqliteOptions {
        &self.options
    }

    /// A gate for one statement.
    pub(crate) fn gate(&self, ctx: &OpContext) -> Arc<Gate> {
        Gate::new(ctx, self.options.busy_timeout, self.options.query_timeout)
    }

    /// A gate for longer work, which the query timeout does not limit.
    pub(crate) fn gate_for_long_work(&self, ctx: &OpContext) -> Arc<Gate> {
        Gate::new(ctx, self.options.busy_timeout, None)
    }

    /// Fails once the engine is closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.permits.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// Waits for a connection.
    pub(crate) async fn acquire(self: &Arc<Self>, ctx: &OpContext) -> Result<Lease> {
        let permits = Arc::clone(&self.permits);
        let permit = ctx.run(async { permits.acquire_owned().await.map_err(|_| closed()) }).await?;
        let file = self.file_id();
        loop {
            let idle = self.lock().pop();
            match idle {
                // The file was replaced under the connection, or the connection is spoilt: a new one.
                Some(idle) if idle.worker.is_tainted() || idle.file != file => drop(idle.worker.shut()),
                Some(idle) => return Ok(Lease::new(self, permit, idle)),
                None => break,
            }
        }
        let (path, options, immutable) = (self.path.clone(), self.options.clone(), self.immutable);
        let worker = Worker::start(self.gate(ctx), move || match immutable {
            true => connect::immutable(&path),
            false => connect::live(&path, &options, Purpose::Statements),
        })
        .await?;
        Ok(Lease::new(self, permit, Idle { worker, file: self.file_id() }))
    }

    /// Connections in use and the most there can be.
    pub(crate) fn usage(&self) -> (u32, u32) {
        let most = self.options.max_connections;
        let in_use = most.saturating_sub(self.permits.available_permits());
        (u32::try_from(in_use).unwrap_or(u32::MAX), u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// Waits, at most the busy timeout, until no connection is in use, closes them all and keeps new ones from being
    /// made until the permit is dropped.
    pub(crate) async fn pause(self: &Arc<Self>, ctx: &OpContext) -> Result<OwnedSemaphorePermit> {
        let all = u32::try_from(self.options.max_connections).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.permits).acquire_many_owned(all);
        let permit = ctx
            .run(async {
                match tokio::time::timeout(self.options.busy_timeout, waiting).await {
                    Ok(permit) => permit.map_err(|_| closed()),
                    Err(_) => Err(Error::new(ErrorKind::Busy, "this engine's own connections are in use")
                        .about(self.path.display().to_string())
                        .on_engine(EngineKind::Sqlite)
                        .with_hint("finish open transactions and queries first")),
                }
            })
            .await?;
        self.close_idle().await;
        Ok(permit)
    }

    /// Closes the pool for good.
    pub(crate) async fn close(&self) {
        self.permits.close();
        self.close_idle().await;
    }

    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.lock());
        let threads: Vec<_> = idle.into_iter().filter_map(|idle| idle.worker.shut()).collect();
        // Closing may checkpoint, which blocks; a panicked thread has nothing more to close.
        let _ = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        })
        .await;
    }

    fn file_id(&self) -> Option<FileId> {
        std::fs::metadata(&self.path).ok().map(|m| FileId(m.dev(), m.ino()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unreachable, "the engine is closed").on_engine(EngineKind::Sqlite)
}

/// A connection on loan. Goes back to the pool when dropped; jobs given before that still run first.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    idle: Option<Idle>,
    // Last: the permit is given back after the connection.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn new(pool: &Arc<Pool>, permit: OwnedSemaphorePermit, idle: Idle) -> Self {
        Self { pool: Arc::clone(pool), idle: Some(idle), _permit: permit }
    }

    /// The connection's thread.
    pub(crate) fn worker(&self) -> Result<&Worker> {
        self.idle.as_ref().map(|idle| &idle.worker).ok_or_else(closed)
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(idle) = self.idle.take() {
            if idle.worker.is_tainted() || self.pool.permits.is_closed() {
                drop(idle.worker.shut());
            } else {
                self.pool.lock().push(idle);
            }
        }
    }
}
