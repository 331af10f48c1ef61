//! What a server says of its log: who it is, where the log ends, on which timeline.

use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, LogPosition, Result};
use sqlx::postgres::PgConnection;

use super::history;
use super::segment::Shape;
use crate::error::reading;

/// What does not change while a server runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) system: u64,
    pub(super) shape: Shape,
}

/// Reads it.
pub(super) async fn identity(connection: &mut PgConnection) -> Result<Identity> {
    let (system, segment, page): (i64, i64, i64) = sqlx::query_as(
        "SELECT system_identifier,
                (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'),
                (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_block_size')
           FROM pg_catalog.pg_control_system()",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    let system = system.cast_unsigned();
    let shape = Shape {
        segment_bytes: segment.unsigned_abs(),
        page_bytes: page.unsigned_abs(),
        system: Some(system),
    };
    Ok(Identity { system, shape })
}

/// Where the log ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Everything before this is durable.
    pub(super) end: LogPosition,
    /// The server's clock, before the end was read.
    pub(super) now: DateTime<Utc>,
    /// Every commit that was confirmed by then lies before the end; the server's clock on a primary, the last commit that
    /// was replayed on a standby.
    pub(super) complete_at: DateTime<Utc>,
    pub(super) standby: bool,
}

/// The clock comes from below the materialised part, so it is read before the rest of the row is computed.
const PRIMARY: &str = "
    WITH c AS MATERIALIZED (
      SELECT pg_catalog.clock_timestamp() AS at, pg_catalog.pg_is_in_recovery() AS standby)
    SELECT (extract(epoch FROM c.at) * 1000000)::int8, c.standby,
           CASE WHEN NOT c.standby THEN pg_catalog.pg_current_wal_flush_lsn()::text END,
           CASE WHEN NOT c.standby THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()) END
      FROM c";

/// The timeline is read on both sides of the position: the two are of one moment only when it stayed the same.
const STANDBY: &str = "
    WITH c AS MATERIALIZED (
      SELECT pg_catalog.pg_last_xact_replay_timestamp() AS replayed_at, k.checkpoint_time, k.timeline_id,
             (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()) AS recovery_timeline
        FROM pg_catalog.pg_control_checkpoint() k)
    SELECT (extract(epoch FROM greatest(c.replayed_at, c.checkpoint_time)) * 1000000)::int8,
           greatest(c.timeline_id, c.recovery_timeline),
           (SELECT pid FROM pg_catalog.pg_stat_wal_receiver),
           (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
           pg_catalog.pg_last_wal_receive_lsn()::text, pg_catalog.pg_last_wal_replay_lsn()::text,
           (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)
      FROM c";

type StandbyRow =
    (Option<i64>, Option<i32>, Option<i32>, Option<i32>, Option<String>, Option<String>, Option<i32>);

/// Looks where the log ends; `None` when a standby is just changing over and cannot tell.
pub(super) async fn look(connection: &mut PgConnection) -> Result<Option<Look>> {
    let (now, standby, flushed, file): (i64, bool, Option<String>, Option<String>) =
        sqlx::query_as(PRIMARY).fetch_one(&mut *connection).await.map_err(reading)?;
    let now = instant(now)?;
    if !standby {
        let timeline = file.as_deref().and_then(|f| f.get(..8)).and_then(|t| u32::from_str_radix(t, 16).ok());
        let (Some(timeline), Some(offset)) = (timeline, flushed.as_deref().and_then(history::lsn)) else {
            return Err(Error::internal("the server's answer about its log was not understood"));
        };
        let end = LogPosition { timeline, offset };
        return Ok(Some(Look { end, now, complete_at: now, standby }));
    }
    let (complete_at, own, receiver, before, received, replayed, after): StandbyRow =
        sqlx::query_as(STANDBY).fetch_one(&mut *connection).await.map_err(reading)?;
    if receiver.is_some() && before.is_none() {
        return Err(Error::new(
            ErrorKind::Denied,
            "the server is a standby, and this role may not see what it receives",
        )
        .with_hint("GRANT pg_read_all_stats to the role, or follow the primary"));
    }
    let (Some(complete_at), Some(own), true) = (complete_at, own, before == after) else { return Ok(None) };
    // Without a receiver the log comes from an archive: what was replayed is there.
    let (timeline, end) = match before {
        Some(timeline) => (timeline, received),
        None => (own, replayed),
    };
    let end = end.as_deref().and_then(history::lsn);
    let (Some(end), Ok(timeline)) = (end, u32::try_from(timeline)) else { return Ok(None) };
    let end = LogPosition { timeline, offset: end };
    Ok(Some(Look { end, now, complete_at: instant(complete_at)?.min(now), standby }))
}

/// Microseconds since 1970 as an instant: the driver is built without types of time.
pub(super) fn instant(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| Error::internal("the server gave a time that is none"))
}

/// Where recovery would begin if the server crashed now, and since when everything before it has been confirmed.
pub(super) async fn redo(connection: &mut PgConnection) -> Result<(u64, DateTime<Utc>)> {
    let (redo, at): (String, i64) = sqlx::query_as(
        "SELECT redo_lsn::text, (extract(epoch FROM checkpoint_time) * 1000000)::int8
           FROM pg_catalog.pg_control_checkpoint()",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    let redo = history::lsn(&redo)
        .ok_or_else(|| Error::internal("the server's answer about its log was not understood"))?;
    Ok((redo, instant(at)?))
}
