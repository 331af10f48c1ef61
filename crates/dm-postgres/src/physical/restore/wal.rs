//! Names and numbers of the write-ahead log: positions, segments, what a timeline branched off.
//!
//! Forms: `src/include/access/xlog_internal.h` and `src/backend/access/transam/timeline.c` of PostgreSQL.

use dm_core::{Error, Result};

use crate::physical::Lsn;
pub(super) use crate::physical::segment_name;
use crate::physical::timeline::TimelineHistory;

/// A position as PostgreSQL writes it: `16/B374D848`.
pub(super) fn parse_lsn(text: &str) -> Result<u64> {
    let position: Lsn = text.trim().parse().map_err(|e: Error| e.with_hint("write it as 16/B374D848"))?;
    Ok(position.0)
}

/// The same the other way.
pub(super) fn lsn(position: u64) -> String {
    Lsn(position).to_string()
}

/// The timeline and the number of a segment file's name.
pub(super) fn parse_segment(name: &str, segment_bytes: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, id, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let per_id = (1u64 << 32) / segment_bytes.max(1);
    Some((timeline, u64::from(id) * per_id + u64::from(low)))
}

/// The file name of a timeline's record of its ancestors.
pub(super) fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// A part of a timeline's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ancestor {
    pub(super) timeline: u32,
    /// Where the next one branched off.
    pub(super) until: u64,
}

/// Reads a `.history` file: the ancestors, oldest first.
pub(super) fn parse_history(timeline: u32, bytes: &[u8]) -> Result<Vec<Ancestor>> {
    let bad =
        || Error::corrupt("a timeline's history is not what it should be").about(history_name(timeline));
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    let history = TimelineHistory::parse(timeline, text)?;
    let ancestors: Vec<Ancestor> = history
        .ancestors
        .iter()
        .map(|(timeline, end)| Ancestor { timeline: *timeline, until: end.0 })
        .collect();
    let ascends = ancestors.windows(2).all(|w| matches!(w, [a, b] if a.until <= b.until));
    if ancestors.is_empty() || !ascends { Err(bad()) } else { Ok(ancestors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_names_are_postgresqls_own() {
        assert_eq!(parse_lsn(" 16/B374D848 ").unwrap(), 0x16_B374_D848);
        assert_eq!(lsn(0x16_B374_D848), "16/B374D848");
        let sixteen = 16 << 20;
        assert_eq!(segment_name(1, 0x1FF, sixteen), "0000000100000001000000FF");
        assert_eq!(parse_segment("0000000100000001000000FF", sixteen), Some((1, 0x1FF)));
        assert_eq!(segment_name(3, 5, 1 << 30), "000000030000000100000001");
        assert_eq!(parse_segment("00000002.history", sixteen), None);
    }

    #[test]
    fn a_history_must_ascend() {
        let text = b"1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-20\n";
        let read = parse_history(3, text).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1], Ancestor { timeline: 2, until: 0x500_0000 });
        for bad in ["", "x", "2\t0/1\t\n1\t0/2\t", "1\t0/5\n2\t0/4", "3\t0/1"] {
            assert!(parse_history(3, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
