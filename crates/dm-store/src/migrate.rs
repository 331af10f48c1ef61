//! The schema's versions: applied in order, all in one transaction, with a checksum of every text.

use std::time::{Duration, Instant};

use dm_core::{Error, ErrorKind, OpContext, Result};
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, Connection};

use crate::dialect::Dialect;
use crate::error;
use crate::sql::{Columns, Sql, micros, run_script};

struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
        }
    };
}

/// In ascending order, without gaps. A text never changes once released.
const MIGRATIONS: &[Migration] = &[
    migration!(1, "0001_state"),
    migration!(2, "0002_audit"),
    migration!(3, "0003_audit_tree"),
    migration!(4, "0004_audit_erasure"),
];

/// The same on both engines (`INTEGER` would be 32 bits on PostgreSQL).
const VERSIONS_TABLE: &str = "CREATE TABLE dm_schema (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
     checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)";

impl Migration {
    fn text(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }

    fn checksum(&self, dialect: Dialect) -> String {
        hex::encode(Sha256::digest(self.text(dialect)))
    }
}

/// Switches to write-ahead logging. The switch wants the file to itself and does not wait for it by itself, so two
/// processes that start at once would fail without the loop.
pub(crate) async fn journal_as_wal(connection: &mut AnyConnection) -> Result<()> {
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

/// Brings the schema up to date.
pub(crate) async fn migrate(connection: &mut AnyConnection, dialect: Dialect, ctx: &OpContext) -> Result<()> {
    // The usual case takes no lock.
    if Sql::new(dialect.has_schema()).optional(&mut *connection).await?.is_some()
        && pending(connection, dialect).await?.is_empty()
    {
        return Ok(());
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
    if Sql::new(dialect.has_schema()).optional(&mut *transaction).await?.is_none() {
        if Sql::new(dialect.has_foreign_tables()).optional(&mut *transaction).await?.is_some() {
            return Err(Error::invalid("somebody else's tables are where the store would be made")
                .with_hint("name another file or database in store.url"));
        }
        run_script(&mut transaction, VERSIONS_TABLE).await?;
    }
    for migration in pending(&mut transaction, dialect).await? {
        run_script(&mut transaction, migration.text(dialect)).await?;
        Sql::new("INSERT INTO dm_schema (version, name, checksum, applied_at) VALUES ($1, $2, $3, $4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.checksum(dialect))
            .bind(micros(ctx.now()))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await.map_err(error::map_commit)
}

/// What is still to be applied, after a look at what was.
async fn pending(connection: &mut AnyConnection, dialect: Dialect) -> Result<Vec<&'static Migration>> {
    let rows = Sql::new("SELECT version, checksum FROM dm_schema ORDER BY version").all(connection).await?;
    let mut known = MIGRATIONS.iter();
    for row in &rows {
        let mut columns = Columns::new(row);
        let (version, checksum): (i64, String) = (columns.take()?, columns.take()?);
        let Some(migration) = known.next() else {
            return Err(Error::unsupported(format!(
                "the store's schema has version {version}, and this program knows versions up to {}",
                MIGRATIONS.len()
            ))
            .with_hint("use the newer program that made it, or another store"));
        };
        if migration.version != version {
            return Err(Error::corrupt(format!(
                "version {} of the store's schema is missing",
                migration.version
            )));
        }
        if migration.checksum(dialect) != checksum {
            return Err(Error::corrupt(format!(
                "version {version} of the store's schema ({}) was applied with another text",
                migration.name
            ))
            .with_hint("use the program that made this store, or another store"));
        }
    }
    Ok(known.collect())
}
