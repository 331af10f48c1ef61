//! What a run may take of the machine and of the network: flags of every command that moves backups.

use clap::{Args, ValueEnum};
use data_manager::ByteSize;
use data_manager::config::Priority;

/// What a run may take; the configuration's where a flag is not given.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceArgs {
    /// The most bytes a second to and from the repository: `50MB`.
    ///
    /// Without it the configuration decides (no limit, unless it says otherwise).
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub(crate) rate_limit: Option<ByteSize>,

    /// The most requests to the repository at once.
    ///
    /// A lease has one more, so that it is never late. Without it the configuration decides (64).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) connections: Option<u16>,

    /// Threads that compress, hash and decompress.
    ///
    /// Without it the configuration decides (one for each processor core).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// The most bytes held in memory at once: `256MiB`.
    ///
    /// Packs that are filled and on their way, what is read ahead of them, and what is being fetched. With little memory fewer
    /// tables are written at the same time. Without it the configuration decides (192 MiB).
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<ByteSize>,

    /// Whether to give way to everything else on the machine.
    ///
    /// `low` runs at nice 10. Without it the configuration decides for `dm backup` (low), and a restore does not give way.
    #[arg(long, value_enum, value_name = "PRIORITY")]
    pub(crate) priority: Option<PriorityArg>,
}

/// How much to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityArg {
    /// Gives way to everything else.
    Low,
    /// Competes like everything else.
    Normal,
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Low => Self::Low,
            PriorityArg::Normal => Self::Normal,
        }
    }
}

fn rate(text: &str) -> Result<ByteSize, String> {
    within(text, 64 << 10, 1 << 40)
}

fn memory(text: &str) -> Result<ByteSize, String> {
    within(text, 32 << 20, 64 << 30)
}

/// A size that the configuration would take as well.
fn within(text: &str, min: u64, max: u64) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|e: data_manager::Error| e.to_string())?;
    if (min..=max).contains(&size.0) {
        Ok(size)
    } else {
        Err(format!("{size} is not between {} and {}", ByteSize(min), ByteSize(max)))
    }
}
