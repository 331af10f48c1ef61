//! What a backup takes: the caller's patterns, worked out against the catalog.

use std::collections::BTreeSet;

use dm_core::BackupRequest;

use crate::catalog::{Relation, RelationKind, readers_of};
use crate::selection::{Pattern, listed};

/// The outcome of the patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Tables whose rows are read.
    pub(crate) rows: BTreeSet<i64>,
    /// Relations that are left out, definition and all.
    pub(crate) left_out: BTreeSet<i64>,
    /// Patterns that mean nothing.
    pub(crate) unmatched: Vec<String>,
    /// What the reader of the backup should know.
    pub(crate) warnings: Vec<String>,
}

impl Scope {
    /// Works the patterns out.
    pub(crate) fn of(request: &BackupRequest, relations: &[Relation], edges: &[(i64, i64)]) -> Self {
        let tables: Vec<&Relation> = relations.iter().filter(|r| r.is_table() && r.is_dumped()).collect();
        let mut scope = Self::default();
        let included = match request.include_tables.is_empty() {
            true => tables.iter().map(|t| t.oid).collect(),
            false => with_descendants(scope.matching(&request.include_tables, &tables), &tables),
        };
        let excluded = with_descendants(scope.matching(&request.exclude_tables, &tables), &tables);
        let chosen: BTreeSet<i64> = included.difference(&excluded).copied().collect();
        // A child's definition names its parents: they come along, without their rows.
        let defined = with_ancestors(chosen.clone(), &tables);
        let missing: BTreeSet<i64> = tables.iter().map(|t| t.oid).filter(|o| !defined.contains(o)).collect();
        let readers = readers_of(&missing, edges);
        if !readers.is_empty() {
            let names: Vec<String> =
                relations.iter().filter(|r| readers.contains(&r.oid)).map(|r| r.display.clone()).collect();
            scope
                .warnings
                .push(format!("left out because they read tables that are left out: {}", listed(&names)));
        }
        scope.rows =
            tables.iter().filter(|t| t.has_rows() && chosen.contains(&t.oid)).map(|t| t.oid).collect();
        let foreign: Vec<String> = tables
            .iter()
            .filter(|t| t.kind == RelationKind::Foreign && chosen.contains(&t.oid))
            .map(|t| t.display.clone())
            .collect();
        if !foreign.is_empty() {
            scope.warnings.push(format!(
                "the rows of foreign tables are elsewhere and not in it: {}",
                listed(&foreign)
            ));
        }
        scope.left_out = missing.union(&readers).copied().collect();
        scope
    }

    fn matching(&mut self, patterns: &[String], tables: &[&Relation]) -> BTreeSet<i64> {
        let mut found = BTreeSet::new();
        for pattern in patterns.iter().map(|p| Pattern::new(p)) {
            let matched =
                tables.iter().filter(|t| pattern.matches(&t.schema, &t.name, &t.display)).map(|t| t.oid);
            let matched: Vec<i64> = matched.collect();
            if matched.is_empty() {
                self.unmatched.push(pattern.text().to_owned());
            }
            found.extend(matched);
        }
        found
    }

    /// Whether a sequence is in the backup: it goes with the table that owns it.
    pub(crate) fn has_sequence(&self, relation: &Relation) -> bool {
        relation.kind == RelationKind::Sequence
            && relation.is_dumped()
            && relation.owned_by.is_none_or(|table| !self.left_out.contains(&table))
    }
}

fn with_descendants(mut set: BTreeSet<i64>, tables: &[&Relation]) -> BTreeSet<i64> {
    loop {
        let more: Vec<i64> = tables
            .iter()
            .filter(|t| !set.contains(&t.oid) && t.parents.iter().any(|p| set.contains(p)))
            .map(|t| t.oid)
            .collect();
        if more.is_empty() {
            return set;
        }
        set.extend(more);
    }
}

fn with_ancestors(mut set: BTreeSet<i64>, tables: &[&Relation]) -> BTreeSet<i64> {
    loop {
        let more: Vec<i64> = tables
            .iter()
            .filter(|t| set.contains(&t.oid))
            .flat_map(|t| t.parents.iter().copied())
            .filter(|p| !set.contains(p))
            .collect();
        if more.is_empty() {
            return set;
        }
        set.extend(more);
    }
}
