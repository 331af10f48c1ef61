//! Log that was shipped (§12): the names of its pieces, and what they tell without any key.
//!
//! A piece is one object; its name says what it holds and the digest of its stored bytes. Pieces stand in folders by the
//! first [`WINDOW`] that they touch, so that asking for one file of log lists a few hundred names whatever the log's length.

use std::collections::BTreeSet;
use std::ops::Range;

use chrono::{DateTime, TimeZone, Utc};
use dm_core::{Error, Finding, Level, OpContext, Result, TargetName};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::log_expiry::{Expired, ExpiryMark, LogFloor};
use crate::repository::Repository;
use crate::{document, paths};

/// The bytes of log that one folder of pieces stands for, and the most that one piece holds.
pub(crate) const WINDOW: u64 = 16 << 20;
/// Format name of a gap's record.
pub(crate) const GAP_FORMAT: &str = "dm-log-gap";
/// Format name of the record of a quiet time.
pub(crate) const QUIET_FORMAT: &str = "dm-log-quiet";
/// A range of more windows is listed as the whole timeline.
const MANY_WINDOWS: u64 = 32;
/// Listings and small objects fetched at once.
const FETCHES: usize = 8;
/// Bytes of the digest that a name carries.
const NAME_DIGEST: usize = 16;

/// A piece of log in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEntry {
    /// Its timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: u64,
    /// The offset of the byte after it.
    pub end: u64,
    /// [`LogPiece::sealed_at`](dm_core::LogPiece::sealed_at), to the millisecond below.
    pub sealed_at: DateTime<Utc>,
    /// Bytes as stored.
    pub size: u64,
    digest: [u8; NAME_DIGEST],
}

/// A part of the log that is gone for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogGap {
    /// Its timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: u64,
    /// The offset of the byte after it.
    pub end: u64,
    /// When it was found; `None` when the record cannot be read, and the listing says so.
    pub at: Option<DateTime<Utc>>,
    /// Why it is gone.
    pub reason: Option<String>,
}

/// A quiet time: up to an instant nothing came behind a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogQuiet {
    /// Its timeline.
    pub timeline: u32,
    /// The place.
    pub position: u64,
    /// By the server's clock: every commit confirmed by then lies before the place. To the millisecond below.
    pub at: DateTime<Utc>,
}

/// What there is of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogListing {
    /// The pieces, by timeline and start. They may overlap; two of the same range are copies of each other.
    pub entries: Vec<LogEntry>,
    /// Timelines with a record of how they began.
    pub histories: Vec<u32>,
    /// Known gaps, by timeline and start. There may be unknown ones: what no piece covers is not there.
    pub gaps: Vec<LogGap>,
    /// Quiet times, by timeline and place.
    pub quiet: Vec<LogQuiet>,
    /// What was expired, by timeline: it is not listed, whether it is removed already or not.
    pub expired: Vec<LogFloor>,
    /// Objects that cannot be understood. Each may be a piece that is then missing from `entries`.
    pub problems: Vec<Finding>,
}

/// `dm-log-gap`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GapRecord {
    pub(crate) at: DateTime<Utc>,
    pub(crate) reason: String,
}

/// `dm-log-quiet`. The key tells everything that counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct QuietRecord {
    pub(crate) written_at: DateTime<Utc>,
}

impl LogQuiet {
    pub(crate) fn new(timeline: u32, position: u64, at: DateTime<Utc>) -> Self {
        Self { timeline, position, at: to_millis(at) }
    }

    fn file(&self) -> String {
        format!("{:08X}-{:016X}-{:014}.json", self.timeline, self.position, self.at.timestamp_millis())
    }

    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".json")?.split('-');
        let timeline = timeline_number(parts.next()?)?;
        let position = hex_number(parts.next()?, 16)?;
        let at = sealing_time(parts.next()?)?;
        parts.next().is_none().then_some(Self { timeline, position, at })
    }

    /// Its key.
    pub(crate) fn key(&self, log: &LogPlace) -> Path {
        log.key(&format!("quiet/{}", self.file()))
    }
}

impl LogEntry {
    pub(crate) fn new(timeline: u32, range: Range<u64>, sealed_at: DateTime<Utc>, stored: &[u8]) -> Self {
        Self {
            timeline,
            start: range.start,
            end: range.end,
            sealed_at: to_millis(sealed_at),
            size: stored.len() as u64,
            digest: name_digest(stored),
        }
    }

    /// The first 32 hexadecimal digits of the BLAKE3 digest of the stored bytes.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(self.digest)
    }

    /// Whether these are the stored bytes.
    pub(crate) fn names(&self, stored: &[u8]) -> bool {
        stored.len() as u64 == self.size && name_digest(stored) == self.digest
    }

    fn file(&self) -> String {
        format!(
            "{:016X}-{:016X}-{:014}-{}.log",
            self.start,
            self.end,
            self.sealed_at.timestamp_millis(),
            self.digest()
        )
    }

    fn parse(timeline: u32, file: &str, size: u64) -> Option<Self> {
        let mut parts = file.strip_suffix(".log")?.split('-');
        let (start, end) = (hex_number(parts.next()?, 16)?, hex_number(parts.next()?, 16)?);
        let sealed_at = sealing_time(parts.next()?)?;
        let digest = <[u8; NAME_DIGEST]>::try_from(hex::decode(parts.next()?).ok()?).ok()?;
        let entry = Self { timeline, start, end, sealed_at, size, digest };
        // Whatever is written otherwise than we write it is not understood.
        (start < end && end - start <= WINDOW && parts.next().is_none() && entry.file() == file)
            .then_some(entry)
    }

    /// Its key.
    pub(crate) fn key(&self, log: &LogPlace) -> Path {
        log.key(&format!("{:08X}/{}/{}", self.timeline, window(self.start), self.file()))
    }
}

/// The first offset of the pieces in a folder of this name.
pub(crate) fn window_number(name: &str) -> Option<u64> {
    hex_number(name, 10)?.checked_mul(WINDOW)
}

/// The name of the folder for pieces that begin at this offset.
fn window(start: u64) -> String {
    format!("{:010X}", start / WINDOW)
}

pub(crate) fn hex_number(text: &str, digits: usize) -> Option<u64> {
    let plain =
        text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'A'..=b'F').contains(&c));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

pub(crate) fn timeline_number(text: &str) -> Option<u32> {
    u32::try_from(hex_number(text, 8)?).ok()
}

/// A time out of a name.
fn sealing_time(text: &str) -> Option<DateTime<Utc>> {
    let plain = text.len() == 14 && text.bytes().all(|c| c.is_ascii_digit());
    Utc.timestamp_millis_opt(plain.then(|| text.parse().ok()).flatten()?).single()
}

/// A time as names carry it.
fn to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    let millis = at.timestamp_millis().clamp(0, 99_999_999_999_999);
    Utc.timestamp_millis_opt(millis).single().unwrap_or(at)
}

pub(crate) fn name_digest(stored: &[u8]) -> [u8; NAME_DIGEST] {
    let mut digest = [0; NAME_DIGEST];
    digest.copy_from_slice(&blake3::hash(stored).as_bytes()[..NAME_DIGEST]);
    digest
}

/// Where a log stands in the repository.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    folder: String,
}

impl LogPlace {
    /// # Errors
    /// `Invalid` for a stream name that is none.
    pub(crate) fn new(target: &TargetName, stream: &str) -> Result<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        if stream.is_empty() || stream.len() > 100 || stream.starts_with('.') || !stream.bytes().all(plain) {
            return Err(Error::invalid(format!("\"{stream}\" cannot be the name of a log"))
                .with_hint("1 to 100 of a-z 0-9 . _ -, not beginning with a dot"));
        }
        Ok(Self { folder: format!("{}/{stream}", paths::logs(target)) })
    }

    pub(crate) fn key(&self, rest: &str) -> Path {
        Path::from(format!("{}/{rest}", self.folder))
    }

    fn root(&self) -> Path {
        Path::from(self.folder.as_str())
    }

    pub(crate) fn timeline(&self, timeline: u32) -> Path {
        self.key(&format!("{timeline:08X}"))
    }

    pub(crate) fn quiet(&self) -> Path {
        self.key("quiet")
    }

    fn gaps(&self) -> Path {
        self.key("gaps")
    }

    pub(crate) fn gap(&self, timeline: u32, missing: &Range<u64>) -> Path {
        self.key(&format!("gaps/{timeline:08X}-{:016X}-{:016X}.json", missing.start, missing.end))
    }

    pub(crate) fn history(&self, timeline: u32, stored: &[u8]) -> Path {
        self.key(&format!("{timeline:08X}/history-{}.log", hex::encode(name_digest(stored))))
    }
}

/// The digest in the name of a history.
pub(crate) fn history_digest(file: &str) -> Option<[u8; NAME_DIGEST]> {
    let digits = file.strip_prefix("history-")?.strip_suffix(".log")?;
    let digest = <[u8; NAME_DIGEST]>::try_from(hex::decode(digits).ok()?).ok()?;
    (hex::encode(digest) == digits).then_some(digest)
}

/// The beginning of the digest that the name of a piece, a history or a checkpoint carries.
pub(crate) fn named_digest(file: &str) -> Option<String> {
    let (_, digits) = file.strip_suffix(".log").or_else(|| file.strip_suffix(".note"))?.rsplit_once('-')?;
    (digits.len() == 2 * NAME_DIGEST && hex::decode(digits).is_ok()).then(|| digits.to_owned())
}

/// What a key means.
pub(crate) enum Named {
    Piece(LogEntry),
    History(u32),
    Gap(LogGap),
    Quiet(LogQuiet),
    Expired(ExpiryMark),
    Unknown(String),
}

pub(crate) fn understand(place: &LogPlace, key: &Path, size: u64) -> Named {
    let parts = paths::inside(key, &place.root());
    let known = match &parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["gaps", file] => gap_of(file).map(Named::Gap),
        ["quiet", file] => LogQuiet::parse(file).map(Named::Quiet),
        ["expired", file] => ExpiryMark::parse(file).map(Named::Expired),
        [timeline, file] => {
            timeline_number(timeline).filter(|_| history_digest(file).is_some()).map(Named::History)
        }
        [timeline, folder, file] => timeline_number(timeline)
            .and_then(|timeline| LogEntry::parse(timeline, file, size))
            .filter(|entry| window(entry.start) == *folder)
            .map(Named::Piece),
        _ => None,
    };
    known.unwrap_or_else(|| Named::Unknown(key.to_string()))
}

fn gap_of(file: &str) -> Option<LogGap> {
    let mut parts = file.strip_suffix(".json")?.split('-');
    let timeline = timeline_number(parts.next()?)?;
    let (start, end) = (hex_number(parts.next()?, 16)?, hex_number(parts.next()?, 16)?);
    let whole = start < end && parts.next().is_none();
    whole.then_some(LogGap { timeline, start, end, at: None, reason: None })
}

impl Repository {
    /// The logs that were shipped for a target.
    ///
    /// # Errors
    /// The store's.
    pub async fn log_streams(&self, ctx: &OpContext, target: &TargetName) -> Result<Vec<String>> {
        let folder = Path::from(paths::logs(target));
        let (streams, _) = ctx.run(self.inner.storage.children(Some(&folder))).await?;
        Ok(streams)
    }

    /// Everything there is of a log, without what was [expired](Self::expire_log). Needs no key. A name that cannot be
    /// understood is a problem of the listing.
    ///
    /// # Errors
    /// `Invalid` stream; the store's: a listing is whole or it is an error.
    pub async fn list_log(&self, ctx: &OpContext, target: &TargetName, stream: &str) -> Result<LogListing> {
        let place = LogPlace::new(target, stream)?;
        let storage = &self.inner.storage;
        let named =
            ctx.run(storage.list_as(&place.root(), |o| understand(&place, &o.location, o.size))).await?;
        ctx.run(self.listing(&place, named, |_, _| true)).await
    }

    /// The pieces and gaps of a log that touch a range of one timeline, without listing the rest of it; no histories. What was
    /// expired and is still there is listed as well.
    ///
    /// # Errors
    /// As [`list_log`](Self::list_log).
    pub async fn list_log_range(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        timeline: u32,
        range: Range<u64>,
    ) -> Result<LogListing> {
        let place = LogPlace::new(target, stream)?;
        ctx.run(self.list_range(&place, timeline, range)).await
    }

    /// The quiet times of a timeline.
    pub(crate) async fn list_quiet(&self, place: &LogPlace, timeline: u32) -> Result<Vec<LogQuiet>> {
        let named = self
            .inner
            .storage
            .list_as(&place.quiet(), |o| LogQuiet::parse(o.location.filename().unwrap_or_default()))
            .await?;
        Ok(named.into_iter().flatten().filter(|q| q.timeline == timeline).collect())
    }

    pub(crate) async fn list_range(
        &self,
        place: &LogPlace,
        timeline: u32,
        range: Range<u64>,
    ) -> Result<LogListing> {
        if range.is_empty() {
            return Ok(LogListing::default());
        }
        // A piece that reaches into a window may begin in the one before, and not earlier.
        let windows = (range.start / WINDOW).saturating_sub(1)..(range.end - 1) / WINDOW + 1;
        let mut folders = vec![place.gaps()];
        if windows.end - windows.start > MANY_WINDOWS {
            folders.push(place.timeline(timeline));
        } else {
            folders.extend(windows.map(|w| place.key(&format!("{timeline:08X}/{}", window(w * WINDOW)))));
        }
        let storage = &self.inner.storage;
        let lists =
            folders.iter().map(|folder| storage.list_as(folder, |o| understand(place, &o.location, o.size)));
        let named: Vec<Vec<Named>> =
            stream::iter(lists.collect::<Vec<_>>()).buffered(FETCHES).try_collect().await?;
        let named = named.into_iter().flatten().filter(|n| !matches!(n, Named::History(_))).collect();
        self.listing(place, named, |t, r| t == timeline && r.start < range.end && range.start < r.end).await
    }

    async fn listing(
        &self,
        place: &LogPlace,
        mut named: Vec<Named>,
        wanted: impl Fn(u32, &Range<u64>) -> bool,
    ) -> Result<LogListing> {
        let mut expired = Expired::default();
        for name in &named {
            if let Named::Expired(mark) = name {
                expired.add(*mark);
            }
        }
        expired.hide(&mut named);
        let mut listing = LogListing { expired: expired.floors(), ..LogListing::default() };
        let mut histories = BTreeSet::new();
        let mut gaps = Vec::new();
        for name in named {
            match name {
                Named::Piece(entry) if wanted(entry.timeline, &(entry.start..entry.end)) => {
                    listing.entries.push(entry);
                }
                Named::Gap(gap) if wanted(gap.timeline, &(gap.start..gap.end)) => gaps.push(gap),
                Named::Piece(_) | Named::Gap(_) | Named::Expired(_) => {}
                Named::Quiet(quiet) => listing.quiet.push(quiet),
                Named::History(timeline) => {
                    histories.insert(timeline);
                }
                Named::Unknown(key) => listing.problems.push(
                    Finding::new(Level::Error, "log", format!("\"{key}\" is no name of a piece of log"))
                        .with_mend("give it its name back, or move it out of the repository; until then a piece may be missing"),
                ),
            }
        }
        let records = gaps.into_iter().map(|gap| self.gap_record(place, gap));
        let read: Vec<(LogGap, Option<Finding>)> =
            stream::iter(records.collect::<Vec<_>>()).buffered(FETCHES).try_collect().await?;
        for (gap, problem) in read {
            listing.gaps.push(gap);
            listing.problems.extend(problem);
        }
        listing.entries.sort_unstable();
        listing.quiet.sort_unstable();
        listing.gaps.sort_by_key(|g| (g.timeline, g.start, g.end));
        listing.histories = histories.into_iter().collect();
        Ok(listing)
    }

    /// The gap stands by its name alone; when and why it came about is told by the record.
    async fn gap_record(&self, place: &LogPlace, mut gap: LogGap) -> Result<(LogGap, Option<Finding>)> {
        let key = place.gap(gap.timeline, &(gap.start..gap.end));
        let bytes = self.inner.storage.get(&key).await?;
        match document::read::<GapRecord>(GAP_FORMAT, &bytes) {
            Ok(record) => {
                gap.at = Some(record.at);
                gap.reason = Some(record.reason);
                Ok((gap, None))
            }
            Err(error) => {
                Ok((gap, Some(Finding::new(Level::Warning, "log", error.about(key.as_ref()).to_string()))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_quite_ours_is_none() {
        let entry = LogEntry::new(
            1,
            0x100_0000..0x100_0200,
            Utc.timestamp_millis_opt(1_800_000_000_123).unwrap(),
            b"x",
        );
        let name = entry.file();
        assert_eq!(name.len(), 16 + 1 + 16 + 1 + 14 + 1 + 32 + 4);
        assert_eq!(LogEntry::parse(1, &name, 1), Some(entry));
        for wrong in [
            name.to_lowercase().replace("-0", "-f"),
            name.replace(".log", ".tmp"),
            name.replace(".log", "-0.log"),
            name[1..].to_owned(),
            format!("+{}", &name[1..]),
            name.replace("0000000001000200", "0000000001000000"),
            name.replace("0000000001000200", "0000000002000201"),
            String::new(),
        ] {
            assert_eq!(LogEntry::parse(1, &wrong, 1), None, "{wrong}");
        }
    }
}
