//! `dm log`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use data_manager::EngineId;
use data_manager::config::parse_duration;

use super::ApplyArgs;
use super::backup::TargetArg;

/// Ships a server's log, so that every instant between backups can be restored.
///
/// The log (the WAL of PostgreSQL) is sealed in the repository piece by piece, compressed and encrypted like the backups,
/// beside the physical backups of the server. `dm restore --at` replays it.
#[derive(Args, Debug)]
pub(crate) struct LogShippingArgs {
    #[command(subcommand)]
    pub(crate) command: LogCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    Ship(ShipArgs),
    Push(PushArgs),
    Fetch(FetchArgs),
    Status(LogStatusArgs),
    DropSlot(DropSlotArgs),
}

/// The server whose log it is.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogOfArgs {
    /// The database on the server, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    #[command(flatten)]
    pub(crate) target: TargetArg,
}

/// Follows the log until it is stopped.
///
/// Reads over ordinary connections, holds the log on the server with a replication slot until it is sealed, and goes on
/// where it stopped after a restart of either side. Where the server lost some of it, that gap is recorded, said, and a new
/// base backup asked for. SIGINT or SIGTERM ends it in good order: what it has is sealed first.
#[derive(Args, Debug)]
pub(crate) struct ShipArgs {
    #[command(flatten)]
    pub(crate) of: LogOfArgs,

    /// Ships what there is, and ends.
    ///
    /// For a timer: the slot holds the log on the server until the next time.
    #[arg(long)]
    pub(crate) once: bool,

    /// The longest that log waits before it is sealed: `5s`, `1m`.
    ///
    /// While there is traffic. It is what is lost at most when the server is lost. Without it the configuration decides.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) seal_every: Option<Duration>,

    /// The replication slot that holds the log.
    ///
    /// Made when it is not there. Without it the configuration decides.
    #[arg(long, value_name = "NAME")]
    pub(crate) slot: Option<String>,
}

/// Seals one file of the log; for archive_command.
///
/// `archive_command = 'dm-log push %p'`. Succeeds only when the file is durable in the repository; pushing it again is
/// success.
/// The server starts it in its data directory: name the configuration with --config.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The file, as the server names it (`%p`).
    ///
    /// A segment, or a history file. A relative path starts at the working folder, which is the server's data directory in
    /// archive_command.
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) path: PathBuf,

    #[command(flatten)]
    pub(crate) of: LogOfArgs,
}

/// Writes one file of the log; for restore_command.
///
/// `restore_command = 'dm-log fetch %f %p'`. Exits 0 when the file was written, 1 when the log does not have it, and 129 for
/// every other failure, so that a server never takes a failing store for the end of its log.
#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// The file's name (`%f`).
    ///
    /// A segment, or a history file.
    #[arg(value_name = "FILE")]
    pub(crate) file: String,

    /// Where to write it (`%p`).
    ///
    /// A relative path starts at the working folder, which is the server's data directory in restore_command.
    #[arg(value_name = "DEST", value_hint = ValueHint::FilePath)]
    pub(crate) dest: PathBuf,

    #[command(flatten)]
    pub(crate) of: LogOfArgs,

    /// Whose log, where the target has those of several servers: the system identifier.
    ///
    /// "dm log status" names them.
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<String>,
}

/// Says how far the log is shipped.
///
/// What is in the repository, its gaps, how far behind the server it is, and whether a backup can use it. Exits 9 when
/// something about it is wrong.
#[derive(Args, Debug)]
pub(crate) struct LogStatusArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
}

/// Gives up the replication slot.
///
/// Where shipping ends for good: a slot that nobody reads keeps the log on the server until its disk is full. Asks first.
#[derive(Args, Debug)]
pub(crate) struct DropSlotArgs {
    /// The database on the server, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    /// The replication slot.
    ///
    /// Without it the configuration decides.
    #[arg(long, value_name = "NAME")]
    pub(crate) slot: Option<String>,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// How often something is looked at.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        every if every < LEAST_INTERVAL => Err("that is no pause: at least 10ms".to_owned()),
        every => Ok(every),
    }
}

/// A shorter pause between two looks would only keep a processor busy.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a number and its unit: 500ms, 5s, 1m".to_owned())
}
