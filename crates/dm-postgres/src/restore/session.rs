//! A restore under way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use dm_core::{
    Comparison, Error, ErrorKind, MemberSpec, OpContext, Progress, RestoreContent, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, Restored, Result, TableFacts,
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::definitions::Definitions;
use super::plan::{Kind, Plan, Source, TableMember, table_members};
use super::{PostgresRestore, compare, place, rows};
use crate::backup::toc::{self, Toc};
use crate::backup::{
    LARGE_OBJECT_LIST, LARGE_OBJECTS, LargeObjectFacts, SCHEMA, SEQUENCES, SequenceValue, scratch_failed,
};
use crate::catalog;
use crate::client::Client;
use crate::error::{reading, writing};
use crate::session::{close, open_control, open_pinned};
use crate::sql::{dynamic, qualified, quote_ident, quote_literal};
use crate::tools::ClientTools;

/// A table below this size has its indexes built at the end with the others: starting a program costs more.
const EARLY_INDEX_BYTES: u64 = 8 << 20;

/// An open restore.
pub(super) struct Session {
    /// The server, on the place that is written to.
    place: Client,
    /// The server, on the engine's own database.
    client: Client,
    pool: PgPool,
    plan: Plan,
    source: Source,
    server_major: u32,
    tools: ClientTools,
    tables: BTreeMap<String, TableMember>,
    stages: Vec<Vec<usize>>,
    jobs: usize,
    digest_key: [u8; 32],
    scratch: tempfile::TempDir,
    idle: Mutex<Vec<PgConnection>>,
    progress: Mutex<State>,
    background: tokio::sync::Mutex<JoinSet<Result<()>>>,
    background_permits: Arc<Semaphore>,
}

/// What came so far.
#[derive(Default)]
struct State {
    toc: Option<Toc>,
    definitions: Option<Arc<Definitions>>,
    sequences: Vec<SequenceValue>,
    large_objects: Vec<LargeObjectFacts>,
    /// Members and bytes still to come of each table.
    remaining: BTreeMap<String, (usize, u64)>,
    /// Entries that are made, or being made.
    made: BTreeSet<i64>,
}

/// Makes the place.
pub(super) async fn open(
    ctx: &OpContext,
    target: &PostgresRestore,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Session> {
    let client = target.client.clone();
    let source = Source::read(manifest)?;
    let plan = Plan::load(preview)?;
    let tables = table_members(manifest)?;
    let tools = ClientTools::at_least(ctx, &client, source.tool_major, "pg_restore").await?;
    let scratch = match &request.scratch_dir {
        Some(folder) => tempfile::Builder::new().prefix("dm-").tempdir_in(folder),
        None => tempfile::Builder::new().prefix("dm-").tempdir(),
    }
    .map_err(scratch_failed)?;
    let mut remaining: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (spec, size) in preview.members.iter().filter_map(|i| manifest.members.get(*i)) {
        if let Some(table) = &spec.table {
            let (members, bytes) = remaining.entry(table.clone()).or_default();
            *members += 1;
            *bytes += size;
        }
    }
    let stages = stages(manifest, preview, &remaining);
    let mut control = open_control(ctx, &client, &[]).await?;
    let server_major = catalog::version(&mut control).await?.major;
    let place = match plan.kind {
        Kind::Tables => client.clone(),
        Kind::Database => {
            if plan.kept_as.is_none() && place::exists(&mut control, &plan.database).await? {
                return Err(taken(&plan.database));
            }
            let id = ctx.run_id().as_uuid().simple().to_string();
            let unique = uuid_tail(&id);
            let name = free_name(&mut control, &format!("dm_restore_{unique}")).await?;
            place::create(&mut control, &name, &source, server_major).await?;
            client.on_database(&name)
        }
    };
    close(control).await;
    let jobs = request.jobs.max(1);
    Ok(Session {
        place,
        client,
        pool: target.pool.clone(),
        plan,
        source,
        server_major,
        tools,
        tables,
        stages,
        jobs,
        digest_key: request.digest_key,
        scratch,
        idle: Mutex::default(),
        progress: Mutex::new(State { remaining, ..State::default() }),
        background: tokio::sync::Mutex::default(),
        background_permits: Arc::new(Semaphore::new(jobs)),
    })
}

fn taken(database: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("the database {database} exists and is not empty"))
        .with_hint("name another database, drop it first, or restore in place")
}

fn uuid_tail(id: &str) -> &str {
    id.get(id.len().saturating_sub(12)..).unwrap_or(id)
}

/// The name, or the first of `name_2`, `name_3` ... that is free: an earlier place of the same run may have been left.
async fn free_name(control: &mut PgConnection, name: &str) -> Result<String> {
    let mut candidate = name.to_owned();
    let mut n = 1;
    while place::exists(control, &candidate).await? {
        n += 1;
        candidate = format!("{name}_{n}");
    }
    Ok(candidate)
}

/// The map, the definitions, then rows and all else: largest tables first, so that their indexes start early.
fn stages(
    manifest: &RestoreManifest,
    preview: &RestorePreview,
    tables: &BTreeMap<String, (usize, u64)>,
) -> Vec<Vec<usize>> {
    let (mut first, mut second, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for index in preview.members.iter().copied() {
        match manifest.members.get(index).map(|(spec, _)| spec.name.as_str()) {
            Some(toc::MEMBER) => first.push(index),
            Some(SCHEMA) => second.push(index),
            _ => rest.push(index),
        }
    }
    rest.sort_by_key(|index| {
        let member = manifest.members.get(*index);
        let table = member.and_then(|(spec, _)| spec.table.clone());
        let whole = table.as_ref().and_then(|t| tables.get(t)).map_or(0, |(_, bytes)| *bytes);
        (std::cmp::Reverse(whole), table, *index)
    });
    vec![first, second, rest]
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self, ctx: &OpContext) -> Result<PgConnection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
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

    fn give_back(&self, connection: PgConnection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            close(connection).await;
        }
    }

    fn definitions(&self) -> Result<Arc<Definitions>> {
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
        if complete && !self.plan.existing.contains(table) {
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

    async fn join_background(&self) -> Result<()> {
        let mut background = self.background.lock().await;
        while let Some(done) = background.join_next().await {
            done.map_err(|e| Error::internal("building an index ended unexpectedly").with_source(e))??;
        }
        Ok(())
    }

    /// Sequences: of single tables only those that were made with them.
    async fn set_sequences(&self, connection: &mut PgConnection) -> Result<()> {
        let sequences = std::mem::take(&mut self.state().sequences);
        let made: Option<BTreeSet<(String, String)>> = match &self.plan.tables {
            None => None,
            Some(tables) => {
                let there = catalog::relations(connection).await?;
                let owners: BTreeSet<i64> = there
                    .iter()
                    .filter(|r| tables.contains(&r.display) && !self.plan.existing.contains(&r.display))
                    .map(|r| r.oid)
                    .collect();
                let ours = |r: &&catalog::Relation| match r.owned_by {
                    Some(table) => owners.contains(&table),
                    None => self.plan.kind == Kind::Database,
                };
                Some(there.iter().filter(ours).map(|r| (r.schema.clone(), r.name.clone())).collect())
            }
        };
        for value in sequences {
            if made.as_ref().is_some_and(|m| !m.contains(&(value.schema.clone(), value.name.clone()))) {
                continue;
            }
            sqlx::query("SELECT pg_catalog.setval($1::text::pg_catalog.regclass, $2, $3)")
                .bind(qualified(&value.schema, &value.name))
                .bind(value.last_value)
                .bind(value.is_called)
                .execute(&mut *connection)
                .await
                .map_err(|e| writing(e).about(format!("{}.{}", value.schema, value.name)))?;
        }
        Ok(())
    }

    async fn describe_large_objects(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        let objects = std::mem::take(&mut self.state().large_objects);
        let known: BTreeSet<String> =
            sqlx::query_scalar::<_, String>("SELECT rolname::text FROM pg_catalog.pg_roles")
                .fetch_all(&mut *connection)
                .await
                .map_err(reading)?
                .into_iter()
                .collect();
        for object in objects {
            ctx.check()?;
            let name = format!("LARGE OBJECT {}", object.oid);
            let mut commands = Vec::new();
            if let Some(comment) = &object.comment {
                commands.push(format!("COMMENT ON {name} IS {}", quote_literal(comment)));
            }
            if self.plan.privileges {
                for grant in object.grants {
                    let to = match grant.grantee {
                        None => "PUBLIC".to_owned(),
                        Some(role) if known.contains(&role) => quote_ident(&role),
                        Some(_) => continue,
                    };
                    if let "SELECT" | "UPDATE" = grant.privilege.as_str() {
                        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                        commands.push(format!("GRANT {} ON {name} TO {to}{option}", grant.privilege));
                    }
                }
            }
            if self.plan.owners && known.contains(&object.owner) {
                commands.push(format!("ALTER {name} OWNER TO {}", quote_ident(&object.owner)));
            }
            if !commands.is_empty() {
                place::command(connection, commands.join("; ")).await?;
            }
        }
        Ok(())
    }

    async fn refresh_views(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        if self.plan.tables.is_some() {
            return Ok(());
        }
        for (schema, name) in &self.source.materialised_views {
            let view = qualified(schema, name);
            ctx.run(place::command(connection, format!("REFRESH MATERIALIZED VIEW {view}")))
                .await
                .map_err(|e| e.about(view.clone()))?;
        }
        Ok(())
    }

    async fn analyze(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        let text = match (&self.plan.tables, self.plan.kind) {
            (Some(tables), Kind::Tables) => {
                let names: Vec<String> = tables
                    .iter()
                    .filter_map(|t| self.tables.get(t))
                    .map(|m| qualified(&m.schema, &m.name))
                    .collect();
                format!("ANALYZE {}", names.join(", "))
            }
            _ => "ANALYZE".to_owned(),
        };
        ctx.run(async { connection.execute(sqlx::raw_sql(dynamic(text))).await.map(drop).map_err(writing) })
            .await
    }

    /// Removes tables that were made in an existing database, and empties those that were empty.
    async fn undo_tables(&self, ctx: &OpContext) -> Result<()> {
        let mut connection = open_pinned(ctx, &self.place).await?;
        for table in self.plan.tables.iter().flatten() {
            let Some(member) = self.tables.get(table) else { continue };
            let name = qualified(&member.schema, &member.name);
            let text = match self.plan.existing.contains(table) {
                true => format!("TRUNCATE ONLY {name}"),
                false => format!("DROP TABLE IF EXISTS {name} CASCADE"),
            };
            place::command(&mut connection, text).await.map_err(|e| e.about(table))?;
        }
        close(connection).await;
        Ok(())
    }
}

/// Writes content to a file.
async fn spool(mut content: RestoreContent, path: PathBuf) -> Result<()> {
    let mut file = tokio::fs::File::create(&path).await.map_err(scratch_failed)?;
    while let Some(block) = content.next().await {
        file.write_all(&block?.bytes).await.map_err(scratch_failed)?;
    }
    file.flush().await.map_err(scratch_failed)
}

/// Reads a small member of JSON.
async fn json<T: DeserializeOwned>(mut content: RestoreContent, name: &str) -> Result<T> {
    let mut bytes = Vec::new();
    while let Some(block) = content.next().await {
        bytes.extend_from_slice(&block?.bytes);
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::corrupt("a member is not what it should be").about(name).with_source(e))
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
        compare::compare(
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
        .await
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        self.close_idle().await;
        let location = self.client.on_database(&self.plan.database).location();
        if self.plan.kind == Kind::Tables {
            return Ok(Restored { location, ..Restored::default() });
        }
        let sealed = self.place.database.clone();
        let name = &self.plan.database;
        let mut control = open_control(ctx, &self.client, &[&sealed, name]).await?;
        place::vacate(ctx, &mut control, &self.pool, &sealed).await.map_err(|e| kept(e, &sealed))?;
        let mut kept_as = self.plan.kept_as.as_deref();
        match (place::exists(&mut control, name).await?, kept_as.is_some()) {
            (true, true) => {
                place::vacate(ctx, &mut control, &self.pool, name).await.map_err(|e| kept(e, &sealed))?;
            }
            (true, false) => return Err(kept(taken(name), &sealed)),
            (false, _) => kept_as = None,
        }
        place::unseal(&mut control, &sealed, name, kept_as, &self.source, self.plan.owners)
            .await
            .map_err(|e| kept(e, &sealed))?;
        close(control).await;
        let previous = kept_as.map(|k| self.client.on_database(k).location());
        Ok(Restored { location, previous, ..Restored::default() })
    }

    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        self.background.lock().await.shutdown().await;
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

/// Names the sealed database that an error leaves behind.
fn kept(error: Error, sealed: &str) -> Error {
    let hint = match error.hint() {
        Some(hint) => format!("{hint}; the restored database is kept, closed to others, as {sealed}"),
        None => format!("the restored database is kept, closed to others, as {sealed}"),
    };
    error.with_hint(hint)
}
