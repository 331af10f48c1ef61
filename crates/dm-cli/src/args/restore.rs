//! `dm restore`.

use clap::{Args, ValueEnum};
use data_manager::{EngineId, TargetName};

use super::ApplyArgs;

/// Restores a backup, and proves that it is the same.
///
/// Writes to a new database or file unless told otherwise, keeps it closed to others until it is complete, compares
/// row counts and content with what was recorded at backup time, and only then gives it its name. Prints the plan
/// first.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// Without it, on a terminal, a list is shown to choose from.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,

    /// The database whose server takes the restored one, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    /// The target whose backups are meant.
    ///
    /// The name under which the database's backups are kept. Needed only where the configuration knows several.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) target: Option<TargetName>,

    /// Where to: a database name, a file, or a URL.
    ///
    /// It must not exist, or be empty. Without it a new name beside the original is chosen.
    #[arg(long, value_name = "PLACE", conflicts_with = "in_place")]
    pub(crate) to: Option<String>,

    /// Replaces the database itself.
    ///
    /// What stands there now is kept under another name, and named at the end. Asks first.
    #[arg(long)]
    pub(crate) in_place: bool,

    /// Only these tables; may be given several times.
    ///
    /// A name (`orders`, `sales.orders`) or a pattern with `*`. All tables without it.
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,

    /// How many connections (or writing threads) at once.
    ///
    /// Without it the configuration decides.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,

    /// Only from a backup that was verified.
    ///
    /// With `latest`: the newest one whose verification found nothing wrong.
    #[arg(long)]
    pub(crate) verified_only: bool,

    /// What to do when the restored content is not what the backup recorded.
    ///
    /// `keep-sealed` leaves it closed to others, to be looked at; `discard` removes it; `release` opens it all the
    /// same. The first two fail.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub(crate) unproven: UnprovenArg,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// What to do with a restored place whose content differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnprovenArg {
    /// Leave it closed to others.
    #[default]
    KeepSealed,
    /// Remove it.
    Discard,
    /// Open it all the same.
    Release,
}
