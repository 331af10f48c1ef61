//! Whether a recovery that went to the end of the log came to its end.
//!
//! PostgreSQL takes the first record that does not hold for the end of all log. It is one only when nothing whole follows:
//! zeros, or a record that was cut by the end of what was shipped.

use dm_core::{LogReader, OpContext, Result};
use futures::StreamExt as _;

use super::points::LogPlan;
use super::recovery::short;

/// The size of a page of the log, of its short header and of a segment's first one.
/// `src/include/access/xlog_internal.h`.
const PAGE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// The least that a record has. `src/include/access/xlogrecord.h`.
const RECORD_HEADER: u64 = 24;

/// Fails when the log goes on behind where the replay stopped.
pub(super) async fn check(
    ctx: &OpContext,
    log: &dyn LogReader,
    plan: &LogPlan,
    timeline: u32,
    reached: u64,
    segment_bytes: u64,
) -> Result<()> {
    if reached >= plan.upto {
        return Ok(());
    }
    let fails = || short(reached, plan.upto);
    let Some((_, range)) =
        plan.pieces.iter().find(|(t, r)| *t == timeline && r.start <= reached && reached < r.end)
    else {
        return Err(fails());
    };
    // A record cannot be longer than this and still be cut: what is behind would be whole.
    let most = range.end.min(reached + 2 * segment_bytes);
    let mut bytes = Vec::new();
    let mut content = log.read(ctx, timeline, reached..most);
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece?);
    }
    match ends(&bytes, reached, plan.upto, segment_bytes) {
        true => Ok(()),
        false => Err(fails()),
    }
}

/// Whether nothing whole lies in these bytes, the log from a position on.
fn ends(bytes: &[u8], reached: u64, upto: u64, segment_bytes: u64) -> bool {
    let header = |at: u64| match at % segment_bytes {
        0 => LONG_HEADER,
        _ => SHORT_HEADER,
    };
    // Records begin at multiples of eight, behind the header of a page.
    let mut at = reached.next_multiple_of(8);
    if at.is_multiple_of(PAGE) {
        at += header(at);
    }
    let Some(length) = usize::try_from(at - reached)
        .ok()
        .and_then(|i| bytes.get(i..i + 4))
        .and_then(|b| b.first_chunk::<4>())
        .map(|b| u64::from(u32::from_ne_bytes(*b)))
    else {
        return true;
    };
    if length == 0 {
        return reached / segment_bytes == (upto - 1) / segment_bytes && bytes.iter().all(|b| *b == 0);
    }
    if length < RECORD_HEADER {
        return false;
    }
    let mut left = length;
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return at + left > upto;
        }
        left -= room;
        at += room;
        if at >= upto {
            return true;
        }
        at += header(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn record(length: u32, total: usize) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.resize(total, 1);
        bytes
    }

    #[test]
    fn a_cut_record_ends_the_log_and_a_whole_one_does_not() {
        let at = SEGMENT + 1000 * 8;
        assert!(ends(&record(200, 100), at, at + 100, SEGMENT));
        assert!(!ends(&record(100, 200), at, at + 200, SEGMENT));
        assert!(!ends(&record(100, 100), at, at + 100, SEGMENT));
        assert!(ends(&[], at, at, SEGMENT));
    }

    #[test]
    fn a_record_over_pages_counts_their_headers() {
        // 192 bytes to the end of the page, then a header of 24.
        let at = SEGMENT + PAGE - 192;
        assert!(ends(&record(300, 300), at, at + 300, SEGMENT));
        assert!(ends(&record(300, 323), at, at + 323, SEGMENT));
        assert!(!ends(&record(300, 324), at, at + 324, SEGMENT));
    }

    #[test]
    fn zeros_end_the_log_only_within_its_last_segment() {
        let at = SEGMENT + 8;
        assert!(ends(&[0; 64], at, at + 64, SEGMENT));
        assert!(!ends(&[0; 64], at, 3 * SEGMENT, SEGMENT));
        let mut trailing = vec![0; 64];
        trailing[50] = 7;
        assert!(!ends(&trailing, at, at + 64, SEGMENT));
    }
}
