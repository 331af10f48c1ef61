//! The run lock: a lock of the operating system on a file of its own beside the database.
//!
//! The database's own locks cannot serve: they end with each transaction. The file holds nothing; what counts is who has it locked,
//! and that ends with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dm_core::Result;

use crate::error::file;

/// A lock that is held. Dropping it gives it up; [`release`](Self::release) removes its file too.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    held: File,
}

impl FileLock {
    /// Tries once; `None` when somebody else has it.
    pub(super) fn try_take(database: &Path, suffix: &str) -> Result<Option<Self>> {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        loop {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let held = opened.map_err(|e| file(&path, "open the lock file of migrations", e))?;
            match held.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => {
                    return Err(file(&path, "lock the lock file of migrations", e));
                }
            }
            let lock = Self { path: path.clone(), held };
            // The one before may have removed the file between our opening and our locking it.
            if lock.is_held() {
                return Ok(Some(lock));
            }
        }
    }

    /// Whether the locked file is still the one by that name.
    pub(super) fn is_held(&self) -> bool {
        let id = |m: std::fs::Metadata| (m.dev(), m.ino());
        match (self.held.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => id(held) == id(named),
            _ => false,
        }
    }

    /// Gives the lock up and removes its file, while it is still locked.
    pub(super) fn release(self) {
        if self.is_held() {
            // A file that stays does no harm: the next one locks it again.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_its_file_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let first = FileLock::try_take(&database, "-lock").unwrap().unwrap();
        assert!(FileLock::try_take(&database, "-lock").unwrap().is_none());
        first.release();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let second = FileLock::try_take(&database, "-lock").unwrap().unwrap();
        std::fs::remove_file(folder.path().join("a.db-lock")).unwrap();
        assert!(!second.is_held(), "somebody removed it");
    }
}
