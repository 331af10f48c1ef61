//! A database in memory with faults to order: tables of text rows, a file of pages, and places to restore into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dm_core::{
    BackupMode, BackupRequest, BackupSession, BackupSource, Block, BlockStream, Capabilities, Comparison,
    ConsistencyPoint, Destination, Engine, EngineId, EngineKind, Error, ErrorKind, Finding, Health, Layout,
    Level, LogSource, MemberKind, MemberSpec, OpContext, Preflight, QueryPort, RestoreContent,
    RestoreManifest, RestorePreview, RestoreRequest, RestoreSession, RestoreTarget, Restored, Result,
    RowHasher, ServerVersion, SessionSummary, SourceDescription, TableComparison, TableFacts,
};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Notify;

pub(crate) const PAGE: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Database {
    pub(crate) tables: BTreeMap<String, Vec<String>>,
    pub(crate) pages: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// This member's stream fails after so many blocks.
    pub(crate) fail_read: Option<(String, usize)>,
    /// Reading this member panics.
    pub(crate) panic_read: Option<String>,
    /// Reading this member never ends.
    pub(crate) hang_read: Option<String>,
    /// Ending the snapshot fails.
    pub(crate) fail_finish: bool,
    /// Writing this member back fails.
    pub(crate) fail_write: Option<String>,
    /// Writing this member back says that it is done before it is.
    pub(crate) lazy_write: Option<String>,
    /// A row changes behind everybody's back after the restore.
    pub(crate) spoil: bool,
    /// The comparison leaves a table out.
    pub(crate) forget_to_compare: bool,
    /// The sealed place cannot be removed.
    pub(crate) fail_discard: bool,
    /// What the preflight finds.
    pub(crate) preflight: Vec<Finding>,
    /// From backups of these moments the log leads nowhere.
    pub(crate) log_ends_after: Vec<chrono::DateTime<chrono::Utc>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) live: Database,
    pub(crate) system: String,
    pub(crate) mode: BackupMode,
    pub(crate) databases: BTreeMap<String, Database>,
    pub(crate) sealed: BTreeMap<String, Database>,
    pub(crate) faults: Faults,
    pub(crate) can: Capabilities,
    pub(crate) connections: Option<(u32, u32)>,
    /// Whether the engine has a log, and where it stands.
    pub(crate) log: Option<u64>,
    /// What a destination of pages has already.
    pub(crate) present: Option<Vec<u8>>,
    /// Places that were kept sealed: by their name, the final one.
    pub(crate) kept: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct MemoryEngine {
    id: EngineId,
    state: Arc<Mutex<State>>,
    /// Told when a member hangs.
    pub(crate) hanging: Arc<Notify>,
}

impl MemoryEngine {
    pub(crate) fn new() -> Self {
        let mut can = Capabilities::default();
        can.online_backup = true;
        can.incrementals = true;
        let mut state = State { system: "system-1".into(), can, ..State::default() };
        let rows =
            |table: &str, n: usize| (0..n).map(|i| format!("{table}\t{i}\t{}", "x".repeat(i % 40))).collect();
        state.live.tables.insert("public.orders".into(), rows("orders", 900));
        state.live.tables.insert("public.users".into(), rows("users", 120));
        state.live.tables.insert("public.empty".into(), Vec::new());
        state.live.pages = (0..40).flat_map(|i: u8| vec![i % 7; PAGE]).collect();
        Self {
            id: EngineId::new("memory").unwrap(),
            state: Arc::new(Mutex::new(state)),
            hanging: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn live(&self) -> Database {
        self.state().live.clone()
    }

    pub(crate) fn restored(&self, name: &str) -> Database {
        self.state().databases[name].clone()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }
    fn kind(&self) -> EngineKind {
        EngineKind::Memory
    }
    fn location(&self) -> String {
        "memory:".into()
    }
    fn capabilities(&self) -> Capabilities {
        self.state().can
    }
    async fn version(&self, _: &OpContext) -> Result<ServerVersion> {
        Ok(version())
    }
    async fn ping(&self, _: &OpContext) -> Result<Health> {
        let connections = self.state().connections;
        Ok(Health { reachable: true, latency: Duration::ZERO, size_bytes: None, connections })
    }
    async fn diagnose(&self, _: &OpContext) -> Vec<Finding> {
        Vec::new()
    }
    fn backup(&self) -> Option<Arc<dyn BackupSource>> {
        Some(Arc::new(self.clone()))
    }
    fn restore(&self) -> Option<Arc<dyn RestoreTarget>> {
        Some(Arc::new(self.clone()))
    }
    fn log(&self) -> Option<Arc<dyn LogSource>> {
        self.state().log.map(|_| Arc::new(crate::statements::NoLog) as Arc<dyn LogSource>)
    }
    async fn close(&self) {}
}

fn version() -> ServerVersion {
    ServerVersion { text: "1.0".into(), major: 1, minor: 0 }
}

fn facts(database: &Database, key: [u8; 32]) -> Vec<TableFacts> {
    let facts = |(table, rows): (&String, &Vec<String>)| {
        let mut hasher = RowHasher::new(key);
        for row in rows {
            hasher.row(row.as_bytes());
        }
        TableFacts::new(table, rows.len() as u64, Some(hasher.digest()))
    };
    database.tables.iter().map(facts).collect()
}

// ---- backup

struct Session {
    source: SourceDescription,
    members: Vec<MemberSpec>,
    contents: BTreeMap<String, Bytes>,
    facts: Vec<TableFacts>,
    faults: Faults,
    block_bytes: usize,
    ended: Arc<AtomicUsize>,
    hanging: Arc<Notify>,
}

#[async_trait]
impl BackupSource for MemoryEngine {
    async fn preflight(&self, _: &OpContext, _: &BackupRequest) -> Result<Preflight> {
        let state = self.state();
        let estimated_bytes = state.live.pages.len() as u64;
        Ok(Preflight { findings: state.faults.preflight.clone(), estimated_bytes, scratch: None })
    }

    async fn open(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Box<dyn BackupSession>> {
        let state = self.state();
        let live = state.live.clone();
        let mut contents = BTreeMap::new();
        let mut members = Vec::new();
        let mut add = |name: String, kind, layout, table: Option<&String>, bytes: Vec<u8>| {
            members.push(MemberSpec {
                name: name.clone(),
                kind,
                layout,
                size_hint: None,
                table: table.cloned(),
                attributes: BTreeMap::new(),
            });
            contents.insert(name, Bytes::from(bytes));
        };
        for (table, rows) in &live.tables {
            for (i, part) in [&rows[..rows.len() / 2], &rows[rows.len() / 2..]].into_iter().enumerate() {
                let text: String = part.iter().map(|row| format!("{row}\n")).collect();
                let name = format!("data/{table}/{i:07}");
                add(name, MemberKind::Rows, Layout::Stream, Some(table), text.into_bytes());
            }
        }
        let pages = Layout::Pages { page_bytes: PAGE as u32 };
        add("pages.db".into(), MemberKind::File, pages, None, live.pages.clone());
        let schema: String = live.tables.keys().map(|t| format!("create {t};\n")).collect();
        add("schema.dump".into(), MemberKind::Schema, Layout::Stream, None, schema.into_bytes());
        Ok(Box::new(Session {
            source: SourceDescription {
                engine: EngineKind::Memory,
                version: version(),
                mode: request.mode.unwrap_or(state.mode),
                database: "shop".into(),
                system_identifier: Some(state.system.clone()),
                consistency: ConsistencyPoint {
                    at: ctx.now(),
                    position: state.log.map(|at| format!("0/{at:X}")),
                    timeline: state.log.map(|_| "1".to_owned()),
                },
                attributes: BTreeMap::new(),
            },
            members,
            contents,
            facts: facts(&live, request.digest_key),
            faults: state.faults.clone(),
            // Small blocks, so that members have several.
            block_bytes: request.block_bytes.min(2 * PAGE),
            ended: Arc::new(AtomicUsize::new(0)),
            hanging: Arc::clone(&self.hanging),
        }))
    }
}

#[async_trait]
impl BackupSession for Session {
    fn describe(&self) -> &SourceDescription {
        &self.source
    }

    fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    async fn read(&self, _: &OpContext, member: &MemberSpec) -> Result<BlockStream> {
        let is = |name: &Option<String>| name.as_ref() == Some(&member.name);
        assert!(!is(&self.faults.panic_read), "ordered panic");
        let content =
            self.contents.get(&member.name).cloned().ok_or_else(|| Error::not_found("no such member"))?;
        let step = self.block_bytes;
        let mut blocks: Vec<Result<Block>> = (0..content.len())
            .step_by(step)
            .map(|from| {
                let to = content.len().min(from + step);
                Ok(Block::data(from as u64, content.slice(from..to)))
            })
            .collect();
        if let Some((_, after)) = self.faults.fail_read.as_ref().filter(|(name, _)| *name == member.name) {
            blocks.truncate(*after);
            blocks.push(Err(Error::new(ErrorKind::Unreachable, "the connection was lost")));
        }
        let stream = futures::stream::iter(blocks);
        if is(&self.faults.hang_read) {
            let hanging = Arc::clone(&self.hanging);
            let never = futures::stream::once(async move {
                hanging.notify_one();
                std::future::pending::<Result<Block>>().await
            });
            return Ok(stream.chain(never).boxed());
        }
        let ended = Arc::clone(&self.ended);
        let end = futures::stream::poll_fn(move |_| {
            ended.fetch_add(1, Ordering::SeqCst);
            std::task::Poll::Ready(None)
        });
        Ok(stream.chain(end).fuse().boxed())
    }

    async fn finish(self: Box<Self>, _: &OpContext) -> Result<SessionSummary> {
        if self.faults.fail_finish {
            return Err(Error::new(ErrorKind::Conflict, "the snapshot was lost"));
        }
        if self.ended.load(Ordering::SeqCst) < self.members.len() {
            return Err(Error::internal("a member was not read to its end"));
        }
        Ok(SessionSummary {
            tables: self.facts,
            warnings: vec!["a warning of the engine".into()],
            ..SessionSummary::default()
        })
    }
}

// ---- restore

struct Place {
    engine: MemoryEngine,
    name: String,
    key: [u8; 32],
    stages: Vec<Vec<usize>>,
    parts: Mutex<BTreeMap<String, Vec<u8>>>,
    tables: BTreeSet<String>,
    kept: bool,
}

fn name_of(destination: &Destination) -> String {
    match destination {
        Destination::New(Some(name)) => name.clone(),
        Destination::New(None) => "restored".into(),
        Destination::InPlace => "live".into(),
    }
}

#[async_trait]
impl RestoreTarget for MemoryEngine {
    async fn preview(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
    ) -> Result<RestorePreview> {
        let wanted = |(i, (member, _)): (usize, &(MemberSpec, u64))| {
            let all = request.tables.is_empty() || member.kind == MemberKind::Schema;
            (all || member.table.as_ref().is_some_and(|t| request.tables.contains(t))).then_some(i)
        };
        let members: Vec<usize> = manifest.members.iter().enumerate().filter_map(wanted).collect();
        let location = name_of(&request.destination);
        let taken = self.state().databases.contains_key(&location);
        let mut findings: Vec<Finding> = taken
            .then(|| Finding::new(Level::Error, "destination", format!("{location} exists already")))
            .into_iter()
            .collect();
        if self.state().faults.log_ends_after.contains(&manifest.source.consistency.at) {
            findings.push(Finding::new(Level::Error, "log", "the log does not lead there"));
        }
        Ok(RestorePreview {
            consequences: vec![format!("{location} is made at {}", ctx.now())],
            findings,
            bytes: members.iter().map(|i| manifest.members[*i].1).sum(),
            members,
            location,
            attributes: BTreeMap::from([("look".into(), rand::random::<u32>().into())]),
            ..RestorePreview::default()
        })
    }

    async fn open(
        &self,
        _: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
        preview: &RestorePreview,
    ) -> Result<Box<dyn RestoreSession>> {
        let of = |schema: bool| {
            let is = |i: &usize| (manifest.members[*i].0.kind == MemberKind::Schema) == schema;
            preview.members.iter().copied().filter(is).collect::<Vec<_>>()
        };
        let name = format!("sealed-{}", preview.location);
        self.state().sealed.insert(name.clone(), Database::default());
        Ok(Box::new(Place {
            engine: self.clone(),
            name,
            key: request.digest_key,
            stages: vec![of(true), of(false)],
            parts: Mutex::new(BTreeMap::new()),
            tables: preview.members.iter().filter_map(|i| manifest.members[*i].0.table.clone()).collect(),
            kept: false,
        }))
    }

    async fn release_sealed(&self, _: &OpContext, location: &str) -> Result<Restored> {
        let mut state = self.state();
        let name = state.kept.remove(location).ok_or_else(|| Error::not_found("nothing was kept"))?;
        let database = state.sealed.remove(location).unwrap();
        state.databases.insert(name.clone(), database);
        Ok(Restored { location: name, ..Restored::default() })
    }
}

#[async_trait]
impl RestoreSession for Place {
    fn stages(&self) -> Vec<Vec<usize>> {
        self.stages.clone()
    }

    fn location(&self) -> Option<String> {
        Some(self.name.clone())
    }

    async fn write(&self, _: &OpContext, member: &MemberSpec, mut content: RestoreContent) -> Result<()> {
        let faults = self.engine.state().faults.clone();
        if faults.lazy_write.as_ref() == Some(&member.name) {
            return Ok(());
        }
        let mut bytes =
            self.engine.state().present.clone().filter(|_| member.name == "pages.db").unwrap_or_default();
        while let Some(block) = content.try_next().await? {
            let end = block.offset as usize + block.bytes.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[block.offset as usize..end].copy_from_slice(&block.bytes);
        }
        if faults.fail_write.as_ref() == Some(&member.name) {
            return Err(Error::new(ErrorKind::Exhausted, "the disk is full"));
        }
        self.parts.lock().unwrap().insert(member.name.clone(), bytes);
        Ok(())
    }

    async fn finish(&self, _: &OpContext) -> Result<()> {
        let mut database = Database::default();
        for table in &self.tables {
            database.tables.insert(table.clone(), Vec::new());
        }
        for (name, bytes) in self.parts.lock().unwrap().iter() {
            if name == "pages.db" {
                database.pages = bytes.clone();
            } else if let Some(table) = name.strip_prefix("data/").and_then(|n| n.rsplit_once('/')) {
                let text = String::from_utf8(bytes.clone()).unwrap();
                let rows = database.tables.get_mut(table.0).unwrap();
                rows.extend(text.lines().map(str::to_owned));
            }
        }
        let mut state = self.engine.state();
        if state.faults.spoil {
            database.tables.get_mut("public.users").unwrap()[7].push('!');
        }
        state.sealed.insert(self.name.clone(), database);
        Ok(())
    }

    async fn compare(&self, _: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        let state = self.engine.state();
        let there = facts(&state.sealed[&self.name], self.key);
        let compare = |expected: &TableFacts| {
            let found = there.iter().find(|f| f.table == expected.table).cloned();
            TableComparison { expected: expected.clone(), equal: found.as_ref() == Some(expected), found }
        };
        let forgotten = usize::from(state.faults.forget_to_compare);
        let tables = expected.iter().skip(forgotten).map(compare).collect();
        Ok(Comparison { tables, checks: Vec::new() })
    }

    async fn present(&self, _: &OpContext, member: &MemberSpec) -> Result<Option<BlockStream>> {
        let present = self.engine.state().present.clone().filter(|_| member.name == "pages.db");
        Ok(present.map(|bytes| futures::stream::iter([Ok(Block::data(0, bytes))]).boxed()))
    }

    async fn statements(&self, _: &OpContext) -> Result<Option<Arc<dyn QueryPort>>> {
        let contents = self.engine.state().sealed[&self.name].clone();
        Ok(Some(Arc::new(crate::statements::Answers(contents))))
    }

    async fn keep(mut self: Box<Self>, _: &OpContext) -> Result<String> {
        let name = self.name.trim_start_matches("sealed-").to_owned();
        self.engine.state().kept.insert(self.name.clone(), name);
        Ok(self.name.clone())
    }

    async fn release(mut self: Box<Self>, _: &OpContext) -> Result<Restored> {
        self.kept = true;
        let name = self.name.trim_start_matches("sealed-").to_owned();
        let mut state = self.engine.state();
        let database = state.sealed.remove(&self.name).unwrap();
        state.databases.insert(name.clone(), database);
        Ok(Restored { location: name, ..Restored::default() })
    }

    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        ctx.check()?;
        if self.engine.state().faults.fail_discard {
            return Err(Error::new(ErrorKind::Unreachable, "the server is gone"));
        }
        self.engine.state().sealed.remove(&self.name);
        Ok(())
    }
}
