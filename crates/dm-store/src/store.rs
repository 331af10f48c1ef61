//! Opening, connections and transactions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dm_core::{OpContext, Result, Secret};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Any, AnyPool, ConnectOptions, Transaction};

use crate::dialect::Dialect;
use crate::{StorePlace, error, schema, sql};

const IN_MEMORY: &str = "memory";
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// The system's own state. Cheap to clone; clones share their connections.
///
/// Writing methods do not watch the context's cancellation: an outcome must be written down especially when the work
/// was cancelled. Their waiting is bounded (30 s for a connection, 30 s for a lock).
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dialect: Dialect,
    location: String,
    file: Option<PathBuf>,
    /// SQLite: a single connection, so that the writers of a process queue fairly instead of polling for the lock.
    writer: AnyPool,
    reader: AnyPool,
    /// PostgreSQL: further connections, for what reads all of the audit chain; made when they are first needed.
    server: Option<PgPool>,
}

impl Store {
    /// Opens the store of a place whose schema is up to date.
    ///
    /// `sqlite:///path/state.db` or a plain path: the file is 0600 and synced at every commit. `postgres://…`: everything is in
    /// the schema `data_manager`; a server on another host is verified by its certificate unless `sslmode` says otherwise.
    ///
    /// # Errors
    /// `Invalid` (a bad URL, a file that is not a store, a schema that is behind), `Denied`, `NotFound` (no such database),
    /// `Unreachable`, `Unsupported` when the schema is newer than this program, `Corrupt` when a version was applied with another
    /// text.
    pub async fn open(mut place: StorePlace, ctx: &OpContext) -> Result<Self> {
        place.require_current(ctx).await?;
        let (dialect, options) = (place.dialect(), place.options()?);
        let pool = |connections: u32, read_only: bool| {
            pool_options(connections, dialect.on_connect(read_only)).connect_lazy_with(options.clone())
        };
        let (writer, reader) = match dialect {
            Dialect::Sqlite => (pool(1, false), pool(4, true)),
            Dialect::Postgres => {
                let pool = pool(8, false);
                (pool.clone(), pool)
            }
        };
        let server = place.server().map(|(url, _)| server(url, dialect.on_connect(false))).transpose()?;
        let (file, location) = (place.file().map(Path::to_owned), place.location().to_owned());
        Ok(Self(Arc::new(Inner { dialect, location, file, writer, reader, server })))
    }

    /// A store that lives in this process's memory and goes with it; for tests and examples. It is made whole, and has no history.
    ///
    /// # Errors
    /// `Internal` only.
    pub async fn in_memory(ctx: &OpContext) -> Result<Self> {
        let options = connect_options(&Secret::new("sqlite::memory:"))?;
        let dialect = Dialect::Sqlite;
        // One connection for good: every further one would be another, empty database.
        let pool = pool_options(1, dialect.on_connect(false))
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        let mut connection = pool.acquire().await.map_err(error::map)?;
        let made = ctx.run(async {
            for text in schema::texts(dialect) {
                sql::run_script(&mut connection, text).await?;
            }
            Ok(())
        });
        made.await?;
        drop(connection);
        let (location, file, server) = (IN_MEMORY.into(), None, None);
        Ok(Self(Arc::new(Inner { dialect, location, file, writer: pool.clone(), reader: pool, server })))
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// The file that it is in; `None` on a server and in memory.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Whether it goes with this process.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.0.location == IN_MEMORY
    }

    /// Closes all connections, waiting for those in use. Idempotent; using the store afterwards fails with
    /// `Unreachable`.
    pub async fn close(&self) {
        if let Some(server) = &self.0.server {
            server.close().await;
        }
        self.0.reader.close().await;
        self.0.writer.close().await;
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    pub(crate) fn reader(&self) -> &AnyPool {
        &self.0.reader
    }

    pub(crate) fn server(&self) -> Option<&PgPool> {
        self.0.server.as_ref()
    }

    pub(crate) fn writer(&self) -> &AnyPool {
        &self.0.writer
    }

    /// A transaction that will write; dropping it rolls it back.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>> {
        self.0.writer.begin_with(self.0.dialect.begin_write()).await.map_err(error::map)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("location", &self.0.location).finish_non_exhaustive()
    }
}

/// Commits. A connection lost meanwhile gives the effect `Unknown`.
pub(crate) async fn commit(transaction: Transaction<'static, Any>) -> Result<()> {
    transaction.commit().await.map_err(error::map_commit)
}

pub(crate) fn connect_options(url: &Secret) -> Result<AnyConnectOptions> {
    sqlx::any::install_default_drivers();
    let options: AnyConnectOptions = url.expose().parse().map_err(error::map)?;
    Ok(options.disable_statement_logging())
}

fn server(url: &Secret, on_connect: &'static str) -> Result<PgPool> {
    let options: PgConnectOptions = url.expose().parse().map_err(error::map)?;
    let pool = PgPoolOptions::new().max_connections(4).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool.after_connect(move |connection, _| {
        Box::pin(async move { sqlx::raw_sql(on_connect).execute(connection).await.map(|_| ()) })
    });
    Ok(pool.connect_lazy_with(options.disable_statement_logging()))
}

fn pool_options(connections: u32, on_connect: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).after_connect(
        move |connection, _| {
            Box::pin(async move { sqlx::raw_sql(on_connect).execute(connection).await.map(|_| ()) })
        },
    )
}
