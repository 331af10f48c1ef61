//! What can be wrong between files and history: told apart, because each has another mend.

use dm_core::{Error, ErrorKind, Result};
use serde::Serialize;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// A file's name cannot be read.
    BadName,
    /// A file cannot be read as text.
    NotText,
    /// A file has no statement.
    Empty,
    /// The engine's lexer does not get to the end of a file, or its transactions cannot be kept together.
    BadScript,
    /// Two files have one version.
    Duplicate,
    /// There is a down script without the migration.
    DownAlone,
    /// An applied migration's file is another one now.
    Edited,
    /// An applied migration's file is not there.
    Missing,
    /// A new migration is older than the newest that was applied.
    OutOfOrder,
    /// A runner died in the middle of a migration.
    Unfinished,
    /// A migration failed in the middle, with statements that stay done.
    HalfDone,
    /// Another tool's history has a migration that failed.
    Dirty,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What.
    pub kind: ProblemKind,
    /// Of which version.
    pub version: Option<i64>,
    /// In which file.
    pub file: Option<String>,
    /// In one sentence.
    pub message: String,
    /// The way out.
    pub mend: String,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { kind, version: None, file: None, message: message.into(), mend: mend.into() }
    }

    pub(crate) fn of(mut self, version: i64) -> Self {
        self.version = Some(version);
        self
    }

    pub(crate) fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }
}

/// The first problem as an error, with the number of the others.
pub(crate) fn refuse(problems: &[Problem]) -> Result<()> {
    let Some(first) = problems.first() else { return Ok(()) };
    let more = match problems.len() {
        1 => String::new(),
        n => format!(" (and {} more; \"dm migrate status\" lists them)", n - 1),
    };
    Err(Error::new(ErrorKind::Conflict, format!("{}{more}", first.message)).with_hint(first.mend.clone()))
}
