//! What a store's failure means to the caller.

use std::error::Error as StdError;
use std::io;

use dm_core::{Error, ErrorKind};
use object_store::Error as StoreError;

/// Translates a store's error about a key; the way out is in the hint.
pub(crate) fn store_error(error: StoreError, key: &str) -> Error {
    let (kind, message, hint) = describe(&error);
    let mut translated = Error::new(kind, message).about(key).with_source(error);
    if let Some(hint) = hint {
        translated = translated.with_hint(hint);
    }
    translated
}

fn describe(error: &StoreError) -> (ErrorKind, &'static str, Option<&'static str>) {
    const DENIED: &str =
        "check the credentials, and that they may list, read, write and delete under this location";
    match error {
        StoreError::NotFound { .. } => (ErrorKind::NotFound, "the object does not exist", None),
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
            (ErrorKind::AlreadyExists, "the object exists already", None)
        }
        StoreError::PermissionDenied { .. } => (ErrorKind::Denied, "the store refused access", Some(DENIED)),
        StoreError::Unauthenticated { .. } => {
            (ErrorKind::Denied, "the store did not accept the credentials", Some(DENIED))
        }
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "the store cannot do this", None)
        }
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => {
            (ErrorKind::Invalid, "the store did not accept the request", None)
        }
        other => match io_kind(other) {
            Some(io::ErrorKind::PermissionDenied) => (
                ErrorKind::Denied,
                "no permission",
                Some("give the user that runs this read and write permission on the repository's folder"),
            ),
            Some(io::ErrorKind::ReadOnlyFilesystem) => (
                ErrorKind::Denied,
                "the file system is read-only",
                Some("mount it writable, or choose another place for the repository"),
            ),
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) => {
                (
                    ErrorKind::Exhausted,
                    "no space is left in the store",
                    Some(
                        "free space or expire backups (what an unfinished backup wrote is removed by the next sweep)",
                    ),
                )
            }
            Some(io::ErrorKind::NotFound) => (ErrorKind::NotFound, "the object does not exist", None),
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) => (
                ErrorKind::Invalid,
                "a file stands where a folder is needed",
                Some("give the repository a folder of its own"),
            ),
            _ => (
                ErrorKind::Unreachable,
                "the store did not answer as it should",
                Some("check the endpoint, the network and the store's own state, then try again"),
            ),
        },
    }
}

/// The first I/O error in the chain of causes.
fn io_kind(error: &StoreError) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>()
            && io.kind() != io::ErrorKind::Other
        {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

/// Whether the same call may succeed when made again.
pub(crate) fn is_transient(error: &StoreError) -> bool {
    describe(error).0 == ErrorKind::Unreachable
}
