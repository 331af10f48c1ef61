//! What a restore is measured by, and what differs.

use std::collections::HashSet;

use dm_core::{Comparison, Destination, Level, RestoreManifest, RestorePreview, RestoreRequest, TableFacts};

/// The facts to compare with: of all tables, or of those that are restored. Of one tenant out of more there are none: the
/// engine compares the rows that it chose with those that it read.
pub(super) fn expected_tables(
    manifest: &RestoreManifest,
    preview: &RestorePreview,
    request: &RestoreRequest,
) -> Vec<TableFacts> {
    let all_of_it = matches!(request.destination, Destination::New(_))
        && manifest.source.tenant().is_ok_and(|tenant| tenant == request.tenant);
    if request.tenant.is_some() && !all_of_it {
        return Vec::new();
    }
    let restored: HashSet<&str> = preview
        .members
        .iter()
        .filter_map(|i| manifest.members.get(*i))
        .filter_map(|(spec, _)| spec.table.as_deref())
        .collect();
    let wanted = |facts: &&TableFacts| request.tables.is_empty() || restored.contains(facts.table.as_str());
    manifest.tables.iter().filter(wanted).cloned().collect()
}

/// Whether everything that was expected was compared, and agrees.
pub(super) fn is_proven(comparison: &Comparison, expected: &[TableFacts]) -> bool {
    comparison.is_proven() && missing(comparison, expected).next().is_none()
}

/// Expected tables that the comparison says nothing of.
fn missing<'a>(comparison: &'a Comparison, expected: &'a [TableFacts]) -> impl Iterator<Item = &'a str> {
    let compared = |facts: &TableFacts| comparison.tables.iter().any(|t| t.expected == *facts);
    expected.iter().filter(move |f| !compared(f)).map(|f| f.table.as_str())
}

/// What differs, the first few.
pub(super) fn differences(comparison: &Comparison, expected: &[TableFacts]) -> String {
    let tables = comparison.tables.iter().filter(|t| !t.equal).map(|t| match &t.found {
        None => format!("{} is missing", t.expected.table),
        Some(found) if found.rows != t.expected.rows => {
            format!("{} has {} rows instead of {}", t.expected.table, found.rows, t.expected.rows)
        }
        Some(_) => format!("{} has other contents", t.expected.table),
    });
    let untold = missing(comparison, expected).map(|table| format!("{table} was not compared"));
    let checks = comparison.checks.iter().filter(|c| c.level == Level::Error).map(|c| c.message.clone());
    let mut all: Vec<String> = tables.chain(untold).chain(checks).collect();
    let number = all.len();
    all.truncate(3);
    let more = if number > 3 { format!(" and {} more", number - 3) } else { String::new() };
    format!("the restored data is not what was backed up: {}{more}", all.join("; "))
}
