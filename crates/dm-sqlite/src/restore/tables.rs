//! Single tables, copied out of a sealed image into another database.

use std::path::Path;

use dm_core::{Effect, EngineKind, Error, ErrorKind, Result, TableFacts};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::connect::{self, Purpose};
use crate::error::{sqlite, sqlite_about};
use crate::schema::{self, quote};
use crate::{SqliteOptions, disk, facts, location, worker};

/// The name under which the image is attached.
const IMAGE: &str = "restored_image";

/// Whether a table's name matches a pattern, in which `*` stands for any text.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Makes a new database that holds only these tables.
pub(super) fn assemble(image: &Path, target: &Path, tables: &[String]) -> Result<()> {
    drop(disk::create_private(target)?);
    let source = connect::immutable(image)?;
    let connection = connect::scratch(target)?;
    for name in ["page_size", "auto_vacuum"] {
        connection.pragma_update(None, name, schema::pragma_number(&source, name)?).map_err(sqlite)?;
    }
    connection.pragma_update(None, "encoding", schema::pragma_text(&source, "encoding")?).map_err(sqlite)?;
    for name in ["user_version", "application_id"] {
        connection.pragma_update(None, name, schema::pragma_number(&source, name)?).map_err(sqlite)?;
    }
    drop(source);
    attach(&connection, image)?;
    for table in tables {
        copy(&connection, table)?;
    }
    detach(&connection)?;
    connection.close().map_err(|(_, e)| sqlite(e))?;
    disk::sync_file(target)
}

/// Replaces the rows of these tables in a live database, all or nothing, proven before the commit. What stood there
/// before is kept whole under another name.
pub(super) fn merge(
    image: &Path,
    destination: &Path,
    kept: &Path,
    tables: &[String],
    expected: &[TableFacts],
    key: [u8; 32],
    options: &SqliteOptions,
) -> Result<()> {
    let connection = connect::live(destination, options, Purpose::Restoring)?;
    attach(&connection, image)?;
    // Writers wait from here on, so that the kept copy lacks nothing of theirs.
    connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite_about(destination.display().to_string()))?;
    keep_copy(destination, kept, options)?;
    let result = merge_tables(&connection, tables, expected, key);
    match result.and_then(|()| connection.execute_batch("COMMIT").map_err(sqlite)) {
        Ok(()) => detach(&connection),
        Err(error) => {
            // A connection that closes rolls back by itself; said here, so that the copy may go.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").map_err(sqlite)?;
            }
            drop(connection);
            disk::remove_if_there(kept)?;
            let effect = if error.kind() == ErrorKind::Unreachable { Effect::Unknown } else { Effect::None };
            Err(error.with_effect(effect))
        }
    }
}

fn merge_tables(
    connection: &Connection,
    tables: &[String],
    expected: &[TableFacts],
    key: [u8; 32],
) -> Result<()> {
    for table in tables {
        copy(connection, table)?;
        let Some(wanted) = expected.iter().find(|facts| facts.table == *table) else { continue };
        let found = facts::one(connection, "main", table, wanted.digest.map(|_| key))?;
        if found.as_ref().is_none_or(|found| found.rows != wanted.rows || found.digest != wanted.digest) {
            return Err(Error::new(
                ErrorKind::CheckFailed,
                "the rows are not those of the backup; nothing was changed",
            )
            .about(table.clone())
            .on_engine(EngineKind::Sqlite)
            .with_hint("restore the table to a new file instead"));
        }
    }
    Ok(())
}

/// Copies the live database, as its last commit left it, to a private file of its own.
fn keep_copy(live: &Path, kept: &Path, options: &SqliteOptions) -> Result<()> {
    drop(disk::create_private(kept)?);
    let copied = copy_whole(live, kept, options);
    if copied.is_err() {
        disk::remove_if_there(kept)?;
    }
    copied
}

fn copy_whole(live: &Path, kept: &Path, options: &SqliteOptions) -> Result<()> {
    let source = connect::live(live, options, Purpose::Reading)?;
    let mut target = connect::scratch(kept)?;
    let backup = Backup::new(&source, &mut target).map_err(sqlite)?;
    loop {
        worker::check()?;
        match backup.step(1024).map_err(sqlite)? {
            StepResult::Done => break,
            StepResult::More => {}
            _ => {
                return Err(Error::new(ErrorKind::Busy, "another connection holds the database")
                    .about(live.display().to_string())
                    .with_hint("try again when the application is idle"));
            }
        }
    }
    drop(backup);
    target.close().map_err(|(_, e)| sqlite(e))?;
    let metadata =
        std::fs::metadata(live).map_err(|e| crate::error::file(live, "look at the database", e))?;
    disk::copy_mode_and_owner(&metadata, kept)?;
    disk::sync_file(kept)?;
    disk::sync_folder_of(kept)
}

fn attach(connection: &Connection, image: &Path) -> Result<()> {
    connection
        .execute(&format!("ATTACH ?1 AS {IMAGE}"), [location::uri(image, "immutable=1")])
        .map(|_| ())
        .map_err(sqlite_about(image.display().to_string()))
}

fn detach(connection: &Connection) -> Result<()> {
    connection.execute_batch(&format!("DETACH {IMAGE}")).map_err(sqlite)
}

/// Copies one table from the image into `main`: the definition with its indexes and triggers when it is missing
/// there, the rows in any case, in place of those that are there.
fn copy(connection: &Connection, table: &str) -> Result<()> {
    let about = || sqlite_about(table);
    let from = schema::columns(connection, IMAGE, table)?;
    if from.is_empty() {
        return Err(Error::corrupt("the backup's file lacks a table that its facts name").about(table));
    }
    let there = schema::columns(connection, "main", table)?;
    let missing = there.is_empty();
    if missing {
        let text = schema::definition(connection, IMAGE, "table", table)?
            .ok_or_else(|| Error::corrupt("the table has no definition").about(table))?;
        connection.execute_batch(&text).map_err(about())?;
    } else if there != from {
        return Err(Error::new(ErrorKind::Conflict, "the table has other columns now than in the backup")
            .about(table)
            .with_hint("restore the table to a new file, and copy by hand what is wanted"));
    } else {
        connection.execute_batch(&format!("DELETE FROM main.{}", quote(table))).map_err(about())?;
    }
    let stored: Vec<_> = from.into_iter().filter(|column| !column.generated).collect();
    let mut list = schema::column_list(&stored);
    let (tables, _) = schema::tables(connection, IMAGE)?;
    let with_rowid = tables.iter().any(|t| t.name == table && !t.without_rowid);
    // Row numbers come along where they have a name left: other tables may point at them.
    let alias = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|alias| with_rowid && !stored.iter().any(|column| column.name.eq_ignore_ascii_case(alias)));
    if let Some(alias) = alias {
        list = format!("{alias}, {list}");
    }
    connection
        .execute_batch(&format!(
            "INSERT INTO main.{name} ({list}) SELECT {list} FROM {IMAGE}.{name} NOT INDEXED",
            name = quote(table)
        ))
        .map_err(about())?;
    sequence(connection, table)?;
    if missing {
        for kind in ["index", "trigger"] {
            for text in schema::dependents(connection, IMAGE, kind, table)? {
                connection.execute_batch(&text).map_err(about())?;
            }
        }
    }
    Ok(())
}

/// Takes over what AUTOINCREMENT remembers of the table.
fn sequence(connection: &Connection, table: &str) -> Result<()> {
    let has = |schema: &str| schema::columns(connection, schema, "sqlite_sequence").map(|c| !c.is_empty());
    if !has(IMAGE)? || !has("main")? {
        return Ok(());
    }
    connection.execute("DELETE FROM main.sqlite_sequence WHERE name = ?1", [table]).map_err(sqlite)?;
    connection
        .execute(
            &format!(
                "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, seq FROM {IMAGE}.sqlite_sequence \
                 WHERE name = ?1"
            ),
            [table],
        )
        .map_err(sqlite)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, yes) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*", "", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("a*a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }
}
