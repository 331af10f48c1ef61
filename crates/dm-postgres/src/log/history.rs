//! Timelines: what a `.history` file says, and the way from one to the next.
//!
//! Format of the file: `src/backend/access/transam/timeline.c`: a line an ancestor, oldest first: its number, where it was
//! left, why.

use dm_core::{Error, LogPosition, Result};

/// An ancestor of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ancestor {
    pub(super) timeline: u32,
    /// Where it was left: the first byte that is not of it any more.
    pub(super) end: u64,
}

/// Reads a history file.
///
/// # Errors
/// `Corrupt`.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Ancestor>> {
    let bad = || Error::corrupt("a timeline's history file cannot be read");
    let text = std::str::from_utf8(bytes).map_err(|e| bad().with_source(e))?;
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let timeline = fields.next().and_then(|f| f.parse().ok()).ok_or_else(bad)?;
        let end = fields.next().and_then(lsn).ok_or_else(bad)?;
        if ancestors.last().is_some_and(|last| last.timeline >= timeline || last.end > end) {
            return Err(bad());
        }
        ancestors.push(Ancestor { timeline, end });
    }
    if ancestors.is_empty() { Err(bad()) } else { Ok(ancestors) }
}

/// `16/B374D848` as a number.
pub(super) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |t: &str| (1..=8).contains(&t.len()).then(|| u32::from_str_radix(t, 16).ok()).flatten();
    Some((u64::from(part(high)?) << 32) | u64::from(part(low)?))
}

/// The next thing to do for somebody who is not on the server's timeline yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The old timeline has more, up to here; its last segment may be found in that timeline's first one.
    Read { until: u64, heir: u32 },
    /// Go over to this timeline, whose log begins with the segment of this byte.
    Turn { timeline: u32, at: u64 },
}

/// The way from a place to the timeline that the server is on.
///
/// A place on a timeline that is no ancestor (a branch that was left, which the server never saw) has nothing more to give:
/// the way goes on with the first of the server's timelines that came after it.
pub(super) fn step(from: LogPosition, ancestors: &[Ancestor], current: u32) -> Step {
    let heir_of = |index: usize| ancestors.get(index + 1).map_or(current, |a| a.timeline);
    if let Some(index) = ancestors.iter().position(|a| a.timeline == from.timeline) {
        let (until, heir) = (ancestors[index].end, heir_of(index));
        return match from.offset < until {
            true => Step::Read { until, heir },
            false => Step::Turn { timeline: heir, at: until },
        };
    }
    let before = ancestors.iter().rposition(|a| a.timeline < from.timeline);
    match before {
        Some(index) => Step::Turn { timeline: heir_of(index), at: ancestors[index].end },
        // Older than all that is known: from the beginning of what is known.
        None => Step::Turn { timeline: ancestors.first().map_or(current, |a| a.timeline), at: from.offset },
    }
}

/// The timeline that a byte of the server's log is on.
pub(super) fn timeline_of(offset: u64, ancestors: &[Ancestor], current: u32) -> u32 {
    ancestors.iter().find(|a| offset < a.end).map_or(current, |a| a.timeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, offset: u64) -> LogPosition {
        LogPosition { timeline, offset }
    }

    #[test]
    fn a_history_is_read_and_nonsense_is_not() {
        let text =
            b"# comment\n1\t0/3000148\tno recovery target specified\n\n3\t1/A000000\tbefore 2026-01-01\n";
        let ancestors = parse(text).unwrap();
        assert_eq!(
            ancestors,
            [Ancestor { timeline: 1, end: 0x300_0148 }, Ancestor { timeline: 3, end: 0x1_0A00_0000 }]
        );
        for bad in ["", "1", "x 0/1", "1 0", "1 0/100000000", "2 0/1\n1 0/2", "1 0/9\n2 0/1", "\u{0}\u{1}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(&[0xFF, 0xFE]).is_err());
        assert_eq!(timeline_of(0x300_0147, &ancestors, 4), 1);
        assert_eq!(timeline_of(0x300_0148, &ancestors, 4), 3);
        assert_eq!(timeline_of(u64::MAX, &ancestors, 4), 4);
    }

    #[test]
    fn an_old_timeline_is_read_to_its_end_and_then_left() {
        let ancestors = [Ancestor { timeline: 1, end: 100 }, Ancestor { timeline: 2, end: 200 }];
        assert_eq!(step(at(1, 50), &ancestors, 3), Step::Read { until: 100, heir: 2 });
        assert_eq!(step(at(1, 100), &ancestors, 3), Step::Turn { timeline: 2, at: 100 });
        // More was shipped than the heir took over.
        assert_eq!(step(at(1, 150), &ancestors, 3), Step::Turn { timeline: 2, at: 100 });
        assert_eq!(step(at(2, 100), &ancestors, 3), Step::Read { until: 200, heir: 3 });
        assert_eq!(step(at(2, 200), &ancestors, 3), Step::Turn { timeline: 3, at: 200 });
    }

    #[test]
    fn a_branch_that_the_server_never_saw_has_nothing_more_to_give() {
        let ancestors = [Ancestor { timeline: 1, end: 100 }, Ancestor { timeline: 4, end: 300 }];
        assert_eq!(step(at(2, 150), &ancestors, 6), Step::Turn { timeline: 4, at: 100 });
        assert_eq!(step(at(5, 350), &ancestors, 6), Step::Turn { timeline: 6, at: 300 });
    }
}
