//! A consistent copy of a live database in a private temporary file.
//!
//! In WAL mode one read transaction holds the view while the copy is made: readers never block writers there, and nobody's
//! write makes the copy begin anew. In rollback-journal mode a reader keeps writers from committing, so the copy goes in
//! short steps that let go of the lock in between; SQLite begins the copy anew when somebody wrote meanwhile, which is
//! bounded. The copy has no journal and no fsync: when the program dies it is rubbish anyway.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dm_core::{EngineKind, Error, ErrorKind, OpContext, Progress, Result};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::connect::{self, Purpose};
use crate::error::{file as file_error, sqlite, sqlite_about};
use crate::{SqliteOptions, disk, schema, worker};

const FOLDER_PREFIX: &str = ".dm-sqlite-snapshot-";

/// Bytes of one step under the read lock of a rollback journal: well under a millisecond or two.
const SHORT_STEP_BYTES: u32 = 1 << 20;
/// Bytes of one step in WAL mode, where a step blocks nobody: often enough to hear a cancellation.
const LONG_STEP_BYTES: u32 = 4 << 20;
/// Between short steps, so that a waiting writer finds the lock free.
const PAUSE: Duration = Duration::from_micros(500);

/// The copy. Its folder goes when the last user drops it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) path: PathBuf,
    /// The instant that the copy shows.
    pub(crate) at: DateTime<Utc>,
    pub(crate) page_bytes: u32,
    pub(crate) size: u64,
    /// Of the source.
    pub(crate) journal_mode: String,
    /// Of the source; the copy counts anew.
    pub(crate) schema_version: i64,
    _folder: Folder,
}

/// A private folder with a lock that tells others that its owner lives.
#[derive(Debug)]
struct Folder {
    dir: TempDir,
    _lock: File,
}

impl Folder {
    fn new(scratch: &Path) -> Result<Self> {
        sweep(scratch);
        let dir = tempfile::Builder::new()
            .prefix(FOLDER_PREFIX)
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(scratch)
            .map_err(|e| file_error(scratch, "make a temporary folder", e))?;
        // Locked before it gets its name, so that a sweep never sees it unlocked.
        let fresh = dir.path().join("lock.new");
        let lock = disk::create_private(&fresh)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| file_error(&fresh, "lock the temporary folder", e.into()))?;
        std::fs::rename(&fresh, dir.path().join("lock"))
            .map_err(|e| file_error(&fresh, "lock the temporary folder", e))?;
        Ok(Self { dir, _lock: lock })
    }
}

/// Removes the folders of programs that died. Best effort: what cannot be removed is somebody else's.
fn sweep(scratch: &Path) {
    let Ok(entries) = std::fs::read_dir(scratch) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if let Err(e) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(folder = %entry.path().display(), error = %e, "an abandoned snapshot stays");
        }
    }
}

/// Takes a snapshot. Blocks; runs behind a gate.
pub(crate) fn take(
    ctx: &OpContext,
    path: &Path,
    options: &SqliteOptions,
    scratch: &Path,
) -> Result<Snapshot> {
    let source = connect::live(path, options, Purpose::Reading)?;
    let folder = Folder::new(scratch)?;
    let copy = folder.dir.path().join("main.db");
    drop(disk::create_private(&copy)?);
    let mut target = connect::scratch(&copy)?;

    let about = || sqlite_about(path.display().to_string());
    let journal_mode = schema::pragma_text(&source, "journal_mode")?;
    let page_bytes = u32::try_from(schema::pragma_number(&source, "page_size")?)
        .map_err(|_| Error::internal("sqlite gave a page size that is none"))?;
    let schema_version;
    let at;
    if journal_mode == "wal" {
        source.execute_batch("BEGIN").map_err(about())?;
        schema_version = schema::pragma_number(&source, "schema_version")?;
        at = ctx.now();
        copy_in_view(ctx, &source, &mut target, page_bytes)?;
        source.execute_batch("COMMIT").map_err(about())?;
    } else {
        copy_in_steps(ctx, &source, &mut target, page_bytes, options, path)?;
        at = ctx.now();
        schema_version = schema::pragma_number(&source, "schema_version")?;
    }
    drop(source);
    target.close().map_err(|(_, e)| sqlite(e))?;

    let size = disk::size_of(&copy)?.unwrap_or_default();
    // An empty file becomes a database of one page of the default size.
    let page_bytes = schema::pragma_number(&connect::immutable(&copy)?, "page_size")
        .map(|n| u32::try_from(n).unwrap_or(page_bytes))?;
    if size == 0 || size % u64::from(page_bytes) != 0 {
        return Err(Error::internal(format!("the copy has {size} bytes, no whole number of pages")));
    }
    Ok(Snapshot { path: copy, at, page_bytes, size, journal_mode, schema_version, _folder: folder })
}

fn pages(bytes: u32, page_bytes: u32) -> i32 {
    i32::try_from((bytes / page_bytes.max(1)).max(1)).unwrap_or(1)
}

/// Reports progress in bytes from SQLite's count of remaining pages.
struct Meter<'a> {
    ctx: &'a OpContext,
    page_bytes: u64,
    done: i32,
}

impl Meter<'_> {
    /// Takes the state after a step; gives false when the copy began anew.
    fn advance(&mut self, backup: &Backup<'_, '_>) -> bool {
        let progress = backup.progress();
        let done = progress.pagecount - progress.remaining;
        let forward = done > self.done;
        if forward {
            let pages = u64::try_from(done - self.done).unwrap_or_default();
            self.ctx.progress(Progress::Bytes(pages * self.page_bytes));
        }
        self.done = done;
        forward
    }
}

fn begin_phase(ctx: &OpContext, source: &Connection, page_bytes: u32) -> Result<()> {
    let count = u64::try_from(schema::pragma_number(source, "page_count")?).unwrap_or_default();
    ctx.progress(Progress::Phase { name: "snapshotting", total_bytes: Some(count * u64::from(page_bytes)) });
    Ok(())
}

/// Copies under a read transaction that is open already.
fn copy_in_view(
    ctx: &OpContext,
    source: &Connection,
    target: &mut Connection,
    page_bytes: u32,
) -> Result<()> {
    begin_phase(ctx, source, page_bytes)?;
    let backup = Backup::new(source, target).map_err(sqlite)?;
    let mut meter = Meter { ctx, page_bytes: page_bytes.into(), done: 0 };
    loop {
        worker::check()?;
        match backup.step(pages(LONG_STEP_BYTES, page_bytes)).map_err(sqlite)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                meter.advance(&backup);
            }
            _ => return Err(busy("the copy could not read the database")),
        }
    }
}

fn copy_in_steps(
    ctx: &OpContext,
    source: &Connection,
    target: &mut Connection,
    page_bytes: u32,
    options: &SqliteOptions,
    path: &Path,
) -> Result<()> {
    begin_phase(ctx, source, page_bytes)?;
    let begun = Instant::now();
    let mut step = pages(SHORT_STEP_BYTES, page_bytes);
    let (mut restarts, mut copied, mut holding) = (0, 0_i64, false);
    let backup = Backup::new(source, target).map_err(sqlite)?;
    let mut meter = Meter { ctx, page_bytes: page_bytes.into(), done: 0 };
    loop {
        worker::check()?;
        let before = meter.done;
        match backup.step(step).map_err(sqlite)? {
            StepResult::Done => break,
            // The busy handler has waited already, as long as it may.
            StepResult::Busy | StepResult::Locked => {
                return Err(busy("a writer holds the database").about(path.display().to_string()));
            }
            _ => {}
        }
        if meter.advance(&backup) {
            copied += i64::from(meter.done - before);
        } else {
            restarts += 1;
            copied += i64::from(meter.done);
            // Longer steps reach the end between two writes sooner.
            step = step.saturating_mul(2);
            tracing::debug!(restarts, "a writer made the copy begin anew");
        }
        if restarts > options.max_copy_restarts && !holding {
            let total = backup.progress().pagecount;
            let rate = copied as f64 / begun.elapsed().as_secs_f64().max(1e-6);
            let expected = f64::from(total) / rate.max(1.0);
            if expected > options.max_writer_stall.as_secs_f64() {
                return Err(busy("writers kept the copy from coming to its end")
                    .about(path.display().to_string())
                    .with_hint(
                        "switch the database to WAL (PRAGMA journal_mode=WAL), back up at a quieter time, \
                         or raise max_writer_stall",
                    ));
            }
            // The last resort: hold the view to the end. Writers wait for one copy's time.
            source
                .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
                .map_err(sqlite_about(path.display().to_string()))?;
            holding = true;
        }
        if !holding {
            std::thread::sleep(PAUSE);
        }
    }
    drop(backup);
    if holding {
        source.execute_batch("COMMIT").map_err(sqlite)?;
    }
    Ok(())
}

fn busy(message: &str) -> Error {
    Error::new(ErrorKind::Busy, message)
        .on_engine(EngineKind::Sqlite)
        .with_hint("try again later, or raise the busy timeout")
}
