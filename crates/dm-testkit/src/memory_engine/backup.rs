//! Being backed up: the snapshot is a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use dm_core::{
    BackupMode, BackupRequest, BackupSession, BackupSource, Block, BlockStream, ConsistencyPoint, EngineKind,
    Error, ErrorKind, Finding, Layout, Level, MemberKind, MemberSpec, OpContext, Preflight, Result,
    SessionSummary, SourceDescription,
};
use futures::StreamExt as _;

use super::{Contents, Faults, MemoryEngine, OWN, Pages, facts, file_table, no_tenants, version};

#[async_trait]
impl BackupSource for MemoryEngine {
    async fn preflight(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Preflight> {
        ctx.check()?;
        no_tenants(request.tenant.as_ref())?;
        let state = self.open_state()?;
        let own = state.databases.get(OWN).cloned().unwrap_or_default();
        let mut findings = state.faults.preflight.clone();
        for pattern in request.include_tables.iter().chain(&request.exclude_tables) {
            if !own.tables.keys().any(|table| matches(pattern, table)) {
                let message = format!("there is no table \"{pattern}\"");
                findings.push(Finding::new(Level::Error, "tables", message).with_mend("check the spelling"));
            }
        }
        let rows: usize = own.tables.values().flatten().map(Bytes::len).sum();
        let files: usize = own.files.values().map(|file| file.bytes.len()).sum();
        Ok(Preflight { findings, estimated_bytes: (rows + files) as u64, scratch: None })
    }

    async fn open(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Box<dyn BackupSession>> {
        ctx.check()?;
        no_tenants(request.tenant.as_ref())?;
        let state = self.open_state()?;
        let mut contents = state.databases.get(OWN).cloned().unwrap_or_default();
        contents.tables.retain(|table, _| {
            let named = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, table));
            (request.include_tables.is_empty() || named(&request.include_tables))
                && !named(&request.exclude_tables)
        });
        if !request.include_tables.is_empty() {
            contents.files.clear();
        }
        let members = contents
            .tables
            .iter()
            .map(|(table, rows)| row_member(table, rows))
            .chain(contents.files.iter().map(|(name, file)| file_member(name, file)))
            .collect();
        Ok(Box::new(Session {
            source: SourceDescription {
                engine: EngineKind::Memory,
                version: version(),
                mode: request.mode.unwrap_or(BackupMode::Logical),
                database: OWN.to_owned(),
                system_identifier: Some(self.id.to_string()),
                consistency: ConsistencyPoint { at: ctx.now(), position: None, timeline: None },
                attributes: BTreeMap::new(),
            },
            members,
            contents,
            request: request.clone(),
            faults: state.faults.clone(),
            ended: Arc::default(),
        }))
    }
}

struct Session {
    source: SourceDescription,
    members: Vec<MemberSpec>,
    contents: Contents,
    request: BackupRequest,
    faults: Faults,
    /// Members whose streams were read to the end.
    ended: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl BackupSession for Session {
    fn describe(&self) -> &SourceDescription {
        &self.source
    }

    fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    async fn read(&self, ctx: &OpContext, member: &MemberSpec) -> Result<BlockStream> {
        ctx.check()?;
        let mut blocks = self.blocks(&member.name)?;
        if let Some((_, after)) = self.faults.read_fails.as_ref().filter(|(name, _)| *name == member.name) {
            blocks.truncate(*after);
            blocks.push(Err(Error::new(ErrorKind::Unreachable, "the connection was cut")));
        }
        let failing = blocks.iter().any(Result::is_err);
        let (ended, name, ctx) = (Arc::clone(&self.ended), member.name.clone(), ctx.clone());
        let mut blocks = blocks.into_iter();
        let mut over = false;
        Ok(futures::stream::poll_fn(move |_| {
            if over {
                return None.into();
            }
            if let Err(error) = ctx.check() {
                over = true;
                return Some(Err(error)).into();
            }
            let next = blocks.next();
            over = !matches!(next, Some(Ok(_)));
            if next.is_none() && !failing {
                ended.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
            }
            next.into()
        })
        .boxed())
    }

    async fn finish(self: Box<Self>, ctx: &OpContext) -> Result<SessionSummary> {
        ctx.check()?;
        if self.faults.finish_fails {
            return Err(Error::new(ErrorKind::Conflict, "the snapshot was lost"));
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = self.members.iter().find(|member| !ended.contains(&member.name)) {
            return Err(Error::internal(format!("{} was not read to its end", member.name)));
        }
        let mut tables = facts(&self.contents, self.request.digest_key);
        if !self.request.content_digests {
            tables.iter_mut().for_each(|table| table.digest = None);
        }
        Ok(SessionSummary { tables, ..SessionSummary::default() })
    }
}

impl Session {
    fn blocks(&self, member: &str) -> Result<Vec<Result<Block>>> {
        let most = self.request.block_bytes.max(1);
        let mut offset = 0;
        let mut place = |bytes: Bytes| {
            let block = Block::data(offset, bytes);
            offset += block.length();
            Ok(block)
        };
        if let Some(rows) = member.strip_prefix("data/").and_then(|table| self.contents.tables.get(table)) {
            return Ok(row_blocks(rows, most).into_iter().map(place).collect());
        }
        if let Some(file) = member.strip_prefix("files/").and_then(|name| self.contents.files.get(name)) {
            let page = file.page_bytes as usize;
            let step = (most / page).max(1) * page;
            let cut = |from| file.bytes.slice(from..file.bytes.len().min(from + step));
            return Ok((0..file.bytes.len()).step_by(step).map(|from| place(cut(from))).collect());
        }
        Err(Error::not_found(format!("there is no member \"{member}\"")))
    }
}

/// A row is its length in four bytes and its bytes; a block is cut between rows.
fn row_blocks(rows: &[Bytes], most: usize) -> Vec<Bytes> {
    let mut blocks = Vec::new();
    let mut block = BytesMut::new();
    for row in rows {
        if !block.is_empty() && block.len() + 4 + row.len() > most {
            blocks.push(block.split().freeze());
        }
        block.put_u32_le(u32::try_from(row.len()).unwrap_or(u32::MAX));
        block.put_slice(row);
    }
    if !block.is_empty() {
        blocks.push(block.freeze());
    }
    blocks
}

fn row_member(table: &str, rows: &[Bytes]) -> MemberSpec {
    MemberSpec {
        name: format!("data/{table}"),
        kind: MemberKind::Rows,
        layout: Layout::Stream,
        size_hint: Some(rows.iter().map(|row| 4 + row.len() as u64).sum()),
        table: Some(table.to_owned()),
        attributes: BTreeMap::new(),
    }
}

fn file_member(name: &str, file: &Pages) -> MemberSpec {
    MemberSpec {
        name: format!("files/{name}"),
        kind: MemberKind::File,
        layout: Layout::Pages { page_bytes: file.page_bytes },
        size_hint: Some(file.bytes.len() as u64),
        table: Some(file_table(name)),
        attributes: BTreeMap::new(),
    }
}

/// A name, or a pattern with `*`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|skip| rest.is_char_boundary(skip) && matches(tail, &rest[skip..]))
}
