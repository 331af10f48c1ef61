//! Writing a backup anew so that it needs no other: the same content under a new id, read and compared on the way (§6).
//!
//! What an incremental backup shares with older ones keeps those alive, whatever the keep-rules want. Packs are sealed to the backup that
//! wrote them, so the content itself is taken out and put in again: that needs a private key in an encrypted repository, and
//! nothing in a plain one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{
    BackupKind, Block, BlockStream, Error, Layout, OpContext, Progress, RestoreBlock, Result, SessionSummary,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::repository::Repository;
use crate::{BackupHeader, BackupReader, BackupStart, BackupWriter, RewrittenFrom};

impl Repository {
    /// Writes a backup anew. The new one says in [`rewrites`](BackupHeader::rewrites) which it stands for; it is full, or with `onto`
    /// (another backup of the target that was rewritten before) incremental to that one, and needs nothing else. The old one
    /// stays as it is. Reports bytes as [`Progress::Bytes`].
    ///
    /// Every byte is compared with its digest on the way, and the digest of every member with the old one's before the commit.
    ///
    /// # Errors
    /// `Denied` without a private key in an encrypted repository; `NotFound`, `Conflict` when the backup is gone or marked; `Corrupt`;
    /// the store's.
    ///
    /// # Cancellation
    /// Safe at any point before the commit; run again it goes on with what was stored.
    pub async fn rewrite(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        onto: Option<&BackupHeader>,
    ) -> Result<BackupHeader> {
        if !self.can_read_contents() {
            let message = "rewriting a backup reads its content, and no identity was given";
            return Err(self.inner.no_identity(message, &[]).await.about(header.id.to_string()));
        }
        let reader = self.read(ctx, header).await?;
        let rewritten = Box::pin(self.rewrite_from(ctx, &reader, onto)).await;
        let closed = reader.close().await;
        let rewritten = rewritten?;
        if let Err(error) = closed {
            tracing::warn!(%error, "the reader's lease could not be ended; it runs out by itself");
        }
        Ok(rewritten)
    }

    async fn rewrite_from(
        &self,
        ctx: &OpContext,
        reader: &BackupReader,
        onto: Option<&BackupHeader>,
    ) -> Result<BackupHeader> {
        let header = reader.header();
        let start = BackupStart {
            target: header.target.clone(),
            kind: if onto.is_some() { BackupKind::Incremental } else { BackupKind::Full },
            parent: onto.cloned(),
            started_at: header.started_at,
            resume: true,
        };
        let mut writer = self.begin_with(ctx, start, Some(reader.digest_key())).await?;
        writer.rewrites = Some(RewrittenFrom { backup: header.id, kind: header.judged_kind() });
        match Box::pin(fill(ctx, reader, &writer)).await {
            Ok(()) => {}
            Err(error) => {
                // What was stored serves the next try.
                if let Err(also) = writer.suspend(ctx).await {
                    tracing::warn!(error = %also, "what a rewrite stored was left to the sweep");
                }
                return Err(error);
            }
        }
        let summary = SessionSummary {
            tables: reader.tables().to_vec(),
            warnings: reader.warnings().to_vec(),
            ..SessionSummary::default()
        };
        writer.commit(ctx, reader.source().clone(), summary).await
    }
}

/// Writes every member, and compares what became of it.
async fn fill(ctx: &OpContext, reader: &BackupReader, writer: &BackupWriter) -> Result<()> {
    ctx.progress(Progress::Phase { name: "rewriting", total_bytes: Some(reader.header().sizes.logical) });
    for (spec, size) in reader.members(ctx).await? {
        let blocks = blocks(reader.content(ctx, &spec.name), spec.layout, size);
        writer.write_member(ctx, spec, blocks).await?;
    }
    let written: BTreeMap<String, String> =
        writer.shared.lock().done.iter().map(|m| (m.spec.name.clone(), m.digest.clone())).collect();
    let recorded = reader.member_digests(ctx).await?;
    match recorded.iter().find(|(name, digest)| written.get(*name) != Some(*digest)) {
        None if written.len() == recorded.len() => Ok(()),
        Some((name, _)) => {
            Err(Error::corrupt("what was written anew is not what the backup holds").about(name.as_str()))
        }
        None => Err(Error::corrupt("what was written anew has other members than the backup")),
    }
}

/// A member's content as a source would give it. A hole at the end of a member of pages is told by its last page, of zeros.
fn blocks(content: dm_core::RestoreContent, layout: Layout, size: u64) -> BlockStream {
    let state = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&state);
    let content = content.map_ok(move |block: RestoreBlock| {
        let end = block.offset + block.bytes.len() as u64;
        seen.store(end, std::sync::atomic::Ordering::Relaxed);
        Block::data(block.offset, block.bytes)
    });
    let end = stream::once(async move {
        let Layout::Pages { page_bytes } = layout else { return None };
        let page = u64::from(page_bytes);
        if size == 0 || state.load(std::sync::atomic::Ordering::Relaxed) >= size {
            return None;
        }
        let last = (size - 1) / page * page;
        let zeros = vec![0; usize::try_from(size - last).unwrap_or_default()];
        Some(Ok(Block::data(last, Bytes::from(zeros))))
    });
    content.chain(end.filter_map(|block| async move { block })).boxed()
}
