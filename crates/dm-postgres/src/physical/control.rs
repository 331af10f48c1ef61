//! `global/pg_control`, the one file without which nothing starts (`src/include/catalog/pg_control.h`).

use dm_core::{Error, Result};

/// What is read out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControlFile {
    pub(super) system_identifier: u64,
    pub(super) catalog_version: u32,
    /// The timeline of the last checkpoint (or restart point).
    pub(super) checkpoint_timeline: u32,
}

impl ControlFile {
    /// Reads it; `None` when it was caught in the middle of a change: its checksum does not hold.
    ///
    /// The checksum follows the last field, and where that is differs by version: it is looked for.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        let (Some(low), Some(high), Some(version)) = (word(0), word(4), word(8)) else { return Ok(None) };
        if version.swap_bytes() < version {
            return Err(Error::unsupported("the server's machine has another byte order than is supported"));
        }
        let mut crc = Crc32c::new();
        let mut at = 0;
        for end in (256..=400).step_by(4) {
            let Some(more) = bytes.get(at..end) else { return Ok(None) };
            crc.add(more);
            at = end;
            if word(end) == Some(crc.value()) {
                return Ok(Some(Self {
                    system_identifier: u64::from(high) << 32 | u64::from(low),
                    catalog_version: word(12).unwrap_or(0),
                    checkpoint_timeline: word(48).unwrap_or(0),
                }));
            }
        }
        Ok(None)
    }
}

/// CRC-32C (Castagnoli), bit by bit: it is used for some hundred bytes.
struct Crc32c(u32);

impl Crc32c {
    fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                self.0 = (self.0 >> 1) ^ (0x82F6_3B78 & (self.0 & 1).wrapping_neg());
            }
        }
    }

    fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32c() {
        let mut crc = Crc32c::new();
        crc.add(b"123456789");
        assert_eq!(crc.value(), 0xE306_9283);
    }

    #[test]
    fn a_file_caught_in_a_change_is_seen() {
        let mut file = vec![0; 8192];
        file[..8].copy_from_slice(&7_123_456_789_u64.to_le_bytes());
        file[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        file[48] = 3;
        let mut crc = Crc32c::new();
        crc.add(&file[..288]);
        file[288..292].copy_from_slice(&crc.value().to_le_bytes());
        let control = ControlFile::parse(&file).unwrap().unwrap();
        assert_eq!((control.system_identifier, control.checkpoint_timeline), (7_123_456_789, 3));
        file[100] ^= 1;
        assert_eq!(ControlFile::parse(&file).unwrap(), None);
        assert_eq!(ControlFile::parse(&file[..100]).unwrap(), None);
    }
}
