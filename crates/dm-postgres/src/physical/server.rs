//! What has to be known of a server before its files are copied.

use dm_core::{Error, ErrorKind, OpContext, Result, ServerVersion};
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::{Lsn, NEWEST_MAJOR, OLDEST_MAJOR};
use crate::catalog;
use crate::client::Client;
use crate::error::reading;
use crate::session::open_pinned;

/// A server and its settings.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) version: ServerVersion,
    pub(super) facts: Facts,
}

/// What one query tells.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) version_num: i32,
    pub(super) block_bytes: i64,
    pub(super) wal_block_bytes: i64,
    pub(super) wal_segment_bytes: i64,
    /// Blocks in one file of a relation.
    pub(super) segment_blocks: i64,
    pub(super) data_checksums: bool,
    /// Whether a change of hint bits alone also moves a page's LSN.
    pub(super) hints_logged: bool,
    pub(super) full_page_writes: bool,
    pub(super) wal_level: String,
    pub(super) in_recovery: bool,
    /// When the server was started, which tells it from the same one started anew.
    pub(super) started: String,
    pub(super) system_identifier: String,
    /// Megabytes of old log that the server keeps anyway; -1 is everything.
    pub(super) wal_keep_megabytes: i64,
    pub(super) summarize_wal: bool,
    /// The backend's process id.
    pub(super) pid: i32,
    /// Whether the role may make replication slots.
    pub(super) replication: bool,
}

impl Facts {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            version_num: row.try_get("version_num")?,
            block_bytes: row.try_get("block_bytes")?,
            wal_block_bytes: row.try_get("wal_block_bytes")?,
            wal_segment_bytes: row.try_get("wal_segment_bytes")?,
            segment_blocks: row.try_get("segment_blocks")?,
            data_checksums: row.try_get("data_checksums")?,
            hints_logged: row.try_get("hints_logged")?,
            full_page_writes: row.try_get("full_page_writes")?,
            wal_level: row.try_get("wal_level")?,
            in_recovery: row.try_get("in_recovery")?,
            started: row.try_get("started")?,
            system_identifier: row.try_get("system_identifier")?,
            wal_keep_megabytes: row.try_get("wal_keep_megabytes")?,
            summarize_wal: row.try_get("summarize_wal")?,
            pid: row.try_get("pid")?,
            replication: row.try_get("replication")?,
        })
    }
}

const FACTS: &str = include_str!("../sql/physical/server.sql");

impl Server {
    /// Asks.
    pub(super) async fn look(connection: &mut PgConnection) -> Result<Self> {
        let version = catalog::version(connection).await?;
        if !(OLDEST_MAJOR..=NEWEST_MAJOR).contains(&version.major) {
            return Err(Error::unsupported(format!(
                "a physical backup of PostgreSQL {} is not supported",
                version.text
            ))
            .with_hint(format!(
                "PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR} can be copied; take a logical backup of others"
            )));
        }
        let row = sqlx::query(FACTS).fetch_one(connection).await.map_err(reading)?;
        Ok(Self { version, facts: Facts::of(&row).map_err(reading)? })
    }

    pub(super) fn block_bytes(&self) -> u32 {
        u32::try_from(self.facts.block_bytes).unwrap_or(8192)
    }

    pub(super) fn wal_block_bytes(&self) -> usize {
        usize::try_from(self.facts.wal_block_bytes).unwrap_or(8192)
    }

    pub(super) fn wal_segment_bytes(&self) -> u64 {
        self.facts.wal_segment_bytes.unsigned_abs()
    }

    /// The first block of a relation's n-th file.
    pub(super) fn first_block(&self, segment: u32) -> u32 {
        u32::try_from(self.facts.segment_blocks).unwrap_or(131_072).wrapping_mul(segment)
    }
}

/// The functions that a copy is made with, as they are granted.
pub(super) const FUNCTIONS: [&str; 5] = [
    "pg_catalog.pg_backup_start(text, boolean)",
    "pg_catalog.pg_backup_stop(boolean)",
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// The functions that the role may not execute.
pub(super) async fn missing_functions(connection: &mut PgConnection) -> Result<Vec<&'static str>> {
    let names: Vec<String> = FUNCTIONS.iter().map(|f| (*f).to_owned()).collect();
    let allowed: Vec<bool> = sqlx::query_scalar(
        "SELECT pg_catalog.has_function_privilege(f, 'EXECUTE') FROM pg_catalog.unnest($1::text[]) AS t(f)",
    )
    .bind(names)
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    Ok(FUNCTIONS.iter().zip(allowed).filter(|(_, allowed)| !allowed).map(|(name, _)| *name).collect())
}

/// Where the log ends that is safely on the server's disk: nothing may be read behind it.
pub(super) async fn end_of_log(connection: &mut PgConnection) -> Result<Option<Lsn>> {
    let text: Option<String> = sqlx::query_scalar(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                     THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
                     ELSE pg_catalog.pg_current_wal_flush_lsn() END::text",
    )
    .fetch_one(connection)
    .await
    .map_err(reading)?;
    text.map(|t| t.parse()).transpose()
}

/// Another connection to the same server, started at the same moment.
pub(super) async fn open_same(ctx: &OpContext, client: &Client, server: &Server) -> Result<PgConnection> {
    let mut connection = open_pinned(ctx, client).await?;
    let row = ctx
        .run(async {
            sqlx::query(
                "SELECT pg_catalog.pg_postmaster_start_time()::text,
                        (SELECT system_identifier::text FROM pg_catalog.pg_control_system())",
            )
            .fetch_one(&mut connection)
            .await
            .map_err(reading)
        })
        .await?;
    let started: String = row.try_get(0).map_err(reading)?;
    let identifier: String = row.try_get(1).map_err(reading)?;
    let changed = |what: &str| Error::new(ErrorKind::Conflict, what).with_hint(AGAIN);
    if identifier != server.facts.system_identifier {
        return Err(changed("another server answers at the address than when the backup began"));
    }
    if started != server.facts.started {
        return Err(changed("the server was restarted during the backup"));
    }
    Ok(connection)
}

/// The way out of everything that ends a copy halfway.
pub(super) const AGAIN: &str = "take the backup again: nothing of this one was committed";
