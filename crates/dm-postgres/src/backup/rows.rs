//! Cutting rows into blocks, and adding them to the table's digest. The hottest loop of a backup.
//!
//! Cuts depend on the rows alone: a row ends a block with a probability in proportion to its length, decided by its own
//! hash. So the rows around a change fall into the same blocks as before, and a later backup finds them unchanged.

use bytes::{Bytes, BytesMut};
use dm_core::{Block, ContentDigest, RowHasher};

/// The most bytes of a block, by the port's contract.
const LARGEST_BLOCK: usize = 4 << 20;

/// Gathers rows.
pub(crate) struct RowBlocks {
    hasher: Option<RowHasher>,
    buffer: BytesMut,
    offset: u64,
    /// No block ends before this many bytes.
    shortest: usize,
    /// Every block ends at this many bytes.
    longest: usize,
    /// A row of n bytes ends a block when its hash is below n times this.
    cut_per_byte: u64,
    rows: u64,
}

impl RowBlocks {
    /// Blocks of about `block_bytes`; digests under the key where one is given.
    pub(crate) fn new(block_bytes: usize, digest_key: Option<[u8; 32]>) -> Self {
        let target = block_bytes.clamp(4 << 10, LARGEST_BLOCK / 2);
        Self {
            hasher: digest_key.map(RowHasher::new),
            buffer: BytesMut::with_capacity(target + target / 2),
            offset: 0,
            shortest: target / 2,
            longest: target * 2,
            cut_per_byte: u64::MAX / (target as u64 / 2),
            rows: 0,
        }
    }

    /// Adds a row with its newline; true when a block is ready to be taken.
    pub(crate) fn row(&mut self, line: &[u8]) -> bool {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let hash = match &mut self.hasher {
            Some(hasher) => hasher.row(bare),
            None => cheap_hash(bare),
        };
        self.rows += 1;
        self.buffer.extend_from_slice(line);
        let filled = self.buffer.len();
        filled >= self.longest
            || (filled >= self.shortest && hash < self.cut_per_byte.saturating_mul(line.len() as u64))
    }

    /// Takes what is gathered: nothing when empty, a part of it when a single row is longer than a block may be.
    pub(crate) fn take(&mut self) -> Option<Block> {
        if self.buffer.is_empty() {
            return None;
        }
        let bytes: Bytes = self.buffer.split_to(self.buffer.len().min(LARGEST_BLOCK)).freeze();
        if self.buffer.is_empty() {
            self.buffer.reserve(self.shortest * 3);
        }
        let block = Block::data(self.offset, bytes);
        self.offset += block.length();
        Some(block)
    }

    /// The number of rows so far, and their digest.
    pub(crate) fn facts(&self) -> (u64, Option<ContentDigest>) {
        (self.rows, self.hasher.as_ref().map(RowHasher::digest))
    }
}

/// FNV-1a over words: decides cuts where no digests are wanted.
fn cheap_hash(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(eight)).wrapping_mul(PRIME);
        hash ^= hash >> 32;
    }
    for byte in words.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    // The high bits decide; mix once more so that they depend on all.
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(rows: &[Vec<u8>], key: Option<[u8; 32]>) -> Vec<Bytes> {
        let mut cutter = RowBlocks::new(4 << 10, key);
        let mut out = Vec::new();
        for row in rows {
            if cutter.row(row) {
                while let Some(block) = cutter.take() {
                    assert_eq!(block.offset(), out.iter().map(|b: &Bytes| b.len() as u64).sum::<u64>());
                    out.extend(block.bytes().cloned());
                }
            }
        }
        while let Some(block) = cutter.take() {
            out.extend(block.bytes().cloned());
        }
        out
    }

    fn rows(n: u32) -> Vec<Vec<u8>> {
        (0..n)
            .map(|i| format!("{i}\tsome text of row {}\n", i.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    #[test]
    fn a_change_moves_only_the_blocks_around_it() {
        for key in [Some([3; 32]), None] {
            let before = rows(20_000);
            let mut after = before.clone();
            after[10_000] = b"10000\ta changed and rather longer row than it was before\n".to_vec();
            after.remove(3_000);
            let old: std::collections::HashSet<Bytes> = blocks(&before, key).into_iter().collect();
            let new = blocks(&after, key);
            let changed = new.iter().filter(|b| !old.contains(*b)).count();
            assert!(new.len() > 100 && changed <= 6, "{changed} of {}", new.len());
        }
    }

    #[test]
    fn a_giant_row_comes_in_several_blocks() {
        let giant = vec![vec![b'x'; 9 << 20]];
        let cut = blocks(&giant, Some([0; 32]));
        assert_eq!(cut.iter().map(Bytes::len).collect::<Vec<_>>(), [4 << 20, 4 << 20, 1 << 20]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(lengths in proptest::collection::vec(0_usize..9000, 0..60)) {
            let rows: Vec<Vec<u8>> = lengths.iter().map(|n| { let mut r = vec![b'r'; *n]; r.push(b'\n'); r }).collect();
            prop_assert_eq!(blocks(&rows, Some([1; 32])).concat(), rows.concat());
        }
    }
}
