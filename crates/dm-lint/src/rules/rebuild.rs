//! SQLite: tables that are made anew, and the pragma that people use for it.

use crate::lint::{Findings, View};
use crate::model::{Action, Kind};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    pragma(view, findings);
    for (number, statement) in view.each() {
        let Kind::DropTable { names } = &statement.kind else { continue };
        for dropped in names.iter().filter(|name| is_rebuilt(view, number, name)) {
            let Some(before) = view.before.get(number) else { continue };
            let kept: Vec<&str> = view.after.indexes_of(dropped).collect();
            // Those of PRIMARY KEY and UNIQUE come with the new table's definition.
            let implied = |index: &str| index == format!("{dropped}_pkey") || index.ends_with("_key");
            let lost: Vec<&str> =
                before.indexes_of(dropped).filter(|i| !kept.contains(i) && !implied(i)).collect();
            if !lost.is_empty() {
                findings.add(
                    "rebuild-loses-indexes",
                    statement,
                    Some(dropped),
                    format!("{} of {dropped} {} not made again", lost.join(", "), is_are(&lost)),
                    format!(
                        "CREATE INDEX {} ON {dropped} (…);  -- after the renaming",
                        lost.first().unwrap_or(&"")
                    ),
                );
            }
            let kept: Vec<&str> = view.after.triggers_of(dropped).collect();
            let lost: Vec<&str> = before.triggers_of(dropped).filter(|t| !kept.contains(t)).collect();
            if !lost.is_empty() {
                findings.add(
                    "rebuild-loses-triggers",
                    statement,
                    Some(dropped),
                    format!("{} of {dropped} {} not made again", lost.join(", "), is_are(&lost)),
                    format!("CREATE TRIGGER {} …;  -- after the renaming", lost.first().unwrap_or(&"")),
                );
            }
        }
    }
}

fn is_are(names: &[&str]) -> &'static str {
    if names.len() == 1 { "is" } else { "are" }
}

/// Whether another table takes the name later in the file.
fn is_rebuilt(view: &View<'_>, number: usize, dropped: &str) -> bool {
    view.statements.iter().skip(number).any(|s| {
        matches!(&s.kind, Kind::AlterTable { actions, .. }
            if actions.iter().any(|a| matches!(a, Action::RenameTable { to } if to == dropped)))
    })
}

fn pragma(view: &View<'_>, findings: &mut Findings<'_>) {
    for (number, statement) in view.each() {
        if matches!(&statement.kind, Kind::Pragma { name, assigns: true } if name == "foreign_keys")
            && view.in_transaction(number)
        {
            findings.add(
                "foreign-keys-in-transaction",
                statement,
                None,
                "the pragma does nothing here",
                "put -- no-transaction in the first line, and BEGIN and COMMIT between PRAGMA foreign_keys = off and = on; \
                 or use PRAGMA defer_foreign_keys = on, which works inside a transaction",
            );
        }
    }
}
