//! Writing a backup out as plain files that the engine's own tools read, with nothing of ours needed any more.
//!
//! Decided by what a member *is*, never by which engine it came from: a file of pages becomes that file, the parts of a
//! table become one file, definitions are written as they are. `manifest.json` comes last: without it an export is not whole.

mod files;
mod guide;
mod tar;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dm_core::{
    Effect, Error, ErrorKind, Layout, MemberKind, MemberSpec, OpContext, Progress, RestoreContent, Result,
    SourceDescription, TableFacts,
};
use dm_repository::{BackupHeader, BackupReader};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use self::files::FilePlan;
use crate::{BackupService, Selector, pool};

/// The form of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One file for each file and each table of the backup.
    #[default]
    Files,
    /// `base.tar`, one `<oid>.tar` for each tablespace and `pg_wal.tar`, as `pg_basebackup -Ft` makes them: of a backup of
    /// a cluster's files.
    BaseTar,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its path in the folder, `/`-separated.
    pub path: String,
    /// What it holds.
    pub kind: MemberKind,
    /// Its size.
    pub bytes: u64,
    /// The table whose rows it holds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<String>,
    /// The members that it was made of, in order.
    pub members: Vec<String>,
}

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The backup.
    pub backup: BackupHeader,
    /// The folder.
    pub folder: PathBuf,
    /// The files, without `manifest.json` and the guide.
    pub files: Vec<ExportedFile>,
    /// Bytes of those.
    pub bytes: u64,
}

/// What `manifest.json` says.
#[derive(Serialize)]
struct Manifest<'a> {
    schema: &'static str,
    backup: &'a BackupHeader,
    source: &'a SourceDescription,
    tables: &'a [TableFacts],
    files: &'a [ExportedFile],
}

impl BackupService {
    /// Writes a backup's members into an empty or new folder, up to `jobs` files at once. Folders are 0700, files 0600.
    ///
    /// # Errors
    /// `AlreadyExists` when the folder is not empty; as [`select`](Self::select); `Denied` without the key; `Exhausted`,
    /// `Corrupt`. What was written before a failure is removed again; where that fails too, the effect is `Partial`.
    ///
    /// # Cancellation
    /// Cancel through the context: what was written is removed. Dropping the future leaves files without a manifest.
    pub async fn export(
        &self,
        ctx: &OpContext,
        selector: &Selector,
        folder: &Path,
        format: ExportFormat,
        jobs: usize,
    ) -> Result<ExportReport> {
        let work = async {
            let backup = self.select(ctx, selector).await?;
            let made = make_folder(folder).await?;
            let reader = self.repository.read(ctx, &backup).await?;
            let written = write_all(ctx, &reader, &backup, folder, format, jobs).await;
            if let Err(error) = reader.close().await {
                tracing::warn!(%error, "the reader's lease could not be ended; it runs out by itself");
            }
            match written {
                Ok(report) => Ok(report),
                Err(error) => Err(undo(folder, made, error).await),
            }
        };
        work.await.map_err(|e: Error| e.in_operation("backup export"))
    }
}

async fn write_all(
    ctx: &OpContext,
    reader: &BackupReader,
    backup: &BackupHeader,
    folder: &Path,
    format: ExportFormat,
    jobs: usize,
) -> Result<ExportReport> {
    let members = ctx.run(reader.members(ctx)).await?;
    if format == ExportFormat::BaseTar && !tar::fits(reader.source(), &members) {
        return Err(Error::unsupported("this backup is not one of a cluster's files")
            .about(backup.id.to_string())
            .with_hint("export it as files"));
    }
    ctx.progress(Progress::Phase {
        name: "exporting",
        total_bytes: Some(members.iter().map(|(_, s)| s).sum()),
    });
    let files = match format {
        ExportFormat::Files => write_files(ctx, reader, &members, folder, jobs).await?,
        ExportFormat::BaseTar => {
            let plans = tar::plan(ctx, reader, &members).await?;
            tar::write(ctx, reader, plans, folder, backup.consistency.at, jobs).await?
        }
    };
    write_text(folder, "README.txt", &guide::readme(backup, &files, format)).await?;
    let manifest = Manifest {
        schema: "dm.export/1",
        backup,
        source: reader.source(),
        tables: reader.tables(),
        files: &files,
    };
    let json = serde_json::to_string_pretty(&manifest)
        .map_err(|e| Error::internal("the manifest cannot be serialised").with_source(e))?;
    write_text(folder, "manifest.json", &json).await?;
    Ok(ExportReport {
        backup: backup.clone(),
        folder: folder.to_path_buf(),
        bytes: files.iter().map(|f| f.bytes).sum(),
        files,
    })
}

/// One file for each file and each table.
async fn write_files(
    ctx: &OpContext,
    reader: &BackupReader,
    members: &[(MemberSpec, u64)],
    folder: &Path,
    jobs: usize,
) -> Result<Vec<ExportedFile>> {
    let plans = files::plan(members, reader.source());
    let root = Arc::new(folder.to_path_buf());
    pool::each(ctx, jobs, plans.clone(), |task, plan| {
        let contents =
            plan.members.iter().map(|(m, size)| (m.clone(), *size, reader.content(&task, &m.name)));
        write_file(task.clone(), Arc::clone(&root), plan.path.clone(), contents.collect())
    })
    .await?;
    if let Some(script) = guide::restore_sql(&plans) {
        write_text(folder, "restore.sql", &script).await?;
    }
    Ok(plans.iter().map(FilePlan::exported).collect())
}

/// Writes the members one behind the other into one file. Pages go to their places, holes stay holes.
async fn write_file(
    ctx: OpContext,
    root: Arc<PathBuf>,
    path: String,
    contents: Vec<(MemberSpec, u64, RestoreContent)>,
) -> Result<()> {
    let full = root.join(&path);
    if let Some(parent) = full.parent().filter(|p| *p != root.as_path()) {
        create_dir(parent).await.map_err(|e| io_error(e, parent))?;
    }
    let mut file = create(&full).await.map_err(|e| io_error(e, &full))?;
    let mut start = 0;
    for (member, size, mut content) in contents {
        let mut end = 0;
        while let Some(block) = content.try_next().await.map_err(|e| e.about(&member.name))? {
            if block.offset != end {
                file.seek(std::io::SeekFrom::Start(start + block.offset))
                    .await
                    .map_err(|e| io_error(e, &full))?;
            }
            file.write_all(&block.bytes).await.map_err(|e| io_error(e, &full))?;
            end = block.offset + block.bytes.len() as u64;
            ctx.progress(Progress::Bytes(block.bytes.len() as u64));
        }
        if end > size || (member.layout == Layout::Stream && end != size) {
            return Err(
                Error::corrupt(format!("{end} bytes came back of a member of {size}")).about(member.name)
            );
        }
        start += size;
        file.flush().await.map_err(|e| io_error(e, &full))?;
        if end < size {
            file.set_len(start).await.map_err(|e| io_error(e, &full))?;
            file.seek(std::io::SeekFrom::Start(start)).await.map_err(|e| io_error(e, &full))?;
        }
        ctx.progress(Progress::Item(member.name));
    }
    file.sync_all().await.map_err(|e| io_error(e, &full))
}

async fn write_text(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let write = async {
        let mut file = create(&path).await?;
        file.write_all(text.as_bytes()).await?;
        file.flush().await?;
        file.sync_all().await
    };
    write.await.map_err(|e| io_error(e, &path))
}

/// Opens a new file for its owner alone.
async fn create(path: &Path) -> std::io::Result<tokio::fs::File> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path).await
}

async fn create_dir(path: &Path) -> std::io::Result<()> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(path).await
}

/// Makes the folder, or finds it empty. Gives whether it was made.
async fn make_folder(folder: &Path) -> Result<bool> {
    match tokio::fs::read_dir(folder).await {
        Ok(mut entries) => match entries.next_entry().await {
            Ok(None) => Ok(false),
            Ok(Some(_)) => Err(Error::new(ErrorKind::AlreadyExists, "the folder is not empty")
                .about(folder.display().to_string())
                .with_hint("name a new or an empty folder; nothing is ever overwritten")),
            Err(error) => Err(io_error(error, folder)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create_dir(folder).await.map_err(|e| io_error(e, folder))?;
            Ok(true)
        }
        Err(error) => Err(io_error(error, folder)),
    }
}

/// Removes what was written: the folder was new or empty, so all that is in it is ours.
async fn undo(folder: &Path, made: bool, error: Error) -> Error {
    let cleared = async {
        if made {
            return tokio::fs::remove_dir_all(folder).await;
        }
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_type().await?.is_dir() {
                tokio::fs::remove_dir_all(entry.path()).await?;
            } else {
                tokio::fs::remove_file(entry.path()).await?;
            }
        }
        Ok(())
    };
    match cleared.await {
        Ok(()) => error.with_effect(Effect::None),
        Err(second) => {
            tracing::warn!(folder = %folder.display(), error = %second, "an unfinished export could not be removed");
            error
                .with_effect(Effect::Partial)
                .with_hint(format!("remove the unfinished export by hand: {} ({second})", folder.display()))
        }
    }
}

fn io_error(error: std::io::Error, path: &Path) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, hint) = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "choose a folder that can be written")
        }
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => {
            (ErrorKind::Exhausted, "free space or choose another disk")
        }
        Io::AlreadyExists => (ErrorKind::AlreadyExists, "name a new or an empty folder"),
        Io::NotADirectory => (ErrorKind::Invalid, "name a folder, not a file"),
        _ => (ErrorKind::Unreachable, "look after the disk, then try again"),
    };
    Error::new(kind, "the export could not be written")
        .about(path.display().to_string())
        .with_hint(hint)
        .with_source(error)
}
