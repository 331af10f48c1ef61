//! Backups: run, list, show, verify, expire, delete, pin, export, size, keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dm_backup::keep::KeepRules;
use dm_backup::{
    BackupDetails, BackupList, DeletePlan, DiskCheck, ExpirePlan, ExpireReport, ExportFormat, ExportReport,
    RunOptions, RunReport, SizeReport, VerifyReport, VerifyRequest, VerifyScope,
};
use dm_core::{
    BackupKind, BackupMode, BackupRequest, Engine, EngineId, Error, ErrorKind, OpContext, Preflight, Result,
    Secret, TargetName, TenantFilter,
};
use dm_repository::{BackupHeader, Identity, Recipient, VerifyLevel};
use serde::Serialize;

use crate::DataManager;
use crate::config::VerifyAfter;
use crate::operations::OperationKind;
use crate::pipeline::{Notes, Operation};
use crate::restores::selector;

const PLAN: OperationKind = OperationKind::BackupPlan;
const RUN: OperationKind = OperationKind::BackupRun;
const LIST: OperationKind = OperationKind::BackupList;
const SHOW: OperationKind = OperationKind::BackupShow;
const VERIFY: OperationKind = OperationKind::BackupVerify;
const EXPIRE: OperationKind = OperationKind::BackupExpire;
const DELETE: OperationKind = OperationKind::BackupDelete;
const PIN: OperationKind = OperationKind::BackupPin;
const UNPIN: OperationKind = OperationKind::BackupUnpin;
const EXPORT: OperationKind = OperationKind::BackupExport;

/// What to back up. The default: the only engine, under its own name, as the configuration says.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// The engine; the only one, or `main`, when `None`.
    pub engine: Option<EngineId>,
    /// The target: the name of its folder in the repository; what the engine's backups are called when `None`
    /// (see [`DataManager::target_of`]).
    pub target: Option<TargetName>,
    /// Rows or files; the configuration's when `None`, and the engine's own way where that says nothing either.
    pub mode: Option<BackupMode>,
    /// Full, differential or incremental; the configuration's when `None`.
    pub kind: Option<BackupKind>,
    /// Connections or threads at once; the configuration's number when `None`.
    pub jobs: Option<usize>,
    /// Only these tables (names or patterns with `*`); the configuration's when empty.
    pub include_tables: Vec<String>,
    /// Not these tables; the configuration's when empty.
    pub exclude_tables: Vec<String>,
    /// Only the rows of one tenant and what belongs to them; such backups have a target of their own.
    pub tenant: Option<TenantFilter>,
    /// How deep to verify right after the commit; the configuration's when `None`.
    pub verify: Option<VerifyLevel>,
    /// Commits without verifying, whatever the configuration says.
    pub skip_verify: bool,
    /// Begins anew, also where an interrupted run of the target stored something.
    pub no_resume: bool,
}

/// A key pair that was made.
#[derive(Clone, Debug, Serialize)]
pub struct NewKey {
    /// The public half: goes into `[repository] recipients`.
    pub recipient: Recipient,
    /// The file of the private half; keep it away from the host that backs up.
    pub path: PathBuf,
    /// The file of the index key; stays on the host that backs up, as `index_identity_file`.
    pub index_path: PathBuf,
    /// Whether the private half is protected by a passphrase.
    pub protected: bool,
}

/// The backups of a [`DataManager`].
#[derive(Clone, Copy, Debug)]
pub struct Backups<'a> {
    pub(crate) dm: &'a DataManager,
}

impl Backups<'_> {
    /// Looks whether a backup would succeed; what `--dry-run` shows. Changes nothing.
    ///
    /// # Errors
    /// Only when the look itself fails; what is wrong is a finding of level `Error`.
    pub async fn preflight(&self, ctx: &OpContext, options: &BackupOptions) -> Result<Preflight> {
        let (engine, target) =
            self.dm.engine_and_target(options.engine.as_ref(), options.target.as_ref(), options.mode)?;
        let run = self.run_options(options, engine.as_ref(), target)?;
        let work = async {
            match self.dm.backups(ctx).await {
                Ok(service) => service.preflight(ctx, engine.as_ref(), &run).await,
                // Without a repository yet, the engine is all there is to look at.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let source = engine.backup().ok_or_else(|| unsupported(engine.as_ref()))?;
                    source.preflight(ctx, &run.request).await
                }
                Err(error) => Err(error),
            }
        };
        self.dm.operate(ctx, Operation::new(PLAN, run.target.as_str()), work).await
    }

    /// Makes a backup; the first one makes the repository.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::run`].
    ///
    /// # Cancellation
    /// Cancel through the context; running again is always safe.
    pub async fn run(&self, ctx: &OpContext, options: &BackupOptions) -> Result<RunReport> {
        let (engine, target) =
            self.dm.engine_and_target(options.engine.as_ref(), options.target.as_ref(), options.mode)?;
        let run = self.run_options(options, engine.as_ref(), target)?;
        let details =
            serde_json::json!({ "kind": run.kind, "mode": run.request.mode, "engine": engine.id().as_str() });
        let operation = Operation::new(RUN, run.target.as_str()).with_details(details);
        let work = async {
            // An engine that cannot be reached should not leave an empty repository behind.
            engine.version(ctx).await?;
            let service = self.dm.backups_or_new(ctx).await?;
            service.run(ctx, engine.as_ref(), run).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Lists the complete backups, of one target or of all.
    ///
    /// # Errors
    /// `NotFound` without a repository; `Unreachable`, `Denied`.
    pub async fn list(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<BackupList> {
        let work = async { self.dm.backups(ctx).await?.list(ctx, target).await };
        self.dm.operate(ctx, Operation::new(LIST, name(target)), work).await
    }

    /// Everything that is recorded of one backup: an id, the beginning of one, or `latest`.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn show(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
    ) -> Result<BackupDetails> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let work = async { self.dm.backups(ctx).await?.show(ctx, &selector(&of, which, false, None)?).await };
        self.dm.operate(ctx, Operation::new(SHOW, of.as_str()), work).await
    }

    /// Verifies one backup, or all of a target or the repository with the shipped log, as deep as a [`VerifyLevel`] or a
    /// [`VerifyRequest`] says, and records the result beside each. What is wrong is
    /// in the report: [`VerifyReport::check`] makes an error of it.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Denied`, `Unreachable`.
    pub async fn verify(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: Option<&str>,
        request: impl Into<VerifyRequest> + Send,
    ) -> Result<VerifyReport> {
        let request = request.into();
        let operation = Operation::new(VERIFY, name(target)).with_details(serde_json::json!({
            "level": request.how.level,
            "sample": request.how.sample.map(|size| size.to_string()),
            "older_than": request.older_than,
        }));
        let work = async {
            let scope = self.scope(ctx, target, which).await?;
            self.dm.backups(ctx).await?.verify(ctx, &scope, request).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Says which backups of a target, and which parts of its logs, the keep-rules (the configuration's, or these) would let
    /// go, and which rule keeps each of the others.
    ///
    /// # Errors
    /// `NotFound` without a repository; `Corrupt` when not everything can be read.
    pub async fn plan_expire(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        rules: Option<KeepRules>,
    ) -> Result<ExpirePlan> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let rules = match rules {
            Some(rules) => rules,
            None => self.dm.keep_rules(),
        };
        let zone = self.dm.config.zone;
        let work = async { self.dm.backups(ctx).await?.plan_expire(ctx, &of, &rules, ctx.now(), zone).await };
        self.dm.operate(ctx, Operation::new(PLAN, of.as_str()), work).await
    }

    /// Does what a plan says. With `wait`, stays until everybody who might still read is done and the bytes are freed;
    /// without, marks them and leaves the sweeping to the next run.
    ///
    /// # Errors
    /// `Conflict` when the plan went stale.
    pub async fn apply_expire(&self, ctx: &OpContext, plan: &ExpirePlan, wait: bool) -> Result<ExpireReport> {
        let going: Vec<String> = plan.deletions().map(|id| id.to_string()).collect();
        let logs: Vec<_> = plan
            .logs
            .iter()
            .filter(|log| !log.floors.is_empty())
            .map(|log| serde_json::json!({ "server": log.stream, "up_to": log.floors }))
            .collect();
        let operation = Operation::new(EXPIRE, plan.target.as_str())
            .with_details(serde_json::json!({ "backups": going, "logs": logs }));
        let work = async { self.dm.backups(ctx).await?.apply_expire(ctx, plan, wait).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Says what deleting one backup would do.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for one that must not go, with the reason and its mend.
    pub async fn plan_delete(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        reason: &str,
    ) -> Result<DeletePlan> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let work = async {
            let selectors = [selector(&of, which, false, None)?];
            self.dm.backups(ctx).await?.plan_delete(ctx, &selectors, reason).await
        };
        self.dm.operate(ctx, Operation::new(PLAN, of.as_str()), work).await
    }

    /// Does what a plan says; `wait` as in [`apply_expire`](Self::apply_expire).
    ///
    /// # Errors
    /// `Conflict` when the plan went stale.
    pub async fn apply_delete(&self, ctx: &OpContext, plan: &DeletePlan, wait: bool) -> Result<ExpireReport> {
        let going: Vec<String> = plan.entries.iter().map(|e| e.id.to_string()).collect();
        let target = plan.entries.first().map_or("*", |e| e.target.as_str());
        let operation = Operation::new(DELETE, target)
            .with_details(serde_json::json!({ "backups": going, "reason": plan.reason }));
        let work = async { self.dm.backups(ctx).await?.apply_delete(ctx, plan, wait).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// Keeps a backup whatever the keep-rules say.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn pin(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        reason: &str,
    ) -> Result<BackupHeader> {
        self.set_pin(ctx, target, which, reason, true).await
    }

    /// Takes a pin away; the keep-rules decide again.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn unpin(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        reason: &str,
    ) -> Result<BackupHeader> {
        self.set_pin(ctx, target, which, reason, false).await
    }

    async fn set_pin(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        reason: &str,
        pinned: bool,
    ) -> Result<BackupHeader> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let action = if pinned { PIN } else { UNPIN };
        let operation = Operation::new(action, of.as_str())
            .with_details(serde_json::json!({ "backup": which, "reason": reason }));
        let work = async {
            let service = self.dm.backups(ctx).await?;
            let selector = selector(&of, which, false, None)?;
            if pinned {
                service.pin(ctx, &selector, reason).await
            } else {
                service.unpin(ctx, &selector, reason).await
            }
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Writes a backup into an empty folder in the engine's own formats, in this form.
    ///
    /// # Errors
    /// `AlreadyExists` for a folder with something in it; `NotFound`, `Denied`, `Exhausted`.
    pub async fn export(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        folder: &Path,
        format: ExportFormat,
    ) -> Result<ExportReport> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let operation = Operation::new(EXPORT, of.as_str())
            .with_details(serde_json::json!({ "backup": which, "folder": folder }));
        let notes = Notes::default();
        let operation = operation.noting(&notes);
        let work = async {
            let report = self
                .dm
                .backups(ctx)
                .await?
                .export(ctx, &selector(&of, which, false, None)?, folder, format, self.dm.jobs())
                .await?;
            notes.put("backup_id", report.backup.id.to_string());
            notes.put("files", report.files.len());
            notes.put("bytes", report.bytes);
            Ok(report)
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// What the backups take, each and all together.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn size(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<SizeReport> {
        let work = async { self.dm.backups(ctx).await?.size(ctx, target).await };
        self.dm.operate(ctx, Operation::new(LIST, name(target)), work).await
    }

    /// Makes a key pair for an encrypted repository: the private half at `out` (protected by the passphrase, if there is
    /// one), the index key beside it with `.index` appended. Never overwrites.
    ///
    /// # Errors
    /// `AlreadyExists`, `Denied`.
    pub async fn new_key(&self, ctx: &OpContext, out: &Path, passphrase: Option<&Secret>) -> Result<NewKey> {
        const NEW: OperationKind = OperationKind::KeyNew;
        let mut index = out.as_os_str().to_owned();
        index.push(".index");
        let index_path = PathBuf::from(index);
        let work = async {
            let owner = Identity::generate();
            let private = match passphrase {
                Some(passphrase) => owner.to_encrypted_file(passphrase)?,
                None => format!("{}\n", owner.to_secret_text().expose()).into_bytes(),
            };
            create_private(out, &private)?;
            create_private(
                &index_path,
                format!("{}\n", Identity::generate().to_secret_text().expose()).as_bytes(),
            )?;
            Ok(NewKey {
                recipient: owner.recipient(),
                path: out.to_owned(),
                index_path: index_path.clone(),
                protected: passphrase.is_some(),
            })
        };
        self.dm.operate(ctx, Operation::new(NEW, "*"), work).await
    }

    /// One backup, or all of a target or the repository.
    pub(crate) async fn scope(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: Option<&str>,
    ) -> Result<VerifyScope> {
        let Some(which) = which else { return Ok(VerifyScope::All { target: target.cloned() }) };
        let of = self.dm.target(ctx, target, None, None).await?;
        Ok(VerifyScope::One(selector(&of, which, false, None)?))
    }

    fn run_options(
        &self,
        options: &BackupOptions,
        engine: &dyn Engine,
        target: TargetName,
    ) -> Result<RunOptions> {
        let tenant = options.tenant.is_some();
        let configured = self.dm.backup_config(&target);
        let or = |given: &Vec<String>, configured: &Vec<String>| {
            if given.is_empty() { configured.clone() } else { given.clone() }
        };
        let verify_configured = match configured.verify_after {
            VerifyAfter::Off => None,
            VerifyAfter::Quick => Some(VerifyLevel::Quick),
            VerifyAfter::Stored => Some(VerifyLevel::Stored),
            VerifyAfter::Full => Some(VerifyLevel::Full),
        };
        let hooks = self.dm.backup_hooks()?;
        Ok(RunOptions {
            // One tenant's backups are of rows, and rest on nothing unless that is asked for.
            kind: options.kind.unwrap_or(if tenant { BackupKind::Full } else { configured.kind }),
            request: BackupRequest {
                mode: options
                    .mode
                    .or(tenant.then_some(BackupMode::Logical))
                    .or_else(|| self.dm.mode_of(engine, &target)),
                jobs: options.jobs.unwrap_or_else(|| self.dm.jobs()).max(1),
                include_tables: or(&options.include_tables, &configured.include_tables),
                exclude_tables: or(&options.exclude_tables, &configured.exclude_tables),
                tenant: options.tenant.clone(),
                ..BackupRequest::default()
            },
            verify_after: if options.skip_verify { None } else { options.verify.or(verify_configured) },
            disk: DiskCheck {
                repository: self.dm.repository.location.as_folder().map(Path::to_owned),
                free: Some(Arc::new(free_bytes)),
                min_free_bytes: 0,
            },
            no_resume: options.no_resume,
            hooks,
            target,
        })
    }
}

impl DataManager {
    /// How many tables or files flow at once.
    pub(crate) fn jobs(&self) -> usize {
        self.config.repository.jobs
    }

    pub(crate) fn keep_rules(&self) -> KeepRules {
        let retention = &self.config.repository.retention;
        KeepRules {
            last: retention.keep_last,
            daily: retention.daily,
            weekly: retention.weekly,
            monthly: retention.monthly,
            yearly: retention.yearly,
            within: retention.within,
            min_verified_full: retention.min_verified_full,
            incremental_within: Some(retention.incremental_within),
            log_within: Some(retention.log_within),
            superseded_within: Some(retention.superseded_within),
        }
    }
}

/// Free bytes for this user on the file system that holds a path, or will hold it.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    path.ancestors()
        .find_map(|p| rustix::fs::statvfs(if p.as_os_str().is_empty() { Path::new(".") } else { p }).ok())
        .map(|s| s.f_bavail * s.f_frsize)
}

pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |e: std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Denied,
        };
        Error::new(kind, "the key file cannot be written")
            .about(path.display().to_string())
            .with_hint("give --out a new file name in an existing folder; keys are never overwritten")
            .with_source(e)
    };
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn unsupported(engine: &dyn Engine) -> Error {
    Error::unsupported(format!("{} databases cannot be backed up", engine.kind())).on_engine(engine.kind())
}

fn name(target: Option<&TargetName>) -> &str {
    target.map_or("*", TargetName::as_str)
}
