//! `dm audit capture`.

use std::time::Duration;

use clap::{Args, Subcommand};
use data_manager::{EngineId, TableName};

use super::ApplyArgs;

/// Records every change of a table's rows: old and new values, who, when, in which transaction.
///
/// A trigger writes each change into an outbox in the same database, in the transaction that makes it: both are there or
/// neither is. "drain" takes the outbox over into the trail, where the changes are sealed like everything else. The application
/// says for whom it acts: SET LOCAL dm.actor = 'alice' on PostgreSQL; on SQLite a row in dm_capture_session for the time of the
/// transaction.
#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    #[command(subcommand)]
    pub(crate) command: CaptureCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaptureCommand {
    Install(CaptureInstallArgs),
    Status(CaptureStatusArgs),
    Remove(CaptureRemoveArgs),
    Drain(CaptureDrainArgs),
}

/// The database whose tables they are.
#[derive(Args, Clone, Debug)]
pub(crate) struct CaptureOfArgs {
    /// The database, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,
}

/// Records the changes of a table from now on.
///
/// Repeating it brings the recording to what is asked for now: after a change of the table, and with other columns kept out. On
/// PostgreSQL it covers partitions, also those that are added later.
#[derive(Args, Debug)]
pub(crate) struct CaptureInstallArgs {
    /// The table: `orders`, `sales.orders`.
    ///
    /// A part of the name with a dot or a quote in it stands in double quotes.
    #[arg(value_name = "TABLE")]
    pub(crate) table: TableName,

    #[command(flatten)]
    pub(crate) of: CaptureOfArgs,

    /// A column whose values are in no record. May be repeated.
    ///
    /// That it changed is still recorded.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) exclude: Vec<String>,

    /// A column whose values stand as *** in the record. May be repeated.
    ///
    /// Whether there was a value is recorded, and that it changed.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) mask: Vec<String>,

    /// A column of whose values the record has a digest. May be repeated. PostgreSQL only.
    ///
    /// Made with a key that never leaves the database: the same value has the same digest, and whoever has only the record cannot
    /// find the value by trying.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) digest: Vec<String>,
}

/// Lists the tables whose changes are recorded, and what keeps them from being so.
///
/// Finds missing and disabled triggers, new, renamed and dropped columns and tables, and says how many changes wait. Exits 9 when
/// something is not recorded as it was asked for.
#[derive(Args, Debug)]
pub(crate) struct CaptureStatusArgs {
    #[command(flatten)]
    pub(crate) of: CaptureOfArgs,
}

/// Ends the recording of tables.
///
/// What waits is taken over first. With the last table everything goes that the recording put into the database.
#[derive(Args, Debug)]
pub(crate) struct CaptureRemoveArgs {
    /// The tables.
    ///
    /// As "dm audit capture status" shows them.
    #[arg(value_name = "TABLE", required_unless_present = "all")]
    pub(crate) tables: Vec<TableName>,

    /// All tables.
    ///
    /// Instead of naming them.
    #[arg(long, conflicts_with = "tables")]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) of: CaptureOfArgs,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Takes over into the trail what the recording has written, and seals it.
///
/// Safe to stop and to repeat at any moment, also in several places at once: no change is lost, none is in the trail twice.
#[derive(Args, Debug)]
pub(crate) struct CaptureDrainArgs {
    #[command(flatten)]
    pub(crate) of: CaptureOfArgs,

    /// Goes on until it is stopped.
    ///
    /// SIGINT or SIGTERM ends it in good order.
    #[arg(long)]
    pub(crate) follow: bool,

    /// How often to look while following: `1s`, `1m`.
    ///
    /// It is how long a change waits in the database, where whoever may write there can still change it.
    #[arg(long, value_name = "TIME", value_parser = super::log::interval, default_value = "1s", requires = "follow")]
    pub(crate) every: Duration,
}
