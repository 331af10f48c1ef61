//! Files of `pg_wal` on this machine, as an archive command is given them, and the names that a restore command asks for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, LogEvent, LogFile, LogName, LogPiece, Result};
use futures::stream::{self, StreamExt};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::history;
use super::segment::{self, FileName, Head, Shape};

/// The most of a file in memory at once.
const PIECE_BYTES: u64 = 16 << 20;
/// As much of a segment as tells what it is.
const HEAD_BYTES: usize = 64;

fn not_a_name(name: &str) -> Error {
    Error::invalid(format!("\"{name}\" is not the name of a file of the server's log"))
        .with_hint("give %p of archive_command, or %f of restore_command")
}

/// What a name of a restore command means.
pub(super) fn locate(name: &str, sample: Option<&[u8]>) -> Result<LogName> {
    match FileName::parse(name).ok_or_else(|| not_a_name(name))? {
        FileName::History { timeline } => Ok(LogName::History { timeline }),
        FileName::BackupNote | FileName::Segment { partial: true, .. } => Ok(LogName::Nothing),
        FileName::Segment { timeline, log, number, partial: false } => {
            let segment_bytes = match sample {
                Some(sample) => {
                    Head::read(sample)
                        .ok_or_else(|| Error::corrupt("the log does not begin as a segment does"))?
                        .segment_bytes
                }
                None => segment::DEFAULT_SEGMENT_BYTES,
            };
            match segment::start_of(log, number, segment_bytes) {
                Some(start) => Ok(LogName::Bytes { timeline, range: start..start + segment_bytes }),
                // Of another size of segments, then; the sample will tell.
                None if sample.is_none() => Ok(LogName::Bytes { timeline, range: 0..0 }),
                None => Err(not_a_name(name)),
            }
        }
    }
}

/// Reads a file of an archive command.
pub(super) async fn read(path: &Path) -> Result<LogFile> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    match FileName::parse(&name).ok_or_else(|| not_a_name(&name))? {
        FileName::History { timeline } => {
            let bytes = Bytes::from(tokio::fs::read(path).await.map_err(|e| unreadable(path, e))?);
            history::parse(&bytes).map_err(|e| e.about(name))?;
            let event = LogEvent::History { timeline, bytes };
            Ok(LogFile { stream: control(path).await?, events: stream::iter([Ok(event)]).boxed() })
        }
        FileName::BackupNote => Ok(LogFile { stream: control(path).await?, events: stream::empty().boxed() }),
        FileName::Segment { timeline, log, number, partial } => {
            read_segment(path, &name, timeline, (log, number), partial).await
        }
    }
}

async fn read_segment(
    path: &Path,
    name: &str,
    timeline: u32,
    (log, number): (u32, u32),
    partial: bool,
) -> Result<LogFile> {
    let wrong = |why: &str| Error::corrupt(why.to_owned()).about(name.to_owned());
    let mut file = File::open(path).await.map_err(|e| unreadable(path, e))?;
    let facts = file.metadata().await.map_err(|e| unreadable(path, e))?;
    let mut head = vec![0; HEAD_BYTES];
    file.read_exact(&mut head).await.map_err(|e| unreadable(path, e))?;
    let head = Head::read(&head).ok_or_else(|| wrong("this is not a segment of the log"))?;
    if facts.len() != head.segment_bytes {
        return Err(wrong("the segment has not the size that it says"));
    }
    let start = segment::start_of(log, number, head.segment_bytes);
    let start = start.ok_or_else(|| wrong("a server with segments of this size has none of this name"))?;
    if head.address != start {
        return Err(wrong("the file holds another part of the log than its name says: a recycled segment"));
    }
    let shape =
        Shape { segment_bytes: head.segment_bytes, page_bytes: head.page_bytes, system: Some(head.system) };
    let written_at: DateTime<Utc> = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
    let end = match partial {
        true => left_at(path, timeline, start..start + head.segment_bytes).await,
        false => None,
    };
    drop(file);
    let reading = Reading {
        path: path.to_owned(),
        name: name.to_owned(),
        shape,
        timeline,
        segment: start,
        at: start,
        end: end.unwrap_or(start + head.segment_bytes),
        // Where a left timeline ended is known to the page at least.
        open_end: partial && end.is_none(),
        // Log is written in order: whatever comes behind was confirmed after the file was last written to.
        written_at,
    };
    let events = stream::try_unfold(Some(reading), |reading| async move {
        match reading {
            Some(reading) => reading.next().await,
            None => Ok(None),
        }
    });
    Ok(LogFile { stream: head.system.to_string(), events: events.boxed() })
}

/// A segment being read, a piece at a time.
struct Reading {
    path: PathBuf,
    name: String,
    shape: Shape,
    timeline: u32,
    segment: u64,
    at: u64,
    end: u64,
    open_end: bool,
    written_at: DateTime<Utc>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(LogEvent, Option<Self>)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let to = self.end.min(self.at + PIECE_BYTES);
        let mut bytes = self.bytes(to).await.map_err(|e| unreadable(&self.path, e))?;
        let valid = self.shape.valid_prefix(&bytes, self.at, self.timeline);
        if valid < bytes.len() {
            if !self.open_end {
                self.shape.check(&bytes, self.at, self.timeline).map_err(|e| e.about(&self.name))?;
            }
            bytes.truncate(valid);
            self.end = self.at + valid as u64;
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let piece = LogPiece {
            timeline: self.timeline,
            start: self.at,
            sealed_at: self.written_at,
            bytes: bytes.freeze(),
        };
        self.at = piece.end();
        Ok(Some((LogEvent::Piece(piece), Some(self))))
    }

    async fn bytes(&self, to: u64) -> io::Result<BytesMut> {
        use tokio::io::AsyncSeekExt;
        let mut file = File::open(&self.path).await?;
        file.seek(io::SeekFrom::Start(self.at - self.segment)).await?;
        let mut bytes = BytesMut::zeroed(usize::try_from(to - self.at).unwrap_or(usize::MAX));
        file.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

/// Where a timeline was left, by the history files that lie beside its last segment.
async fn left_at(path: &Path, timeline: u32, within: std::ops::Range<u64>) -> Option<u64> {
    let folder = path.parent()?;
    let mut entries =
        tokio::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .await
            .ok()?;
    while let Ok(Some(entry)) = entries.next_entry().await {
        let is_history = entry.file_name().to_str().and_then(FileName::parse);
        if !matches!(is_history, Some(FileName::History { timeline: heir }) if heir > timeline) {
            continue;
        }
        // One that cannot be read tells nothing; what is shipped then ends with the last whole page.
        let Ok(bytes) = tokio::fs::read(entry.path()).await else { continue };
        let ancestors = history::parse(&bytes).unwrap_or_default();
        let found = ancestors.iter().find(|a| a.timeline == timeline && within.contains(&a.end));
        if let Some(ancestor) = found.filter(|a| a.end > within.start) {
            return Some(ancestor.end);
        }
    }
    None
}

/// The system identifier of the cluster whose `pg_wal` a file lies in, from its `pg_control`.
async fn control(path: &Path) -> Result<String> {
    // By the letters of the path: pg_wal may be a link to another disk.
    let cluster = path.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let control = cluster.join("global/pg_control");
    let mut head = [0; 12];
    let mut file = File::open(&control).await.map_err(|e| unreadable(&control, e))?;
    file.read_exact(&mut head).await.map_err(|e| unreadable(&control, e))?;
    let (system, version) = head.split_at(8);
    let system: [u8; 8] = system.try_into().unwrap_or_default();
    let version: [u8; 4] = version.try_into().unwrap_or_default();
    // The version of the file is a small number in the right byte order only.
    let system = match u32::from_le_bytes(version) {
        900..=9999 => u64::from_le_bytes(system),
        _ => u64::from_be_bytes(system),
    };
    Ok(system.to_string())
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, "the file cannot be read").about(path.display().to_string()).with_source(error)
}
