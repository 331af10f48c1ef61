//! A restore under way.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dm_core::{
    Comparison, Error, MemberSpec, OpContext, QueryPort, RestoreBlock, RestoreContent, RestoreRequest,
    RestoreSession, Restored, Result, SourceDescription, TableFacts,
};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::{Plan, compare, sealed, tables};
use crate::error::file as file_error;
use crate::pool::Pool;
use crate::query::Queries;
use crate::worker::{self, Running};
use crate::{MEMBER, ROW_ENCODING, SqliteOptions, disk};

const BLOCKS_IN_FLIGHT: usize = 4;

pub(super) struct Session {
    pool: Arc<Pool>,
    plan: Plan,
    /// The whole database as it was backed up.
    image: PathBuf,
    member: usize,
    size: u64,
    key: [u8; 32],
    /// Threads that read rows at once.
    jobs: usize,
    /// Whether digests of the backup can be compared with those computed here.
    same_encoding: bool,
    /// What `compare` was told, for the proof inside a merge.
    expected: Mutex<Vec<TableFacts>>,
    /// Connections for questions to the sealed file.
    questions: Mutex<Option<Arc<Pool>>>,
    /// The image on its way to the disk, which goes on while it is compared.
    sync: Mutex<Option<Running<()>>>,
    progress: Mutex<Step>,
}

/// Where the session stands: each step needs the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Opened,
    Written,
    Finished,
}

impl Session {
    pub(super) fn new(
        pool: Arc<Pool>,
        plan: Plan,
        image: PathBuf,
        (member, size): (usize, u64),
        request: &RestoreRequest,
        source: &SourceDescription,
    ) -> Self {
        let encoding = source.attributes.get("row_encoding").and_then(serde_json::Value::as_u64);
        Self {
            pool,
            plan,
            image,
            member,
            size,
            key: request.digest_key,
            jobs: request.jobs,
            same_encoding: encoding == Some(ROW_ENCODING.into()),
            expected: Mutex::default(),
            questions: Mutex::default(),
            sync: Mutex::default(),
            progress: Mutex::new(Step::Opened),
        }
    }

    /// The copy of the chosen tables, for a new place.
    fn assembly(&self) -> Option<PathBuf> {
        (!self.plan.in_place && !self.plan.tables.is_empty())
            .then(|| disk::with_suffix(&self.image, ".tables"))
    }

    /// The file that is checked, and named in the end.
    fn sealed(&self) -> PathBuf {
        self.assembly().unwrap_or_else(|| self.image.clone())
    }

    fn reached(&self, step: Step) -> Result<()> {
        let now = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= step {
            return Ok(());
        }
        Err(Error::internal(format!("the restore is at the step {now:?} and not yet {step:?}")))
    }

    fn advance(&self, step: Step) {
        let mut now = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *now = step.max(*now);
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-restore", work)?.wait().await
    }

    /// Waits until the image is durable.
    async fn synced(&self) -> Result<()> {
        let sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner).take();
        match sync {
            Some(sync) => sync.wait().await,
            None => Ok(()),
        }
    }

    async fn end_questions(&self) {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(questions) = questions {
            questions.close().await;
        }
    }

    /// The place as it stands, for whoever names it.
    fn place(&self) -> sealed::Place {
        sealed::Place {
            sealed: self.sealed(),
            plan: self.plan.clone(),
            expected: self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            key: self.key,
        }
    }

    /// What of the expected facts can be asked of this restore.
    fn relevant(&self, expected: &[TableFacts]) -> Vec<TableFacts> {
        expected
            .iter()
            .filter(|facts| self.plan.tables.is_empty() || self.plan.tables.contains(&facts.table))
            .map(|facts| TableFacts { digest: facts.digest.filter(|_| self.same_encoding), ..facts.clone() })
            .collect()
    }
}

#[async_trait]
impl RestoreSession for Session {
    fn stages(&self) -> Vec<Vec<usize>> {
        vec![vec![self.member]]
    }

    async fn write(&self, ctx: &OpContext, member: &MemberSpec, mut content: RestoreContent) -> Result<()> {
        if member.name != MEMBER {
            return Err(Error::not_found("a sqlite restore knows no such member").about(member.name.clone()));
        }
        let (send, receive) = mpsc::channel::<RestoreBlock>(BLOCKS_IN_FLIGHT);
        let (image, size) = (self.image.clone(), self.size);
        let writing = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-write", move || {
            write_blocks(&image, size, receive)
        })?;
        let fed = ctx
            .run(async {
                while let Some(block) = content.next().await {
                    if send.send(block?).await.is_err() {
                        // The writer gave up; its own error is the reason.
                        break;
                    }
                }
                Ok(())
            })
            .await;
        drop(send);
        let written = writing.wait().await;
        fed?;
        written?;
        self.advance(Step::Written);
        Ok(())
    }

    async fn finish(&self, ctx: &OpContext) -> Result<()> {
        self.reached(Step::Written)?;
        let (image, assembly, chosen) = (self.image.clone(), self.assembly(), self.plan.tables.clone());
        match assembly {
            Some(assembly) => {
                self.on_thread(ctx, move || tables::assemble(&image, &assembly, &chosen)).await?;
            }
            None => {
                let sync = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-sync", move || {
                    disk::sync_file(&image)
                })?;
                *self.sync.lock().unwrap_or_else(PoisonError::into_inner) = Some(sync);
            }
        }
        self.advance(Step::Finished);
        Ok(())
    }

    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        self.reached(Step::Finished)?;
        let expected = self.relevant(expected);
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = expected.clone();
        let (path, key, whole) = (self.sealed(), self.key, self.plan.tables.is_empty());
        let also = path.clone();
        let checks = worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-check", move || {
            compare::checks(&also)
        })?;
        let jobs = self.jobs;
        let (compared, mut findings) =
            self.on_thread(ctx, move || compare::tables(&path, &expected, key, whole, jobs)).await?;
        let mut checks = checks.wait().await?;
        checks.append(&mut findings);
        Ok(Comparison { tables: compared, checks })
    }

    async fn statements(&self, _ctx: &OpContext) -> Result<Option<Arc<dyn QueryPort>>> {
        self.reached(Step::Finished)?;
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = questions.get_or_insert_with(|| {
            let options = SqliteOptions { max_connections: 1, ..self.pool.options().clone() };
            Pool::immutable(self.sealed(), options)
        });
        Ok(Some(Arc::new(Queries { pool: Arc::clone(pool) })))
    }

    async fn keep(self: Box<Self>, ctx: &OpContext) -> Result<String> {
        self.reached(Step::Finished)?;
        self.end_questions().await;
        self.synced().await?;
        let (place, image) = (self.place(), self.image.clone());
        self.on_thread(ctx, move || {
            if place.sealed != image {
                disk::remove_if_there(&image)?;
            }
            place.mark()?;
            Ok(place.sealed.display().to_string())
        })
        .await
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        self.reached(Step::Finished)?;
        self.end_questions().await;
        self.synced().await?;
        let image = self.image.clone();
        let restored = self.place().open(ctx, &self.pool).await?;
        self.on_thread(ctx, move || disk::remove_if_there(&image)).await?;
        Ok(restored)
    }

    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        self.end_questions().await;
        let (image, assembly) = (self.image.clone(), self.assembly());
        // Also after a cancellation: that is when most is discarded. Two unlinks do not wait for anybody.
        let _ = ctx;
        tokio::task::spawn_blocking(move || {
            for path in assembly.into_iter().chain([image]) {
                disk::remove_if_there(&path)?;
            }
            Ok(())
        })
        .await
        .map_err(|e| Error::internal("the removal of the sealed file did not end").with_source(e))?
    }
}

fn write_blocks(image: &std::path::Path, size: u64, mut receive: mpsc::Receiver<RestoreBlock>) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(image)
        .map_err(|e| file_error(image, "open the sealed file", e))?;
    // Anew from nothing, so that a member written again has no pages of the first attempt in its holes.
    let empty = file.set_len(0).and_then(|()| file.set_len(size));
    empty.map_err(|e| file_error(image, "reserve the file", e))?;
    let mut least = 0;
    while let Some(block) = receive.blocking_recv() {
        worker::check()?;
        let end = block.offset.checked_add(block.bytes.len() as u64);
        if block.offset < least || end.is_none_or(|end| end > size) {
            return Err(Error::corrupt(format!(
                "a block at {} does not belong into {size} bytes after {least}",
                block.offset
            ))
            .about(MEMBER));
        }
        file.write_all_at(&block.bytes, block.offset)
            .map_err(|e| file_error(image, "write the sealed file", e))?;
        least = end.unwrap_or(size);
    }
    Ok(())
}
