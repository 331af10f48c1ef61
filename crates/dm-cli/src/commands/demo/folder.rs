//! The demo's own folder: recognised by a marker, and nothing of anybody else's is ever touched.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use data_manager::{Error, ErrorKind, Result};

use crate::commands::files;

const MARKER: &str = ".dm-demo";
const DATABASE: &str = "shop.db";
const RESTORED: &str = "shop-restored.db";
const REPOSITORY: &str = "backups";
const STATE: &str = "state.db";

/// The places of the demo.
pub(super) struct Folder {
    pub(super) root: PathBuf,
    pub(super) database: PathBuf,
    pub(super) restored: PathBuf,
    pub(super) repository: PathBuf,
    pub(super) state: PathBuf,
}

impl Folder {
    /// Makes the folder, or clears the one that an earlier demo left.
    ///
    /// # Errors
    /// `AlreadyExists` for a folder with anything in it that no demo made.
    pub(super) fn prepare(root: PathBuf) -> Result<Self> {
        let failed = |e| files::error(&root, "the folder of the demo cannot be used", e);
        let foreign = match std::fs::read_dir(&root) {
            Ok(mut entries) => entries.next().is_some() && !root.join(MARKER).is_file(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(failed(e)),
        };
        if foreign {
            return Err(Error::new(ErrorKind::AlreadyExists, "the folder is not empty and no demo made it")
                .about(root.display().to_string())
                .with_hint("name another folder: dm demo --dir ./another"));
        }
        std::fs::create_dir_all(&root).map_err(failed)?;
        let root = std::fs::canonicalize(&root).map_err(failed)?;
        let folder = Self {
            database: root.join(DATABASE),
            restored: root.join(RESTORED),
            repository: root.join(REPOSITORY),
            state: root.join(STATE),
            root,
        };
        folder.clear()?;
        Ok(folder)
    }

    /// Removes what a demo makes, by name; whatever else a person put there stays.
    fn clear(&self) -> Result<()> {
        for file in [&self.database, &self.restored, &self.state] {
            for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
                let mut name = file.clone().into_os_string();
                name.push(suffix);
                remove(Path::new(&name), std::fs::remove_file(&name))?;
            }
        }
        remove(&self.repository, std::fs::remove_dir_all(&self.repository))?;
        let marker = self.root.join(MARKER);
        std::fs::write(
            &marker,
            "This folder belongs to \"dm demo\", which may remove its own files in it.\n",
        )
        .map_err(|e| files::error(&marker, "the marker cannot be written", e))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&self.database)
            .and_then(|mut file| file.flush())
            .map_err(|e| files::error(&self.database, "the database cannot be made", e))
    }
}

fn remove(path: &Path, result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(files::error(path, "what an earlier demo left cannot be removed", e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_folder_is_left_alone_and_an_own_one_used_again() {
        let place = std::env::temp_dir().join(format!("dm-demo-folder-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("precious.txt"), "mine").unwrap();
        assert_eq!(Folder::prepare(place.clone()).map(|_| ()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        std::fs::remove_file(place.join("precious.txt")).unwrap();

        let folder = Folder::prepare(place.clone()).unwrap();
        std::fs::write(&folder.restored, "old").unwrap();
        std::fs::write(place.join("notes.txt"), "a person's").unwrap();
        let again = Folder::prepare(place.clone()).unwrap();
        assert!(!again.restored.exists());
        assert!(place.join("notes.txt").exists());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
