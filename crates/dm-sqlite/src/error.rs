//! The one place where SQLite's result codes and the file system's errors become kinds.
//!
//! Codes: <https://www.sqlite.org/rescode.html>. What the statement meant for the database follows from the code too:
//! SQLite undoes a failed statement by itself, so the effect is `None` unless the commit itself failed in I/O.

use std::path::Path;

use dm_core::{EngineKind, Error, ErrorKind};
use rusqlite::ffi;

/// Turns SQLite's error into the port's. The original stays as the source.
pub(crate) fn sqlite(error: rusqlite::Error) -> Error {
    // That form carries the statement's whole text, values written into it included: not for a log.
    let error = match error {
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
            let place = if offset >= 0 { format!(" at byte {offset}") } else { String::new() };
            rusqlite::Error::SqliteFailure(error, Some(format!("{msg}{place}")))
        }
        other => other,
    };
    let code = error.sqlite_error().map(|e| e.extended_code);
    let (kind, message, hint) = match code {
        Some(code) => by_code(code),
        None => by_form(&error),
    };
    let mut mapped = Error::new(kind, message).on_engine(EngineKind::Sqlite);
    if let Some(hint) = hint {
        mapped = mapped.with_hint(hint);
    }
    mapped.with_source(error)
}

/// The same, saying which file or table it was about.
pub(crate) fn sqlite_about(subject: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| sqlite(error).about(subject)
}

type Mapped = (ErrorKind, &'static str, Option<&'static str>);

fn by_code(extended: i32) -> Mapped {
    use ErrorKind::{Busy, Conflict, Corrupt, Denied, Exhausted, Interrupted, Invalid, Unreachable};
    match extended {
        ffi::SQLITE_BUSY_SNAPSHOT => {
            return (Conflict, "another connection wrote since this transaction began reading", None);
        }
        ffi::SQLITE_READONLY_DBMOVED => {
            return (
                Conflict,
                "the database file was moved or replaced while it was open",
                Some("open the database again"),
            );
        }
        ffi::SQLITE_CANTOPEN_SYMLINK => {
            return (Denied, "the path is a symbolic link, which is not followed here", None);
        }
        _ => {}
    }
    match extended & 0xff {
        ffi::SQLITE_CONSTRAINT => (Conflict, "a constraint does not hold", None),
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => (
            Busy,
            "the database is in use by another connection",
            Some("try again later, or raise the busy timeout"),
        ),
        ffi::SQLITE_READONLY => (
            Denied,
            "the database may not be written",
            Some("make the file and its folder writable for this user, or do not open it read-only"),
        ),
        ffi::SQLITE_PERM | ffi::SQLITE_AUTH => (Denied, "access was refused", None),
        ffi::SQLITE_CANTOPEN => (
            Denied,
            "the file cannot be opened",
            Some("check that the file is readable and its folder is writable for this user"),
        ),
        ffi::SQLITE_NOTADB => (
            Corrupt,
            "the file is not a sqlite database, or it is encrypted",
            Some("check the path; an encrypted database cannot be read by this engine"),
        ),
        ffi::SQLITE_CORRUPT => (
            Corrupt,
            "the database is damaged",
            Some("run PRAGMA integrity_check, and restore the last good backup"),
        ),
        ffi::SQLITE_FULL => (Exhausted, "the disk is full", Some("free some space and try again")),
        ffi::SQLITE_NOMEM => (Exhausted, "out of memory", None),
        ffi::SQLITE_IOERR => (Unreachable, "reading or writing the database file failed", None),
        ffi::SQLITE_INTERRUPT | ffi::SQLITE_ABORT => (Interrupted, "interrupted", None),
        ffi::SQLITE_SCHEMA => (Conflict, "the schema changed meanwhile", None),
        ffi::SQLITE_ERROR => (Invalid, "the statement was refused", None),
        ffi::SQLITE_TOOBIG => (Invalid, "a text or a value is larger than sqlite allows", None),
        ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE => (Invalid, "a value does not fit where it is bound", None),
        ffi::SQLITE_NOLFS => (ErrorKind::Unsupported, "the file system cannot hold files of this size", None),
        _ => (ErrorKind::Internal, "sqlite answered unexpectedly", None),
    }
}

fn by_form(error: &rusqlite::Error) -> Mapped {
    use rusqlite::Error as E;
    match error {
        E::MultipleStatement => (
            ErrorKind::Invalid,
            "the text holds more than one statement",
            Some("send one statement at a time; use a transaction to keep them together"),
        ),
        E::NulError(_) => (ErrorKind::Invalid, "the text holds a NUL character", None),
        E::InvalidQuery | E::InvalidParameterName(_) | E::InvalidParameterCount(..) => {
            (ErrorKind::Invalid, "the statement was refused", None)
        }
        E::InvalidPath(_) => (ErrorKind::Invalid, "the path cannot be handed to sqlite", None),
        E::QueryReturnedNoRows | E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) => {
            (ErrorKind::Internal, "sqlite answered unexpectedly", None)
        }
        _ => (ErrorKind::Internal, "the sqlite driver failed", None),
    }
}

/// Turns an error of the file system into the port's, with the path as the subject.
pub(crate) fn file(path: &Path, what: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => ErrorKind::Exhausted,
        Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename => ErrorKind::Invalid,
        _ => ErrorKind::Unreachable,
    };
    let mapped = Error::new(kind, format!("cannot {what}"))
        .about(path.display().to_string())
        .on_engine(EngineKind::Sqlite);
    let mapped = match kind {
        ErrorKind::Exhausted => mapped.with_hint("free some space and try again"),
        ErrorKind::Denied => mapped.with_hint("make the file and its folder accessible for this user"),
        _ => mapped,
    };
    mapped.with_source(error)
}

/// The error for a thread that ended without an answer: a defect.
pub(crate) fn thread_died() -> Error {
    Error::internal("a database thread ended without an answer").on_engine(EngineKind::Sqlite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_the_codes() {
        let kind = |code| sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).kind();
        assert_eq!(kind(ffi::SQLITE_CONSTRAINT_UNIQUE), ErrorKind::Conflict);
        assert_eq!(kind(ffi::SQLITE_BUSY), ErrorKind::Busy);
        assert_eq!(kind(ffi::SQLITE_BUSY_SNAPSHOT), ErrorKind::Conflict);
        assert_eq!(kind(ffi::SQLITE_READONLY_DBMOVED), ErrorKind::Conflict);
        assert_eq!(kind(ffi::SQLITE_NOTADB), ErrorKind::Corrupt);
        assert_eq!(kind(ffi::SQLITE_FULL), ErrorKind::Exhausted);
        assert_eq!(kind(ffi::SQLITE_IOERR_READ), ErrorKind::Unreachable);
        assert_eq!(kind(ffi::SQLITE_ERROR), ErrorKind::Invalid);
        assert_eq!(kind(ffi::SQLITE_READONLY_DIRECTORY), ErrorKind::Denied);
    }
}
