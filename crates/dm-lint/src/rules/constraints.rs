//! Constraints on tables that have rows.

use std::collections::BTreeSet;

use crate::lint::{Findings, View};
use crate::model::{Action, Constraint, ConstraintKind, Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    let mut added_here: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (number, statement) in view.each() {
        if matches!(statement.kind, Kind::Commit | Kind::Rollback) || !view.in_transaction(number) {
            added_here.clear();
        }
        let Kind::AlterTable { table, actions } = &statement.kind else { continue };
        if view.is_new(table, number) {
            continue;
        }
        for action in actions {
            match action {
                Action::AddConstraint(constraint) => {
                    if let Some(name) = &constraint.name {
                        added_here.insert((table, name));
                    }
                    added(statement, table, constraint, findings);
                }
                Action::Validate { constraint }
                    if added_here.contains(&(table.as_str(), constraint.as_str())) =>
                {
                    findings.add(
                        "validate-in-same-transaction",
                        statement,
                        Some(table),
                        format!("{constraint} was added in this transaction, whose lock is still held"),
                        format!(
                            "ALTER TABLE {table} VALIDATE CONSTRAINT {constraint};  -- in the next migration"
                        ),
                    );
                }
                Action::SetNotNull { column }
                    if !view.before.get(number).is_some_and(|h| h.is_kept_from_null(table, column)) =>
                {
                    findings.add(
                        "set-not-null",
                        statement,
                        Some(table),
                        format!("every row of {table} is looked at under a lock that stops readers"),
                        format!(
                            "ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_set CHECK ({column} IS NOT NULL) NOT VALID;\n\
                             -- the next migration, which stops nobody:\n\
                             ALTER TABLE {table} VALIDATE CONSTRAINT {table}_{column}_set;\n\
                             -- and the one after, which looks at no row:\n\
                             ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL, DROP CONSTRAINT {table}_{column}_set;"
                        ),
                    );
                }
                _ => {}
            }
        }
    }
}

fn added(statement: &Statement, table: &str, constraint: &Constraint, findings: &mut Findings<'_>) {
    let name = |fallback: String| constraint.name.clone().unwrap_or(fallback);
    let in_two = |name: &str, definition: String| {
        format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID;\n\
             -- in the next migration, which stops nobody:\nALTER TABLE {table} VALIDATE CONSTRAINT {name};"
        )
    };
    match &constraint.kind {
        ConstraintKind::ForeignKey { columns, references } if !constraint.not_valid => {
            let list = columns.join(", ");
            findings.add(
                "foreign-key-validates",
                statement,
                Some(table),
                format!("{table} and {references} refuse writes while every row is checked"),
                in_two(
                    &name(format!("{table}_{}_fkey", columns.join("_"))),
                    format!("FOREIGN KEY ({list}) REFERENCES {references}"),
                ),
            );
        }
        ConstraintKind::Check { text, .. } if !constraint.not_valid => findings.add(
            "check-validates",
            statement,
            Some(table),
            format!("every row of {table} is checked under a lock that stops readers"),
            in_two(&name(format!("{table}_check")), format!("CHECK ({text})")),
        ),
        ConstraintKind::NotNull { column } if !constraint.not_valid => findings.add(
            "set-not-null",
            statement,
            Some(table),
            format!("every row of {table} is looked at under a lock that stops readers"),
            in_two(&name(format!("{table}_{column}_not_null")), format!("NOT NULL {column}")),
        ),
        ConstraintKind::Unique { columns, using_index: false } => findings.add(
            "unique-without-index",
            statement,
            Some(table),
            format!("{table} is locked against everybody while the index is built"),
            prebuilt(table, &name(format!("{table}_{}_key", columns.join("_"))), "UNIQUE", columns),
        ),
        ConstraintKind::PrimaryKey { columns, using_index: false } => findings.add(
            "primary-key-without-index",
            statement,
            Some(table),
            format!("{table} is locked against everybody while the index is built"),
            prebuilt(table, &name(format!("{table}_pkey")), "PRIMARY KEY", columns),
        ),
        ConstraintKind::Exclusion => findings.add(
            "exclusion-constraint",
            statement,
            Some(table),
            format!("{table} is locked against everybody while every row is compared"),
            "make a new table with the constraint, fill it in portions, and swap the two by renaming; or do it in a maintenance window",
        ),
        _ => {}
    }
}

fn prebuilt(table: &str, name: &str, constraint: &str, columns: &[String]) -> String {
    format!(
        "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({});\n\
         -- in the next migration:\nALTER TABLE {table} ADD CONSTRAINT {name} {constraint} USING INDEX {name};",
        columns.join(", ")
    )
}
