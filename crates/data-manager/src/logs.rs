//! Logs: ship, push, fetch, status, and giving up what holds the log on the server.
//!
//! `ship` and `drop_holder` go through the pipeline like every change: an intent before, an outcome after; the pieces of a
//! shipping are counted in its report, not audited one by one. `push` and `fetch` are what a database server calls for each
//! file of its log, also while it starts or stops and nothing else answers: they are authorised like everything, need the
//! repository alone, and leave a line in the audit trail only when they are denied or fail, and only if the state store
//! answers at once. What they did is in the program's log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dm_backup::{BackupService, Fetched, LogStatusReport, PushReport, ShipReport, TargetLog};
use dm_core::{BackupMode, Engine, EngineId, Error, ErrorKind, LogSource, OpContext, Result, TargetName};
use serde::Serialize;

use crate::DataManager;
use crate::operations::OperationKind;
use crate::pipeline::Operation;

use std::sync::Arc;

const SHIP: OperationKind = OperationKind::LogShip;
const PUSH: OperationKind = OperationKind::LogPush;
const FETCH: OperationKind = OperationKind::LogFetch;
const STATUS: OperationKind = OperationKind::LogStatus;
const DROP: OperationKind = OperationKind::LogDropSlot;

/// What a setting of no time at all becomes: longer than anybody waits.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What to ship, and how. The default: the log of the only engine, as `[log]` of the configuration says, without end.
#[derive(Clone, Debug, Default)]
pub struct ShipLogOptions {
    /// The engine; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target; the one of the engine's physical backups when `None`.
    pub target: Option<TargetName>,
    /// The replication slot; the configuration's when `None`.
    pub holder: Option<String>,
    /// The longest that log waits before it is sealed; the configuration's when `None`.
    pub seal_every: Option<Duration>,
    /// How often the server is asked; the configuration's when `None`.
    pub poll: Option<Duration>,
    /// Ends when everything is shipped that the server had at the beginning.
    pub once: bool,
}

/// One file of an archive command (`archive_command = 'dm-log push %p'`).
#[derive(Clone, Debug, Default)]
pub struct PushLogOptions {
    /// The engine; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target; the one of the engine's physical backups when `None`.
    pub target: Option<TargetName>,
    /// The file (`%p`).
    pub path: PathBuf,
}

/// One file for a restore command (`restore_command = 'dm-log fetch %f %p'`).
#[derive(Clone, Debug, Default)]
pub struct FetchLogOptions {
    /// The engine; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target; the one of the engine's physical backups when `None`.
    pub target: Option<TargetName>,
    /// Whose log, where the target has those of several servers (PostgreSQL: the system identifier).
    pub stream: Option<String>,
    /// The file's name (`%f`).
    pub name: String,
    /// Where it is wanted (`%p`).
    pub destination: PathBuf,
}

/// What became of a holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedHolder {
    /// The engine.
    pub engine: EngineId,
    /// The replication slot.
    pub holder: String,
    /// Whether there was one.
    pub existed: bool,
}

/// The logs of a [`DataManager`].
#[derive(Clone, Copy, Debug)]
pub struct Logs<'a> {
    pub(crate) dm: &'a DataManager,
}

impl Logs<'_> {
    /// Ships the log of a server into the repository, which is made when it is not there. Without
    /// [`once`](ShipLogOptions::once) it goes on until the context is cancelled, and that is no error.
    ///
    /// Progress comes as [`Progress::Log`](dm_core::Progress::Log) and warnings. A report with alarms asks for a new base
    /// backup.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::ship_log`]; `Unsupported` for an engine without a log.
    ///
    /// # Cancellation
    /// Safe at any point; whoever ships next goes on where the repository's log ends.
    pub async fn ship(&self, ctx: &OpContext, options: &ShipLogOptions) -> Result<ShipReport> {
        let (engine, target) = self.place(options.engine.as_ref(), options.target.as_ref())?;
        let config = &self.dm.config.log;
        let mut ship = dm_backup::ShipOptions::of(target);
        if options.once {
            ship = ship.once();
        }
        ship.holder = options.holder.clone().unwrap_or_else(|| config.slot.clone());
        ship.seal_every = options.seal_every.or(config.seal_every).unwrap_or(NEVER);
        ship.poll = options.poll.or(config.poll).unwrap_or(ship.seal_every);
        let details = serde_json::json!({
            "engine": engine.id().as_str(), "holder": ship.holder, "once": ship.once,
        });
        let operation = Operation::new(SHIP, ship.target.as_str()).with_details(details);
        let work = async {
            let source = source_of(engine.as_ref())?;
            // A server that cannot be reached should not leave an empty repository behind.
            engine.version(ctx).await?;
            self.dm.backups_or_new(ctx).await?.ship_log(ctx, source.as_ref(), &ship).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Puts one file of the server's log into the repository. `Ok` means durable: the server may remove its own. Idempotent.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::push_log`]; `NotFound` without a repository.
    pub async fn push(&self, ctx: &OpContext, options: &PushLogOptions) -> Result<PushReport> {
        let (engine, target) = self.place(options.engine.as_ref(), options.target.as_ref())?;
        let operation = Operation::new(PUSH, target.as_str())
            .with_details(serde_json::json!({ "file": file_name(&options.path) }));
        let work = async {
            let source = source_of(engine.as_ref())?;
            let opened = self.dm.repository.open_for_log(ctx).await;
            let repository = opened.map_err(|error| self.dm.places.point_elsewhere(error))?;
            let service = BackupService::new(repository);
            service.push_log(ctx, source.as_ref(), &target, &options.path).await
        };
        self.dm.operate_alone(ctx, operation, work).await
    }

    /// Writes the file of a name to its destination. A program that answers a restore command must end with 1 for
    /// [`Fetched::NotThere`] and above 128 for every error: PostgreSQL takes everything between for the end of the log, and
    /// opens for writing.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::fetch_log`].
    pub async fn fetch(&self, ctx: &OpContext, options: &FetchLogOptions) -> Result<Fetched> {
        let (engine, target) = self.place(options.engine.as_ref(), options.target.as_ref())?;
        let operation =
            Operation::new(FETCH, target.as_str()).with_details(serde_json::json!({ "file": options.name }));
        let work = async {
            let source = source_of(engine.as_ref())?;
            let service = self.dm.backups(ctx).await?;
            let (stream, name) = (options.stream.as_deref(), &options.name);
            service.fetch_log(ctx, source.as_ref(), &target, stream, name, &options.destination).await
        };
        self.dm.operate_alone(ctx, operation, work).await
    }

    /// How shipping stands, of one target or of every engine that has a log: what is covered, gaps, how far behind the
    /// server.
    ///
    /// # Errors
    /// `NotFound` without a repository; `Unreachable`, `Denied`. A server that does not answer is part of the report.
    pub async fn status(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<LogStatusReport> {
        let work = async {
            let mut places = Vec::new();
            match target {
                Some(target) => places.push(self.place(None, Some(target))?),
                None => {
                    for engine in self.dm.engines().filter(|e| e.log().is_some()) {
                        places.push(self.place(Some(engine.id()), None)?);
                    }
                }
            }
            let mut targets = Vec::new();
            for (engine, target) in places {
                targets.push(self.dm.log_of(ctx, engine.as_ref(), &target).await?);
            }
            Ok(LogStatusReport { targets, at: ctx.now() })
        };
        let of = target.map_or("*", TargetName::as_str);
        self.dm.operate(ctx, Operation::new(STATUS, of), work).await
    }

    /// Gives up what holds the log on the server: the server then removes log that was not shipped.
    ///
    /// # Errors
    /// `Busy` while somebody ships through it; `Unreachable`, `Denied`, `Unsupported`.
    pub async fn drop_holder(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        holder: Option<&str>,
    ) -> Result<DroppedHolder> {
        let engine = self.dm.engine(engine)?;
        let holder = holder.unwrap_or(&self.dm.config.log.slot).to_owned();
        let operation =
            Operation::new(DROP, engine.id().as_str()).with_details(serde_json::json!({ "holder": holder }));
        let work = async {
            let existed = source_of(engine.as_ref())?.drop_holder(ctx, &holder).await?;
            Ok(DroppedHolder { engine: engine.id().clone(), holder: holder.clone(), existed })
        };
        self.dm.operate(ctx, operation, work).await
    }

    fn place(
        &self,
        engine: Option<&EngineId>,
        target: Option<&TargetName>,
    ) -> Result<(Arc<dyn Engine>, TargetName)> {
        self.dm.engine_and_target(engine, target, Some(BackupMode::Physical))
    }
}

impl DataManager {
    /// Logs: ship, push, fetch, status.
    #[must_use]
    pub fn logs(&self) -> Logs<'_> {
        Logs { dm: self }
    }

    /// How the log of a target stands.
    pub(crate) async fn log_of(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        target: &TargetName,
    ) -> Result<TargetLog> {
        let source = engine.log();
        let source = source.as_deref().map(|source| (source, self.config.log.slot.as_str()));
        self.backups(ctx).await?.log_status(ctx, target, source).await
    }
}

fn source_of(engine: &dyn Engine) -> Result<Arc<dyn LogSource>> {
    engine.log().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("{} databases have no log to ship", engine.kind()))
            .on_engine(engine.kind())
            .with_hint("take frequent incremental backups: each is a point to go back to")
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
