//! A local folder as a store: durable, private, and without leftovers of crashed writes.
//!
//! `object_store`'s own local store writes to a temporary name, syncs, links under the final name and syncs the
//! folder; this wrapper adds what it does not do. Folders are made 0700 *before* anything is written into them, so
//! that no file is readable by others even for the moment between its creation and its chmod to 0600.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dm_core::{Error, Result as CoreResult};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

#[derive(Debug)]
pub(crate) struct LocalStore {
    inner: Arc<LocalFileSystem>,
    root: PathBuf,
}

impl LocalStore {
    /// Opens a folder, making it when it is missing.
    pub(crate) fn open(folder: &FsPath) -> CoreResult<Self> {
        let subject = folder.display().to_string();
        let failed = |error: io::Error| {
            crate::error::store_error(
                object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) },
                &subject,
            )
        };
        if !folder.is_dir() {
            make_folders(folder).map_err(failed)?;
        }
        let root = folder.canonicalize().map_err(failed)?;
        let inner = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| {
                Error::invalid("not a usable folder").about(subject.as_str()).with_source(error)
            })?
            .with_fsync(true);
        Ok(Self { inner: Arc::new(inner), root })
    }

    fn file(&self, key: &Path) -> PathBuf {
        key.parts().fold(self.root.clone(), |path, part| path.join(part.as_ref()))
    }
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) }
}

/// Makes a folder and its missing parents, 0700, each durable in its parent.
fn make_folders(folder: &FsPath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => FsPath::new("."),
    };
    make_folders(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    fs::File::open(parent)?.sync_all()
}

/// Whether a file name is that of an upload that never ended (`00000003.pack#1`). `#` stands in no key of ours.
fn is_staging(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
}

/// Removes what crashed uploads left in the folder of a deleted object and beside it, then folders that are empty.
/// Backups are deleted from by the sweep, in folders that nobody writes any more, and by a commit, when everything is durable.
fn tidy(root: &FsPath, file: &FsPath) {
    let Some(folder) = file.parent() else { return };
    let mut current = folder;
    // The backup's own folder and everything in it is dead once its objects are being deleted: look into the
    // sibling folders too, where a crash may have left a staging file and no object at all.
    if let Some(backup) = folder.parent().filter(|backup| {
        backup
            .strip_prefix(root)
            .is_ok_and(|inside| inside.starts_with("backups") && inside.components().count() == 3)
    }) {
        for sibling in fs::read_dir(backup).into_iter().flatten().flatten() {
            clear_staging(&sibling.path());
            let _ = fs::remove_dir(sibling.path());
        }
    }
    while current.starts_with(root) && current != root {
        if current.strip_prefix(root).is_ok_and(|inside| inside.starts_with("backups")) {
            clear_staging(current);
        }
        if fs::remove_dir(current).is_err() {
            return;
        }
        let Some(parent) = current.parent() else { return };
        current = parent;
    }
}

fn clear_staging(folder: &FsPath) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_staging) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let file = self.file(key);
        let parent = file.parent().map(FsPath::to_path_buf);
        tokio::task::spawn_blocking(move || parent.map_or(Ok(()), |p| make_folders(&p)))
            .await?
            .map_err(generic)?;
        let result = self.inner.put_opts(key, payload, options).await?;
        // The mode is a courtesy (the folders keep others out); a file system without modes is no reason to fail.
        let _ = fs::set_permissions(&file, fs::Permissions::from_mode(0o600));
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let root = self.root.clone();
        let inner = Arc::clone(&self.inner);
        let deleted = inner.delete_stream(keys);
        deleted
            .map(move |result| {
                let key = result?;
                let file = key.parts().fold(root.clone(), |path, part| path.join(part.as_ref()));
                tidy(&root, &file);
                Ok(key)
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let parent = self.file(to).parent().map(FsPath::to_path_buf);
        tokio::task::spawn_blocking(move || parent.map_or(Ok(()), |p| make_folders(&p)))
            .await?
            .map_err(generic)?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
