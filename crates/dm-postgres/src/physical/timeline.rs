//! The history of a timeline: what it branched off, and where (the `.history` files of `pg_wal`).

use dm_core::{Error, Result};

use super::Lsn;

/// A timeline with its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimelineHistory {
    /// The timeline itself.
    pub(crate) timeline: u32,
    /// Its ancestors, oldest first, each with the place where the next one branched off.
    pub(crate) ancestors: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// Reads the file of a timeline: a line an ancestor (number, place, reason), comments and empty lines between.
    pub(crate) fn parse(timeline: u32, text: &str) -> Result<Self> {
        let bad =
            || Error::corrupt("the history of a timeline is not understood").about(format!("{timeline:08X}"));
        let mut ancestors = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split_ascii_whitespace();
            let (Some(number), Some(end)) = (words.next(), words.next()) else { return Err(bad()) };
            let number: u32 = number.parse().map_err(|_| bad())?;
            let end: Lsn = end.parse().map_err(|_| bad())?;
            let ascends = ancestors.last().is_none_or(|(last, _)| *last < number) && number < timeline;
            if !ascends {
                return Err(bad());
            }
            ancestors.push((number, end));
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timelines in order with the stretch of log on each: the last has no end.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (u32, Lsn, Option<Lsn>)> + '_ {
        let begins = std::iter::once(Lsn(0)).chain(self.ancestors.iter().map(|(_, end)| *end));
        let ends = self
            .ancestors
            .iter()
            .map(|(number, end)| (*number, Some(*end)))
            .chain(std::iter::once((self.timeline, None)));
        ends.zip(begins).map(|((number, end), begin)| (number, begin, end))
    }

    /// Whether this place of that timeline is in the past of this one.
    pub(crate) fn contains(&self, timeline: u32, place: Lsn) -> bool {
        self.stretches().any(|(number, begin, end)| {
            number == timeline && begin <= place && end.is_none_or(|end| place <= end)
        })
    }

    /// The timeline that the log at this place is on.
    pub(crate) fn timeline_at(&self, place: Lsn) -> u32 {
        self.stretches()
            .find(|(_, _, end)| end.is_none_or(|end| place < end))
            .map_or(self.timeline, |(number, _, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_of_a_timeline() {
        let text =
            "1\t0/3000000\tbefore 2026-01-01\n\n# a comment\n2\t0/5000000\tno recovery target specified\n";
        let history = TimelineHistory::parse(3, text).unwrap();
        assert!(history.contains(1, Lsn(0x0200_0000)) && history.contains(1, Lsn(0x0300_0000)));
        assert!(!history.contains(1, Lsn(0x0300_0001)), "that was another future of timeline 1");
        assert!(history.contains(2, Lsn(0x0400_0000)) && !history.contains(2, Lsn(0x0200_0000)));
        assert!(history.contains(3, Lsn(0x9000_0000)) && !history.contains(4, Lsn(0x0600_0000)));
        assert_eq!(history.timeline_at(Lsn(0x0300_0000)), 2);
        assert_eq!(history.timeline_at(Lsn(0x0600_0000)), 3);
        for bad in ["1", "x\t0/1", "3\t0/1\tself", "2\t0/1\n1\t0/2"] {
            assert!(TimelineHistory::parse(3, bad).is_err(), "{bad}");
        }
    }
}
