//! A restore under way.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::DateTime;
use dm_core::{
    BlockStream, CheckDepth, Comparison, ConsistencyPoint, Effect, Error, ErrorKind, Finding, Level,
    LogReader, MemberSpec, OpContext, Progress, QueryPort, RecoveryPoint, RestoreContent, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, Restored, Result, TableFacts,
};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::files::{Files, tablespace_map};
use super::marker::{self, Marker, Stage};
use super::place::{self, Durability, Standing};
use super::plan::{Plan, Way, beside};
use super::points::LogPlan;
use super::programs::Programs;
use super::recovery::{self, Control};
use super::server::Sealed;
use super::source::{Part, Source};
use super::wal::lsn;
use super::{check, log_files, opening, tablespaces, tail};
use crate::PostgresOptions;
use crate::client::Client;
use crate::engine::pool;
use crate::error::reading;
use crate::query::PostgresQuery;
use crate::session::{close, open};

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

/// Makes the place.
pub(super) async fn open_place(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Session> {
    let source = Source::read(manifest)?;
    let plan = Plan::load(preview)?;
    if let Some(finding) = preview.findings.iter().find(|f| f.level == Level::Error) {
        let error = Error::invalid(finding.message.clone()).about(preview.location.clone());
        return Err(match &finding.mend {
            Some(mend) => error.with_hint(mend.clone()),
            None => error,
        });
    }
    // The preview may be old.
    let standing = place::standing(&plan.destination)?;
    if let Standing::Cluster { running: Some(pid), .. } = &standing {
        return Err(Error::new(ErrorKind::Busy, format!("a server runs there (process {pid})"))
            .about(preview.location.clone())
            .with_hint("stop it first"));
    }
    let expected = match plan.way {
        Way::Beside => !standing.is_occupied() || plan.kept_as.is_some(),
        Way::Within => standing == Standing::Empty,
        Way::Delta => {
            matches!(&standing, Standing::Cluster { system_identifier: Some(id), .. } if *id == source.system_identifier)
        }
    };
    if !expected {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "the destination has changed since the plan was made",
        )
        .about(preview.location.clone())
        .with_hint("make the plan again"));
    }
    let data = match plan.way {
        Way::Beside => beside(&plan.destination, &format!(".dm-restore-{}", short_id(ctx))),
        Way::Within | Way::Delta => plan.destination.clone(),
    };
    let user = plan.user.as_ref();
    place::make_folder(&data, user, plan.way != Way::Beside)?;
    place::make_folder(&data.join(marker::FOLDER), user, true)?;
    Marker::new(plan.clone(), source.system_identifier.clone(), source.segment_bytes).write(&data)?;
    if plan.way == Way::Delta {
        // Without it no server takes the directory for a cluster; it comes back last.
        place::remove_file(&data.join("global/pg_control"))?;
        place::sync_parent(&data.join("global/pg_control"))?;
    }
    for folder in plan.tablespaces.values() {
        place::make_folders(folder, user)?;
        place::make_folder(folder, user, true)?;
    }
    let durability = Durability::of(
        std::iter::once(data.as_path()).chain(plan.tablespaces.values().map(PathBuf::as_path)),
    )?;
    let sizes: HashMap<String, u64> =
        manifest.members.iter().map(|(s, size)| (s.name.clone(), *size)).collect();
    let files = Files::new(data.clone(), plan.tablespaces.clone(), plan.user.clone(), sizes);
    Ok(Session {
        options: client.options.clone(),
        database: client.database.clone(),
        roles: vec!["postgres".to_owned(), client.user().to_owned()],
        stages: stages(manifest),
        source,
        log: request.log.clone(),
        checks: request.checks,
        jobs: request.jobs.max(1),
        data,
        files,
        durability,
        server: tokio::sync::Mutex::new(None),
        state: Mutex::default(),
        plan,
    })
}

/// The run's id, short. Its end: the beginning of a UUIDv7 is the time.
fn short_id(ctx: &OpContext) -> String {
    let id = ctx.run_id().as_uuid().simple().to_string();
    id.get(id.len() - 8..).unwrap_or(&id).to_owned()
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

    /// What stands in the directory besides the members.
    async fn complete(&self, ctx: &OpContext) -> Result<()> {
        if self.plan.way == Way::Delta {
            self.files.prune(ctx)?;
        }
        let standby = self.data.join("standby.signal");
        if standby.exists() {
            self.note("the backup was made on a standby; the restored cluster is none");
        }
        place::remove_file(&standby)?;
        self.files.put("recovery.signal", b"")?;
        for file in &self.source.outside {
            match &file.member {
                Some(member) => self.note(format!(
                    "the source keeps {} at {}; the copy is {}",
                    file.name,
                    file.path,
                    self.plan
                        .destination
                        .join(super::files::OUTSIDE)
                        .join(member.trim_start_matches("outside/"))
                        .display()
                )),
                None => self.note(format!(
                    "the source keeps {} at {}, which the backup could not read",
                    file.name, file.path
                )),
            }
        }
        if !self.data.join("postgresql.conf").exists() {
            let control = match &self.plan.programs {
                Some(programs) => Some(Control::read(ctx, programs, &self.plan, &self.data).await?),
                None => None,
            };
            self.files
                .put("postgresql.conf", recovery::minimal_configuration(control.as_ref()).as_bytes())?;
            self.note("postgresql.conf is a minimal one; take over what you need of the source's");
        }
        if !self.data.join("pg_hba.conf").exists() {
            self.files.put("pg_hba.conf", recovery::MINIMAL_HBA.as_bytes())?;
            self.note("pg_hba.conf lets in local users alone; take over the source's rules");
        }
        marker::seal(&self.data, &self.plan)?;
        if let (Some(log), Some(plan)) = (&self.log, self.plan.log.clone()) {
            let mut plan = plan;
            if self.plan.restore_command.is_some() {
                plan.pieces.clear();
            }
            let user = self.plan.user.as_ref();
            log_files::write(ctx, &self.source, log.as_ref(), &plan, &self.data, user, self.jobs).await?;
            self.search_tablespaces(ctx, &plan).await?;
        }
        Ok(())
    }

    /// Refuses a log that would write into what somebody else has on this machine.
    async fn search_tablespaces(&self, ctx: &OpContext, log: &LogPlan) -> Result<()> {
        let Some(programs) = self.plan.programs.as_ref().filter(|p| p.has("pg_waldump")) else {
            self.note("nobody looked for tablespaces in the log: one made after the backup is made where the source has it");
            return Ok(());
        };
        let segment_bytes = self.source.segment_bytes;
        let made =
            tablespaces::made_by_the_log(ctx, programs, &self.plan, log, &self.data, segment_bytes).await?;
        for (oid, path) in made {
            self.note(format!("the log makes the tablespace {oid} at {}, as on the source", path.display()));
        }
        Ok(())
    }

    async fn start(
        &self,
        ctx: &OpContext,
        programs: &Programs,
        more: Vec<(String, String)>,
    ) -> Result<Result<(), super::server::Trouble>> {
        let mut settings = recovery::quiet(self.source.major, self.plan.libraries.as_deref());
        let control = Control::read(ctx, programs, &self.plan, &self.data).await?;
        // At least what the source had: less would stop the recovery.
        settings.extend(control.limits().into_iter().map(|(n, v)| (n.to_owned(), v)));
        settings.extend(more);
        let mut running = self.server.lock().await;
        let server = running
            .insert(Sealed::start(ctx, programs, self.plan.user.as_ref(), &self.data, &settings).await?);
        let answer = server.ready(ctx).await?;
        if answer.is_err() {
            *running = None;
        }
        Ok(answer)
    }

    /// Replays the log up to the point.
    async fn recover(&self, ctx: &OpContext, programs: &Programs) -> Result<()> {
        let total = self.plan.log.as_ref().map(|l| l.upto.saturating_sub(self.source.start.offset));
        ctx.progress(Progress::Phase { name: "recovering", total_bytes: total });
        let target = recovery::target(&self.plan, &self.data, true);
        let mut whole = self.plan.until == RecoveryPoint::End;
        if let Err(trouble) = self.start(ctx, programs, target).await? {
            // Nothing was committed behind an instant or a position up to which the log is known to be whole: its end
            // is the point. PostgreSQL cannot know that.
            let known = matches!(self.plan.until, RecoveryPoint::Time(_) | RecoveryPoint::Position(_))
                && self.plan.restore_command.is_none();
            if !trouble.ended_early || !known {
                return Err(trouble.error);
            }
            whole = true;
            let target = recovery::target(&self.plan, &self.data, false);
            self.start(ctx, programs, target).await?.map_err(|t| t.error)?;
        }
        self.state().recovered = true;
        self.look(ctx, whole).await
    }

    /// Where recovery came to.
    async fn look(&self, ctx: &OpContext, whole: bool) -> Result<()> {
        let client = self.client(ctx, None).await?;
        let mut connection = open(ctx, &client).await?;
        let (segment, last): (String, Option<i64>) = ctx
            .run(async {
                sqlx::query_as(
                    "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),
                            (pg_catalog.date_part('epoch', pg_catalog.date_trunc('second', t)) * 1000000
                             + pg_catalog.date_part('microseconds', t)::int8 % 1000000)::int8
                       FROM pg_catalog.pg_last_xact_replay_timestamp() t",
                )
                .fetch_one(&mut connection)
                .await
                .map_err(reading)
            })
            .await?;
        let elsewhere: Vec<(String, String)> = ctx
            .run(async {
                sqlx::query_as(
                    "SELECT DISTINCT ON (name) name, setting FROM pg_catalog.pg_file_settings
                      WHERE name IN ('data_directory', 'hba_file', 'ident_file', 'archive_command', 'external_pid_file', 'port')
                        AND sourcefile NOT LIKE '%/postgresql.auto.conf' AND setting <> ''
                      ORDER BY name, seqno DESC",
                )
                .fetch_all(&mut connection)
                .await
                .map_err(reading)
            })
            .await?;
        close(connection).await;
        for (name, value) in elsewhere {
            match name.as_str() {
                "port" => {}
                "archive_command" => self.note(format!(
                    "archive_command is the source's ({value}): give the restored cluster a place of its own before it starts"
                )),
                _ => self.note(format!("postgresql.conf sets {name} to the source's {value}: change it before the cluster starts")),
            }
        }
        let timeline = segment
            .get(..8)
            .and_then(|t| u32::from_str_radix(t, 16).ok())
            .ok_or_else(|| Error::internal("the restored server does not tell its timeline"))?;
        let (parent, position) = recovery::branch(&self.data, timeline)?
            .ok_or_else(|| Error::internal("the restored server is on no timeline of its own"))?;
        if let (true, Some(log), Some(plan)) = (whole, &self.log, &self.plan.log)
            && self.plan.restore_command.is_none()
        {
            tail::check(ctx, log.as_ref(), plan, parent, position, self.source.segment_bytes).await?;
        }
        self.state().reached = Some(ConsistencyPoint {
            at: last.and_then(DateTime::from_timestamp_micros).unwrap_or(self.source.stop_at),
            position: Some(lsn(position)),
            timeline: Some(parent.to_string()),
        });
        Ok(())
    }

    /// A connection to the sealed server, which is started again when it was stopped for a check.
    async fn client(&self, ctx: &OpContext, database: Option<&str>) -> Result<Client> {
        let programs =
            self.programs().ok_or_else(|| Error::unsupported("nothing runs on the restored files"))?;
        if self.server.lock().await.is_none() {
            self.start(ctx, programs, Vec::new()).await?.map_err(|t| t.error)?;
        }
        let role = self.role(ctx).await?;
        let running = self.server.lock().await;
        let server = running.as_ref().ok_or_else(|| Error::internal("the restored server is gone"))?;
        Ok(server.client(&role, database.unwrap_or("template1"), &self.options))
    }

    /// A superuser who may log in: whoever connects finds all of them.
    async fn role(&self, ctx: &OpContext) -> Result<String> {
        if let Some(role) = self.state().role.clone() {
            return Ok(role);
        }
        let running = self.server.lock().await;
        let server = running.as_ref().ok_or_else(|| Error::internal("the restored server is gone"))?;
        let own = self.plan.user.as_ref().map(|u| u.name.clone());
        let candidates = self.roles.iter().cloned().chain(own);
        let mut refused = None;
        for candidate in candidates {
            let client = server.client(&candidate, "template1", &self.options);
            let mut connection = match open(ctx, &client).await {
                Ok(connection) => connection,
                Err(error) => {
                    ctx.check()?;
                    refused = Some(error);
                    continue;
                }
            };
            let found: Option<String> = ctx
                .run(async {
                    sqlx::query_scalar(
                        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1",
                    )
                    .fetch_optional(&mut connection)
                    .await
                    .map_err(reading)
                })
                .await?;
            close(connection).await;
            if let Some(role) = found {
                self.state().role = Some(role.clone());
                return Ok(role);
            }
        }
        let error =
            Error::new(ErrorKind::Denied, "no superuser of the restored cluster is known who may log in");
        Err(match refused {
            Some(refused) => error.with_source(refused),
            None => error,
        })
    }

    async fn stop(&self, ctx: &OpContext) -> Result<()> {
        let pools = std::mem::take(&mut self.state().pools);
        for pool in pools {
            pool.close().await;
        }
        match self.server.lock().await.take() {
            Some(server) => server.stop(ctx).await,
            None => Ok(()),
        }
    }

    /// Every page against its checksum, which needs a server that is down.
    async fn checksums(&self, ctx: &OpContext, programs: &Programs) -> Result<Finding> {
        if !self.source.checksums {
            return Ok(Finding::new(Level::Info, "checksums", "the cluster has no page checksums"));
        }
        if !programs.has("pg_checksums") {
            return Ok(Finding::new(
                Level::Warning,
                "checksums",
                "there is no pg_checksums to verify the pages with",
            )
            .with_mend("install all of the server's programs"));
        }
        self.stop(ctx).await?;
        let data = self.data.as_os_str();
        let arguments = ["--check".as_ref(), "-D".as_ref(), data];
        let finished = programs.run(ctx, "pg_checksums", self.plan.user.as_ref(), arguments).await?;
        let said = String::from_utf8_lossy(&finished.stdout).into_owned();
        let number = |name: &str| {
            said.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned())).unwrap_or_default()
        };
        Ok(match finished.success {
            true => Finding::new(
                Level::Ok,
                "checksums",
                format!("{} blocks have their checksum", number("Blocks scanned:")),
            ),
            false => {
                let first = finished.stderr.lines().next().unwrap_or_default().to_owned();
                Finding::new(
                    Level::Error,
                    "checksums",
                    format!("{} blocks do not have their checksum: {first}", number("Bad checksums:")),
                )
                .with_mend("restore another backup")
            }
        })
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
            checks.push(Box::pin(self.checksums(ctx, programs)).await?);
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
        remove(&self.data, &self.plan)
    }
}

/// Removes what a restore made.
fn remove(data: &Path, plan: &Plan) -> Result<()> {
    match plan.way {
        Way::Beside => place::remove_tree(data)?,
        Way::Within => place::empty_folder(data)?,
        Way::Delta => {
            // What was there before cannot come back; a repeated restore goes on from here.
            place::remove_file(&data.join("global/pg_control"))?;
            return Err(Error::new(
                ErrorKind::Partial,
                "the data directory was partly overwritten and cannot be started",
            )
            .about(data.display().to_string())
            .with_effect(Effect::Partial)
            .with_hint("restore over it again, or remove it"));
        }
    }
    for folder in plan.tablespaces.values() {
        place::remove_tree(folder)?;
    }
    // The folder around them, when it was made for them and is empty now.
    let base = beside(&plan.destination, "_tablespaces");
    if plan.tablespaces.values().any(|t| t.starts_with(&base)) {
        place::remove_empty(&base)?;
    }
    Ok(())
}
