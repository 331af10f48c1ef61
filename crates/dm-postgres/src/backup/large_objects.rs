//! Large objects: who owns them, and what is in them.
//!
//! The content member is a sequence of frames, each `oid` (4 bytes), `offset` (8), `length` (4), all big-endian, and so many
//! bytes. An object comes in frames of [`FRAME_BYTES`] in order; its last frame is shorter, and empty when it must be. The
//! frames are what the digest counts as rows, so the size of a frame is part of the format.

use dm_core::{Block, ContentDigest, Error, Result};
use futures::channel::mpsc;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::rows::RowBlocks;
use super::session::send_ready;
use crate::error::reading;

/// The member with the content.
pub(crate) const MEMBER: &str = "large-objects/content";
/// The member with owners, privileges and comments.
pub(crate) const FACTS_MEMBER: &str = "large-objects/facts.json";
/// The most content of one frame.
pub(crate) const FRAME_BYTES: usize = 256 << 10;
/// Bytes before a frame's content.
pub(crate) const FRAME_HEAD: usize = 16;

/// Objects begun in one statement; with the size of a frame this bounds memory.
const OBJECTS_AT_ONCE: i64 = 32;

/// What is known of a large object besides its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LargeObjectFacts {
    pub(crate) oid: i64,
    pub(crate) owner: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) comment: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) grants: Vec<crate::catalog::DatabaseGrant>,
}

/// All large objects' facts.
pub(super) async fn facts(connection: &mut PgConnection) -> Result<Vec<LargeObjectFacts>> {
    let rows = sqlx::query(
        "SELECT m.oid::int8 AS oid, pg_catalog.pg_get_userbyid(m.lomowner)::text AS owner,
                pg_catalog.obj_description(m.oid, 'pg_largeobject') AS comment,
                COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                        'grantee', CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                        'privilege', a.privilege_type, 'grantable', a.is_grantable))
                    FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.grantee <> m.lomowner), '[]'::jsonb)::text AS grants
           FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid",
    )
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    rows.into_iter()
        .map(|row| {
            let grants: String = row.try_get("grants").map_err(reading)?;
            Ok(LargeObjectFacts {
                oid: row.try_get("oid").map_err(reading)?,
                owner: row.try_get("owner").map_err(reading)?,
                comment: row.try_get("comment").map_err(reading)?,
                grants: serde_json::from_str(&grants).map_err(|e| {
                    Error::internal("a large object's privileges were not understood").with_source(e)
                })?,
            })
        })
        .collect()
}

/// Reads all content; false when the consumer went away.
pub(super) async fn read(
    connection: &mut PgConnection,
    rows: &mut RowBlocks,
    sender: &mut mpsc::Sender<Result<Block>>,
) -> Result<bool> {
    let mut frames = Frames::default();
    while let Some(frame) = frames.next(connection).await? {
        if rows.row(&frame) && !send_ready(sender, rows).await {
            return Ok(false);
        }
    }
    Ok(send_ready(sender, rows).await)
}

/// The number of frames and their digest, for a comparison.
pub(crate) async fn digest_all(connection: &mut PgConnection, key: [u8; 32]) -> Result<(u64, ContentDigest)> {
    let mut hasher = dm_core::RowHasher::new(key);
    let mut frames = Frames::default();
    while let Some(frame) = frames.next(connection).await? {
        hasher.row(frame.strip_suffix(b"\n").unwrap_or(&frame));
    }
    Ok((hasher.digest().rows(), hasher.digest()))
}

/// Walks all large objects in order of their oids.
#[derive(Default)]
struct Frames {
    after: i64,
    /// Frames that are here already, next first.
    ready: std::collections::VecDeque<(i64, u64, Vec<u8>)>,
    /// The object whose last frame was full, and where it goes on.
    open: Option<(i64, u64)>,
    ended: bool,
}

impl Frames {
    async fn next(&mut self, connection: &mut PgConnection) -> Result<Option<Vec<u8>>> {
        if let Some((oid, offset)) = self.open.take() {
            let content = part(connection, oid, offset).await?;
            return Ok(Some(self.frame(oid, offset, &content)));
        }
        if self.ready.is_empty() && !self.ended {
            self.fill(connection).await?;
        }
        match self.ready.pop_front() {
            Some((oid, offset, content)) => Ok(Some(self.frame(oid, offset, &content))),
            None => Ok(None),
        }
    }

    fn frame(&mut self, oid: i64, offset: u64, content: &[u8]) -> Vec<u8> {
        if content.len() == FRAME_BYTES {
            self.open = Some((oid, offset + FRAME_BYTES as u64));
        }
        let mut frame = Vec::with_capacity(FRAME_HEAD + content.len());
        frame.extend(u32::try_from(oid).unwrap_or(0).to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(content);
        frame
    }

    async fn fill(&mut self, connection: &mut PgConnection) -> Result<()> {
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT m.oid::int8, pg_catalog.lo_get(m.oid, 0, $2)
               FROM (SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid > $1::int8::oid
                      ORDER BY oid LIMIT $3) m",
        )
        .bind(self.after)
        .bind(i32::try_from(FRAME_BYTES).unwrap_or(i32::MAX))
        .bind(OBJECTS_AT_ONCE)
        .fetch_all(connection)
        .await
        .map_err(reading)?;
        self.ended = rows.is_empty();
        for (oid, content) in rows {
            self.after = self.after.max(oid);
            self.ready.push_back((oid, 0, content));
        }
        Ok(())
    }
}

async fn part(connection: &mut PgConnection, oid: i64, offset: u64) -> Result<Vec<u8>> {
    sqlx::query_scalar("SELECT pg_catalog.lo_get($1::int8::oid, $2, $3)")
        .bind(oid)
        .bind(i64::try_from(offset).unwrap_or(i64::MAX))
        .bind(i32::try_from(FRAME_BYTES).unwrap_or(i32::MAX))
        .fetch_one(connection)
        .await
        .map_err(reading)
}
