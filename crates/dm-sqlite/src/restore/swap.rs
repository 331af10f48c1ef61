//! Giving a sealed file its final name.
//!
//! In place, the old database is locked while its name changes hands. In WAL mode it is first brought back to a rollback
//! journal, which SQLite allows only when nobody else has it open; its log is then in the file, and closing our own connection
//! later cannot remove the log of the *new* database, which would have the same name. The old file is kept through a hard
//! link, so there is a database under the name at every moment.

use std::path::{Path, PathBuf};

use dm_core::{EngineKind, Error, ErrorKind, Result};
use rusqlite::Connection;

use super::taken;
use crate::connect::{self, Purpose};
use crate::error::{file as file_error, sqlite, sqlite_about};
use crate::{SqliteOptions, disk, schema};

/// Names a new place. It must be free, or an empty file.
pub(super) fn name_new(sealed: &Path, destination: &Path) -> Result<()> {
    if let Some((_, left)) = disk::companions(destination).first() {
        return Err(taken(left, sealed));
    }
    match disk::size_of(destination)? {
        None => disk::rename_to_free_name(sealed, destination).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => taken(destination, sealed),
            _ => e,
        })?,
        Some(0) => std::fs::rename(sealed, destination)
            .map_err(|e| file_error(destination, "give the file its name", e))?,
        Some(_) => return Err(taken(destination, sealed)),
    }
    disk::sync_folder_of(destination)
}

/// Puts the sealed file in the place of the present one; gives the name under which that is kept.
pub(super) fn replace(
    sealed: &Path,
    destination: &Path,
    kept: &Path,
    options: &SqliteOptions,
) -> Result<Option<PathBuf>> {
    let metadata = match std::fs::metadata(destination) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // A log without its database is of no use to the new one, and would be replayed into it.
            move_companions(destination, kept)?;
            disk::rename_to_free_name(sealed, destination).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => taken(destination, sealed),
                _ => e,
            })?;
            disk::sync_folder_of(destination)?;
            return Ok(None);
        }
        Err(e) => return Err(file_error(destination, "look at the database", e)),
    };
    disk::copy_mode_and_owner(&metadata, sealed)?;
    let locked = match lock(destination, options) {
        Ok(locked) => Some(locked),
        Err(e) if e.kind() == ErrorKind::Corrupt => None,
        Err(e) => return Err(e),
    };
    let swapped = swap(sealed, destination, kept);
    let was_wal = locked.as_ref().is_some_and(|l| l.was_wal);
    // Lets go of the old file. Nothing was written, so closing touches no file beside it.
    drop(locked);
    if was_wal {
        // The database that has the old content keeps its journal mode, wherever it is now.
        let old = if swapped.is_ok() { kept } else { destination };
        if let Err(e) = back_to_wal(old, options) {
            tracing::warn!(path = %old.display(), error = %e, "the journal mode stays at delete");
        }
    }
    swapped?;
    disk::sync_folder_of(destination)?;
    Ok(Some(kept.to_owned()))
}

struct Locked {
    connection: Connection,
    was_wal: bool,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing would do the same; a failure leaves nothing behind, for nothing was written.
        let _ = self.connection.execute_batch("ROLLBACK");
    }
}

fn in_use(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, "another program has the database open")
        .about(path.display().to_string())
        .on_engine(EngineKind::Sqlite)
        .with_hint("stop the programs that use it, or restore to a new file")
}

/// Brings everything into the one file and locks everybody out.
fn lock(path: &Path, options: &SqliteOptions) -> Result<Locked> {
    let about = || sqlite_about(path.display().to_string());
    let connection = connect::live(path, options, Purpose::Restoring)?;
    let was_wal = schema::pragma_text(&connection, "journal_mode")? == "wal";
    if was_wal {
        let busy: i64 =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(about())?;
        if busy != 0 {
            return Err(in_use(path));
        }
        let mode: String = connection
            .query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))
            .map_err(|e| busy_or(e, path))?;
        if mode != "delete" {
            return Err(in_use(path));
        }
    }
    connection.execute_batch("BEGIN EXCLUSIVE").map_err(|e| busy_or(e, path))?;
    let locked = Locked { connection, was_wal };
    // Between the two, somebody may have opened it and switched it back; an exclusive transaction then shuts out
    // only writers.
    if schema::pragma_text(&locked.connection, "journal_mode")? == "wal" {
        return Err(in_use(path));
    }
    Ok(locked)
}

fn busy_or(error: rusqlite::Error, path: &Path) -> Error {
    let error = sqlite(error).about(path.display().to_string());
    if error.kind() == ErrorKind::Busy { in_use(path).with_source(error) } else { error }
}

fn swap(sealed: &Path, destination: &Path, kept: &Path) -> Result<()> {
    let linked = match std::fs::hard_link(destination, kept) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(file_error(kept, "keep the present database", e));
        }
        // No hard links here: the name is free for a moment, and put back when the second rename fails.
        Err(_) => {
            std::fs::rename(destination, kept)
                .map_err(|e| file_error(kept, "keep the present database", e))?;
            false
        }
    };
    let moved = move_companions(destination, kept);
    let named = moved.and_then(|()| {
        std::fs::rename(sealed, destination).map_err(|e| file_error(destination, "give the file its name", e))
    });
    if named.is_err() {
        move_companions(kept, destination)?;
        let undone = if linked { std::fs::remove_file(kept) } else { std::fs::rename(kept, destination) };
        undone.map_err(|e| file_error(kept, "put the present database back", e))?;
    }
    named
}

/// Journals go with the database that they belong to.
fn move_companions(from: &Path, to: &Path) -> Result<()> {
    for (suffix, companion) in disk::companions(from) {
        std::fs::rename(&companion, disk::with_suffix(to, suffix))
            .map_err(|e| file_error(&companion, "keep the journal", e))?;
    }
    Ok(())
}

fn back_to_wal(path: &Path, options: &SqliteOptions) -> Result<()> {
    connect::live(path, options, Purpose::Restoring)?
        .query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .map_err(sqlite)
}
