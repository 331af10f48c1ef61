//! A store on each engine, and a way round the crate into its tables.

use std::path::PathBuf;
use std::sync::Arc;

use dm_core::{Actor, Engine, EngineId, MigrationTarget, OpContext, Result, Secret};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_sqlite::{SqliteEngine, SqliteLocation, SqliteOptions};
use dm_store::{Store, StorePlace};
use dm_testkit::postgres::{Server, TestDatabase};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

/// Where a test's store is.
pub(crate) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(TestDatabase),
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn postgres(name: &str) -> Option<Self> {
        let server = dm_testkit::available(Server::shared(15))?;
        Some(Self::Postgres(server.database(name).await.unwrap()))
    }

    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(folder) => folder.path().join("made/here/state.db"),
            Self::Postgres(_) => panic!("not a file"),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite://{}", self.file().display()),
            Self::Postgres(database) => database.url(),
        }
    }

    pub(crate) async fn open(&self) -> Result<Store> {
        open(self.url()).await
    }

    /// Runs statements behind the store's back.
    pub(crate) async fn raw(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number, behind the store's back.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap();
        row.get(0)
    }

    /// A connection behind the store's back.
    pub(crate) async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&self.url()).await.unwrap();
        let setup = match self {
            Self::Sqlite(_) => "PRAGMA busy_timeout = 10000",
            Self::Postgres(_) => "SET search_path TO data_manager",
        };
        sqlx::raw_sql(setup).execute(&mut connection).await.unwrap();
        connection
    }
}

/// Opens a store as the facade does: dm-migrate brings its schema up to date, through the adapter of its engine.
pub(crate) async fn open(url: String) -> Result<Store> {
    dm_migrate::open_store(&Secret::new(url), &ctx(), adapter).await
}

fn adapter(place: &StorePlace) -> Result<Arc<dyn MigrationTarget>> {
    let id = EngineId::new("store")?;
    let engine: Arc<dyn Engine> = match (place.server(), place.file()) {
        (Some((url, schema)), _) => {
            let joint = if url.expose().contains('?') { '&' } else { '?' };
            let url = Secret::new(format!("{}{joint}schema={schema}", url.expose()));
            Arc::new(PostgresEngine::connect(id, &url, PostgresOptions::default())?)
        }
        (None, file) => {
            let location = SqliteLocation::from_path(file.unwrap())?;
            Arc::new(SqliteEngine::open(id, location, SqliteOptions::default())?)
        }
    };
    Ok(engine.migrations().unwrap())
}

pub(crate) fn ctx() -> OpContext {
    OpContext::new(Actor::local_user("test"))
}

/// Runs an `async fn(Place)` on both engines, as tests of its own.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name($crate::support::Place::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                if let Some(place) = $crate::support::Place::postgres(stringify!($name)).await {
                    super::$name(place).await;
                }
            })*
        }
    };
}
