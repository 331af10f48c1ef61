//! The driver's errors and the server's codes, mapped to the error of the ports.
//!
//! Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use dm_core::{Effect, EngineKind, Error, ErrorKind};
use sqlx::postgres::PgDatabaseError;

/// What was being done, as far as it decides the effect of a lost connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum During {
    /// Connecting, reading: nothing can have changed.
    Reading,
    /// A statement that may have changed something, outside of a transaction, or a commit.
    Writing,
}

/// The kind for an SQLSTATE.
fn kind_of(code: &str) -> ErrorKind {
    match code {
        // invalid_catalog_name, undefined_table, undefined_column, undefined_object, invalid_schema_name
        "3D000" | "42P01" | "42704" | "3F000" | "3B001" => ErrorKind::NotFound,
        "42P04" | "42P06" | "42P07" | "42710" | "42723" => ErrorKind::AlreadyExists,
        "42501" | "28000" | "28P01" => ErrorKind::Denied,
        // too_many_connections, lock_not_available, object_in_use, cannot_connect_now, objects in use
        "53300" | "55P03" | "55006" | "57P03" | "2BP01" => ErrorKind::Busy,
        // query_canceled comes from statement_timeout; a cancellation by us drops the statement instead.
        "57014" => ErrorKind::Timeout,
        "57P01" | "57P02" | "57P05" | "25P03" => ErrorKind::Unreachable,
        "0A000" => ErrorKind::Unsupported,
        "25P02" => ErrorKind::Conflict,
        "XX001" | "XX002" => ErrorKind::Corrupt,
        _ => match code.get(..2).unwrap_or_default() {
            "08" => ErrorKind::Unreachable,
            "23" | "40" => ErrorKind::Conflict,
            "53" | "54" => ErrorKind::Exhausted,
            "58" => ErrorKind::Exhausted,
            "21" | "22" | "25" | "26" | "34" | "42" | "44" | "P0" => ErrorKind::Invalid,
            "28" => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        },
    }
}

fn hint_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "check the user and the password of the engine's url",
        "28000" => "check pg_hba.conf on the server and the user, sslmode and database of the engine's url",
        "3D000" => "check the database's name in the engine's url, or create it",
        "53300" => "raise max_connections, or lower jobs and connection_limit",
        "53100" => "free space on the server's disk",
        "53200" => "raise max_locks_per_transaction or the server's memory",
        "42501" => "grant the missing privilege, or connect as a role that has it",
        "57P03" => "the server is starting up or shutting down; try again later",
        _ => return None,
    })
}

/// Maps an error of the driver.
pub(crate) fn map(error: sqlx::Error, during: During) -> Error {
    let lost = |message: &str| {
        Error::new(ErrorKind::Unreachable, message).with_effect(if during == During::Writing {
            Effect::Unknown
        } else {
            Effect::None
        })
    };
    let mapped = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(std::borrow::Cow::into_owned).unwrap_or_default();
            let kind = kind_of(&code);
            let mut message = format!("the server refused: {} (SQLSTATE {code})", database.message());
            if let Some(detail) = database.try_downcast_ref::<PgDatabaseError>().and_then(|e| e.detail()) {
                // Details of constraint violations quote rows, which must not reach a log.
                if kind != ErrorKind::Conflict && kind != ErrorKind::Invalid {
                    message.push_str(&format!(": {detail}"));
                }
            }
            let lost = kind == ErrorKind::Unreachable && during == During::Writing;
            let mapped =
                Error::new(kind, message).with_effect(if lost { Effect::Unknown } else { Effect::None });
            return match hint_of(&code) {
                Some(hint) => mapped.with_hint(hint),
                None => mapped,
            }
            .on_engine(EngineKind::Postgres);
        }
        sqlx::Error::Io(_) => lost("the connection to the server failed"),
        sqlx::Error::Tls(_) => {
            Error::new(ErrorKind::Unreachable, "the encrypted connection could not be made")
                .with_hint("check sslmode and sslrootcert of the engine's url")
        }
        sqlx::Error::PoolTimedOut => Error::new(ErrorKind::Busy, "no connection became free in time")
            .with_hint("raise connection_limit"),
        sqlx::Error::PoolClosed => Error::new(ErrorKind::Unreachable, "the engine was closed"),
        sqlx::Error::Configuration(_) => Error::invalid("the connection's settings cannot be used"),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
            Error::invalid("a parameter cannot be sent to the server")
        }
        sqlx::Error::RowNotFound => Error::internal("the server gave no row where one was expected"),
        sqlx::Error::Protocol(_) => {
            Error::internal("the server's answer was not understood").with_effect(match during {
                During::Writing => Effect::Unknown,
                During::Reading => Effect::None,
            })
        }
        _ => Error::internal("the driver failed"),
    };
    mapped.on_engine(EngineKind::Postgres).with_source(error)
}

/// Maps an error of a read.
pub(crate) fn reading(error: sqlx::Error) -> Error {
    map(error, During::Reading)
}

/// Maps an error of a change.
pub(crate) fn writing(error: sqlx::Error) -> Error {
    map(error, During::Writing)
}

/// The SQLSTATE of a driver's error.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_only_retryable_when_nothing_can_have_happened() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(reading(lost()).is_retryable());
        assert_eq!(writing(lost()).effect(), Effect::Unknown);
        assert!(!writing(lost()).is_retryable());
    }

    #[test]
    fn codes_become_kinds() {
        for (code, kind) in [
            ("23505", ErrorKind::Conflict),
            ("40001", ErrorKind::Conflict),
            ("40P01", ErrorKind::Conflict),
            ("42601", ErrorKind::Invalid),
            ("22P02", ErrorKind::Invalid),
            ("42501", ErrorKind::Denied),
            ("28P01", ErrorKind::Denied),
            ("3D000", ErrorKind::NotFound),
            ("53100", ErrorKind::Exhausted),
            ("53300", ErrorKind::Busy),
            ("08006", ErrorKind::Unreachable),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
