//! The proof of a restore: SQLite's own checks, and the tables' facts against those of the backup.

use std::path::Path;

use dm_core::{Error, ErrorKind, Finding, Level, Result, TableComparison, TableFacts};
use rusqlite::Connection;

use crate::connect;
use crate::error::sqlite;
use crate::facts::Frozen;
use crate::preflight::from_error;
use crate::schema;

/// The most lines of a check that are reported one by one.
const MOST_LINES: usize = 100;

/// Compares the tables. With `whole`, a table that the backup does not name is a finding too.
pub(super) fn tables(
    path: &Path,
    expected: &[TableFacts],
    key: [u8; 32],
    whole: bool,
    threads: usize,
) -> Result<(Vec<TableComparison>, Vec<Finding>)> {
    let frozen = Frozen::open(path, threads)?;
    let mut findings = Vec::new();
    let mut compared = Vec::with_capacity(expected.len());
    for expected in expected {
        let found = match found(&frozen, expected, key) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::Interrupted || e.kind() == ErrorKind::Timeout => return Err(e),
            // Damage is a difference, not the end of the comparison.
            Err(e) => {
                findings.push(from_error("rows", &e.about(expected.table.clone())));
                None
            }
        };
        let equal = found.as_ref().is_some_and(|found| agree(found, expected));
        compared.push(TableComparison { expected: expected.clone(), found, equal });
    }
    if whole {
        match schema::tables(frozen.connection(), "main") {
            Ok((found, _)) => {
                for table in found.iter().filter(|t| !expected.iter().any(|e| e.table == t.name)) {
                    findings.push(Finding::new(
                        Level::Warning,
                        "unexpected_table",
                        format!("{} is in the database, the backup recorded nothing of it", table.name),
                    ));
                }
            }
            Err(e) => findings.push(from_error("schema", &e)),
        }
    }
    Ok((compared, findings))
}

/// What is there. SQLite has the last word on a table that differs.
fn found(frozen: &Frozen, expected: &TableFacts, key: [u8; 32]) -> Result<Option<TableFacts>> {
    let key = expected.digest.map(|_| key);
    match frozen.one(&expected.table, key)? {
        Some(found) if agree(&found, expected) => Ok(Some(found)),
        _ => frozen.by_sqlite(&expected.table, key),
    }
}

fn agree(found: &TableFacts, expected: &TableFacts) -> bool {
    found.rows == expected.rows && found.digest == expected.digest
}

/// Runs `integrity_check` and `foreign_key_check`.
pub(super) fn checks(path: &Path) -> Result<Vec<Finding>> {
    let connection = connect::immutable(path)?;
    let mut findings = Vec::new();
    integrity(&connection, &mut findings)?;
    foreign_keys(&connection, &mut findings)?;
    Ok(findings)
}

fn stops(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Timeout)
}

fn integrity(connection: &Connection, findings: &mut Vec<Finding>) -> Result<()> {
    match lines(connection, "integrity_check") {
        Ok(lines) => report("integrity_check", lines, findings),
        Err(e) if stops(&e) => return Err(e),
        // A collation or function of the application's own is missing here; the lighter check needs fewer of them.
        Err(e) if e.kind() == ErrorKind::Invalid => match lines(connection, "quick_check") {
            Ok(lines) => {
                report("quick_check", lines, findings);
                findings.push(incomplete("integrity_check", &e));
            }
            Err(again) if stops(&again) => return Err(again),
            Err(again) if again.kind() == ErrorKind::Invalid => {
                findings.push(incomplete("quick_check", &again));
            }
            Err(again) => findings.push(from_error("quick_check", &again)),
        },
        Err(e) => findings.push(from_error("integrity_check", &e)),
    }
    Ok(())
}

fn incomplete(check: &str, error: &Error) -> Finding {
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Finding::new(Level::Warning, check, format!("could not be run here: {why}"))
        .with_mend("run it from the application, which has its own functions and collations")
}

fn lines(connection: &Connection, pragma: &str) -> Result<Vec<String>> {
    let mut prepared = connection.prepare(&format!("PRAGMA {pragma}({MOST_LINES})")).map_err(sqlite)?;
    let lines = prepared.query_map([], |row| row.get(0)).map_err(sqlite)?;
    lines.collect::<rusqlite::Result<_>>().map_err(sqlite)
}

fn report(check: &str, lines: Vec<String>, findings: &mut Vec<Finding>) {
    if lines.len() == 1 && lines[0] == "ok" {
        findings.push(Finding::new(Level::Ok, check, "ok"));
        return;
    }
    for line in lines {
        findings.push(
            Finding::new(Level::Error, check, line).with_mend("restore another backup, and verify this one"),
        );
    }
}

fn foreign_keys(connection: &Connection, findings: &mut Vec<Finding>) -> Result<()> {
    let violations = || -> Result<Vec<(String, String, u64)>> {
        let mut prepared = connection.prepare("PRAGMA foreign_key_check").map_err(sqlite)?;
        let mut rows = prepared.raw_query();
        let mut by_pair: Vec<(String, String, u64)> = Vec::new();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (child, parent): (String, String) =
                (row.get(0).map_err(sqlite)?, row.get(2).map_err(sqlite)?);
            match by_pair.iter_mut().find(|(c, p, _)| *c == child && *p == parent) {
                Some(pair) => pair.2 += 1,
                None => by_pair.push((child, parent, 1)),
            }
        }
        Ok(by_pair)
    };
    match violations() {
        Ok(pairs) if pairs.is_empty() => findings.push(Finding::new(Level::Ok, "foreign_key_check", "ok")),
        // The backup shows the database as it was; it was so before.
        Ok(pairs) => findings.extend(pairs.into_iter().map(|(child, parent, rows)| {
            Finding::new(
                Level::Warning,
                "foreign_key_check",
                format!("{rows} rows of {child} point at rows of {parent} that do not exist"),
            )
        })),
        Err(e) if stops(&e) => return Err(e),
        Err(e) if e.kind() == ErrorKind::Invalid => findings.push(incomplete("foreign_key_check", &e)),
        Err(e) => findings.push(from_error("foreign_key_check", &e)),
    }
    Ok(())
}
