//! Tables and the foreign keys between them, as the closure walks them.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::Error;

use super::ForeignKey;
use crate::catalog::{Relation, RelationKind};
use crate::selection::listed;

/// A table with all its partitions: what foreign keys name.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The qualified name as the server quotes it.
    pub(crate) display: String,
    /// How it stands behind FROM, with all rows of it and none of children that merely inherit.
    pub(crate) from: String,
    /// Where its rows lie.
    pub(crate) leaves: Vec<Leaf>,
    /// Whether it has the tenant's column.
    pub(crate) has_column: bool,
}

/// A heap.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) oid: i64,
    /// How it stands behind FROM.
    pub(crate) from: String,
}

/// A foreign key between two nodes.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) child: usize,
    pub(crate) parent: usize,
    pub(crate) key: ForeignKey,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
}

impl Graph {
    /// Puts nodes and keys together. `root_of` leads from a partition's name to the table that it is a part of.
    pub(crate) fn new(nodes: Vec<Node>, keys: &[ForeignKey], root_of: &BTreeMap<String, String>) -> Self {
        let by_name: BTreeMap<&str, usize> =
            nodes.iter().enumerate().map(|(i, n)| (n.display.as_str(), i)).collect();
        let node = |name: &str| by_name.get(root_of.get(name).map_or(name, String::as_str)).copied();
        let edges = keys
            .iter()
            .filter_map(|key| {
                let (child, parent) = (node(&key.table)?, node(&key.references)?);
                Some(Edge { child, parent, key: key.clone() })
            })
            .collect();
        Self { nodes, edges }
    }

    /// The graph of a database, of the tables whose rows are chosen.
    pub(crate) fn of(
        relations: &[Relation],
        chosen: &BTreeSet<i64>,
        keys: &[ForeignKey],
        column: &str,
    ) -> Self {
        let by_oid: BTreeMap<i64, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
        let mut leaves: BTreeMap<i64, Vec<Leaf>> = BTreeMap::new();
        let mut root_of = BTreeMap::new();
        for relation in relations {
            let root = root(relation, &by_oid);
            if root.oid != relation.oid {
                root_of.insert(relation.display.clone(), root.display.clone());
            }
            if relation.has_rows() && chosen.contains(&relation.oid) {
                let leaf = Leaf { oid: relation.oid, from: format!("ONLY {}", relation.quoted()) };
                leaves.entry(root.oid).or_default().push(leaf);
            }
        }
        let nodes = leaves
            .into_iter()
            .filter_map(|(oid, leaves)| {
                let table = by_oid.get(&oid)?;
                Some(Node {
                    display: table.display.clone(),
                    from: from(table, &leaves, relations, &by_oid),
                    leaves,
                    has_column: table.columns.iter().any(|c| c == column),
                })
            })
            .collect();
        Self::new(nodes, keys, &root_of)
    }

    /// The node that a heap belongs to, and its place there.
    pub(crate) fn leaf_places(&self) -> BTreeMap<i64, (usize, usize)> {
        let mut places = BTreeMap::new();
        for (n, node) in self.nodes.iter().enumerate() {
            for (l, leaf) in node.leaves.iter().enumerate() {
                places.insert(leaf.oid, (n, l));
            }
        }
        places
    }
}

/// The table that a partition is a part of, to the top; itself when it is none.
pub(crate) fn root<'a>(relation: &'a Relation, by_oid: &BTreeMap<i64, &'a Relation>) -> &'a Relation {
    let mut top = relation;
    while let Some(parent) = top.parents.first().and_then(|p| by_oid.get(p))
        && parent.kind == RelationKind::Partitioned
    {
        top = parent;
    }
    top
}

/// All rows of a table: itself alone, or with its partitions; those one by one where not all are taken, for example because
/// some are elsewhere (foreign tables).
fn from(
    table: &Relation,
    leaves: &[Leaf],
    relations: &[Relation],
    by_oid: &BTreeMap<i64, &Relation>,
) -> String {
    if table.kind != RelationKind::Partitioned {
        return format!("ONLY {}", table.quoted());
    }
    let parts = relations
        .iter()
        .filter(|r| {
            matches!(r.kind, RelationKind::Table | RelationKind::Foreign) && root(r, by_oid).oid == table.oid
        })
        .count();
    if parts == leaves.len() {
        return table.quoted();
    }
    let some: Vec<String> = leaves
        .iter()
        .map(|l| format!("SELECT tableoid, ctid, {} FROM {}", table.column_list(), l.from))
        .collect();
    format!("({})", some.join(" UNION ALL "))
}

/// The error for a column that no table has.
pub(crate) fn unknown_column<'a>(column: &str, columns: impl Iterator<Item = &'a str>) -> Error {
    let known: BTreeSet<&str> = columns.collect();
    let mut near: Vec<(f64, &str)> = known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&column.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> = near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect();
    let error = Error::not_found(format!("no table has a column \"{column}\""));
    match near.is_empty() {
        true => {
            error.with_hint("name the column as the tables do, letter by letter, for example tenant_id=42")
        }
        false => error.with_hint(format!("did you mean {}?", listed(&near))),
    }
}
