//! How far the shipped log leads along a way, and up to when.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat, Utc};
use dm_core::{LogPosition, LogReader, LogSpan};

use super::source::Source;
use super::timelines::Leg;
use super::wal::lsn;

/// What of the way is there.
pub(super) struct Coverage {
    pub(super) pieces: Vec<(u32, Range<u64>)>,
    begin: LogPosition,
    begin_at: DateTime<Utc>,
    /// Where the first hole begins, or everything ends.
    pub(super) end: LogPosition,
    pub(super) end_at: DateTime<Utc>,
    /// The hole, where there is log behind it.
    pub(super) gap: Option<(u32, Range<u64>)>,
}

impl Coverage {
    pub(super) fn of(source: &Source, backup_end: u64, legs: &[Leg], log: &dyn LogReader) -> Self {
        let segment_start = |offset: u64| offset / source.segment_bytes * source.segment_bytes;
        let spans = log.spans();
        let holding = |leg: &Leg, at: u64| -> Option<&LogSpan> {
            spans.iter().find(|s| s.timeline == leg.timeline && s.range.start <= at && at < s.range.end)
        };
        let mut pieces: Vec<(u32, Range<u64>)> = Vec::new();
        let (mut at, mut end_at, mut k) = (source.stop.offset, source.stop_at, 0);
        let mut from = segment_start(at);
        let mut timeline = source.stop.timeline;
        while let Some(leg) = legs.get(k) {
            let upper = leg.end.unwrap_or(u64::MAX);
            if at >= upper && k + 1 < legs.len() {
                k += 1;
                from = segment_start(upper);
                continue;
            }
            if let Some(span) = holding(leg, at) {
                let end = span.range.end.min(upper);
                pieces.push((leg.timeline, span.range.start.max(from)..end));
                end_at = match span.range.end <= upper {
                    true => span.last_at,
                    false => sealed_at(log, span, upper),
                }
                .max(end_at);
                (at, timeline) = (end, leg.timeline);
                continue;
            }
            // A new timeline begins with a copy of the segment that it branched off in: it may have what the old one's
            // server did not get to ship.
            if let Some(next) = legs.get(k + 1)
                && at >= segment_start(next.begin)
                && holding(next, at).is_some()
            {
                k += 1;
                from = segment_start(next.begin);
                continue;
            }
            // The end of a backup closes its last segment, which the backup has whole.
            if k == 0 && at < backup_end && backup_end <= upper && holding(leg, backup_end).is_some() {
                at = backup_end;
                continue;
            }
            break;
        }
        let leg = legs.get(k).copied();
        let behind = leg.and_then(|leg| {
            spans.iter().find(|s| s.timeline == leg.timeline && s.range.start > at).map(|s| s.range.start)
        });
        Self {
            pieces,
            begin: source.stop,
            begin_at: source.stop_at,
            end: LogPosition { timeline, offset: at },
            end_at,
            gap: behind.and_then(|start| Some((leg?.timeline, at..start))),
        }
    }

    pub(super) fn mend(&self) -> String {
        let gap = match &self.gap {
            None => String::new(),
            Some((timeline, gap)) => format!(
                "; the log from {} to {} of timeline {timeline} is missing, choose a later backup for what comes after",
                lsn(gap.start),
                lsn(gap.end)
            ),
        };
        format!("choose a point within what the log covers: {self}{gap}")
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {} ({} of timeline {} to {} of timeline {})",
            instant(self.begin_at),
            instant(self.end_at),
            lsn(self.begin.offset),
            self.begin.timeline,
            lsn(self.end.offset),
            self.end.timeline
        )?;
        match &self.gap {
            Some((timeline, gap)) => {
                write!(f, "; then {} to {} of timeline {timeline} is missing", lsn(gap.start), lsn(gap.end))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// When the piece that holds a position was sealed: the earliest instant after which it was not the first any more.
pub(super) fn sealed_at(log: &dyn LogReader, span: &LogSpan, position: u64) -> DateTime<Utc> {
    let (mut low, mut high) = (span.first_at.timestamp_millis(), span.last_at.timestamp_millis());
    while low < high {
        let middle = low + (high - low) / 2;
        let at = DateTime::from_timestamp_millis(middle).unwrap_or(span.last_at);
        match log.end_of(span.timeline, at) {
            Some(end) if end < position => low = middle + 1,
            Some(_) => high = middle,
            None => break,
        }
    }
    DateTime::from_timestamp_millis(low).unwrap_or(span.last_at)
}
