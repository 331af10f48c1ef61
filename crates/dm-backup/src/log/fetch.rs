//! One file of log, as a restore command asks for it.
//!
//! An engine takes "not there" for the end of its log and opens for writing. So only what is certainly not there is called
//! so; a store that fails, a hole, a name in the folder that cannot be understood: all are errors.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use dm_core::{Error, ErrorKind, Level, LogName, LogSource, OpContext, Result, TargetName};
use dm_repository::{LogEntry, LogListing};
use serde::{Deserialize, Serialize};

use super::cover;
use super::reader::share_of;
use crate::BackupService;

/// What a fetch found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Fetched {
    /// The file is at its destination.
    Found {
        /// Whose log it is.
        stream: String,
        /// The file's name.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// How many of them are zeros behind the end of the log.
        padded_bytes: u64,
    },
    /// There is certainly no such file, and the log does not go on behind it.
    NotThere {
        /// The file's name.
        name: String,
    },
}

/// Pieces, each with its share of a file.
type Chain = Vec<(LogEntry, Range<u64>)>;

impl BackupService {
    /// Writes the file of this name to a place, under a temporary name first. The last file of a timeline is filled up with
    /// zeros, as the engine would find it after a crash.
    ///
    /// # Errors
    /// `Invalid` for a name that is none of the engine's; `NotFound` when the target has no such log at all; `Corrupt` for a
    /// hole in the log; `Denied`, `Exhausted` when it cannot be written; the store's. Never for a file that is not there.
    ///
    /// # Cancellation
    /// Nothing is left at the destination.
    pub async fn fetch_log(
        &self,
        ctx: &OpContext,
        source: &dyn LogSource,
        target: &TargetName,
        stream: Option<&str>,
        name: &str,
        destination: &Path,
    ) -> Result<Fetched> {
        let located = source.locate(name, None)?;
        let stream = self.stream_of(ctx, target, stream).await?;
        let fetch = Fetch { service: self, ctx, source, target, stream: &stream, name, destination };
        match located {
            LogName::Nothing => Ok(fetch.not_there()),
            LogName::History { timeline } => {
                match self.repository.read_log_history(ctx, target, &stream, timeline).await? {
                    Some(bytes) => fetch.write(vec![Part::Bytes(bytes)], 0).await,
                    None => {
                        fetch.certain(&self.repository.list_log(ctx, target, &stream).await?)?;
                        Ok(fetch.not_there())
                    }
                }
            }
            LogName::Bytes { timeline, range } => fetch.bytes(timeline, range).await,
        }
    }

    /// The log that is meant: the one named, or the only one.
    async fn stream_of(&self, ctx: &OpContext, target: &TargetName, named: Option<&str>) -> Result<String> {
        let mut streams = self.repository.log_streams(ctx, target).await?;
        if let Some(named) = named {
            if streams.iter().any(|s| s == named) {
                return Ok(named.to_owned());
            }
            return Err(no_log(target).with_hint(format!("there is {}", listed(&streams))));
        }
        match (streams.pop(), streams.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(no_log(target).with_hint("check the target; \"dm log ship\" ships a log")),
            (Some(last), _) => {
                streams.push(last);
                Err(Error::invalid(format!("{target} has the logs of several servers"))
                    .with_hint(format!("name one of {}", listed(&streams))))
            }
        }
    }
}

/// A part of a file being put together.
enum Part {
    Bytes(Bytes),
    Piece(LogEntry, Range<u64>),
}

struct Fetch<'a> {
    service: &'a BackupService,
    ctx: &'a OpContext,
    source: &'a dyn LogSource,
    target: &'a TargetName,
    stream: &'a str,
    name: &'a str,
    destination: &'a Path,
}

impl Fetch<'_> {
    async fn bytes(&self, timeline: u32, assumed: Range<u64>) -> Result<Fetched> {
        let repository = &self.service.repository;
        let near =
            repository.list_log_range(self.ctx, self.target, self.stream, timeline, assumed.clone()).await?;
        // The common case without a look at the whole log: it is there, and its own head confirms its size.
        if let Ok(chain) = cover::chain(&near.entries, assumed.clone())
            && let Some((first, share)) = chain.first()
        {
            let sample = self.piece(first, share.clone()).await?;
            if self.locates(&sample, &assumed) {
                let mut parts = vec![Part::Bytes(sample)];
                parts.extend(chain.into_iter().skip(1).map(|(entry, share)| Part::Piece(entry, share)));
                return self.write(parts, 0).await;
            }
        }
        let all = repository.list_log(self.ctx, self.target, self.stream).await?;
        self.certain(&all)?;
        let range = self.range(timeline, &all, assumed).await?;
        match judge(timeline, &all, range)? {
            None => Ok(self.not_there()),
            Some((chain, padded)) => {
                self.write(chain.into_iter().map(|(e, s)| Part::Piece(e, s)).collect(), padded).await
            }
        }
    }

    /// The bytes that the name means, with the size of files that this log has.
    async fn range(&self, timeline: u32, all: &LogListing, assumed: Range<u64>) -> Result<Range<u64>> {
        // What was shipped of a timeline begins where a file does.
        let of = cover::of_timeline(&all.entries, timeline);
        let Some(first) = of.first().or(all.entries.first()) else { return Ok(assumed) };
        let sample = self.piece(first, first.start..first.end).await?;
        match self.source.locate(self.name, Some(&sample))? {
            LogName::Bytes { range, .. } => Ok(range),
            _ => Err(Error::internal("a name means two things")),
        }
    }

    fn locates(&self, sample: &[u8], assumed: &Range<u64>) -> bool {
        matches!(self.source.locate(self.name, Some(sample)), Ok(LogName::Bytes { range, .. }) if range == *assumed)
    }

    /// Fails when something in the log's folder may be a piece and cannot be understood.
    fn certain(&self, all: &LogListing) -> Result<()> {
        match all.problems.iter().find(|p| p.level == Level::Error) {
            Some(problem) => Err(Error::corrupt(problem.message.clone()).about(self.name)),
            None => Ok(()),
        }
    }

    async fn piece(&self, entry: &LogEntry, share: Range<u64>) -> Result<Bytes> {
        share_of(self.ctx, &self.service.repository, self.target, self.stream, entry, share).await
    }

    fn not_there(&self) -> Fetched {
        Fetched::NotThere { name: self.name.to_owned() }
    }

    /// Writes the parts and so many zeros, and gives the file its name when all of it is on the disk.
    async fn write(&self, parts: Vec<Part>, padded_bytes: u64) -> Result<Fetched> {
        let failed = |e: std::io::Error| unwritable(self.destination, e);
        let folder = match self.destination.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new().prefix(".dm-log-").tempfile_in(folder).map_err(failed)?;
        let mut bytes = 0;
        for part in parts {
            let content = match part {
                Part::Bytes(content) => content,
                Part::Piece(entry, share) => self.piece(&entry, share).await?,
            };
            self.ctx.check()?;
            bytes += content.len() as u64;
            file = blocking(move || file.write_all(&content).map(|()| file)).await?.map_err(failed)?;
        }
        if padded_bytes > 0 {
            let end = bytes + padded_bytes;
            // The tail of a file that was made longer reads as zeros.
            file = blocking(move || file.as_file().set_len(end).map(|()| file)).await?.map_err(failed)?;
        }
        let file = blocking(move || file.as_file().sync_all().map(|()| file)).await?.map_err(failed)?;
        file.persist(self.destination).map_err(|e| unwritable(self.destination, e.error))?;
        Ok(Fetched::Found {
            stream: self.stream.to_owned(),
            name: self.name.to_owned(),
            bytes: bytes + padded_bytes,
            padded_bytes,
        })
    }
}

/// What the whole listing says of a file: its pieces and how many zeros follow them, or that it is not there.
fn judge(timeline: u32, all: &LogListing, range: Range<u64>) -> Result<Option<(Chain, u64)>> {
    let of = cover::of_timeline(&all.entries, timeline);
    let end = match cover::chain(of, range.clone()) {
        Ok(chain) => return Ok(Some((chain, 0))),
        Err(end) => end,
    };
    let hole = || {
        Error::corrupt(format!(
            "the log that was shipped has a hole at {:X}/{:X} of timeline {timeline}",
            end >> 32,
            end & 0xFFFF_FFFF
        ))
        .with_hint("what lies behind the hole cannot be reached from before it: restore a backup that was taken behind it")
    };
    let known = all.gaps.iter().any(|g| g.timeline == timeline && g.start < range.end && end < g.end);
    let goes_on = of.iter().any(|e| e.end > end);
    let begins_later = of.first().is_some_and(|e| e.start >= range.end);
    match (known, goes_on, end > range.start) {
        (true, ..) => Err(hole()),
        // Before the log that was shipped of this timeline.
        (false, true, false) if begins_later => Ok(None),
        (false, true, _) => Err(hole()),
        (false, false, false) => Ok(None),
        (false, false, true) => {
            let chain = cover::chain(of, range.start..end).map_err(|_| hole())?;
            Ok(Some((chain, range.end - end)))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a write was not ended").with_source(e))
}

fn no_log(target: &TargetName) -> Error {
    Error::not_found(format!("there is no such log of {target} in the repository"))
}

fn listed(streams: &[String]) -> String {
    if streams.is_empty() { "none".to_owned() } else { streams.join(", ") }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ErrorKind::Invalid,
        _ => ErrorKind::Denied,
    };
    Error::new(kind, "the file cannot be written").about(path.display().to_string()).with_source(error)
}
