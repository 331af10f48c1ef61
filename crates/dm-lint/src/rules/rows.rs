//! Statements on rows.

use crate::lint::{Findings, View};
use crate::model::Kind;

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (number, statement) in view.each() {
        let (table, verb) = match &statement.kind {
            Kind::Update { table, bounded: false } => (table, "changed"),
            Kind::Delete { table, bounded: false } => (table, "deleted"),
            _ => continue,
        };
        if view.is_new(table, number) {
            continue;
        }
        findings.add(
            "unbatched-backfill",
            statement,
            Some(table),
            format!("nothing bounds how many rows of {table} are {verb} at once"),
            match verb {
                "changed" => format!(
                    "dm migrate backfill <name> --table {table} --set \"<column> = <value>\" --where \"<condition>\"  -- in portions, which can be interrupted"
                ),
                _ => format!(
                    "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE <condition> LIMIT 10000);  -- again until none is left"
                ),
            },
        );
    }
}
