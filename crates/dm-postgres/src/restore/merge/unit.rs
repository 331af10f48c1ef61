//! A table of the live database whose rows are to be replaced.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{Error, Finding, Level, Result};
use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::catalog::{Relation, RelationKind};
use crate::error::reading;
use crate::restore::plan::TableMember;
use crate::selection::listed;
use crate::sql::quote_ident;
use crate::tenant::{Graph, Leaf, Node, root};

/// A table, with its partitions where all of them are meant.
#[derive(Clone, Debug)]
pub(in crate::restore) struct Unit {
    pub(in crate::restore) oid: i64,
    pub(in crate::restore) display: String,
    /// Its quoted name.
    pub(in crate::restore) quoted: String,
    /// How it stands behind FROM, and in front of what changes it.
    pub(in crate::restore) from: String,
    /// Stored columns, unquoted.
    pub(in crate::restore) columns: Vec<String>,
    /// Its heaps.
    pub(in crate::restore) leaves: Vec<Heap>,
    pub(in crate::restore) key: Vec<KeyColumn>,
    /// Columns that an UPDATE may not set.
    pub(super) fixed: BTreeSet<String>,
    /// Triggers that would fire: quoted table, name, mode.
    pub(super) triggers: Vec<(String, String, char)>,
}

/// A heap of a table.
#[derive(Clone, Debug)]
pub(in crate::restore) struct Heap {
    pub(in crate::restore) oid: i64,
    pub(in crate::restore) display: String,
    pub(in crate::restore) quoted: String,
}

/// A column of a key.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::restore) struct KeyColumn {
    pub(super) column: String,
    pub(super) operator: String,
}

impl Unit {
    /// The quoted columns of a row of this name, separated by commas.
    pub(in crate::restore) fn columns_of(&self, row: &str) -> String {
        self.columns.iter().map(|c| format!("{row}.{}", quote_ident(c))).collect::<Vec<_>>().join(", ")
    }

    /// The quoted columns, separated by commas.
    pub(in crate::restore) fn column_list(&self) -> String {
        self.columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", ")
    }

    /// That two rows have the same key.
    pub(super) fn same_key(&self, one: &str, other: &str) -> String {
        let pairs = self.key.iter().map(|k| {
            let column = quote_ident(&k.column);
            format!("{one}.{column} {} {other}.{column}", k.operator)
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }
}

/// The units for the tables of a backup, as they stand in a database: whole partitioned tables where all that is there of
/// them is meant, single tables else. `missing` gets those that are not there.
pub(in crate::restore) fn units(
    relations: &[Relation],
    members: &BTreeMap<String, TableMember>,
    missing: &mut Vec<String>,
    other_columns: &mut Vec<String>,
) -> Vec<Unit> {
    let by_oid: BTreeMap<i64, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
    let by_name: BTreeMap<&str, &Relation> = relations.iter().map(|r| (r.display.as_str(), r)).collect();
    let mut chosen: BTreeMap<i64, Vec<&Relation>> = BTreeMap::new();
    for (name, member) in members {
        let Some(relation) = by_name.get(name.as_str()).filter(|r| r.kind == RelationKind::Table) else {
            missing.push(name.clone());
            continue;
        };
        let (there, then): (BTreeSet<&String>, BTreeSet<&String>) =
            (relation.columns.iter().collect(), member.columns.iter().collect());
        if there != then {
            other_columns.push(name.clone());
            continue;
        }
        chosen.entry(root(relation, &by_oid).oid).or_default().push(relation);
    }
    let mut units = Vec::new();
    for (oid, leaves) in chosen {
        let Some(table) = by_oid.get(&oid) else { continue };
        let all = relations
            .iter()
            .filter(|r| matches!(r.kind, RelationKind::Table | RelationKind::Foreign))
            .filter(|r| root(r, &by_oid).oid == oid)
            .count();
        if table.kind == RelationKind::Partitioned && all == leaves.len() {
            units.push(unit(table, table.quoted(), &leaves));
        } else {
            units.extend(leaves.iter().map(|leaf| unit(leaf, format!("ONLY {}", leaf.quoted()), &[*leaf])));
        }
    }
    units
}

fn unit(table: &Relation, from: String, leaves: &[&Relation]) -> Unit {
    let heap =
        |leaf: &&Relation| Heap { oid: leaf.oid, display: leaf.display.clone(), quoted: leaf.quoted() };
    Unit {
        oid: table.oid,
        display: table.display.clone(),
        quoted: table.quoted(),
        from,
        columns: table.columns.clone(),
        leaves: leaves.iter().map(heap).collect(),
        key: Vec::new(),
        fixed: BTreeSet::new(),
        triggers: Vec::new(),
    }
}

/// The graph of these tables where they stand.
pub(in crate::restore) fn live_graph(
    units: &[Unit],
    keys: &[crate::tenant::ForeignKey],
    column: &str,
) -> Graph {
    let nodes = units
        .iter()
        .map(|unit| Node {
            display: unit.display.clone(),
            from: unit.from.clone(),
            leaves: unit
                .leaves
                .iter()
                .map(|heap| Leaf { oid: heap.oid, from: format!("ONLY {}", heap.quoted) })
                .collect(),
            has_column: unit.columns.iter().any(|c| c == column),
        })
        .collect();
    Graph::new(nodes, keys, &unit_names(units))
}

/// From a heap's name to its unit's.
pub(in crate::restore) fn unit_names(units: &[Unit]) -> BTreeMap<String, String> {
    units.iter().flat_map(|u| u.leaves.iter().map(|heap| (heap.display.clone(), u.display.clone()))).collect()
}

/// Adds keys and triggers, and says what stands in the way.
pub(in crate::restore) async fn examine(
    connection: &mut PgConnection,
    units: &mut [Unit],
) -> Result<Vec<Finding>> {
    let oids: Vec<i64> = units.iter().flat_map(|u| u.leaves.iter().map(|h| h.oid).chain([u.oid])).collect();
    let keys: Vec<(i64, String)> = sqlx::query_as(include_str!("../../sql/merge/keys.sql"))
        .bind(&oids)
        .fetch_all(&mut *connection)
        .await
        .map_err(reading)?;
    let mut keys: BTreeMap<i64, String> = keys.into_iter().collect();
    let rows = sqlx::query(include_str!("../../sql/merge/obstacles.sql"))
        .bind(&oids)
        .fetch_all(&mut *connection)
        .await
        .map_err(reading)?;
    let (mut denied, mut filtered, mut ruled, mut triggered) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for unit in units.iter_mut() {
        if let Some(columns) = keys.remove(&unit.oid) {
            unit.key = serde_json::from_str(&columns).map_err(|e| {
                Error::internal("a key was not understood").about(&unit.display).with_source(e)
            })?;
        }
        let places: BTreeMap<i64, &str> = unit
            .leaves
            .iter()
            .map(|h| (h.oid, h.quoted.as_str()))
            .chain([(unit.oid, unit.quoted.as_str())])
            .collect();
        let mut found = Vec::new();
        for row in &rows {
            let get = |name: &str| row.try_get::<bool, _>(name).map_err(reading);
            let oid: i64 = row.try_get("relation").map_err(reading)?;
            let Some(quoted) = places.get(&oid) else { continue };
            let triggers: Vec<String> = row.try_get("triggers").map_err(reading)?;
            let fixed: Vec<String> = row.try_get("always_generated").map_err(reading)?;
            for (bad, list) in [
                (!get("may_write")?, &mut denied),
                (get("filtered")?, &mut filtered),
                (get("has_rules")?, &mut ruled),
                (!triggers.is_empty() && !get("is_owner")?, &mut triggered),
            ] {
                if bad && !list.contains(&unit.display) {
                    list.push(unit.display.clone());
                }
            }
            unit.fixed.extend(fixed);
            for trigger in triggers {
                let mut letters = trigger.chars();
                let mode = letters.next().unwrap_or('O');
                found.push(((*quoted).to_owned(), letters.collect(), mode));
            }
        }
        unit.triggers = found;
    }
    let mut findings = Vec::new();
    let mut stop = |names: &[String], what: &str, mend: &str| {
        if !names.is_empty() {
            let message = format!("{} {what}", listed(names));
            findings.push(Finding::new(Level::Error, "destination", message).with_mend(mend));
        }
    };
    stop(
        &denied,
        "may not be written to",
        "grant SELECT, INSERT, UPDATE and DELETE, or connect as the owner",
    );
    stop(
        &filtered,
        "would show only a part of the rows: row security",
        "connect as the owner, or as a role with BYPASSRLS",
    );
    stop(
        &ruled,
        "have rules, which would change what is written",
        "disable the rules, or restore into a new database",
    );
    stop(
        &triggered,
        "have triggers, which must not fire, and only the owner may switch them off",
        "connect as the owner of the tables",
    );
    Ok(findings)
}
