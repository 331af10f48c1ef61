//! Which part of a shipped log stays, and why.
//!
//! Pure, and without keys: what the names of pieces tell, and the kept backups, are all there is to go by. The promises, each
//! held by a test in `tests/log_expiry.rs`:
//!
//! - Every instant of the period that could be restored before can be restored afterwards, on every timeline.
//! - A backup opens a window along its own timeline and every later one, from its position on. Where a timeline branched off is
//!   not known without a key: whatever may lead to a timeline that is alive in the period stays.
//! - What was sealed within the period, and what lies on a timeline without a backup of its own, stays in any case: a backup
//!   may be under way there.
//! - What cannot be read, of the backups or of the log, keeps all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use dm_core::{BackupId, BackupMode, Finding, Level, LogPosition, Period};
use dm_repository::{BackupHeader, LogEntry, LogFloor, LogListing};
use serde::{Deserialize, Serialize};

use crate::keep::calendar::cutoff;

/// A kept backup as the log sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    pub(crate) id: BackupId,
    /// Whose log leads on from it; `None` where that cannot be told: it may be any.
    stream: Option<String>,
    pub(crate) at: DateTime<Utc>,
    /// Where the log goes on; `None` where that cannot be told: it may be anywhere.
    pub(crate) position: Option<LogPosition>,
    /// Nobody found it damaged.
    pub(crate) sound: bool,
}

impl Opener {
    /// A backup of files; one of rows has no log.
    pub(crate) fn of(header: &BackupHeader, sound: bool) -> Option<Self> {
        if header.mode != BackupMode::Physical {
            return None;
        }
        let offset = header.consistency.position.as_deref().and_then(LogPosition::parse_offset);
        let timeline = header.consistency.timeline.as_deref().and_then(|t| t.parse().ok());
        Some(Self {
            id: header.id,
            stream: header.system_identifier.clone(),
            at: header.consistency.at,
            position: timeline.zip(offset).map(|(timeline, offset)| LogPosition { timeline, offset }),
            sound,
        })
    }

    pub(crate) fn is_of(&self, stream: &str) -> bool {
        self.stream.as_deref().is_none_or(|own| own == stream)
    }

    fn timeline(&self) -> u32 {
        self.position.map_or(0, |p| p.timeline)
    }

    fn offset(&self) -> u64 {
        self.position.map_or(0, |p| p.offset)
    }
}

/// Why a part of a log stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
#[non_exhaustive]
pub enum LogKeepReason {
    /// A kept backup's window needs it.
    Window {
        /// The backup; with several, the one that reaches back furthest.
        backup: BackupId,
    },
    /// It was sealed within the period, or after the newest backup.
    Young,
    /// No backup stands on its timeline yet: one may be under way.
    NoBackupYet,
    /// Not all backups, or not all of the log, can be read.
    Unreadable,
}

impl fmt::Display for LogKeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { backup } => write!(f, "opened by {backup}"),
            Self::Young => f.write_str("sealed within the period"),
            Self::NoBackupYet => f.write_str("no backup stands on its timeline yet"),
            Self::Unreadable => f.write_str("something that may need it cannot be read"),
        }
    }
}

/// What becomes of a part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
pub enum LogDecision {
    /// It stays.
    Keep {
        /// Why.
        because: LogKeepReason,
    },
    /// The window of no kept backup reaches it.
    Delete,
}

/// Pieces of one timeline that follow each other and share a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The timeline.
    pub timeline: u32,
    /// Where the first piece begins.
    pub start: u64,
    /// The offset of the byte after the last one.
    pub end: u64,
    /// When the first piece was sealed.
    pub first_at: DateTime<Utc>,
    /// When the last one was.
    pub last_at: DateTime<Utc>,
    /// Pieces.
    pub pieces: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// What becomes of it.
    #[serde(flatten)]
    pub decision: LogDecision,
}

impl LogRange {
    /// The decision in words.
    #[must_use]
    pub fn explain(&self) -> String {
        match &self.decision {
            LogDecision::Delete => "to be deleted: no kept backup's window reaches it".to_owned(),
            LogDecision::Keep { because } => format!("kept because: {because}"),
        }
    }
}

/// What expiry would do to one server's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExpiry {
    /// Whose log it is.
    pub stream: String,
    /// All of it, by timeline and place.
    pub ranges: Vec<LogRange>,
    /// From where on it stays: what the apply marks.
    pub floors: Vec<LogFloor>,
    /// Bytes that would be freed.
    pub freed_bytes: u64,
    /// What could not be read. While there is such a thing, everything stays.
    pub problems: Vec<Finding>,
}

impl LogExpiry {
    /// Pieces that would go.
    #[must_use]
    pub fn deleted_pieces(&self) -> u64 {
        self.ranges.iter().filter(|r| r.decision == LogDecision::Delete).map(|r| r.pieces).sum()
    }
}

/// What the decision rests on, beside one log.
pub(crate) struct Ground<'a> {
    /// The target's backups of files that stay.
    pub(crate) kept: &'a [Opener],
    /// How far back every instant stays within reach.
    pub(crate) within: Option<Period>,
    pub(crate) now: DateTime<Utc>,
    pub(crate) zone: Tz,
    /// Every backup of the target could be read.
    pub(crate) complete: bool,
    /// A backup of the target is under way, or was interrupted.
    pub(crate) under_way: bool,
}

impl Ground<'_> {
    /// What was sealed at this instant or later stays: ages count from the newest backup, as those of backups do. `None` without
    /// any backup.
    fn young_since(&self) -> Option<DateTime<Utc>> {
        let newest = self.kept.iter().map(|b| b.at).filter(|at| *at <= self.now).max()?;
        Some(self.within.map_or(newest, |period| cutoff(newest, period, self.zone)))
    }

    /// The backups whose windows stay.
    fn openers<'b>(&self, own: &[&'b Opener], log: &LogListing, since: DateTime<Utc>) -> Vec<&'b Opener> {
        if self.within.is_none() {
            return own.to_vec();
        }
        let mut chosen: BTreeMap<BackupId, &Opener> = BTreeMap::new();
        chosen.extend(own.iter().filter(|b| b.at >= since || b.position.is_none()).map(|b| (b.id, *b)));
        let begins = begins(log);
        for timeline in alive(log, since) {
            // On the timeline itself, the newest one when the period begins leads into it.
            if let Some(own) = newest_on(own, timeline, since, u64::MAX) {
                chosen.insert(own.id, own);
                continue;
            }
            // Where there is none, one from before the place that it branched off at does, or from before the one that led
            // there branched off. That place lies in the segment that the timeline's log begins with.
            let earlier: BTreeSet<u32> = own.iter().map(|b| b.timeline()).filter(|t| *t < timeline).collect();
            for on in earlier {
                for begin in begins.range(on.saturating_add(1)..=timeline).map(|(_, begin)| *begin) {
                    let before = newest_on(own, on, since, begin);
                    chosen.extend(before.map(|b| (b.id, b)));
                    if before.is_none_or(|b| !b.sound) {
                        let behind = own
                            .iter()
                            .filter(|b| b.sound && b.at <= since && b.timeline() == on && b.offset() > begin);
                        chosen.extend(behind.min_by_key(|b| b.offset()).map(|b| (b.id, *b)));
                    }
                }
            }
        }
        chosen.into_values().collect()
    }
}

/// The newest backup of a timeline that shows no later instant and no later place; a sound one where there is one.
fn newest_on<'a>(own: &[&'a Opener], timeline: u32, until: DateTime<Utc>, most: u64) -> Option<&'a Opener> {
    let fits = own.iter().filter(|b| b.at <= until && b.timeline() == timeline && b.offset() <= most);
    fits.max_by_key(|b| (b.sound, b.at, b.offset(), b.id)).copied()
}

/// Where the log of each timeline begins.
fn begins(log: &LogListing) -> BTreeMap<u32, u64> {
    let mut begins: BTreeMap<u32, u64> = BTreeMap::new();
    for entry in &log.entries {
        let begin = begins.entry(entry.timeline).or_insert(entry.start);
        *begin = (*begin).min(entry.start);
    }
    begins
}

/// Timelines that something was written to since an instant.
fn alive(log: &LogListing, since: DateTime<Utc>) -> BTreeSet<u32> {
    let pieces = log.entries.iter().filter(|e| e.sealed_at >= since).map(|e| e.timeline);
    let quiet = log.quiet.iter().filter(|q| q.at >= since).map(|q| q.timeline);
    pieces.chain(quiet).collect()
}

/// Decides on one log.
pub(crate) fn decide(stream: &str, log: LogListing, ground: &Ground<'_>) -> LogExpiry {
    let unreadable = !ground.complete || log.problems.iter().any(|p| p.level >= Level::Error);
    let verdicts = if unreadable {
        Verdicts::all(LogKeepReason::Unreadable)
    } else {
        match ground.young_since() {
            None => Verdicts::all(LogKeepReason::NoBackupYet),
            Some(since) => Verdicts::of(stream, &log, ground, since),
        }
    };
    let decided: Vec<(LogEntry, LogDecision)> =
        log.entries.iter().map(|entry| (*entry, verdicts.judge(entry))).collect();
    let ranges = ranges(&decided);
    let floors = verdicts.floors(&log, &decided);
    let gone = |r: &&LogRange| r.decision == LogDecision::Delete;
    LogExpiry {
        stream: stream.to_owned(),
        freed_bytes: ranges.iter().filter(gone).map(|r| r.stored_bytes).sum(),
        ranges,
        floors,
        problems: log.problems,
    }
}

/// What is known of each timeline before its pieces are judged.
struct Verdicts<'a> {
    /// Everything stays, for this reason.
    all: Option<LogKeepReason>,
    openers: Vec<&'a Opener>,
    /// Timelines behind this one have no backup.
    last_with_backup: u32,
    since: DateTime<Utc>,
    /// Of each timeline, where the first piece begins that stays for its age alone.
    young: BTreeMap<u32, u64>,
}

impl<'a> Verdicts<'a> {
    fn all(reason: LogKeepReason) -> Self {
        Self {
            all: Some(reason),
            openers: Vec::new(),
            last_with_backup: 0,
            since: DateTime::<Utc>::MIN_UTC,
            young: BTreeMap::new(),
        }
    }

    fn of(stream: &str, log: &LogListing, ground: &Ground<'a>, since: DateTime<Utc>) -> Self {
        let own: Vec<&Opener> = ground.kept.iter().filter(|b| b.is_of(stream)).collect();
        if own.is_empty() {
            // The log of a server that was given up goes when all of it is older than the period.
            let ended = ground.within.is_some() && !ground.under_way && alive(log, since).is_empty();
            if !ended {
                return Self::all(LogKeepReason::NoBackupYet);
            }
        }
        let mut verdicts = Self {
            all: None,
            openers: ground.openers(&own, log, since),
            last_with_backup: own.iter().map(|b| b.timeline()).max().unwrap_or(u32::MAX),
            since,
            young: BTreeMap::new(),
        };
        for entry in &log.entries {
            if entry.sealed_at >= since && verdicts.window(entry.timeline, entry.end).is_none() {
                let first = verdicts.young.entry(entry.timeline).or_insert(entry.start);
                *first = (*first).min(entry.start);
            }
        }
        verdicts
    }

    /// The backup whose window needs what ends at this place of a timeline.
    fn window(&self, timeline: u32, end: u64) -> Option<&'a Opener> {
        let reaches = self.openers.iter().filter(|b| b.timeline() <= timeline && b.offset() < end);
        reaches.min_by_key(|b| (b.offset(), b.timeline(), b.id)).copied()
    }

    fn judge(&self, entry: &LogEntry) -> LogDecision {
        let because = if let Some(reason) = &self.all {
            reason.clone()
        } else if let Some(opener) = self.window(entry.timeline, entry.end) {
            LogKeepReason::Window { backup: opener.id }
        } else if entry.timeline > self.last_with_backup {
            LogKeepReason::NoBackupYet
        } else if self.young.get(&entry.timeline).is_some_and(|first| entry.end > *first) {
            LogKeepReason::Young
        } else {
            return LogDecision::Delete;
        };
        LogDecision::Keep { because }
    }

    /// The marks that take away what is to be deleted, and nothing else: the end of the last piece that goes, or of the last
    /// gap before what stays.
    fn floors(&self, log: &LogListing, decided: &[(LogEntry, LogDecision)]) -> Vec<LogFloor> {
        if self.all.is_some() {
            return Vec::new();
        }
        let mut floors: BTreeMap<u32, LogFloor> = BTreeMap::new();
        fn at(floors: &mut BTreeMap<u32, LogFloor>, timeline: u32) -> &mut LogFloor {
            floors.entry(timeline).or_insert(LogFloor { timeline, position: 0, history: false })
        }
        for (entry, _) in decided.iter().filter(|(_, d)| *d == LogDecision::Delete) {
            let floor = at(&mut floors, entry.timeline);
            floor.position = floor.position.max(entry.end);
        }
        let stays = |timeline: u32, end: u64| {
            self.window(timeline, end).is_some()
                || timeline > self.last_with_backup
                || self.young.get(&timeline).is_some_and(|first| end > *first)
        };
        for gap in log
            .gaps
            .iter()
            .filter(|gap| !stays(gap.timeline, gap.end) && gap.at.is_none_or(|at| at < self.since))
        {
            let floor = at(&mut floors, gap.timeline);
            floor.position = floor.position.max(gap.end);
        }
        let kept: BTreeSet<u32> =
            decided.iter().filter(|(_, d)| *d != LogDecision::Delete).map(|(e, _)| e.timeline).collect();
        let first_needed = self.openers.iter().map(|b| b.timeline()).min().unwrap_or(u32::MAX);
        for timeline in &log.histories {
            if *timeline < first_needed && *timeline < self.last_with_backup && !kept.contains(timeline) {
                at(&mut floors, *timeline).history = true;
            }
        }
        floors.into_values().collect()
    }
}

/// Neighbours with the same decision become one range.
fn ranges(decided: &[(LogEntry, LogDecision)]) -> Vec<LogRange> {
    let mut ranges: Vec<LogRange> = Vec::new();
    for (entry, decision) in decided {
        match ranges.last_mut() {
            Some(last)
                if last.timeline == entry.timeline
                    && last.decision == *decision
                    && last.end >= entry.start =>
            {
                last.end = last.end.max(entry.end);
                last.first_at = last.first_at.min(entry.sealed_at);
                last.last_at = last.last_at.max(entry.sealed_at);
                last.pieces += 1;
                last.stored_bytes += entry.size;
            }
            _ => ranges.push(LogRange {
                timeline: entry.timeline,
                start: entry.start,
                end: entry.end,
                first_at: entry.sealed_at,
                last_at: entry.sealed_at,
                pieces: 1,
                stored_bytes: entry.size,
                decision: decision.clone(),
            }),
        }
    }
    ranges
}
