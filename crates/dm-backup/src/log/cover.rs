//! Which pieces cover which part of a log.

use std::ops::Range;

use dm_core::LogSpan;
use dm_repository::{LogEntry, LogQuiet};

/// The pieces of one timeline, of pieces sorted by timeline and start.
pub(super) fn of_timeline(sorted: &[LogEntry], timeline: u32) -> &[LogEntry] {
    let from = sorted.partition_point(|e| e.timeline < timeline);
    let to = sorted.partition_point(|e| e.timeline <= timeline);
    &sorted[from..to]
}

/// Stretches without a hole, in order. What follows a stretch that is quiet up to an instant is empty up to then.
pub(super) fn spans(sorted: &[LogEntry], quiet: &[LogQuiet]) -> Vec<LogSpan> {
    let mut spans: Vec<LogSpan> = Vec::new();
    for entry in sorted {
        match spans.last_mut() {
            Some(last) if last.timeline == entry.timeline && last.range.end >= entry.start => {
                last.range.end = last.range.end.max(entry.end);
                last.last_at = last.last_at.max(entry.sealed_at);
            }
            _ => spans.push(LogSpan {
                timeline: entry.timeline,
                range: entry.start..entry.end,
                first_at: entry.sealed_at,
                last_at: entry.sealed_at,
            }),
        }
    }
    for quiet in quiet {
        let holds = |s: &&mut LogSpan| {
            s.timeline == quiet.timeline && s.range.start < quiet.position && quiet.position <= s.range.end
        };
        if let Some(span) = spans.iter_mut().find(holds) {
            span.last_at = span.last_at.max(quiet.at);
        }
    }
    spans
}

/// Pieces of one timeline, sorted by start, that cover a range, each with its share of it; the first byte that none has
/// otherwise.
pub(super) fn chain(sorted: &[LogEntry], range: Range<u64>) -> Result<Vec<(LogEntry, Range<u64>)>, u64> {
    let mut chain = Vec::new();
    let (mut at, mut next) = (range.start, 0);
    let mut best: Option<LogEntry> = None;
    while at < range.end {
        while let Some(entry) = sorted.get(next).filter(|e| e.start <= at) {
            if best.is_none_or(|b| entry.end > b.end) {
                best = Some(*entry);
            }
            next += 1;
        }
        let Some(entry) = best.filter(|b| b.end > at) else { return Err(at) };
        let to = entry.end.min(range.end);
        chain.push((entry, at..to));
        at = to;
    }
    Ok(chain)
}
