//! The places that checkpoints of the audit trail are taken to: the backup repository, a folder, a webhook.

use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use dm_audit::{Anchor, SignedCheckpoint};
use dm_core::{Error, ErrorKind, OpContext, Result, redact_url};
use dm_repository::Repository;

use crate::DataManager;
use crate::webhook::Webhook;

/// Checkpoints that a verification reads from a place: the newest, and others evenly between, which narrow down where a
/// rewrite began.
const READ_BACK: usize = 32;

impl DataManager {
    /// The anchors that are configured.
    ///
    /// # Errors
    /// `Invalid` for a text that names no place.
    pub(crate) fn anchors(&self) -> Result<Vec<Box<dyn Anchor + '_>>> {
        self.config.audit.anchors.iter().map(|text| self.anchor(text)).collect()
    }

    fn anchor(&self, text: &str) -> Result<Box<dyn Anchor + '_>> {
        if text == "repository" {
            return Ok(Box::new(InRepository { dm: self }));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Box::new(Webhook::new(text, "audit.anchors")?));
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        if path.is_absolute() {
            return Ok(Box::new(Folder { name: path.display().to_string(), path: path.to_owned() }));
        }
        Err(Error::invalid(format!("\"{}\" is no place for checkpoints", redact_url(text)))
            .about("audit.anchors")
            .with_hint("write \"repository\", an absolute path, or https://…"))
    }
}

/// The newest, and some of those before it.
fn spread<T>(mut sorted: Vec<T>) -> Vec<T> {
    let step = sorted.len().div_ceil(READ_BACK).max(1);
    let last = sorted.len().saturating_sub(1);
    let mut at = 0;
    sorted.retain(|_| {
        at += 1;
        (last + 1 - at).is_multiple_of(step)
    });
    sorted
}

struct InRepository<'a> {
    dm: &'a DataManager,
}

impl std::fmt::Debug for InRepository<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InRepository")
    }
}

impl InRepository<'_> {
    async fn open(&self, ctx: &OpContext) -> Result<Repository> {
        self.dm.repository.open(ctx).await
    }
}

#[async_trait]
impl Anchor for InRepository<'_> {
    fn name(&self) -> &str {
        "repository"
    }

    async fn publish(&self, ctx: &OpContext, checkpoint: &SignedCheckpoint) -> Result<()> {
        let repository = self.open(ctx).await?;
        repository.put_checkpoint(ctx, &checkpoint.origin, checkpoint.size, &checkpoint.note).await
    }

    async fn kept(&self, ctx: &OpContext, origin: &str) -> Result<Vec<String>> {
        let repository = self.open(ctx).await?;
        let mut notes = Vec::new();
        for entry in spread(repository.list_checkpoints(ctx, origin).await?) {
            notes.push(repository.read_checkpoint(ctx, origin, &entry).await?);
        }
        Ok(notes)
    }
}

/// A folder, on another host's disk or on one that only appends. One file a checkpoint, never replaced.
#[derive(Debug)]
struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    fn write(&self, checkpoint: &SignedCheckpoint) -> std::io::Result<()> {
        // The root is in the name: another tree of the same size stands beside this one.
        let name =
            format!("{:020}-{}.note", checkpoint.size, &checkpoint.root[..32.min(checkpoint.root.len())]);
        let path = self.path.join(&name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == checkpoint.note) {
            return Ok(());
        }
        let mut file = std::fs::File::create_new(&path)?;
        file.write_all(checkpoint.note.as_bytes())?;
        file.sync_all()?;
        std::fs::File::open(&self.path)?.sync_all()
    }

    fn read(&self) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "note") {
                names.push(path);
            }
        }
        names.sort();
        spread(names).iter().map(std::fs::read_to_string).collect()
    }
}

#[async_trait]
impl Anchor for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    async fn publish(&self, _: &OpContext, checkpoint: &SignedCheckpoint) -> Result<()> {
        // The folder itself is never made: one that is not mounted must not be taken for the real one.
        self.write(checkpoint).map_err(|e| io(e, &self.name, "the checkpoint cannot be written"))
    }

    async fn kept(&self, _: &OpContext, _: &str) -> Result<Vec<String>> {
        self.read().map_err(|e| io(e, &self.name, "the checkpoints cannot be read"))
    }
}

fn io(error: std::io::Error, about: &str, message: &str) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, message).about(about.to_owned()).with_source(error)
}

/// A POST of the checkpoint's text; it cannot be read back.
#[async_trait]
impl Anchor for Webhook {
    fn name(&self) -> &str {
        self.address()
    }

    async fn publish(&self, ctx: &OpContext, checkpoint: &SignedCheckpoint) -> Result<()> {
        self.post(ctx, "text/plain; charset=utf-8", checkpoint.note.clone().into()).await
    }

    async fn kept(&self, _: &OpContext, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_always_among_those_read() {
        for n in [0, 1, 2, 31, 32, 33, 64, 1000] {
            let some = spread((0..n).collect::<Vec<usize>>());
            assert_eq!(some.last().copied(), n.checked_sub(1), "{n}");
            assert!(some.len() <= READ_BACK && some.len() >= n.min(READ_BACK / 2), "{n}: {}", some.len());
        }
    }
}
