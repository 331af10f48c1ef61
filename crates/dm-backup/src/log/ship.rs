//! Shipping: piece after piece from the server into the repository, for as long as it is let.
//!
//! The server forgets what was confirmed, and only what is durable in the repository is confirmed. So whatever ends this,
//! at any moment, a later one goes on from what the repository has, without a gap.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use chrono::{DateTime, Utc};
use dm_core::{
    Error, ErrorKind, Level, LogEvent, LogPosition, LogRequest, LogSession, LogSource, OpContext, Progress,
    Result, TargetName,
};
use serde::{Deserialize, Serialize};

use super::LogHole;
use super::status::StreamStatus;
use crate::run::millis;
use crate::{BackupService, refuse};

/// How to ship.
#[derive(Clone, Debug)]
pub struct ShipOptions {
    /// The target: the folder of its logs.
    pub target: TargetName,
    /// What holds the log on the server until it is shipped.
    pub holder: String,
    /// The longest that log waits before it is sealed in the repository, while there is traffic.
    pub seal_every: Duration,
    /// How often the server is asked for more.
    pub poll: Duration,
    /// How long nothing may happen on the server before that is recorded, so that instants of a quiet time can be restored.
    pub quiet_every: Duration,
    /// The most bytes of one piece.
    pub piece_bytes: usize,
    /// Ends when everything is shipped that the server had at the beginning.
    pub once: bool,
    /// For how long a server or a store that does not answer is tried again; without end when `None`.
    pub give_up_after: Option<Duration>,
    /// The first pause before something is tried again; each later one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl ShipOptions {
    /// Shipping of a target without end, with the defaults.
    #[must_use]
    pub fn of(target: TargetName) -> Self {
        let request = LogRequest::default();
        Self {
            target,
            holder: request.holder,
            seal_every: request.seal,
            poll: request.poll,
            quiet_every: Duration::from_secs(60),
            piece_bytes: request.piece_bytes,
            once: false,
            give_up_after: None,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
        }
    }

    /// The same, to the end of what there is.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self.give_up_after = Some(Duration::from_secs(60));
        self
    }
}

/// Why shipping ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipEnd {
    /// Everything that the server had is shipped.
    CaughtUp,
    /// It was told to stop.
    Cancelled,
}

/// What was shipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipReport {
    /// The target.
    pub target: TargetName,
    /// Whose log it is.
    pub stream: String,
    /// What held it on the server.
    pub holder: String,
    /// Why it ended.
    pub end: ShipEnd,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Where the repository's log ended before.
    pub from: Option<LogPosition>,
    /// Everything before this is durable in the repository.
    pub position: Option<LogPosition>,
    /// Every commit confirmed by then is in, by the server's clock.
    pub complete_until: Option<DateTime<Utc>>,
    /// Pieces put.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// As stored.
    pub stored_bytes: u64,
    /// Timelines whose beginning was recorded.
    pub histories: Vec<u32>,
    /// What the server had no more.
    pub gaps: Vec<LogHole>,
    /// How often the server was connected to again.
    pub reconnects: u64,
    /// How often the store was tried again.
    pub store_retries: u64,
    /// Bytes that the server had beyond `position` at the end.
    pub lag_bytes: u64,
    /// The longest that a commit may have waited from the server's disk to the repository, in milliseconds, once the first
    /// catching up was done; by this host's clock against the server's.
    pub longest_lag_ms: u64,
    /// What must be answered by a person: a gap, and the base backup that it asks for.
    pub alarms: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// From the first look to the end, in milliseconds.
    pub duration_ms: u64,
}

impl BackupService {
    /// Ships the log of a server into the repository: without end, until the context is cancelled; or with
    /// [`once`](ShipOptions::once) until everything is there.
    ///
    /// A server or a store that fails is tried again, louder the longer it lasts; meanwhile the holder keeps the log on the
    /// server. Memory is bounded by a piece or two.
    ///
    /// # Errors
    /// - `Invalid`, `Denied`, `Unsupported` and the like: the preflight found what stands in the way.
    /// - `Busy`: somebody else ships through the same holder.
    /// - `Conflict`: another server answers, or what it has contradicts what was shipped.
    /// - `Corrupt`: the server's files are not the log.
    /// - `Interrupted` when cancelled before everything was shipped, with `once`.
    /// - what server or store last failed with, when they did for longer than [`ShipOptions::give_up_after`].
    ///
    /// # Cancellation
    /// Safe at any point, also by dropping the future: whoever ships next goes on where the repository's log ends.
    pub async fn ship_log(
        &self,
        ctx: &OpContext,
        source: &dyn LogSource,
        options: &ShipOptions,
    ) -> Result<ShipReport> {
        Box::pin(self.ship(ctx, source, options)).await.map_err(|e| e.in_operation("log ship"))
    }

    async fn ship(
        &self,
        ctx: &OpContext,
        source: &dyn LogSource,
        options: &ShipOptions,
    ) -> Result<ShipReport> {
        let began = Instant::now();
        let started_at = ctx.now();
        ctx.progress(Progress::Phase { name: "shipping", total_bytes: None });
        let findings = ctx.run(source.preflight(ctx, &request(options, None, None))).await?;
        refuse(&findings, "the shipping of the log")?;
        let stream = ctx.run(source.stream_id(ctx)).await?;
        let listing = self.repository.list_log(ctx, &options.target, &stream).await?;
        let there = StreamStatus::of(stream.clone(), listing);
        let warnings = findings
            .iter()
            .filter(|f| f.level == Level::Warning)
            .map(|f| format!("{}: {}", f.check, f.message));
        let mut shipping = Shipping {
            service: self,
            source,
            options,
            connected: false,
            caught_up: false,
            recorded_until: there.complete_until,
            quiet_every: options.quiet_every,
            server: None,
            store: None,
            report: ShipReport {
                target: options.target.clone(),
                stream,
                holder: options.holder.clone(),
                end: ShipEnd::Cancelled,
                started_at,
                from: there.position,
                position: there.position,
                complete_until: there.complete_until,
                pieces: 0,
                bytes: 0,
                stored_bytes: 0,
                histories: Vec::new(),
                gaps: Vec::new(),
                reconnects: 0,
                store_retries: 0,
                lag_bytes: 0,
                longest_lag_ms: 0,
                alarms: Vec::new(),
                warnings: warnings.collect(),
                duration_ms: 0,
            },
        };
        for warning in shipping.report.warnings.clone() {
            ctx.progress(Progress::Warning(warning));
        }
        match shipping.run(ctx).await {
            Ok(()) => shipping.report.end = ShipEnd::CaughtUp,
            // Being told to stop is how shipping without end ends.
            Err(error) if error.kind() == ErrorKind::Interrupted && !options.once => {}
            Err(error) => return Err(error),
        }
        shipping.report.duration_ms = millis(began.elapsed());
        Ok(shipping.report)
    }
}

fn request(
    options: &ShipOptions,
    from: Option<LogPosition>,
    complete_until: Option<DateTime<Utc>>,
) -> LogRequest {
    LogRequest {
        holder: options.holder.clone(),
        from,
        complete_until,
        piece_bytes: options.piece_bytes,
        poll: options.poll,
        seal: if options.once { Duration::ZERO } else { options.seal_every },
    }
}

/// Since when something fails, and the pauses between the tries.
struct Trouble {
    since: Instant,
    pauses: ExponentialBackoff,
    tries: u32,
}

/// Why following ended.
enum Failure {
    /// Something with the server, which may pass.
    Server(Error),
    /// Whatever it was, it was tried for long enough, or trying is of no use.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

/// Who gives trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Store,
}

struct Shipping<'a> {
    service: &'a BackupService,
    source: &'a dyn LogSource,
    options: &'a ShipOptions,
    /// The server was followed once: whoever holds the holder since then may be our own lost connection.
    connected: bool,
    /// The server's end was reached once: from here on lag counts.
    caught_up: bool,
    /// Up to when the repository tells that the log is complete.
    recorded_until: Option<DateTime<Utc>>,
    /// After which time a quiet time is recorded.
    quiet_every: Duration,
    server: Option<Trouble>,
    store: Option<Trouble>,
    report: ShipReport,
}

/// Tries after which a failure is said to a person.
const QUIET_TRIES: u32 = 3;
/// The longest time between records of a quiet time where none can be deleted.
const RARELY: Duration = Duration::from_secs(3600);
/// How long a killed shipper's connection may live on at the server.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// How often the server hears during a pause that the holder is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

impl Shipping<'_> {
    async fn run(&mut self, ctx: &OpContext) -> Result<()> {
        let began = Instant::now();
        loop {
            let error = match Box::pin(self.follow(ctx)).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Server(error)) => error,
            };
            ctx.check()?;
            let passing = match error.kind() {
                ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Exhausted => true,
                ErrorKind::Busy => self.connected || began.elapsed() < BUSY_PATIENCE,
                _ => false,
            };
            if !passing {
                return Err(error);
            }
            self.report.reconnects += u64::from(self.connected);
            match self.pause(ctx, Side::Server, error, None).await {
                Ok(()) => {}
                Err(Failure::Server(error) | Failure::Final(error)) => return Err(error),
            }
        }
    }

    /// Follows until everything is shipped or the connection is lost.
    async fn follow(&mut self, ctx: &OpContext) -> Result<(), Failure> {
        let request = request(self.options, self.report.position, self.report.complete_until);
        let mut session = ctx.run(self.source.follow(ctx, &request)).await?;
        self.connected = true;
        let goal = match self.options.once {
            true => Some(session.end(ctx).await?),
            false => None,
        };
        loop {
            ctx.check()?;
            let event = session.next(ctx).await?;
            self.server = None;
            let stored = self.insist(ctx, session.as_mut(), &event).await?;
            let idle = matches!(event, LogEvent::Idle { .. });
            self.count(ctx, event, stored);
            if let Some((position, at)) = self.unrecorded_quiet(idle) {
                self.record_quiet(ctx, position, at).await?;
            }
            if let Some(position) = self.report.position {
                session.confirm(ctx, position).await?;
            }
            self.lag(ctx, session.as_mut()).await?;
            let reached = goal.is_some_and(|goal| self.report.position.is_some_and(|p| p >= goal));
            if self.options.once && (reached || idle) {
                return Ok(());
            }
        }
    }

    /// A quiet time that is worth a record: what was shipped last is all that there is, and was for long enough.
    fn unrecorded_quiet(&self, idle: bool) -> Option<(LogPosition, DateTime<Utc>)> {
        let (position, at) = self.report.position.zip(self.report.complete_until).filter(|_| idle)?;
        let since = (at - self.recorded_until?).to_std().ok()?;
        (!since.is_zero() && (self.options.once || since >= self.quiet_every)).then_some((position, at))
    }

    /// Nothing depends on it but which instants can be restored: where it fails, the next one comes soon.
    async fn record_quiet(
        &mut self,
        ctx: &OpContext,
        position: LogPosition,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let repository = &self.service.repository;
        let stream = self.report.stream.clone();
        match repository.put_log_quiet(ctx, &self.options.target, &stream, position, at).await {
            Ok(alone) => {
                self.recorded_until = Some(at);
                if !alone {
                    self.quiet_every = (self.quiet_every * 2).min(RARELY);
                }
            }
            Err(error) => {
                ctx.check()?;
                tracing::warn!(%error, "a quiet time could not be recorded");
            }
        }
        Ok(())
    }

    /// What is durable now.
    fn count(&mut self, ctx: &OpContext, event: LogEvent, stored_bytes: u64) {
        match event {
            LogEvent::Idle { at } => {
                if self.report.position.is_some() {
                    self.report.complete_until = self.report.complete_until.max(Some(at));
                }
                self.caught_up = true;
            }
            LogEvent::Piece(piece) => {
                let bytes = piece.bytes.len() as u64;
                self.report.pieces += 1;
                self.report.bytes += bytes;
                self.report.stored_bytes += stored_bytes;
                self.report.complete_until = self.report.complete_until.max(Some(piece.sealed_at));
                self.recorded_until = self.recorded_until.max(Some(piece.sealed_at));
                self.report.position = Some(LogPosition { timeline: piece.timeline, offset: piece.end() });
                ctx.progress(Progress::Bytes(bytes));
            }
            LogEvent::History { timeline, .. } => self.report.histories.push(timeline),
            LogEvent::Gap { timeline, missing, reason } => {
                self.report.position = Some(LogPosition { timeline, offset: missing.end });
                let hole = LogHole {
                    timeline,
                    start: missing.start,
                    end: missing.end,
                    at: Some(ctx.now()),
                    reason: Some(reason),
                };
                self.alarm(ctx, &hole);
                self.report.gaps.push(hole);
            }
        }
    }

    fn alarm(&mut self, ctx: &OpContext, hole: &LogHole) {
        let alarm = format!(
            "log is missing from {:X}/{:X} to {:X}/{:X} of timeline {} ({}): a new base backup is needed",
            hole.start >> 32,
            hole.start & 0xFFFF_FFFF,
            hole.end >> 32,
            hole.end & 0xFFFF_FFFF,
            hole.timeline,
            hole.reason.as_deref().unwrap_or("nobody knows why")
        );
        tracing::error!("{alarm}");
        ctx.progress(Progress::Warning(alarm.clone()));
        self.report.alarms.push(alarm);
    }

    async fn lag(&mut self, ctx: &OpContext, session: &mut dyn LogSession) -> Result<()> {
        let Some(position) = self.report.position else { return Ok(()) };
        let end = session.end(ctx).await?;
        if end.timeline == position.timeline {
            self.report.lag_bytes = end.offset.saturating_sub(position.offset);
        }
        let waited = self.report.complete_until.map(|at| (ctx.now() - at).num_milliseconds());
        let lag_ms = match self.report.lag_bytes {
            0 => 0,
            _ => waited.map_or(0, |ms| ms.max(0).unsigned_abs()),
        };
        if self.caught_up {
            self.report.longest_lag_ms = self.report.longest_lag_ms.max(lag_ms);
        }
        ctx.progress(Progress::Log { position, lag_bytes: self.report.lag_bytes, lag_ms });
        Ok(())
    }

    /// Puts what the source told into the repository, until it is there; gives the stored bytes. Nothing is confirmed
    /// before, so the log stays on the server.
    async fn insist(
        &mut self,
        ctx: &OpContext,
        session: &mut dyn LogSession,
        event: &LogEvent,
    ) -> Result<u64, Failure> {
        loop {
            let error = match self.put(ctx, event).await {
                Ok(stored) => {
                    if !matches!(event, LogEvent::Idle { .. }) {
                        self.store = None;
                    }
                    return Ok(stored);
                }
                Err(error) => error,
            };
            ctx.check()?;
            let passing = matches!(
                error.kind(),
                ErrorKind::Unreachable
                    | ErrorKind::Timeout
                    | ErrorKind::Busy
                    | ErrorKind::Denied
                    | ErrorKind::Exhausted
            );
            if !passing {
                return Err(Failure::Final(error));
            }
            self.report.store_retries += 1;
            self.pause(ctx, Side::Store, error, Some(&mut *session)).await?;
        }
    }

    async fn put(&self, ctx: &OpContext, event: &LogEvent) -> Result<u64> {
        let repository = &self.service.repository;
        let (target, stream) = (&self.options.target, &self.report.stream);
        match event {
            LogEvent::Idle { .. } => Ok(0),
            LogEvent::Piece(piece) => Ok(repository.put_log(ctx, target, stream, piece).await?.size),
            LogEvent::History { timeline, bytes } => {
                repository.put_log_history(ctx, target, stream, *timeline, bytes.clone()).await.map(|()| 0)
            }
            LogEvent::Gap { timeline, missing, reason } => repository
                .put_log_gap(ctx, target, stream, *timeline, missing.clone(), reason)
                .await
                .map(|()| 0),
        }
    }

    /// Waits a while before the next try, or gives up for good.
    async fn pause(
        &mut self,
        ctx: &OpContext,
        side: Side,
        error: Error,
        mut session: Option<&mut dyn LogSession>,
    ) -> Result<(), Failure> {
        let options = self.options;
        let (trouble, name) = match side {
            Side::Server => (&mut self.server, "the server"),
            Side::Store => (&mut self.store, "the repository"),
        };
        let trouble = trouble.get_or_insert_with(|| Trouble {
            since: Instant::now(),
            pauses: ExponentialBuilder::default()
                .with_min_delay(options.first_pause)
                .with_max_delay(options.longest_pause)
                .with_jitter()
                .without_max_times()
                .build(),
            tries: 0,
        });
        trouble.tries += 1;
        let lasted = trouble.since.elapsed();
        if options.give_up_after.is_some_and(|limit| lasted >= limit) {
            return Err(Failure::Final(error));
        }
        let pause = trouble.pauses.next().unwrap_or(options.longest_pause);
        if trouble.tries.is_multiple_of(QUIET_TRIES) {
            let said =
                format!("{name} fails since {} s, the log waits on the server: {error}", lasted.as_secs());
            tracing::error!("{said}");
            ctx.progress(Progress::Warning(said));
        } else {
            tracing::warn!(%error, "{name} failed; shipping tries again");
        }
        let until = Instant::now() + pause;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|r| !r.is_zero()) {
            ctx.run(async {
                tokio::time::sleep(rest.min(KEEP_ALIVE)).await;
                Ok(())
            })
            .await?;
            if let (Some(session), Some(position)) = (session.as_deref_mut(), self.report.position) {
                session.confirm(ctx, position).await?;
            }
        }
        Ok(())
    }
}
