//! `dm audit`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use data_manager::audit_trail::{LogHead, NoteVerifier};
use data_manager::{AuditOutcome, EventKind, Period, RunId};

use super::capture::CaptureArgs;
use super::{ApplyArgs, LinesArgs};

/// Reads and checks the trail of everything that was done.
///
/// Every operation leaves a line: who, what, on what, when, how it ended. The lines are chained by digests, so that a
/// later change shows, and the head of all lines is signed: a checkpoint. Checkpoints that are kept elsewhere find what
/// whoever can write the trail could hide, and single lines can be proven to others without the trail.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    Log(LogArgs),
    Verify(AuditVerifyArgs),
    Checkpoint(CheckpointArgs),
    Prove(ProveArgs),
    Key(AuditKeyArgs),
    Erase(EraseArgs),
    Expire(AuditExpireArgs),
    Capture(CaptureArgs),
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

    /// Only lines of this kind.
    ///
    /// `change` is what the recording of a table wrote, `access` whatever handed out data of a database: queries, exports,
    /// restores, and who read the trail; `operation` is everything but recorded changes.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) kind: Option<EventKindArg>,

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
    /// The newest ones that match, or with --after the oldest ones.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,

    /// Only sealed lines behind this number, the oldest first: `0` for all of them.
    ///
    /// For an export that goes on where the last one ended, with --json-lines: nothing is missed, however late it was committed, and
    /// nothing comes twice.
    #[arg(long, value_name = "NO", value_parser = line_number)]
    pub(crate) after: Option<i64>,

    #[command(flatten)]
    pub(crate) lines: LinesArgs,
}

/// A kind of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventKindArg {
    /// Everything but recorded changes.
    Operation,
    /// Recorded changes of rows.
    Change,
    /// What handed out data.
    Access,
}

impl From<EventKindArg> for EventKind {
    fn from(kind: EventKindArg) -> Self {
        match kind {
            EventKindArg::Operation => Self::Operation,
            EventKindArg::Change => Self::Change,
            EventKindArg::Access => Self::Access,
        }
    }
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
/// Computes the chain of digests and the tree over it again, from the first line to the last, and every signed checkpoint.
/// Exits 9 and names the first bad line when anything differs. A trail that was rewritten or cut as a whole is consistent in
/// itself: only a checkpoint (--checkpoint) or a head (--from) that was kept elsewhere detects it.
#[derive(Args, Debug)]
pub(crate) struct AuditVerifyArgs {
    /// A head that was printed earlier, `<number>:<digest>`; the trail must still contain it.
    ///
    /// Detects a trail that was rewritten or cut since then.
    #[arg(long, value_name = "HEAD")]
    pub(crate) from: Option<LogHead>,

    /// A checkpoint that was kept elsewhere, in a file; the trail must still begin with what it signs. May be repeated.
    ///
    /// As "dm audit checkpoint --out" wrote it. Detects an edit, a deletion, a cut or wiped trail, and one that was written
    /// and signed anew.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Vec<PathBuf>,

    /// The public key that signed the checkpoints.
    ///
    /// Without it the trail's own keys are tried: the key file's, and those on record.
    #[arg(long, value_name = "VKEY", requires = "checkpoint")]
    pub(crate) key: Option<NoteVerifier>,
}

/// Prints the newest signed checkpoint.
///
/// Seals what waits and signs the head of the trail first. The text is a C2SP checkpoint: the trail's name, how many lines it
/// has, the root over them, and the signature. Keep it where nobody who can write the trail can write too; "dm audit verify
/// --checkpoint" compares the trail with it.
#[derive(Args, Debug)]
pub(crate) struct CheckpointArgs {
    /// Writes it to a new file instead.
    ///
    /// A file that exists is not overwritten.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Proves a single line to somebody who does not have the trail, and checks such a proof.
///
/// The proof (a C2SP tlog-proof) holds the line, its place, the path to the root, and the signed checkpoint. Its check needs
/// the file and the public key alone: no trail, no network. Exits 9 when it does not hold.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("task").required(true).args(["event", "check", "since"]))]
pub(crate) struct ProveArgs {
    /// The line: its number or its event id, as "dm audit log" shows them.
    ///
    /// It must be sealed; lines that wait are sealed first.
    #[arg(value_name = "EVENT")]
    pub(crate) event: Option<String>,

    /// Checks the proof in this file instead, without the trail.
    ///
    /// Needs --key.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) check: Option<PathBuf>,

    /// Proves instead that the trail still continues the checkpoint in this file.
    ///
    /// Prints a consistency proof of RFC 6962 with the newest checkpoint, in JSON with --json.
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,

    /// With EVENT: proves by the checkpoint in this file. With --check: the proof must be by exactly this checkpoint.
    ///
    /// A proof by a checkpoint that the other side keeps itself cannot come from a trail that was written anew.
    #[arg(long, value_name = "FILE", conflicts_with = "since")]
    pub(crate) checkpoint: Option<PathBuf>,

    /// The public key of the trail.
    ///
    /// As "dm audit key" prints it; from the trail's owner, not from the proof.
    #[arg(long, value_name = "VKEY", requires = "check")]
    pub(crate) key: Option<NoteVerifier>,

    /// Puts the line's details and error into the proof, too.
    ///
    /// Without it the proof holds a commitment to them, from which they cannot be guessed.
    #[arg(long, requires = "event")]
    pub(crate) payload: bool,

    /// Writes the proof to a new file instead.
    ///
    /// A file that exists is not overwritten.
    #[arg(long, value_name = "FILE", requires = "event")]
    pub(crate) out: Option<PathBuf>,
}

/// Shows the public key that checkpoints are verified with.
///
/// The private key is made when it is first needed, in the file that audit.key_file names, which only its owner can read.
/// Keep a copy of it elsewhere: without it no checkpoint is signed any more.
#[derive(Args, Debug)]
pub(crate) struct AuditKeyArgs {
    /// Makes a new key that signs from now on, because the old one is lost or known to others.
    ///
    /// What was signed before must still be continued. The old key's file is kept beside the new one.
    #[arg(long)]
    pub(crate) replace: bool,

    /// Does not ask.
    ///
    /// For scripts; has a meaning with --replace only.
    #[arg(long, short, requires = "replace")]
    pub(crate) yes: bool,
}

/// Erases the details and the error of a single line, and nothing else of it.
///
/// The line itself stays, with who, what and when, and every digest, checkpoint and proof still holds: they cover a commitment
/// to what is erased, which cannot be guessed from it. The erasure is itself a line. It cannot be undone.
#[derive(Args, Debug)]
pub(crate) struct EraseArgs {
    /// The line: its number or its event id, as "dm audit log" shows them.
    ///
    /// It must be sealed.
    #[arg(value_name = "EVENT")]
    pub(crate) event: String,

    /// Does not ask.
    ///
    /// For scripts; what is erased cannot be brought back.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Erases the details of old lines, as audit.retention says.
///
/// Each line stays, with who, what and when, and every digest, checkpoint and proof still holds. Lines that audit.holds names
/// keep their details whatever their age. The expiry is itself a line. It cannot be undone.
#[derive(Args, Debug)]
pub(crate) struct AuditExpireArgs {
    /// Lines older than this: `90d`, `18 months`, `7 years`.
    ///
    /// Instead of audit.retention of the configuration.
    #[arg(long, value_name = "PERIOD")]
    pub(crate) older_than: Option<Period>,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// The number of a line of the trail, or 0.
fn line_number(text: &str) -> Result<i64, String> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| "write the number of a line, as \"dm audit log\" shows it, or 0".to_owned())
}
