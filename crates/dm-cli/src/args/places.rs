//! `dm backup copy` and `repair`: between the places of the repository.

use clap::Args;

use super::backup::TargetArg;
use super::resources::ResourceArgs;

/// Copies what the other places of the repository lack.
///
/// Every backup, the shipped log and the pins, to each place under [repository.secondary]; what is there already is not
/// sent again. Needs no key. An empty place becomes a copy. Each place forgets by itself: what expires here stays there
/// until `dm backup expire --place NAME`. Runs by itself after each `dm backup run`. Exits 8 when a place did not get
/// everything.
#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// Only to this place.
    ///
    /// A name under [repository.secondary]; with --place, `primary` copies back.
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: Option<String>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Says what would be copied, and stops.
    ///
    /// Changes nothing.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

/// Mends backups from a copy.
///
/// Reads every stored object of one backup, or of all, and replaces what is missing or damaged by what another place has,
/// compared with its digest. What is whole is not touched. Needs no key. Exits 9 when something stays damaged.
#[derive(Args, Debug)]
pub(crate) struct RepairArgs {
    /// The backup: its id, the beginning of it, or `latest`. All without it.
    ///
    /// `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// The place to take it from.
    ///
    /// Needed only where there are several.
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<String>,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}
