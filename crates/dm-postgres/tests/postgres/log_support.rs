//! Following the log of a small server, and what was handed over put together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_core::{Engine, EngineId, LogEvent, LogPosition, LogRequest, LogSession, LogSource, Secret};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::postgres::{Options, Server};

use crate::support::context;

pub(crate) const MAJORS: [u32; 2] = [15, 18];
pub(crate) const SEGMENT: u64 = 1 << 20;

/// Small segments, kept only as long as a slot or a checkpoint asks for.
pub(crate) fn options(major: u32) -> Options {
    let mut options = Options::physical(major)
        .with_setting("max_wal_size", "4MB")
        .with_setting("min_wal_size", "2MB")
        .with_setting("wal_keep_size", "0")
        .with_setting("checkpoint_timeout", "1h")
        .with_setting("autovacuum", "off");
    options.initdb_args.push("--wal-segsize=1".to_owned());
    options
}

pub(crate) fn source_at(url: &str) -> Arc<dyn LogSource> {
    let id = EngineId::new("main").expect("a name");
    PostgresEngine::connect(id, &Secret::new(url), PostgresOptions::default())
        .expect("a url")
        .log()
        .expect("a log")
}

pub(crate) fn source(server: &Server) -> Arc<dyn LogSource> {
    source_at(&server.url("postgres"))
}

/// Everything at once, asked for often.
pub(crate) fn eager(from: Option<LogPosition>) -> LogRequest {
    LogRequest { from, poll: Duration::from_millis(20), seal: Duration::ZERO, ..LogRequest::default() }
}

/// What was handed over, put together by timeline.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// By timeline: where it begins and its bytes. A gap begins a new one.
    pub(crate) stretches: Vec<(u32, u64, Vec<u8>)>,
    pub(crate) histories: BTreeMap<u32, Vec<u8>>,
    pub(crate) gaps: Vec<(u32, u64, u64)>,
    pub(crate) sealed: Vec<chrono::DateTime<chrono::Utc>>,
}

impl Taken {
    pub(crate) fn take(&mut self, event: LogEvent) -> Option<LogPosition> {
        match event {
            LogEvent::Idle { .. } => None,
            LogEvent::History { timeline, bytes } => {
                self.histories.insert(timeline, bytes.to_vec());
                None
            }
            LogEvent::Gap { timeline, missing, .. } => {
                self.gaps.push((timeline, missing.start, missing.end));
                Some(LogPosition { timeline, offset: missing.end })
            }
            LogEvent::Piece(piece) => {
                assert_eq!(
                    piece.start / SEGMENT,
                    (piece.end() - 1) / SEGMENT,
                    "a piece crosses a border: {:X}",
                    piece.start
                );
                self.sealed.push(piece.sealed_at);
                let end = LogPosition { timeline: piece.timeline, offset: piece.end() };
                match self.stretches.last_mut() {
                    Some((timeline, start, bytes))
                        if *timeline == piece.timeline && *start + bytes.len() as u64 == piece.start =>
                    {
                        bytes.extend_from_slice(&piece.bytes);
                    }
                    last => {
                        let after_gap = self.gaps.last().is_some_and(|g| g.2 == piece.start);
                        let new_timeline = last.is_none_or(|l| l.0 != piece.timeline);
                        assert!(after_gap || new_timeline, "a hole before {:X}", piece.start);
                        self.stretches.push((piece.timeline, piece.start, piece.bytes.to_vec()));
                    }
                }
                Some(end)
            }
        }
    }

    pub(crate) fn position(&self) -> LogPosition {
        let (timeline, start, bytes) = self.stretches.last().expect("something was taken");
        LogPosition { timeline: *timeline, offset: start + bytes.len() as u64 }
    }

    /// Takes until the server had nothing more and the log reaches this place.
    pub(crate) async fn until(&mut self, session: &mut dyn LogSession, goal: LogPosition) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "{goal} is not reached: {:?}", self.position());
            if let Some(position) = self.take(session.next(&context()).await.expect("an event")) {
                session.confirm(&context(), position).await.expect("a confirmation");
            }
            if !self.stretches.is_empty() && self.position() >= goal {
                return;
            }
        }
    }

    /// Compares every whole segment that the server still has, and what there is of the last one; gives how many.
    pub(crate) fn compare(&self, pg_wal: &Path) -> usize {
        let mut compared = 0;
        for (timeline, start, bytes) in &self.stretches {
            let end = start + bytes.len() as u64;
            let mut at = *start;
            while at < end {
                let segment = at / SEGMENT;
                let to = end.min((segment + 1) * SEGMENT);
                let name = name(*timeline, at);
                if let Ok(file) = std::fs::read(pg_wal.join(&name)) {
                    let of = (at - segment * SEGMENT) as usize..(to - segment * SEGMENT) as usize;
                    let ours = &bytes[(at - start) as usize..(to - start) as usize];
                    assert!(file[of] == *ours, "{name} differs");
                    compared += 1;
                }
                at = to;
            }
        }
        compared
    }
}

pub(crate) fn name(timeline: u32, at: u64) -> String {
    let segment = at / SEGMENT;
    format!("{timeline:08X}{:08X}{:08X}", segment / 4096, segment % 4096)
}

pub(crate) fn pg_wal(server: &Server) -> PathBuf {
    server.data_dir().join("pg_wal")
}

pub(crate) async fn end(source: &dyn LogSource) -> LogPosition {
    source.head(&context(), "dm_log").await.expect("a head").end
}

/// Some megabytes of log, with a switch of segments in between.
pub(crate) async fn write(server: &Server, table: &str) {
    server
        .psql(&format!(
            "CREATE TABLE {table} AS SELECT i, repeat(md5(i::text), 4) AS t FROM generate_series(1, 15000) i;
             SELECT pg_switch_wal();
             INSERT INTO {table} SELECT i, 'x' FROM generate_series(1, 2000) i;
             SET synchronous_commit = on; INSERT INTO {table} VALUES (0, 'the last')"
        ))
        .await
        .expect("some writing");
}
