//! What a restore that was killed left: its sealed place, under a name of its own beside the destination.
//!
//! A place whose restore lives is locked, and the kernel lets go of the lock of whoever dies. So the next restore to the same
//! destination knows which of them nobody will ever finish, says so in its plan, and removes them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dm_core::{Finding, Level, Result};

use super::marker::{self, Marker, Stage};
use super::place::{self, failed};
use super::plan::{Plan, Way, beside};

/// What stands between a destination's name and the restore's.
const ENDING: &str = ".dm-restore-";

/// The name of a restore's place beside its destination.
pub(super) fn name(destination: &Path, id: &str) -> PathBuf {
    beside(destination, &format!("{ENDING}{id}"))
}

/// Held for as long as the restore lives.
#[derive(Debug)]
pub(super) struct Hold(#[expect(dead_code, reason = "the lock ends with the file")] Option<File>);

impl Hold {
    /// Takes a place. Where the file system knows no locks, nobody ever takes it for a leftover either.
    pub(super) fn take(data: &Path) -> Result<Self> {
        let folder = File::open(data).map_err(|e| failed(data, "open", e))?;
        Ok(Self(folder.try_lock().is_ok().then_some(folder)))
    }
}

/// A place that nobody works on.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) path: PathBuf,
    /// The tablespaces that it filled, as far as they are still its own.
    pub(super) tablespaces: Vec<PathBuf>,
    /// A whole cluster: opening it is all that is missing.
    pub(super) whole: bool,
}

impl Leftover {
    /// The leftovers beside a destination.
    pub(super) fn beside(destination: &Path) -> Result<Vec<Self>> {
        let (Some(parent), Some(own)) = (destination.parent(), destination.file_name()) else {
            return Ok(Vec::new());
        };
        let prefix = format!("{}{ENDING}", own.to_string_lossy());
        let mut found = Vec::new();
        for entry in fs::read_dir(parent).map_err(|e| failed(parent, "look into", e))? {
            let entry = entry.map_err(|e| failed(parent, "look into", e))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.extend(Self::at(destination, entry.path())?);
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn at(destination: &Path, path: PathBuf) -> Result<Option<Self>> {
        // Whoever cannot be asked is left alone.
        let Ok(folder) = File::open(&path) else { return Ok(None) };
        if !path.is_dir() || folder.try_lock().is_err() || place::running(&path)?.is_some() {
            return Ok(None);
        }
        let Some(marker) = Marker::read(&path)? else {
            // Killed before it said whose it is; a folder with something else in it is not ours.
            let bare = place::has_only(&path, marker::FOLDER)?;
            return Ok(bare.then(|| Self { path, tablespaces: Vec::new(), whole: false }));
        };
        if marker.plan.way != Way::Beside || marker.plan.destination != destination {
            return Ok(None);
        }
        let tablespaces =
            marker.plan.tablespaces.values().filter(|t| stamp(&path, t).is_some_and(|s| s.exists()));
        Ok(Some(Self {
            tablespaces: tablespaces.cloned().collect(),
            whole: marker.stage == Stage::Sealed,
            path,
        }))
    }

    /// What the plan says of it.
    pub(super) fn finding(&self) -> Finding {
        let shown = self.path.display();
        match self.whole {
            true => Finding::new(
                Level::Warning,
                "leftover",
                format!("an earlier restore's cluster lies at {shown}, whole and closed"),
            )
            .with_mend(format!("open it with \"dm restore release {shown}\", or remove the folder")),
            false => Finding::new(
                Level::Info,
                "leftover",
                format!("a restore to there did not come to its end; it left {shown}"),
            ),
        }
    }

    /// Bytes on disk that removing it frees.
    pub(super) fn bytes(&self) -> u64 {
        self.tablespaces.iter().chain([&self.path]).map(|folder| disk_bytes(folder)).sum()
    }

    /// Removes it.
    pub(super) fn remove(&self) -> Result<()> {
        for folder in &self.tablespaces {
            place::remove_tree(folder)?;
        }
        remove_place(&self.path)
    }
}

/// Removes a place, what tells whose it is last: removing it can be killed too.
pub(super) fn remove_place(data: &Path) -> Result<()> {
    if data.exists() {
        place::empty_folder_but(data, marker::FOLDER)?;
    }
    place::remove_tree(data)
}

/// As near as can be told; files may go away meanwhile.
fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// The file in a tablespace that says which restore fills it.
fn stamp(data: &Path, tablespace: &Path) -> Option<PathBuf> {
    let name = data.file_name()?.to_str()?;
    let id = name.rsplit_once(ENDING)?.1;
    Some(tablespace.join(format!("dm-restore-{id}")))
}

/// Says in the tablespaces whose they are, until they are whole.
pub(super) fn stamp_tablespaces(data: &Path, plan: &Plan) -> Result<()> {
    for stamp in plan.tablespaces.values().filter_map(|t| stamp(data, t)) {
        place::write_file(&stamp, b"", plan.user.as_ref())?;
    }
    Ok(())
}

/// Takes that out again.
pub(super) fn clear_stamps(data: &Path, plan: &Plan) -> Result<()> {
    plan.tablespaces.values().filter_map(|t| stamp(data, t)).try_for_each(|stamp| place::remove_file(&stamp))
}
