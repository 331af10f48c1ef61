//! Places in the write-ahead log, and the names of its files.

use std::fmt;
use std::str::FromStr;

use dm_core::Error;

/// A place in the log, in the server's notation `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub(crate) u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let half = |digits: &str| match digits.len() {
            1..=8 if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
            _ => None,
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| Error::invalid(format!("\"{text}\" is no place in a log of postgres")))
    }
}

/// The name of a segment's file: timeline, then the number in two halves of eight digits.
pub(crate) fn segment_name(timeline: u32, number: u64, segment_bytes: u64) -> String {
    let in_one_id = (0x1_0000_0000 / segment_bytes.max(1)).max(1);
    format!("{timeline:08X}{:08X}{:08X}", number / in_one_id, number % in_one_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_as_the_server_does() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/2000028"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "/", "0", "0/", "1/2/3", "G/0", "123456789/0", "+1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn segments_are_named_as_the_server_does() {
        assert_eq!(segment_name(1, 2, 16 << 20), "000000010000000000000002");
        assert_eq!(segment_name(0x1A, 256, 16 << 20), "0000001A0000000100000000");
        assert_eq!(segment_name(1, 5, 1 << 30), "000000010000000100000001");
    }
}
