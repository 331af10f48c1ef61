//! The run lock: advisory locks that are only ever tried for.
//!
//! A session that waits for an advisory lock holds a snapshot, and `CREATE INDEX CONCURRENTLY` waits for every older
//! snapshot: a waiting runner and a working one would wait for each other for good. So nobody waits in the server.
//!
//! Three locks make up the run lock. One is held by a connection of its own, so that nothing a migration does (`DISCARD ALL`,
//! `pg_advisory_unlock_all`) can lose it. One is held by the connection that works: a statement that outlives a killed
//! runner keeps it until it ends. The third, on the same connection, is sqlx's own.

use dm_core::Result;
use sqlx::postgres::PgConnection;

use super::history::Table;
use crate::error::reading;

/// First halves of the keys, `dmmr` (run) and `dmmw` (work); the second half is made of the history's table.
pub(super) const RUN_CLASS: i32 = 0x646D_6D72;
pub(super) const WORK_CLASS: i32 = 0x646D_6D77;

/// sqlx's key: this number times the CRC-32 of the database's name (sqlx-postgres, `migrate.rs`).
const SQLX_FACTOR: i64 = 0x3d32_ad9e;

/// Tries for one of our locks.
pub(super) async fn try_ours(connection: &mut PgConnection, class: i32, table: &Table) -> Result<bool> {
    sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))")
        .bind(class)
        .bind(table.quoted())
        .fetch_one(connection)
        .await
        .map_err(reading)
}

/// Gives one of our locks back.
pub(super) async fn release_ours(connection: &mut PgConnection, class: i32, table: &Table) -> Result<()> {
    sqlx::query("SELECT pg_catalog.pg_advisory_unlock($1, pg_catalog.hashtext($2))")
        .bind(class)
        .bind(table.quoted())
        .execute(connection)
        .await
        .map(drop)
        .map_err(reading)
}

/// Whether this session still has one of our locks.
pub(super) async fn has_ours(connection: &mut PgConnection, class: i32, table: &Table) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted
                           AND pid = pg_catalog.pg_backend_pid() AND objsubid = 2 AND classid::int8 = $1
                           AND objid::int8 = pg_catalog.hashtext($2)::int8 & 4294967295)",
    )
    .bind(i64::from(class))
    .bind(table.quoted())
    .fetch_one(connection)
    .await
    .map_err(reading)
}

/// Tries for the lock that sqlx takes.
pub(super) async fn try_sqlx(connection: &mut PgConnection) -> Result<bool> {
    let database: String = sqlx::query_scalar("SELECT pg_catalog.current_database()::text")
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)?;
    sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1)")
        .bind(sqlx_key(&database))
        .fetch_one(connection)
        .await
        .map_err(reading)
}

fn sqlx_key(database: &str) -> i64 {
    SQLX_FACTOR.wrapping_mul(i64::from(crc32(database.as_bytes())))
}

/// CRC-32 as in ISO-HDLC (zip, Ethernet), bit by bit: a database's name is short.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
