//! What goes in and what comes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Whose grammar a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nobody is stopped. What would be worse on a large table is this on a small one.
    Notice,
    /// Should not be.
    Warning,
    /// Stops traffic, loses data, or fails.
    Error,
}

/// A migration, in the order in which it runs.
#[derive(Clone, Debug)]
pub struct LintFile {
    /// Its name in findings.
    pub path: String,
    /// Its content.
    pub text: String,
    /// Whether it runs inside a transaction; not so with `-- no-transaction`.
    pub transaction: bool,
    /// Whether findings in it are wanted. A file that was applied long ago is read for what it made, and not judged.
    pub judged: bool,
}

/// How large a table of the live database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Rows, by the server's estimate.
    pub rows: u64,
    /// Bytes of the table with its indexes.
    pub bytes: u64,
}

/// What is known beyond the files.
#[derive(Clone, Debug, Default)]
pub struct LintContext {
    /// Whoever runs the files sets `lock_timeout`.
    pub lock_timeout: bool,
    /// Whoever runs the files sets `statement_timeout`.
    pub statement_timeout: bool,
    /// Sizes of live tables by name (`schema.table` outside of `public`). `None`: nobody looked.
    pub sizes: Option<BTreeMap<String, TableSize>>,
    /// Columns whose personal data is classified, as `table.column`, or `table.*`.
    pub classified: BTreeSet<String>,
}

impl LintContext {
    /// Up to here a table is small: its locks and scans end before anybody notices.
    pub const SMALL: TableSize = TableSize { rows: 10_000, bytes: 8 << 20 };

    /// Whether a live table is known to be small. One that the database does not have is not.
    pub(crate) fn is_small(&self, table: &str) -> bool {
        let size = self.sizes.as_ref().and_then(|sizes| sizes.get(table));
        size.is_some_and(|s| s.rows <= Self::SMALL.rows && s.bytes <= Self::SMALL.bytes)
    }

    pub(crate) fn is_classified(&self, table: &str, column: &str) -> bool {
        self.classified.contains(&format!("{table}.{column}"))
            || self.classified.contains(&format!("{table}.*"))
    }
}

/// Something in a file that should not be as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LintFinding {
    /// The rule's name; what `-- dm:ignore` names.
    pub rule: &'static str,
    /// How much it matters, here.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The statement, on one line, cut when long.
    pub statement: String,
    /// What is wrong.
    pub message: String,
    /// Why that matters.
    pub why: &'static str,
    /// How to write it instead.
    pub rewrite: String,
    /// The table that it hits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How large that table is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<TableSize>,
}
