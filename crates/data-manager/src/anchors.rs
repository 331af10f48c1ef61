//! The places that checkpoints of the audit trail are taken to: the backup repository, a folder, a webhook.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use dm_audit::{Anchor, AuditLog, AuditVerification, Checkpoint, Kept, NoteVerifier, SignedCheckpoint};
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

    /// Reads the signed heads that the anchors have. Gives those that could not be read, with the reason.
    pub(crate) async fn read_anchors(
        &self,
        ctx: &OpContext,
        audit: &AuditLog,
        kept: &mut Vec<Kept>,
    ) -> Result<Vec<String>> {
        let keys = signers(audit).await?;
        let mut unread = Vec::new();
        for anchor in self.anchors()? {
            match heads_in(ctx, anchor.as_ref(), &keys, 0..u64::MAX).await {
                Ok(heads) => kept.extend(
                    heads.into_iter().map(|checkpoint| Kept { place: anchor.name().to_owned(), checkpoint }),
                ),
                Err(error) => unread.push(format!("{}: {error}", anchor.name())),
            }
        }
        Ok(unread)
    }

    /// Lets the anchors say more of where a rewrite began: each round leaves one of their heads, or none, of those that were
    /// read in the round before.
    pub(crate) async fn narrow(
        &self,
        ctx: &OpContext,
        audit: &AuditLog,
        verification: &mut AuditVerification,
    ) -> Result<()> {
        let keys = signers(audit).await?;
        for anchor in self.anchors()? {
            while let Some(span) = &verification.rewritten {
                let heads = match heads_in(ctx, anchor.as_ref(), &keys, span.from..span.to).await {
                    Ok(heads) => heads,
                    Err(error) => {
                        verification.unread.push(format!("{}: {error}", anchor.name()));
                        break;
                    }
                };
                if !audit.narrow(verification, anchor.name(), &heads).await? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The keys that sign the trail, and that did: that of the key file first, which is not in the store.
pub(crate) async fn signers(audit: &AuditLog) -> Result<Vec<NoteVerifier>> {
    let mut keys: Vec<NoteVerifier> = audit.verifier().into_iter().collect();
    for vkey in audit.store().checkpoint_keys().await? {
        let key = vkey.parse()?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The signed heads of the trail that an anchor has, of these sizes.
async fn heads_in(
    ctx: &OpContext,
    anchor: &dyn Anchor,
    keys: &[NoteVerifier],
    sizes: Range<u64>,
) -> Result<Vec<Checkpoint>> {
    let mut heads = Vec::new();
    for key in keys {
        let notes = match anchor.kept(ctx, key.name(), sizes.clone()).await {
            Ok(notes) => notes,
            // Before the first backup there is no repository yet.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A folder may hold other trails' checkpoints as well; what is not signed by this key is not this one's.
        heads.extend(notes.iter().filter_map(|note| Checkpoint::open(note, key).ok()));
    }
    Ok(heads)
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

    async fn kept(&self, ctx: &OpContext, origin: &str, sizes: Range<u64>) -> Result<Vec<String>> {
        let repository = self.open(ctx).await?;
        let mut entries = repository.list_checkpoints(ctx, origin).await?;
        entries.retain(|entry| sizes.contains(&entry.size));
        let mut notes = Vec::new();
        for entry in spread(entries) {
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

/// The size in a file's name.
fn size_in(name: &str) -> Option<u64> {
    name.strip_suffix(".note")?.split_once('-')?.0.parse().ok()
}

impl Folder {
    fn write(&self, checkpoint: &SignedCheckpoint) -> std::io::Result<()> {
        // The root is in the name: another tree of the same size stands beside this one.
        let name =
            format!("{:020}-{}.note", checkpoint.size, &checkpoint.root[..32.min(checkpoint.root.len())]);
        let path = self.path.join(&name);
        let note = checkpoint.note.as_bytes();
        let (mut file, there) = match std::fs::File::create_new(&path) {
            Ok(file) => (file, 0),
            // Whoever wrote it may have died over it. The rest is appended: a folder may take nothing else.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let there = std::fs::read(&path)?;
                if !note.starts_with(&there) {
                    return Err(e);
                }
                (std::fs::File::options().append(true).open(&path)?, there.len())
            }
            Err(e) => return Err(e),
        };
        file.write_all(&note[there..])?;
        file.sync_all()?;
        std::fs::File::open(&self.path)?.sync_all()
    }

    fn read(&self, sizes: &Range<u64>) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let size = path.file_name().and_then(|name| name.to_str()).and_then(size_in);
            if size.is_some_and(|size| sizes.contains(&size)) {
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

    async fn kept(&self, _: &OpContext, _: &str, sizes: Range<u64>) -> Result<Vec<String>> {
        self.read(&sizes).map_err(|e| io(e, &self.name, "the checkpoints cannot be read"))
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

    async fn kept(&self, _: &OpContext, _: &str, _: Range<u64>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_what_it_has_and_gets_the_rest_of_what_was_cut() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder { name: "anchor".into(), path: place.path().to_owned() };
        let checkpoint = |note: &str| SignedCheckpoint {
            origin: "example.com/shop".into(),
            size: 7,
            root: "ab".repeat(32),
            note: note.into(),
        };
        folder.write(&checkpoint("all of it\n")).unwrap();
        let path = std::fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
        folder.write(&checkpoint("all of it\n")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "all of it\n");
        // Its writer died over it.
        for left in ["", "all"] {
            std::fs::write(&path, left).unwrap();
            folder.write(&checkpoint("all of it\n")).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "all of it\n");
        }
        let error = folder.write(&checkpoint("another\n")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(folder.read(&(0..8)).unwrap(), ["all of it\n"]);
        assert!(folder.read(&(0..7)).unwrap().is_empty());
    }

    #[test]
    fn the_newest_is_always_among_those_read() {
        for n in [0, 1, 2, 31, 32, 33, 64, 1000] {
            let some = spread((0..n).collect::<Vec<usize>>());
            assert_eq!(some.last().copied(), n.checked_sub(1), "{n}");
            assert!(some.len() <= READ_BACK && some.len() >= n.min(READ_BACK / 2), "{n}: {}", some.len());
        }
    }
}
