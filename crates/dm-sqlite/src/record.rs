//! What a row's record in a page says (<https://www.sqlite.org/fileformat2.html#record_format>), as the row encoding wants it.

use dm_core::Result;
use rusqlite::{Connection, OptionalExtension};

use crate::error::{sqlite, sqlite_about};
use crate::rows;
use crate::schema::{SCHEMA_TABLE, quote};

/// How a column's value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    /// As it is stored.
    Stored,
    /// Whole numbers are stored short and read as floating-point ones.
    Real,
    /// The row id under another name; the record has NULL.
    RowId,
}

/// A table that can be read from its pages.
#[derive(Debug)]
pub(crate) struct Form {
    /// The first page of its tree.
    pub(crate) root: u32,
    columns: Vec<Column>,
}

impl Form {
    /// The form of a table; `None` when SQLite has to read it.
    pub(crate) fn of(connection: &Connection, table: &str) -> Result<Option<Self>> {
        // The definitions are few, and a part of their columns is left out of the digest.
        if table == SCHEMA_TABLE || !is_rowid_table(connection, table)? {
            return Ok(None);
        }
        let root: Option<i64> = connection
            .query_row(
                "SELECT rootpage FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
                [table],
                |row| row.get(0),
            )
            .optional()
            .map_err(sqlite_about(table))?;
        let Some(root) = root.and_then(|root| u32::try_from(root).ok()) else { return Ok(None) };
        let mut columns = Vec::new();
        let mut keys = Vec::new();
        let mut prepared = connection
            .prepare(&format!("PRAGMA main.table_xinfo({})", quote(table)))
            .map_err(sqlite_about(table))?;
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (hidden, key): (i64, i64) =
                (row.get("hidden").map_err(sqlite)?, row.get("pk").map_err(sqlite)?);
            let declared: String = row.get("type").map_err(sqlite)?;
            if hidden != 0 {
                return Ok(None);
            }
            if key > 0 {
                keys.push((columns.len(), declared.eq_ignore_ascii_case("integer")));
            }
            columns.push(if is_real(&declared) { Column::Real } else { Column::Stored });
        }
        // INTEGER PRIMARY KEY is the row id, unless it has an index of its own, as the DESC of old has.
        if let [(place, true)] = keys[..]
            && !has_key_index(connection, table)?
            && let Some(column) = columns.get_mut(place)
        {
            *column = Column::RowId;
        }
        Ok((!columns.is_empty()).then_some(Self { root, columns }))
    }

    /// Writes the row encoding of a record; `None` when it is none of the plain ones.
    pub(crate) fn encode(&self, rowid: i64, payload: &[u8], row: &mut Vec<u8>) -> Option<()> {
        rows::begin(row);
        let (header, rest) = varint(payload)?;
        let header = usize::try_from(header).ok()?;
        let mut serials = rest.get(..header.checked_sub(payload.len() - rest.len())?)?;
        let mut body = payload.get(header..)?;
        for column in &self.columns {
            // A column that was added later has its value in the definition: there is no serial type here then.
            let (serial, rest) = varint(serials)?;
            serials = rest;
            let length = match serial {
                0 | 8 | 9 => 0,
                1..=4 => usize::try_from(serial).ok()?,
                5 => 6,
                6 | 7 => 8,
                10 | 11 => return None,
                n => usize::try_from((n - 12) / 2).ok()?,
            };
            let (value, rest) = body.split_at_checked(length)?;
            body = rest;
            match (serial, column) {
                (_, Column::RowId) => rows::integer(row, rowid),
                (0, _) => rows::null(row),
                (1..=6 | 8 | 9, _) => {
                    let number = if length == 0 { i64::from(serial == 9) } else { whole(value) };
                    match column {
                        #[expect(clippy::cast_precision_loss, reason = "so does SQLite")]
                        Column::Real => rows::real(row, number as f64),
                        _ => rows::integer(row, number),
                    }
                }
                (7, _) => match f64::from_be_bytes(value.try_into().ok()?) {
                    number if number.is_nan() => rows::null(row),
                    number => rows::real(row, number),
                },
                (n, _) if n % 2 == 1 => rows::text(row, value),
                _ => rows::blob(row, value),
            }
        }
        (serials.is_empty() && body.is_empty()).then_some(())
    }
}

/// A number of up to eight bytes, big endian, two's complement.
fn whole(bytes: &[u8]) -> i64 {
    let start = if bytes.first().is_some_and(|b| *b >= 0x80) { -1 } else { 0 };
    bytes.iter().fold(start, |number, byte| number << 8 | i64::from(*byte))
}

/// A variable-length number, and what follows it.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        if index == 8 {
            return Some((number << 8 | u64::from(*byte), &bytes[9..]));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

/// Whether a declared type means REAL affinity (<https://www.sqlite.org/datatype3.html>, 3.1: the rules in their order).
fn is_real(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    !has(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"]) && has(&["REAL", "FLOA", "DOUB"])
}

fn is_rowid_table(connection: &Connection, table: &str) -> Result<bool> {
    let mut prepared = connection
        .prepare(&format!("PRAGMA main.table_list({})", quote(table)))
        .map_err(sqlite_about(table))?;
    let mut rows = prepared.raw_query();
    let Some(row) = rows.next().map_err(sqlite)? else { return Ok(false) };
    let (kind, without_rowid): (String, bool) =
        (row.get("type").map_err(sqlite)?, row.get("wr").map_err(sqlite)?);
    Ok(!without_rowid && (kind == "table" || kind == "shadow"))
}

fn has_key_index(connection: &Connection, table: &str) -> Result<bool> {
    let mut prepared = connection
        .prepare(&format!("PRAGMA main.index_list({})", quote(table)))
        .map_err(sqlite_about(table))?;
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let origin: String = row.get("origin").map_err(sqlite)?;
        if origin == "pk" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        for (bytes, number) in [
            (&[0x00][..], 0),
            (&[0x7f], 0x7f),
            (&[0x81, 0x00], 0x80),
            (&[0xff, 0x7f], 0x3fff),
            (&[0xff; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x05], 5),
        ] {
            assert_eq!(varint(bytes), Some((number, &[][..])));
        }
        assert_eq!(varint(&[0x80]), None);
        assert_eq!(whole(&[0xff, 0xfe]), -2);
        assert_eq!(whole(&[0x00, 0xff, 0xfe]), 0xfffe);
        assert_eq!(whole(&i64::MIN.to_be_bytes()), i64::MIN);
    }

    #[test]
    fn affinity_by_the_rules_in_their_order() {
        for real in ["REAL", "double precision", "Float", "FLOAT(3)"] {
            assert!(is_real(real), "{real}");
        }
        // "FLOATING POINT" has INT in it; so the book says.
        for other in ["", "FLOATING POINT", "BLOB REAL", "REALTEXT", "NUMERIC", "VARCHAR"] {
            assert!(!is_real(other), "{other}");
        }
    }
}
