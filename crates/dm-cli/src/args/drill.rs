//! `dm backup drill`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use data_manager::EngineId;
use data_manager::backup::Assertion;

use super::backup::TargetArg;
use super::resources::ResourceArgs;
use super::restore::{DepthArg, PointArgs, check, setting};

/// Restores a backup into a throwaway place, proves it, and removes the place.
///
/// A temporary server for a physical backup, a temporary database for a logical one, a file for SQLite. Compares content with
/// what was recorded, runs everything that the engine can check itself, asks your own questions, and records the result and
/// the time that it took: `dm status` shows it. Touches no database of yours. Exits 9 when anything is wrong.
#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP", default_value = "latest")]
    pub(crate) backup: String,

    /// The database on whose server the throwaway one is made, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    #[command(flatten)]
    pub(crate) point: PointArgs,

    /// Only these tables; may be given several times.
    ///
    /// A name or a pattern with `*`. All tables without it.
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,

    /// How much is checked.
    ///
    /// `standard` compares content and starts the server of a physical backup. `deep` also checks every page and every index
    /// against its table.
    #[arg(long, value_enum, value_name = "DEPTH", default_value = "deep")]
    pub(crate) checks: DepthArg,

    /// A question of your own to the restored database; may be given several times.
    ///
    /// `"orders: SELECT count(*) FROM orders [>= 1000]"`: a name, a statement that reads, and in brackets at the end what its
    /// answer must be: `true` (also without brackets), `empty`, `not empty`, a comparison, or the value. They come on top of
    /// those of the configuration.
    #[arg(long = "check", visible_alias = "assert", value_name = "CHECK", value_parser = check)]
    pub(crate) questions: Vec<Assertion>,

    /// A setting of the engine's own; may be given several times.
    ///
    /// As for `dm restore`.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,

    /// How many connections (or writing threads) at once.
    ///
    /// Without it the configuration decides.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,

    /// The folder for the throwaway place.
    ///
    /// It needs room for the whole database. The system's folder for temporary files without it.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) scratch: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

impl DrillArgs {
    /// A drill of a backup with every default.
    pub(crate) fn of(backup: String, target: TargetArg, resources: ResourceArgs) -> Self {
        Self {
            backup,
            engine: None,
            target,
            point: PointArgs::default(),
            tables: Vec::new(),
            checks: DepthArg::Deep,
            questions: Vec::new(),
            settings: Vec::new(),
            jobs: None,
            scratch: None,
            resources,
        }
    }
}
