//! The port of an engine whose changes are written to a log that can be shipped: WAL, oplog, append-only file.
//!
//! A log is a sequence of bytes on *timelines*: after a recovery to an earlier point, history goes on along a new one that
//! branches off the old at a known position. [`LogSource`] is the engine's side, which reads; [`LogReader`] is what a restore
//! reads back. Neither knows the other: pieces travel between them through the repository.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Finding, OpContext, Result};

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The timeline (PostgreSQL's, counted from 1); 1 for logs without branches.
    pub timeline: u32,
    /// Bytes from the beginning of the log (PostgreSQL: the LSN).
    pub offset: u64,
}

impl LogPosition {
    /// The offset that a text means: `16/B374D848` (hexadecimal, high and low half, as it is shown) or a decimal number.
    #[must_use]
    pub fn parse_offset(text: &str) -> Option<u64> {
        match text.trim().split_once('/') {
            Some((high, low)) => {
                let half = |digits: &str| {
                    let good =
                        (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    good.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
                };
                Some(half(high)? << 32 | half(low)?)
            }
            None => text.trim().parse().ok(),
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:X}/{:X}", self.timeline, self.offset >> 32, self.offset & 0xFFFF_FFFF)
    }
}

/// What a shipper wants.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// The name of what holds the log on the server until it is shipped (PostgreSQL: a physical slot).
    pub holder: String,
    /// Where the log in the repository ends; `None` when there is none yet. The source goes on from here, on the timeline
    /// that the server is on now, and answers with a [gap](LogEvent::Gap) when that is not there any more.
    pub from: Option<LogPosition>,
    /// By the server's clock, an instant such that every commit confirmed by then lies before [`from`](Self::from), as far
    /// as it is known. No piece is sealed at an earlier one.
    pub complete_until: Option<DateTime<Utc>>,
    /// The most bytes of one piece; a piece also ends where the engine's own files do.
    pub piece_bytes: usize,
    /// How often to look for more.
    pub poll: Duration,
    /// How long what is new may wait on the server for more, so that pieces are not tiny. A piece that is full does not
    /// wait; with zero none does.
    pub seal: Duration,
}

impl Default for LogRequest {
    fn default() -> Self {
        Self {
            holder: "dm_log".to_owned(),
            from: None,
            complete_until: None,
            piece_bytes: 16 << 20,
            poll: Duration::from_millis(500),
            seal: Duration::from_secs(5),
        }
    }
}

/// A piece of log, durable on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Its timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: u64,
    /// By the server's clock, an instant that was read *before* the end of the piece was fixed: every commit that the
    /// server had confirmed as durable by then lies before the end. Commits after it may be in as well. It never goes
    /// back along a timeline. A server that replays another's log gives the time of the last commit that it had replayed.
    pub sealed_at: DateTime<Utc>,
    /// Its bytes.
    pub bytes: Bytes,
}

impl LogPiece {
    /// Where it ends: the offset of the byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// The next piece. Pieces of a timeline follow each other without a hole, except after a gap.
    Piece(LogPiece),
    /// A timeline begins: the engine's own record of what it branched off, and where (a `.history` file).
    History {
        /// The new timeline.
        timeline: u32,
        /// The record, byte for byte.
        bytes: Bytes,
    },
    /// This part of the log is gone for good from the server: no point in it can be restored, and a new base backup is
    /// needed for what comes after.
    Gap {
        /// The timeline.
        timeline: u32,
        /// What is missing. The next piece begins at its end.
        missing: Range<u64>,
        /// Why, for a person.
        reason: String,
    },
    /// Nothing to hand over yet.
    Idle {
        /// By the server's clock, an instant at which everything durable had been handed over; what came after may still
        /// wait for its piece to grow.
        at: DateTime<Utc>,
    },
}

/// A file of the engine's log, as the engine hands it to an archive command.
pub struct LogFile {
    /// Whose log it is: [`LogSource::stream_id`] of the server that wrote it.
    pub stream: String,
    /// What is to be kept of it, in order: pieces, or a history, or nothing at all for a file that no restore asks for.
    pub events: BoxStream<'static, Result<LogEvent>>,
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// What a file name means, by which the engine asks for a part of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogName {
    /// A file of log: exactly these bytes.
    Bytes {
        /// The timeline.
        timeline: u32,
        /// From the first byte to the one after the last.
        range: Range<u64>,
    },
    /// The engine's own record of how a timeline began.
    History {
        /// The timeline.
        timeline: u32,
    },
    /// A name of the engine's for something that is not kept.
    Nothing,
}

/// What keeps the log on the server until it is shipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHolder {
    /// Its name.
    pub name: String,
    /// Whether somebody follows through it just now.
    pub in_use: bool,
    /// Whether the server gave it up, and keeps nothing for it any more.
    pub lost: bool,
    /// Bytes of log that the server keeps for it.
    pub kept_bytes: u64,
}

/// How a server's log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Whose log it is.
    pub stream: String,
    /// Where it ends.
    pub end: LogPosition,
    /// When, by the server's clock.
    pub at: DateTime<Utc>,
    /// The holder, when it is there.
    pub holder: Option<LogHolder>,
}

/// An engine whose log can be followed.
#[async_trait]
pub trait LogSource: Send + Sync {
    /// Looks, without changing anything, whether following would work: settings, privileges, the holder.
    ///
    /// # Errors
    /// Only when the look itself fails; what is wrong is a finding.
    async fn preflight(&self, ctx: &OpContext, request: &LogRequest) -> Result<Vec<Finding>>;

    /// What tells this log from another database's: the folder of its pieces (`[a-z0-9._-]`, PostgreSQL: the system
    /// identifier).
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn stream_id(&self, ctx: &OpContext) -> Result<String>;

    /// How the log stands just now. Reads only.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn head(&self, ctx: &OpContext, holder: &str) -> Result<LogHead>;

    /// Begins to follow; makes the holder when it is not there.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Unsupported`; `Busy` when somebody else uses the holder; `Conflict` when the server is
    /// another one than this source met before, or its log ends before the place to go on from.
    async fn follow(&self, ctx: &OpContext, request: &LogRequest) -> Result<Box<dyn LogSession>>;

    /// Reads one of the engine's own log files as the engine hands it to an archive command. Needs no connection: its name
    /// and its content tell what it is.
    ///
    /// # Errors
    /// `Invalid` for a name that is none of the engine's; `NotFound`, `Denied`; `Corrupt`, also as an item of the stream,
    /// when the content belongs elsewhere.
    async fn read_file(&self, ctx: &OpContext, path: &Path) -> Result<LogFile>;

    /// What a name means by which the engine asks for a file of its log. Needs no connection. The size of the files may be
    /// a choice of the server's: `sample`, the beginning of any file of this log, tells it; without one the engine's
    /// default is assumed.
    ///
    /// # Errors
    /// `Invalid` for a name that is none of the engine's; `Corrupt` for a sample that is no beginning of a file.
    fn locate(&self, name: &str, sample: Option<&[u8]>) -> Result<LogName>;

    /// Gives up the holder, so that the server keeps nothing for it any more; gives whether there was one.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; `Busy` while it is in use.
    async fn drop_holder(&self, ctx: &OpContext, holder: &str) -> Result<bool>;
}

/// A log being followed. Dropping it leaves the holder, so that a later one goes on without a gap.
#[async_trait]
pub trait LogSession: Send {
    /// Waits for the next event, at most one polling interval: [`LogEvent::Idle`] then.
    ///
    /// # Errors
    /// `Unreachable` (follow anew, from what was shipped), `Conflict` when the server behind the address is another one.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing: what was not [confirmed](Self::confirm) comes again.
    async fn next(&mut self, ctx: &OpContext) -> Result<LogEvent>;

    /// Everything before this place is durable elsewhere: the server may forget it. Call it now and then with the same
    /// place while nothing goes on, so that the server does not take the holder for abandoned.
    ///
    /// # Errors
    /// `Unreachable`.
    async fn confirm(&mut self, ctx: &OpContext, position: LogPosition) -> Result<()>;

    /// Where the server's log ends now, to tell how far behind shipping is.
    ///
    /// # Errors
    /// `Unreachable`.
    async fn end(&mut self, ctx: &OpContext) -> Result<LogPosition>;
}

/// A stretch of log without a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpan {
    /// Its timeline.
    pub timeline: u32,
    /// From the first byte to the one after the last.
    pub range: Range<u64>,
    /// When the first piece was sealed, by the server's clock.
    pub first_at: DateTime<Utc>,
    /// Up to when it is complete, by the server's clock: every commit confirmed by then is in.
    pub last_at: DateTime<Utc>,
}

/// The log as it was shipped, for a restore.
#[async_trait]
pub trait LogReader: Send + Sync + fmt::Debug {
    /// What there is, in the order of timelines and offsets. Two spans of one timeline mean a gap between them.
    fn spans(&self) -> &[LogSpan];

    /// The end of the first piece on a timeline that was [sealed](LogPiece::sealed_at) after an instant: every commit that
    /// the server had confirmed by the instant lies before it. A commit that was under way at the instant may lie behind,
    /// and so may the first one after it. `None` when nothing was sealed after it. Whether there is a gap before it, the
    /// [spans](Self::spans) tell.
    fn end_of(&self, timeline: u32, at: DateTime<Utc>) -> Option<u64>;

    /// The engine's own record of how a timeline began, where it was shipped.
    ///
    /// # Errors
    /// `Corrupt`, `Denied`, `Unreachable`.
    async fn history(&self, ctx: &OpContext, timeline: u32) -> Result<Option<Bytes>>;

    /// The bytes of a range that lies within one span.
    ///
    /// # Errors
    /// `NotFound` when it does not; as items of the stream: `Corrupt`, `Denied`, `Unreachable`.
    fn read(&self, ctx: &OpContext, timeline: u32, range: Range<u64>) -> BoxStream<'static, Result<Bytes>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_they_are_shown() {
        let position = LogPosition { timeline: 3, offset: 0x16_B374_D848 };
        assert_eq!(position.to_string(), "3:16/B374D848");
        assert_eq!(LogPosition::parse_offset("16/B374D848"), Some(position.offset));
        assert_eq!(LogPosition::parse_offset(" 0/1 "), Some(1));
        assert_eq!(LogPosition::parse_offset("42"), Some(42));
        for bad in ["", "/", "16/", "+1/2", "1/2/3", "16/B374D8480", "x/1"] {
            assert_eq!(LogPosition::parse_offset(bad), None, "{bad}");
        }
    }
}
