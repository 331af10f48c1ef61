//! The canonical encoding of a row, version 1: what a content digest is computed over (docs/sqlite.md).

use rusqlite::Row;
use rusqlite::types::ValueRef;

/// Rows above this leave a buffer that is given back, so that one large value does not stay resident.
const KEEP_BYTES: usize = 1 << 20;

/// Begins a row in a buffer that had another one.
pub(crate) fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP_BYTES {
        buffer.shrink_to(KEEP_BYTES);
    }
}

/// Writes a row's columns into the buffer, one after the other: the storage class in one byte, then the value, big
/// endian; text and blobs behind their length in four bytes.
pub(crate) fn encode(row: &Row<'_>, columns: usize, buffer: &mut Vec<u8>) -> rusqlite::Result<()> {
    begin(buffer);
    for index in 0..columns {
        match row.get_ref(index)? {
            ValueRef::Null => null(buffer),
            ValueRef::Integer(i) => integer(buffer, i),
            ValueRef::Real(x) => real(buffer, x),
            ValueRef::Text(value) => text(buffer, value),
            ValueRef::Blob(value) => blob(buffer, value),
        }
    }
    Ok(())
}

pub(crate) fn null(buffer: &mut Vec<u8>) {
    buffer.push(0);
}

pub(crate) fn integer(buffer: &mut Vec<u8>, value: i64) {
    buffer.push(1);
    buffer.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn real(buffer: &mut Vec<u8>, value: f64) {
    buffer.push(2);
    buffer.extend_from_slice(&value.to_bits().to_be_bytes());
}

pub(crate) fn text(buffer: &mut Vec<u8>, value: &[u8]) {
    bytes(buffer, 3, value);
}

pub(crate) fn blob(buffer: &mut Vec<u8>, value: &[u8]) {
    bytes(buffer, 4, value);
}

fn bytes(buffer: &mut Vec<u8>, class: u8, bytes: &[u8]) {
    buffer.push(class);
    // SQLite's values are below 2³¹ bytes (https://www.sqlite.org/limits.html, item 1).
    buffer.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn encoded(select: &str) -> Vec<u8> {
        let connection = Connection::open_in_memory().unwrap();
        let mut statement = connection.prepare(select).unwrap();
        let columns = statement.column_count();
        let mut buffer = Vec::new();
        statement.query_row([], |row| encode(row, columns, &mut buffer)).unwrap();
        buffer
    }

    #[test]
    fn golden() {
        assert_eq!(
            hex::encode(encoded("select null, 1, -1, 1.5, 'é', x'00ff', ''")),
            "00010000000000000001\
             01ffffffffffffffff\
             023ff8000000000000\
             0300000002c3a9\
             040000000200ff\
             0300000000"
        );
    }

    #[test]
    fn class_and_boundary_count() {
        assert_ne!(encoded("select '1'"), encoded("select 1"));
        assert_ne!(encoded("select 1.0"), encoded("select 1"));
        assert_ne!(encoded("select 'ab', 'c'"), encoded("select 'a', 'bc'"));
        assert_ne!(encoded("select x'61'"), encoded("select 'a'"));
        assert_ne!(encoded("select ''"), encoded("select null"));
    }
}
