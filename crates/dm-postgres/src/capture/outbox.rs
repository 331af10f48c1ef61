//! The outbox: read, and emptied of what is durable elsewhere.

use chrono::DateTime;
use dm_core::{ChangeKind, Error, Result, RowChange, TableName, exact_json};
use serde_json::Value as Json;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::is_installed;
use crate::error::{reading, writing};

pub(super) async fn waiting(on: &mut PgConnection, most: u32, most_bytes: u64) -> Result<Vec<RowChange>> {
    if !is_installed(on).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(include_str!("../sql/capture/waiting.sql"))
        .bind(i64::from(most))
        .bind(i64::try_from(most_bytes).unwrap_or(i64::MAX))
        .fetch_all(on)
        .await
        .map_err(reading)?;
    rows.iter().map(read).collect()
}

/// A row of the outbox. The columns' types are the table's own, so only their meaning can be wrong.
fn read(row: &PgRow) -> Result<RowChange> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column).map_err(reading);
    let mut defect = None;
    let at = text("at")?
        .and_then(|micros| micros.split('.').next()?.parse().ok())
        .and_then(DateTime::from_timestamp_micros);
    let operation = text("operation")?.unwrap_or_default();
    let kind = ChangeKind::read(&operation);
    let named = |schema: Option<String>, name: Option<String>| name.map(|name| TableName { schema, name });
    let table = named(text("schema")?, text("name")?);
    // What PostgreSQL takes for JSON and is none (half a surrogate, in a column of its type json) is kept as the text that it is.
    let image = |column: &str| -> Result<Option<Json>> {
        Ok(text(column)?.map(|text| exact_json(&text).unwrap_or(Json::String(text))))
    };
    let (before, after) = (image("before")?, image("after")?);
    for (wrong, what) in [
        (at.is_none(), "its time is out of the calendar"),
        (kind.is_none(), "its operation is unknown"),
        (table.is_none(), "its table is not one that is recorded"),
        (before.iter().chain(&after).any(|image| !image.is_object()), "its row is not an object of JSON"),
    ] {
        if wrong {
            defect.get_or_insert_with(|| what.to_owned());
        }
    }
    let changed: Option<Vec<Option<String>>> = row.try_get("changed").map_err(reading)?;
    let id = text("id")?.ok_or_else(|| Error::corrupt("a row of the outbox has no identity"))?;
    Ok(RowChange {
        key: format!("{} {id}", text("place")?.unwrap_or_default()),
        id,
        at,
        table,
        partition: named(text("partition_schema")?, text("partition_name")?),
        kind,
        before,
        after,
        changed: changed.unwrap_or_default().into_iter().flatten().collect(),
        user: text("acting")?,
        role: text("role")?,
        transaction: text("transaction")?,
        ordinal: row.try_get("ordinal").map_err(reading)?,
        defect,
    })
}

pub(super) async fn confirm(on: &mut PgConnection, keys: &[String]) -> Result<()> {
    if keys.is_empty() || !is_installed(on).await? {
        return Ok(());
    }
    let split = |key: &String| key.split_once(' ').map(|(place, id)| (place.to_owned(), id.to_owned()));
    let pairs: Option<Vec<_>> = keys.iter().map(split).collect();
    let (places, ids): (Vec<_>, Vec<_>) =
        pairs.ok_or_else(|| Error::internal("a key of the outbox is not one"))?.into_iter().unzip();
    // The place alone could be another row's by now; a row that was changed meanwhile is at another place, and comes again.
    sqlx::query(
        "DELETE FROM dm_capture.changes
          WHERE ctid = ANY ($1::text[]::tid[]) AND id = ANY ($2::text[]::uuid[])",
    )
    .bind(places)
    .bind(ids)
    .execute(on)
    .await
    .map_err(writing)?;
    Ok(())
}
