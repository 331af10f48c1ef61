//! What a page of a relation's file says about itself: its place in the log, and its checksum.
//!
//! The head of a page (`src/include/storage/bufpage.h`): the LSN in two words, high first; the checksum; flags; where free
//! space begins and ends. The checksum (described in `src/include/storage/checksum_impl.h`) is FNV-1a run over 32 columns of
//! words at once, each step also mixed with itself shifted, which makes it fit for vector registers.

use super::Lsn;

/// Columns that are summed side by side.
const LANES: usize = 32;
/// The prime of 32-bit FNV.
const PRIME: u32 = 16_777_619;

/// What each column begins with: random numbers that are part of the algorithm.
const BEGINNINGS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// The end of the last record that changed the page.
pub(super) fn lsn(page: &[u8]) -> Lsn {
    Lsn(u64::from(word(page, 0)) << 32 | u64::from(word(page, 4)))
}

/// Whether the page was never filled: it has no free space that could end somewhere.
pub(super) fn is_new(page: &[u8]) -> bool {
    half(page, 14) == 0
}

/// Whether the page's checksum is that of its content at this block of its relation. Pages that were never filled have
/// none.
pub(super) fn is_sound(page: &[u8], block: u32) -> bool {
    is_new(page) || half(page, 8) == checksum(page, block)
}

/// The checksum that a page must have.
pub(super) fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BEGINNINGS;
    let mut rows = page.chunks_exact(LANES * 4);
    if let Some(first) = rows.next() {
        let mut words = words_of(first);
        // The checksum itself counts as zero.
        words[2] &= 0xFFFF_0000;
        mix(&mut sums, &words);
    }
    for row in rows {
        mix(&mut sums, &words_of(row));
    }
    mix(&mut sums, &[0; LANES]);
    mix(&mut sums, &[0; LANES]);
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Never zero, which means that there is none.
    (folded % 65_535 + 1) as u16
}

#[inline(always)]
fn words_of(row: &[u8]) -> [u32; LANES] {
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(row.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[inline(always)]
fn mix(sums: &mut [u32; LANES], words: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ *word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_filled_has_no_checksum() {
        assert!(is_sound(&[0; 8192], 7));
        assert_eq!(lsn(&[0; 8192]), Lsn(0));
    }

    /// Real pages of real servers judge this in `tests/`; here only that every bit and the place count.
    #[test]
    fn every_bit_and_the_block_count() {
        let mut page: Vec<u8> = (0..8192_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let sum = checksum(&page, 9).to_le_bytes();
        page[8..10].copy_from_slice(&sum);
        assert!(is_sound(&page, 9) && !is_sound(&page, 10));
        for at in [0, 7, 10, 127, 128, 4096, 8191] {
            let mut other = page.clone();
            other[at] ^= 0x10;
            assert!(!is_sound(&other, 9), "{at}");
        }
        assert_ne!(checksum(&page, 9), 0);
    }
}
