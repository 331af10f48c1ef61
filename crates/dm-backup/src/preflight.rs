//! What is looked at before a backup begins. Whatever would make it fail later and can be seen now, is said now, all of it
//! at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dm_core::{
    BackupKind, BackupSource, ByteSize, Engine, Error, ErrorKind, Finding, Level, OpContext, Preflight,
    Result,
};
use dm_repository::Listing;

use crate::parent::{self, Origin};
use crate::{BackupService, RunOptions};

/// Gives the free bytes of the file system that holds a path; `None` when it cannot be known.
pub type FreeSpace = Arc<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// What the preflight should ask of the local disks.
#[derive(Clone, Default)]
pub struct DiskCheck {
    /// The repository's folder, where it is a local one.
    pub repository: Option<PathBuf>,
    /// How to learn what is free; nothing is checked without it.
    pub free: Option<FreeSpace>,
    /// Bytes that must be left over.
    pub min_free_bytes: u64,
}

impl fmt::Debug for DiskCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskCheck")
            .field("repository", &self.repository)
            .field("min_free_bytes", &self.min_free_bytes)
            .finish_non_exhaustive()
    }
}

/// Rows and pages of real databases seldom shrink to less than this part of their size; a repository that has not even so
/// much free will not hold the backup.
const LEAST_PART_STORED: u64 = 10;

impl BackupService {
    /// Looks whether a backup would succeed: engine, privileges, client tools, disk space, connections, the base of
    /// an incremental one. Changes nothing that lasts.
    ///
    /// # Errors
    /// Only when the look itself fails; what is wrong is a finding. [`refuse`] makes one error of the findings.
    pub async fn preflight(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        options: &RunOptions,
    ) -> Result<Preflight> {
        self.look(ctx, engine, options).await.map(|(preflight, _)| preflight)
    }

    /// The preflight, and the number of jobs that the server has connections for.
    pub(crate) async fn look(
        &self,
        ctx: &OpContext,
        engine: &dyn Engine,
        options: &RunOptions,
    ) -> Result<(Preflight, usize)> {
        let source = source_of(engine)?;
        // A server that cannot be reached, or a database that is not there, is an error of its own kind, not a finding.
        ctx.run(engine.version(ctx)).await?;
        let mut preflight = ctx.run(source.preflight(ctx, &options.request)).await?;
        let (reached, listing) = self.reach(ctx, options).await;
        preflight.findings.extend(reached);
        preflight.findings.extend(disk_space(&preflight, options));
        let (connections, jobs) = connections(ctx, engine, options.request.jobs.max(1)).await;
        preflight.findings.extend(connections);
        preflight.findings.extend(listing.and_then(|listing| self.base(engine, options, &listing)));
        Ok((preflight, jobs))
    }

    /// Whether the repository answers. That it takes objects was seen when it was opened, and the first thing that a backup
    /// writes (its lease) comes before the snapshot.
    async fn reach(&self, ctx: &OpContext, options: &RunOptions) -> (Vec<Finding>, Option<Listing>) {
        let listing = match ctx.run(self.repository.list(ctx, Some(&options.target))).await {
            Ok(listing) => listing,
            Err(error) => return (vec![finding("repository", &error)], None),
        };
        let mut findings = vec![Finding::new(
            Level::Ok,
            "repository",
            format!("answers; {} backups of {}", listing.backups.len(), options.target),
        )];
        if self.repository.single_writer() {
            findings.push(
                Finding::new(
                    Level::Warning,
                    "repository",
                    "the store does not refuse to overwrite: one writer at a time",
                )
                .with_mend(
                    "let no two hosts write to this repository at once, or move it to a store that can",
                ),
            );
        }
        (findings, Some(listing))
    }

    /// Whether there is a base to rest on.
    fn base(&self, engine: &dyn Engine, options: &RunOptions, listing: &Listing) -> Option<Finding> {
        if options.kind == BackupKind::Full {
            return None;
        }
        Some(match self.base_of(engine, options, listing) {
            Ok(message) => Finding::new(Level::Ok, "parent", message),
            Err(error) => finding("parent", &error),
        })
    }

    fn base_of(&self, engine: &dyn Engine, options: &RunOptions, listing: &Listing) -> Result<String> {
        parent::require_capability(options.kind, engine.kind(), engine.capabilities())?;
        parent::require_index(options.kind, self.repository.can_read_index())?;
        let origin = Origin::expected(engine.kind(), options.request.mode);
        let base = parent::choose(listing, &options.target, options.kind, &origin)?;
        Ok(format!("rests on {} of {}", base.id, base.consistency.at.to_rfc3339()))
    }
}

/// The engine's port, or the reason why there is none.
pub(crate) fn source_of(engine: &dyn Engine) -> Result<Arc<dyn BackupSource>> {
    engine.backup().ok_or_else(|| {
        Error::unsupported(format!("{} databases cannot be backed up", engine.kind()))
            .on_engine(engine.kind())
    })
}

fn finding(check: &str, error: &Error) -> Finding {
    let found = Finding::new(Level::Error, check, error.to_string());
    match error.hint() {
        Some(hint) => found.with_mend(hint),
        None => found,
    }
}

fn disk_space(preflight: &Preflight, options: &RunOptions) -> Vec<Finding> {
    let Some(free) = &options.disk.free else { return Vec::new() };
    let mut findings = Vec::new();
    if let Some((path, bytes)) = options.disk.repository.as_deref().and_then(|p| Some((p, free(p)?))) {
        let expected = preflight.estimated_bytes;
        // Of an incremental one nobody knows beforehand how much has changed.
        let least = if options.kind == BackupKind::Full { expected / LEAST_PART_STORED } else { 0 };
        let left = bytes.saturating_sub(options.disk.min_free_bytes);
        let said = format!(
            "{} free at {}, {} to be left, {} to read",
            ByteSize(bytes),
            path.display(),
            ByteSize(options.disk.min_free_bytes),
            ByteSize(expected)
        );
        let level = match left {
            0 => Level::Error,
            left if left < least => Level::Error,
            left if left < expected && options.kind == BackupKind::Full => Level::Warning,
            _ => Level::Ok,
        };
        findings.push(space_finding(level, said));
    }
    if let Some((path, needed)) = &preflight.scratch
        && let Some(bytes) = free(path)
    {
        let level = if bytes < *needed { Level::Error } else { Level::Ok };
        let said = format!(
            "{} free at {} for temporary files, {} needed",
            ByteSize(bytes),
            path.display(),
            ByteSize(*needed)
        );
        findings.push(space_finding(level, said));
    }
    findings
}

fn space_finding(level: Level, message: String) -> Finding {
    let found = Finding::new(level, "disk_space", message);
    if level < Level::Warning {
        return found;
    }
    found.with_mend("free space, expire old backups, or choose another place")
}

/// Whether the server has connections left for the jobs, and for how many of them. An engine without connections has
/// nothing to say.
async fn connections(ctx: &OpContext, engine: &dyn Engine, jobs: usize) -> (Option<Finding>, usize) {
    let health = match ctx.run(engine.ping(ctx)).await {
        Ok(health) => health,
        Err(error) => return (Some(finding("connections", &error)), jobs),
    };
    let Some((used, most)) = health.connections else { return (None, jobs) };
    let left = most.saturating_sub(used) as usize;
    let said = format!("{used} of {most} connections in use, {jobs} jobs asked for");
    // One connection holds the snapshot, each job has its own.
    let found = if left > jobs {
        Finding::new(Level::Ok, "connections", said)
    } else if left >= 2 {
        Finding::new(Level::Warning, "connections", format!("{said}, {} used", left - 1))
            .with_mend("close other connections or raise the server's limit to use all jobs")
    } else {
        Finding::new(Level::Error, "connections", said)
            .with_mend("close other connections, or raise the server's limit")
    };
    (Some(found), jobs.min(left.saturating_sub(1)).max(1))
}

/// One error of all the findings of level `Error`; `Ok` when there are none.
///
/// # Errors
/// The kind follows from what was looked at, where all agree: `Exhausted`, `Denied`, `NotFound`, `Unreachable`; else `Invalid`.
pub fn refuse(findings: &[Finding], what: &str) -> Result<()> {
    let errors: Vec<&Finding> = findings.iter().filter(|f| f.level == Level::Error).collect();
    let Some(first) = errors.first() else { return Ok(()) };
    let said: Vec<&str> = errors.iter().map(|f| f.message.as_str()).collect();
    let mut hints: Vec<&str> = errors.iter().filter_map(|f| f.mend.as_deref()).collect();
    hints.dedup();
    let kind = kind_of(&first.check);
    let kind = if errors.iter().all(|f| kind_of(&f.check) == kind) { kind } else { ErrorKind::Invalid };
    let error = Error::new(kind, format!("{what} cannot begin: {}", said.join("; ")));
    Err(if hints.is_empty() { error } else { error.with_hint(hints.join("; ")) })
}

/// The kind of failure that a check by this name stands for.
fn kind_of(check: &str) -> ErrorKind {
    let is = |words: &[&str]| words.iter().any(|w| check.contains(w));
    if is(&["space", "scratch", "disk", "connections"]) {
        ErrorKind::Exhausted
    } else if is(&["privilege", "permission", "repository"]) {
        ErrorKind::Denied
    } else if is(&["table", "parent"]) {
        ErrorKind::NotFound
    } else if is(&["destination"]) {
        ErrorKind::AlreadyExists
    } else {
        ErrorKind::Invalid
    }
}
