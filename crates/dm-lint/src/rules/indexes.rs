//! Indexes: building, dropping, and the ones that are missing.

use crate::lint::{Findings, View};
use crate::model::{Action, ConstraintKind, Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (number, statement) in view.each() {
        locking(view, number, statement, findings);
        if let Some(what) = concurrent(&statement.kind) {
            placed(view, number, statement, what, findings);
        }
    }
}

/// The concurrent operation that a statement is.
fn concurrent(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::CreateIndex { concurrently: true, .. } => Some("CREATE INDEX CONCURRENTLY"),
        Kind::DropIndex { concurrently: true, .. } => Some("DROP INDEX CONCURRENTLY"),
        Kind::Reindex { concurrently: true, .. } => Some("REINDEX CONCURRENTLY"),
        Kind::AlterTable { actions, .. }
            if actions.iter().any(|a| matches!(a, Action::DetachPartition { concurrently: true, .. })) =>
        {
            Some("DETACH PARTITION CONCURRENTLY")
        }
        _ => None,
    }
}

fn placed(view: &View<'_>, number: usize, statement: &Statement, what: &str, findings: &mut Findings<'_>) {
    if view.in_transaction(number) {
        let rewrite = match view.file.transaction {
            true => "put -- no-transaction in the file's first line, and nothing else into the file",
            false => "take it out of BEGIN and COMMIT",
        };
        findings.add(
            "concurrent-in-transaction",
            statement,
            None,
            format!("{what} cannot run inside a transaction"),
            rewrite,
        );
    } else if view
        .statements
        .iter()
        .any(|s| s.offset != statement.offset && !matches!(s.kind, Kind::Set { .. }))
    {
        findings.add(
            "concurrent-shares-file",
            statement,
            None,
            format!("{what} is not the file's only statement"),
            "give it a migration of its own",
        );
    }
}

fn locking(view: &View<'_>, number: usize, statement: &Statement, findings: &mut Findings<'_>) {
    match &statement.kind {
        Kind::CreateIndex { table, concurrently: false, .. } if !view.is_new(table, number) => findings.add(
            "index-not-concurrent",
            statement,
            Some(table),
            format!("writers of {table} wait while the index is built"),
            format!("-- no-transaction\n{};", with_word(&statement.text, "INDEX", "CONCURRENTLY")),
        ),
        Kind::DropIndex { names, concurrently: false } => {
            let history = view.before.get(number);
            let tables: Vec<&str> = names.iter().filter_map(|n| history?.table_of_index(n)).collect();
            if tables.is_empty() || !tables.iter().all(|t| view.is_new(t, number)) {
                findings.add(
                    "drop-index-not-concurrent",
                    statement,
                    tables.first().copied(),
                    format!("dropping {} locks its table against everybody", names.join(", ")),
                    format!("-- no-transaction\n{};", with_word(&statement.text, "INDEX", "CONCURRENTLY")),
                );
            }
        }
        Kind::Reindex { target, is_index, concurrently: false } => {
            let table = match is_index {
                true => view.before.get(number).and_then(|h| h.table_of_index(target)),
                false => Some(target.as_str()),
            };
            if !table.is_some_and(|t| view.is_new(t, number)) {
                let word = if *is_index { "INDEX" } else { "TABLE" };
                findings.add(
                    "reindex-not-concurrent",
                    statement,
                    table.filter(|t| !t.is_empty()),
                    "writers wait while the index is built anew",
                    format!("-- no-transaction\n{};", with_word(&statement.text, word, "CONCURRENTLY")),
                );
            }
        }
        Kind::Refresh { view: name, concurrently: false } => findings.add(
            "refresh-not-concurrent",
            statement,
            Some(name),
            format!("readers of {name} wait while it is computed"),
            format!(
                "{};  -- needs a unique index on {name}",
                with_word(&statement.text, "VIEW", "CONCURRENTLY")
            ),
        ),
        _ => {}
    }
}

/// The statement with a word put behind the first occurrence of another.
fn with_word(text: &str, behind: &str, word: &str) -> String {
    let found = text.split_inclusive(char::is_whitespace).scan(0, |at, part| {
        let start = *at;
        *at += part.len();
        Some((start, part))
    });
    for (start, part) in found {
        if part.trim_end().eq_ignore_ascii_case(behind) {
            let end = start + part.trim_end().len();
            return format!("{} {word}{}", &text[..end], &text[end..]);
        }
    }
    text.to_owned()
}

/// Foreign keys whose own columns no index begins with, when the file has run.
pub(super) fn foreign_keys(view: &View<'_>, findings: &mut Findings<'_>) {
    for (_, statement) in view.each() {
        for (table, columns, other) in keys_of(&statement.kind) {
            if !view.after.has_index_on(table, &columns) {
                let list = columns.join(", ");
                findings.add(
                    "foreign-key-without-index",
                    statement,
                    Some(table),
                    format!("{table} ({list}) refers to {other} and has no index"),
                    match view.dialect {
                        // The table is new: nobody waits.
                        crate::Dialect::Postgres if matches!(statement.kind, Kind::CreateTable(_)) => {
                            format!("CREATE INDEX ON {table} ({list});")
                        }
                        crate::Dialect::Postgres => {
                            format!("-- no-transaction\nCREATE INDEX CONCURRENTLY ON {table} ({list});")
                        }
                        crate::Dialect::Sqlite => {
                            format!("CREATE INDEX {table}_{} ON {table} ({list});", columns.join("_"))
                        }
                    },
                );
            }
        }
    }
}

fn keys_of(kind: &Kind) -> Vec<(&str, Vec<String>, &str)> {
    let mut keys: Vec<(&str, Vec<String>, &str)> = Vec::new();
    match kind {
        Kind::CreateTable(table) => {
            for column in &table.columns {
                keys.extend(
                    column
                        .references
                        .iter()
                        .map(|r| (table.name.as_str(), vec![column.name.clone()], r.as_str())),
                );
            }
            for c in &table.constraints {
                if let ConstraintKind::ForeignKey { columns, references } = &c.kind {
                    keys.push((&table.name, columns.clone(), references));
                }
            }
        }
        Kind::AlterTable { table, actions } => {
            for action in actions {
                match action {
                    Action::AddColumn(column) => {
                        keys.extend(
                            column
                                .references
                                .iter()
                                .map(|r| (table.as_str(), vec![column.name.clone()], r.as_str())),
                        );
                    }
                    Action::AddConstraint(c) => {
                        if let ConstraintKind::ForeignKey { columns, references } = &c.kind {
                            keys.push((table, columns.clone(), references));
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    keys
}
