//! The outbox: read, and emptied of what is durable elsewhere.

use chrono::DateTime;
use dm_core::{ChangeKind, Error, Result, RowChange, TableName, exact_json};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Transaction};
use serde_json::Value as Json;

use super::is_installed;
use crate::error::sqlite;

pub(super) fn waiting(on: &Connection, most: u32, most_bytes: u64) -> Result<Vec<RowChange>> {
    if !is_installed(on)? {
        return Ok(Vec::new());
    }
    let mut prepared = on
        .prepare(
            "SELECT ordinal, id, at, table_name, operation, before, after, changed, acting, tx, quote(id) \
             FROM dm_capture_changes ORDER BY ordinal LIMIT ?1",
        )
        .map_err(sqlite)?;
    let mut rows = prepared.query([most]).map_err(sqlite)?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(sqlite)? {
        for column in [5, 6] {
            bytes += match row.get_ref(column).map_err(sqlite)? {
                ValueRef::Text(text) | ValueRef::Blob(text) => text.len() as u64,
                _ => 0,
            };
        }
        if bytes > most_bytes && !changes.is_empty() {
            break;
        }
        changes.push(read(row)?);
    }
    Ok(changes)
}

/// A row of the outbox, whatever somebody put into it: SQLite keeps any value in any column.
fn read(row: &Row<'_>) -> Result<RowChange> {
    let mut defect: Option<String> = None;
    let mut text = |column: usize, what: &str| -> Result<Option<String>> {
        Ok(match row.get_ref(column).map_err(sqlite)? {
            ValueRef::Null => None,
            ValueRef::Text(text) => Some(match std::str::from_utf8(text) {
                Ok(text) => text.to_owned(),
                // The application's own text may be none of Unicode; it is still a change.
                Err(_) => String::from_utf8_lossy(text).into_owned(),
            }),
            other => {
                defect.get_or_insert_with(|| format!("its {what} is not a text"));
                Some(format!("{other:?}"))
            }
        })
    };
    let ordinal: i64 = row.get(0).map_err(sqlite)?;
    let key = match row.get_ref(10).map_err(sqlite)? {
        ValueRef::Text(quoted) => format!("{ordinal} {}", String::from_utf8_lossy(quoted)),
        _ => format!("{ordinal} NULL"),
    };
    let id = text(1, "identity")?.unwrap_or_default();
    let at = text(2, "time")?.and_then(|at| DateTime::parse_from_rfc3339(&at).ok()).map(|at| at.to_utc());
    let table = text(3, "table")?.filter(|name| !name.is_empty()).map(TableName::bare);
    let operation = text(4, "operation")?.unwrap_or_default();
    let (before, after) = (text(5, "row before")?, text(6, "row afterwards")?);
    let changed = text(7, "list of columns")?;
    let (user, transaction) = (text(8, "user")?, text(9, "transaction")?);
    let kind = ChangeKind::read(&operation);
    let mut note = |wrong: bool, what: &str| {
        if wrong {
            defect.get_or_insert_with(|| what.to_owned());
        }
    };
    let mut image = |text: Option<String>| -> Option<Json> {
        let text = text?;
        let read = exact_json(&text);
        note(!read.as_ref().is_ok_and(Json::is_object), "its row is not an object");
        Some(read.unwrap_or(Json::String(text)))
    };
    let (before, after) = (image(before), image(after));
    let changed = match changed.as_deref().map(serde_json::from_str::<Vec<String>>) {
        None => Vec::new(),
        Some(Ok(changed)) => changed,
        Some(Err(_)) => {
            note(true, "its list of columns is none");
            Vec::new()
        }
    };
    note(id.is_empty(), "it has no identity");
    note(at.is_none(), "its time is none");
    note(kind.is_none(), "its operation is unknown");
    note(table.is_none(), "its table has no name");
    Ok(RowChange {
        key,
        id,
        at,
        table,
        partition: None,
        kind,
        before,
        after,
        changed,
        user,
        role: None,
        transaction,
        ordinal,
        defect,
    })
}

pub(super) fn confirm(on: &Transaction<'_>, keys: &[String]) -> Result<()> {
    if keys.is_empty() || !is_installed(on)? {
        return Ok(());
    }
    // The place may be another row's by now: SQLite gives the largest one again once it is free.
    let mut delete =
        on.prepare("DELETE FROM dm_capture_changes WHERE ordinal = ?1 AND quote(id) = ?2").map_err(sqlite)?;
    for key in keys {
        let place = key.split_once(' ').and_then(|(ordinal, id)| Some((ordinal.parse::<i64>().ok()?, id)));
        let place = place.ok_or_else(|| Error::internal("a key of the outbox is not one"))?;
        delete.execute(place).map_err(sqlite)?;
    }
    Ok(())
}
