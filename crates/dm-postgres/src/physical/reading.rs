//! Reading the files: large ones in a stream each, small ones in runs of neighbours, so that a hundred thousand of them
//! are some hundred queries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dm_core::{Block, Error, ErrorKind, MemberSpec, OpContext, Result};
use futures::channel::mpsc;
use futures::{SinkExt, TryStreamExt};
use serde_json::json;
use sqlx::postgres::PgConnection;

use super::compare::Comparison;
use super::connections::{Connections, Piece, next_query, read};
use super::files::{Fork, RelationFile};
use super::plan::Plan;
use super::server::{AGAIN, Server, end_of_log};
use super::{DATA, Lsn, page};

/// Files up to this size are read together with their neighbours.
const SMALL_BYTES: u64 = 256 << 10;
/// Files and bytes of one run. At most as many runs as there are readers are in memory, and one more.
const RUN_BYTES: u64 = 4 << 20;
const RUN_FILES: usize = 512;

/// How often a page whose checksum does not hold is read again before it is called corrupt, and how long apart: a page
/// that is just being written looks torn to who reads beside the server's buffers.
const READINGS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(25);

/// Corrupt pages named in the warnings, and those that are given the time of all readings.
const NAMED: usize = 20;

pub(super) type Sender = mpsc::Sender<Result<Block>>;

/// What was read of a small file.
struct Part {
    plan: Plan,
    rows: Vec<(Piece, Option<Bytes>)>,
}

/// Neighbouring small files.
struct Run {
    /// Indices of the members.
    members: std::ops::Range<usize>,
    /// What was read and not yet taken; `None` until the first of them is asked for.
    parts: tokio::sync::Mutex<Option<BTreeMap<usize, Part>>>,
}

/// Pages whose checksum does not hold.
#[derive(Debug, Default)]
pub(super) struct Corrupt {
    named: Vec<String>,
    count: u64,
}

impl Corrupt {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What a person has to know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut lines = self.named.clone();
        let more = self.count.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("{more} more pages are corrupt: their checksums do not hold"));
        }
        lines
    }
}

/// Bytes that were read from the server, by what they belong to.
#[derive(Debug, Default)]
pub(super) struct ReadBytes {
    /// Tables and indexes.
    pub(super) pages: AtomicU64,
    /// Free space and visibility maps, which are always read whole, and initial forks.
    pub(super) forks: AtomicU64,
    /// Everything else below the data directory.
    pub(super) files: AtomicU64,
    /// The log that makes the files consistent.
    pub(super) log: AtomicU64,
}

impl ReadBytes {
    /// As the backup records them.
    pub(super) fn told(&self) -> serde_json::Value {
        let bytes = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "pages": bytes(&self.pages),
            "forks": bytes(&self.forks),
            "files": bytes(&self.files),
            "log": bytes(&self.log),
        })
    }

    fn count(&self, relation: Option<RelationFile>, bytes: usize) {
        let counter = match relation.map(|file| file.fork) {
            Some(Fork::Main) => &self.pages,
            Some(_) => &self.forks,
            None => &self.files,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What the tasks that read share.
pub(super) struct Files {
    pub(super) connections: Connections,
    pub(super) server: Server,
    /// Where the backup began.
    start: Lsn,
    comparison: Comparison,
    pub(super) members: Vec<MemberSpec>,
    runs: Vec<Run>,
    /// A connection for pages that are read again, beside those that stream.
    again: tokio::sync::Mutex<Option<PgConnection>>,
    pub(super) corrupt: Mutex<Corrupt>,
    pub(super) bytes: ReadBytes,
}

impl Files {
    pub(super) fn new(
        connections: Connections,
        server: Server,
        start: Lsn,
        comparison: Comparison,
        members: Vec<MemberSpec>,
    ) -> Self {
        let runs = runs(&members);
        Self {
            connections,
            server,
            start,
            comparison,
            members,
            runs,
            again: tokio::sync::Mutex::default(),
            corrupt: Mutex::default(),
            bytes: ReadBytes::default(),
        }
    }

    /// The blocks of a file that is read together with its neighbours. `None` for one that is read by itself.
    pub(super) async fn read_small(&self, ctx: &OpContext, index: usize) -> Result<Option<Vec<Block>>> {
        let (Some(spec), Some(part)) = (self.members.get(index), self.part(ctx, index).await?) else {
            return Ok(None);
        };
        let path = path_of(spec);
        let mut cutter = Cutter::new(self, &path, part.plan);
        for (piece, bytes) in part.rows {
            if !cutter.take(ctx, &piece, bytes).await? {
                break;
            }
        }
        cutter.end();
        Ok(Some(cutter.ready))
    }

    /// Reads a file by itself; false when the consumer went away.
    pub(super) async fn read(&self, ctx: &OpContext, index: usize, sender: &mut Sender) -> Result<bool> {
        let Some(spec) = self.members.get(index) else { return Ok(true) };
        let path = path_of(spec);
        let plan = self.plan(ctx, spec, &path).await?;
        let mut pieces = plan.pieces(&path);
        let mut cutter = Cutter::new(self, &path, plan);
        let mut query = next_query(&mut pieces);
        if !query.is_empty() {
            let mut loan = self.connections.borrow(ctx).await?;
            while !query.is_empty() && !cutter.ended {
                let mut rows = read(&mut loan.connection, &query);
                let mut asked = query.iter();
                while let Some(bytes) = rows.try_next().await? {
                    let Some(piece) = asked.next() else { break };
                    // What comes after the file's end is received and dropped: the connection stays in order.
                    if cutter.take(ctx, piece, bytes).await? && !cutter.send(sender).await {
                        return Ok(false);
                    }
                }
                drop(rows);
                query = next_query(&mut pieces);
            }
            self.connections.give_back(loan);
        }
        cutter.end();
        Ok(cutter.send(sender).await)
    }

    async fn plan(&self, ctx: &OpContext, spec: &MemberSpec, path: &str) -> Result<Plan> {
        self.comparison.plan(ctx, spec, RelationFile::parse(path), &self.server).await
    }

    /// The part of a run, which is read when the first of its members is asked for. `None` for a file that is in no run,
    /// or was taken out of it already.
    async fn part(&self, ctx: &OpContext, index: usize) -> Result<Option<Part>> {
        let at = self.runs.partition_point(|run| run.members.end <= index);
        let Some(run) = self.runs.get(at).filter(|run| run.members.contains(&index)) else { return Ok(None) };
        let mut parts = run.parts.lock().await;
        if parts.is_none() {
            *parts = Some(self.read_run(ctx, run).await?);
        }
        Ok(parts.as_mut().and_then(|parts| parts.remove(&index)))
    }

    async fn read_run(&self, ctx: &OpContext, run: &Run) -> Result<BTreeMap<usize, Part>> {
        let mut parts = BTreeMap::new();
        let mut wanted: Vec<(usize, Piece)> = Vec::new();
        for index in run.members.clone() {
            let Some(spec) = self.members.get(index) else { continue };
            let path = path_of(spec);
            let plan = self.plan(ctx, spec, &path).await?;
            wanted.extend(plan.pieces(&path).map(|piece| (index, piece)));
            parts.insert(index, Part { plan, rows: Vec::new() });
        }
        if wanted.is_empty() {
            return Ok(parts);
        }
        let mut loan = self.connections.borrow(ctx).await?;
        let mut pieces = wanted.iter().map(|(_, piece)| piece.clone());
        let mut owners = wanted.iter();
        loop {
            let query = next_query(&mut pieces);
            if query.is_empty() {
                break;
            }
            let mut rows = read(&mut loan.connection, &query);
            while let Some(bytes) = rows.try_next().await? {
                let Some((index, piece)) = owners.next() else { break };
                if let Some(part) = parts.get_mut(index) {
                    part.rows.push((piece.clone(), bytes));
                }
            }
        }
        self.connections.give_back(loan);
        Ok(parts)
    }

    /// Reads a page again until its checksum holds. The page as it stands then, and whether it is corrupt; `None` when it is
    /// not there any more.
    async fn again(&self, ctx: &OpContext, at: &Piece, block: u32) -> Result<Option<(Bytes, bool)>> {
        let mut connection = self.again.lock().await;
        let connection = match connection.as_mut() {
            Some(connection) => connection,
            None => connection.insert(self.connections.open(ctx).await?),
        };
        let known = self.corrupt.lock().unwrap_or_else(PoisonError::into_inner).count;
        let readings = if known < NAMED as u64 { READINGS } else { 1 };
        let mut last = None;
        for reading in 0..readings {
            if reading > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let content = read(connection, std::slice::from_ref(at)).try_next().await?.flatten();
            let Some(bytes) = content.filter(|bytes| bytes.len() as u64 == at.length) else {
                return Ok(None);
            };
            if page::is_sound(&bytes, block) {
                return Ok(Some((bytes, false)));
            }
            last = Some(bytes);
        }
        let Some(bytes) = last else { return Ok(None) };
        // Changed since the backup began: the log has the whole page. But an LSN that the log has not reached is no LSN.
        let lsn = page::lsn(&bytes);
        let replayed = lsn >= self.start && end_of_log(connection).await?.is_some_and(|end| lsn <= end);
        Ok(Some((bytes, !replayed)))
    }

    fn call_corrupt(&self, path: &str, block: u32) {
        tracing::warn!(file = path, block, "a page is corrupt: its checksum does not hold");
        let mut corrupt = self.corrupt.lock().unwrap_or_else(PoisonError::into_inner);
        corrupt.count += 1;
        if corrupt.named.len() < NAMED {
            corrupt
                .named
                .push(format!("{path}, block {block}: the page is corrupt, its checksum does not hold"));
        }
    }

    /// Closes what is idle.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.again.lock().await.take() {
            crate::session::close(connection).await;
        }
        self.connections.close().await;
    }
}

fn path_of(spec: &MemberSpec) -> Arc<str> {
    spec.name.strip_prefix(DATA).unwrap_or(&spec.name).into()
}

/// Puts neighbouring small files together.
fn runs(members: &[MemberSpec]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut bytes = 0;
    for (index, spec) in members.iter().enumerate() {
        let size = spec.size_hint.unwrap_or(0);
        if size > SMALL_BYTES {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.members.end == index && run.members.len() < RUN_FILES && bytes + size <= RUN_BYTES =>
            {
                run.members.end = index + 1;
                bytes += size;
            }
            _ => {
                runs.push(Run { members: index..index + 1, parts: tokio::sync::Mutex::new(None) });
                bytes = size;
            }
        }
    }
    runs
}

/// Makes blocks of what was read of a file.
struct Cutter<'a> {
    files: &'a Files,
    path: &'a str,
    relation: Option<RelationFile>,
    page_bytes: usize,
    plan: Plan,
    /// Up to where everything is accounted for.
    position: u64,
    /// A stretch as in the base that may still grow.
    unchanged: Option<(u64, u64)>,
    ready: Vec<Block>,
    /// The file turned out to be shorter than it was listed.
    ended: bool,
}

impl<'a> Cutter<'a> {
    fn new(files: &'a Files, path: &'a str, plan: Plan) -> Self {
        Self {
            files,
            path,
            relation: RelationFile::parse(path),
            page_bytes: files.server.block_bytes() as usize,
            plan,
            position: 0,
            unchanged: None,
            ready: Vec::new(),
            ended: false,
        }
    }

    /// Takes a row; false when nothing more of the file is to come.
    async fn take(&mut self, ctx: &OpContext, piece: &Piece, bytes: Option<Bytes>) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if bytes.is_none() && self.path.starts_with("pg_twophase/") {
            // Too large to be read at once with the listing, and committed since: an empty file would stop a start.
            return Err(Error::new(
                ErrorKind::Conflict,
                "a large prepared transaction ended during the backup",
            )
            .with_hint(AGAIN));
        }
        let bytes = bytes.unwrap_or_default();
        self.files.bytes.count(self.relation, bytes.len());
        // Shortened, or gone, since it was listed: replaying the log does the same to the copy.
        self.ended = (bytes.len() as u64) < piece.length;
        if !bytes.is_empty() {
            self.skip_to(piece.offset);
            self.position = piece.offset + bytes.len() as u64;
            self.pages(ctx, piece.offset, bytes).await?;
        }
        Ok(!self.ended)
    }

    /// What lies behind the last row and was not read.
    fn end(&mut self) {
        if !self.ended && self.relation.is_some() {
            self.skip_to(self.plan.size);
        }
        self.flush();
    }

    /// Hands over what is ready; false when the consumer went away.
    async fn send(&mut self, sender: &mut Sender) -> bool {
        for block in self.ready.drain(..) {
            if sender.send(Ok(block)).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn pages(&mut self, ctx: &OpContext, offset: u64, bytes: Bytes) -> Result<()> {
        let Some(relation) = self.relation else {
            self.data(offset, bytes);
            return Ok(());
        };
        let first = self.files.server.first_block(relation.segment);
        let block_of =
            |index: usize| first.wrapping_add((offset / self.page_bytes as u64) as u32 + index as u32);
        let mut corrupt = Vec::new();
        let mut bytes = bytes;
        if self.files.server.facts.data_checksums {
            let torn: Vec<usize> = bytes
                .chunks_exact(self.page_bytes)
                .enumerate()
                .filter(|(index, page)| !page::is_sound(page, block_of(*index)))
                .map(|(index, _)| index)
                .collect();
            for index in torn {
                let (at, length) = (index * self.page_bytes, self.page_bytes as u64);
                let piece = Piece { path: self.path.into(), offset: offset + at as u64, length };
                let Some((page, is_corrupt)) = self.files.again(ctx, &piece, block_of(index)).await? else {
                    continue;
                };
                let mut mended = BytesMut::from(bytes);
                if let Some(place) = mended.get_mut(at..at + page.len()) {
                    place.copy_from_slice(&page);
                }
                bytes = mended.freeze();
                if is_corrupt {
                    self.files.call_corrupt(self.path, block_of(index));
                    corrupt.push(index);
                }
            }
        }
        let Some((before, end)) = self.plan.older else {
            self.data(offset, bytes);
            return Ok(());
        };
        // Stretches of pages that are older than the base, and of others.
        let is_older = |index: usize, page: &[u8]| {
            let lsn = page::lsn(page);
            page.len() == self.page_bytes
                && offset + ((index + 1) * self.page_bytes) as u64 <= end
                && lsn != Lsn(0)
                && lsn < before
                && !page::is_new(page)
                && !corrupt.contains(&index)
        };
        let verdicts: Vec<bool> =
            bytes.chunks(self.page_bytes).enumerate().map(|(index, page)| is_older(index, page)).collect();
        let mut index = 0;
        for stretch in verdicts.chunk_by(|a, b| a == b) {
            let from = index * self.page_bytes;
            index += stretch.len();
            let to = (index * self.page_bytes).min(bytes.len());
            match stretch.first() {
                Some(true) => self.same(offset + from as u64, (to - from) as u64),
                _ => self.data(offset + from as u64, bytes.slice(from..to)),
            }
        }
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: Bytes) {
        self.flush();
        self.ready.push(Block::data(offset, bytes));
    }

    fn same(&mut self, offset: u64, length: u64) {
        match &mut self.unchanged {
            Some((begin, so_far)) if *begin + *so_far == offset => *so_far += length,
            _ => {
                self.flush();
                self.unchanged = Some((offset, length));
            }
        }
    }

    fn skip_to(&mut self, offset: u64) {
        if offset > self.position {
            self.same(self.position, offset - self.position);
            self.position = offset;
        }
    }

    fn flush(&mut self) {
        if let Some((offset, length)) = self.unchanged.take() {
            self.ready.push(Block::Unchanged { offset, length });
        }
    }
}
