//! Installing, looking, removing.

use chrono::{DateTime, Utc};
use dm_core::{CaptureRequest, CaptureStatus, CapturedTable, EngineKind, Error, Result, TableName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::triggers::{self, Treated, Treatment};
use super::{PREFIX, is_installed};
use crate::error::{sqlite, sqlite_about};
use crate::schema::{self, quote};

const OBJECTS: &str = include_str!("objects.sql");

/// A registered table.
struct Installed {
    id: i64,
    name: String,
    columns: Vec<String>,
    excluded: Vec<String>,
    masked: Vec<String>,
    since: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, String, [String; 3], i64)> {
    Ok((row.get(0)?, row.get(1)?, [row.get(2)?, row.get(3)?, row.get(4)?], row.get(5)?))
}

fn installed(on: &Connection) -> Result<Vec<Installed>> {
    let mut prepared = on
        .prepare("SELECT id, name, columns, excluded, masked, since FROM dm_capture_tables ORDER BY name")
        .map_err(sqlite)?;
    let rows = prepared.query_map([], read).map_err(sqlite)?;
    rows.map(|row| {
        let (id, name, lists, since) = row.map_err(sqlite)?;
        let [columns, excluded, masked] = lists.map(|list| {
            serde_json::from_str::<Vec<String>>(&list).map_err(|e| {
                Error::corrupt("dm_capture_tables holds what this program did not write")
                    .about(name.clone())
                    .with_source(e)
            })
        });
        Ok(Installed { columns: columns?, excluded: excluded?, masked: masked?, id, since, name })
    })
    .collect()
}

impl Installed {
    fn described(&self, problems: Vec<String>) -> Result<CapturedTable> {
        Ok(CapturedTable {
            table: TableName::bare(&self.name),
            exclude: self.excluded.clone(),
            mask: self.masked.clone(),
            digest: Vec::new(),
            since: DateTime::from_timestamp_micros(self.since)
                .ok_or_else(|| Error::corrupt("a time of dm_capture_tables is out of the calendar"))?,
            problems,
        })
    }

    fn treated(&self) -> Vec<Treated> {
        let treatment = |name: &String| match () {
            () if self.excluded.contains(name) => Treatment::Excluded,
            () if self.masked.contains(name) => Treatment::Masked,
            () => Treatment::Clear,
        };
        self.columns.iter().map(|c| Treated { name: c.clone(), treatment: treatment(c) }).collect()
    }
}

/// The table's own spelling.
fn find(on: &Connection, table: &TableName) -> Result<String> {
    let refused = |why: &str| {
        Err(Error::unsupported(format!("the changes of {table} cannot be recorded: {why}"))
            .on_engine(EngineKind::Sqlite))
    };
    if table.schema.as_deref().is_some_and(|schema| schema != "main") {
        return refused("it is in another database than main");
    }
    if table.name.starts_with("sqlite_") || table.name.starts_with(PREFIX) {
        return refused("it is one of the system's own tables");
    }
    let (tables, virtuals) = schema::tables(on, "main")?;
    let same = |name: &str| name.eq_ignore_ascii_case(&table.name);
    if virtuals.iter().any(|v| same(v)) {
        return refused("it is virtual; its rows are its module's");
    }
    let own = |name: &&str| !name.starts_with(PREFIX) && !name.starts_with("sqlite_");
    let names: Vec<&str> = tables.iter().filter(|t| !t.shadow).map(|t| t.name.as_str()).filter(own).collect();
    let names = match names.is_empty() {
        true => "the database has no tables".to_owned(),
        false => format!("there is {}", names.join(", ")),
    };
    match tables.into_iter().find(|t| same(&t.name)) {
        Some(found) if found.shadow => refused("it is a part of a virtual table"),
        Some(found) => Ok(found.name),
        None if schema::definition(on, "main", "view", &table.name)?.is_some() => {
            refused("it is a view; record the tables below it")
        }
        None => Err(Error::not_found(format!("there is no table {table}"))
            .with_hint(names)
            .on_engine(EngineKind::Sqlite)),
    }
}

fn columns_of(on: &Connection, table: &str) -> Result<Vec<String>> {
    Ok(schema::columns(on, "main", table)?.into_iter().map(|c| c.name).collect())
}

pub(super) fn install(on: &Transaction<'_>, request: &CaptureRequest) -> Result<CapturedTable> {
    if !request.digest.is_empty() {
        return Err(Error::unsupported("sqlite cannot digest values where the application writes them")
            .on_engine(EngineKind::Sqlite)
            .with_hint("mask those columns (--mask), or exclude them (--exclude)"));
    }
    let name = find(on, &request.table)?;
    let columns = columns_of(on, &name)?;
    request.check_columns(&columns)?;
    on.execute_batch(OBJECTS).map_err(sqlite)?;
    let known = installed(on)?.into_iter().find(|t| t.name.eq_ignore_ascii_case(&name));
    let (id, since) = match &known {
        Some(known) => (known.id, known.since),
        None => {
            let next = "SELECT coalesce(max(id), 0) + 1 FROM dm_capture_tables";
            (on.query_row(next, [], |row| row.get(0)).map_err(sqlite)?, Utc::now().timestamp_micros())
        }
    };
    let table = Installed {
        id,
        name: name.clone(),
        columns,
        excluded: request.exclude.clone(),
        masked: request.mask.clone(),
        since,
    };
    let list = |names: &[String]| serde_json::Value::from(names.to_vec()).to_string();
    on.execute(
        "INSERT OR REPLACE INTO dm_capture_tables (id, name, columns, excluded, masked, since) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (id, &name, list(&table.columns), list(&table.excluded), list(&table.masked), since),
    )
    .map_err(sqlite)?;
    for (trigger, definition) in triggers::definitions(id, &name, &table.treated()) {
        on.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", quote(&trigger))).map_err(sqlite)?;
        on.execute_batch(&definition).map_err(sqlite_about(name.clone()))?;
    }
    table.described(Vec::new())
}

pub(super) fn status(on: &Connection) -> Result<CaptureStatus> {
    let mut status = CaptureStatus::default();
    if !is_installed(on)? {
        return Ok(status);
    }
    for table in installed(on)? {
        let problems = problems(on, &table)?;
        status.tables.push(table.described(problems)?);
    }
    let (waiting, oldest): (i64, Option<String>) = on
        .query_row("SELECT count(*), min(at) FROM dm_capture_changes", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .map_err(sqlite)?;
    status.waiting = u64::try_from(waiting).unwrap_or_default();
    status.oldest = oldest.and_then(|at| DateTime::parse_from_rfc3339(&at).ok()).map(|at| at.to_utc());
    let left: i64 =
        on.query_row("SELECT count(*) FROM dm_capture_session", [], |row| row.get(0)).map_err(sqlite)?;
    if left > 0 {
        status.problems.push(
            "a transaction left its row in dm_capture_session: what others change is recorded under that user; \
             delete it"
                .to_owned(),
        );
    }
    Ok(status)
}

fn problems(on: &Connection, table: &Installed) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if schema::definition(on, "main", "table", &table.name)?.is_none() {
        problems.push(
            "the table is gone, or has a new name: remove its recording, and install the new one".to_owned(),
        );
        return Ok(problems);
    }
    let now = columns_of(on, &table.name)?;
    for column in now.iter().filter(|c| !table.columns.contains(c)) {
        problems.push(format!(
            "the column {column} came since, or has a new name, and is not recorded under it: install the table again"
        ));
    }
    for column in table.columns.iter().filter(|c| !now.contains(c)) {
        problems.push(format!("the column {column} is gone, or has a new name: install the table again"));
    }
    for (trigger, expected) in triggers::definitions(table.id, &table.name, &table.treated()) {
        let found: Option<(String, String)> = on
            .query_row(
                "SELECT sql, tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1",
                [&trigger],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(sqlite)?;
        match found {
            None => problems.push(format!("the trigger {trigger} is missing: install the table again")),
            // A renamed column is put into the trigger by SQLite itself, and is said above.
            Some((text, on_table))
                if now == table.columns && (text != expected || on_table != table.name) =>
            {
                problems.push(format!(
                    "the trigger {trigger} is not as this program writes it: install the table again"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(problems)
}

pub(super) fn remove(on: &Transaction<'_>, table: &TableName) -> Result<()> {
    let unknown = || {
        Error::not_found(format!("the changes of {table} are not recorded"))
            .on_engine(EngineKind::Sqlite)
            .with_hint("\"dm audit capture status\" lists what is")
    };
    if !is_installed(on)? {
        return Err(unknown());
    }
    let found =
        installed(on)?.into_iter().find(|t| t.name.eq_ignore_ascii_case(&table.name)).ok_or_else(unknown)?;
    for operation in ["insert", "update", "delete"] {
        let trigger = triggers::name(found.id, operation);
        on.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", quote(&trigger))).map_err(sqlite)?;
    }
    on.execute("DELETE FROM dm_capture_tables WHERE id = ?1", [found.id]).map_err(sqlite)?;
    Ok(())
}

pub(super) fn clear_away(on: &Transaction<'_>) -> Result<bool> {
    if !is_installed(on)? {
        return Ok(true);
    }
    let needed: bool = on
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM dm_capture_tables) OR EXISTS (SELECT 1 FROM dm_capture_changes)",
            [],
            |row| row.get(0),
        )
        .map_err(sqlite)?;
    if needed {
        return Ok(false);
    }
    on.execute_batch(
        "DROP TABLE dm_capture_session; DROP TABLE dm_capture_changes; DROP TABLE dm_capture_tables",
    )
    .map_err(sqlite)?;
    Ok(true)
}
