//! Folders that the servers' user gets into.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use crate::throwaway::{Folder, Servant};
use crate::{Failure, Unavailable};

/// A temporary folder for restored clusters and tablespaces: the user that servers run as gets through it, and it goes
/// away with the value, or with the process.
#[derive(Debug)]
pub struct Place {
    folder: Folder,
    servant: Option<Servant>,
}

impl Place {
    /// An empty one.
    ///
    /// # Errors
    /// When there is no user to run servers as, or no temporary folder to be had.
    pub fn new(name: &str) -> Result<Self, Unavailable> {
        let servant = Servant::find()?;
        // Kept by this process's own user, who can remove whatever either of them writes.
        let make = || -> Result<Folder, Failure> {
            let folder = Folder::new(name, None)?;
            folder.watch(&["true".to_owned()], false)?;
            set_mode(folder.path(), 0o755)?;
            Ok(folder)
        };
        let folder = make().map_err(|error| Unavailable::Broken(error.0))?;
        Ok(Self { folder, servant })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it; nothing is made.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets a program be run by the user that servers run as, as a server's own commands are.
    pub fn as_server(&self, command: &mut std::process::Command) {
        Servant::apply(self.servant, command);
    }

    /// Makes an empty folder in it that belongs to the servers' user, for a tablespace for example.
    ///
    /// # Errors
    /// When it is there already.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.join(name);
        fs::create_dir(&path).map_err(|e| failed("make", &path, &e))?;
        set_mode(&path, 0o700)?;
        give(self.servant, &path)?;
        Ok(path)
    }
}

/// Gives a cluster's directory and its tablespaces to the servers' user, with the mode that the server asks for.
pub(super) fn give_cluster(servant: Option<Servant>, data_dir: &Path) -> Result<(), Failure> {
    set_mode(data_dir, 0o700)?;
    give(servant, data_dir)?;
    let links = data_dir.join("pg_tblspc");
    for entry in fs::read_dir(&links).map_err(|e| failed("list", &links, &e))? {
        let link = entry.map_err(|e| failed("list", &links, &e))?.path();
        if link.is_symlink() {
            let target = fs::canonicalize(&link).map_err(|e| failed("follow", &link, &e))?;
            give(servant, &target)?;
        }
    }
    Ok(())
}

fn give(servant: Option<Servant>, path: &Path) -> Result<(), Failure> {
    let Some(servant) = servant else { return Ok(()) };
    lchown(path, Some(servant.uid()), Some(servant.gid())).map_err(|e| failed("give away", path, &e))?;
    if path.is_symlink() || !path.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|e| failed("list", path, &e))? {
        give(Some(servant), &entry.map_err(|e| failed("list", path, &e))?.path())?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| failed("set the mode of", path, &e))
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("cannot {verb} {}: {error}", path.display()))
}
