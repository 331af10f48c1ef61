//! What a restore leaves in a data directory that is not open yet: a folder with the seal, and a page that says whose it is.
//!
//! The seal is a set of settings at the end of `postgresql.auto.conf`, which win over every other file: whoever starts
//! the directory by hand gets a server that listens nowhere and lets nobody in. Opening puts the file back as it was,
//! byte for byte, and removes the folder.

use std::fs;
use std::io;
use std::path::Path;

use dm_core::{ConsistencyPoint, Error, Result};
use serde::{Deserialize, Serialize};

use super::place::{failed, remove_file, remove_tree, sync_parent, write_file};
use super::plan::Plan;

/// The folder of the seal, in the data directory.
pub(super) const FOLDER: &str = "dm-sealed";

const PAGE: &str = "restore.json";
const HBA: &str = "pg_hba.conf";
const IDENT: &str = "pg_ident.conf";
const ORIGINAL: &str = "postgresql.auto.conf";
const FORMAT: u32 = 1;

/// How far a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Being written: not a whole cluster.
    Writing,
    /// Whole, checked as far as was asked, durable and closed.
    Sealed,
}

/// The page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Marker {
    format: u32,
    pub(super) stage: Stage,
    pub(super) system_identifier: String,
    pub(super) segment_bytes: u64,
    pub(super) plan: Plan,
    /// Whether a server has recovered it.
    #[serde(default)]
    pub(super) started: bool,
    pub(super) reached: Option<ConsistencyPoint>,
    pub(super) notes: Vec<String>,
}

impl Marker {
    pub(super) fn new(plan: Plan, system_identifier: String, segment_bytes: u64) -> Self {
        Self {
            format: FORMAT,
            stage: Stage::Writing,
            system_identifier,
            segment_bytes,
            plan,
            started: false,
            reached: None,
            notes: Vec::new(),
        }
    }

    /// Reads the page of a data directory; `None` when there is none.
    pub(super) fn read(data: &Path) -> Result<Option<Self>> {
        let path = data.join(FOLDER).join(PAGE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(&path, "read", e)),
        };
        let marker: Self = serde_json::from_slice(&bytes).map_err(|e| {
            Error::corrupt("what a restore left there cannot be read")
                .about(path.display().to_string())
                .with_source(e)
        })?;
        match marker.format {
            FORMAT => Ok(Some(marker)),
            other => Err(Error::unsupported(format!("a later version left a place of format {other} there"))
                .about(path.display().to_string())),
        }
    }

    /// Writes it, durably.
    pub(super) fn write(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal("the page of a sealed place cannot be written").with_source(e))?;
        write_file(&data.join(FOLDER).join(PAGE), &text, self.plan.user.as_ref())
    }
}

/// Closes a data directory to everybody.
pub(super) fn seal(data: &Path, plan: &Plan) -> Result<()> {
    let user = plan.user.as_ref();
    let folder = data.join(FOLDER);
    write_file(
        &folder.join(HBA),
        b"# Closed by a restore: nobody gets in.\nlocal all all reject\nhost all all all reject\n",
        user,
    )?;
    write_file(&folder.join(IDENT), b"", user)?;
    let live = data.join(ORIGINAL);
    let kept = folder.join(ORIGINAL);
    let original = match fs::read(&live) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed(&live, "read", e)),
    };
    // Sealing twice keeps the first original.
    if !kept.exists() {
        write_file(&kept, &original, user)?;
    }
    let mut text = fs::read(&kept).map_err(|e| failed(&kept, "read", e))?;
    text.extend_from_slice(
        format!(
            "\n# Closed by a restore; opening it takes these lines out again.\n\
             listen_addresses = ''\nunix_socket_directories = ''\nhba_file = '{FOLDER}/{HBA}'\n\
             ident_file = '{FOLDER}/{IDENT}'\narchive_mode = off\n"
        )
        .as_bytes(),
    );
    write_file(&live, &text, user)
}

/// Opens it: the original settings, with these lines behind, and nothing of ours left. Safe to repeat.
pub(super) fn unseal(data: &Path, plan: &Plan, more: &str) -> Result<()> {
    let kept = data.join(FOLDER).join(ORIGINAL);
    if kept.exists() {
        let mut text = fs::read(&kept).map_err(|e| failed(&kept, "read", e))?;
        if !more.is_empty() {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n');
            }
            text.extend_from_slice(more.as_bytes());
        }
        write_file(&data.join(ORIGINAL), &text, plan.user.as_ref())?;
    }
    for name in ["postmaster.opts", "postmaster.pid"] {
        remove_file(&data.join(name))?;
    }
    // The page goes last: as long as it is there, opening can be done again.
    let folder = data.join(FOLDER);
    for name in [HBA, IDENT, ORIGINAL] {
        remove_file(&folder.join(name))?;
    }
    remove_tree(&folder)?;
    sync_parent(&data.join(ORIGINAL))
}
