//! Names and pages of WAL files.
//!
//! A segment is called by its timeline and its number; the server names files before it fills them, by renaming old ones, so
//! a name alone proves nothing. Every page begins with its own address: what does not is not of this place in the log.
//!
//! Layout of a page's header: `src/include/access/xlog_internal.h`, unchanged since PostgreSQL 9.3 in the fields read here.

use dm_core::{Error, Result};

/// The size of a segment where nobody chose another.
pub(super) const DEFAULT_SEGMENT_BYTES: u64 = 16 << 20;

const MIN_SEGMENT_BYTES: u64 = 1 << 20;
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// The long header's flag: the first page of a segment has one.
const LONG_HEADER: u16 = 0x0002;
const LONG_HEADER_BYTES: usize = 40;
/// As much of a header as holds the page's address.
const ADDRESS_BYTES: usize = 16;

/// A file of `pg_wal`, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    /// A segment, or the last one of a timeline that was left (`.partial`).
    Segment { timeline: u32, log: u32, number: u32, partial: bool },
    /// How a timeline began.
    History { timeline: u32 },
    /// What `pg_backup_stop` leaves for people.
    BackupNote,
}

impl FileName {
    /// Reads a name; `None` for one that the server would not give.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(".history") {
            return Some(Self::History { timeline: timeline(stem)? });
        }
        if let Some(stem) = name.strip_suffix(".backup") {
            let (segment, offset) = stem.split_once('.')?;
            Self::segment(segment, false)?;
            return hex(offset, 8).map(|_| Self::BackupNote);
        }
        match name.strip_suffix(".partial") {
            Some(stem) => Self::segment(stem, true),
            None => Self::segment(name, false),
        }
    }

    fn segment(name: &str, partial: bool) -> Option<Self> {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        Some(Self::Segment {
            timeline: timeline(&name[..8])?,
            log: hex(&name[8..16], 8)?,
            number: hex(&name[16..], 8)?,
            partial,
        })
    }
}

fn timeline(text: &str) -> Option<u32> {
    hex(text, 8).filter(|t| *t > 0)
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    let upper = text.bytes().all(|c| c.is_ascii_digit() || (b'A'..=b'F').contains(&c));
    (text.len() == digits && upper).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// The first byte of a segment; `None` when there can be no such segment of this size.
pub(super) fn start_of(log: u32, number: u32, segment_bytes: u64) -> Option<u64> {
    let a_log = 0x1_0000_0000 / segment_bytes;
    (u64::from(number) < a_log).then(|| (u64::from(log) << 32) + u64::from(number) * segment_bytes)
}

/// The name of the segment that holds a byte.
pub(super) fn name_of(timeline: u32, offset: u64, segment_bytes: u64) -> String {
    let a_log = 0x1_0000_0000 / segment_bytes;
    let segment = offset / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", segment / a_log, segment % a_log)
}

/// The name of a timeline's history.
pub(super) fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// Whether a server may have segments of this size.
pub(super) fn is_segment_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes)
}

/// What the first page of a segment says of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) system: u64,
    pub(super) segment_bytes: u64,
    pub(super) page_bytes: u64,
    pub(super) address: u64,
}

impl Head {
    /// Reads the beginning of a segment; `None` when it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let page = Page::read(bytes, ByteOrder::Little)
            .filter(|p| p.is_long_of(bytes, ByteOrder::Little))
            .map(|p| (p, ByteOrder::Little))
            .or_else(|| {
                Page::read(bytes, ByteOrder::Big)
                    .filter(|p| p.is_long_of(bytes, ByteOrder::Big))
                    .map(|p| (p, ByteOrder::Big))
            });
        let (page, order) = page?;
        Some(Self {
            system: order.u64(bytes, 24)?,
            segment_bytes: u64::from(order.u32(bytes, 32)?),
            page_bytes: u64::from(order.u32(bytes, 36)?),
            address: page.address,
        })
    }
}

/// The byte order of the server that wrote the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let raw = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(raw),
            Self::Big => u32::from_be_bytes(raw),
        })
    }

    fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let raw = bytes.get(at..at + 8)?.try_into().ok()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(raw),
            Self::Big => u64::from_be_bytes(raw),
        })
    }

    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let raw = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(raw),
            Self::Big => u16::from_be_bytes(raw),
        })
    }
}

struct Page {
    info: u16,
    timeline: u32,
    address: u64,
}

impl Page {
    fn read(bytes: &[u8], order: ByteOrder) -> Option<Self> {
        Some(Self {
            info: order.u16(bytes, 2)?,
            timeline: order.u32(bytes, 4)?,
            address: order.u64(bytes, 8)?,
        })
    }

    /// Whether this is a long header whose sizes are possible ones, which no other byte order would give.
    fn is_long_of(&self, bytes: &[u8], order: ByteOrder) -> bool {
        bytes.len() >= LONG_HEADER_BYTES
            && self.info & LONG_HEADER != 0
            && order.u32(bytes, 32).is_some_and(|size| is_segment_size(u64::from(size)))
            && order
                .u32(bytes, 36)
                .is_some_and(|size| size.is_power_of_two() && (1024..=65536).contains(&size))
    }
}

/// What is known of a log's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) segment_bytes: u64,
    pub(super) page_bytes: u64,
    /// The system identifier, where it is known.
    pub(super) system: Option<u64>,
}

impl Shape {
    /// Where the segment that holds a byte begins.
    pub(super) fn segment_start(&self, offset: u64) -> u64 {
        offset - offset % self.segment_bytes
    }

    /// Checks that every page that begins in these bytes belongs at its place. The bytes begin where a page does.
    ///
    /// Pages of nothing but zeros are right behind a switch of segments, and there only: from the first one to the end.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn check(&self, bytes: &[u8], start: u64, timeline: u32) -> Result<()> {
        let valid = self.valid_prefix(bytes, start, timeline);
        if valid == bytes.len() {
            return Ok(());
        }
        let at = start + valid as u64;
        Err(Error::corrupt(format!(
            "the server's file holds something else than the log at {:X}/{:X} of timeline {timeline}: a recycled or \
             damaged segment",
            at >> 32,
            at & 0xFFFF_FFFF
        )))
    }

    /// How many of the bytes belong to pages that are at their place.
    pub(super) fn valid_prefix(&self, bytes: &[u8], start: u64, timeline: u32) -> usize {
        let step = usize::try_from(self.page_bytes).unwrap_or(usize::MAX);
        let mut zeros_since = None;
        for (number, page) in bytes.chunks(step).enumerate() {
            let offset = number * step;
            let address = start + offset as u64;
            if page.iter().all(|b| *b == 0) {
                // The first page of a segment is never empty: a switch writes into the one before.
                if address.is_multiple_of(self.segment_bytes) && page.len() >= ADDRESS_BYTES {
                    return offset;
                }
                zeros_since.get_or_insert(offset);
            } else if let Some(since) = zeros_since {
                return since;
            } else if !self.belongs(page, address, timeline) {
                return offset;
            }
        }
        bytes.len()
    }

    fn belongs(&self, page: &[u8], address: u64, timeline: u32) -> bool {
        // The end of the log may be inside a header; the next piece begins at this page again.
        if page.len() < ADDRESS_BYTES {
            return true;
        }
        let first = address.is_multiple_of(self.segment_bytes);
        [ByteOrder::Little, ByteOrder::Big].into_iter().any(|order| {
            let Some(header) = Page::read(page, order) else { return false };
            // A timeline begins with a copy of its parent's last segment, whose pages bear older numbers.
            let fits = header.address == address && (1..=timeline).contains(&header.timeline);
            let long = !first
                || page.len() < LONG_HEADER_BYTES
                || (header.is_long_of(page, order)
                    && order.u32(page, 32).map(u64::from) == Some(self.segment_bytes)
                    && self.system.is_none_or(|system| order.u64(page, 24) == Some(system)));
            fits && long
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { segment_bytes: 1 << 20, page_bytes: 8192, system: Some(77) };

    fn page(address: u64, timeline: u32, order: ByteOrder) -> Vec<u8> {
        let mut page = vec![0xAB; 8192];
        let long = address.is_multiple_of(SHAPE.segment_bytes);
        let info: u16 = if long { LONG_HEADER } else { 0 };
        let mut put = |at: usize, little: &[u8]| {
            let mut raw = little.to_vec();
            if order == ByteOrder::Big {
                raw.reverse();
            }
            page[at..at + raw.len()].copy_from_slice(&raw);
        };
        put(0, &0xD116_u16.to_le_bytes());
        put(2, &info.to_le_bytes());
        put(4, &timeline.to_le_bytes());
        put(8, &address.to_le_bytes());
        put(16, &0_u32.to_le_bytes());
        if long {
            put(24, &77_u64.to_le_bytes());
            put(32, &(1_u32 << 20).to_le_bytes());
            put(36, &8192_u32.to_le_bytes());
        }
        page
    }

    fn pages(addresses: impl IntoIterator<Item = u64>) -> Vec<u8> {
        addresses.into_iter().flat_map(|a| page(a, 2, ByteOrder::Little)).collect()
    }

    #[test]
    fn names_go_both_ways() {
        for (offset, size, name) in [
            (0, 16 << 20, "000000010000000000000000"),
            (0x0200_0028, 16 << 20, "000000010000000000000002"),
            (0x1_FF00_0000, 16 << 20, "0000000100000001000000FF"),
            (0x2_0000_0000, 1 << 30, "000000010000000200000000"),
            (0x1_4000_0000, 1 << 30, "000000010000000100000001"),
        ] {
            assert_eq!(name_of(1, offset, size), name);
            let Some(FileName::Segment { timeline: 1, log, number, partial: false }) = FileName::parse(name)
            else {
                panic!("{name}")
            };
            assert_eq!(start_of(log, number, size), Some(offset - offset % size), "{name}");
        }
        assert_eq!(start_of(0, 0x40, 64 << 20), None, "there are 64 such segments to a log");
        assert_eq!(FileName::parse("0000000A.history"), Some(FileName::History { timeline: 10 }));
        assert_eq!(FileName::parse("000000010000000000000002.00000028.backup"), Some(FileName::BackupNote));
        assert!(matches!(
            FileName::parse("000000010000000000000002.partial"),
            Some(FileName::Segment { partial: true, .. })
        ));
        for bad in [
            "",
            "x",
            "00000000.history",
            "00000000000000000000000A",
            "00000001000000000000000a",
            "../0000000A.history",
            "0000000A.history.tmp",
            "000000010000000000000002.backup",
            "00000001000000000000000é",
        ] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_recycled_segment_is_refused_page_by_page() {
        let start = 3 << 20;
        let good = pages((0..4).map(|i| start + i * 8192));
        SHAPE.check(&good, start, 2).unwrap();
        // A timeline's first segment has pages of its parent; never of its child.
        SHAPE.check(&good, start, 3).unwrap();
        assert!(SHAPE.check(&good, start, 1).is_err());
        // The old content under a future name, as a whole and from the third page on.
        assert_eq!(SHAPE.valid_prefix(&good, start + (1 << 20), 2), 0);
        let mut half = pages([start, start + 8192]);
        half.extend(pages([(1 << 20) + 2 * 8192, (1 << 20) + 3 * 8192]));
        assert_eq!(SHAPE.valid_prefix(&half, start, 2), 2 * 8192);
        let error = SHAPE.check(&half, start, 2).unwrap_err();
        assert!(error.to_string().contains("0/304000"), "{error}");
        // Another server's.
        let stranger = Shape { system: Some(78), ..SHAPE };
        assert!(stranger.check(&good, start, 2).is_err());
        // Another size of segments.
        let other = Shape { segment_bytes: 16 << 20, ..SHAPE };
        assert!(other.check(&pages([0]), 0, 2).is_err());
    }

    #[test]
    fn zeros_are_right_behind_a_switch_only() {
        let start = (3 << 20) + 8192;
        let mut switched = pages([start, start + 8192]);
        switched.resize(5 * 8192, 0);
        SHAPE.check(&switched, start, 2).unwrap();
        switched.extend(pages([start + 5 * 8192]));
        assert_eq!(SHAPE.valid_prefix(&switched, start, 2), 2 * 8192);
        assert_eq!(SHAPE.valid_prefix(&[0; 8192], 3 << 20, 2), 0, "a segment never begins empty");
    }

    #[test]
    fn an_end_inside_a_page_is_an_end() {
        let start = (3 << 20) + 8192;
        let mut bytes = pages([start, start + 8192]);
        for length in [8192, 8193, 8192 + 15, 8192 + 16, 16383] {
            bytes.truncate(16384);
            SHAPE.check(&bytes[..length], start, 2).unwrap();
        }
        bytes[8192 + 8] ^= 1;
        assert!(SHAPE.check(&bytes[..8192 + 16], start, 2).is_err());
    }

    #[test]
    fn servers_of_the_other_byte_order_are_read_too() {
        let mut bytes = page(3 << 20, 2, ByteOrder::Big);
        bytes.extend(page((3 << 20) + 8192, 2, ByteOrder::Big));
        SHAPE.check(&bytes, 3 << 20, 2).unwrap();
        let head = Head::read(&bytes).unwrap();
        assert_eq!(head, Head { system: 77, segment_bytes: 1 << 20, page_bytes: 8192, address: 3 << 20 });
        assert_eq!(Head::read(&pages([3 << 20])), Some(head));
        assert_eq!(Head::read(&pages([(3 << 20) + 8192])), None);
        assert_eq!(Head::read(&[0; 64]), None);
    }
}
