//! The history's table, and those of other tools.

use chrono::{DateTime, Utc};
use dm_core::{
    Direction, Error, ForeignEntry, ForeignTool, HistoryEntry, MigrationState, Result, StartedStatement,
};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row};

use crate::error::{reading, writing};
use crate::sql::{dynamic, qualified};

/// `%` stands for the table.
const TABLE: &str = include_str!("../sql/migrate/history.sql");

const COLUMNS: &str = "version, description, state, checksum, text_checksum, migration_sql, rollback_sql, \
     (extract(epoch FROM applied_at) * 1000000)::int8 AS applied_us, applied_by, execution_time_ms, direction, \
     finished_statements, started_statement, started_mark, error, remark";

const PUT: &str = include_str!("../sql/migrate/put.sql");

/// A table by schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
}

impl Table {
    /// Understands `name` and `schema.name`; a name alone is in the first schema of the search path.
    pub(super) async fn resolve(connection: &mut PgConnection, table: &str) -> Result<Self> {
        if let Some((schema, name)) = table.split_once('.') {
            return Ok(Self { schema: schema.to_owned(), name: name.to_owned() });
        }
        let schema: Option<String> = sqlx::query_scalar("SELECT pg_catalog.current_schema()::text")
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(reading)?;
        let schema = schema.ok_or_else(|| {
            Error::invalid("the search path names no schema that exists")
                .with_hint("set the engine's schema, or create the first schema of the role's search_path")
        })?;
        Ok(Self { schema, name: table.to_owned() })
    }

    pub(super) fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    fn text(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Its columns; none when it is not there.
    pub(super) async fn columns(&self, connection: &mut PgConnection) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT a.attname::text FROM pg_catalog.pg_attribute a
               JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'f', 'm')
                AND a.attnum > 0 AND NOT a.attisdropped",
        )
        .bind(&self.schema)
        .bind(&self.name)
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(reading)
    }

    /// Whether it is there; fails when it is somebody else's.
    async fn is_there(&self, connection: &mut PgConnection, expected: &[&str], whose: &str) -> Result<bool> {
        let columns = self.columns(connection).await?;
        if columns.is_empty() {
            return Ok(false);
        }
        match expected.iter().find(|e| !columns.iter().any(|c| c == *e)) {
            None => Ok(true),
            Some(lacking) => Err(Error::invalid(format!(
                "the table {} is not {whose}: it has no column {lacking}",
                self.text()
            ))
            .with_hint("another program made it; name another table in migrate.table")),
        }
    }
}

const OURS: &[&str] = &["version", "state", "text_checksum", "finished_statements", "started_mark"];

/// Makes the table where it is missing.
pub(super) async fn prepare(connection: &mut PgConnection, table: &Table) -> Result<()> {
    if table.is_there(connection, OURS, "a history of migrations").await? {
        return Ok(());
    }
    let ddl = TABLE.replace('%', &table.quoted());
    connection.execute(sqlx::raw_sql(dynamic(ddl))).await.map(drop).map_err(|e| {
        writing(e)
            .about(table.text())
            .with_hint("grant CREATE on the schema to the role, or name another in migrate.table")
    })
}

/// Reads the history; `None` when there is none.
pub(super) async fn read(connection: &mut PgConnection, table: &Table) -> Result<Option<Vec<HistoryEntry>>> {
    if !table.is_there(connection, OURS, "a history of migrations").await? {
        return Ok(None);
    }
    let text = format!("SELECT {COLUMNS} FROM {} ORDER BY version", table.quoted());
    let rows = connection
        .fetch_all(sqlx::query(dynamic(text)).persistent(false))
        .await
        .map_err(|e| reading(e).about(table.text()))?;
    rows.iter().map(entry).collect::<Result<_>>().map(Some)
}

fn entry(row: &PgRow) -> Result<HistoryEntry> {
    let state: String = get(row, "state")?;
    let started: Option<i32> = get(row, "started_statement")?;
    let count = |n: i32| u32::try_from(n).unwrap_or_default();
    Ok(HistoryEntry {
        version: get(row, "version")?,
        description: get(row, "description")?,
        state: MigrationState::parse(&state)
            .ok_or_else(|| Error::corrupt(format!("the history has a state \"{state}\"")))?,
        checksum: get(row, "checksum")?,
        text_checksum: get(row, "text_checksum")?,
        migration_sql: get(row, "migration_sql")?,
        rollback_sql: get(row, "rollback_sql")?,
        applied_at: instant(get(row, "applied_us")?),
        applied_by: get(row, "applied_by")?,
        execution_time_ms: u64::try_from(get::<i64>(row, "execution_time_ms")?).unwrap_or_default(),
        direction: if get::<String>(row, "direction")? == "down" { Direction::Down } else { Direction::Up },
        finished: count(get(row, "finished_statements")?),
        started: match started {
            Some(number) => Some(StartedStatement { number: count(number), mark: get(row, "started_mark")? }),
            None => None,
        },
        error: get(row, "error")?,
        remark: get(row, "remark")?,
    })
}

fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|e| {
        Error::invalid(format!("the column {column} of the history of migrations has another type"))
            .with_hint("another program made the table; name another in migrate.table")
            .with_source(e)
    })
}

fn instant(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}

/// Writes records; the caller's transaction decides whether they stay.
pub(super) async fn put(
    connection: &mut PgConnection,
    table: &Table,
    in_step: Option<(&Table, ForeignTool)>,
    entry: &HistoryEntry,
) -> Result<()> {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query(dynamic(PUT.replace('%', &table.quoted())))
        .bind(entry.version)
        .bind(&entry.description)
        .bind(entry.state.as_str())
        .bind(&entry.checksum)
        .bind(&entry.text_checksum)
        .bind(&entry.migration_sql)
        .bind(&entry.rollback_sql)
        .bind(entry.applied_at.timestamp_micros())
        .bind(&entry.applied_by)
        .bind(i64::try_from(entry.execution_time_ms).unwrap_or(i64::MAX))
        .bind(entry.direction.as_str())
        .bind(number(entry.finished))
        .bind(entry.started.as_ref().map(|s| number(s.number)))
        .bind(entry.started.as_ref().and_then(|s| s.mark.clone()))
        .bind(&entry.error)
        .bind(&entry.remark)
        .execute(&mut *connection)
        .await
        .map_err(|e| writing(e).about(table.text()))?;
    match in_step {
        Some((table, ForeignTool::Sqlx)) => follow_in_sqlx(connection, table, entry).await,
        _ => Ok(()),
    }
}

/// Makes sqlx's table as sqlx itself makes it.
pub(super) async fn prepare_sqlx(connection: &mut PgConnection, table: &Table) -> Result<()> {
    let ddl = format!(
        "CREATE TABLE IF NOT EXISTS {} (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL,
             execution_time BIGINT NOT NULL)",
        table.quoted()
    );
    connection.execute(sqlx::raw_sql(dynamic(ddl))).await.map(drop).map_err(writing)
}

async fn follow_in_sqlx(connection: &mut PgConnection, table: &Table, entry: &HistoryEntry) -> Result<()> {
    if entry.state != MigrationState::Applied {
        // What is only begun or failed stays away from it: sqlx would refuse to run, and has no way to go on. An undone one
        // is undone for it too.
        if entry.state == MigrationState::RolledBack {
            let text = format!("DELETE FROM {} WHERE version = $1", table.quoted());
            sqlx::query(dynamic(text)).bind(entry.version).execute(connection).await.map_err(writing)?;
        }
        return Ok(());
    }
    let checksum = hex::decode(&entry.checksum)
        .map_err(|e| Error::corrupt("a checksum of the history is not hexadecimal").with_source(e))?;
    let text = format!(
        "INSERT INTO {} (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, $3, $4)
         ON CONFLICT (version) DO UPDATE SET success = TRUE, checksum = EXCLUDED.checksum",
        table.quoted()
    );
    sqlx::query(dynamic(text))
        .bind(entry.version)
        .bind(&entry.description)
        .bind(checksum)
        .bind(i64::try_from(entry.execution_time_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX))
        .execute(connection)
        .await
        .map(drop)
        .map_err(writing)
}

/// Reads another tool's history; `None` when there is none.
pub(super) async fn read_foreign(
    connection: &mut PgConnection,
    tool: ForeignTool,
    table: &Table,
) -> Result<Option<Vec<ForeignEntry>>> {
    let (expected, columns): (&[&str], _) = match tool {
        ForeignTool::Sqlx => (
            &["version", "description", "installed_on", "success", "checksum", "execution_time"],
            "version::int8 AS version, description::text AS description, success,
             (extract(epoch FROM installed_on) * 1000000)::int8 AS at_us, encode(checksum, 'hex') AS checksum,
             CASE WHEN execution_time >= 0 THEN execution_time / 1000000 END AS ms, NULL::text AS at_text",
        ),
        // Its table has a text of RFC 3339 for the instant, and a decimal number for the checksum.
        ForeignTool::Refinery => (
            &["version", "name", "applied_on", "checksum"],
            "version::int8 AS version, name::text AS description, true AS success, NULL::int8 AS at_us,
             checksum::text AS checksum, NULL::int8 AS ms, applied_on::text AS at_text",
        ),
        other => {
            return Err(Error::unsupported(format!("the history of {} is not understood", other.as_str())));
        }
    };
    if !table.is_there(connection, expected, &format!("{}'s history", tool.as_str())).await? {
        return Ok(None);
    }
    let text = format!("SELECT {columns} FROM {} ORDER BY version", table.quoted());
    let rows = connection
        .fetch_all(sqlx::query(dynamic(text)).persistent(false))
        .await
        .map_err(|e| reading(e).about(table.text()))?;
    let entries = rows.iter().map(|row| {
        let at_us: Option<i64> = get(row, "at_us")?;
        let at_text: Option<String> = get(row, "at_text")?;
        let ms: Option<i64> = get(row, "ms")?;
        Ok(ForeignEntry {
            version: get(row, "version")?,
            description: get::<Option<String>>(row, "description")?.unwrap_or_default(),
            applied_at: at_us.map(instant).or_else(|| {
                at_text.and_then(|t| DateTime::parse_from_rfc3339(&t).ok()).map(|t| t.with_timezone(&Utc))
            }),
            checksum: get::<Option<String>>(row, "checksum")?.unwrap_or_default(),
            success: get(row, "success")?,
            execution_time_ms: ms.and_then(|ms| u64::try_from(ms).ok()),
        })
    });
    entries.collect::<Result<_>>().map(Some)
}
