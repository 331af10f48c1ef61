//! Reading the schema.

use std::collections::BTreeMap;

use dm_core::{Error, Result, SchemaObject, SchemaSnapshot};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::error::reading;

type Line = (i32, String, String, Option<String>, String, String, String);

/// Reads the schema in a transaction that cannot write. The connection is pinned: its search path is empty.
pub(super) async fn read(connection: &mut PgConnection, leave_out: &[String]) -> Result<SchemaSnapshot> {
    let mut transaction = connection.begin().await.map_err(reading)?;
    transaction
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await
        .map_err(reading)?;
    let lines: Vec<Line> = sqlx::query_as(include_str!("../sql/schema/objects.sql"))
        .bind(leave_out)
        .fetch_all(&mut *transaction)
        .await
        .map_err(reading)?;
    transaction.rollback().await.map_err(reading)?;
    let mut objects = Vec::with_capacity(lines.len());
    for (_, kind, name, of, facets, create, drop) in lines {
        let facets: BTreeMap<String, String> = serde_json::from_str(&facets).map_err(|e| {
            Error::internal("the server's description of an object was not understood")
                .about(name.clone())
                .with_source(e)
        })?;
        objects.push(SchemaObject { kind, name, of, facets, create, drop });
    }
    whole_tables(&mut objects);
    Ok(SchemaSnapshot { objects })
}

/// A table is made with its columns; a column is added and dropped by its table.
fn whole_tables(objects: &mut [SchemaObject]) {
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for column in objects.iter_mut().filter(|o| o.kind == "column") {
        let table = column.of.clone().unwrap_or_default();
        columns.entry(table.clone()).or_default().push(column.create.clone());
        column.create = format!("ALTER TABLE {table} ADD COLUMN {}", column.create);
        column.drop = format!("ALTER TABLE {table} DROP COLUMN {}", column.drop);
    }
    for table in objects.iter_mut().filter(|o| o.kind == "table") {
        let facet = |name: &str| table.facets.get(name).map(String::as_str);
        // Typed tables, temporary ones and those that inherit without a partition's bounds are left to people.
        if facet("of").is_some() || facet("partition").is_none() && facet("parents").is_some() {
            continue;
        }
        let unlogged = if facet("persistence") == Some("u") { "UNLOGGED " } else { "" };
        let mut text = match (facet("partition"), facet("parents")) {
            (Some(bound), Some(parent)) => {
                format!("CREATE {unlogged}TABLE {} PARTITION OF {parent} {bound}", table.name)
            }
            _ => {
                let listed = columns.remove(&table.name).unwrap_or_default().join(",\n    ");
                format!("CREATE {unlogged}TABLE {} (\n    {listed}\n)", table.name)
            }
        };
        if let Some(key) = facet("partitioned") {
            text.push_str(&format!(" PARTITION BY {key}"));
        }
        if let Some(options) = facet("options") {
            text.push_str(&format!(" WITH ({options})"));
        }
        let name = &table.name;
        match facet("row security") {
            Some("forced") => text.push_str(&format!(
                ";\nALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
            )),
            Some(_) => text.push_str(&format!(";\nALTER TABLE {name} ENABLE ROW LEVEL SECURITY")),
            None => {}
        }
        table.create = text;
    }
}
