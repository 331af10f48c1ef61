//! A restore under way.

mod begin;
mod complete;
mod replay;
mod running;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use dm_core::{
    BlockStream, CheckDepth, Comparison, ConsistencyPoint, Effect, Error, Finding, Level, LogReader,
    MemberSpec, OpContext, QueryPort, RestoreContent, RestoreManifest, RestoreSession, Restored, Result,
    TableFacts,
};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

pub(super) use self::begin::open_place;
use super::files::{Files, tablespace_map};
use super::leftover::{self, Hold};
use super::marker::{Marker, Stage};
use super::place::Durability;
use super::plan::{Plan, Way};
use super::programs::Programs;
use super::recovery::Control;
use super::server::Sealed;
use super::source::{Part, Source};
use super::{check, opening};
use crate::PostgresOptions;
use crate::engine::pool;
use crate::query::PostgresQuery;

const CONTROL: &str = "data/global/pg_control";
const TABLESPACE_MAP: &str = "data/tablespace_map";

/// An open restore.
pub(super) struct Session {
    options: PostgresOptions,
    /// Who may be a superuser of the restored cluster, or at least log in.
    roles: Vec<String>,
    /// The database of the engine's url.
    database: String,
    plan: Plan,
    source: Source,
    log: Option<Arc<dyn LogReader>>,
    checks: CheckDepth,
    jobs: usize,
    stages: Vec<Vec<usize>>,
    /// The data directory as long as it is sealed.
    data: PathBuf,
    files: Files,
    durability: Durability,
    server: tokio::sync::Mutex<Option<Sealed>>,
    state: Mutex<State>,
    _hold: Hold,
}

#[derive(Debug, Default)]
struct State {
    recovered: bool,
    /// A superuser of the restored cluster.
    role: Option<String>,
    reached: Option<ConsistencyPoint>,
    notes: Vec<String>,
    pools: Vec<PgPool>,
}

/// Folders first, the control file last: before it there is no cluster. Larger files begin earlier.
fn stages(manifest: &RestoreManifest) -> Vec<Vec<usize>> {
    let (mut first, mut middle, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (spec, size)) in manifest.members.iter().enumerate() {
        match spec.name.as_str() {
            super::source::DIRECTORIES => first.push(index),
            CONTROL => last.push(index),
            _ => middle.push((std::cmp::Reverse(*size), index)),
        }
    }
    middle.sort_unstable();
    let middle = middle.into_iter().map(|(_, index)| index).collect();
    [first, middle, last].into_iter().filter(|stage| !stage.is_empty()).collect()
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut state = self.state();
        if !state.notes.contains(&text) {
            state.notes.push(text);
        }
    }

    /// The server's programs, when the restore is to be started at all.
    fn programs(&self) -> Option<&Programs> {
        self.plan.programs.as_ref().filter(|_| self.checks != CheckDepth::None)
    }

    /// Stops the server, and makes the place what it shall be in the end, all but open.
    async fn settle(&self, ctx: &OpContext) -> Result<Marker> {
        self.stop(ctx).await?;
        if let Some(programs) = self.programs() {
            let control = Control::read(ctx, programs, &self.plan, &self.data).await?;
            if !control.is_shut_down() {
                return Err(Error::internal(format!(
                    "the restored server did not shut down in good order: its state is {}",
                    control.get("Database cluster state").unwrap_or("unknown")
                ))
                .with_effect(Effect::Partial));
            }
            opening::forget_old_log(&self.data, control.timeline()?, self.source.segment_bytes)?;
        }
        let mut marker =
            Marker::new(self.plan.clone(), self.source.system_identifier.clone(), self.source.segment_bytes);
        marker.stage = Stage::Sealed;
        marker.started = self.state().recovered;
        marker.reached = self.state().reached.clone();
        marker.notes = self.state().notes.clone();
        self.durability.reach()?;
        marker.write(&self.data)?;
        leftover::clear_stamps(&self.data, &self.plan)?;
        Ok(marker)
    }
}

#[async_trait]
impl RestoreSession for Session {
    fn stages(&self) -> Vec<Vec<usize>> {
        self.stages.clone()
    }

    fn location(&self) -> Option<String> {
        Some(self.data.display().to_string())
    }

    async fn write(&self, ctx: &OpContext, member: &MemberSpec, content: RestoreContent) -> Result<()> {
        ctx.run(Box::pin(async {
            let part = Part::of(&member.name)?;
            match (&part, member.name.as_str()) {
                (Part::Directories, _) => self.files.folders(content).await,
                (_, TABLESPACE_MAP) => {
                    // The backup's own points to where the source has them.
                    super::files::collect(content).await?;
                    self.files.put("tablespace_map", &tablespace_map(&self.plan.tablespaces))
                }
                _ => self.files.write(ctx, member, &part, content).await,
            }
        }))
        .await
    }

    async fn present(&self, _ctx: &OpContext, member: &MemberSpec) -> Result<Option<BlockStream>> {
        match self.plan.way {
            Way::Delta => self.files.present(member),
            Way::Beside | Way::Within => Ok(None),
        }
    }

    async fn finish(&self, ctx: &OpContext) -> Result<()> {
        Box::pin(self.complete(ctx)).await?;
        match self.programs() {
            Some(programs) => Box::pin(self.recover(ctx, programs)).await,
            None => self.durability.reach(),
        }
    }

    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        let mut checks = Vec::new();
        if !expected.is_empty() {
            return Err(Error::unsupported("a physical backup has no facts of tables to compare with"));
        }
        let Some(programs) = self.programs() else {
            checks.push(
                Finding::new(
                    Level::Info,
                    "started",
                    "nothing was started: the files are as the backup has them",
                )
                .with_mend("start the server and look, or restore with checks"),
            );
            return Ok(Comparison { tables: Vec::new(), checks });
        };
        let client = self.client(ctx, None).await?;
        if let Some(reached) = self.state().reached.clone() {
            checks.push(Finding::new(
                Level::Ok,
                "recovery",
                format!("the log was replayed up to {}", reached.position.unwrap_or_default()),
            ));
        }
        checks.extend(Box::pin(check::standard(ctx, &client, self.source.major)).await?);
        if self.checks == CheckDepth::Deep {
            checks.extend(Box::pin(check::deep(ctx, &client)).await?);
            checks.push(match self.source.checksums {
                true => {
                    self.stop(ctx).await?;
                    check::checksums(ctx, programs, &self.plan, &self.data).await?
                }
                false => Finding::new(Level::Info, "checksums", "the cluster has no page checksums"),
            });
        }
        Ok(Comparison { tables: Vec::new(), checks })
    }

    async fn statements(&self, ctx: &OpContext) -> Result<Option<Arc<dyn QueryPort>>> {
        if self.programs().is_none() {
            return Ok(None);
        }
        let database = match &self.plan.database {
            Some(database) => database.clone(),
            None => {
                let client = self.client(ctx, None).await?;
                let all = check::databases(ctx, &client).await?;
                let named = [self.database.as_str(), "postgres"];
                let known = named.into_iter().find(|n| all.iter().any(|d| d == n));
                known.unwrap_or("template1").to_owned()
            }
        };
        let client = self.client(ctx, Some(&database)).await?;
        let pool = pool(&client);
        self.state().pools.push(pool.clone());
        Ok(Some(Arc::new(PostgresQuery::new(client, pool))))
    }

    async fn keep(self: Box<Self>, ctx: &OpContext) -> Result<String> {
        Box::pin(self.settle(ctx)).await?;
        Ok(self.data.display().to_string())
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        let marker = Box::pin(self.settle(ctx)).await?;
        opening::open_up(&self.data, &marker)
    }

    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        // Whoever cancelled the restore wants it gone all the same.
        let ctx = ctx.clone().with_cancellation(CancellationToken::new());
        let pools = std::mem::take(&mut self.state().pools);
        for pool in pools {
            pool.close().await;
        }
        if let Some(server) = self.server.lock().await.take() {
            server.kill(&ctx).await?;
        }
        begin::remove(&self.data, &self.plan)
    }
}
