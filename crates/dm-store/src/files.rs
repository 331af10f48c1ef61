//! Files only the owner may read: run reports and audit details are nobody else's business.

use std::fs;
use std::path::Path;

use dm_core::{Error, ErrorKind, Result};

/// Makes the folder (0700, with its parents) and an empty file (0600) where they are missing. A file that others may
/// read is closed to them; a folder that exists is left as it is. SQLite gives its `-wal` and `-shm` files the mode
/// of the database itself.
pub(crate) fn prepare(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(|e| io(e, folder, "the store's folder cannot be made"))?;
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file =
        options.open(path).map_err(|e| io(e, path, "the store's file cannot be opened for writing"))?;
    let meta = file.metadata().map_err(|e| io(e, path, "the store's file cannot be looked at"))?;
    if !meta.is_file() {
        return Err(Error::invalid("the store's path is not a file").about(path.display().to_string()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode();
        if mode & 0o077 != 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(|e| {
                io(e, path, "the store's file is open to others and cannot be closed to them")
            })?;
            tracing::warn!(path = %path.display(), "the store's file was open to others; its mode is 0600 now");
        }
    }
    Ok(())
}

fn io(error: std::io::Error, path: &Path, message: &str) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::Exhausted,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, message)
        .about(path.display().to_string())
        .with_hint("name a path that this user may write in store.url")
        .with_source(error)
}
