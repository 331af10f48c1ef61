//! What a restore decided in its preview, and keeps to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dm_core::{RecoveryPoint, RestorePreview, Result};
use serde::{Deserialize, Serialize};

use super::points::LogPlan;
use super::programs::{Programs, RunAs};
use crate::notes;

/// How the files come to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Into a folder beside the destination, which gets its name last.
    Beside,
    /// Into the destination itself, which is empty and cannot be renamed over: a mount point.
    Within,
    /// Over what stands at the destination, which is kept where it matches.
    Delta,
}

/// The decisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) way: Way,
    /// The data directory in the end.
    pub(super) destination: PathBuf,
    /// Where what stands there now is kept.
    pub(super) kept_as: Option<PathBuf>,
    /// What killed restores left, which is removed first.
    #[serde(default)]
    pub(super) leftovers: Vec<PathBuf>,
    /// The place of each tablespace.
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
    /// Who owns the files; ourselves when `None`.
    pub(super) user: Option<RunAs>,
    /// The server's programs, where there are any.
    pub(super) programs: Option<Programs>,
    pub(super) until: RecoveryPoint,
    pub(super) exclusive: bool,
    pub(super) log: Option<LogPlan>,
    /// The command that fetches the log during recovery, where the caller brings one.
    pub(super) restore_command: Option<String>,
    /// The timeline that was asked for.
    pub(super) timeline: Option<String>,
    /// Libraries that the server needs for its recovery.
    pub(super) libraries: Option<String>,
    /// The database of the questions.
    pub(super) database: Option<String>,
    /// The port in the command that a person is told to start the server with.
    pub(super) port: Option<u16>,
}

const ATTRIBUTE: &str = "physical_plan";

impl Plan {
    /// Writes it into a preview.
    pub(super) fn store(&self, attributes: &mut BTreeMap<String, serde_json::Value>) -> Result<()> {
        notes::store(attributes, ATTRIBUTE, self)
    }

    /// Reads it back.
    pub(super) fn load(preview: &RestorePreview) -> Result<Self> {
        notes::load(preview, ATTRIBUTE)
    }
}

/// A name beside another: `/srv/pg/main` becomes `/srv/pg/main.dm-restore-1a2b`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}
