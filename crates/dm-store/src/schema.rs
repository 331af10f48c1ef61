//! The schema that the store needs, and whether a database has it.
//!
//! Nothing is applied here: that is dm-migrate's, to which a [`StorePlace`] hands the files and says what there is already. This
//! crate only makes the place for them, refuses what is not a store, and opens what is up to date.

use std::path::Path;
use std::time::{Duration, Instant};

use dm_core::{EngineKind, Error, ErrorKind, OpContext, Result, Secret, redact_url};
use sha2::{Digest, Sha256, Sha384};
use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, Connection};

use crate::dialect::Dialect;
use crate::location::{Location, sqlite_url};
use crate::sql::{Columns, Sql, run_script};
use crate::store::connect_options;
use crate::{error, files};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

struct Version {
    number: i64,
    file: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! version {
    ($number:literal, $file:literal) => {
        Version {
            number: $number,
            file: $file,
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../../migrations/postgres/", $file)),
        }
    };
}

/// In ascending order, without gaps. A text never changes once released.
const VERSIONS: &[Version] = &[
    version!(1, "0001_state.sql"),
    version!(2, "0002_audit.sql"),
    version!(3, "0003_audit_tree.sql"),
    version!(4, "0004_audit_erasure.sql"),
    version!(5, "0005_history.sql"),
];

impl Version {
    fn text(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }
}

/// The texts of the whole schema, in order.
pub(crate) fn texts(dialect: Dialect) -> impl Iterator<Item = &'static str> {
    VERSIONS.iter().map(move |v| v.text(dialect))
}

/// What of the schema a database has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// How many versions are applied.
    applied: usize,
    /// Whether only the table of programs before dm-migrate says so.
    by_old_table: bool,
}

/// The place of a store, made where it was missing, before its schema is looked after.
#[derive(Debug)]
pub struct StorePlace {
    location: Location,
    url: Secret,
    shown: String,
    standing: Standing,
}

impl StorePlace {
    /// The history's table: a name of its own, so that a database with somebody's migrations is never taken for a store.
    pub const HISTORY: &str = "dm_schema_history";

    /// Makes the file (0600, missing folders 0700, journalled as WAL) or the schema `data_manager` where it is missing, and looks
    /// what is there. Safe when several processes do so at once.
    ///
    /// # Errors
    /// As [`Store::open`](crate::Store::open).
    pub async fn prepare(url: &Secret, ctx: &OpContext) -> Result<Self> {
        let location = Location::parse(url.expose())?;
        let (url, shown) = match &location {
            Location::Sqlite(path) => {
                files::prepare(path)?;
                (Secret::new(sqlite_url(path)?), path.display().to_string())
            }
            Location::Postgres(url) => (url.clone(), redact_url(url.expose())),
        };
        let mut place = Self { location, url, shown, standing: Standing::default() };
        let prepared = ctx.run(async {
            let mut connection = place.connect().await?;
            if place.dialect() == Dialect::Sqlite {
                journal_as_wal(&mut connection).await?;
            }
            let standing = place.look(&mut connection).await?;
            connection.close().await.map_err(error::map)?;
            Ok(standing)
        });
        place.standing = prepared.await.map_err(|e: Error| e.about(place.shown.clone()))?;
        Ok(place)
    }

    async fn connect(&self) -> Result<AnyConnection> {
        let options = self.options()?;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, AnyConnection::connect_with(&options));
        let mut connection = match connecting.await {
            Ok(connection) => connection.map_err(error::map)?,
            Err(_) => {
                return Err(Error::new(ErrorKind::Unreachable, "the store's server does not answer"));
            }
        };
        run_script(&mut connection, self.dialect().on_connect(false)).await?;
        Ok(connection)
    }

    /// What there is; makes the namespace where it is missing.
    async fn look(&self, connection: &mut AnyConnection) -> Result<Standing> {
        let dialect = self.dialect();
        if has_table(connection, dialect, Self::HISTORY).await? {
            return standing(connection, dialect, false).await;
        }
        if has_table(connection, dialect, "dm_schema").await? {
            return standing(connection, dialect, true).await;
        }
        let mut transaction = connection.begin_with(dialect.begin_write()).await.map_err(error::map)?;
        if let Some(lock) = dialect.lock_schema() {
            run_script(&mut transaction, lock).await?;
        }
        if let Some(lacks) = dialect.lacks_namespace()
            && Sql::new(lacks).optional(&mut *transaction).await?.is_some()
        {
            run_script(&mut transaction, "CREATE SCHEMA data_manager").await?;
        }
        // Another opener may have begun the history meanwhile.
        if !has_table(&mut transaction, dialect, Self::HISTORY).await?
            && Sql::new(dialect.has_foreign_tables()).optional(&mut *transaction).await?.is_some()
        {
            return Err(Error::invalid("somebody else's tables are where the store would be made")
                .with_hint("name another file or database in store.url"));
        }
        transaction.commit().await.map_err(error::map_commit)?;
        Ok(Standing::default())
    }

    /// Fails unless the schema is the one that this program knows.
    pub(crate) async fn require_current(&mut self, ctx: &OpContext) -> Result<()> {
        if !self.is_current() {
            let looked = ctx.run(async {
                let mut connection = self.connect().await?;
                let standing = self.look(&mut connection).await?;
                connection.close().await.map_err(error::map)?;
                Ok(standing)
            });
            self.standing = looked.await.map_err(|e: Error| e.about(self.shown.clone()))?;
        }
        match self.is_current() {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the store's schema has {} of {} versions",
                self.standing.applied,
                VERSIONS.len()
            ))
            .about(self.shown.clone())
            .with_hint("bring it up to date first: dm_migrate::open_store does")),
        }
    }

    /// Whether the database has the whole schema.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.standing.applied == VERSIONS.len() && !self.standing.by_old_table
    }

    /// The versions that a program applied here before dm-migrate did, and that its history has to begin with.
    pub fn applied_before(&self) -> impl Iterator<Item = i64> {
        let count = if self.standing.by_old_table { self.standing.applied } else { 0 };
        VERSIONS.iter().take(count).map(|v| v.number)
    }

    /// The files of the schema, by name and text.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let dialect = self.dialect();
        VERSIONS.iter().map(move |v| (v.file, v.text(dialect)))
    }

    /// Which engine it is on.
    #[must_use]
    pub fn kind(&self) -> EngineKind {
        match self.dialect() {
            Dialect::Sqlite => EngineKind::Sqlite,
            Dialect::Postgres => EngineKind::Postgres,
        }
    }

    /// The file that it is in; `None` on a server.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.location {
            Location::Sqlite(path) => Some(path),
            Location::Postgres(_) => None,
        }
    }

    /// The URL of the server, and the schema in which everything is; `None` for a file.
    #[must_use]
    pub fn server(&self) -> Option<(&Secret, &'static str)> {
        match &self.location {
            Location::Sqlite(_) => None,
            Location::Postgres(url) => Some((url, "data_manager")),
        }
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.shown
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.location.dialect()
    }

    pub(crate) fn options(&self) -> Result<AnyConnectOptions> {
        connect_options(&self.url)
    }
}

/// Switches to write-ahead logging. The switch wants the file to itself and does not wait for it by itself, so two
/// processes that start at once would fail without the loop.
async fn journal_as_wal(connection: &mut AnyConnection) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        match run_script(connection, "PRAGMA journal_mode = WAL").await {
            Err(e) if e.kind() == ErrorKind::Busy && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

async fn has_table(connection: &mut AnyConnection, dialect: Dialect, table: &str) -> Result<bool> {
    Ok(Sql::new(dialect.has_table()).bind(table.to_owned()).once().optional(connection).await?.is_some())
}

/// How far the schema is, after a look at every version that was applied.
async fn standing(connection: &mut AnyConnection, dialect: Dialect, by_old_table: bool) -> Result<Standing> {
    let rows = match by_old_table {
        true => Sql::new("SELECT version, checksum FROM dm_schema ORDER BY version"),
        false => Sql::new(
            "SELECT version, checksum FROM dm_schema_history WHERE state = 'applied' ORDER BY version",
        ),
    };
    let rows = rows.once().all(connection).await?;
    let mut known = VERSIONS.iter();
    for row in &rows {
        let mut columns = Columns::new(row);
        let (version, checksum): (i64, String) = (columns.take()?, columns.take()?);
        let Some(expected) = known.next() else {
            return Err(Error::unsupported(format!(
                "the store's schema has version {version}, and this program knows versions up to {}",
                VERSIONS.len()
            ))
            .with_hint("use the newer program that made it, or another store"));
        };
        if expected.number != version {
            return Err(Error::corrupt(format!(
                "version {} of the store's schema is missing",
                expected.number
            )));
        }
        let text = expected.text(dialect);
        let digest = match by_old_table {
            true => hex::encode(Sha256::digest(text)),
            false => hex::encode(Sha384::digest(text)),
        };
        if checksum != digest {
            return Err(Error::corrupt(format!(
                "version {version} of the store's schema ({}) was applied with another text",
                expected.file
            ))
            .with_hint("use the program that made this store, or another store"));
        }
    }
    Ok(Standing { applied: rows.len(), by_old_table })
}
