//! Names and tables. The only place that puts a name into a statement's text.

use dm_core::Result;
use rusqlite::{Connection, OptionalExtension};

use crate::error::{sqlite, sqlite_about};

/// A name as SQL writes it, whatever is in it.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table of definitions.
pub(crate) const SCHEMA_TABLE: &str = "sqlite_schema";

/// One table with rows of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// A part of a virtual table's storage.
    pub(crate) shadow: bool,
    pub(crate) without_rowid: bool,
}

/// The tables that hold rows, shadow and internal ones included, and the names of the virtual ones, which hold none.
pub(crate) fn tables(connection: &Connection, schema: &str) -> Result<(Vec<Table>, Vec<String>)> {
    let mut prepared = connection.prepare(&format!("PRAGMA {}.table_list", quote(schema))).map_err(sqlite)?;
    let mut rows = prepared.raw_query();
    let (mut tables, mut virtuals) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next().map_err(sqlite)? {
        let (name, kind): (String, String) =
            (row.get("name").map_err(sqlite)?, row.get("type").map_err(sqlite)?);
        match kind.as_str() {
            "table" | "shadow" => tables.push(Table {
                name,
                shadow: kind == "shadow",
                without_rowid: row.get("wr").map_err(sqlite)?,
            }),
            "virtual" => virtuals.push(name),
            _ => {}
        }
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    virtuals.sort();
    Ok((tables, virtuals))
}

/// A column with a stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Computed by the table's definition: read like any other, never written.
    pub(crate) generated: bool,
}

/// The stored columns of a table, in order. Virtual generated columns are left out: they hold nothing, and computing
/// them may need functions that only the application has.
pub(crate) fn columns(connection: &Connection, schema: &str, table: &str) -> Result<Vec<Column>> {
    let mut prepared = connection
        .prepare(&format!("PRAGMA {}.table_xinfo({})", quote(schema), quote(table)))
        .map_err(sqlite_about(table))?;
    let mut rows = prepared.raw_query();
    let mut columns = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let hidden: i64 = row.get("hidden").map_err(sqlite)?;
        if hidden == 0 || hidden == 3 {
            columns.push(Column { name: row.get("name").map_err(sqlite)?, generated: hidden == 3 });
        }
    }
    Ok(columns)
}

/// Quoted column names, separated by commas.
pub(crate) fn column_list(columns: &[Column]) -> String {
    columns.iter().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", ")
}

/// The text that defines an object.
pub(crate) fn definition(
    connection: &Connection,
    schema: &str,
    kind: &str,
    name: &str,
) -> Result<Option<String>> {
    connection
        .query_row(
            &format!(
                "SELECT sql FROM {}.sqlite_schema WHERE type = ?1 AND name = ?2 COLLATE NOCASE",
                quote(schema)
            ),
            [kind, name],
            |row| row.get(0),
        )
        .optional()
        .map(Option::flatten)
        .map_err(sqlite_about(name))
}

/// The definitions of what hangs on a table (`index` or `trigger`), in the order they were made.
pub(crate) fn dependents(
    connection: &Connection,
    schema: &str,
    kind: &str,
    table: &str,
) -> Result<Vec<String>> {
    let mut prepared = connection
        .prepare(&format!(
            "SELECT sql FROM {}.sqlite_schema WHERE type = ?1 AND tbl_name = ?2 COLLATE NOCASE AND sql IS NOT NULL \
             ORDER BY rowid",
            quote(schema)
        ))
        .map_err(sqlite)?;
    let texts = prepared.query_map([kind, table], |row| row.get(0)).map_err(sqlite)?;
    texts.collect::<rusqlite::Result<_>>().map_err(sqlite_about(table))
}

/// A number that a pragma answers.
pub(crate) fn pragma_number(connection: &Connection, name: &str) -> Result<i64> {
    connection.query_row(&format!("PRAGMA main.{name}"), [], |row| row.get(0)).map_err(sqlite)
}

/// A text that a pragma answers.
pub(crate) fn pragma_text(connection: &Connection, name: &str) -> Result<String> {
    connection.query_row(&format!("PRAGMA main.{name}"), [], |row| row.get(0)).map_err(sqlite)
}
