//! Being backed up: a snapshot's pages as one member, the tables' facts computed beside the reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dm_core::{
    BackupMode, BackupRequest, BackupSession, BackupSource, BaseBackup, Block, BlockStream, ConsistencyPoint,
    EngineKind, Error, ErrorKind, Layout, MemberKind, MemberSpec, OpContext, Preflight, Result,
    ServerVersion, SessionSummary, SourceDescription,
};
use futures::stream;
use serde_json::json;
use tokio::sync::mpsc;

use crate::error::file as file_error;
use crate::facts::{Facts, Frozen, ROW_ENCODING};
use crate::pool::Pool;
use crate::snapshot::{self, Snapshot};
use crate::worker::{self, Running};
use crate::{connect, preflight, schema};

/// The name of the only member.
pub const MEMBER: &str = "main.db";

/// Blocks that may wait between the file and their consumer.
const BLOCKS_IN_FLIGHT: usize = 4;
const MAX_BLOCK_BYTES: usize = 1 << 20;

/// SQLite's own version.
pub(crate) fn version() -> ServerVersion {
    let number = rusqlite::version_number().unsigned_abs();
    ServerVersion {
        text: rusqlite::version().to_owned(),
        major: number / 1_000_000,
        minor: number / 1_000 % 1_000,
    }
}

/// The backup port.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) pool: Arc<Pool>,
    pub(crate) name: String,
}

#[async_trait]
impl BackupSource for Source {
    async fn preflight(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Preflight> {
        self.pool.check_open()?;
        let (pool, ctx_there, request) = (Arc::clone(&self.pool), ctx.clone(), request.clone());
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-look", move || {
            preflight::look(&ctx_there, pool.path(), pool.options(), &request)
        })?
        .wait()
        .await
    }

    async fn open(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Box<dyn BackupSession>> {
        self.pool.check_open()?;
        if let Some(error) = preflight::unsupported(request) {
            return Err(error.on_engine(EngineKind::Sqlite));
        }
        let (pool, ctx_there) = (Arc::clone(&self.pool), ctx.clone());
        let scratch = preflight::scratch_dir(request);
        let (snapshot, description) = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-snap", {
            let name = self.name.clone();
            move || {
                let snapshot = snapshot::take(&ctx_there, pool.path(), pool.options(), &scratch)?;
                let description = describe(&snapshot, name)?;
                Ok((Arc::new(snapshot), description))
            }
        })?
        .wait()
        .await?;

        let known = request.base.clone().filter(|base| request.content_digests && facts_serve(base.as_ref()));
        let survey = Survey {
            pool: Arc::clone(&self.pool),
            snapshot: Arc::clone(&snapshot),
            key: request.content_digests.then_some(request.digest_key),
            threads: request.jobs,
        };
        let facts = match known {
            Some(base) => Pending::Perhaps(base, survey),
            None => Pending::Running(survey.begin(ctx)?),
        };
        let page = snapshot.page_bytes as usize;
        let block_bytes = (request.block_bytes.min(MAX_BLOCK_BYTES) / page).max(1) * page;
        let members = vec![MemberSpec {
            name: MEMBER.to_owned(),
            kind: MemberKind::File,
            layout: Layout::Pages { page_bytes: snapshot.page_bytes },
            size_hint: Some(snapshot.size),
            table: None,
            attributes: BTreeMap::new(),
        }];
        Ok(Box::new(Session {
            description,
            members,
            snapshot,
            facts: Mutex::new(Some(facts)),
            complete: Arc::default(),
            unchanged: AtomicBool::new(false),
            block_bytes,
            pool: Arc::clone(&self.pool),
        }))
    }
}

/// Rows to be counted and digested.
struct Survey {
    pool: Arc<Pool>,
    snapshot: Arc<Snapshot>,
    key: Option<[u8; 32]>,
    threads: usize,
}

impl Survey {
    fn begin(self, ctx: &OpContext) -> Result<Running<Facts>> {
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-facts", move || {
            Frozen::open(&self.snapshot.path, self.threads)?.all(self.key)
        })
    }
}

/// The facts, before the end.
enum Pending {
    Running(Running<Facts>),
    /// Those of the base, should the pages turn out to be its own.
    Perhaps(Arc<dyn BaseBackup>, Survey),
}

/// Whether the facts of an earlier backup say of the same pages what would be found now.
fn facts_serve(base: &dyn BaseBackup) -> bool {
    let tables = base.tables();
    base.source().attributes.get("row_encoding") == Some(&json!(ROW_ENCODING))
        && !tables.is_empty()
        && tables.iter().all(|facts| facts.digest.is_some())
}

fn describe(snapshot: &Snapshot, database: String) -> Result<SourceDescription> {
    let copy = connect::immutable(&snapshot.path)?;
    let (tables, virtual_tables) = schema::tables(&copy, "main")?;
    let shadow_tables: Vec<_> = tables.iter().filter(|t| t.shadow).map(|t| &t.name).collect();
    let attributes = [
        ("page_size", json!(snapshot.page_bytes)),
        ("encoding", json!(schema::pragma_text(&copy, "encoding")?)),
        ("user_version", json!(schema::pragma_number(&copy, "user_version")?)),
        ("application_id", json!(schema::pragma_number(&copy, "application_id")?)),
        ("auto_vacuum", json!(schema::pragma_number(&copy, "auto_vacuum")?)),
        ("journal_mode", json!(snapshot.journal_mode)),
        ("schema_version", json!(snapshot.schema_version)),
        ("virtual_tables", json!(virtual_tables)),
        ("shadow_tables", json!(shadow_tables)),
        ("row_encoding", json!(ROW_ENCODING)),
    ];
    Ok(SourceDescription {
        engine: EngineKind::Sqlite,
        version: version(),
        mode: BackupMode::Physical,
        database,
        system_identifier: None,
        consistency: ConsistencyPoint { at: snapshot.at, position: None, timeline: None },
        attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    })
}

struct Session {
    description: SourceDescription,
    members: Vec<MemberSpec>,
    snapshot: Arc<Snapshot>,
    facts: Mutex<Option<Pending>>,
    complete: Arc<AtomicBool>,
    /// Whether the pages were found to be the base's.
    unchanged: AtomicBool,
    block_bytes: usize,
    pool: Arc<Pool>,
}

#[async_trait]
impl BackupSession for Session {
    fn describe(&self) -> &SourceDescription {
        &self.description
    }

    fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    async fn read(&self, ctx: &OpContext, member: &MemberSpec) -> Result<BlockStream> {
        if member.name != MEMBER {
            return Err(Error::not_found("the snapshot has no such member").about(member.name.clone()));
        }
        let (send, receive) = mpsc::channel(BLOCKS_IN_FLIGHT);
        let (snapshot, complete) = (Arc::clone(&self.snapshot), Arc::clone(&self.complete));
        let block_bytes = self.block_bytes;
        let running = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-read", move || {
            send_blocks(&snapshot, block_bytes, &send)?;
            complete.store(true, Ordering::Release);
            Ok(())
        })?;
        Ok(blocks(receive, running))
    }

    fn member_unchanged(&self, member: &MemberSpec) {
        if member.name == MEMBER {
            self.unchanged.store(true, Ordering::Release);
        }
    }

    async fn finish(self: Box<Self>, ctx: &OpContext) -> Result<SessionSummary> {
        if !self.complete.load(Ordering::Acquire) {
            return Err(Error::internal("the snapshot was not read to its end").about(MEMBER));
        }
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let facts = facts.ok_or_else(|| Error::internal("the session was finished twice"))?;
        let running = match facts {
            Pending::Perhaps(base, _) if self.unchanged.load(Ordering::Acquire) => {
                let (mut tables, warnings) = (base.tables().to_vec(), base.warnings().to_vec());
                // Earlier releases did not say it.
                tables.iter_mut().for_each(|facts| facts.catalog = facts.table == schema::SCHEMA_TABLE);
                return Ok(SessionSummary { tables, warnings, ..SessionSummary::default() });
            }
            Pending::Perhaps(_, survey) => survey.begin(ctx)?,
            Pending::Running(running) => running,
        };
        let facts = ctx.run(running.wait()).await.map_err(|error| match error.kind() {
            ErrorKind::Corrupt => error.with_hint(
                "the database itself is damaged, so this backup is not kept: run PRAGMA integrity_check, \
                 and restore the last good backup",
            ),
            _ => error,
        })?;
        Ok(SessionSummary { tables: facts.tables, warnings: facts.warnings, ..SessionSummary::default() })
    }
}

fn send_blocks(snapshot: &Snapshot, block_bytes: usize, send: &mpsc::Sender<Block>) -> Result<()> {
    let mut file =
        File::open(&snapshot.path).map_err(|e| file_error(&snapshot.path, "open the snapshot", e))?;
    let mut offset = 0;
    while offset < snapshot.size {
        worker::check()?;
        let left = usize::try_from(snapshot.size - offset).unwrap_or(usize::MAX);
        let mut bytes = vec![0; block_bytes.min(left)];
        file.read_exact(&mut bytes).map_err(|e| file_error(&snapshot.path, "read the snapshot", e))?;
        let length = bytes.len() as u64;
        send.blocking_send(Block::data(offset, bytes)).map_err(|_| Error::interrupted())?;
        offset += length;
    }
    Ok(())
}

fn blocks(receive: mpsc::Receiver<Block>, running: Running<()>) -> BlockStream {
    Box::pin(stream::unfold(Some((receive, running)), |state| async move {
        let (mut receive, running) = state?;
        let message = tokio::select! {
            biased;
            () = running.gate().closing() => None,
            message = receive.recv() => message,
        };
        match message {
            Some(block) => Some((Ok(block), Some((receive, running)))),
            None => {
                drop(receive);
                match running.wait().await {
                    Ok(()) => None,
                    Err(error) => Some((Err(error), None)),
                }
            }
        }
    }))
}
