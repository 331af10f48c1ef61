//! Foreign keys, as a statement needs them to follow one.

use std::collections::BTreeMap;

use dm_core::{Error, Result};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;

use crate::catalog::Relation;
use crate::error::reading;
use crate::sql::quote_ident;

/// A foreign key between two tables, by their quoted names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForeignKey {
    pub(crate) name: String,
    pub(crate) table: String,
    pub(crate) references: String,
    pub(crate) on: Vec<Pair>,
}

/// Two columns that must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) column: String,
    pub(crate) referenced: String,
    /// As it is written in a statement, the referenced side on its left.
    pub(crate) operator: String,
    /// For the referring side, where the two have different collations.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) collation: Option<String>,
}

impl ForeignKey {
    /// The condition that a child row refers to a parent row, by their names in the statement. A NULL refers to nothing.
    pub(crate) fn holds(&self, child: &str, parent: &str) -> String {
        let pairs = self.on.iter().map(|pair| {
            let collation = pair.collation.as_deref().unwrap_or_default();
            format!(
                "{parent}.{} {} {child}.{} {collation}",
                quote_ident(&pair.referenced),
                pair.operator,
                quote_ident(&pair.column),
            )
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }
}

/// The foreign keys between these relations.
pub(crate) async fn foreign_keys(
    connection: &mut PgConnection,
    relations: &[Relation],
) -> Result<Vec<ForeignKey>> {
    let names: BTreeMap<i64, &str> = relations.iter().map(|r| (r.oid, r.display.as_str())).collect();
    let rows: Vec<(String, i64, i64, String)> =
        sqlx::query_as(include_str!("../sql/catalog/foreign_keys.sql"))
            .fetch_all(connection)
            .await
            .map_err(reading)?;
    let mut keys = Vec::with_capacity(rows.len());
    for (name, child, parent, pairs) in rows {
        let (Some(table), Some(references)) = (names.get(&child), names.get(&parent)) else { continue };
        let on = serde_json::from_str(&pairs)
            .map_err(|e| Error::internal("a foreign key was not understood").about(&name).with_source(e))?;
        keys.push(ForeignKey { name, table: (*table).to_owned(), references: (*references).to_owned(), on });
    }
    Ok(keys)
}
