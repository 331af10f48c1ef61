//! The rules. Each has a name, which `-- dm:ignore` uses and which therefore never changes, a reason, and a way out.

mod catalogue;
mod columns;
mod constraints;
mod indexes;
mod personal;
mod rebuild;
mod removals;
mod rows;
mod transactions;
mod types;

use crate::finding::{Dialect, Severity};
use crate::lint::{Findings, View};

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, for good.
    pub name: &'static str,
    /// How much a finding of it matters, on a table that is not known to be small.
    pub severity: Severity,
    /// A finding on a small table is a notice: the rule is about time.
    pub weighed: bool,
    /// It cannot be ignored.
    pub always: bool,
    /// Where it applies.
    pub dialects: &'static [Dialect],
    /// What it finds, in a few words.
    pub summary: &'static str,
    /// Why that matters.
    pub why: &'static str,
}

/// All rules, in the order of their topics.
#[must_use]
pub fn rules() -> &'static [Rule] {
    catalogue::RULES
}

pub(crate) fn named(name: &str) -> Option<&'static Rule> {
    catalogue::RULES.iter().find(|r| r.name == name)
}

/// ` (did you mean …?)`, when a rule is called nearly so.
pub(crate) fn nearest(name: &str) -> String {
    let distance = |rule: &&Rule| strsim::damerau_levenshtein(rule.name, name);
    match catalogue::RULES.iter().filter(|r| !r.always).min_by_key(distance) {
        Some(rule) if distance(&rule) <= 4 => format!(" (did you mean {}?)", rule.name),
        _ => " (`dm migrate lint --rules` lists them)".to_owned(),
    }
}

/// Runs all that apply.
pub(crate) fn run(view: &View<'_>, findings: &mut Findings<'_>) {
    transactions::check(view, findings);
    removals::check(view, findings);
    columns::check(view, findings);
    personal::check(view, findings);
    match view.dialect {
        Dialect::Postgres => {
            indexes::check(view, findings);
            constraints::check(view, findings);
            types::check(view, findings);
            rows::check(view, findings);
        }
        Dialect::Sqlite => rebuild::check(view, findings),
    }
    indexes::foreign_keys(view, findings);
}

/// What usually stands behind a syntax error at this place.
pub(crate) fn syntax_hint(dialect: Dialect, text: &str, offset: usize) -> String {
    let rest = text.get(offset..).unwrap_or_default();
    let before = text.get(..offset).unwrap_or_default().trim_end();
    let line = rest.lines().next().unwrap_or_default();
    if rest.trim_start().starts_with('\\') {
        "backslash commands belong to psql; a migration has SQL alone".to_owned()
    } else if before.ends_with(',') && rest.trim_start().starts_with(')')
        || rest.strip_prefix(',').is_some_and(|after| after.trim_start().starts_with(')'))
    {
        "remove the comma before the closing parenthesis".to_owned()
    } else if dialect == Dialect::Postgres && line.contains('`') {
        "PostgreSQL quotes names with double quotes, not with backticks".to_owned()
    } else if dialect == Dialect::Postgres && line.to_lowercase().contains("autoincrement") {
        "PostgreSQL has GENERATED ALWAYS AS IDENTITY instead of AUTOINCREMENT".to_owned()
    } else if dialect == Dialect::Sqlite && changes_a_column(before, rest) {
        "SQLite changes a column by making the table anew: https://www.sqlite.org/lang_altertable.html#otheralter".to_owned()
    } else if rest.trim().is_empty() {
        "the file ends in the middle of a statement: look for a missing parenthesis or quote above".to_owned()
    } else {
        "look at this place and the line above: often it is a missing comma, parenthesis or semicolon"
            .to_owned()
    }
}

/// Whether the place is behind `ALTER TABLE … ALTER COLUMN`.
fn changes_a_column(before: &str, rest: &str) -> bool {
    let line = before.rsplit(';').next().unwrap_or_default().to_lowercase();
    line.trim_start().starts_with("alter table")
        && (line.contains(" alter")
            || rest.to_lowercase().starts_with("alter")
            || rest.to_lowercase().starts_with("modify"))
}
