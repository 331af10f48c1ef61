//! `dm audit`.

use clap::{Args, Subcommand, ValueEnum};
use data_manager::audit_trail::LogHead;
use data_manager::{AuditOutcome, RunId};

use super::LinesArgs;

/// Reads and checks the trail of everything that was done.
///
/// Every operation leaves a line: who, what, on what, when, how it ended. The lines are chained by digests, so that a
/// later change shows.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    Log(LogArgs),
    Verify(AuditVerifyArgs),
}

/// Lists what was done, newest first.
///
/// Filters combine: only lines that match all of them are shown.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Only from this moment on: 2026-11-20, 2026-11-20T14:00:00Z, or a period back from now (`7d`).
    ///
    /// Inclusive. A date without a time is midnight UTC.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only before this moment; written as for --since.
    ///
    /// Exclusive. A date without a time is midnight UTC.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// Only by this actor, for example `user:alice`.
    ///
    /// The whole name.
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,

    /// Only actions that begin like this, for example `backup:` or `backup:run`.
    ///
    /// Actions are written as the log shows them.
    #[arg(long, value_name = "AREA:VERB")]
    pub(crate) action: Option<String>,

    /// Only on this resource, for example a target's name.
    ///
    /// The whole name as the log shows it.
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Option<String>,

    /// Only this run, by its id.
    ///
    /// As the log and the JSON answers show it.
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<RunId>,

    /// Only what ended like this.
    ///
    /// `intent` is what began and has no known end.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    pub(crate) outcome: Option<OutcomeArg>,

    /// At most so many lines.
    ///
    /// The newest ones that match.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) lines: LinesArgs,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutcomeArg {
    /// Begun; no end is known.
    Intent,
    /// Done.
    Success,
    /// A part was done.
    Partial,
    /// Failed.
    Failure,
    /// Refused by the access rules.
    Denied,
    /// Cancelled.
    Interrupted,
}

impl From<OutcomeArg> for AuditOutcome {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Intent => Self::Intent,
            OutcomeArg::Success => Self::Success,
            OutcomeArg::Partial => Self::Partial,
            OutcomeArg::Failure => Self::Failure,
            OutcomeArg::Denied => Self::Denied,
            OutcomeArg::Interrupted => Self::Interrupted,
        }
    }
}

/// Checks that nothing in the trail was changed.
///
/// Computes the chain of digests again from the first line to the last. Exits 9 and names the first bad line when
/// anything differs. Compare the head that it prints with one that was kept elsewhere to detect a trail that was
/// rewritten or cut as a whole.
#[derive(Args, Debug)]
pub(crate) struct AuditVerifyArgs {
    /// A head that was printed earlier, `<number>:<digest>`; the trail must still contain it.
    ///
    /// Detects a trail that was rewritten or cut since then.
    #[arg(long, value_name = "HEAD")]
    pub(crate) from: Option<LogHead>,
}
