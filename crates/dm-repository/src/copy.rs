//! Copying to a second place (§14): each backup whole, its commit last, and the log.
//!
//! A copy is the same repository in another store, object by object: the same id, the same bytes, no key needed. Each place
//! forgets by itself, so that a deletion here, wanted or not, takes nothing away there.

mod keys;
mod records;

use std::collections::BTreeMap;

use bytes::Bytes;
use dm_core::{BackupId, Effect, Error, ErrorKind, Finding, Level, OpContext, Progress, Result, TargetName};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use serde::Serialize;

use crate::format::BACKUP_FORMAT;
use crate::index::PageReader;
use crate::lease::{self, Lease, Purpose};
use crate::repository::Repository;
use crate::verify::{Expected, expected};
use crate::{BackupHeader, Listing, document, paths, tombstone};

/// The most objects on their way at once, whatever memory there is.
const MAX_AT_ONCE: usize = 8;

/// What to copy.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// Only the backups and the log of this target; all when `None`.
    pub target: Option<TargetName>,
    /// Only says what the copy lacks.
    pub dry_run: bool,
}

/// A backup that was (or would be) copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopiedBackup {
    /// Its target.
    pub target: TargetName,
    /// The backup.
    pub id: BackupId,
    /// Objects that the copy lacked, the commit included.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A backup that the copy lacks and that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftBackup {
    /// Its target.
    pub target: TargetName,
    /// The backup.
    pub id: BackupId,
    /// Why, with the way out.
    pub reason: String,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Backups that were (or would be) copied, parents first.
    pub backups: Vec<CopiedBackup>,
    /// Backups that the copy has to do without.
    pub left: Vec<LeftBackup>,
    /// Backups that the copy had already.
    pub present: u64,
    /// Objects of the log that were (or would be) copied.
    pub log_objects: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Signed checkpoints of audit trails that were (or would be) copied.
    pub checkpoints: u64,
    /// Records of changed recipients, and key objects that a rewrap added, that were (or would be) copied.
    pub keys: u64,
    /// Words on holds that were (or would be) copied.
    pub holds: u64,
    /// Pins that were (or would be) brought up to date.
    pub pins: u64,
    /// What could not be read in either place, or differs between them.
    pub problems: Vec<Finding>,
}

impl CopyReport {
    /// Whether the copy has everything that this repository has.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.left.is_empty() && self.problems.is_empty()
    }

    /// Bytes that were (or would be) copied.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log_bytes + self.backups.iter().map(|b| b.bytes).sum::<u64>()
    }
}

/// An object to be copied, and the digest that it must have.
struct Wanted {
    key: Path,
    size: u64,
    digest: Digest,
}

enum Digest {
    /// The whole BLAKE3 digest in hexadecimal.
    Whole(String),
    /// The beginning of it, as the names of log pieces carry it.
    Begins(String),
    /// None is known; a document carries its own.
    Unknown,
    /// None is known, but it has to be an age file.
    Sealed,
}

impl From<Expected> for Wanted {
    fn from(expected: Expected) -> Self {
        Self { key: expected.key, size: expected.size, digest: Digest::Whole(expected.digest) }
    }
}

/// A copy under way.
struct Copying<'a> {
    ctx: &'a OpContext,
    from: &'a Repository,
    to: &'a Repository,
    options: &'a CopyOptions,
    report: CopyReport,
}

impl Repository {
    /// Copies what another place lacks: backups (parents first, packs before the commit), log, and the latest word on pins.
    /// What is there already is not sent again, so that an interrupted copy goes on where it stopped. Every object is
    /// compared with its digest on the way: damage is not passed on. Reports bytes as [`Progress::Bytes`].
    ///
    /// What keeps one backup from being copied is in the report; the others are copied.
    ///
    /// # Errors
    /// `Conflict` when `copy` is no copy of this repository; `Busy` when it is in single-writer mode and another program
    /// is at work there; either store's.
    ///
    /// # Cancellation
    /// Safe at any point: a backup is there whole or not at all; the next copy goes on.
    pub async fn copy_to(&self, ctx: &OpContext, copy: &Self, options: &CopyOptions) -> Result<CopyReport> {
        if copy.id() != self.id() {
            return Err(Error::new(ErrorKind::Conflict, "the two places hold different repositories")
                .with_hint("open the second place as a copy of the first"));
        }
        let here = self.list(ctx, options.target.as_ref()).await?;
        let there = copy.list(ctx, options.target.as_ref()).await?;
        let mut copying = Copying { ctx, from: self, to: copy, options, report: CopyReport::default() };
        for (place, listing) in [("here", &here), ("in the copy", &there)] {
            copying.report.problems.extend(listing.problems.iter().map(|problem| {
                let mut problem = problem.clone();
                problem.message = format!("{place}: {}", problem.message);
                problem
            }));
        }
        copying.recipients().await?;
        copying.backups(&here, &there).await?;
        copying.keys(&here, &there).await?;
        copying.pins(&here, &there).await?;
        copying.holds(&here, &there).await?;
        copying.log().await?;
        copying.checkpoints().await?;
        Ok(copying.report)
    }
}

impl Copying<'_> {
    async fn backups(&mut self, here: &Listing, there: &Listing) -> Result<()> {
        let mut present: BTreeMap<BackupId, &BackupHeader> =
            there.backups.iter().map(|header| (header.id, header)).collect();
        for header in &here.backups {
            self.ctx.check()?;
            if let Some(other) = present.get(&header.id) {
                self.report.present += 1;
                if *other != header {
                    self.report.problems.push(diverged(header));
                }
                continue;
            }
            let missing = header.references.iter().find(|id| !present.contains_key(id));
            let copied = if there.tombstoned.contains(&header.id) {
                Err(Error::new(ErrorKind::Conflict, "it was deleted in the copy and is on its way out there")
                    .with_hint(
                        "copy it again when the mark is gone (after seven days), or take another backup",
                    ))
            } else if let Some(missing) = missing {
                Err(Error::new(
                    ErrorKind::Conflict,
                    format!("it needs backup {missing}, which the copy lacks"),
                )
                .with_hint("take a full backup: it needs no other"))
            } else {
                self.backup(header).await
            };
            match copied {
                Ok(copied) => {
                    self.report.backups.push(copied);
                    present.insert(header.id, header);
                }
                Err(error) if concerns_one_backup(&error) => {
                    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                    let reason = format!("{error}{hint}");
                    self.report.left.push(LeftBackup {
                        target: header.target.clone(),
                        id: header.id,
                        reason,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn backup(&self, header: &BackupHeader) -> Result<CopiedBackup> {
        if self.options.dry_run {
            return self.objects(header).await;
        }
        let (target, id) = (Some(&header.target), Some(header.id));
        let (storage, lifetime) = (&self.to.inner.storage, self.to.inner.lifetime());
        let reading = self.ctx.run(self.from.lease_for(self.ctx, header, Purpose::Read)).await?;
        let writing = self.ctx.run(Lease::take(storage, lifetime, Purpose::Backup, target, id)).await?;
        let copied = self.under(header, &writing).await;
        writing.let_go().await;
        if let Some(lease) = reading {
            lease.let_go().await;
        }
        copied
    }

    /// The steps of a commit (§9.2) in the other place.
    async fn under(&self, header: &BackupHeader, lease: &Lease) -> Result<CopiedBackup> {
        let (target, id) = (&header.target, header.id);
        if self.to.single_writer() {
            self.to.refuse_others(lease).await?;
        }
        self.ctx.run(self.from.check_usable(target, id)).await?;
        // A sweep is as patient with it as with any backup that can be gone on with.
        let copying = paths::copying(target, id);
        let said = self.to.inner.storage.create(&copying, Bytes::from_static(b"1"));
        self.ctx.run(said).await?;
        let mut copied = self.objects(header).await?;
        let commit = self.ctx.run(self.from.inner.storage.get(&paths::commit(target, id))).await?;
        if document::read::<BackupHeader>(BACKUP_FORMAT, &commit)? != *header {
            return Err(Error::corrupt("the commit is another one than was listed").about(id.to_string()));
        }
        self.ctx.check()?;
        lease.prove().await?;
        self.to.inner.check_references(header).await?;
        copied.bytes += commit.len() as u64;
        // Where nothing may be deleted a byte stays.
        let storage = &self.to.inner.storage;
        lease::deleted(self.ctx.run(storage.delete(vec![copying])).await)?;
        // From here on it is no longer interrupted: it is done, or it takes itself back.
        storage.create_own(&paths::commit(target, id), commit).await.map_err(|e| match e.kind() {
            ErrorKind::Conflict => e,
            _ => e.with_effect(Effect::Unknown).with_hint("copy again: the commit may have arrived"),
        })?;
        if let Err(error) = self.to.inner.second_look(header, lease).await {
            tombstone::mark(storage, self.ctx, target, id, "withdrawn: its ground was deleted meanwhile")
                .await
                .map_err(|e| e.with_effect(Effect::Unknown))?;
            return Err(error);
        }
        Ok(copied)
    }

    /// Everything of a backup but its commit.
    async fn objects(&self, header: &BackupHeader) -> Result<CopiedBackup> {
        let (target, id) = (&header.target, header.id);
        let pages =
            PageReader { repository: std::sync::Arc::clone(&self.from.inner), target: target.clone() };
        let mut inventory = self.ctx.run(pages.inventory(header)).await?;
        // What belongs to others was copied with them.
        inventory.packs.retain(|s| s.id.backup == id);
        inventory.pages.retain(|s| s.id.backup == id);
        inventory.keys.retain(|s| s.id.backup == id);
        let mut wanted: Vec<Wanted> = expected(target, &inventory).into_iter().map(Wanted::from).collect();
        self.later_keys(header, &mut wanted).await?;
        wanted.push(Wanted {
            key: paths::inventory(target, id),
            size: header.inventory.size,
            digest: Digest::Whole(header.inventory.digest.clone()),
        });
        let folder = paths::backup(target, id);
        let there: BTreeMap<Path, u64> = self
            .ctx
            .run(self.to.inner.storage.list_as(&folder, |object| (object.location, object.size)))
            .await?
            .into_iter()
            .collect();
        for object in &wanted {
            if there.get(&object.key).is_some_and(|size| *size != object.size) {
                return Err(Error::new(ErrorKind::Conflict, "the copy holds another object of this name")
                    .about(object.key.as_ref())
                    .with_hint(
                        "remove the backup's folder from the copy, which has no commit of it, and copy again",
                    ));
            }
        }
        wanted.retain(|object| !there.contains_key(&object.key));
        let copied = CopiedBackup {
            target: target.clone(),
            id,
            objects: wanted.len() as u64 + 1,
            bytes: wanted.iter().map(|object| object.size).sum(),
        };
        if !self.options.dry_run {
            self.send(wanted).await?;
        }
        Ok(copied)
    }

    /// Copies objects side by side, each compared with its digest.
    async fn send(&self, wanted: Vec<Wanted>) -> Result<()> {
        let total = wanted.iter().map(|object| object.size).sum();
        self.ctx.progress(Progress::Phase { name: "copying", total_bytes: Some(total) });
        let at_once = self.from.inner.memory.packs.min(MAX_AT_ONCE);
        let sends = wanted.into_iter().map(|object| async move {
            self.send_one(&object).await.map_err(|e| e.about(object.key.as_ref()))?;
            Ok::<_, Error>(object.size)
        });
        let mut sent = futures::stream::iter(sends).buffer_unordered(at_once);
        while let Some(bytes) = self.ctx.run(sent.try_next()).await? {
            self.ctx.progress(Progress::Bytes(bytes));
        }
        Ok(())
    }

    async fn send_one(&self, object: &Wanted) -> Result<()> {
        let bytes = self.from.inner.storage.get_large(&object.key).await?;
        let hashed = bytes.clone();
        let digest = self.from.inner.cpu.run(move || blake3::hash(&hashed).to_hex().to_string()).await?;
        let sound = bytes.len() as u64 == object.size
            && match &object.digest {
                Digest::Whole(wanted) => digest == *wanted,
                Digest::Begins(wanted) => digest.starts_with(wanted.as_str()),
                Digest::Unknown => true,
                Digest::Sealed => crate::keys::recipients_in(&bytes).is_some_and(|n| n > 0),
            };
        if !sound {
            return Err(Error::corrupt("the stored bytes are not those that were written")
                .with_hint("verify the backup; the copy does not take damaged objects"));
        }
        self.to.inner.storage.create_own(&object.key, bytes).await
    }
}

/// Whether the other backups can be copied all the same.
fn concerns_one_backup(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::NotFound)
        && error.effect() != Effect::Unknown
}

fn diverged(header: &BackupHeader) -> Finding {
    Finding::new(
        Level::Error,
        "copy",
        format!("backup {} of {} is another one in the copy than here", header.id, header.target),
    )
    .with_mend("verify the backup in both places; delete the damaged one there, and copy again")
}
