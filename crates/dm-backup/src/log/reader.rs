//! The log as a restore reads it: over one listing, streamed, every piece checked against its digest.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, LogReader, LogSpan, OpContext, Result, TargetName};
use dm_repository::{LogEntry, LogQuiet, Repository};
use futures::stream::{self, BoxStream, StreamExt};

use super::cover;
use crate::BackupService;

/// Pieces fetched at once.
const FETCHES: usize = 2;

/// A log of the repository.
struct ListedLog {
    repository: Repository,
    target: TargetName,
    stream: String,
    entries: Vec<LogEntry>,
    quiet: Vec<LogQuiet>,
    spans: Vec<LogSpan>,
    histories: Vec<u32>,
}

impl BackupService {
    /// The log of a target as it is listed now, for a restore.
    ///
    /// # Errors
    /// `NotFound` when nothing of such a log is there; `Corrupt` when not everything in its folder can be understood: a
    /// piece may be missing then; the store's.
    pub async fn log_reader(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
    ) -> Result<Arc<dyn LogReader>> {
        let listing = self.repository.list_log(ctx, target, stream).await?;
        if let Some(problem) = listing.problems.iter().find(|p| p.level == dm_core::Level::Error) {
            return Err(Error::corrupt(problem.message.clone()).about(format!("log of {target}")));
        }
        if listing.entries.is_empty() {
            return Err(Error::not_found(format!("no log of {target} was shipped")).with_hint(
                "\"dm log ship\" ships it; without, only the moments of the backups can be restored",
            ));
        }
        Ok(Arc::new(ListedLog {
            repository: self.repository.clone(),
            target: target.clone(),
            stream: stream.to_owned(),
            spans: cover::spans(&listing.entries, &listing.quiet),
            entries: listing.entries,
            quiet: listing.quiet,
            histories: listing.histories,
        }))
    }
}

impl fmt::Debug for ListedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedLog")
            .field("target", &self.target)
            .field("stream", &self.stream)
            .field("spans", &self.spans)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LogReader for ListedLog {
    fn spans(&self) -> &[LogSpan] {
        &self.spans
    }

    fn end_of(&self, timeline: u32, at: DateTime<Utc>) -> Option<u64> {
        let of = cover::of_timeline(&self.entries, timeline);
        let sealed = of.iter().filter(|e| e.sealed_at > at).map(|e| e.end);
        // What lies before a place that was quiet is known to be whole by the span that it lies in.
        let covered = |q: &&LogQuiet| {
            let spans = self.spans.iter().filter(|s| s.timeline == timeline);
            q.timeline == timeline
                && q.at > at
                && spans.map(|s| &s.range).any(|r| r.start < q.position && q.position <= r.end)
        };
        sealed.chain(self.quiet.iter().filter(covered).map(|q| q.position)).min()
    }

    async fn history(&self, ctx: &OpContext, timeline: u32) -> Result<Option<Bytes>> {
        if !self.histories.contains(&timeline) {
            return Ok(None);
        }
        match self.repository.read_log_history(ctx, &self.target, &self.stream, timeline).await? {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(Error::corrupt(format!("the history of timeline {timeline} is gone"))),
        }
    }

    fn read(&self, ctx: &OpContext, timeline: u32, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let chain = match cover::chain(cover::of_timeline(&self.entries, timeline), range) {
            Ok(chain) => chain,
            Err(at) => {
                let error = Error::not_found(format!(
                    "the log that was shipped has nothing at {:X}/{:X} of timeline {timeline}",
                    at >> 32,
                    at & 0xFFFF_FFFF
                ));
                return stream::iter([Err(error)]).boxed();
            }
        };
        let (repository, target, stream, ctx) =
            (self.repository.clone(), self.target.clone(), self.stream.clone(), ctx.clone());
        let pieces = chain.into_iter().map(move |(entry, share)| {
            let (repository, target) = (repository.clone(), target.clone());
            let (stream, ctx) = (stream.clone(), ctx.clone());
            async move { share_of(&ctx, &repository, &target, &stream, &entry, share).await }
        });
        stream::iter(pieces).buffered(FETCHES).boxed()
    }
}

/// A part of a piece.
pub(super) async fn share_of(
    ctx: &OpContext,
    repository: &Repository,
    target: &TargetName,
    stream: &str,
    entry: &LogEntry,
    share: Range<u64>,
) -> Result<Bytes> {
    let bytes =
        repository.read_log(ctx, target, stream, entry).await.map_err(|error| match error.kind() {
            // It was listed: that it is gone now is a loss, not an absence.
            ErrorKind::NotFound => Error::corrupt("a piece of the log is gone").with_source(error),
            _ => error,
        })?;
    let at = |offset: u64| usize::try_from(offset - entry.start).unwrap_or(usize::MAX);
    Ok(bytes.slice(at(share.start)..at(share.end)))
}
