//! Row counts and content digests of a database's tables.

use std::path::Path;

use dm_core::{ErrorKind, Result, RowHasher, TableFacts};
use rusqlite::Connection;

use crate::error::{sqlite, sqlite_about};
use crate::image::Image;
use crate::record::Form;
use crate::schema::{self, SCHEMA_TABLE, quote};
use crate::{connect, rows};

/// The version of the row encoding, as the manifest records it under `row_encoding`.
pub const ROW_ENCODING: u32 = 1;

/// What is known of a whole database.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) tables: Vec<TableFacts>,
    pub(crate) warnings: Vec<String>,
}

/// A database file that nobody writes: read from its pages where they are plain, by SQLite where they are not.
#[derive(Debug)]
pub(crate) struct Frozen {
    connection: Connection,
    image: Option<Image>,
    threads: usize,
}

impl Frozen {
    pub(crate) fn open(path: &Path, threads: usize) -> Result<Self> {
        Ok(Self { connection: connect::immutable(path)?, image: Image::open(path)?, threads })
    }

    /// For questions to SQLite.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Facts of all tables, the definitions included. With no key only the rows are counted.
    pub(crate) fn all(&self, key: Option<[u8; 32]>) -> Result<Facts> {
        let (tables, _) = schema::tables(&self.connection, "main")?;
        let mut facts = Facts::default();
        for table in &tables {
            match self.one(&table.name, key) {
                Ok(Some(found)) => facts.tables.push(found),
                // Listed a moment ago in a file that nobody changes.
                Ok(None) => {}
                // A definition that only the application's own connection can read, for want of a function it adds.
                Err(e) if e.kind() == ErrorKind::Invalid => {
                    let why = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
                    facts.warnings.push(format!("rows of {} were not compared: {why}", table.name));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(facts)
    }

    /// Facts of one table; `None` when there is none of that name.
    pub(crate) fn one(&self, table: &str, key: Option<[u8; 32]>) -> Result<Option<TableFacts>> {
        if let (Some(image), Some(key)) = (&self.image, key)
            && let Some(form) = Form::of(&self.connection, table)?
            && let Some(digest) = image.digest(&form, key, self.threads)?
        {
            let rows = digest.rows();
            return Ok(Some(TableFacts::new(table, rows, Some(digest))));
        }
        self.by_sqlite(table, key)
    }

    /// The same, read by SQLite whatever the pages are like.
    pub(crate) fn by_sqlite(&self, table: &str, key: Option<[u8; 32]>) -> Result<Option<TableFacts>> {
        one(&self.connection, "main", table, key)
    }
}

/// Facts of one table as SQLite reads it; `None` when there is none of that name.
pub(crate) fn one(
    connection: &Connection,
    schema: &str,
    table: &str,
    key: Option<[u8; 32]>,
) -> Result<Option<TableFacts>> {
    let catalog = table == SCHEMA_TABLE;
    let facts = |rows, digest| TableFacts { catalog, ..TableFacts::new(table, rows, digest) };
    let columns = if catalog {
        // Without the root pages, which are no content and differ after a VACUUM.
        "type, name, tbl_name, sql".to_owned()
    } else {
        let columns = schema::columns(connection, schema, table)?;
        if columns.is_empty() {
            return Ok(None);
        }
        schema::column_list(&columns)
    };
    let from = format!("{}.{}", quote(schema), quote(table));
    let Some(key) = key else {
        let rows: i64 = connection
            .query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))
            .map_err(sqlite_about(table))?;
        let rows = u64::try_from(rows).unwrap_or_default();
        return Ok(Some(facts(rows, None)));
    };
    // The table itself, not an index that happens to cover it: the rows are what is promised.
    let mut prepared = connection
        .prepare(&format!("SELECT {columns} FROM {from} NOT INDEXED"))
        .map_err(sqlite_about(table))?;
    let width = prepared.column_count();
    let mut hasher = RowHasher::new(key);
    let mut buffer = Vec::with_capacity(512);
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next().map_err(sqlite_about(table))? {
        rows::encode(row, width, &mut buffer).map_err(sqlite)?;
        hasher.row(&buffer);
    }
    let digest = hasher.digest();
    Ok(Some(facts(digest.rows(), Some(digest))))
}
