//! What takes something away.

use crate::finding::Dialect;
use crate::lint::{Findings, View};
use crate::model::{Action, Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (number, statement) in view.each() {
        match &statement.kind {
            Kind::DropTable { names } => {
                let gone = names.iter().filter(|n| !view.is_new(n, number) && !is_replaced(view, number, n));
                for table in gone {
                    findings.add(
                        "drop-table",
                        statement,
                        Some(table),
                        format!("{table} and its rows are gone"),
                        format!(
                            "ALTER TABLE {table} RENAME TO {table}_dropped;  -- and drop it when a backup holds it and nobody missed it"
                        ),
                    );
                }
            }
            Kind::Truncate { tables, cascade: true } => findings.add(
                "truncate-cascade",
                statement,
                tables.first().map(String::as_str),
                format!("every table that refers to {} is emptied too", tables.join(", ")),
                "TRUNCATE with every table named, without CASCADE: the server then refuses when one is missing",
            ),
            Kind::DropDatabase { name } => findings.add(
                "drop-database",
                statement,
                None,
                format!("the database {name} is gone"),
                "do it by hand, when a verified backup exists: it has no place in a migration",
            ),
            Kind::AlterTable { table, actions } if !view.is_new(table, number) => {
                for action in actions {
                    altered(view, number, statement, table, action, findings);
                }
            }
            _ => {}
        }
    }
}

/// Whether another table takes the dropped one's name right here: that is a rebuild, and nothing is lost by it as such.
fn is_replaced(view: &View<'_>, number: usize, dropped: &str) -> bool {
    view.dialect == Dialect::Sqlite
        && view.statements.iter().skip(number).any(|s| {
            matches!(&s.kind, Kind::AlterTable { actions, .. }
                if actions.iter().any(|a| matches!(a, Action::RenameTable { to } if to == dropped)))
        })
}

fn altered(
    view: &View<'_>,
    number: usize,
    statement: &Statement,
    table: &str,
    action: &Action,
    findings: &mut Findings<'_>,
) {
    match action {
        Action::DropColumn { column } => findings.add(
            "drop-column",
            statement,
            Some(table),
            format!("the values of {table}.{column} are gone"),
            "first a release that neither reads nor writes the column, then this migration with a -- dm:ignore that says so",
        ),
        Action::DropNotNull { column } => findings.add(
            "drop-not-null",
            statement,
            Some(table),
            format!("{table}.{column} may be null from now on"),
            "first a release that expects nulls there, then this migration with a -- dm:ignore that says so",
        ),
        Action::DropConstraint { constraint } => {
            let known = view.before.get(number).and_then(|h| h.referenced_by(table, constraint));
            if known.is_some() || is_called_a_foreign_key(constraint) {
                findings.add(
                    "drop-foreign-key",
                    statement,
                    Some(table),
                    format!("nothing keeps {table} from referring to missing rows of {}", known.unwrap_or("the other table")),
                    "keep it; when it is in the way of a change, drop it in a migration of its own with a short lock_timeout",
                );
            }
        }
        Action::DetachPartition { partition, concurrently: false } => findings.add(
            "detach-not-concurrent",
            statement,
            Some(table),
            format!("everybody who uses {table} waits while {partition} is detached"),
            format!("-- no-transaction\nALTER TABLE {table} DETACH PARTITION {partition} CONCURRENTLY;"),
        ),
        _ => {}
    }
}

/// Constraints that no file made are told by what the server calls them.
fn is_called_a_foreign_key(name: &str) -> bool {
    name.ends_with("_fkey") || name.ends_with("_fk") || name.starts_with("fk_")
}
