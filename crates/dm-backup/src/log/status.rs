//! How shipping stands: what is covered, what is missing, how far behind the server it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{
    ByteSize, Finding, Level, LogHead, LogPosition, LogSource, LogSpan, OpContext, Result, TargetName,
};
use dm_repository::LogListing;
use serde::{Deserialize, Serialize};

use super::expiry::Opener;
use super::window::{LogWindow, windows};
use super::{LogHole, cover};
use crate::BackupService;
use crate::keep::Soundness;
use crate::record::{of_target, soundness};

/// How long a server may take to say where its log ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than this behind is worth a word: less may be what waits for its piece to grow after a quiet time.
const FAR_BEHIND: u64 = 64 << 20;

/// The logs of the targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogStatusReport {
    /// Target by target.
    pub targets: Vec<TargetLog>,
    /// When this was looked at.
    pub at: DateTime<Utc>,
}

/// The logs of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetLog {
    /// The target.
    pub target: TargetName,
    /// What is in the repository: one stream a server; more than one when the server was made anew.
    pub streams: Vec<StreamStatus>,
    /// The server, when it was asked and answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<ServerLog>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_error: Option<String>,
    /// What is wrong, one sentence each; nothing when all is well.
    pub reasons: Vec<String>,
}

/// One server's log in the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Whose log it is.
    pub stream: String,
    /// What is covered, without a hole each.
    pub spans: Vec<LogSpan>,
    /// Of each span, which instants can be restored and which backup opens it.
    #[serde(default)]
    pub windows: Vec<LogWindow>,
    /// What is known to be gone for good.
    pub gaps: Vec<LogHole>,
    /// Timelines whose beginning is recorded.
    pub histories: Vec<u32>,
    /// Where the log ends, on its newest timeline.
    pub position: Option<LogPosition>,
    /// Every commit confirmed by then is in, by the server's clock, unless a gap says otherwise.
    pub complete_until: Option<DateTime<Utc>>,
    /// Pieces.
    pub pieces: u64,
    /// Bytes of log; what two pieces have in common counts once.
    pub bytes: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// Objects that cannot be understood.
    pub problems: Vec<Finding>,
}

/// The server against the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerLog {
    /// How its log stands.
    pub head: LogHead,
    /// Bytes that were not shipped yet; `None` when the repository has no log of this server's timeline.
    pub lag_bytes: Option<u64>,
    /// For how long a commit may have been waiting, in milliseconds; 0 when everything was shipped.
    pub lag_ms: Option<u64>,
}

impl StreamStatus {
    pub(super) fn of(stream: String, listing: LogListing) -> Self {
        let spans = cover::spans(&listing.entries, &listing.quiet);
        let last = spans.last();
        Self {
            stream,
            position: last.map(|s| LogPosition { timeline: s.timeline, offset: s.range.end }),
            complete_until: last.map(|s| s.last_at),
            pieces: listing.entries.len() as u64,
            bytes: spans.iter().map(|s| s.range.end - s.range.start).sum(),
            stored_bytes: listing.entries.iter().map(|e| e.size).sum(),
            gaps: listing.gaps.into_iter().map(LogHole::from).collect(),
            histories: listing.histories,
            problems: listing.problems,
            spans,
            windows: Vec::new(),
        }
    }

    fn opened_by(mut self, backups: &[Opener]) -> Self {
        let own: Vec<Opener> = backups.iter().filter(|b| b.is_of(&self.stream)).cloned().collect();
        self.windows = windows(&self.spans, &self.histories, &own);
        self
    }
}

impl BackupService {
    /// How the log of a target stands in the repository, and with a source against the server. A server that does not answer
    /// within a few seconds is no error.
    ///
    /// # Errors
    /// The store's.
    pub async fn log_status(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        source: Option<(&dyn LogSource, &str)>,
    ) -> Result<TargetLog> {
        let mut streams = Vec::new();
        let names = self.repository.log_streams(ctx, target).await?;
        let mut backups = Vec::new();
        if !names.is_empty() {
            let listing = self.repository.list(ctx, Some(target)).await?;
            let sound = |id| soundness(&listing, id) != Soundness::Damaged;
            backups.extend(of_target(&listing, target).filter_map(|h| Opener::of(h, sound(h.id))));
        }
        for stream in names {
            let listing = self.repository.list_log(ctx, target, &stream).await?;
            streams.push(StreamStatus::of(stream, listing).opened_by(&backups));
        }
        let mut status = TargetLog {
            target: target.clone(),
            streams,
            server: None,
            server_error: None,
            reasons: Vec::new(),
        };
        // Nobody asks a server about a log that nobody ships.
        if let Some((source, holder)) = source.filter(|_| !status.streams.is_empty()) {
            let asked = ctx.clone().with_timeout(PATIENCE);
            match asked.run(source.head(&asked, holder)).await {
                Ok(head) => status.server = Some(against(&status.streams, head)),
                Err(error) => {
                    ctx.check()?;
                    status.server_error = Some(error.to_string());
                }
            }
        }
        status.reasons = reasons(&status, None);
        Ok(status)
    }
}

fn against(streams: &[StreamStatus], head: LogHead) -> ServerLog {
    let own = streams.iter().find(|s| s.stream == head.stream);
    let shipped = own.and_then(|s| s.position).filter(|p| p.timeline == head.end.timeline);
    let lag_bytes = shipped.map(|p| head.end.offset.saturating_sub(p.offset));
    let waiting = || own?.complete_until.map(|at| (head.at - at).num_milliseconds().max(0).unsigned_abs());
    let lag_ms = match lag_bytes {
        Some(0) => Some(0),
        Some(_) => waiting(),
        None => None,
    };
    ServerLog { head, lag_bytes, lag_ms }
}

impl TargetLog {
    /// What is wrong for somebody who has a base backup of this instant: gaps found before it no longer matter.
    #[must_use]
    pub fn reasons_since(&self, base: DateTime<Utc>) -> Vec<String> {
        reasons(self, Some(base))
    }
}

fn reasons(status: &TargetLog, base: Option<DateTime<Utc>>) -> Vec<String> {
    let mut reasons = Vec::new();
    for stream in &status.streams {
        let matters = |gap: &&LogHole| base.is_none_or(|base| gap.at.is_none_or(|at| at > base));
        if let Some(gap) = stream.gaps.iter().rfind(matters) {
            reasons.push(format!(
                "the log has a gap at {:X}/{:X} of timeline {}: points behind it need a base backup taken behind it",
                gap.start >> 32,
                gap.start & 0xFFFF_FFFF,
                gap.timeline
            ));
        }
        if stream.problems.iter().any(|p| p.level >= Level::Warning) {
            reasons.push(format!("something in the log of {} cannot be understood", stream.stream));
        }
    }
    let Some(server) = &status.server else { return reasons };
    match &server.head.holder {
        Some(holder) if holder.lost => {
            reasons.push(format!("the server has given up the slot \"{}\": log may be lost", holder.name));
        }
        Some(holder) if !holder.in_use && holder.kept_bytes > FAR_BEHIND => reasons.push(format!(
            "nobody ships the log just now; the server keeps {} for it",
            ByteSize(holder.kept_bytes)
        )),
        _ => {}
    }
    if server.lag_bytes.is_none() {
        reasons.push("nothing of the server's present timeline was shipped yet".to_owned());
    }
    if let Some(behind) = server.lag_bytes.filter(|b| *b > FAR_BEHIND) {
        reasons.push(format!("shipping is {} behind the server", ByteSize(behind)));
    }
    reasons
}
