//! Opening connections, each with the settings that its purpose needs.

use std::path::Path;

use dm_core::{EngineKind, Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::{sqlite, sqlite_about};
use crate::{SqliteOptions, disk, location, worker};

/// What the connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Statements of callers.
    Statements,
    /// Reading for a backup or a diagnosis: never writes rows.
    Reading,
    /// The last step of a restore in place.
    Restoring,
}

/// Opens the live database.
pub(crate) fn live(path: &Path, options: &SqliteOptions, purpose: Purpose) -> Result<Connection> {
    if !disk::exists(path) {
        if !(options.create_if_missing && purpose == Purpose::Statements) {
            return Err(missing(path));
        }
        // SQLite would make it readable for everybody; an empty file is a valid empty database.
        match disk::create_private(path) {
            Err(e) if e.kind() != dm_core::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    if path.is_dir() {
        return Err(Error::invalid("the path is a folder").about(path.display().to_string()));
    }
    let access =
        if options.read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| sqlite(e).about(path.display().to_string()))?;
    install_handlers(&connection)?;
    connection
        .set_db_config(
            DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
            options.foreign_keys && purpose == Purpose::Statements,
        )
        .map_err(sqlite)?;
    let keep_log =
        |keep| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map_err(sqlite);
    keep_log(true)?;
    match purpose {
        Purpose::Statements => {}
        Purpose::Reading => {
            connection.pragma_update(None, "query_only", true).map_err(sqlite)?;
        }
        Purpose::Restoring => {
            // Rows come back as they were: no trigger may add to them or refuse them.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(sqlite)?;
            connection.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
        }
    }
    // SQLite opens lazily; reading the header now tells a wrong file from a wrong statement later.
    connection
        .query_row("PRAGMA schema_version", [], |_| Ok(()))
        .map_err(sqlite_about(path.display().to_string()))?;
    // The last connection to a broken database must not take its log away with it; the last one to a sound
    // database brings the log in and leaves no file beside it, as any SQLite program does.
    keep_log(false)?;
    Ok(connection)
}

/// The error for a database file that is not there.
pub(crate) fn missing(path: &Path) -> Error {
    Error::not_found("there is no such database file")
        .about(path.display().to_string())
        .on_engine(EngineKind::Sqlite)
        .with_hint("check the path, or set create_if_missing")
}

/// Opens a database file that nobody writes: a snapshot's copy, a sealed restore. Takes no lock and makes no file
/// beside it. Its schema is not trusted: no function or virtual table that could reach outside is run from it.
pub(crate) fn immutable(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(location::uri(path, "immutable=1"), flags)
        .map_err(sqlite_about(path.display().to_string()))?;
    install_handlers(&connection)?;
    distrust(&connection)?;
    Ok(connection)
}

/// Opens a new private file that only this program uses until it is renamed or removed: durable by one fsync at its
/// end, not by a journal.
pub(crate) fn scratch(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(sqlite_about(path.display().to_string()))?;
    install_handlers(&connection)?;
    distrust(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map_err(sqlite)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(sqlite)?;
    for (name, value) in [("journal_mode", "OFF"), ("synchronous", "OFF"), ("locking_mode", "EXCLUSIVE")] {
        connection.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(no_row).map_err(sqlite)?;
    }
    Ok(connection)
}

/// Opens an empty database in memory, for trying scripts: they may do what they may do on the live one.
pub(crate) fn memory() -> Result<Connection> {
    let connection = Connection::open_in_memory().map_err(sqlite)?;
    install_handlers(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map_err(sqlite)?;
    Ok(connection)
}

/// Some pragmas answer with a row, some with none.
fn no_row(error: rusqlite::Error) -> rusqlite::Result<()> {
    match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        other => Err(other),
    }
}

fn distrust(connection: &Connection) -> Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(sqlite)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(sqlite)?;
    Ok(())
}

fn install_handlers(connection: &Connection) -> Result<()> {
    worker::watch(connection);
    connection.busy_handler(Some(worker::keep_waiting)).map_err(sqlite)?;
    connection.progress_handler(4000, Some(worker::must_stop)).map_err(sqlite)?;
    Ok(())
}
