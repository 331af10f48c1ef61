//! The history's table, and those of other tools.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use dm_core::{
    Direction, Error, ForeignEntry, ForeignTool, HistoryEntry, MigrationState, Result, StartedStatement,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use crate::error::{sqlite, sqlite_about};
use crate::schema::quote;

/// `%` stands for the table.
const TABLE: &str = include_str!("history.sql");
const PUT: &str = include_str!("put.sql");

const COLUMNS: &str = "version, description, state, checksum, text_checksum, migration_sql, rollback_sql, applied_at, \
     applied_by, execution_time_ms, direction, finished_statements, started_statement, started_mark, error, remark";

const OURS: &[&str] = &["version", "state", "text_checksum", "finished_statements", "started_mark"];

/// A table's name in quotes; `schema.name` is understood.
pub(super) fn quoted(table: &str) -> String {
    match table.split_once('.') {
        Some((schema, name)) => format!("{}.{}", quote(schema), quote(name)),
        None => quote(table),
    }
}

/// The names of a table's columns; none when it is not there.
pub(super) fn columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let (schema, name) = table.split_once('.').unwrap_or(("main", table));
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1, ?2)").map_err(sqlite)?;
    let names = statement.query_map([name, schema], |row| row.get(0)).map_err(sqlite)?;
    names.collect::<rusqlite::Result<_>>().map_err(sqlite)
}

fn is_there(connection: &Connection, table: &str, expected: &[&str], whose: &str) -> Result<bool> {
    let columns = columns(connection, table)?;
    if columns.is_empty() {
        return Ok(false);
    }
    match expected.iter().find(|e| !columns.iter().any(|c| c == *e)) {
        None => Ok(true),
        Some(lacking) => {
            Err(Error::invalid(format!("the table {table} is not {whose}: it has no column {lacking}"))
                .with_hint("another program made it; name another table in migrate.table"))
        }
    }
}

/// Makes the table where it is missing.
pub(super) fn prepare(connection: &Connection, table: &str) -> Result<()> {
    if is_there(connection, table, OURS, "a history of migrations")? {
        return Ok(());
    }
    connection.execute_batch(&TABLE.replace('%', &quoted(table))).map_err(sqlite_about(table))
}

/// Makes sqlx's table as sqlx itself makes it.
pub(super) fn prepare_sqlx(connection: &Connection, table: &str) -> Result<()> {
    let text = format!(
        "CREATE TABLE IF NOT EXISTS {} (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
        quoted(table)
    );
    connection.execute_batch(&text).map_err(sqlite_about(table))
}

/// Reads the history; `None` when there is none.
pub(super) fn read(connection: &Connection, table: &str) -> Result<Option<Vec<HistoryEntry>>> {
    if !is_there(connection, table, OURS, "a history of migrations")? {
        return Ok(None);
    }
    let text = format!("SELECT {COLUMNS} FROM {} ORDER BY version", quoted(table));
    let mut statement = connection.prepare(&text).map_err(sqlite_about(table))?;
    let mut rows = statement.query([]).map_err(sqlite_about(table))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite_about(table))? {
        entries.push(entry(row).map_err(|e| {
            Error::invalid("a row of the history of migrations cannot be read")
                .about(table)
                .with_hint("another program made the table; name another in migrate.table")
                .with_source(e)
        })??);
    }
    Ok(Some(entries))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Result<HistoryEntry>> {
    let state: String = row.get(2)?;
    let Some(parsed) = MigrationState::parse(&state) else {
        return Ok(Err(Error::corrupt(format!("the history has a state \"{state}\""))));
    };
    let at: String = row.get(7)?;
    let started: Option<u32> = row.get(12)?;
    Ok(Ok(HistoryEntry {
        version: row.get(0)?,
        description: row.get(1)?,
        state: parsed,
        checksum: row.get(3)?,
        text_checksum: row.get(4)?,
        migration_sql: row.get(5)?,
        rollback_sql: row.get(6)?,
        applied_at: instant(&at).unwrap_or_default(),
        applied_by: row.get(8)?,
        execution_time_ms: u64::try_from(row.get::<_, i64>(9)?).unwrap_or_default(),
        direction: if row.get::<_, String>(10)? == "down" { Direction::Down } else { Direction::Up },
        finished: row.get(11)?,
        started: match started {
            Some(number) => Some(StartedStatement { number, mark: row.get(13)? }),
            None => None,
        },
        error: row.get(14)?,
        remark: row.get(15)?,
    }))
}

/// RFC 3339, or SQLite's own form, which is in UTC.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    let exact = DateTime::parse_from_rfc3339(text).map(|t| t.with_timezone(&Utc)).ok();
    exact.or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|t| t.and_utc()))
}

/// Writes a record; the caller's transaction decides whether it stays.
pub(super) fn put(
    connection: &Connection,
    table: &str,
    in_step: Option<ForeignTool>,
    entry: &HistoryEntry,
) -> Result<()> {
    connection
        .execute(
            &PUT.replace('%', &quoted(table)),
            params![
                entry.version,
                entry.description,
                entry.state.as_str(),
                entry.checksum,
                entry.text_checksum,
                entry.migration_sql,
                entry.rollback_sql,
                entry.applied_at.to_rfc3339_opts(SecondsFormat::Micros, true),
                entry.applied_by,
                i64::try_from(entry.execution_time_ms).unwrap_or(i64::MAX),
                entry.direction.as_str(),
                entry.finished,
                entry.started.as_ref().map(|s| s.number),
                entry.started.as_ref().and_then(|s| s.mark.clone()),
                entry.error,
                entry.remark,
            ],
        )
        .map_err(sqlite_about(table))?;
    match in_step {
        Some(ForeignTool::Sqlx) => follow_in_sqlx(connection, ForeignTool::Sqlx.table(), entry),
        _ => Ok(()),
    }
}

fn follow_in_sqlx(connection: &Connection, table: &str, entry: &HistoryEntry) -> Result<()> {
    match entry.state {
        MigrationState::Applied => {
            let checksum = hex::decode(&entry.checksum)
                .map_err(|e| Error::corrupt("a checksum of the history is not hexadecimal").with_source(e))?;
            let text = format!(
                "INSERT INTO {} (version, description, success, checksum, execution_time) VALUES (?1, ?2, TRUE, ?3, ?4)
                 ON CONFLICT (version) DO UPDATE SET success = TRUE, checksum = excluded.checksum",
                quoted(table)
            );
            let nanoseconds = i64::try_from(entry.execution_time_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
            connection.execute(&text, params![entry.version, entry.description, checksum, nanoseconds]).map(drop)
        }
        MigrationState::RolledBack => {
            let text = format!("DELETE FROM {} WHERE version = ?1", quoted(table));
            connection.execute(&text, [entry.version]).map(drop)
        }
        // What is only begun or failed stays away from it: sqlx would refuse to run, and has no way to go on.
        MigrationState::Running | MigrationState::Failed => Ok(()),
    }
    .map_err(sqlite_about(table))
}

/// Reads another tool's history; `None` when there is none.
pub(super) fn read_foreign(
    connection: &Connection,
    tool: ForeignTool,
    table: &str,
) -> Result<Option<Vec<ForeignEntry>>> {
    let (expected, columns): (&[&str], _) = match tool {
        ForeignTool::Sqlx => (
            &["version", "description", "installed_on", "success", "checksum", "execution_time"],
            "version, description, installed_on, success, checksum, execution_time",
        ),
        ForeignTool::Refinery => {
            (&["version", "name", "applied_on", "checksum"], "version, name, applied_on, 1, checksum, -1")
        }
        other => {
            return Err(Error::unsupported(format!("the history of {} is not understood", other.as_str())));
        }
    };
    if !is_there(connection, table, expected, &format!("{}'s history", tool.as_str()))? {
        return Ok(None);
    }
    let text = format!("SELECT {columns} FROM {} ORDER BY version", quoted(table));
    let mut statement = connection.prepare(&text).map_err(sqlite_about(table))?;
    let entries = statement
        .query_map([], |row| {
            let checksum = match row.get_ref(4)? {
                ValueRef::Blob(bytes) => hex::encode(bytes),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Null | ValueRef::Real(_) => String::new(),
            };
            let at: Option<String> = row.get(2)?;
            let nanoseconds: i64 = row.get(5)?;
            Ok(ForeignEntry {
                version: row.get(0)?,
                description: row.get(1)?,
                applied_at: at.as_deref().and_then(instant),
                checksum,
                success: row.get(3)?,
                execution_time_ms: u64::try_from(nanoseconds).ok().map(|ns| ns / 1_000_000),
            })
        })
        .map_err(sqlite_about(table))?;
    entries.collect::<rusqlite::Result<_>>().map_err(sqlite_about(table)).map(Some)
}
