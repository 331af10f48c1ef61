//! What sqlx says, in the vocabulary of the ports. SQLSTATEs and SQLite's result codes are mapped here only.

use dm_core::{Effect, Error, ErrorKind};

/// Maps an error of a statement whose failure left nothing behind.
pub(crate) fn map(error: sqlx::Error) -> Error {
    build(error, Effect::None)
}

/// Maps an error of a COMMIT, or of a statement that commits by itself: a connection lost meanwhile leaves the outcome
/// open, also when the server still said why it ended it (a shutdown may come behind the commit).
pub(crate) fn map_commit(error: sqlx::Error) -> Error {
    let nothing_happened = match &error {
        sqlx::Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            match code.len() {
                5 => !(code.starts_with("57") || code.starts_with("08") || code == "40003"),
                // A disk that failed may have kept what it reported as lost.
                _ => code.parse().is_ok_and(|code: i32| code & 0xff != 10),
            }
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        _ => false,
    };
    build(error, if nothing_happened { Effect::None } else { Effect::Unknown })
}

/// Whether the row itself could not be read (a value of another type, text that is not UTF-8).
pub(crate) fn is_unreadable(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    matches!(error, E::ColumnDecode { .. } | E::Decode(_) | E::AnyDriverError(_))
}

/// Maps an error of SQLite's own interface, of a reading.
pub(crate) fn map_file(error: rusqlite::Error) -> Error {
    let (kind, message, hint) = match &error {
        rusqlite::Error::SqliteFailure(code, _) => sqlite(code.extended_code),
        _ => (ErrorKind::Internal, "an unexpected answer of the store", None),
    };
    verdict((kind, message, hint), Effect::None, error)
}

fn build(error: sqlx::Error, effect: Effect) -> Error {
    use sqlx::Error as E;
    if let E::Database(db) = &error {
        let code = db.code().unwrap_or_default().into_owned();
        return database(&code, error, effect);
    }
    let (kind, message, hint) = match &error {
        // The source may repeat the URL, so it is not kept.
        E::Configuration(_) | E::InvalidArgument(_) => {
            return Error::invalid("the store's URL is not understood")
                .with_hint("write sqlite:///path/state.db or postgres://user@host/database");
        }
        E::Io(_) | E::Protocol(_) | E::WorkerCrashed => {
            (ErrorKind::Unreachable, "the connection to the store failed", None)
        }
        E::Tls(_) => (
            ErrorKind::Unreachable,
            "the store's server offers no acceptable TLS",
            Some(
                "set sslrootcert= to the authority of its certificate, or sslmode= to what is really wanted",
            ),
        ),
        E::PoolTimedOut => (ErrorKind::Busy, "no connection to the store became free in time", None),
        E::PoolClosed => (ErrorKind::Unreachable, "the store is closed", None),
        e if is_unreadable(e) => (ErrorKind::Corrupt, "a row of the store cannot be read", None),
        _ => (ErrorKind::Internal, "an unexpected answer of the store", None),
    };
    verdict((kind, message, hint), effect, error)
}

fn database(code: &str, error: sqlx::Error, effect: Effect) -> Error {
    let said = if code.len() == 5 { sqlstate(code) } else { sqlite(code.parse().unwrap_or(1)) };
    verdict(said, effect, error)
}

type Verdict = (ErrorKind, &'static str, Option<&'static str>);

fn verdict(
    (kind, message, hint): Verdict,
    effect: Effect,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let mapped = Error::new(kind, message).with_effect(effect).with_source(source);
    match hint {
        Some(hint) => mapped.with_hint(hint),
        None => mapped,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn sqlstate(code: &str) -> Verdict {
    match code {
        "3D000" => (
            ErrorKind::NotFound,
            "the store's database does not exist",
            Some("create it, or name another in store.url"),
        ),
        "42501" => (
            ErrorKind::Denied,
            "the store's user lacks a privilege",
            Some("grant it CREATE on the database, or create the schema data_manager owned by it"),
        ),
        "25006" => (ErrorKind::Denied, "the store's server takes no writes (a standby?)", None),
        "23505" => (ErrorKind::AlreadyExists, "the store has such a row already", None),
        "40001" | "40P01" | "55P03" | "53300" => (ErrorKind::Busy, "the store is busy", None),
        _ if code.starts_with("28") => (
            ErrorKind::Denied,
            "the store's server refused the login",
            Some("check user and password in store.url"),
        ),
        _ if code.starts_with("23") => (ErrorKind::Invalid, "the store refused a value", None),
        _ if code.starts_with("53") => {
            (ErrorKind::Exhausted, "the store's server is out of space or memory", None)
        }
        _ if code.starts_with("57") || code.starts_with("08") => {
            (ErrorKind::Unreachable, "the store's server ended the connection", None)
        }
        _ if code.starts_with("XX") => (ErrorKind::Corrupt, "the store's server reports damage", None),
        _ => (ErrorKind::Internal, "the store refused a statement", None),
    }
}

/// <https://www.sqlite.org/rescode.html>; the primary code is the low byte of the extended one.
fn sqlite(extended: i32) -> Verdict {
    match (extended, extended & 0xff) {
        (1555 | 2067, _) => (ErrorKind::AlreadyExists, "the store has such a row already", None),
        (_, 5 | 6) => (ErrorKind::Busy, "the store is locked by another process", None),
        (_, 3 | 8 | 23) => {
            (ErrorKind::Denied, "the store's file may not be written", Some("check its owner and mode"))
        }
        (_, 13) => (ErrorKind::Exhausted, "the disk of the store is full", None),
        (_, 10) => (ErrorKind::Unreachable, "the disk of the store failed", None),
        (_, 11) => (
            ErrorKind::Corrupt,
            "the store's file is damaged",
            Some("keep the file for inspection and let a new store be made; backups are in the repository"),
        ),
        (_, 14) => {
            (ErrorKind::Denied, "the store's file cannot be opened", Some("check its folder, owner and mode"))
        }
        (_, 26) => (
            ErrorKind::Invalid,
            "the store's file is not an SQLite database",
            Some("name another path in store.url"),
        ),
        (_, 19) => (ErrorKind::Invalid, "the store refused a value", None),
        (_, 20) => (ErrorKind::Invalid, "the store refused a value of another type", None),
        _ => (ErrorKind::Internal, "the store refused a statement", None),
    }
}
