//! Exit codes: what a script can rely on.

use std::process::ExitCode;

use data_manager::{Error, ErrorKind};

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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
