//! What a test does when a server it needs is not there: it skips loudly, and under `CI=true` it fails.
//!
//! A skip is told apart from a defect: a program that is *missing* skips, a program that is there but does not start
//! fails the test everywhere.

use std::fmt;
use std::io::Write as _;

/// Why a server or a program cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not installed; the text names it and how it would get here.
    Missing(String),
    /// It is installed and does not work; the text holds what it said.
    Broken(String),
}

impl Unavailable {
    pub(crate) fn missing(reason: impl Into<String>) -> Self {
        Self::Missing(reason.into())
    }

    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(reason.into())
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(reason) | Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Unavailable {}

/// A step of the harness that failed, with what the program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// What a test should do with the answer; the engine of [`require!`](crate::require).
///
/// Gives the value, or `None` when the test should return because something is missing. A skip prints
/// `SKIPPED: reason` and adds a line to the file that `DM_TEST_SKIP_LOG` names.
///
/// # Panics
/// When the server is broken, and when it is missing under `CI=true`.
pub fn available<T>(answer: Result<T, Unavailable>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(Unavailable::Broken(reason)) => panic!("{reason}"),
        Err(Unavailable::Missing(reason)) => {
            assert!(!in_ci(), "{reason}; under CI=true nothing is skipped");
            skip(&reason);
            None
        }
    }
}

/// Whether this run must not skip anything.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

fn skip(reason: &str) {
    #[expect(clippy::print_stderr, reason = "a skip is said aloud, to whoever reads the test's output")]
    {
        eprintln!("SKIPPED: {reason}");
    }
    let Some(log) = std::env::var_os("DM_TEST_SKIP_LOG") else { return };
    let program = std::env::current_exe().ok().and_then(|path| Some(path.file_stem()?.to_owned()));
    let program = program.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // One write call a line: lines of concurrent test processes do not mix. Program and test count, so fields by tabs.
    let line = format!("{program}\t{test}\t{}\n", reason.replace(['\n', '\t'], " "));
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&log)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("cannot record the skip in {}: {error}", log.display()));
}

/// Takes what a test needs, or ends the test: `let server = require!(Server::shared(15));`.
///
/// The second form names what the test returns then: `require!(Server::shared(15), Ok(()))`.
#[macro_export]
macro_rules! require {
    ($what:expr) => {
        match $crate::available($what) {
            Some(value) => value,
            None => return,
        }
    };
    ($what:expr, $otherwise:expr) => {
        match $crate::available($what) {
            Some(value) => value,
            None => return $otherwise,
        }
    };
}
