//! A physical backup made by PostgreSQL's own program, a log cut out of a running server, and servers on what was
//! restored: the judges of our restore know nothing of our backup.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{
    BackupMode, Block, CheckDepth, ConsistencyPoint, Destination, Engine, EngineId, EngineKind, Error,
    Layout, LogReader, LogSpan, MemberKind, MemberSpec, OpContext, RestoreBlock, RestoreContent,
    RestorePreview, RestoreRequest, RestoreSession, Result, Secret, ServerVersion, SessionSummary,
    SourceDescription,
};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::conformance::Collected;
use dm_testkit::postgres::{Options, Server};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::support::context;

pub(crate) const SEGMENT: u64 = 16 << 20;

/// A server that can be backed up page by page and whose commits are in the log at once.
pub(crate) fn options(major: u32) -> Options {
    Options::physical(major).with_setting("synchronous_commit", "on").with_setting("autovacuum", "off")
}

/// A folder that servers' users can get into, gone with the value.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("dm-test-restore-").tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is opened");
    folder
}

pub(crate) fn engine(server: &Server) -> PostgresEngine {
    let options =
        PostgresOptions { bin_dir: Some(server.bin_dir().to_owned()), ..PostgresOptions::default() };
    PostgresEngine::connect(
        EngineId::new("main").expect("a name"),
        &Secret::new(server.url("postgres")),
        options,
    )
    .expect("a url")
}

/// `X/X` as a number.
pub(crate) fn position(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').expect("a position");
    u64::from_str_radix(high, 16).expect("hex") << 32 | u64::from_str_radix(low, 16).expect("hex")
}

pub(crate) fn segment(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256)
}

/// `pg_basebackup`, read as a backup of ours would be.
pub(crate) async fn base_backup(server: &Server) -> Collected {
    let folder = folder();
    let data = folder.path().join("data");
    let locations = server
        .psql("SELECT oid || '|' || pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''")
        .await
        .expect("tablespaces");
    let tablespaces: Vec<(u32, String)> = locations
        .lines()
        .map(|l| l.split_once('|').expect("two fields"))
        .map(|(oid, path)| (oid.parse().expect("an oid"), path.to_owned()))
        .collect();
    let mut command = Command::new(server.bin_dir().join("pg_basebackup"));
    command
        .args(["--checkpoint=fast", "--wal-method=fetch", "--verbose", "--no-manifest", "--no-sync", "-D"])
        .arg(&data);
    for (oid, path) in &tablespaces {
        command.arg(format!("--tablespace-mapping={path}={}", folder.path().join(oid.to_string()).display()));
    }
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", "postgres")
        .env("PGPASSWORD", server.password())
        .env("LC_ALL", "C");
    let output = command.output().expect("pg_basebackup runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let after = |text: &str| {
        let rest = said.split(text).nth(1).unwrap_or_else(|| panic!("{text} in {said}"));
        rest.split_whitespace().next().expect("a word").to_owned()
    };
    let (start, stop) = (after("write-ahead log start point: "), after("write-ahead log end point: "));
    let timeline: u32 = after("on timeline ").parse().expect("a number");
    let at = clock(server).await;
    let version: u32 =
        server.psql("SHOW server_version_num").await.expect("a version").parse().expect("a number");
    let identifier =
        server.psql("SELECT system_identifier FROM pg_control_system()").await.expect("an identifier");

    let mut folders = Vec::new();
    let mut members = Vec::new();
    read(&data, &data, &mut folders, &mut members);
    if !tablespaces.is_empty() {
        let map: String = tablespaces.iter().map(|(oid, path)| format!("{oid} {path}\n")).collect();
        members.push(member("data/tablespace_map", map.into_bytes()));
    }
    members.push(member("directories.json", serde_json::to_vec(&folders).expect("json")));
    let listed: Vec<_> =
        tablespaces.iter().map(|(oid, path)| json!({ "oid": oid, "location": path })).collect();
    let attributes = BTreeMap::from([
        ("physical_format".to_owned(), json!(1)),
        ("start_lsn".to_owned(), json!(start)),
        ("stop_lsn".to_owned(), json!(stop)),
        ("start_timeline".to_owned(), json!(timeline)),
        ("timeline".to_owned(), json!(timeline)),
        ("wal_segment_bytes".to_owned(), json!(SEGMENT)),
        ("block_bytes".to_owned(), json!(8192)),
        ("data_checksums".to_owned(), json!(true)),
        ("server_version_num".to_owned(), json!(version)),
        ("tablespaces".to_owned(), json!(listed)),
        ("outside".to_owned(), json!([])),
    ]);
    let source = SourceDescription {
        engine: EngineKind::Postgres,
        version: ServerVersion { text: version.to_string(), major: server.major(), minor: version % 10000 },
        mode: BackupMode::Physical,
        database: "cluster".to_owned(),
        system_identifier: Some(identifier),
        consistency: ConsistencyPoint { at, position: Some(stop), timeline: Some(timeline.to_string()) },
        attributes,
    };
    Collected { source, members, summary: SessionSummary::default() }
}

/// The server's clock.
pub(crate) async fn clock(server: &Server) -> DateTime<Utc> {
    let text = server
        .psql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
        .await
        .expect("the time");
    DateTime::from_timestamp_micros(text.parse().expect("a number")).expect("a time")
}

fn read(root: &Path, folder: &Path, folders: &mut Vec<String>, members: &mut Vec<(MemberSpec, Vec<Block>)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let relative = path.strip_prefix(root).expect("below").to_str().expect("text").to_owned();
        // Follows the links to tablespaces.
        if path.is_dir() {
            folders.push(relative);
            read(root, &path, folders, members);
            continue;
        }
        if relative.starts_with("pg_wal/archive_status/") {
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
        let name = match relative.strip_prefix("pg_wal/") {
            Some(name) => format!("wal/{name}"),
            None => format!("data/{relative}"),
        };
        members.push(member(&name, bytes));
    }
}

fn member(name: &str, bytes: Vec<u8>) -> (MemberSpec, Vec<Block>) {
    const BLOCK: usize = 64 << 10;
    let file = name.rsplit('/').next().unwrap_or_default();
    let relation = name.starts_with("data/")
        && file.starts_with(|c: char| c.is_ascii_digit())
        && bytes.len().is_multiple_of(8192);
    let layout = match relation {
        true => Layout::Pages { page_bytes: 8192 },
        false => Layout::Stream,
    };
    let last = bytes.len().saturating_sub(1) / BLOCK;
    let bytes = Bytes::from(bytes);
    let blocks = bytes
        .chunks(BLOCK)
        .enumerate()
        // What is zero between is a hole.
        .filter(|(i, chunk)| !relation || *i == last || chunk.iter().any(|b| *b != 0))
        .map(|(i, chunk)| Block::data((i * BLOCK) as u64, bytes.slice_ref(chunk)))
        .collect();
    let spec = MemberSpec {
        name: name.to_owned(),
        kind: if name.starts_with("wal/") { MemberKind::Log } else { MemberKind::File },
        layout,
        size_hint: None,
        table: None,
        attributes: BTreeMap::new(),
    };
    (spec, blocks)
}

/// A log as it would have been shipped.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestLog {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) histories: BTreeMap<u32, Bytes>,
    spans: Vec<LogSpan>,
}

#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) timeline: u32,
    pub(crate) start: u64,
    pub(crate) sealed_at: DateTime<Utc>,
    pub(crate) bytes: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl TestLog {
    /// Begins where a backup is consistent.
    pub(crate) fn from(backup: &Collected) -> (Self, u64) {
        let stop = backup.source.consistency.position.clone().expect("a position");
        (Self::default(), position(&stop) / SEGMENT * SEGMENT)
    }

    /// Takes everything from a position on that is durable on a server; gives the position behind it.
    pub(crate) async fn ship(
        &mut self,
        timeline: u32,
        from: u64,
        data: &Path,
        end: u64,
        sealed_at: DateTime<Utc>,
    ) -> u64 {
        let mut at = from;
        while at < end {
            let number = at / SEGMENT;
            let upto = end.min((number + 1) * SEGMENT);
            let file = fs::read(data.join("pg_wal").join(segment(timeline, number))).expect("a segment");
            let range = usize::try_from(at % SEGMENT).expect("small")
                ..usize::try_from(upto - number * SEGMENT).expect("small");
            self.pieces.push(Piece {
                timeline,
                start: at,
                sealed_at,
                bytes: Bytes::copy_from_slice(&file[range]),
            });
            at = upto;
        }
        self.pieces.sort_by_key(|p| (p.timeline, p.start));
        self.describe();
        end
    }

    /// The same from a server that runs.
    pub(crate) async fn ship_from(&mut self, server: &Server, from: u64) -> u64 {
        let end = position(&server.psql("SELECT pg_current_wal_flush_lsn()").await.expect("a position"));
        let at = clock(server).await;
        self.ship(1, from, server.data_dir(), end, at).await
    }

    /// Works the spans out again.
    pub(crate) fn describe(&mut self) {
        self.spans.clear();
        for piece in &self.pieces {
            match self.spans.last_mut() {
                Some(last) if last.timeline == piece.timeline && last.range.end == piece.start => {
                    last.range.end = piece.end();
                    last.last_at = piece.sealed_at;
                }
                _ => self.spans.push(LogSpan {
                    timeline: piece.timeline,
                    range: piece.start..piece.end(),
                    first_at: piece.sealed_at,
                    last_at: piece.sealed_at,
                }),
            }
        }
    }
}

#[async_trait]
impl LogReader for TestLog {
    fn spans(&self) -> &[LogSpan] {
        &self.spans
    }

    fn end_of(&self, timeline: u32, at: DateTime<Utc>) -> Option<u64> {
        self.pieces.iter().find(|p| p.timeline == timeline && p.sealed_at > at).map(Piece::end)
    }

    async fn history(&self, _ctx: &OpContext, timeline: u32) -> Result<Option<Bytes>> {
        Ok(self.histories.get(&timeline).cloned())
    }

    fn read(&self, _ctx: &OpContext, timeline: u32, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let mut at = range.start;
        let mut parts = Vec::new();
        for piece in self.pieces.iter().filter(|p| p.timeline == timeline) {
            if piece.start <= at && at < piece.end() && at < range.end {
                let end = piece.end().min(range.end);
                let cut = |offset: u64| usize::try_from(offset - piece.start).expect("small");
                parts.push(Ok(piece.bytes.slice(cut(at)..cut(end))));
                at = end;
            }
        }
        if at < range.end {
            parts.push(Err(Error::not_found("the log has a hole")));
        }
        futures::stream::iter(parts).boxed()
    }
}

/// A request for a folder.
pub(crate) fn to(path: &Path) -> RestoreRequest {
    RestoreRequest {
        jobs: 4,
        checks: CheckDepth::Standard,
        ..RestoreRequest::to(Destination::New(Some(path.display().to_string())))
    }
}

pub(crate) async fn preview(
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
) -> RestorePreview {
    engine
        .restore()
        .expect("a target")
        .preview(&context(), request, &backup.manifest())
        .await
        .expect("a preview")
}

/// Writes and recovers; the place is sealed still. A delta is given only what differs; the bytes of pages are counted.
pub(crate) async fn sealed(
    ctx: &OpContext,
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
    written: &AtomicU64,
) -> Result<Box<dyn RestoreSession>> {
    let target = engine.restore().expect("a target");
    let manifest = backup.manifest();
    let preview = target.preview(ctx, request, &manifest).await?;
    let session = target.open(ctx, request, &manifest, &preview).await?;
    let filled = fill(ctx, session.as_ref(), backup, request, written).await;
    match filled {
        Ok(()) => Ok(session),
        Err(error) => {
            let discarded = session.discard(ctx).await;
            assert_eq!(discarded.is_err(), request.delta, "{discarded:?}");
            Err(error)
        }
    }
}

pub(crate) async fn fill(
    ctx: &OpContext,
    session: &dyn RestoreSession,
    backup: &Collected,
    request: &RestoreRequest,
    written: &AtomicU64,
) -> Result<()> {
    for stage in session.stages() {
        futures::stream::iter(stage)
            .map(|index| async move {
                let spec = &backup.members[index].0;
                let present = match request.delta {
                    true => session.present(ctx, spec).await?,
                    false => None,
                };
                let content = match present {
                    Some(present) => except(backup.content(index), present).await?,
                    None => backup.content(index),
                };
                let items: Vec<_> = content.collect().await;
                let bytes = |item: &Result<RestoreBlock>| item.as_ref().map_or(0, |b| b.bytes.len() as u64);
                if spec.layout != Layout::Stream {
                    written.fetch_add(items.iter().map(bytes).sum(), Ordering::Relaxed);
                }
                session.write(ctx, spec, futures::stream::iter(items).boxed()).await
            })
            .buffer_unordered(request.jobs)
            .try_collect::<()>()
            .await?;
    }
    session.finish(ctx).await
}

/// What differs from what is there, page by page, as a repository tells it.
async fn except(content: RestoreContent, present: dm_core::BlockStream) -> Result<RestoreContent> {
    const PAGE: usize = 8192;
    let mut there: HashMap<u64, Bytes> = HashMap::new();
    for block in present.try_collect::<Vec<_>>().await? {
        let bytes = block.bytes().cloned().expect("data");
        assert!(bytes.len().is_multiple_of(PAGE), "whole pages");
        for (i, page) in bytes.chunks(PAGE).enumerate() {
            there.insert(block.offset() + (i * PAGE) as u64, bytes.slice_ref(page));
        }
    }
    let mut differing = Vec::new();
    // Pieces may be cut anywhere: put together first.
    let mut whole = Vec::new();
    for block in content.try_collect::<Vec<_>>().await? {
        whole.resize(usize::try_from(block.offset).expect("small"), 0);
        whole.extend_from_slice(&block.bytes);
    }
    let whole = Bytes::from(whole);
    for (i, bytes) in whole.chunks(PAGE).enumerate() {
        let (offset, bytes) = ((i * PAGE) as u64, whole.slice_ref(bytes));
        if there.get(&offset) != Some(&bytes) {
            differing.push(RestoreBlock { offset, bytes });
        }
    }
    Ok(futures::stream::iter(differing.into_iter().map(Ok)).boxed())
}

/// Gives a folder to the user of another.
pub(crate) fn hand_over(like: &Path, folder: &Path) {
    let owner = fs::metadata(like).expect("a folder");
    std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid())).expect("it is given away");
}

/// A server on a restored directory, started by its own program as a person would.
pub(crate) struct Started {
    bin_dir: PathBuf,
    pub(crate) data: PathBuf,
    port: u16,
    password: String,
}

impl Started {
    pub(crate) fn new(server: &Server, data: &Path) -> Self {
        Self::start(server, data).unwrap_or_else(|log| panic!("{log}"))
    }

    /// The same, or what the server said.
    pub(crate) fn start(server: &Server, data: &Path) -> std::result::Result<Self, String> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port();
        let started = Self {
            bin_dir: server.bin_dir().to_owned(),
            data: data.to_owned(),
            port,
            password: server.password().to_owned(),
        };
        let log = data.with_extension("log");
        fs::write(&log, "").expect("a log");
        let owner = fs::metadata(data).expect("a folder");
        std::os::unix::fs::chown(&log, Some(owner.uid()), Some(owner.gid())).expect("it is given away");
        let output = started
            .command("pg_ctl")
            .args(["start", "--wait", "--silent", "--timeout=90", "--pgdata"])
            .arg(data)
            .arg("--log")
            .arg(&log)
            .arg(format!("--options=-p {port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pg_ctl runs");
        match output.success() {
            true => Ok(started),
            false => Err(fs::read_to_string(&log).unwrap_or_default()),
        }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let owner = fs::metadata(&self.data).expect("a folder");
        let mut command = Command::new(self.bin_dir.join(program));
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        if fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        let output = self
            .command("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", "postgres")
            .output()
            .expect("psql runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn stop(&self, mode: &str) {
        let status = self
            .command("pg_ctl")
            .args(["stop", "--wait", "--silent", "--mode", mode, "--pgdata"])
            .arg(&self.data)
            .status();
        assert!(status.expect("pg_ctl runs").success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            // It may be down already.
            let _ = self
                .command("pg_ctl")
                .args(["stop", "--wait", "--silent", "--mode=immediate", "--pgdata"])
                .arg(&self.data)
                .status();
        }
    }
}
