//! Log that was shipped (§12): pieces, histories and gaps on their way in and out.

use std::ops::Range;
use std::sync::PoisonError;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, LogPiece, LogPosition, OpContext, Result, TargetName};

use crate::cpu::{compress, decompress};
use crate::log_keys::Opened;
use crate::logs::{
    GAP_FORMAT, GapRecord, LogEntry, LogPlace, LogQuiet, QUIET_FORMAT, QuietRecord, WINDOW, history_digest,
    name_digest,
};
use crate::repository::Repository;
use crate::{Identity, document, keys};

/// The largest history that is taken: one line for every timeline there ever was.
const MAX_HISTORY: usize = 4 << 20;

impl Repository {
    /// Stores a piece of log; when this returns it is durable. What is there already is not stored again. Whether what is
    /// there is the same is looked at where it can be read (always in an unencrypted repository).
    ///
    /// # Errors
    /// `Invalid` for an empty piece, one of more than 16 MiB, or a stream that is none; `Conflict` when other bytes are
    /// there for a part of the range: two servers write the same log; the store's.
    ///
    /// # Cancellation
    /// The piece is there whole or not at all.
    pub async fn put_log(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        piece: &LogPiece,
    ) -> Result<LogEntry> {
        let place = LogPlace::new(target, stream)?;
        if piece.bytes.is_empty()
            || piece.bytes.len() as u64 > WINDOW
            || piece.start.checked_add(WINDOW).is_none()
        {
            return Err(Error::invalid(format!(
                "a piece of log of {} bytes at {:X}: 1 byte to 16 MiB are taken",
                piece.bytes.len(),
                piece.start
            )));
        }
        let range = piece.start..piece.end();
        let there = ctx.run(self.list_range(&place, piece.timeline, range.clone())).await?.entries;
        if self.can_read_contents() {
            for entry in &there {
                ctx.run(self.compare(&place, entry, piece)).await?;
            }
        }
        if let Some(covering) = covering(&there, &range) {
            return Ok(covering);
        }
        let stored = ctx.run(self.wrap(ctx, piece.bytes.clone())).await?;
        let entry = LogEntry::new(piece.timeline, range, piece.sealed_at, &stored);
        ctx.run(self.inner.storage.create_own(&entry.key(&place), stored)).await?;
        Ok(entry)
    }

    /// Stores the engine's own record of how a timeline began. What is there already is not stored again.
    ///
    /// # Errors
    /// `Invalid` for an empty record or one of more than 4 MiB; `Conflict` when another record is there, as far as it can
    /// be read; the store's.
    pub async fn put_log_history(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        timeline: u32,
        bytes: Bytes,
    ) -> Result<()> {
        let place = LogPlace::new(target, stream)?;
        if bytes.is_empty() || bytes.len() > MAX_HISTORY {
            return Err(Error::invalid(format!("a timeline's history of {} bytes", bytes.len())));
        }
        if !ctx.run(self.histories(&place, timeline)).await?.is_empty() {
            if self.can_read_contents()
                && ctx.run(self.history(&place, timeline)).await?.is_some_and(|there| there != bytes)
            {
                return Err(two_writers(format!("another history of timeline {timeline} is there")));
            }
            return Ok(());
        }
        let stored = ctx.run(self.wrap(ctx, bytes)).await?;
        ctx.run(self.inner.storage.create_own(&place.history(timeline, &stored), stored)).await
    }

    /// Records that a part of the log is gone for good. Recording it twice is no error; the first reason stays.
    ///
    /// # Errors
    /// `Invalid` for an empty range; the store's.
    pub async fn put_log_gap(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        timeline: u32,
        missing: Range<u64>,
        reason: &str,
    ) -> Result<()> {
        let place = LogPlace::new(target, stream)?;
        if missing.is_empty() {
            return Err(Error::invalid("a gap of nothing"));
        }
        let record = GapRecord { at: ctx.now(), reason: reason.to_owned() };
        let document = document::write(GAP_FORMAT, &record)?;
        ctx.run(self.inner.storage.create(&place.gap(timeline, &missing), document)).await.map(drop)
    }

    /// Records that nothing came behind a place up to an instant of the server's clock: every commit confirmed by then lies
    /// before the place. Takes the place of the timeline's earlier records; gives whether those are gone, which they are not
    /// where nothing may be deleted.
    ///
    /// # Errors
    /// `Invalid` stream; the store's.
    pub async fn put_log_quiet(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        position: LogPosition,
        at: DateTime<Utc>,
    ) -> Result<bool> {
        let place = LogPlace::new(target, stream)?;
        let quiet = LogQuiet::new(position.timeline, position.offset, at);
        let document = document::write(QUIET_FORMAT, &QuietRecord { written_at: ctx.now() })?;
        ctx.run(self.inner.storage.create(&quiet.key(&place), document)).await?;
        let older = ctx.run(self.list_quiet(&place, position.timeline)).await?.into_iter();
        // A writer whose clock is behind must not remove what another one knows.
        let older = older.filter(|o| o.position <= quiet.position && o.at < quiet.at);
        let keys: Vec<_> = older.map(|o| o.key(&place)).collect();
        match ctx.run(self.inner.storage.delete(keys)).await {
            Ok(()) => Ok(true),
            // They are true all the same; the next record tries again.
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                tracing::debug!(%error, "earlier records of a quiet log stay");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The bytes of a piece, exactly those that were put.
    ///
    /// # Errors
    /// `Corrupt` when the stored bytes are not those that its name tells, or do not hold what it tells; `NotFound` when it
    /// is gone; `Denied` without a key; the store's.
    pub async fn read_log(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        entry: &LogEntry,
    ) -> Result<Bytes> {
        let place = LogPlace::new(target, stream)?;
        ctx.run(self.piece(&place, entry)).await
    }

    /// Compares the stored bytes of a piece with the digest in its name. Needs no key.
    ///
    /// # Errors
    /// As [`read_log`](Self::read_log).
    pub async fn verify_log(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        entry: &LogEntry,
    ) -> Result<()> {
        let place = LogPlace::new(target, stream)?;
        ctx.run(self.stored_piece(&place, entry)).await.map(drop)
    }

    /// Compares the records of how a timeline began with the digests in their names. Needs no key.
    ///
    /// # Errors
    /// `Corrupt`; the store's.
    pub async fn verify_log_history(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        timeline: u32,
    ) -> Result<()> {
        let place = LogPlace::new(target, stream)?;
        for file in ctx.run(self.histories(&place, timeline)).await? {
            ctx.run(self.stored_history(&place, timeline, &file)).await?;
        }
        Ok(())
    }

    /// The engine's own record of how a timeline began, where there is one.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged, or when there are two that differ; `Denied` without a key; the store's.
    pub async fn read_log_history(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        timeline: u32,
    ) -> Result<Option<Bytes>> {
        let place = LogPlace::new(target, stream)?;
        ctx.run(self.history(&place, timeline)).await
    }

    async fn stored_piece(&self, place: &LogPlace, entry: &LogEntry) -> Result<Bytes> {
        let key = entry.key(place);
        let stored = self.inner.storage.get_large(&key).await?;
        if entry.names(&stored) {
            return Ok(stored);
        }
        Err(Error::corrupt("the piece of log is not the one that was written").about(key.as_ref()).with_hint(
            "look after the storage; points of time behind this piece cannot be restored without it",
        ))
    }

    async fn piece(&self, place: &LogPlace, entry: &LogEntry) -> Result<Bytes> {
        let stored = self.stored_piece(place, entry).await?;
        let about = |e: Error| e.about(entry.key(place).as_ref());
        let length = usize::try_from(entry.end - entry.start).unwrap_or(usize::MAX);
        let content = self.unwrap(stored, length).await.map_err(about)?;
        if content.len() != length {
            return Err(about(Error::corrupt("the piece of log is not as long as its name tells")));
        }
        Ok(content)
    }

    /// Fails when a piece that is there has other bytes than this one where they overlap.
    async fn compare(&self, place: &LogPlace, entry: &LogEntry, piece: &LogPiece) -> Result<()> {
        let there = self.piece(place, entry).await?;
        let common = entry.start.max(piece.start)..entry.end.min(piece.end());
        let cut = |bytes: &Bytes, start: u64| {
            let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
            bytes.slice(at(common.start)..at(common.end))
        };
        if cut(&there, entry.start) == cut(&piece.bytes, piece.start) {
            return Ok(());
        }
        Err(two_writers(format!(
            "other log is there for {:X} to {:X} of timeline {}",
            common.start, common.end, piece.timeline
        ))
        .about(entry.key(place).as_ref()))
    }

    async fn histories(&self, place: &LogPlace, timeline: u32) -> Result<Vec<String>> {
        let (_, files) = self.inner.storage.children(Some(&place.timeline(timeline))).await?;
        Ok(files.into_iter().filter(|f| history_digest(f).is_some()).collect())
    }

    async fn history(&self, place: &LogPlace, timeline: u32) -> Result<Option<Bytes>> {
        let mut found: Option<Bytes> = None;
        for file in self.histories(place, timeline).await? {
            let key = place.timeline(timeline).join(file.as_str());
            let stored = self.stored_history(place, timeline, &file).await?;
            let content = self.unwrap(stored, MAX_HISTORY).await.map_err(|e| e.about(key.as_ref()))?;
            match &found {
                Some(other) if *other != content => {
                    return Err(Error::corrupt("there are two histories of this timeline that differ")
                        .about(key.as_ref())
                        .with_hint("two servers wrote this log; find out which one is to be restored, and move the other's history away"));
                }
                _ => found = Some(content),
            }
        }
        Ok(found)
    }

    async fn stored_history(&self, place: &LogPlace, timeline: u32, file: &str) -> Result<Bytes> {
        let key = place.timeline(timeline).join(file);
        let stored = self.inner.storage.get_large(&key).await?;
        if history_digest(file) == Some(name_digest(&stored)) {
            return Ok(stored);
        }
        Err(Error::corrupt("the history is not the one that was written").about(key.as_ref()))
    }

    /// One zstd frame, sealed for those who may read the log.
    async fn wrap(&self, ctx: &OpContext, content: Bytes) -> Result<Bytes> {
        let level = self.inner.cpu.level;
        let recipients = Box::pin(self.inner.log_recipients(ctx.now())).await?;
        let wrapped = self.inner.cpu.run(move || {
            let frame = compress(&content, level)?;
            if recipients.is_empty() { Ok(frame) } else { keys::seal(&recipients, &frame) }
        });
        Ok(Bytes::from(wrapped.await??))
    }

    async fn unwrap(&self, stored: Bytes, limit: usize) -> Result<Bytes> {
        if !self.is_encrypted() {
            return self.inner.cpu.run(move || decompress(&stored, limit)).await?.map(Bytes::from);
        }
        if !self.can_read_contents() {
            return Err(Box::pin(
                self.inner.no_identity("the log is encrypted and no identity was given", &[]),
            )
            .await);
        }
        let known = self.inner.log_keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut opened = self.open_piece(&stored, &known, limit).await?;
        if matches!(opened, Err(age::DecryptError::NoMatchingKeys)) {
            // A key that was not there, or not looked at, when another piece was read.
            let now = Box::pin(self.inner.opened_log_keys()).await?;
            if now.len() > known.len() {
                opened = self.open_piece(&stored, &now, limit).await?;
            }
        }
        match opened {
            Ok(content) => content,
            Err(error @ age::DecryptError::NoMatchingKeys) => {
                let message = "none of the identities given opens the log";
                Err(Box::pin(self.inner.no_identity(message, &[])).await.with_source(error))
            }
            Err(error) => Err(Error::corrupt("the piece of log is damaged").with_source(error)),
        }
    }

    /// Opens a piece with the keys of the log, or, as it was before there were any, with the identities themselves.
    async fn open_piece(
        &self,
        stored: &Bytes,
        log_keys: &Opened,
        limit: usize,
    ) -> Result<Result<Result<Bytes>, age::DecryptError>> {
        let identities = self.inner.options.identities.clone();
        let (stored, log_keys) = (stored.clone(), log_keys.clone());
        self.inner
            .cpu
            .run(move || {
                let keys: Vec<&Identity> =
                    log_keys.values().rev().map(AsRef::as_ref).chain(&identities).collect();
                let frame = keys::open_sealed(&stored, &keys)?;
                Ok(decompress(&frame, limit).map(Bytes::from))
            })
            .await
    }
}

/// The last piece, when the pieces together have every byte of the range.
fn covering(sorted: &[LogEntry], range: &Range<u64>) -> Option<LogEntry> {
    let mut at = range.start;
    for entry in sorted.iter().filter(|e| e.start < range.end) {
        if entry.start > at {
            return None;
        }
        at = at.max(entry.end);
        if at >= range.end {
            return Some(*entry);
        }
    }
    None
}

fn two_writers(message: String) -> Error {
    Error::new(ErrorKind::Conflict, message).with_hint(
        "two servers write the same log, one of them perhaps a copy that was started without a timeline of its own; ship \
         each to a target of its own",
    )
}
