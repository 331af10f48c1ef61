//! Exit codes: what a script can rely on.

use std::ffi::OsString;
use std::process::ExitCode;

use data_manager::{Error, ErrorKind};

use crate::Program;

/// How the program ended. The numbers are a contract; see docs/cli.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A confirmation is needed, and nobody gave it. Nothing was changed.
    ConfirmationNeeded = 3,
    /// The thing named does not exist.
    NotFound = 4,
    /// The other side could not be reached.
    Unreachable = 5,
    /// The other side, or the access rules, refused.
    Denied = 6,
    /// Stopped by a person or by the system.
    Interrupted = 7,
    /// Some parts were done, others were not.
    Partial = 8,
    /// A check ran and found problems.
    CheckFailed = 9,
    /// A file of the log could not be fetched, for whatever reason but that it is not there. A server that recovers stops at
    /// a code above 128; a smaller one it would take for the end of the log, and open short of its data.
    NotFetched = 129,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The exit that an error of this kind leads to.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Invalid => Self::Usage,
            ErrorKind::ConfirmationNeeded => Self::ConfirmationNeeded,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Partial => Self::Partial,
            ErrorKind::CheckFailed => Self::CheckFailed,
            _ => Self::Failed,
        }
    }
}

/// Whether a command line asks for a file of the log, or was meant to. Looked at before anything is understood: one that
/// is misspelt must not end with a code that a server takes for the end of its log.
pub(crate) fn fetches(program: Program, line: &[OsString]) -> bool {
    let mut words = line.iter().skip(1).filter_map(|word| word.to_str());
    let is_log = match program {
        Program::Task(task) => task == "log",
        Program::All => words.clone().find(|word| !word.starts_with('-')) == Some("log"),
    };
    is_log || words.any(|word| word == "fetch")
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
