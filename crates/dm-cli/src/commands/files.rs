//! Local files that the program itself writes.

use std::io::{Read, Write};
use std::path::Path;

use data_manager::{Error, ErrorKind, Result};

/// More than any proof or checkpoint is.
const MOST: u64 = 1 << 20;

/// Reads a small text that somebody handed over.
///
/// # Errors
/// `NotFound`, `Denied`; `Invalid` when it is too large or no text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
        .map_err(|e| error(path, "the file cannot be read", e))?;
    let bad = |what: &str| Error::invalid(what).about(path.display().to_string());
    if bytes.len() as u64 > MOST {
        return Err(bad("the file is too large for a checkpoint or a proof"));
    }
    String::from_utf8(bytes).map_err(|_| bad("the file is not a text"))
}

/// Writes a new file; one that exists is not overwritten.
///
/// # Errors
/// `AlreadyExists`, `Denied`, `Exhausted`.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<()> {
    std::fs::File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|e| error(path, "the file cannot be written", e))
}

/// An error of such a file.
pub(crate) fn error(path: &Path, what: &str, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, what).about(path.display().to_string()).with_source(e)
}
