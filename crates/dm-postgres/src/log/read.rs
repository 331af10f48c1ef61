//! Reading files of `pg_wal` through a connection.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use dm_core::{Error, Result};
use futures::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::segment::{self, Shape};
use super::server::instant;
use crate::error::reading;

/// One row of an answer. Small rows stream; large ones are built up whole on both sides.
const CHUNK_BYTES: u64 = 256 << 10;
/// More than any history file has.
const HISTORY_BYTES: i64 = 1 << 20;

/// Bytes of a file of `pg_wal`, and when it was last written to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) written_at: DateTime<Utc>,
}

/// Reads a range of a file's bytes; `None` when the file is not there, or is not there any more after it was read: then it
/// may have been recycled meanwhile, and what was read may be anything.
///
/// # Errors
/// `Corrupt` when the file is shorter.
pub(super) async fn range(
    connection: &mut PgConnection,
    file: &str,
    range: Range<u64>,
) -> Result<Option<Found>> {
    let path = format!("pg_wal/{file}");
    let (mut offsets, mut lengths) = (Vec::new(), Vec::new());
    let mut at = range.start;
    while at < range.end {
        let length = CHUNK_BYTES.min(range.end - at);
        offsets.push(at.cast_signed());
        lengths.push(length.cast_signed());
        at += length;
    }
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(wanted);
    let mut rows = sqlx::query(
        "SELECT pg_catalog.pg_read_binary_file($1, o, l, true), o FROM unnest($2::int8[], $3::int8[]) u(o, l)",
    )
    .bind(&path)
    .bind(offsets)
    .bind(lengths)
    .fetch(&mut *connection);
    let mut missing = false;
    while let Some(row) = rows.try_next().await.map_err(reading)? {
        let at: i64 = row.try_get(1).map_err(reading)?;
        // A chunk that is not there, or is short, leaves the next one behind its place.
        missing |= at.unsigned_abs() != range.start + bytes.len() as u64;
        match row.try_get::<Option<&[u8]>, _>(0).map_err(reading)? {
            Some(chunk) => bytes.extend_from_slice(chunk),
            None => missing = true,
        }
    }
    drop(rows);
    let Some(written_at) = written_at(connection, &path).await? else { return Ok(None) };
    if bytes.is_empty() {
        return Ok(None);
    }
    if missing || bytes.len() < wanted {
        return Err(Error::corrupt(format!("the server's file {file} is shorter than its log")));
    }
    Ok(Some(Found { bytes: bytes.freeze(), written_at }))
}

async fn written_at(connection: &mut PgConnection, path: &str) -> Result<Option<DateTime<Utc>>> {
    let micros: Option<i64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM (pg_catalog.pg_stat_file($1, true)).modification) * 1000000)::int8",
    )
    .bind(path)
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    micros.map(instant).transpose()
}

/// Reads how a timeline began; `None` when the server does not know.
pub(super) async fn history(connection: &mut PgConnection, timeline: u32) -> Result<Option<Found>> {
    let path = format!("pg_wal/{}", segment::history_name(timeline));
    let bytes: Option<Vec<u8>> = sqlx::query_scalar("SELECT pg_catalog.pg_read_binary_file($1, 0, $2, true)")
        .bind(&path)
        .bind(HISTORY_BYTES)
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)?;
    let Some(bytes) = bytes else { return Ok(None) };
    let written_at = written_at(connection, &path).await?;
    Ok(written_at.map(|written_at| Found { bytes: bytes.into(), written_at }))
}

/// The first segment of a timeline behind a place, and before another, that is there and holds what its name says.
pub(super) async fn next_segment(
    connection: &mut PgConnection,
    shape: &Shape,
    timeline: u32,
    behind: Range<u64>,
) -> Result<Option<u64>> {
    let mut after = segment::name_of(timeline, behind.start, shape.segment_bytes);
    loop {
        let name: Option<String> = sqlx::query_scalar(
            "SELECT f COLLATE \"C\" FROM pg_catalog.pg_ls_dir('pg_wal', true, false) f
              WHERE f ~ '^[0-9A-F]{24}$' AND left(f, 8) = left($1, 8) AND f COLLATE \"C\" > $1
              ORDER BY 1 LIMIT 1",
        )
        .bind(&after)
        .fetch_optional(&mut *connection)
        .await
        .map_err(reading)?;
        let Some(name) = name else { return Ok(None) };
        let start = match segment::FileName::parse(&name) {
            Some(segment::FileName::Segment { log, number, .. }) => {
                segment::start_of(log, number, shape.segment_bytes)
            }
            _ => None,
        };
        match start {
            Some(start) if start < behind.end => {
                let page = range(connection, &name, 0..shape.page_bytes.min(behind.end - start)).await?;
                if page.is_some_and(|p| shape.check(&p.bytes, start, timeline).is_ok()) {
                    return Ok(Some(start));
                }
            }
            _ => return Ok(None),
        }
        after = name;
    }
}
