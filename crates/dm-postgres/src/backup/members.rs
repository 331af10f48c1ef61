//! The members of a backup and how each is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Layout, MemberKind, MemberSpec};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::scope::Scope;
use crate::catalog::Relation;
use crate::tenant::RowSet;

/// The member with the values of the sequences.
pub(crate) const SEQUENCES: &str = "sequences.json";

/// Heap blocks in one part of a split table: 128 MiB of 8 KiB blocks.
pub(super) const PART_BLOCKS: u64 = 16_384;

/// The value of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SequenceValue {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) last_value: i64,
    pub(crate) is_called: bool,
}

/// How a member is read.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// From a temporary file.
    File(PathBuf),
    /// It is here already.
    Memory(Bytes),
    /// By a `COPY … TO STDOUT`.
    Copy(String),
    /// Rows at these positions, by a `COPY` of so many at once.
    Positions(Arc<Positions>),
    /// The values of these sequences.
    Sequences(Vec<Relation>),
    /// Content of all large objects.
    LargeObjects,
}

/// Some rows of a table.
#[derive(Debug)]
pub(super) struct Positions {
    /// How the table stands behind FROM.
    pub(super) from: String,
    /// The quoted columns, separated by commas.
    pub(super) columns: String,
    pub(super) rows: RowSet,
}

impl Positions {
    /// The statement for the rows from a position on, and where the next goes on; nothing when there are no more.
    pub(super) fn statement(&self, start: u64) -> Option<(String, u64)> {
        /// Rows of one statement: half a megabyte of text.
        const AT_ONCE: usize = 50_000;
        let (positions, last) = self.rows.literal_from(start, AT_ONCE)?;
        let Self { from, columns, .. } = self;
        let statement =
            format!("COPY (SELECT {columns} FROM {from} WHERE ctid = ANY ({positions})) TO STDOUT");
        Some((statement, last + 1))
    }
}

/// A table's rows as `COPY` statements, for reading them to a backup or to compare.
#[derive(Clone, Debug)]
pub(crate) struct TableCopy {
    /// The quoted, qualified name.
    pub(crate) quoted: String,
    /// The quoted columns, separated by commas; empty for a table without columns.
    pub(crate) columns: String,
    /// The condition on an extension's configuration table, with its WHERE.
    pub(crate) condition: String,
    /// Heap blocks, as far as they are known.
    pub(crate) blocks: u64,
}

impl TableCopy {
    /// The statements that give all rows together, with the first heap block of each. More than one only where the
    /// server can scan a range of row positions.
    pub(crate) fn parts(&self, server_major: u32) -> Vec<(u64, String)> {
        let Self { quoted, columns, condition, blocks } = self;
        if !condition.is_empty() {
            return vec![(0, format!("COPY (SELECT {columns} FROM ONLY {quoted} {condition}) TO STDOUT"))];
        }
        if *blocks <= PART_BLOCKS || server_major < 14 {
            return vec![(0, self.whole())];
        }
        let mut parts = Vec::new();
        let mut start = 0;
        while start < *blocks {
            let end = start + PART_BLOCKS;
            // The last part has no end: what was appended since the size was taken belongs to it.
            let upper = if end < *blocks { format!(" AND ctid < '({end},0)'") } else { String::new() };
            let lower = format!("ctid >= '({start},0)'");
            parts.push((
                start,
                format!("COPY (SELECT {columns} FROM ONLY {quoted} WHERE {lower}{upper}) TO STDOUT"),
            ));
            start = end;
        }
        parts
    }

    fn whole(&self) -> String {
        let Self { quoted, columns, .. } = self;
        match columns.is_empty() {
            true => format!("COPY {quoted} TO STDOUT"),
            false => format!("COPY {quoted} ({columns}) TO STDOUT"),
        }
    }
}

/// The members of the tables' rows, largest first.
pub(super) fn table_members(
    relations: &[Relation],
    scope: &Scope,
    sizes: &BTreeMap<i64, u64>,
    block_bytes: u64,
    server_major: u32,
) -> Vec<(MemberSpec, Reading)> {
    let mut members = Vec::new();
    for table in relations.iter().filter(|r| scope.rows.contains(&r.oid)) {
        let bytes = sizes.get(&table.oid).copied().unwrap_or(0);
        let copy = TableCopy {
            quoted: table.quoted(),
            columns: table.column_list(),
            condition: table.configuration.clone().unwrap_or_default(),
            blocks: bytes.div_ceil(block_bytes.max(1)),
        };
        for (start, statement) in copy.parts(server_major) {
            let hint = bytes.saturating_sub(start * block_bytes).min(PART_BLOCKS * block_bytes);
            let mut attributes = table_attributes(table);
            attributes.insert("start_block".to_owned(), json!(start));
            if !copy.condition.is_empty() {
                attributes.insert("condition".to_owned(), json!(copy.condition));
            }
            let spec = MemberSpec {
                name: format!("data/{}/{start:010}", path_part(&table.display)),
                kind: MemberKind::Rows,
                layout: Layout::Stream,
                size_hint: Some(if bytes == 0 { 0 } else { hint }),
                table: Some(table.display.clone()),
                attributes,
            };
            members.push((spec, Reading::Copy(statement)));
        }
    }
    members.sort_by_key(|(spec, _)| std::cmp::Reverse(spec.size_hint));
    members
}

/// What a restore must know of a table to fill it.
pub(super) fn table_attributes(table: &Relation) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([
        ("schema".to_owned(), json!(table.schema)),
        ("name".to_owned(), json!(table.name)),
        ("columns".to_owned(), json!(table.columns)),
    ])
}

/// A member without a table.
pub(super) fn plain(name: &str, kind: MemberKind, size_hint: Option<u64>) -> MemberSpec {
    MemberSpec {
        name: name.to_owned(),
        kind,
        layout: Layout::Stream,
        size_hint,
        table: None,
        attributes: BTreeMap::new(),
    }
}

/// A table's name as one part of a member's name.
pub(super) fn path_part(display: &str) -> String {
    let mut part = String::with_capacity(display.len());
    for c in display.chars() {
        match c {
            '/' | '%' | '\\' => part.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_control() => part.push_str(&format!("%{:02X}", u32::from(c))),
            c => part.push(c),
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_table_is_read_in_ranges_without_a_gap() {
        let copy = TableCopy {
            quoted: "\"s\".\"t\"".into(),
            columns: "\"a\"".into(),
            condition: String::new(),
            blocks: 2 * PART_BLOCKS + 1,
        };
        let parts = copy.parts(15);
        assert_eq!(parts.len(), 3);
        assert!(parts[0].1.contains("ctid >= '(0,0)' AND ctid < '(16384,0)'"));
        assert!(parts[2].1.ends_with("ctid >= '(32768,0)') TO STDOUT"));
        assert_eq!(copy.parts(13).len(), 1);
        assert_eq!(path_part("a.\"x/y%\n\""), "a.\"x%2Fy%25%0A\"");
    }
}
