//! The chain out of a file of SQLite, through its own interface.

use std::path::Path;
use std::time::Duration;

use dm_core::Result;
use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OpenFlags, Row};

use super::chain::{SEALED, SEALED_FROM};
use super::raw::{RawColumns, Read, read};
use super::{LEAF_COLUMNS, SealedEntry};
use crate::error;

/// Examines the links behind a position up to another one, up to the first row that cannot be read. It blocks.
pub(super) fn examine<T>(
    path: &Path,
    after: Option<i64>,
    up_to: i64,
    mut examine: impl FnMut(&SealedEntry) -> T,
) -> Result<Read<T>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(error::map_file)?;
    connection.busy_timeout(Duration::from_secs(30)).map_err(error::map_file)?;
    connection.pragma_update(None, "query_only", true).map_err(error::map_file)?;
    let text = format!("{SEALED}{LEAF_COLUMNS}{SEALED_FROM} AND s.seq > ?1 AND s.seq <= ?2 ORDER BY s.seq");
    let mut statement = connection.prepare(&text).map_err(error::map_file)?;
    let mut rows = statement.query((after.unwrap_or(i64::MIN), up_to)).map_err(error::map_file)?;
    let (mut entries, mut last) = (Vec::new(), after);
    let mut entry = SealedEntry::default();
    while let Some(row) = rows.next().map_err(error::map_file)? {
        if let Err(why) = read(&mut Columns { row, next: 0 }, &mut entry) {
            return Ok((entries, last, Some(why.to_string())));
        }
        last = Some(entry.seal.seq);
        entries.push(examine(&entry));
    }
    Ok((entries, last, None))
}

struct Columns<'r> {
    row: &'r Row<'r>,
    next: usize,
}

impl Columns<'_> {
    fn value(&mut self) -> rusqlite::Result<ValueRef<'_>> {
        self.next += 1;
        self.row.get_ref(self.next - 1)
    }
}

fn unreadable(column: usize, value: ValueRef<'_>, why: FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, value.data_type(), Box::new(why))
}

impl RawColumns for Columns<'_> {
    type Error = rusqlite::Error;

    fn number(&mut self) -> rusqlite::Result<i64> {
        let column = self.next;
        let value = self.value()?;
        value.as_i64().map_err(|e| unreadable(column, value, e))
    }

    fn text(&mut self, into: &mut String) -> rusqlite::Result<()> {
        let column = self.next;
        let value = self.value()?;
        into.clear();
        into.push_str(value.as_str().map_err(|e| unreadable(column, value, e))?);
        Ok(())
    }

    fn bytes(&mut self, into: &mut Vec<u8>) -> rusqlite::Result<()> {
        let column = self.next;
        let value = self.value()?;
        into.clear();
        into.extend_from_slice(value.as_blob().map_err(|e| unreadable(column, value, e))?);
        Ok(())
    }

    fn is_null(&mut self) -> rusqlite::Result<bool> {
        let null = self.row.get_ref(self.next)? == ValueRef::Null;
        self.next += usize::from(null);
        Ok(null)
    }
}
