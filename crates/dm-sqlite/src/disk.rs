//! The few things asked of the file system itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dm_core::{Error, Result};

use crate::error::file as file_error;

/// Free bytes for an unprivileged user at a path, or at its nearest folder that exists.
pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let mut at = path;
    loop {
        match rustix::fs::statvfs(at) {
            Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(rustix::io::Errno::NOENT) => match at.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => at = parent,
                _ => return Err(Error::not_found("no such folder").about(path.display().to_string())),
            },
            Err(e) => return Err(file_error(path, "ask for the free space", e.into())),
        }
    }
}

/// Whether this user may make and remove files in a folder.
pub(crate) fn folder_is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Makes a new empty file that only its owner may open.
pub(crate) fn create_private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| file_error(path, "create the file", e))
}

/// Makes a file's content durable. Only for files that no SQLite connection has open: see the crate's head.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| file_error(path, "make the file durable", e))
}

/// Makes the names in a path's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| file_error(folder, "make the folder durable", e))
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The path with a suffix behind its whole name: `x.db` and `-wal` give `x.db-wal`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The files that SQLite keeps beside a database, those that exist.
pub(crate) fn companions(path: &Path) -> Vec<(&'static str, PathBuf)> {
    ["-journal", "-wal", "-shm"]
        .into_iter()
        .map(|suffix| (suffix, with_suffix(path, suffix)))
        .filter(|(_, path)| exists(path))
        .collect()
}

/// Whether something has this name, a dangling link included.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A file's size, `None` when there is no such file.
pub(crate) fn size_of(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(path, "look at the file", e)),
    }
}

/// Gives a file the mode and, as far as this user may, the owner of another.
pub(crate) fn copy_mode_and_owner(from: &fs::Metadata, to: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let now = fs::metadata(to).map_err(|e| file_error(to, "look at the file", e))?;
    // The owner first: changing it may clear bits of the mode.
    if (now.uid(), now.gid()) != (from.uid(), from.gid()) {
        std::os::unix::fs::chown(to, Some(from.uid()), Some(from.gid()))
            .map_err(|e| file_error(to, "give the file to the owner of the previous one", e))?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(from.mode() & 0o7777))
        .map_err(|e| file_error(to, "set the file's mode", e))
}

/// Renames to a name that must be free. Atomic where the system can; elsewhere a hard link that fails on an
/// existing name, and then an unlink.
pub(crate) fn rename_to_free_name(from: &Path, to: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(from, to).map_err(|e| file_error(to, "give the file its name", e))?;
            fs::remove_file(from).map_err(|e| file_error(from, "remove the temporary name", e))
        }
        Err(e) => Err(file_error(to, "give the file its name", e.into())),
    }
}

/// Removes a file that may be missing.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_error(path, "remove the file", e)),
        _ => Ok(()),
    }
}
