//! Connections that read files: so many at once, all to the same running server.

use std::sync::Arc;

use bytes::Bytes;
use dm_core::{OpContext, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnection, PgRow, PgValue};
use sqlx::{Row, Value, ValueRef};

use super::server::{Server, open_same};
use crate::client::Client;
use crate::error::reading;
use crate::lending::{Lending, Loan};

/// Bytes of one row. 128 to 512 KiB are fastest; of 4 MiB rows a server gives half as many bytes in the same time.
pub(super) const CHUNK_BYTES: u64 = 256 << 10;
/// Bytes and rows of one query. One query in flight keeps a backend busy: its rows are streamed.
const QUERY_BYTES: u64 = 32 << 20;
const QUERY_ROWS: usize = 4096;

/// A piece of a file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Relative to the data directory.
    pub(super) path: Arc<str>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The connections.
#[derive(Debug)]
pub(super) struct Connections {
    client: Client,
    server: Server,
    lending: Lending,
}

impl Connections {
    /// A pool with one connection that is open already.
    pub(super) fn new(client: Client, server: Server, first: PgConnection, jobs: usize) -> Self {
        Self { client, server, lending: Lending::new(vec![first], jobs) }
    }

    /// Waits for a place and gives a connection.
    pub(super) async fn borrow(&self, ctx: &OpContext) -> Result<Loan> {
        self.lending.borrow(ctx, Box::pin(self.open(ctx))).await
    }

    /// Takes a connection back.
    pub(super) fn give_back(&self, loan: Loan) {
        self.lending.give_back(loan);
    }

    /// One more connection, beside those on loan.
    pub(super) async fn open(&self, ctx: &OpContext) -> Result<PgConnection> {
        open_same(ctx, &self.client, &self.server).await
    }

    /// Closes what is idle.
    pub(super) async fn close(&self) {
        self.lending.close().await;
    }
}

/// Cuts a range into pieces of one row each.
pub(super) fn pieces(path: &Arc<str>, start: u64, end: u64) -> impl Iterator<Item = Piece> + use<> {
    let path = Arc::clone(path);
    let mut offset = start;
    std::iter::from_fn(move || {
        let length = end.saturating_sub(offset).min(CHUNK_BYTES);
        let piece = (length > 0).then(|| Piece { path: Arc::clone(&path), offset, length });
        offset += length;
        piece
    })
}

/// Takes as many pieces as fit into one query.
pub(super) fn next_query(pieces: &mut impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut bytes = 0;
    let mut query = Vec::new();
    while bytes + CHUNK_BYTES <= QUERY_BYTES && query.len() < QUERY_ROWS {
        let Some(piece) = pieces.next() else { break };
        bytes += piece.length;
        query.push(piece);
    }
    query
}

/// Reads pieces in one query, in their order; `None` for a file that is not there any more, and fewer bytes than asked
/// for where it has become shorter.
pub(super) fn read<'a>(
    connection: &'a mut PgConnection,
    query: &[Piece],
) -> BoxStream<'a, Result<Option<Bytes>>> {
    let paths: Vec<String> = query.iter().map(|p| p.path.to_string()).collect();
    let offsets: Vec<i64> = query.iter().map(|p| p.offset.cast_signed()).collect();
    let lengths: Vec<i64> = query.iter().map(|p| p.length.cast_signed()).collect();
    sqlx::query(
        "SELECT pg_catalog.pg_read_binary_file(path, start, length, true)
           FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::int8[]), pg_catalog.unnest($3::int8[]))
                AS piece(path, start, length)",
    )
    .bind(paths)
    .bind(offsets)
    .bind(lengths)
    .fetch(connection)
    .map_err(reading)
    .map(|row| row.and_then(|row| content(&row)))
    .boxed()
}

/// The row's one value, without copying it out of what was received.
fn content(row: &PgRow) -> Result<Option<Bytes>> {
    let value = row.try_get_raw(0).map_err(reading)?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(Bytes::from_owner(Received(ValueRef::to_owned(&value)))))
}

/// A value that keeps what was received alive.
struct Received(PgValue);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        // Null was looked for before this was made.
        self.0.as_ref().as_bytes().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_rows_and_rows_into_queries() {
        let path: Arc<str> = "base/5/16384".into();
        let mut all = pieces(&path, 8192, (64 << 20) + 100);
        let (mut offset, mut queries) = (8192, 0);
        loop {
            let query = next_query(&mut all);
            if query.is_empty() {
                break;
            }
            queries += 1;
            assert!(query.iter().map(|p| p.length).sum::<u64>() <= QUERY_BYTES);
            for piece in query {
                assert_eq!(piece.offset, offset);
                offset += piece.length;
            }
        }
        assert_eq!((offset, queries), ((64 << 20) + 100, 2));
    }
}
