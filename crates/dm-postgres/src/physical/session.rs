//! A backup under way: reading its members, ending it on the server, giving the facts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::{
    BackupSession, Block, BlockStream, ConsistencyPoint, EngineKind, Error, ErrorKind, Layout, MemberKind,
    MemberSpec, OpContext, Result, SessionSummary, SourceDescription,
};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::open::{history, read_control_file};
use super::reading::{Files, Sender};
use super::server::{AGAIN, end_of_log};
use super::timeline::TimelineHistory;
use super::wal::{Segment, read_segment};
use super::{CONTROL_FILE, Lsn};
use crate::error::{reading, sqlstate};
use crate::session::close;

/// Blocks read ahead of the consumer, for each member.
const READ_AHEAD: usize = 6;

/// How often the session that holds the backup is looked after, which also keeps its connection alive.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Where a member that is no file of the listing comes from.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// It is known already.
    Memory(Bytes),
    /// `global/pg_control`.
    Control,
    /// A segment of the log.
    Log(Segment),
}

/// The session that holds the backup on the server.
pub(super) struct Control {
    pub(super) connection: PgConnection,
    /// When it was last known to be there.
    pub(super) seen: Instant,
}

/// What the beginning of the backup told.
pub(super) struct Begun {
    pub(super) start: Lsn,
    /// The history of the timeline that the log begins on, with the file's text.
    pub(super) history: (TimelineHistory, Option<String>),
    pub(super) databases: Databases,
}

/// What the end of the backup told.
struct Ended {
    stop: Lsn,
    warnings: Vec<String>,
    timeline: u32,
    at: DateTime<Utc>,
}

/// How far the backup is.
enum Phase {
    /// Files are read.
    Files,
    /// pg_control is read.
    ControlFile,
    /// The backup has ended on the server; its log is read.
    Log(Ended),
}

/// Members that were read to their end.
#[derive(Default)]
struct Finished {
    files: Vec<bool>,
    others: BTreeSet<String>,
}

/// A backup under way.
pub(crate) struct PhysicalBackup {
    description: SourceDescription,
    files: Arc<Files>,
    /// All members of the first round.
    members: Vec<MemberSpec>,
    /// Files by the names of their members.
    index: HashMap<String, usize>,
    others: Mutex<BTreeMap<String, Reading>>,
    control: tokio::sync::Mutex<Control>,
    phase: tokio::sync::Mutex<Phase>,
    begun: Begun,
    finished: Arc<Mutex<Finished>>,
    warnings: Vec<String>,
}

impl PhysicalBackup {
    pub(super) fn new(
        description: SourceDescription,
        files: Files,
        others: Vec<(MemberSpec, Reading)>,
        control: Control,
        begun: Begun,
        warnings: Vec<String>,
    ) -> Self {
        let index = files.members.iter().enumerate().map(|(i, spec)| (spec.name.clone(), i)).collect();
        let finished = Finished { files: vec![false; files.members.len()], others: BTreeSet::new() };
        let members = files.members.iter().chain(others.iter().map(|(spec, _)| spec)).cloned().collect();
        Self {
            description,
            files: Arc::new(files),
            members,
            index,
            others: Mutex::new(others.into_iter().map(|(spec, how)| (spec.name, how)).collect()),
            control: tokio::sync::Mutex::new(control),
            phase: tokio::sync::Mutex::new(Phase::Files),
            begun,
            finished: Arc::new(Mutex::new(finished)),
            warnings,
        }
    }

    /// Looks now and then whether the session that holds the backup is still there: without it all reading is in vain.
    async fn look_after_session(&self, ctx: &OpContext) -> Result<()> {
        // Whoever else is looking is enough.
        let Ok(mut control) = self.control.try_lock() else { return Ok(()) };
        if control.seen.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        let seen = control.connection.execute("SELECT 1").await;
        match seen {
            Ok(_) => control.seen = Instant::now(),
            Err(error) => return Err(self.lost(ctx, error).await),
        }
        Ok(())
    }

    /// Why the session that holds the backup is gone.
    async fn lost(&self, ctx: &OpContext, error: sqlx::Error) -> Error {
        match self.files.connections.open(ctx).await {
            Ok(connection) => {
                close(connection).await;
                Error::new(ErrorKind::Conflict, "the session that held the backup on the server was cut")
                    .with_source(reading(error))
                    .with_hint(AGAIN)
            }
            Err(why) if why.kind() == ErrorKind::Conflict => why,
            Err(why) => Error::new(ErrorKind::Unreachable, "the server went away during the backup")
                .with_source(why)
                .with_hint(AGAIN),
        }
        .on_engine(EngineKind::Postgres)
    }

    /// Ends the backup on the server, and says what else belongs to it.
    async fn stop(&self, ctx: &OpContext) -> Result<(Ended, Vec<(MemberSpec, Reading)>)> {
        let mut control = self.control.lock().await;
        let connection = &mut control.connection;
        let after = match databases(connection).await {
            Ok(databases) => databases,
            Err(error) if reading_is_lost(&error) => return Err(self.lost(ctx, error).await),
            Err(error) => return Err(reading(error)),
        };
        let warnings = copied_meanwhile(&self.begun.databases, &after);
        let stopped: Result<(String, String, String, i64), sqlx::Error> = sqlx::query_as(
            "SELECT lsn::text, labelfile, spcmapfile,
                    (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8
               FROM pg_catalog.pg_backup_stop(false)",
        )
        .fetch_one(&mut *connection)
        .await;
        let (stop, label, map, micros) = match stopped {
            Ok(row) => row,
            Err(error) => return Err(self.not_stopped(ctx, error).await),
        };
        let stop: Lsn = stop.parse()?;
        let at = DateTime::from_timestamp_micros(micros)
            .ok_or_else(|| Error::internal("the server's clock shows no time"))?;
        let mut others = vec![memory("data/backup_label", MemberKind::File, label.into())];
        if !map.is_empty() {
            others.push(memory("data/tablespace_map", MemberKind::File, map.into()));
        }
        let (history, text) = match self.files.server.facts.in_recovery {
            // The primary may have been replaced meanwhile, which begins a timeline.
            true => {
                let timeline = recovered_timeline(connection).await?.max(self.begun.history.0.timeline);
                history(connection, timeline).await?
            }
            false => self.begun.history.clone(),
        };
        if let Some(text) = text {
            let name = format!("wal/{:08X}.history", history.timeline);
            others.push(memory(&name, MemberKind::Log, text.into()));
        }
        let end = end_of_log(connection).await?.unwrap_or(stop);
        let bytes = self.files.server.wal_segment_bytes();
        for segment in
            Segment::covering(self.begun.start, stop, end, bytes, |place| history.timeline_at(place))
        {
            let name = format!("wal/{}", segment.name());
            others.push((plain(&name, MemberKind::Log, Some(bytes)), Reading::Log(segment)));
        }
        Ok((Ended { stop, warnings, timeline: history.timeline_at(stop), at }, others))
    }

    async fn not_stopped(&self, ctx: &OpContext, error: sqlx::Error) -> Error {
        if reading_is_lost(&error) {
            return self.lost(ctx, error).await;
        }
        match sqlstate(&error).as_deref() {
            // object_not_in_prerequisite_state
            Some("55000") => Error::new(
                ErrorKind::Conflict,
                "the server does not accept the end of the backup: it was promoted, or the log was written without whole pages meanwhile",
            )
            .with_source(reading(error))
            .on_engine(EngineKind::Postgres)
            .with_hint(AGAIN),
            _ => reading(error),
        }
    }

    fn add(&self, members: Vec<(MemberSpec, Reading)>) -> Vec<MemberSpec> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        members
            .into_iter()
            .map(|(spec, how)| {
                others.insert(spec.name.clone(), how);
                spec
            })
            .collect()
    }

    fn check_finished(&self) -> Result<()> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let file = finished.files.iter().position(|done| !done);
        let unread = match file {
            Some(index) => self.files.members.get(index).map(|spec| spec.name.clone()),
            None => others.keys().find(|name| !finished.others.contains(*name)).cloned(),
        };
        match unread {
            Some(name) => Err(Error::internal("a member was not read to its end").about(name)),
            None => Ok(()),
        }
    }
}

/// Databases by oid: name and tablespace.
pub(super) type Databases = BTreeMap<i64, (String, i64)>;

/// The databases that there are.
pub(super) async fn databases(connection: &mut PgConnection) -> Result<Databases, sqlx::Error> {
    let rows: Vec<(i64, String, i64)> =
        sqlx::query_as("SELECT oid::int8, datname::text, dattablespace::int8 FROM pg_catalog.pg_database")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(oid, name, tablespace)| (oid, (name, tablespace))).collect())
}

/// Replaying that a database was copied file by file copies the backup's own files of the original, which may have been read
/// later than that: PostgreSQL promises nothing then (its manual, *Continuous Archiving*, Caveats).
fn copied_meanwhile(before: &Databases, after: &Databases) -> Vec<String> {
    let moved = after
        .iter()
        .filter(|(oid, (_, tablespace))| before.get(oid).is_none_or(|(_, there)| there != tablespace));
    moved
        .map(|(_, (name, _))| {
            format!(
                "the database {name} was made or moved during the backup; if that was by copying files (STRATEGY file_copy, SET TABLESPACE) it may not be whole in this backup: take another one"
            )
        })
        .collect()
}

/// Whether an error means that the connection is gone.
fn reading_is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => {
            sqlstate(error).is_some_and(|code| code.starts_with("57P0") || code.starts_with("08"))
        }
        _ => true,
    }
}

/// The timeline that a standby has replayed to.
async fn recovered_timeline(connection: &mut PgConnection) -> Result<u32> {
    let number: Option<i32> =
        sqlx::query_scalar("SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()")
            .fetch_one(connection)
            .await
            .map_err(reading)?;
    Ok(number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
}

/// A member in a stream.
pub(super) fn plain(name: &str, kind: MemberKind, size: Option<u64>) -> MemberSpec {
    MemberSpec {
        name: name.to_owned(),
        kind,
        layout: Layout::Stream,
        size_hint: size,
        table: None,
        attributes: BTreeMap::new(),
    }
}

fn memory(name: &str, kind: MemberKind, bytes: Bytes) -> (MemberSpec, Reading) {
    (plain(name, kind, Some(bytes.len() as u64)), Reading::Memory(bytes))
}

#[async_trait]
impl BackupSession for PhysicalBackup {
    fn describe(&self) -> &SourceDescription {
        &self.description
    }

    fn members(&self) -> &[MemberSpec] {
        &self.members
    }

    async fn read(&self, ctx: &OpContext, member: &MemberSpec) -> Result<BlockStream> {
        self.look_after_session(ctx).await?;
        let (files, finished) = (Arc::clone(&self.files), Arc::clone(&self.finished));
        let (ctx, name) = (ctx.clone(), member.name.clone());
        if let Some(index) = self.index.get(&name).copied()
            && let Some(blocks) = ctx.run(Box::pin(files.read_small(&ctx, index))).await?
        {
            // It is in memory already: a task would cost more than the file.
            let end = futures::stream::once(async move { finished_file(&finished, index) });
            let blocks = futures::stream::iter(blocks.into_iter().map(Ok));
            return Ok(blocks.chain(end.filter_map(|()| std::future::ready(None))).boxed());
        }
        let (mut sender, receiver) = mpsc::channel(READ_AHEAD);
        // A task of its own, so that reading goes on while the consumer compresses what it has. It ends when the receiver is
        // dropped: its next send fails.
        if let Some(index) = self.index.get(&name).copied() {
            tokio::spawn(async move {
                match ctx.run(Box::pin(files.read(&ctx, index, &mut sender))).await {
                    Ok(true) => finished_file(&finished, index),
                    Ok(false) => {}
                    Err(error) => drop(sender.send(Err(error.about(&name))).await),
                }
            });
            return Ok(receiver.boxed());
        }
        let how = self
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name)
            .cloned()
            .ok_or_else(|| Error::not_found("the backup has no such member").about(&name))?;
        tokio::spawn(async move {
            match ctx.run(Box::pin(read_other(&ctx, &files, how, &mut sender))).await {
                Ok(true) => {
                    finished.lock().unwrap_or_else(PoisonError::into_inner).others.insert(name);
                }
                Ok(false) => {}
                Err(error) => drop(sender.send(Err(error.about(&name))).await),
            }
        });
        Ok(receiver.boxed())
    }

    async fn more_members(&self, ctx: &OpContext) -> Result<Vec<MemberSpec>> {
        let mut phase = self.phase.lock().await;
        match &*phase {
            Phase::Files => {
                *phase = Phase::ControlFile;
                Ok(self.add(vec![(plain(CONTROL_FILE, MemberKind::File, Some(8192)), Reading::Control)]))
            }
            Phase::ControlFile => {
                self.check_finished()?;
                let (ended, members) = ctx.run(Box::pin(self.stop(ctx))).await?;
                *phase = Phase::Log(ended);
                Ok(self.add(members))
            }
            Phase::Log(_) => Ok(Vec::new()),
        }
    }

    async fn finish(self: Box<Self>, _ctx: &OpContext) -> Result<SessionSummary> {
        self.check_finished()?;
        let Self { files, control, phase, mut warnings, .. } = *self;
        let Phase::Log(ended) = phase.into_inner() else {
            return Err(Error::internal("the backup was not ended on the server"));
        };
        warnings.extend(ended.warnings.iter().cloned());
        let corrupt_pages = {
            let corrupt = files.corrupt.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.extend(corrupt.warnings());
            corrupt.count()
        };
        let read_bytes = files.bytes.told();
        files.close().await;
        // The slot goes with the session.
        close(control.into_inner().connection).await;
        Ok(SessionSummary {
            tables: Vec::new(),
            warnings,
            consistency: Some(ConsistencyPoint {
                at: ended.at,
                position: Some(ended.stop.to_string()),
                timeline: Some(ended.timeline.to_string()),
            }),
            attributes: BTreeMap::from([
                ("stop_lsn".to_owned(), json!(ended.stop.to_string())),
                ("timeline".to_owned(), json!(ended.timeline)),
                ("corrupt_pages".to_owned(), json!(corrupt_pages)),
                ("read_bytes".to_owned(), read_bytes),
            ]),
        })
    }
}

/// Remembers that a file of the listing was read to its end.
fn finished_file(finished: &Mutex<Finished>, index: usize) {
    let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(done) = finished.files.get_mut(index) {
        *done = true;
    }
}

/// Reads what is no file of the listing; false when the consumer went away.
async fn read_other(ctx: &OpContext, files: &Files, how: Reading, sender: &mut Sender) -> Result<bool> {
    match how {
        Reading::Memory(bytes) if bytes.is_empty() => Ok(true),
        Reading::Memory(bytes) => {
            files.bytes.files.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let mut offset = 0;
            for piece in bytes.chunks(1 << 20) {
                let block = Block::data(offset, bytes.slice_ref(piece));
                offset += piece.len() as u64;
                if sender.send(Ok(block)).await.is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Reading::Control => {
            let mut loan = files.connections.borrow(ctx).await?;
            let (_, bytes) = read_control_file(&mut loan.connection).await?;
            files.connections.give_back(loan);
            files.bytes.files.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(sender.send(Ok(Block::data(0, bytes))).await.is_ok())
        }
        Reading::Log(segment) => {
            let page_bytes = files.server.wal_block_bytes();
            read_segment(ctx, files, &segment, page_bytes, sender).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_made_or_moved_meanwhile_are_told() {
        let databases = |list: &[(i64, &str, i64)]| -> Databases {
            list.iter().map(|(oid, name, space)| (*oid, ((*name).to_owned(), *space))).collect()
        };
        let before = databases(&[(1, "a", 1663), (2, "b", 1663), (3, "c", 1663)]);
        let after = databases(&[(1, "renamed", 1663), (2, "b", 16500), (4, "d", 1663)]);
        let told = copied_meanwhile(&before, &after);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("database b ") && told[1].contains("database d "), "{told:?}");
    }
}
