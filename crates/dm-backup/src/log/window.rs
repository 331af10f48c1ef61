//! Which instants can be restored: from which backup on, along which stretch of log.
//!
//! Told without a key, by what is listed: that a timeline goes on from an earlier one is taken from the records of timelines
//! that are there, and where it branched off from where its log begins. The plan of a restore reads those records and knows it
//! exactly.

use chrono::{DateTime, Utc};
use dm_core::{BackupId, LogSpan};
use serde::{Deserialize, Serialize};

use super::expiry::Opener;

/// A segment of PostgreSQL's log by default: a backup has its last one whole, so that the shipped log may begin behind it.
const SEGMENT: u64 = 16 << 20;

/// A stretch of log with the backup that opens it: every instant in it can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWindow {
    /// Its timeline.
    pub timeline: u32,
    /// The first instant that can be restored.
    pub from: DateTime<Utc>,
    /// The last one, by the server's clock.
    pub to: DateTime<Utc>,
    /// Where it begins.
    pub start: u64,
    /// The offset of the byte after it.
    pub end: u64,
    /// The earliest backup from which the log leads here; `None` when none does, and nothing of it can be restored.
    pub opened_by: Option<BackupId>,
    /// The timeline of that backup.
    pub opened_on: Option<u32>,
}

/// The windows of a log, in the order of its stretches.
pub(super) fn windows(spans: &[LogSpan], histories: &[u32], backups: &[Opener]) -> Vec<LogWindow> {
    let mut windows: Vec<LogWindow> = Vec::new();
    for span in spans {
        let own = backups.iter().filter(|b| b.sound && leads_into(b, span)).min_by_key(|b| (offset(b), b.at));
        let whole = LogWindow {
            timeline: span.timeline,
            from: span.first_at,
            to: span.last_at,
            start: span.range.start,
            end: span.range.end,
            opened_by: None,
            opened_on: None,
        };
        windows.push(match (earlier(&windows, span, histories), own) {
            (Some(before), _) => {
                LogWindow { opened_by: before.opened_by, opened_on: before.opened_on, ..whole }
            }
            // Log from before a backup is of no use to it.
            (None, Some(backup)) => LogWindow {
                from: backup.at,
                to: span.last_at.max(backup.at),
                start: offset(backup).max(span.range.start),
                opened_by: Some(backup.id),
                opened_on: Some(span.timeline),
                ..whole
            },
            (None, None) => whole,
        });
    }
    windows
}

fn offset(backup: &Opener) -> u64 {
    backup.position.map_or(0, |p| p.offset)
}

/// Whether the log goes on from a backup within this stretch.
fn leads_into(backup: &Opener, span: &LogSpan) -> bool {
    let Some(position) = backup.position.filter(|p| p.timeline == span.timeline) else { return false };
    let whole_segments = span.range.start.is_multiple_of(SEGMENT)
        && position.offset < span.range.start
        && span.range.start - position.offset <= SEGMENT;
    whole_segments || (span.range.start <= position.offset && position.offset <= span.range.end)
}

/// The window of an earlier timeline that leads to the beginning of this one.
fn earlier<'a>(before: &'a [LogWindow], span: &LogSpan, histories: &[u32]) -> Option<&'a LogWindow> {
    if !histories.contains(&span.timeline) || before.iter().any(|w| w.timeline == span.timeline) {
        return None;
    }
    // A timeline begins with a copy of the segment that it branched off in.
    let reaches = |w: &&LogWindow| {
        w.opened_by.is_some()
            && w.timeline < span.timeline
            && w.start <= span.range.start + SEGMENT
            && w.end >= span.range.start
    };
    before.iter().rev().find(reaches)
}
