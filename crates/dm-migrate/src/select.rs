//! Which migrations a run is about.

use dm_core::{Error, HistoryEntry, MigrationState, Result};
use serde::Serialize;

use crate::compare::StatusReport;
use crate::files::{MigrationFiles, Script};

/// How far to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Forward: everything. Back: the last one.
    #[default]
    Usual,
    /// So many migrations.
    Steps(usize),
    /// Forward up to and with this version; back until this version is the newest (0: everything).
    To(i64),
}

/// The versions that going forward applies.
pub(crate) fn forward(report: &StatusReport, goal: Goal) -> Result<Vec<i64>> {
    let pending = report.pending().map(|m| m.version);
    Ok(match goal {
        Goal::Usual => pending.collect(),
        Goal::Steps(steps) => pending.take(steps).collect(),
        Goal::To(to) => {
            known(report, to)?;
            pending.filter(|v| *v <= to).collect()
        }
    })
}

/// The versions that going back undoes, newest first, with their scripts. Fails before anything runs when one has none.
pub(crate) fn back(
    comment: &str,
    report: &StatusReport,
    files: &MigrationFiles,
    history: &[HistoryEntry],
    goal: Goal,
) -> Result<Vec<(i64, Script)>> {
    let applied = history.iter().rev().filter(|h| h.state == MigrationState::Applied);
    let chosen: Vec<&HistoryEntry> = match goal {
        Goal::Usual => applied.take(1).collect(),
        Goal::Steps(steps) => applied.take(steps).collect(),
        Goal::To(to) => {
            if to != 0 {
                known(report, to)?;
            }
            applied.filter(|h| h.version > to).collect()
        }
    };
    let mut scripts = Vec::new();
    let mut lacking = Vec::new();
    for entry in chosen {
        let file = files.get(entry.version).and_then(|m| m.down.clone());
        // The file may be gone; the history keeps what it said when the migration was applied.
        let recorded =
            || entry.rollback_sql.clone().map(|text| Script::recorded(entry.version, text, comment));
        match file.or_else(recorded) {
            Some(script) => scripts.push((entry.version, script)),
            None => lacking.push(format!("{} ({})", entry.version, entry.description)),
        }
    }
    match lacking.is_empty() {
        true => Ok(scripts),
        false => Err(Error::unsupported(format!(
            "there is no down script for {}; nothing was undone",
            lacking.join(", ")
        ))
        .with_hint("write <version>_<description>.down.sql beside the migration, or restore a backup")),
    }
}

fn known(report: &StatusReport, version: i64) -> Result<()> {
    match report.migrations.iter().any(|m| m.version == version) {
        true => Ok(()),
        false => Err(Error::not_found(format!("there is no migration of version {version}"))
            .with_hint("\"dm migrate status\" lists them")),
    }
}
