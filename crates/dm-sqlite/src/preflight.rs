//! The look before a backup.

use std::path::{Path, PathBuf};

use dm_core::{
    BackupMode, BackupRequest, ByteSize, Error, ErrorKind, Finding, Level, OpContext, Preflight, Result,
};

use crate::connect::{self, Purpose};
use crate::{SqliteOptions, disk, schema};

/// Where temporary files go.
pub(crate) fn scratch_dir(request: &BackupRequest) -> PathBuf {
    request.scratch_dir.clone().unwrap_or_else(std::env::temp_dir)
}

/// Room for the copy: its size, a twentieth more for a database that grows meanwhile, and a little.
pub(crate) fn scratch_bytes(database: u64) -> u64 {
    database.saturating_add(database / 20).saturating_add(16 << 20)
}

/// What an adapter of whole files cannot do.
pub(crate) fn unsupported(request: &BackupRequest) -> Option<Error> {
    if !request.include_tables.is_empty() || !request.exclude_tables.is_empty() {
        return Some(
            Error::unsupported("a sqlite backup is always of the whole file, not of some tables")
                .with_hint("leave out the table filters; single tables can be chosen at restore"),
        );
    }
    if request.tenant.is_some() {
        return Some(
            Error::unsupported("a sqlite backup is always of the whole file, not of one tenant's rows")
                .with_hint(
                    "leave out the tenant; an application that keeps one file a tenant backs up that file",
                ),
        );
    }
    if request.mode == Some(BackupMode::Logical) {
        return Some(
            Error::unsupported("a sqlite backup is of the file's pages, there is no logical mode")
                .with_hint("leave out the mode, or choose physical"),
        );
    }
    None
}

/// Looks. Blocks; runs behind a gate.
pub(crate) fn look(
    _ctx: &OpContext,
    path: &Path,
    options: &SqliteOptions,
    request: &BackupRequest,
) -> Result<Preflight> {
    let mut preflight = Preflight::default();
    if let Some(error) = unsupported(request) {
        preflight.findings.push(from_error("request", &error));
    }
    match size(path, options) {
        Ok((bytes, journal_mode)) => {
            preflight.estimated_bytes = bytes;
            preflight.findings.push(Finding::new(
                Level::Ok,
                "open",
                format!("{} opens, {}", path.display(), ByteSize(bytes)),
            ));
            preflight.findings.push(journal_finding(&journal_mode));
        }
        Err(error) if error.kind() == ErrorKind::Interrupted || error.kind() == ErrorKind::Timeout => {
            return Err(error);
        }
        Err(error) => {
            preflight.findings.push(from_error("open", &error));
            return Ok(preflight);
        }
    }
    let (folder, need) = (scratch_dir(request), scratch_bytes(preflight.estimated_bytes));
    preflight.findings.push(room(&folder, need, options));
    preflight.scratch = Some((folder, need));
    Ok(preflight)
}

fn size(path: &Path, options: &SqliteOptions) -> Result<(u64, String)> {
    let connection = connect::live(path, options, Purpose::Reading)?;
    let pages = u64::try_from(schema::pragma_number(&connection, "page_count")?).unwrap_or_default();
    let page = u64::try_from(schema::pragma_number(&connection, "page_size")?).unwrap_or_default();
    // Reads the definitions: a file with a good header and a broken schema does not pass.
    schema::tables(&connection, "main")?;
    Ok((pages * page, schema::pragma_text(&connection, "journal_mode")?))
}

pub(crate) fn journal_finding(journal_mode: &str) -> Finding {
    if journal_mode == "wal" {
        return Finding::new(Level::Ok, "journal_mode", "wal: a backup does not hold up writers");
    }
    Finding::new(
        Level::Info,
        "journal_mode",
        format!("{journal_mode}: writers wait for short moments while a backup copies"),
    )
    .with_mend("PRAGMA journal_mode=WAL lets readers and a writer work side by side")
}

/// Whether a folder can take so many bytes.
pub(crate) fn room(folder: &Path, need: u64, options: &SqliteOptions) -> Finding {
    if !folder.is_dir() {
        return Finding::new(Level::Error, "disk_space", format!("{} is not a folder", folder.display()))
            .with_mend("make the folder, or name another one");
    }
    if !disk::folder_is_writable(folder) {
        return Finding::new(Level::Error, "disk_space", format!("{} is not writable", folder.display()))
            .with_mend("make the folder writable for this user, or name another one");
    }
    match options.free_space.at(folder) {
        Ok(free) if free < need => Finding::new(
            Level::Error,
            "disk_space",
            format!("{} has {} free, {} are needed", folder.display(), ByteSize(free), ByteSize(need)),
        )
        .with_mend("free some space, or name a folder on another disk"),
        Ok(free) => Finding::new(
            Level::Ok,
            "disk_space",
            format!("{} has {} free, {} are needed", folder.display(), ByteSize(free), ByteSize(need)),
        ),
        Err(e) => Finding::new(Level::Warning, "disk_space", format!("free space is unknown: {e}")),
    }
}

/// A finding of level `Error` out of an error, with its cause and its way out.
pub(crate) fn from_error(check: &str, error: &Error) -> Finding {
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        message.push_str(&format!(" ({source})"));
    }
    let finding = Finding::new(Level::Error, check, message);
    match error.hint() {
        Some(hint) => finding.with_mend(hint),
        None => finding,
    }
}
