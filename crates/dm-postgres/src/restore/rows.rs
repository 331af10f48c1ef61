//! Rows and large objects on their way back.

use bytes::{Buf, BytesMut};
use dm_core::{Error, OpContext, RestoreContent, Result};
use futures::StreamExt;
use sqlx::postgres::PgConnection;

use super::plan::TableMember;
use crate::backup::{FRAME_BYTES, FRAME_HEAD};
use crate::error::writing;
use crate::sql::{qualified, quote_ident};

/// Writes rows by `COPY`. On an error the connection is not to be used again.
pub(super) async fn copy_in(
    connection: &mut PgConnection,
    table: &TableMember,
    content: RestoreContent,
) -> Result<u64> {
    copy_into(connection, &qualified(&table.schema, &table.name), &table.columns, content).await
}

/// The same, to a table by its quoted name.
pub(super) async fn copy_into(
    connection: &mut PgConnection,
    name: &str,
    columns: &[String],
    mut content: RestoreContent,
) -> Result<u64> {
    let columns = match columns.is_empty() {
        true => String::new(),
        false => format!(" ({})", columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", ")),
    };
    let statement = format!("COPY {name}{columns} FROM STDIN");
    let mut copy = connection.copy_in_raw(&statement).await.map_err(writing)?;
    while let Some(block) = content.next().await {
        let block = match block {
            Ok(block) => block,
            Err(error) => {
                // The server must not take what came so far for the whole.
                if let Err(abort) = copy.abort("the backup could not be read").await {
                    tracing::debug!(error = %abort, "a COPY was not aborted in good order");
                }
                return Err(error);
            }
        };
        copy.send(block.bytes).await.map_err(writing)?;
    }
    copy.finish().await.map_err(writing)
}

/// Writes large objects.
pub(super) async fn large_objects_in(
    ctx: &OpContext,
    connection: &mut PgConnection,
    mut content: RestoreContent,
) -> Result<()> {
    let mut buffer = BytesMut::new();
    let mut ended = false;
    while !ended {
        match content.next().await {
            Some(block) => buffer.extend_from_slice(&block?.bytes),
            None => ended = true,
        }
        while let Some((oid, offset, length)) = head(&buffer)? {
            if buffer.len() < FRAME_HEAD + length {
                break;
            }
            ctx.check()?;
            buffer.advance(FRAME_HEAD);
            let bytes = buffer.split_to(length).freeze();
            let query = match offset {
                0 => sqlx::query("SELECT pg_catalog.lo_from_bytea($1::int8::oid, $2)")
                    .bind(oid)
                    .bind(bytes.as_ref()),
                _ => sqlx::query("SELECT pg_catalog.lo_put($1::int8::oid, $3, $2)")
                    .bind(oid)
                    .bind(bytes.as_ref())
                    .bind(offset),
            };
            query.execute(&mut *connection).await.map_err(writing)?;
        }
    }
    match buffer.is_empty() {
        true => Ok(()),
        false => Err(Error::corrupt("the large objects end in the middle of a frame")),
    }
}

/// The head of the next frame, once it is there.
fn head(buffer: &[u8]) -> Result<Option<(i64, i64, usize)>> {
    let Some(mut head) = buffer.get(..FRAME_HEAD) else { return Ok(None) };
    let (oid, offset, length) = (head.get_u32(), head.get_u64(), head.get_u32());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match i64::try_from(offset) {
        Ok(offset) if length <= FRAME_BYTES => Ok(Some((oid.into(), offset, length))),
        _ => Err(Error::corrupt("a frame of the large objects is not one")),
    }
}
