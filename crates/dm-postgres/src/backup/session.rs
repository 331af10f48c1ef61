//! An open backup: reading members under the snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dm_core::{
    BackupRequest, BackupSession, Block, BlockStream, ContentDigest, Error, ErrorKind, MemberSpec, OpContext,
    Result, SessionSummary, SourceDescription, TableFacts,
};
use futures::{SinkExt, StreamExt, channel::mpsc};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use tokio::io::AsyncReadExt;

use super::members::{Reading, SequenceValue};
use super::rows::RowBlocks;
use super::snapshot::Snapshot;
use super::{LARGE_OBJECT_FACTS, large_objects};
use crate::catalog::Relation;
use crate::error::reading;
use crate::session::close;
use crate::sql::dynamic;

/// Blocks read ahead of the consumer, for each member.
const READ_AHEAD: usize = 2;

/// Sequences read in one statement.
const SEQUENCES_AT_ONCE: usize = 200;

/// What the reading of a member leaves behind: rows and digest of a table, or of a part of it.
type Outcome = Option<(String, u64, Option<ContentDigest>)>;

/// What the tasks that read share.
struct Shared {
    snapshot: Snapshot,
    digest_key: Option<[u8; 32]>,
    block_bytes: usize,
    /// Members that were read to their end.
    finished: Mutex<BTreeMap<String, Outcome>>,
}

/// A backup under way.
pub(super) struct LogicalBackup {
    description: SourceDescription,
    members: Vec<MemberSpec>,
    readings: BTreeMap<String, Reading>,
    shared: Arc<Shared>,
    control: PgConnection,
    warnings: Vec<String>,
    /// Removed with everything in it when the session ends.
    scratch: tempfile::TempDir,
}

type Sender = mpsc::Sender<Result<Block>>;

impl LogicalBackup {
    /// Puts a session together.
    pub(super) fn new(
        description: SourceDescription,
        members: Vec<(MemberSpec, Reading)>,
        snapshot: Snapshot,
        control: PgConnection,
        scratch: tempfile::TempDir,
        warnings: Vec<String>,
        request: &BackupRequest,
    ) -> Self {
        let readings = members.iter().map(|(spec, how)| (spec.name.clone(), how.clone())).collect();
        Self {
            description,
            members: members.into_iter().map(|(spec, _)| spec).collect(),
            readings,
            shared: Arc::new(Shared {
                snapshot,
                digest_key: request.content_digests.then_some(request.digest_key),
                block_bytes: request.block_bytes,
                finished: Mutex::default(),
            }),
            control,
            warnings,
            scratch,
        }
    }

    fn facts(&self) -> Result<Vec<TableFacts>> {
        let finished = self.shared.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables: BTreeMap<String, (u64, Option<ContentDigest>)> = BTreeMap::new();
        for member in &self.members {
            let Some(outcome) = finished.get(&member.name) else {
                return Err(Error::internal("a member was not read to its end").about(&member.name));
            };
            let Some((table, rows, digest)) = outcome else { continue };
            let (sum_rows, sum) =
                tables.entry(table.clone()).or_insert((0, digest.map(|_| ContentDigest::default())));
            *sum_rows += rows;
            if let (Some(sum), Some(digest)) = (sum, digest) {
                *sum += *digest;
            }
        }
        Ok(tables.into_iter().map(|(table, (rows, digest))| TableFacts::new(table, rows, digest)).collect())
    }
}

#[async_trait]
impl BackupSession for LogicalBackup {
    fn describe(&self) -> &SourceDescription {
        &self.description
    }

    fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    async fn read(&self, ctx: &OpContext, member: &MemberSpec) -> Result<BlockStream> {
        let how = self
            .readings
            .get(&member.name)
            .ok_or_else(|| Error::not_found("the backup has no such member").about(&member.name))?
            .clone();
        let (mut sender, receiver) = mpsc::channel(READ_AHEAD);
        let (shared, ctx, member) = (Arc::clone(&self.shared), ctx.clone(), member.clone());
        // A task of its own, so that reading and hashing go on while the consumer compresses what it has. It ends when
        // the receiver is dropped: its next send fails.
        tokio::spawn(async move {
            let outcome = ctx.run(Box::pin(shared.read(&ctx, &member, how, &mut sender))).await;
            match outcome {
                Ok(Some(outcome)) => {
                    shared
                        .finished
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(member.name.clone(), outcome);
                }
                Ok(None) => {}
                Err(error) => drop(sender.send(Err(error.about(&member.name))).await),
            }
        });
        Ok(receiver.boxed())
    }

    async fn finish(self: Box<Self>, ctx: &OpContext) -> Result<SessionSummary> {
        let tables = self.facts()?;
        let Self { shared, mut control, warnings, scratch, .. } = *self;
        // The snapshot lives as long as the transaction that exported it: had that ended, readers that came later
        // would have failed, and this does too.
        let lost = |e| {
            Error::new(ErrorKind::Conflict, "the snapshot was lost during the backup").with_source(reading(e))
        };
        ctx.run(async {
            control.ping().await.map_err(lost)?;
            control.execute("COMMIT").await.map(drop).map_err(lost)
        })
        .await?;
        shared.snapshot.close().await;
        close(control).await;
        if let Err(error) = scratch.close() {
            tracing::warn!(%error, "temporary files of a backup were left behind");
        }
        Ok(SessionSummary { tables, warnings, ..SessionSummary::default() })
    }
}

impl Shared {
    /// Reads a member; `None` when the consumer went away.
    async fn read(
        &self,
        ctx: &OpContext,
        member: &MemberSpec,
        how: Reading,
        sender: &mut Sender,
    ) -> Result<Option<Outcome>> {
        match how {
            Reading::Memory(bytes) => Ok(send_all(sender, bytes, self.block_bytes).await.then_some(None)),
            Reading::File(path) => {
                let file = tokio::fs::File::open(&path).await.map_err(super::open::scratch_failed)?;
                Ok(send_file(sender, file, self.block_bytes).await?.then_some(None))
            }
            Reading::Copy(statement) => {
                let mut loan = self.snapshot.borrow(ctx).await?;
                let mut rows = RowBlocks::new(self.block_bytes, self.digest_key);
                let whole = copy_out(&mut loan.connection, &statement, &mut rows, sender).await?;
                if !whole {
                    return Ok(None);
                }
                self.snapshot.give_back(loan);
                let (count, digest) = rows.facts();
                Ok(Some(member.table.clone().map(|table| (table, count, digest))))
            }
            Reading::Positions(positions) => {
                let mut loan = self.snapshot.borrow(ctx).await?;
                let mut rows = RowBlocks::new(self.block_bytes, self.digest_key);
                let mut start = 0;
                while let Some((statement, next)) = positions.statement(start) {
                    if !copy_out(&mut loan.connection, &statement, &mut rows, sender).await? {
                        return Ok(None);
                    }
                    start = next;
                }
                self.snapshot.give_back(loan);
                let (count, digest) = rows.facts();
                Ok(Some(member.table.clone().map(|table| (table, count, digest))))
            }
            Reading::Sequences(sequences) => {
                let mut loan = self.snapshot.borrow(ctx).await?;
                let values = sequence_values(&mut loan.connection, &sequences).await?;
                self.snapshot.give_back(loan);
                let json = serde_json::to_vec(&values)
                    .map_err(|e| Error::internal("the sequences cannot be written").with_source(e))?;
                Ok(send_all(sender, json.into(), self.block_bytes).await.then_some(None))
            }
            Reading::LargeObjects => {
                let mut loan = self.snapshot.borrow(ctx).await?;
                let mut rows = RowBlocks::new(self.block_bytes, self.digest_key);
                let whole = large_objects::read(&mut loan.connection, &mut rows, sender).await?;
                if !whole {
                    return Ok(None);
                }
                self.snapshot.give_back(loan);
                let (count, digest) = rows.facts();
                Ok(Some(Some((LARGE_OBJECT_FACTS.to_owned(), count, digest))))
            }
        }
    }
}

/// Streams a `COPY`; false when the consumer went away.
async fn copy_out(
    connection: &mut PgConnection,
    statement: &str,
    rows: &mut RowBlocks,
    sender: &mut Sender,
) -> Result<bool> {
    let mut lines = connection.copy_out_raw(statement).await.map_err(reading)?;
    while let Some(line) = lines.next().await {
        if rows.row(&line.map_err(reading)?) && !send_ready(sender, rows).await {
            return Ok(false);
        }
    }
    Ok(send_ready(sender, rows).await)
}

/// Sends everything gathered; false when the consumer went away.
pub(super) async fn send_ready(sender: &mut Sender, rows: &mut RowBlocks) -> bool {
    while let Some(block) = rows.take() {
        if sender.send(Ok(block)).await.is_err() {
            return false;
        }
    }
    true
}

async fn send_all(sender: &mut Sender, mut bytes: Bytes, block_bytes: usize) -> bool {
    let mut offset = 0;
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(block_bytes.clamp(1, 4 << 20)));
        let length = piece.len() as u64;
        if sender.send(Ok(Block::data(offset, piece))).await.is_err() {
            return false;
        }
        offset += length;
    }
    true
}

async fn send_file(sender: &mut Sender, mut file: tokio::fs::File, block_bytes: usize) -> Result<bool> {
    let mut offset = 0;
    loop {
        let mut piece = BytesMut::with_capacity(block_bytes.clamp(4 << 10, 4 << 20));
        while piece.len() < piece.capacity() {
            if file.read_buf(&mut piece).await.map_err(super::open::scratch_failed)? == 0 {
                break;
            }
        }
        if piece.is_empty() {
            return Ok(true);
        }
        let block = Block::data(offset, piece.freeze());
        offset += block.length();
        if sender.send(Ok(block)).await.is_err() {
            return Ok(false);
        }
    }
}

async fn sequence_values(
    connection: &mut PgConnection,
    sequences: &[Relation],
) -> Result<Vec<SequenceValue>> {
    let mut values = Vec::with_capacity(sequences.len());
    for some in sequences.chunks(SEQUENCES_AT_ONCE) {
        let selects: Vec<String> = some
            .iter()
            .enumerate()
            .map(|(i, s)| format!("SELECT {i}::int8, last_value, is_called FROM {}", s.quoted()))
            .collect();
        let rows = sqlx::query(dynamic(selects.join(" UNION ALL ")))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(reading)?;
        for row in rows {
            let index: i64 = row.try_get(0).map_err(reading)?;
            let Some(sequence) = usize::try_from(index).ok().and_then(|i| some.get(i)) else { continue };
            values.push(SequenceValue {
                schema: sequence.schema.clone(),
                name: sequence.name.clone(),
                last_value: row.try_get(1).map_err(reading)?,
                is_called: row.try_get(2).map_err(reading)?,
            });
        }
    }
    values.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(values)
}
