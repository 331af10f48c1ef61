//! What keeps the log on the server: a physical replication slot, and who uses it.
//!
//! Reading by polling leaves no trace on a slot that others could see, so whoever follows also takes an advisory lock, and
//! names its connection after the slot: locks are per database, names are seen from everywhere.

use dm_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;

use super::history::lsn;
use crate::client::Client;
use crate::error::{reading, sqlstate, writing};

/// First half of the advisory lock's key, `dmlg`; the second is made of the slot's name.
const LOCK_CLASS: i32 = 0x646D_6C67;

/// Checks a slot's name by the server's rule.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    Err(Error::invalid(format!("\"{name}\" cannot be the name of a replication slot"))
        .with_hint("use up to 63 of a-z, 0-9 and _"))
}

/// The client whose connections are named after the slot.
pub(super) fn named(client: &Client, holder: &str) -> Client {
    let mut client = client.clone();
    client.options.application_name = label(holder);
    client
}

/// As much as the server keeps of it.
fn label(holder: &str) -> String {
    let mut label = format!("dm log {holder}");
    label.truncate(63);
    label
}

/// A slot as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) physical: bool,
    /// A replication connection streams from it.
    pub(super) streaming: bool,
    /// From where on the server keeps the log.
    pub(super) from: Option<u64>,
    pub(super) lost: bool,
}

/// Looks at a slot.
pub(super) async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<Slot>> {
    let row: Option<(String, bool, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT slot_type, active, restart_lsn::text, wal_status
           FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
    )
    .bind(name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(reading)?;
    Ok(row.map(|(kind, streaming, from, status)| Slot {
        physical: kind == "physical",
        streaming,
        from: from.as_deref().and_then(lsn),
        lost: status.as_deref() == Some("lost"),
    }))
}

/// Whether somebody else follows through the slot.
pub(super) async fn in_use(connection: &mut PgConnection, name: &str) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
                         WHERE application_name = $1 AND pid <> pg_catalog.pg_backend_pid())
             OR EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $2 AND active)",
    )
    .bind(label(name))
    .bind(name)
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)
}

/// Takes the slot's lock for as long as the connection lives.
///
/// # Errors
/// `Busy`.
pub(super) async fn lock(connection: &mut PgConnection, name: &str) -> Result<()> {
    let locked: bool =
        sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))")
            .bind(LOCK_CLASS)
            .bind(name)
            .fetch_one(&mut *connection)
            .await
            .map_err(reading)?;
    if locked && !in_use(connection, name).await? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, format!("somebody else follows the log through \"{name}\""))
        .with_hint("end the other one, or choose another name for the slot"))
}

/// What the role may do with slots.
pub(super) async fn may_hold(connection: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)
}

/// What became of a slot when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// From where on the server keeps the log.
    pub(super) from: u64,
    /// It had been there and the server had given it up.
    pub(super) was_lost: bool,
}

/// Takes the slot, makes it when it is not there, and makes it anew when the server has given it up.
pub(super) async fn take(connection: &mut PgConnection, name: &str) -> Result<Taken> {
    let mut was_lost = false;
    match find(connection, name).await? {
        Some(slot) if !slot.physical => {
            return Err(Error::invalid(format!("the replication slot \"{name}\" is a logical one"))
                .with_hint("choose another name for the slot"));
        }
        Some(Slot { from: Some(from), lost: false, .. }) => return Ok(Taken { from, was_lost }),
        Some(slot) => {
            was_lost = slot.lost;
            drop_slot(connection, name).await?;
        }
        None => {}
    }
    let made: Option<String> =
        sqlx::query_scalar("SELECT lsn::text FROM pg_catalog.pg_create_physical_replication_slot($1, true)")
            .bind(name)
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| {
                let state = sqlstate(&e);
                let error = writing(e);
                match state.as_deref() {
                    // configuration_limit_exceeded
                    Some("53400") => {
                        error.with_hint("raise max_replication_slots, or drop a slot that nobody needs")
                    }
                    Some("42501") => error.with_hint("ALTER ROLE … REPLICATION"),
                    _ => error,
                }
            })?;
    let from = made.as_deref().and_then(lsn);
    let from = from.ok_or_else(|| Error::internal("the server made a slot that holds nothing"))?;
    Ok(Taken { from, was_lost })
}

/// How an advance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advanced {
    Done,
    /// The slot is not there any more, or the server has given it up.
    Gone,
}

/// Lets the server forget what is before a place.
pub(super) async fn advance(connection: &mut PgConnection, name: &str, to: u64) -> Result<Advanced> {
    let to = format!("{:X}/{:X}", to >> 32, to & 0xFFFF_FFFF);
    let result = sqlx::query("SELECT pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)")
        .bind(name)
        .bind(to)
        .execute(&mut *connection)
        .await;
    match result {
        Ok(_) => Ok(Advanced::Done),
        // undefined_object; object_not_in_prerequisite_state
        Err(e) if matches!(sqlstate(&e).as_deref(), Some("42704" | "55000")) => {
            // The second has other reasons too: only what is seen counts.
            match find(connection, name).await? {
                Some(Slot { from: Some(_), lost: false, .. }) => Err(reading(e)),
                _ => Ok(Advanced::Gone),
            }
        }
        // Whether it was done does not matter: it is done again.
        Err(e) => Err(reading(e)),
    }
}

/// Drops a slot.
pub(super) async fn drop_slot(connection: &mut PgConnection, name: &str) -> Result<()> {
    sqlx::query("SELECT pg_catalog.pg_drop_replication_slot($1)")
        .bind(name)
        .execute(&mut *connection)
        .await
        .map(drop)
        .map_err(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_servers_rule() {
        for good in ["dm_log", "a", "0", &"x".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Dm", "a-b", "a b", "é", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(label(&"x".repeat(63)).len(), 63);
    }
}
