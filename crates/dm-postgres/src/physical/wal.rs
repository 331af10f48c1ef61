//! The log from a backup's start to its end, read out of `pg_wal`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dm_core::{Block, Error, ErrorKind, OpContext, Result};
use futures::{SinkExt, TryStreamExt};

use super::connections::{next_query, pieces, read};
use super::reading::{Files, Sender};
use super::{Lsn, segment_name};

/// Rows of the first query for a segment; each further one asks for twice as many.
const FIRST_PIECES: usize = 4;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A segment that belongs to a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) timeline: u32,
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Up to where the server wrote it when the backup ended; what follows is zeros.
    pub(super) filled: u64,
}

impl Segment {
    /// Its file's name.
    pub(super) fn name(&self) -> String {
        segment_name(self.timeline, self.number, self.bytes)
    }

    /// The segments that hold everything from `start` to `stop`. `end` is where the server's log ends: nothing behind it is
    /// read, because a file that is used again holds old content there.
    pub(super) fn covering(
        start: Lsn,
        stop: Lsn,
        end: Lsn,
        segment_bytes: u64,
        timeline_at: impl Fn(Lsn) -> u32,
    ) -> Vec<Self> {
        let last = stop.0.saturating_sub(1) / segment_bytes;
        (start.0 / segment_bytes..=last)
            .map(|number| {
                let begin = number * segment_bytes;
                // The newest timeline's file has the ancestor's part of the segment too.
                let timeline = timeline_at(Lsn((begin + segment_bytes).min(stop.0).saturating_sub(1)));
                let filled = end.0.max(stop.0).clamp(begin, begin + segment_bytes) - begin;
                Self { timeline, number, bytes: segment_bytes, filled }
            })
            .collect()
    }
}

/// Looks whether pages of log belong where they stand.
#[derive(Debug, Default)]
struct PageCheck {
    /// Zeros from here to the segment's end: it was switched away from.
    blank: bool,
}

impl PageCheck {
    /// `at` is the place of the page's first byte.
    fn page(&mut self, page: &[u8], at: u64) -> Result<()> {
        let address = page.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let wrong = match address {
            Some(0) if ZEROS.get(..page.len()).is_some_and(|zeros| zeros == page) => {
                self.blank = true;
                false
            }
            // The end of what was received may cut a page's head off.
            None => false,
            address => self.blank || address != Some(at),
        };
        match wrong {
            true => Err(Error::corrupt(format!("the server's log holds something else at {}", Lsn(at)))
                .with_hint("look after the server's disk: the log that the backup needs is not readable")),
            false => Ok(()),
        }
    }
}

/// Streams a segment; false when the consumer went away.
pub(super) async fn read_segment(
    ctx: &OpContext,
    files: &Files,
    segment: &Segment,
    page_bytes: usize,
    sender: &mut Sender,
) -> Result<bool> {
    let name = segment.name();
    let path: Arc<str> = format!("pg_wal/{name}").into();
    let mut loan = files.connections.borrow(ctx).await?;
    let mut all = pieces(&path, 0, segment.filled);
    let mut check = PageCheck::default();
    let (mut offset, mut ask) = (0, FIRST_PIECES);
    // Behind a switch there are zeros alone, and nothing of them is replayed: the last segment of a backup is seldom full.
    while !check.blank {
        let query = next_query(&mut all.by_ref().take(ask));
        if query.is_empty() {
            break;
        }
        ask *= 2;
        let mut rows = read(&mut loan.connection, &query);
        for piece in &query {
            let bytes = rows.try_next().await?.flatten().ok_or_else(|| gone(&name))?;
            if bytes.len() as u64 != piece.length {
                return Err(gone(&name));
            }
            for (index, page) in bytes.chunks(page_bytes).enumerate() {
                let at = segment.number * segment.bytes + piece.offset + (index * page_bytes) as u64;
                check.page(page, at)?;
            }
            offset = piece.offset + piece.length;
            files.bytes.log.fetch_add(piece.length, Ordering::Relaxed);
            if sender.send(Ok(Block::data(piece.offset, bytes))).await.is_err() {
                return Ok(false);
            }
        }
        // The end of the answer, so that the connection is in order for the next.
        while rows.try_next().await?.is_some() {}
    }
    files.connections.give_back(loan);
    while offset < segment.bytes {
        let length = (segment.bytes - offset).min(ZEROS.len() as u64);
        let zeros = Bytes::from_static(ZEROS.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default());
        if sender.send(Ok(Block::data(offset, zeros))).await.is_err() {
            return Ok(false);
        }
        offset += length;
    }
    Ok(true)
}

fn gone(name: &str) -> Error {
    Error::new(ErrorKind::Conflict, "the server removed log that the backup needs")
        .about(format!("pg_wal/{name}"))
        .with_hint(
            "give the role the attribute REPLICATION, so that a slot holds the log during a backup, or raise wal_keep_size",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_segments_of_a_backup() {
        let segments = Segment::covering(Lsn(16 * MIB + 40), Lsn(33 * MIB), Lsn(48 * MIB), 16 * MIB, |_| 1);
        assert_eq!(segments.iter().map(|s| s.number).collect::<Vec<_>>(), [1, 2]);
        assert!(segments.iter().all(|s| s.filled == 16 * MIB));
        // On a standby nothing switches: the last one is as far as the log went.
        let segments = Segment::covering(Lsn(16 * MIB), Lsn(33 * MIB), Lsn(34 * MIB), 16 * MIB, |_| 1);
        assert_eq!(segments[1].filled, 2 * MIB);
        // An end on a border needs nothing behind it.
        let segments = Segment::covering(Lsn(16 * MIB), Lsn(32 * MIB), Lsn(32 * MIB), 16 * MIB, |_| 1);
        assert_eq!(segments.len(), 1);
        // A timeline that began meanwhile.
        let at = |place: Lsn| if place.0 < 33 * MIB { 1 } else { 2 };
        let segments = Segment::covering(Lsn(16 * MIB), Lsn(34 * MIB), Lsn(34 * MIB), 16 * MIB, at);
        assert_eq!(
            segments.iter().map(Segment::name).collect::<Vec<_>>(),
            ["000000010000000000000001", "000000020000000000000002"]
        );
    }

    #[test]
    fn a_file_used_again_is_not_taken_for_the_log() {
        let page = |address: u64| {
            let mut page = vec![7; 8192];
            page[8..16].copy_from_slice(&address.to_le_bytes());
            page
        };
        let mut check = PageCheck::default();
        check.page(&page(8192), 8192).unwrap();
        assert_eq!(check.page(&page(8192), 16384).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut check = PageCheck::default();
        check.page(&[0; 8192], 8192).unwrap();
        check.page(&[0; 8192], 16384).unwrap();
        assert!(check.page(&page(24576), 24576).is_err(), "nothing follows a switch");
    }
}
