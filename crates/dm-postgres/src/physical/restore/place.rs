//! Folders: what stands there, making them, making them durable, giving them their name, removing them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use dm_core::{ByteSize, EngineKind, Error, ErrorKind, Finding, Level, Result};

use super::marker::Marker;
use super::preview::device;
use super::programs::RunAs;
use crate::physical::control::ControlFile;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Nothing,
    /// A folder without anything in it.
    Empty,
    /// A data directory, or what an interrupted restore left of one.
    Cluster {
        system_identifier: Option<String>,
        running: Option<u32>,
    },
    /// Something else; the first name in it.
    Foreign(String),
}

impl Standing {
    pub(super) fn is_occupied(&self) -> bool {
        !matches!(self, Self::Nothing | Self::Empty)
    }
}

/// Looks.
pub(super) fn standing(path: &Path) -> Result<Standing> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Standing::Nothing),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Standing::Foreign("a file".to_owned()));
        }
        Err(e) => return Err(failed(path, "look into", e)),
    };
    let Some(first) = entries.next() else { return Ok(Standing::Empty) };
    let marker = Marker::read(path)?;
    if marker.is_none() && !path.join("PG_VERSION").exists() {
        let first = first.map_err(|e| failed(path, "look into", e))?;
        return Ok(Standing::Foreign(first.file_name().to_string_lossy().into_owned()));
    }
    let system_identifier = system_identifier(path)?.or(marker.map(|m| m.system_identifier));
    Ok(Standing::Cluster { system_identifier, running: running(path)? })
}

/// The cluster's number, out of its control file; `None` when that is missing or damaged.
fn system_identifier(data: &Path) -> Result<Option<String>> {
    let path = data.join("global/pg_control");
    match fs::read(&path) {
        Ok(bytes) => Ok(ControlFile::parse(&bytes)?.map(|c| c.system_identifier.to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(&path, "read", e)),
    }
}

/// The process of a server that runs in a data directory.
pub(super) fn running(data: &Path) -> Result<Option<u32>> {
    let path = data.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(&path, "read", e)),
    };
    // A standalone backend writes its number negative.
    let number = text.lines().next().and_then(|l| l.trim().trim_start_matches('-').parse::<i32>().ok());
    let Some(pid) = number.and_then(rustix::process::Pid::from_raw) else { return Ok(None) };
    if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return Ok(None);
    }
    // The number may be another process's by now. A server's working folder is its data directory; where that cannot be
    // seen, it counts as running.
    let folder = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    let elsewhere = matches!((&folder, fs::canonicalize(data)), (Ok(folder), Ok(data)) if *folder != data);
    Ok((!elsewhere).then(|| pid.as_raw_nonzero().get().unsigned_abs()))
}

pub(super) fn is_mount_point(path: &Path) -> bool {
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// The same name, or with a number behind it when it is taken.
pub(super) fn free_name(first: &Path) -> PathBuf {
    let mut name = first.to_owned();
    let mut number = 2;
    while fs::symlink_metadata(&name).is_ok() {
        name = super::plan::beside(first, &format!("-{number}"));
        number += 1;
    }
    name
}

/// Whether there is room for so many bytes.
pub(super) fn room(folder: &Path, bytes: u64) -> Result<Finding> {
    let stat =
        rustix::fs::statvfs(folder).map_err(|e| failed(folder, "ask for the free space of", e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let (need, have) = (ByteSize(bytes), ByteSize(free));
    Ok(match free >= bytes {
        true => Finding::new(Level::Ok, "disk_space", format!("{need} are needed, {have} are free")),
        false => Finding::new(
            Level::Error,
            "disk_space",
            format!("{need} are needed at {}, {have} are free", folder.display()),
        )
        .with_mend("free space, or restore elsewhere"),
    })
}

/// Makes a folder that is open to its owner alone; one that stands there is taken over when `existing`.
pub(super) fn make_folder(path: &Path, user: Option<&RunAs>, existing: bool) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if existing && e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(|e| failed(path, "close", e))?;
        }
        Err(e) => return Err(failed(path, "make", e)),
    }
    give(path, user)
}

/// Makes a folder and those above it that are missing.
pub(super) fn make_folders(path: &Path, user: Option<&RunAs>) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folders(parent, user)?;
    }
    // Several members of a folder come at once.
    make_folder(path, user, true)
}

/// Gives a path to the user that runs the server.
pub(super) fn give(path: &Path, user: Option<&RunAs>) -> Result<()> {
    match user {
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
            .map_err(|e| failed(path, "give away", e)),
        None => Ok(()),
    }
}

/// A small file, whole or not at all, and durable.
pub(super) fn write_file(path: &Path, text: &[u8], user: Option<&RunAs>) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = super::plan::beside(path, ".dm-draft");
    remove_file(&draft)?;
    let written = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text)?;
        file.sync_all()
    };
    written().map_err(|e| failed(&draft, "write", e))?;
    give(&draft, user)?;
    fs::rename(&draft, path).map_err(|e| failed(path, "write", e))?;
    sync_parent(path)
}

/// Makes the entries of the folder around a path durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|f| f.sync_all()).map_err(|e| failed(parent, "make durable", e))
}

/// Removes a file, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove", e)),
        _ => Ok(()),
    }
}

/// Removes a folder and all in it, if it is there.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove", e)),
        _ => Ok(()),
    }
}

/// Removes a folder if nothing is in it.
pub(super) fn remove_empty(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(failed(path, "remove", e))
        }
        _ => Ok(()),
    }
}

/// Removes all that is in a folder.
pub(super) fn empty_folder(path: &Path) -> Result<()> {
    empty_folder_but(path, "")
}

/// Removes all that is in a folder but what has this name.
pub(super) fn empty_folder_but(path: &Path, kept: &str) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|e| failed(path, "look into", e))? {
        let entry = entry.map_err(|e| failed(path, "look into", e))?;
        if entry.file_name() == kept {
            continue;
        }
        match entry.file_type().map_err(|e| failed(&entry.path(), "look at", e))?.is_dir() {
            true => remove_tree(&entry.path())?,
            false => remove_file(&entry.path())?,
        }
    }
    Ok(())
}

/// Whether nothing is in a folder but what has this name.
pub(super) fn has_only(path: &Path, name: &str) -> Result<bool> {
    for entry in fs::read_dir(path).map_err(|e| failed(path, "look into", e))? {
        if entry.map_err(|e| failed(path, "look into", e))?.file_name() != name {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives a folder its name. Nothing but an empty folder may stand there.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| match e.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::AlreadyExists, "somebody took the name meanwhile")
                .about(to.display().to_string())
                .with_source(e)
        }
        _ => failed(to, "give the data directory its name", e),
    })?;
    sync_parent(to)
}

/// Everything that was written below these folders becomes durable.
///
/// On Linux by the file system as a whole, once: a call for each of a hundred thousand small files takes minutes. The
/// handles are opened before anything is written, for only they hear of what failed since.
#[derive(Debug)]
pub(super) struct Durability {
    folders: Vec<(PathBuf, File)>,
}

impl Durability {
    pub(super) fn of<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let mut devices = BTreeSet::new();
        let mut opened = Vec::new();
        for folder in folders {
            let file = File::open(folder).map_err(|e| failed(folder, "open", e))?;
            let device = file.metadata().map_err(|e| failed(folder, "look at", e))?.dev();
            if devices.insert(device) || cfg!(not(target_os = "linux")) {
                opened.push((folder.to_owned(), file));
            }
        }
        Ok(Self { folders: opened })
    }

    #[cfg(target_os = "linux")]
    pub(super) fn reach(&self) -> Result<()> {
        for (path, file) in &self.folders {
            rustix::fs::syncfs(file).map_err(|e| failed(path, "make durable", e.into()))?;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn reach(&self) -> Result<()> {
        fn each(path: &Path) -> io::Result<()> {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    each(&entry.path())?;
                } else if kind.is_file() {
                    File::open(entry.path())?.sync_all()?;
                }
            }
            File::open(path)?.sync_all()
        }
        for (path, _) in &self.folders {
            each(path).map_err(|e| failed(path, "make durable", e))?;
        }
        Ok(())
    }
}

/// The error for an operation on a file.
pub(super) fn failed(path: &Path, verb: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::Exhausted
        }
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {verb} {}: {error}", path.display())).on_engine(EngineKind::Postgres)
}
