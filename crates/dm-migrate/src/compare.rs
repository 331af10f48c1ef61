//! Files against history: what is applied, what is pending, what is wrong.

use chrono::{DateTime, Utc};
use dm_core::{Direction, Finding, ForeignEntry, ForeignTool, HistoryEntry, MigrationState};
use serde::Serialize;

use crate::checksum::Checksums;
use crate::files::{MigrationFiles, MigrationScript};
use crate::problem::{Problem, ProblemKind};

/// Where a migration stands, of files and history together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is applied.
    Applied,
    /// It will be applied next.
    Pending,
    /// It was undone, and will be applied next.
    RolledBack,
    /// It failed and left nothing; it will be tried again.
    Failed,
    /// It is begun and not at its end.
    Unfinished,
}

/// One migration of files, history, or both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MigrationStatus {
    /// Its version.
    pub version: i64,
    /// Its description.
    pub description: String,
    /// Where it stands.
    pub standing: Standing,
    /// Its file, unless that is missing.
    pub file: Option<String>,
    /// Whether there is a way back.
    pub reversible: bool,
    /// Whether it runs as one transaction.
    pub transaction: bool,
    /// When its state was reached.
    pub applied_at: Option<DateTime<Utc>>,
    /// Who did it.
    pub applied_by: Option<String>,
    /// How long it took.
    pub execution_time_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Why its state was declared, or which tool reached it.
    pub remark: Option<String>,
    /// The checksum of its bytes: the file's, or else the history's.
    pub checksum: String,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    /// Where the files come from.
    pub origin: String,
    /// The history's table.
    pub table: String,
    /// Every migration, in the order of versions.
    pub migrations: Vec<MigrationStatus>,
    /// What is wrong; nothing is applied before it is mended.
    pub problems: Vec<Problem>,
    /// What dead runs left in the database.
    pub leftovers: Vec<Finding>,
}

impl StatusReport {
    /// The versions that `up` would apply.
    pub fn pending(&self) -> impl Iterator<Item = &MigrationStatus> {
        use Standing::{Failed, Pending, RolledBack};
        self.migrations.iter().filter(|m| matches!(m.standing, Pending | RolledBack | Failed))
    }

    /// The newest version that is applied.
    #[must_use]
    pub fn newest_applied(&self) -> Option<i64> {
        self.migrations.iter().filter(|m| m.standing == Standing::Applied).map(|m| m.version).max()
    }

    /// Whether everything is applied and nothing is wrong.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.problems.is_empty() && self.leftovers.is_empty() && self.pending().next().is_none()
    }
}

/// Compares.
pub(crate) fn compare(
    files: &MigrationFiles,
    history: &[HistoryEntry],
    table: &str,
    out_of_order: bool,
) -> StatusReport {
    let mut problems = files.problems.clone();
    let newest = history.iter().filter(|h| h.state == MigrationState::Applied).map(|h| h.version).max();
    let mut migrations: Vec<MigrationStatus> = Vec::new();
    for file in &files.migrations {
        let recorded = history.iter().find(|h| h.version == file.version);
        let standing = recorded.map_or(Standing::Pending, standing);
        problems.extend(wrong(file, recorded, standing));
        if matches!(standing, Standing::Pending | Standing::Failed | Standing::RolledBack)
            && let Some(newest) = newest.filter(|newest| *newest > file.version)
            && !out_of_order
        {
            let message = format!(
                "{} is out of order: version {} is pending, and the newer {newest} is applied already",
                file.up.file, file.version
            );
            let mend =
                "give it a version after the newest, or apply it all the same with \"up --out-of-order\"";
            let problem = Problem::new(ProblemKind::OutOfOrder, message, mend);
            problems.push(problem.of(file.version).in_file(file.up.file.clone()));
        }
        migrations.push(status(file, recorded, standing));
    }
    for entry in history.iter().filter(|h| files.get(h.version).is_none()) {
        let standing = standing(entry);
        if standing == Standing::RolledBack || standing == Standing::Failed {
            // Undone, or never done, and its file is gone: a thing of the past.
            continue;
        }
        // Its file is there and cannot be read: one problem is enough.
        if !files.problems.iter().any(|p| p.version == Some(entry.version)) {
            let message = format!(
                "the file of version {} ({}) is missing, and the database has it applied",
                entry.version, entry.description
            );
            let mend = "bring the file back (the history's column migration_sql has its text), or declare it undone with \
                        \"resolve --rolled-back\"";
            problems.push(Problem::new(ProblemKind::Missing, message, mend).of(entry.version));
        }
        migrations.push(MigrationStatus {
            version: entry.version,
            description: entry.description.clone(),
            standing,
            file: None,
            reversible: entry.rollback_sql.is_some(),
            transaction: true,
            applied_at: Some(entry.applied_at),
            applied_by: Some(entry.applied_by.clone()),
            execution_time_ms: Some(entry.execution_time_ms),
            error: entry.error.clone(),
            remark: entry.remark.clone(),
            checksum: entry.checksum.clone(),
        });
    }
    migrations.sort_by_key(|m| m.version);
    StatusReport {
        origin: files.origin.clone(),
        table: table.to_owned(),
        migrations,
        problems,
        leftovers: Vec::new(),
    }
}

pub(crate) fn standing(entry: &HistoryEntry) -> Standing {
    let begun = entry.finished > 0 || entry.started.is_some();
    match entry.state {
        MigrationState::Applied => Standing::Applied,
        MigrationState::RolledBack => Standing::RolledBack,
        MigrationState::Failed if !begun => Standing::Failed,
        MigrationState::Running | MigrationState::Failed => Standing::Unfinished,
    }
}

fn status(file: &MigrationScript, recorded: Option<&HistoryEntry>, standing: Standing) -> MigrationStatus {
    MigrationStatus {
        version: file.version,
        description: file.description.clone(),
        standing,
        file: Some(file.up.file.clone()),
        reversible: file.down.is_some(),
        transaction: !file.up.no_transaction,
        applied_at: recorded.map(|h| h.applied_at),
        applied_by: recorded.map(|h| h.applied_by.clone()),
        execution_time_ms: recorded.map(|h| h.execution_time_ms),
        error: recorded.and_then(|h| h.error.clone()),
        remark: recorded.and_then(|h| h.remark.clone()),
        checksum: file.up.checksums.bytes.clone(),
    }
}

/// Whether a file is the one that was applied.
pub(crate) fn is_same(file: &MigrationScript, entry: &HistoryEntry) -> bool {
    match entry.text_checksum.is_empty() {
        false => entry.text_checksum == file.up.checksums.text,
        // Another tool's record: of bytes, or of nothing that can be compared.
        true => entry.checksum.len() != 96 || Checksums::is_of(&entry.checksum, &file.up.text),
    }
}

fn wrong(file: &MigrationScript, recorded: Option<&HistoryEntry>, standing: Standing) -> Option<Problem> {
    let entry = recorded?;
    let name = &file.up.file;
    let problem = match standing {
        Standing::Applied if !is_same(file, entry) => Problem::new(
            ProblemKind::Edited,
            format!("{name} was edited after it was applied on {}", entry.applied_at.format("%Y-%m-%d")),
            "take the edit back and write it as a new migration (the history's column migration_sql has the text as applied)",
        ),
        Standing::Unfinished => {
            let doing = if entry.direction == Direction::Up { "applying" } else { "undoing" };
            let done = entry.finished;
            match entry.state {
                MigrationState::Running => Problem::new(
                    ProblemKind::Unfinished,
                    format!("{doing} {name} ended in the middle: {done} of its statements are done"),
                    "go on with \"dm migrate resume\" (unless a runner is at it just now)",
                ),
                _ => Problem::new(
                    ProblemKind::HalfDone,
                    format!(
                        "{doing} {name} failed after {done} of its statements, which stay done: {}",
                        entry.error.as_deref().unwrap_or("no reason is on record")
                    ),
                    "mend the cause or the statements that are not done, then \"dm migrate resume\"",
                ),
            }
        }
        _ => return None,
    };
    Some(problem.of(file.version).in_file(name.clone()))
}

/// What another tool's history adds to this one, and what stands against it. With `all`, this history is compared in full: a
/// version that the other tool does not have any more was undone by it.
pub(crate) fn adopt(
    files: &MigrationFiles,
    history: &[HistoryEntry],
    foreign: &[ForeignEntry],
    tool: ForeignTool,
    now: DateTime<Utc>,
    all: bool,
) -> (Vec<HistoryEntry>, Vec<Problem>) {
    let mut adopted = Vec::new();
    let mut problems = Vec::new();
    for entry in foreign {
        let known = history.iter().find(|h| h.version == entry.version);
        if known.is_some_and(|h| h.state != MigrationState::RolledBack && h.state != MigrationState::Failed) {
            continue;
        }
        let name = tool.as_str();
        if !entry.success {
            let message = format!("{name} has version {} on record as failed in the middle", entry.version);
            let mend = "look what of it is done, bring the database into one of the two states, and then \"dm migrate resolve\"";
            problems.push(Problem::new(ProblemKind::Dirty, message, mend).of(entry.version));
            continue;
        }
        let file = files.get(entry.version);
        let same =
            file.is_some_and(|f| tool != ForeignTool::Sqlx || Checksums::is_of(&entry.checksum, &f.up.text));
        let up = file.filter(|_| same).map(|f| &f.up);
        adopted.push(HistoryEntry {
            version: entry.version,
            description: entry.description.clone(),
            state: MigrationState::Applied,
            checksum: match (tool, up) {
                (ForeignTool::Sqlx, _) => entry.checksum.clone(),
                (_, Some(up)) => up.checksums.bytes.clone(),
                _ => entry.checksum.clone(),
            },
            text_checksum: up.map(|s| s.checksums.text.clone()).unwrap_or_default(),
            migration_sql: up.map(|s| s.text.clone()).unwrap_or_default(),
            rollback_sql: file.filter(|_| same).and_then(|f| f.down.as_ref()).map(|s| s.text.clone()),
            applied_at: entry.applied_at.unwrap_or(now),
            applied_by: name.to_owned(),
            execution_time_ms: entry.execution_time_ms.unwrap_or_default(),
            direction: Direction::Up,
            finished: 0,
            started: None,
            error: None,
            remark: Some(format!("applied by {name}")),
        });
    }
    if all {
        let undone = history.iter().filter(|h| {
            h.state == MigrationState::Applied && !foreign.iter().any(|f| f.version == h.version)
        });
        adopted.extend(undone.map(|h| HistoryEntry {
            state: MigrationState::RolledBack,
            direction: Direction::Down,
            applied_at: now,
            applied_by: tool.as_str().to_owned(),
            remark: Some(format!("undone by {}", tool.as_str())),
            ..h.clone()
        }));
    }
    (adopted, problems)
}
