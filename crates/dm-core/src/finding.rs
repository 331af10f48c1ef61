//! What a check found, with the mend.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// Works, but will bite.
    Warning,
    /// Does not work.
    Error,
}

/// One line of a preflight, a doctor's page or a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at, a short stable name: `client_tools`, `disk_space`.
    pub check: String,
    /// What was found, one sentence.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mend: Option<String>,
}

impl Finding {
    /// A finding without a mend.
    pub fn new(level: Level, check: impl Into<String>, message: impl Into<String>) -> Self {
        Self { level, check: check.into(), message: message.into(), mend: None }
    }

    /// The same with its mend.
    #[must_use]
    pub fn with_mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}
