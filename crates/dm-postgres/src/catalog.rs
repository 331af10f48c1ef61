//! What is in a database, read from its catalogs.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{Error, Result, ServerVersion};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};

use crate::error::reading;
use crate::sql::{qualified, quote_ident};

/// The oldest server that this adapter reads.
pub(crate) const OLDEST_MAJOR: u32 = 12;

/// A relation: a table, a view, a sequence ...
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) oid: i64,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// The qualified name as the server quotes it.
    pub(crate) display: String,
    pub(crate) kind: RelationKind,
    pub(crate) is_populated: bool,
    /// Pages by the last statistics.
    pub(crate) pages: u64,
    /// Columns that are stored and given, in order; generated ones are not.
    pub(crate) columns: Vec<String>,
    pub(crate) readable: bool,
    /// Row security would hide rows from the connected role.
    pub(crate) filtered: bool,
    pub(crate) parents: Vec<i64>,
    /// The table whose column owns this sequence.
    pub(crate) owned_by: Option<i64>,
    pub(crate) extension: Option<String>,
    /// For a configuration table or sequence of an extension: the condition on its rows, maybe empty.
    pub(crate) configuration: Option<String>,
}

/// The sorts of relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelationKind {
    Table,
    Partitioned,
    View,
    MaterialisedView,
    Sequence,
    Foreign,
}

impl Relation {
    /// Whether rows of it are in a backup: its own rows, not those of partitions or children.
    pub(crate) fn has_rows(&self) -> bool {
        self.kind == RelationKind::Table && self.is_dumped()
    }

    /// Whether it is in a backup at all: what an extension brings comes back with the extension.
    pub(crate) fn is_dumped(&self) -> bool {
        self.extension.is_none() || self.configuration.is_some()
    }

    /// Whether it is a table in the sense of a caller's pattern.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.kind, RelationKind::Table | RelationKind::Partitioned | RelationKind::Foreign)
    }

    /// The quoted name for statements.
    pub(crate) fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// The quoted columns, separated by commas.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", ")
    }
}

impl FromRow<'_, PgRow> for Relation {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let kind = match row.try_get::<String, _>("kind")?.as_str() {
            "p" => RelationKind::Partitioned,
            "v" => RelationKind::View,
            "m" => RelationKind::MaterialisedView,
            "S" => RelationKind::Sequence,
            "f" => RelationKind::Foreign,
            _ => RelationKind::Table,
        };
        Ok(Self {
            oid: row.try_get("oid")?,
            schema: row.try_get("schema")?,
            name: row.try_get("name")?,
            display: row.try_get("display")?,
            kind,
            is_populated: row.try_get("is_populated")?,
            pages: u64::try_from(row.try_get::<i64, _>("pages")?).unwrap_or(0),
            columns: row.try_get("columns")?,
            readable: row.try_get("readable")?,
            filtered: row.try_get("filtered")?,
            parents: row.try_get("parents")?,
            owned_by: row.try_get("owned_by")?,
            extension: row.try_get("extension")?,
            configuration: row.try_get("configuration")?,
        })
    }
}

/// All relations, in order of their names.
pub(crate) async fn relations(connection: &mut PgConnection) -> Result<Vec<Relation>> {
    sqlx::query_as(include_str!("sql/catalog/relations.sql")).fetch_all(connection).await.map_err(reading)
}

/// Which view (first) reads which relation (second).
pub(crate) async fn view_edges(connection: &mut PgConnection) -> Result<Vec<(i64, i64)>> {
    sqlx::query_as(include_str!("sql/catalog/view_edges.sql")).fetch_all(connection).await.map_err(reading)
}

/// What an object belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Belonging {
    pub(crate) relation: i64,
    /// `schema name` of an index.
    pub(crate) name: Option<String>,
    /// The other table of a foreign key.
    pub(crate) needs: Option<i64>,
}

/// Objects by their catalog's oid and their own.
pub(crate) async fn belongings(connection: &mut PgConnection) -> Result<BTreeMap<(i64, i64), Belonging>> {
    type Line = (i64, i64, i64, Option<i64>, Option<String>);
    let rows: Vec<Line> = sqlx::query_as(include_str!("sql/catalog/belongings.sql"))
        .fetch_all(connection)
        .await
        .map_err(reading)?;
    Ok(rows
        .into_iter()
        .map(|(c, o, relation, needs, name)| ((c, o), Belonging { relation, needs, name }))
        .collect())
}

/// The server's version.
pub(crate) async fn version(connection: &mut PgConnection) -> Result<ServerVersion> {
    let (text, number): (String, i32) = sqlx::query_as(
        "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int",
    )
    .fetch_one(connection)
    .await
    .map_err(reading)?;
    let number = u32::try_from(number).unwrap_or(0);
    Ok(ServerVersion { text, major: number / 10_000, minor: number % 10_000 })
}

/// A privilege on the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseGrant {
    /// `None` is PUBLIC.
    pub(crate) grantee: Option<String>,
    pub(crate) privilege: String,
    pub(crate) grantable: bool,
}

/// `ALTER DATABASE … SET`, for everybody or for one role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatabaseSetting {
    pub(crate) role: Option<String>,
    pub(crate) settings: Vec<String>,
}

/// An installed extension.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// A role that something in the database names: as owner (`o`), in privileges (`a`), in policies (`r`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RoleUse {
    pub(crate) name: String,
    #[serde(rename = "use")]
    pub(crate) used: String,
}

/// What `CREATE DATABASE` and its companions need to make such a database again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatabaseProperties {
    pub(crate) encoding: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
    /// `c` libc, `i` icu, `b` builtin.
    pub(crate) locale_provider: String,
    pub(crate) locale: Option<String>,
    pub(crate) icu_rules: Option<String>,
    pub(crate) owner: String,
    pub(crate) comment: Option<String>,
    pub(crate) connection_limit: i64,
    /// `None`: the default privileges were never touched.
    pub(crate) grants: Option<Vec<DatabaseGrant>>,
    pub(crate) settings: Vec<DatabaseSetting>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) roles: Vec<RoleUse>,
}

/// The connected database's properties.
pub(crate) async fn database_properties(connection: &mut PgConnection) -> Result<DatabaseProperties> {
    let row =
        sqlx::query(include_str!("sql/catalog/database.sql")).fetch_one(connection).await.map_err(reading)?;
    let text = |name: &str| row.try_get::<String, _>(name).map_err(reading);
    let bare: serde_json::Value = parse(&text("row")?)?;
    let field = |name: &str| bare.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let grants: Vec<DatabaseGrant> = parse(&text("grants")?)?;
    let mut roles: Vec<RoleUse> = parse(&text("roles")?)?;
    if let Some(name) = row.try_get::<Option<String>, _>("first_superuser").map_err(reading)? {
        roles.push(RoleUse { name, used: "o".to_owned() });
    }
    let has_acl = bare.get("datacl").is_some_and(|v| !v.is_null());
    Ok(DatabaseProperties {
        encoding: text("encoding")?,
        collate: field("datcollate").unwrap_or_default(),
        ctype: field("datctype").unwrap_or_default(),
        locale_provider: field("datlocprovider").unwrap_or_else(|| "c".to_owned()),
        // Named daticulocale in 15 and 16, datlocale since 17.
        locale: field("datlocale").or_else(|| field("daticulocale")),
        icu_rules: field("daticurules"),
        owner: text("owner")?,
        comment: row.try_get("comment").map_err(reading)?,
        connection_limit: bare.get("datconnlimit").and_then(serde_json::Value::as_i64).unwrap_or(-1),
        grants: has_acl.then_some(grants),
        settings: parse(&text("settings")?)?,
        extensions: parse(&text("extensions")?)?,
        roles,
    })
}

/// How many objects there are, and how many are out of order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectCounts {
    pub(crate) tables: i64,
    pub(crate) views: i64,
    pub(crate) sequences: i64,
    pub(crate) indexes: i64,
    pub(crate) invalid_indexes: i64,
    pub(crate) constraints: i64,
    pub(crate) unvalidated_constraints: i64,
    pub(crate) triggers: i64,
    pub(crate) policies: i64,
}

/// The connected database's counts.
pub(crate) async fn object_counts(connection: &mut PgConnection) -> Result<ObjectCounts> {
    let row = sqlx::query(include_str!("sql/catalog/health_counts.sql"))
        .fetch_one(connection)
        .await
        .map_err(reading)?;
    let get = |name: &str| row.try_get::<i64, _>(name).map_err(reading);
    Ok(ObjectCounts {
        tables: get("tables")?,
        views: get("views")?,
        sequences: get("sequences")?,
        indexes: get("indexes")?,
        invalid_indexes: get("invalid_indexes")?,
        constraints: get("constraints")?,
        unvalidated_constraints: get("unvalidated_constraints")?,
        triggers: get("triggers")?,
        policies: get("policies")?,
    })
}

/// A single text value, or nothing when the role may not know it.
pub(crate) async fn text_if_permitted(
    connection: &mut PgConnection,
    query: &'static str,
) -> Result<Option<String>> {
    match sqlx::query_scalar::<_, Option<String>>(query).fetch_one(connection).await {
        Ok(value) => Ok(value),
        Err(e) if e.as_database_error().is_some() => Ok(None),
        Err(e) => Err(reading(e)),
    }
}

/// Everything that reads one of these relations, directly or through views.
pub(crate) fn readers_of(start: &BTreeSet<i64>, edges: &[(i64, i64)]) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    let mut front: Vec<i64> = start.iter().copied().collect();
    while let Some(relation) = front.pop() {
        for (reader, _) in edges.iter().filter(|(_, read)| *read == relation) {
            if found.insert(*reader) {
                front.push(*reader);
            }
        }
    }
    found
}

/// Relations in an order in which each comes after everything that it reads.
pub(crate) fn in_reading_order(wanted: &[i64], edges: &[(i64, i64)]) -> Vec<i64> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    // An explicit stack: (relation, whether what it reads is already placed).
    let mut stack: Vec<(i64, bool)> = wanted.iter().rev().map(|oid| (*oid, false)).collect();
    while let Some((oid, placed)) = stack.pop() {
        if placed {
            order.push(oid);
        } else if seen.insert(oid) {
            stack.push((oid, true));
            stack.extend(edges.iter().filter(|(reader, _)| *reader == oid).map(|(_, read)| (*read, false)));
        }
    }
    order.retain(|oid| wanted.contains(oid));
    order
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::internal("the server's description of the database was not understood").with_source(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_order_follow_views_through_views() {
        // 10 reads 1; 11 reads 10; 12 reads 11 and 10.
        let edges = [(10, 1), (11, 10), (12, 11), (12, 10)];
        assert_eq!(readers_of(&BTreeSet::from([1]), &edges), BTreeSet::from([10, 11, 12]));
        assert_eq!(in_reading_order(&[12, 10], &edges), vec![10, 12]);
    }
}
