//! Which tables of a backup one tenant's rows can be in, by what the backup says of itself: what has the column, what refers to
//! that, and what all of these refer to.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{Error, Result};

use super::plan::{Source, TableMember};
use crate::tenant::unknown_column;

impl Source {
    /// The tables by name, partitions and all.
    ///
    /// # Errors
    /// `NotFound` when no table of the backup has the column; `Unsupported` for a backup that does not record foreign keys.
    pub(super) fn needed(
        &self,
        column: &str,
        members: &BTreeMap<String, TableMember>,
    ) -> Result<BTreeSet<String>> {
        let Some(keys) = &self.foreign_keys else {
            return Err(Error::unsupported(
                "the backup does not record its foreign keys, so nobody can tell whose rows are whose",
            )
            .with_hint("restore it into a new database, and take another backup there"));
        };
        let mut needed: BTreeSet<&str> = members
            .iter()
            .filter(|(_, m)| m.columns.iter().any(|c| c == column))
            .map(|(name, _)| self.top(name))
            .collect();
        if needed.is_empty() {
            return Err(unknown_column(
                column,
                members.values().flat_map(|m| m.columns.iter().map(String::as_str)),
            ));
        }
        let edges: Vec<(&str, &str)> =
            keys.iter().map(|k| (self.top(&k.table), self.top(&k.references))).collect();
        close(&mut needed, edges.iter().map(|(child, parent)| (*parent, *child)));
        close(&mut needed, edges.iter().copied());
        Ok(members.keys().filter(|name| needed.contains(self.top(name))).cloned().collect())
    }

    /// The table at the top of a family of partitions or children.
    fn top<'a>(&'a self, table: &'a str) -> &'a str {
        let mut top = table;
        // A family has no cycles; the bound only keeps a damaged description from going round for ever.
        for _ in 0..self.families.len() {
            match self.families.iter().find(|f| f.table == top).and_then(|f| f.parents.first()) {
                Some(parent) => top = parent,
                None => break,
            }
        }
        top
    }
}

/// Adds everything that edges lead to.
fn close<'a>(set: &mut BTreeSet<&'a str>, edges: impl Iterator<Item = (&'a str, &'a str)> + Clone) {
    loop {
        let before = set.len();
        for (from, to) in edges.clone() {
            if set.contains(from) {
                set.insert(to);
            }
        }
        if set.len() == before {
            return;
        }
    }
}
