//! Following: from look to look, piece after piece, from one timeline to the next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{
    Error, ErrorKind, LogEvent, LogPiece, LogPosition, LogRequest, LogSession, OpContext, Progress, Result,
};
use sqlx::postgres::PgConnection;

use super::history::{self, Ancestor, Step};
use super::holder::{self, Advanced};
use super::read;
use super::segment;
use super::server::{self, Identity, Look};

/// How often the server hears that its slot is alive, and how far it may forget.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);

/// A log being followed. The slot's lock ends with the connection.
pub(super) struct Follower {
    connection: PgConnection,
    identity: Identity,
    request: LogRequest,
    /// Whether a slot holds the log; without, the server forgets as it likes.
    held: bool,
    /// Up to where the slot was advanced.
    advanced: u64,
    advanced_at: Option<Instant>,
    /// Everything before this is durable elsewhere, as far as was told.
    confirmed: Option<LogPosition>,
    /// The timeline that the server is on.
    current: u32,
    /// The first byte that was not handed over.
    position: LogPosition,
    /// What every later piece is sealed at, at least.
    floor: DateTime<Utc>,
    /// Handed over as soon as asked for.
    ready: VecDeque<LogEvent>,
    /// Since when something new waits for its piece to grow.
    waiting_since: Option<Instant>,
    /// When the server was last asked, if it had nothing to give then.
    rested_at: Option<Instant>,
}

/// Where one piece of a timeline may come from.
struct Part {
    timeline: u32,
    /// Where the log of this timeline ends, as far as it is known.
    end: u64,
    /// The timeline that took over a copy of this one's last segment.
    heir: Option<u32>,
    /// What the piece that reaches the end is sealed at.
    complete_at: DateTime<Utc>,
    now: DateTime<Utc>,
    standby: bool,
}

impl Follower {
    /// Begins on a connection whose lock was taken.
    pub(super) async fn begin(
        ctx: &OpContext,
        mut connection: PgConnection,
        identity: Identity,
        request: LogRequest,
    ) -> Result<Self> {
        let look = server::look(&mut connection).await?.ok_or_else(changing)?;
        if let Some(from) = request.from {
            check_ahead(from, &look)?;
        }
        let held = holder::may_hold(&mut connection).await?;
        let (redo, redo_at) = server::redo(&mut connection).await?;
        let mut start = redo;
        if held {
            let taken = holder::take(&mut connection, &request.holder).await?;
            if taken.was_lost {
                warn(
                    ctx,
                    format!("the server had given up the slot \"{}\"; it was made anew", request.holder),
                );
            }
            start = taken.from;
        } else {
            warn(ctx, "without a replication slot the server may remove log before it is shipped".to_owned());
        }
        // What is not known to be complete is sealed as if it were very old: a restore then fetches more, never too little.
        let floor = match request.from {
            Some(_) => request.complete_until,
            None => (identity.shape.segment_start(start) >= redo).then_some(redo_at),
        };
        let mut this = Self {
            connection,
            identity,
            held,
            advanced: start,
            advanced_at: None,
            confirmed: request.from,
            current: look.end.timeline,
            position: look.end,
            floor: floor.unwrap_or(DateTime::UNIX_EPOCH).min(look.now),
            ready: VecDeque::new(),
            waiting_since: None,
            rested_at: None,
            request,
        };
        let ancestors = this.known_histories(ctx, look.end.timeline).await?;
        this.position = this.request.from.unwrap_or_else(|| LogPosition {
            timeline: history::timeline_of(start, &ancestors, look.end.timeline),
            offset: this.identity.shape.segment_start(start),
        });
        Ok(this)
    }

    /// Hands over how the server's timeline and those before it began: a restore looks for them one by one, and stops at
    /// the first that is missing. Gives the ancestors.
    async fn known_histories(&mut self, ctx: &OpContext, current: u32) -> Result<Vec<Ancestor>> {
        if current == 1 {
            return Ok(Vec::new());
        }
        let (ancestors, _) = self.history(current).await?;
        let older: Vec<u32> = ancestors.iter().map(|a| a.timeline).filter(|t| *t > 1).collect();
        for timeline in older.into_iter().chain([current]) {
            self.announce(ctx, timeline).await?;
        }
        Ok(ancestors)
    }

    async fn announce(&mut self, ctx: &OpContext, timeline: u32) -> Result<()> {
        match read::history(&mut self.connection, timeline).await? {
            Some(found) => self.ready.push_back(LogEvent::History { timeline, bytes: found.bytes }),
            None => warn(ctx, format!("the server has no history of timeline {timeline} any more")),
        }
        Ok(())
    }

    async fn history(&mut self, timeline: u32) -> Result<(Vec<Ancestor>, DateTime<Utc>)> {
        let found = read::history(&mut self.connection, timeline).await?.ok_or_else(|| {
            Error::new(ErrorKind::Unreachable, format!("the history of timeline {timeline} is not there yet"))
        })?;
        Ok((history::parse(&found.bytes)?, found.written_at))
    }

    async fn step(&mut self, ctx: &OpContext) -> Result<LogEvent> {
        self.keep_alive(ctx).await?;
        if let Some(event) = self.ready.pop_front() {
            return Ok(event);
        }
        let Some(look) = server::look(&mut self.connection).await? else { return Ok(self.idle()) };
        self.current = look.end.timeline;
        if look.end.timeline != self.position.timeline {
            return self.change_over(ctx, &look).await;
        }
        if look.end.offset <= self.position.offset {
            // A standby's own end goes back to the beginning of a segment when it changes over.
            if look.end.offset < self.position.offset && !look.standby {
                check_ahead(self.position, &look)?;
            }
            if look.end.offset == self.position.offset {
                self.floor = self.floor.max(look.complete_at);
            }
            self.waiting_since = None;
            return Ok(self.idle());
        }
        if !self.is_due(look.end.offset) {
            return Ok(self.idle());
        }
        let part = Part {
            timeline: look.end.timeline,
            end: look.end.offset,
            heir: None,
            complete_at: look.complete_at,
            now: look.now,
            standby: look.standby,
        };
        self.piece(ctx, &part).await
    }

    /// Whether what is new makes a full piece, or has waited long enough.
    fn is_due(&mut self, end: u64) -> bool {
        let full = self.piece_end(self.position.offset, u64::MAX);
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        // What is new may have been there for a poll before it was seen, the next look comes a poll later, and the piece
        // is durable yet another one later.
        end >= full || since.elapsed() + self.request.poll * 3 >= self.request.seal
    }

    /// Where a piece that begins here ends at the latest.
    fn piece_end(&self, from: u64, end: u64) -> u64 {
        let segment_end = self.identity.shape.segment_start(from) + self.identity.shape.segment_bytes;
        end.min(segment_end).min(from.saturating_add(self.request.piece_bytes.max(1) as u64))
    }

    fn idle(&mut self) -> LogEvent {
        self.rested_at = Some(Instant::now());
        LogEvent::Idle { at: self.floor }
    }

    /// The server is on another timeline: the rest of ours, then the next.
    async fn change_over(&mut self, ctx: &OpContext, look: &Look) -> Result<LogEvent> {
        let current = look.end.timeline;
        if self.position.timeline > current {
            check_ahead(self.position, look)?;
            return Ok(self.idle());
        }
        let (ancestors, began_at) = self.history(current).await?;
        match history::step(self.position, &ancestors, current) {
            Step::Read { until, heir } => {
                let part = Part {
                    timeline: self.position.timeline,
                    end: until,
                    heir: Some(heir),
                    complete_at: if heir == current { began_at.min(look.now) } else { self.floor },
                    now: look.now,
                    standby: look.standby,
                };
                self.piece(ctx, &part).await
            }
            Step::Turn { timeline, at } => {
                self.position = LogPosition { timeline, offset: self.identity.shape.segment_start(at) };
                self.waiting_since = None;
                self.announce(ctx, timeline).await?;
                match self.ready.pop_front() {
                    Some(event) => Ok(event),
                    None => Ok(self.idle()),
                }
            }
        }
    }

    /// Reads the next piece, or says what is missing.
    async fn piece(&mut self, ctx: &OpContext, part: &Part) -> Result<LogEvent> {
        let shape = self.identity.shape;
        let start = self.position.offset;
        let segment_start = shape.segment_start(start);
        let to = self.piece_end(start, part.end);
        // From the beginning of a page, whose header tells whether the file is what its name says.
        let first = start - start % shape.page_bytes;
        let own = segment::name_of(part.timeline, start, shape.segment_bytes);
        let mut files = vec![own.clone()];
        if let Some(heir) = part.heir {
            files.push(format!("{own}.partial"));
            if shape.segment_start(part.end) == segment_start {
                files.push(segment::name_of(heir, start, shape.segment_bytes));
            }
        }
        let mut wrong = None;
        for file in files {
            let bytes = first - segment_start..to - segment_start;
            let Some(found) = read::range(&mut self.connection, &file, bytes).await? else { continue };
            match shape.check(&found.bytes, first, part.timeline) {
                Ok(()) => {
                    let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
                    return Ok(self.hand_over(part, to, found.bytes.slice(skip..), found.written_at));
                }
                Err(error) => wrong = Some(error.about(file)),
            }
        }
        match wrong {
            // It is there, and it is something else: nobody may take it for the log.
            Some(error) => Err(error),
            None => self.gap(ctx, part).await,
        }
    }

    fn hand_over(&mut self, part: &Part, to: u64, bytes: Bytes, written_at: DateTime<Utc>) -> LogEvent {
        // Log is written in order: what lies behind a segment was confirmed after the segment was last written to. A
        // standby writes later than its primary, so there it tells nothing.
        let sealed_at = if to == part.end {
            part.complete_at
        } else if !part.standby && to.is_multiple_of(self.identity.shape.segment_bytes) {
            written_at.min(part.now)
        } else {
            self.floor
        };
        self.floor = self.floor.max(sealed_at);
        let piece =
            LogPiece { timeline: part.timeline, start: self.position.offset, sealed_at: self.floor, bytes };
        self.position.offset = to;
        self.waiting_since = None;
        LogEvent::Piece(piece)
    }

    async fn gap(&mut self, ctx: &OpContext, part: &Part) -> Result<LogEvent> {
        let start = self.position.offset;
        let next =
            read::next_segment(&mut self.connection, &self.identity.shape, part.timeline, start..part.end)
                .await?;
        let end = match (next, part.heir) {
            (Some(next), _) => next,
            // Nothing is left of a timeline that is over.
            (None, Some(_)) => part.end,
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    "the server does not show the segment that it is writing",
                ));
            }
        };
        let reason = match self.held {
            true => {
                "the server removed this log although a slot should have held it: the slot was dropped or invalidated"
            }
            false => "the server removed this log before it was shipped, and no slot held it",
        };
        warn(
            ctx,
            format!("log is missing from {} to {:X}/{:X}", self.position, end >> 32, end & 0xFFFF_FFFF),
        );
        // What is left is held from now on, not only from the next second.
        self.advanced_at = None;
        self.keep_alive(ctx).await?;
        self.position.offset = end;
        self.waiting_since = None;
        Ok(LogEvent::Gap { timeline: part.timeline, missing: start..end, reason: reason.to_owned() })
    }

    /// Advances the slot to what is confirmed, each second at most, and also when that is nothing new: a slot that nobody
    /// touches counts as idle.
    async fn keep_alive(&mut self, ctx: &OpContext) -> Result<()> {
        if !self.held || self.advanced_at.is_some_and(|at| at.elapsed() < ADVANCE_EVERY) {
            return Ok(());
        }
        // A place on another timeline says nothing about what is needed of this one.
        let confirmed = self.confirmed.filter(|c| c.timeline == self.current).map_or(0, |c| c.offset);
        let confirmed = confirmed.max(self.advanced);
        match holder::advance(&mut self.connection, &self.request.holder, confirmed).await? {
            Advanced::Done => self.advanced = confirmed,
            Advanced::Gone => {
                let taken = holder::take(&mut self.connection, &self.request.holder).await?;
                self.advanced = taken.from;
                warn(ctx, format!("the slot \"{}\" was gone and was made anew", self.request.holder));
            }
        }
        self.advanced_at = Some(Instant::now());
        Ok(())
    }
}

#[async_trait]
impl LogSession for Follower {
    async fn next(&mut self, ctx: &OpContext) -> Result<LogEvent> {
        if let Some(rest) = self.rested_at.and_then(|at| self.request.poll.checked_sub(at.elapsed())) {
            ctx.run(async {
                tokio::time::sleep(rest).await;
                Ok(())
            })
            .await?;
        }
        self.rested_at = None;
        ctx.run(Box::pin(self.step(ctx))).await
    }

    async fn confirm(&mut self, ctx: &OpContext, position: LogPosition) -> Result<()> {
        self.confirmed = Some(position);
        ctx.run(Box::pin(self.keep_alive(ctx))).await
    }

    async fn end(&mut self, ctx: &OpContext) -> Result<LogPosition> {
        let look = ctx.run(server::look(&mut self.connection)).await?;
        Ok(look.map_or(self.position, |look| look.end))
    }
}

/// What was shipped must not lie behind what a primary has: then it is not the same log.
fn check_ahead(from: LogPosition, look: &Look) -> Result<()> {
    let behind = look.end.timeline < from.timeline
        || (look.end.timeline == from.timeline && look.end.offset < from.offset);
    if look.standby || !behind {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("the server's log ends at {}, but log up to {from} was shipped already", look.end),
    )
    .with_hint(
        "the server was put back to an earlier state without a new timeline; give its log another target, and take a \
         full backup there",
    ))
}

fn changing() -> Error {
    Error::new(ErrorKind::Unreachable, "the standby receives and replays nothing yet")
}

fn warn(ctx: &OpContext, message: String) {
    tracing::warn!("{message}");
    ctx.progress(Progress::Warning(message));
}
