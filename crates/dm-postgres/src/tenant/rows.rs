//! Sets of rows by their positions in the heap.

use dm_core::{Error, Result};
use roaring::RoaringTreemap;

/// Bits for the number of a row in its block: 32 KiB blocks hold at most 1,169 rows, 8 KiB blocks 291.
const ROW_BITS: u32 = 11;

/// A set of positions. Two bytes a row and less where rows lie close.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RowSet(RoaringTreemap);

impl RowSet {
    /// Adds a position; whether it was new.
    pub(crate) fn insert(&mut self, (block, row): (u32, u16)) -> bool {
        self.0.insert(u64::from(block) << ROW_BITS | u64::from(row))
    }

    /// Whether a position is in it.
    pub(crate) fn contains(&self, (block, row): (u32, u16)) -> bool {
        self.0.contains(u64::from(block) << ROW_BITS | u64::from(row))
    }

    /// Adds all of another set.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 |= &other.0;
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up to so many positions out, as a literal of an array of `tid`; nothing when it is empty.
    pub(crate) fn take(&mut self, most: usize) -> Option<String> {
        let (literal, last) = self.literal_from(0, most)?;
        self.0.remove_range(0..=last);
        Some(literal)
    }

    /// The literal of an array of up to so many positions, and where to go on.
    pub(crate) fn literal_from(&self, start: u64, most: usize) -> Option<(String, u64)> {
        let mut literal = String::from("'{");
        let mut last = None;
        let mut positions = self.0.iter();
        positions.advance_to(start);
        for position in positions.take(most) {
            let separator = if last.is_some() { "," } else { "" };
            let (block, row) = (position >> ROW_BITS, position & ((1 << ROW_BITS) - 1));
            literal.push_str(&format!("{separator}\"({block},{row})\""));
            last = Some(position);
        }
        literal.push_str("}'::pg_catalog.tid[]");
        Some((literal, last?))
    }
}

/// Reads `(12,3)`.
pub(super) fn position(text: &str) -> Result<(u32, u16)> {
    let parse = || {
        let (block, row) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        Some((block.parse().ok()?, row.parse().ok().filter(|row| *row < 1 << ROW_BITS)?))
    };
    parse().ok_or_else(|| Error::internal("the server gave a row's position that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_out_in_portions() {
        let mut rows = RowSet::default();
        for at in [(7, 1), (0, 291), (u32::MAX - 1, 5), (7, 1)] {
            rows.insert(at);
        }
        assert!(rows.0.len() == 3 && rows.contains((7, 1)) && !rows.contains((7, 2)));
        assert_eq!(rows.take(2).unwrap(), "'{\"(0,291)\",\"(7,1)\"}'::pg_catalog.tid[]");
        assert_eq!(rows.take(2).unwrap(), "'{\"(4294967294,5)\"}'::pg_catalog.tid[]");
        assert!(rows.take(2).is_none() && rows.is_empty());
        assert_eq!(position("(12,3)").unwrap(), (12, 3));
        assert!(position("(12)").is_err() && position("(1,65535)").is_err());
    }
}
