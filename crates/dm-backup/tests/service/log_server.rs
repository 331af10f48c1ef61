//! A server's log in memory: any byte is known from its place.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, TimeZone, Utc};
use dm_core::{
    Error, ErrorKind, Finding, LogEvent, LogFile, LogHead, LogName, LogPiece, LogPosition, LogRequest,
    LogSession, LogSource, OpContext, Result,
};
use futures::{StreamExt, stream};

pub(crate) const STREAM: &str = "4711";
/// The size of a file where a sample does not say otherwise.
pub(crate) const FILE: u64 = 1000;

/// A server's log. Any byte is known from its place.
#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

pub(crate) struct State {
    pub(crate) system: String,
    pub(crate) file_bytes: u64,
    pub(crate) timeline: u32,
    /// Where the timelines before were left.
    pub(crate) left: Vec<(u32, u64)>,
    pub(crate) end: u64,
    /// So many seconds nothing happened.
    pub(crate) quiet: u64,
    /// Everything before is removed: confirmed, or lost.
    pub(crate) forgotten: u64,
    pub(crate) in_use: bool,
    /// So many calls from now the connection is lost.
    pub(crate) cut_in: Option<u32>,
    pub(crate) cuts: u32,
}

pub(crate) fn byte(timeline: u32, at: u64) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 7) as u8 ^ timeline as u8
}

/// The log, with the size of its files at the beginning of each.
pub(crate) fn log(timeline: u32, range: Range<u64>, file_bytes: u64) -> Vec<u8> {
    range
        .map(|at| match at % file_bytes {
            i @ 0..8 => file_bytes.to_le_bytes()[i as usize],
            _ => byte(timeline, at),
        })
        .collect()
}

pub(crate) fn at(second: u64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_780_000_000 + second as i64, 0).unwrap()
}

impl Server {
    pub(crate) fn new() -> Self {
        let state = State {
            system: STREAM.into(),
            file_bytes: FILE,
            timeline: 1,
            left: Vec::new(),
            end: 3000,
            quiet: 0,
            forgotten: 2000,
            in_use: false,
            cut_in: None,
            cuts: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn grow(&self, bytes: u64) {
        self.state().end += bytes;
    }

    /// Counts down to a lost connection.
    pub(crate) fn call(&self) -> Result<()> {
        let mut state = self.state();
        match state.cut_in {
            Some(0) => {
                state.cut_in = None;
                state.cuts += 1;
                Err(Error::new(ErrorKind::Unreachable, "the connection was lost"))
            }
            Some(n) => {
                state.cut_in = Some(n - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

struct Session {
    server: Server,
    request: LogRequest,
    position: LogPosition,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.state().in_use = false;
    }
}

#[async_trait]
impl LogSource for Server {
    async fn preflight(&self, _: &OpContext, _: &LogRequest) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn stream_id(&self, _: &OpContext) -> Result<String> {
        Ok(self.state().system.clone())
    }

    async fn head(&self, _: &OpContext, _: &str) -> Result<LogHead> {
        self.call()?;
        let state = self.state();
        let end = LogPosition { timeline: state.timeline, offset: state.end };
        Ok(LogHead { stream: state.system.clone(), end, at: at(state.end), holder: None })
    }

    async fn follow(&self, _: &OpContext, request: &LogRequest) -> Result<Box<dyn LogSession>> {
        self.call()?;
        let mut state = self.state();
        if state.in_use {
            return Err(Error::new(ErrorKind::Busy, "somebody else follows"));
        }
        state.in_use = true;
        let begin = LogPosition { timeline: state.timeline, offset: state.forgotten / FILE * FILE };
        let position = request.from.unwrap_or(begin);
        Ok(Box::new(Session { server: self.clone(), request: request.clone(), position }))
    }

    async fn read_file(&self, _: &OpContext, path: &Path) -> Result<LogFile> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let LogName::Bytes { timeline, range } = self.locate(name, None)? else {
            return Err(Error::invalid("no file of log"));
        };
        let half = range.start + (range.end - range.start) / 2;
        let piece = |range: Range<u64>| {
            let bytes = log(timeline, range.clone(), FILE).into();
            Ok(LogEvent::Piece(LogPiece { timeline, start: range.start, sealed_at: at(range.end), bytes }))
        };
        let events = vec![piece(range.start..half), piece(half..range.end)];
        Ok(LogFile { stream: self.state().system.clone(), events: stream::iter(events).boxed() })
    }

    fn locate(&self, name: &str, sample: Option<&[u8]>) -> Result<LogName> {
        if let Some(timeline) = name.strip_suffix(".history") {
            return Ok(LogName::History { timeline: timeline.parse().unwrap() });
        }
        let size = match sample {
            Some(sample) => u64::from_le_bytes(sample[..8].try_into().unwrap()),
            None => FILE,
        };
        let (timeline, number) = name.split_once('-').ok_or_else(|| Error::invalid("no name"))?;
        let number: u64 = number.parse().unwrap();
        Ok(LogName::Bytes { timeline: timeline.parse().unwrap(), range: number * size..(number + 1) * size })
    }

    async fn drop_holder(&self, _: &OpContext, _: &str) -> Result<bool> {
        Ok(true)
    }
}

#[async_trait]
impl LogSession for Session {
    async fn next(&mut self, _: &OpContext) -> Result<LogEvent> {
        tokio::task::yield_now().await;
        self.server.call()?;
        let state = self.server.state();
        let mut end = state.end;
        if self.position.timeline < state.timeline {
            end = state.left.iter().find(|l| l.0 == self.position.timeline).unwrap().1;
            if self.position.offset >= end {
                let timeline = self.position.timeline + 1;
                self.position = LogPosition { timeline, offset: end / FILE * FILE };
                return Ok(LogEvent::History { timeline, bytes: format!("{timeline} at {end}").into() });
            }
        }
        let LogPosition { timeline, offset } = self.position;
        if offset >= end {
            return Ok(LogEvent::Idle { at: at(end + state.quiet) });
        }
        if offset < state.forgotten {
            self.position.offset = state.forgotten.next_multiple_of(FILE);
            let missing = offset..self.position.offset;
            return Ok(LogEvent::Gap { timeline, missing, reason: "it is gone".into() });
        }
        let border = (offset / state.file_bytes + 1) * state.file_bytes;
        let to = end.min(border).min(offset + self.request.piece_bytes as u64);
        self.position.offset = to;
        let bytes = log(timeline, offset..to, state.file_bytes).into();
        Ok(LogEvent::Piece(LogPiece { timeline, start: offset, sealed_at: at(to), bytes }))
    }

    async fn confirm(&mut self, _: &OpContext, position: LogPosition) -> Result<()> {
        self.server.call()?;
        let mut state = self.server.state();
        if position.timeline == state.timeline {
            state.forgotten = state.forgotten.max(position.offset);
        }
        Ok(())
    }

    async fn end(&mut self, _: &OpContext) -> Result<LogPosition> {
        self.server.call()?;
        let state = self.server.state();
        Ok(LogPosition { timeline: state.timeline, offset: state.end })
    }
}
