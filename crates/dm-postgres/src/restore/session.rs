//! A restore under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use dm_core::{
    Comparison, Error, MemberSpec, OpContext, Progress, QueryPort, RestoreContent, RestoreSession, Restored,
    Result, TableFacts,
};
use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::content::{json, lock, spool};
use super::definitions::Definitions;
use super::pick::Pick;
use super::plan::{Kind, Plan, Source, TableMember};
use super::sealed::Sealed;
use super::{compare, place, rows};
use crate::backup::toc::{self, Toc};
use crate::backup::{LARGE_OBJECT_LIST, LARGE_OBJECTS, LargeObjectFacts, SCHEMA, SEQUENCES, SequenceValue};
use crate::client::Client;
use crate::engine::pool as engine_pool;
use crate::error::reading;
use crate::query::PostgresQuery;
use crate::session::{close, open_control, open_pinned};
use crate::tools::ClientTools;

/// A table below this size has its indexes built at the end with the others: starting a program costs more.
const EARLY_INDEX_BYTES: u64 = 8 << 20;

/// An open restore.
pub(super) struct Session {
    /// The server, on the place that is written to.
    pub(super) place: Client,
    /// The server, on the engine's own database.
    pub(super) client: Client,
    pub(super) pool: PgPool,
    pub(super) plan: Plan,
    pub(super) source: Source,
    pub(super) server_major: u32,
    pub(super) tools: ClientTools,
    pub(super) tables: BTreeMap<String, TableMember>,
    pub(super) stages: Vec<Vec<usize>>,
    pub(super) jobs: usize,
    pub(super) digest_key: [u8; 32],
    pub(super) scratch: tempfile::TempDir,
    pub(super) idle: Mutex<Vec<PgConnection>>,
    /// Connections for questions to the sealed place.
    pub(super) questions: Mutex<Option<PgPool>>,
    pub(super) progress: Mutex<State>,
    pub(super) background: tokio::sync::Mutex<JoinSet<Result<()>>>,
    pub(super) background_permits: Arc<Semaphore>,
    /// Where a tenant's rows are picked out of what came; made when the tables are.
    pub(super) pick: tokio::sync::Mutex<Option<Arc<Pick>>>,
}

/// What came so far.
#[derive(Default)]
pub(super) struct State {
    pub(super) toc: Option<Toc>,
    pub(super) definitions: Option<Arc<Definitions>>,
    pub(super) sequences: Vec<SequenceValue>,
    pub(super) large_objects: Vec<LargeObjectFacts>,
    /// Members and bytes still to come of each table.
    pub(super) remaining: BTreeMap<String, (usize, u64)>,
    /// Entries that are made, or being made.
    pub(super) made: BTreeSet<i64>,
}

impl Session {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.progress)
    }

    pub(super) async fn connection(&self, ctx: &OpContext) -> Result<PgConnection> {
        let idle = lock(&self.idle).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => {
                let mut connection = open_pinned(ctx, &self.place).await?;
                // What is lost in a crash is restored again: no commit of it needs to wait for the disk.
                connection.execute("SET synchronous_commit = off").await.map_err(reading)?;
                Ok(connection)
            }
        }
    }

    pub(super) fn give_back(&self, connection: PgConnection) {
        lock(&self.idle).push(connection);
    }

    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        for connection in idle {
            close(connection).await;
        }
        let questions = lock(&self.questions).take();
        if let Some(questions) = questions {
            questions.close().await;
        }
    }

    fn sealed(&self) -> Sealed {
        Sealed {
            name: self.place.database.clone(),
            database: self.plan.database.clone(),
            kept_as: self.plan.kept_as.clone(),
            owners: self.plan.owners,
            properties: self.source.database.clone(),
        }
    }

    pub(super) fn definitions(&self) -> Result<Arc<Definitions>> {
        self.state()
            .definitions
            .clone()
            .ok_or_else(|| Error::corrupt("the backup gave rows before it gave definitions"))
    }

    async fn write_definitions(&self, ctx: &OpContext, content: RestoreContent) -> Result<()> {
        let archive = self.scratch.path().join("schema.dump");
        spool(content, archive.clone()).await?;
        let toc = self
            .state()
            .toc
            .clone()
            .ok_or_else(|| Error::corrupt("the backup gave definitions before their map"))?;
        let definitions = Definitions::open(
            ctx,
            self.place.clone(),
            self.tools.clone(),
            archive,
            &toc,
            &self.plan,
            self.server_major,
        )
        .await?;
        definitions.before_data(ctx, &self.plan).await?;
        self.state().definitions = Some(Arc::new(definitions));
        if self.plan.tenant.is_some() {
            *self.pick.lock().await = Some(Arc::new(Pick::open(ctx, self).await?));
        }
        Ok(())
    }

    async fn write_rows(
        &self,
        ctx: &OpContext,
        table: &str,
        member: &MemberSpec,
        content: RestoreContent,
    ) -> Result<()> {
        let target = self.tables.get(table).ok_or_else(|| {
            Error::corrupt("the backup does not say which table a member is of").about(&member.name)
        })?;
        if let Some(pick) = self.picking().await {
            return pick.write(table, &target.columns, content).await;
        }
        let mut connection = self.connection(ctx).await?;
        rows::copy_in(&mut connection, target, content).await.map_err(|e| e.about(table))?;
        self.give_back(connection);
        let complete = {
            let mut state = self.state();
            match state.remaining.get_mut(table) {
                Some((members, bytes)) => {
                    *members = members.saturating_sub(1);
                    *members == 0 && *bytes >= EARLY_INDEX_BYTES
                }
                None => false,
            }
        };
        if complete {
            self.start_indexes(ctx, table).await?;
        }
        Ok(())
    }

    /// Builds a table's indexes while other tables are still coming in.
    async fn start_indexes(&self, ctx: &OpContext, table: &str) -> Result<()> {
        let definitions = self.definitions()?;
        let entries = definitions.early(table);
        if entries.is_empty() {
            return Ok(());
        }
        let mut background = self.background.lock().await;
        // One program for each index: several of one table are built at the same time.
        for entry in entries {
            self.state().made.insert(entry.0);
            let (ctx, definitions) = (ctx.clone(), Arc::clone(&definitions));
            let permits = Arc::clone(&self.background_permits);
            background.spawn(async move {
                let _permit = permits
                    .acquire_owned()
                    .await
                    .map_err(|e| Error::internal("the restore was closed").with_source(e))?;
                definitions.make(&ctx, &format!("index-{}", entry.0), &[entry]).await
            });
        }
        Ok(())
    }

    async fn picking(&self) -> Option<Arc<Pick>> {
        self.pick.lock().await.clone()
    }

    async fn join_background(&self) -> Result<()> {
        let mut background = self.background.lock().await;
        while let Some(done) = background.join_next().await {
            done.map_err(|e| Error::internal("building an index ended unexpectedly").with_source(e))??;
        }
        Ok(())
    }
}

#[async_trait]
impl RestoreSession for Session {
    fn stages(&self) -> Vec<Vec<usize>> {
        self.stages.clone()
    }

    async fn write(&self, ctx: &OpContext, member: &MemberSpec, content: RestoreContent) -> Result<()> {
        ctx.run(Box::pin(async {
            match (&member.table, member.name.as_str()) {
                (Some(table), _) => self.write_rows(ctx, table, member, content).await,
                (None, toc::MEMBER) => {
                    let toc = json(content, &member.name).await?;
                    self.state().toc = Some(toc);
                    Ok(())
                }
                (None, SCHEMA) => self.write_definitions(ctx, content).await,
                (None, SEQUENCES) => {
                    let sequences = json(content, &member.name).await?;
                    self.state().sequences = sequences;
                    Ok(())
                }
                (None, LARGE_OBJECT_LIST) => {
                    let objects = json(content, &member.name).await?;
                    self.state().large_objects = objects;
                    Ok(())
                }
                (None, LARGE_OBJECTS) => {
                    let mut connection = self.connection(ctx).await?;
                    rows::large_objects_in(ctx, &mut connection, content).await?;
                    self.give_back(connection);
                    Ok(())
                }
                _ => Err(Error::unsupported("the backup has a member that this version does not know")
                    .about(&member.name)
                    .with_hint("restore it with the version that made it, or a later one")),
            }
        }))
        .await
    }

    async fn finish(&self, ctx: &OpContext) -> Result<()> {
        ctx.run(self.join_background()).await?;
        if let (Some(pick), Some(tenant)) = (self.picking().await, &self.plan.tenant) {
            pick.settle(ctx, tenant).await?;
        }
        let definitions = self.definitions()?;
        let made = self.state().made.clone();
        definitions.after_data(ctx, &self.plan, &self.source.left_out, &made, self.jobs).await?;
        let mut connection = self.connection(ctx).await?;
        ctx.run(self.set_sequences(&mut connection)).await?;
        self.describe_large_objects(ctx, &mut connection).await?;
        self.refresh_views(ctx, &mut connection).await?;
        ctx.progress(Progress::Phase { name: "analyzing", total_bytes: None });
        self.analyze(ctx, &mut connection).await?;
        self.give_back(connection);
        Ok(())
    }

    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        let picked = match self.picking().await {
            Some(pick) => pick.compare(ctx, self.digest_key).await?,
            None => Vec::new(),
        };
        let mut comparison = compare::compare(
            ctx,
            &compare::Subject {
                client: &self.place,
                source: &self.source,
                plan: &self.plan,
                members: &self.tables,
                key: self.digest_key,
                jobs: self.jobs,
            },
            expected,
        )
        .await?;
        comparison.tables.extend(picked);
        Ok(comparison)
    }

    async fn statements(&self, _ctx: &OpContext) -> Result<Option<Arc<dyn QueryPort>>> {
        let mut questions = lock(&self.questions);
        let pool = questions.get_or_insert_with(|| engine_pool(&self.place));
        Ok(Some(Arc::new(PostgresQuery::new(self.place.clone(), pool.clone()))))
    }

    async fn keep(self: Box<Self>, ctx: &OpContext) -> Result<String> {
        if let Some(pick) = self.picking().await {
            pick.close().await;
        }
        self.close_idle().await;
        if self.plan.kind == Kind::Tables {
            return Err(Error::unsupported("tables in an existing database cannot be sealed")
                .with_hint("restore to a new database to keep it sealed"));
        }
        self.sealed().keep(ctx, &self.client).await
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        if let Some(pick) = self.picking().await {
            pick.close().await;
        }
        self.close_idle().await;
        if self.plan.kind == Kind::Tables {
            let location = self.client.on_database(&self.plan.database).location();
            return Ok(Restored { location, ..Restored::default() });
        }
        self.sealed().open(ctx, &self.client, &self.pool).await
    }

    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        self.background.lock().await.shutdown().await;
        if let Some(pick) = self.picking().await {
            pick.close().await;
        }
        self.close_idle().await;
        // Whoever cancelled the restore wants it gone all the same.
        let ctx = ctx.clone().with_cancellation(CancellationToken::new());
        if self.plan.kind == Kind::Tables {
            return self.undo_tables(&ctx).await;
        }
        let sealed = self.place.database.clone();
        let mut control = open_control(&ctx, &self.client, &[&sealed]).await?;
        place::drop_database(&mut control, &sealed, self.server_major).await?;
        close(control).await;
        Ok(())
    }
}
