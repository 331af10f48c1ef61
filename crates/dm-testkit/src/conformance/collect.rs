//! A backup held in memory, read through the ports as the backup service does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{
    BackupRequest, BackupSession, BackupSource, Block, Engine, MemberSpec, OpContext, RestoreBlock,
    RestoreContent, RestoreManifest, Result, SessionSummary, SourceDescription,
};
use futures::{StreamExt as _, TryStreamExt as _};

/// A whole backup.
#[derive(Clone, Debug)]
pub struct Collected {
    /// What was backed up.
    pub source: SourceDescription,
    /// Every member with its blocks.
    pub members: Vec<(MemberSpec, Vec<Block>)>,
    /// What the session said at its end.
    pub summary: SessionSummary,
}

impl Collected {
    /// What a restore is given.
    #[must_use]
    pub fn manifest(&self) -> RestoreManifest {
        let size = |blocks: &[Block]| blocks.last().map_or(0, |last| last.offset() + last.length());
        RestoreManifest {
            source: self.source.clone(),
            members: self.members.iter().map(|(spec, blocks)| (spec.clone(), size(blocks))).collect(),
            tables: self.summary.tables.clone(),
        }
    }

    /// A member's content on its way back, cut into other pieces than it came in, as a repository does.
    #[must_use]
    pub fn content(&self, index: usize) -> RestoreContent {
        let blocks = self.members.get(index).map(|(_, blocks)| blocks.clone()).unwrap_or_default();
        let pieces = blocks.into_iter().flat_map(|block| {
            let (offset, bytes) = (block.offset(), block.bytes().cloned().unwrap_or_default());
            let middle = bytes.len() / 2 / 512 * 512;
            let tail = RestoreBlock { offset: offset + middle as u64, bytes: bytes.slice(middle..) };
            let head = RestoreBlock { offset, bytes: bytes.slice(..middle) };
            [head, tail].into_iter().filter(|piece| !piece.bytes.is_empty()).map(Ok)
        });
        futures::stream::iter(pieces).boxed()
    }

    /// The bytes of all members, by name.
    #[must_use]
    pub fn bytes(&self) -> BTreeMap<String, Bytes> {
        let all = |blocks: &[Block]| {
            blocks.iter().filter_map(Block::bytes).flat_map(|bytes| bytes.iter().copied()).collect()
        };
        self.members.iter().map(|(spec, blocks)| (spec.name.clone(), all(blocks))).collect()
    }
}

/// The engine's backup port.
///
/// # Panics
/// When it has none: the suite is for engines that have one.
pub(super) fn source(engine: &dyn Engine) -> Arc<dyn BackupSource> {
    engine.backup().expect("the engine can be backed up")
}

/// Opens a session and reads everything.
///
/// # Errors
/// The port's own.
pub async fn collect(engine: &dyn Engine, ctx: &OpContext, request: &BackupRequest) -> Result<Collected> {
    let session = source(engine).open(ctx, request).await?;
    read_all(session, ctx, request.jobs).await
}

/// Reads all members, several at once, and ends the session.
pub(super) async fn read_all(
    session: Box<dyn BackupSession>,
    ctx: &OpContext,
    jobs: usize,
) -> Result<Collected> {
    let mut members: Vec<(MemberSpec, Vec<Block>)> = Vec::new();
    let mut round = session.members().to_vec();
    while !round.is_empty() {
        let session = &session;
        let read: Vec<_> = futures::stream::iter(round)
            .map(|spec| async move {
                let blocks = session.read(ctx, &spec).await?.try_collect().await?;
                Ok::<_, dm_core::Error>((spec, blocks))
            })
            .buffered(jobs)
            .try_collect()
            .await?;
        members.extend(read);
        round = session.more_members(ctx).await?;
    }
    let source = session.describe().clone();
    let mut summary = session.finish(ctx).await?;
    let source = source.completed(&mut summary);
    Ok(Collected { source, members, summary })
}
