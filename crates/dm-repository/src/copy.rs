//! Copying to a second place (§14): each backup whole, its commit last, and the log.
//!
//! A copy is the same repository in another store, object by object: the same id, the same bytes, no key needed. Each place
//! forgets by itself, so that a deletion here, wanted or not, takes nothing away there.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{BackupId, Effect, Error, ErrorKind, Finding, Level, OpContext, Progress, Result, TargetName};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use serde::Serialize;

use crate::format::{BACKUP_FORMAT, PIN_FORMAT, PINS};
use crate::index::PageReader;
use crate::lease::{Lease, Purpose};
use crate::logs::named_digest;
use crate::repository::Repository;
use crate::verify::{Expected, expected};
use crate::{BackupHeader, Listing, PinState, document, paths, tombstone};

/// The most objects on their way at once, whatever memory there is.
const MAX_AT_ONCE: u64 = 8;

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
}

impl From<Expected> for Wanted {
    fn from(expected: Expected) -> Self {
        Self { key: expected.key, size: expected.size, digest: Digest::Whole(expected.digest) }
    }
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
        let mut report = CopyReport::default();
        for (place, listing) in [("here", &here), ("in the copy", &there)] {
            report.problems.extend(listing.problems.iter().map(|problem| {
                let mut problem = problem.clone();
                problem.message = format!("{place}: {}", problem.message);
                problem
            }));
        }
        self.copy_backups(ctx, copy, options, (&here, &there), &mut report).await?;
        self.copy_pins(ctx, copy, options, (&here, &there), &mut report).await?;
        self.copy_log(ctx, copy, options, &mut report).await?;
        self.copy_checkpoints(ctx, copy, options, &mut report).await?;
        Ok(report)
    }

    async fn copy_backups(
        &self,
        ctx: &OpContext,
        copy: &Self,
        options: &CopyOptions,
        (here, there): (&Listing, &Listing),
        report: &mut CopyReport,
    ) -> Result<()> {
        let mut present: BTreeMap<BackupId, &BackupHeader> =
            there.backups.iter().map(|header| (header.id, header)).collect();
        for header in &here.backups {
            ctx.check()?;
            if let Some(other) = present.get(&header.id) {
                report.present += 1;
                if *other != header {
                    report.problems.push(diverged(header));
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
                self.copy_backup(ctx, copy, header, options.dry_run).await
            };
            match copied {
                Ok(copied) => {
                    report.backups.push(copied);
                    present.insert(header.id, header);
                }
                Err(error) if concerns_one_backup(&error) => {
                    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                    let reason = format!("{error}{hint}");
                    report.left.push(LeftBackup { target: header.target.clone(), id: header.id, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn copy_backup(
        &self,
        ctx: &OpContext,
        copy: &Self,
        header: &BackupHeader,
        dry_run: bool,
    ) -> Result<CopiedBackup> {
        if dry_run {
            return self.copy_objects(ctx, copy, header, true).await;
        }
        let (target, id) = (Some(&header.target), Some(header.id));
        let (storage, lifetime) = (&copy.inner.storage, copy.inner.lifetime());
        let reading = ctx.run(self.lease_for(ctx, header, Purpose::Read)).await?;
        let writing = ctx.run(Lease::take(storage, lifetime, Purpose::Backup, target, id)).await?;
        let copied = self.copy_under(ctx, copy, header, &writing).await;
        writing.let_go().await;
        if let Some(lease) = reading {
            lease.let_go().await;
        }
        copied
    }

    /// The steps of a commit (§9.2) in the other place.
    async fn copy_under(
        &self,
        ctx: &OpContext,
        copy: &Self,
        header: &BackupHeader,
        lease: &Lease,
    ) -> Result<CopiedBackup> {
        let (target, id) = (&header.target, header.id);
        if copy.single_writer() {
            copy.refuse_others(lease).await?;
        }
        ctx.run(self.check_usable(target, id)).await?;
        let mut copied = self.copy_objects(ctx, copy, header, false).await?;
        let commit = ctx.run(self.inner.storage.get(&paths::commit(target, id))).await?;
        if document::read::<BackupHeader>(BACKUP_FORMAT, &commit)? != *header {
            return Err(Error::corrupt("the commit is another one than was listed").about(id.to_string()));
        }
        ctx.check()?;
        lease.prove().await?;
        copy.inner.check_references(header).await?;
        copied.bytes += commit.len() as u64;
        // From here on it is no longer interrupted: it is done, or it takes itself back.
        let storage = &copy.inner.storage;
        storage.create_own(&paths::commit(target, id), commit).await.map_err(|e| match e.kind() {
            ErrorKind::Conflict => e,
            _ => e.with_effect(Effect::Unknown).with_hint("copy again: the commit may have arrived"),
        })?;
        if let Err(error) = copy.inner.second_look(header, lease).await {
            tombstone::mark(storage, ctx, target, id, "withdrawn: its ground was deleted meanwhile")
                .await
                .map_err(|e| e.with_effect(Effect::Unknown))?;
            return Err(error);
        }
        Ok(copied)
    }

    /// Everything of a backup but its commit.
    async fn copy_objects(
        &self,
        ctx: &OpContext,
        copy: &Self,
        header: &BackupHeader,
        dry_run: bool,
    ) -> Result<CopiedBackup> {
        let (target, id) = (&header.target, header.id);
        let pages = PageReader { repository: std::sync::Arc::clone(&self.inner), target: target.clone() };
        let mut inventory = ctx.run(pages.inventory(header)).await?;
        // What belongs to others was copied with them.
        inventory.packs.retain(|s| s.id.backup == id);
        inventory.pages.retain(|s| s.id.backup == id);
        inventory.keys.retain(|s| s.id.backup == id);
        let mut wanted: Vec<Wanted> = expected(target, &inventory).into_iter().map(Wanted::from).collect();
        wanted.push(Wanted {
            key: paths::inventory(target, id),
            size: header.inventory.size,
            digest: Digest::Whole(header.inventory.digest.clone()),
        });
        let folder = paths::backup(target, id);
        let there: BTreeMap<Path, u64> = ctx
            .run(copy.inner.storage.list_as(&folder, |object| (object.location, object.size)))
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
        if !dry_run {
            self.send(ctx, copy, wanted).await?;
        }
        Ok(copied)
    }

    /// Copies objects side by side, each compared with its digest.
    async fn send(&self, ctx: &OpContext, copy: &Self, wanted: Vec<Wanted>) -> Result<()> {
        let total = wanted.iter().map(|object| object.size).sum();
        ctx.progress(Progress::Phase { name: "copying", total_bytes: Some(total) });
        let at_once =
            (self.inner.options.memory_bytes / self.inner.description.pack_bytes).clamp(2, MAX_AT_ONCE);
        let sends = wanted.into_iter().map(|object| async move {
            self.send_one(copy, &object).await.map_err(|e| e.about(object.key.as_ref()))?;
            Ok::<_, Error>(object.size)
        });
        let mut sent = futures::stream::iter(sends).buffer_unordered(usize::try_from(at_once).unwrap_or(2));
        while let Some(bytes) = ctx.run(sent.try_next()).await? {
            ctx.progress(Progress::Bytes(bytes));
        }
        Ok(())
    }

    async fn send_one(&self, copy: &Self, object: &Wanted) -> Result<()> {
        let bytes = self.inner.storage.get_large(&object.key).await?;
        let hashed = bytes.clone();
        let digest = self.inner.cpu.run(move || blake3::hash(&hashed).to_hex().to_string()).await?;
        let sound = bytes.len() as u64 == object.size
            && match &object.digest {
                Digest::Whole(wanted) => digest == *wanted,
                Digest::Begins(wanted) => digest.starts_with(wanted.as_str()),
                Digest::Unknown => true,
            };
        if !sound {
            return Err(Error::corrupt("the stored bytes are not those that were written")
                .with_hint("verify the backup; the copy does not take damaged objects"));
        }
        copy.inner.storage.create_own(&object.key, bytes).await
    }

    /// The later word counts in the copy as well.
    async fn copy_pins(
        &self,
        ctx: &OpContext,
        copy: &Self,
        options: &CopyOptions,
        (here, there): (&Listing, &Listing),
        report: &mut CopyReport,
    ) -> Result<()> {
        let copied: BTreeSet<BackupId> =
            there.backups.iter().map(|b| b.id).chain(report.backups.iter().map(|b| b.id)).collect();
        for header in here.backups.iter().filter(|header| copied.contains(&header.id)) {
            let Some(pin) = here.pins.get(&header.id) else { continue };
            if there.pins.get(&header.id).is_some_and(|known| known.at >= pin.at) {
                continue;
            }
            report.pins += 1;
            if !options.dry_run {
                ctx.run(copy.add_record::<PinState>(PINS, PIN_FORMAT, header, pin)).await?;
            }
        }
        Ok(())
    }

    /// The log: names that the copy lacks. What a name says is what the object holds, so names are all there is to compare.
    async fn copy_log(
        &self,
        ctx: &OpContext,
        copy: &Self,
        options: &CopyOptions,
        report: &mut CopyReport,
    ) -> Result<()> {
        let targets = match &options.target {
            Some(target) => vec![target.clone()],
            None => {
                let (folders, _) = ctx.run(self.inner.storage.children(Some(&Path::from("logs")))).await?;
                folders.into_iter().filter_map(|folder| TargetName::new(folder).ok()).collect()
            }
        };
        for target in targets {
            let folder = Path::from(paths::logs(&target));
            let there: BTreeSet<Path> = ctx
                .run(copy.inner.storage.list_as(&folder, |object| object.location))
                .await?
                .into_iter()
                .collect();
            let mut wanted =
                ctx.run(self.inner.storage.list_as(&folder, |object| (object.location, object.size))).await?;
            let quiet = newest_quiet(wanted.iter().map(|(key, _)| key));
            wanted.retain(|(key, _)| !there.contains(key) && (!is_quiet(key) || quiet.contains(key)));
            report.log_objects += wanted.len() as u64;
            report.log_bytes += wanted.iter().map(|(_, size)| size).sum::<u64>();
            if options.dry_run || wanted.is_empty() {
                continue;
            }
            let (quiet, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(key, _)| is_quiet(key));
            self.send(ctx, copy, wanted.into_iter().map(named).collect()).await?;
            for (key, _) in quiet {
                ctx.run(self.copy_quiet(copy, &key, &there)).await?;
            }
        }
        Ok(())
    }

    /// The checkpoints of audit trails, which belong to no target.
    async fn copy_checkpoints(
        &self,
        ctx: &OpContext,
        copy: &Self,
        options: &CopyOptions,
        report: &mut CopyReport,
    ) -> Result<()> {
        if options.target.is_some() {
            return Ok(());
        }
        let folder = Path::from("audit");
        let there: BTreeSet<Path> = ctx
            .run(copy.inner.storage.list_as(&folder, |object| object.location))
            .await?
            .into_iter()
            .collect();
        let mut wanted =
            ctx.run(self.inner.storage.list_as(&folder, |object| (object.location, object.size))).await?;
        wanted.retain(|(key, _)| !there.contains(key));
        report.checkpoints += wanted.len() as u64;
        if options.dry_run {
            return Ok(());
        }
        self.send(ctx, copy, wanted.into_iter().map(named).collect()).await
    }

    /// The record of a quiet time takes the place of its timeline's earlier ones. Whoever ships replaces them all the time: one
    /// that is gone meanwhile is left to the next copy.
    async fn copy_quiet(&self, copy: &Self, key: &Path, there: &BTreeSet<Path>) -> Result<()> {
        let Some(record) = self.inner.storage.find(key).await? else { return Ok(()) };
        let storage = &copy.inner.storage;
        storage.create(key, record).await?;
        let older = there.iter().filter(|old| is_quiet(old) && quiet_of(old) == quiet_of(key) && *old < key);
        if let Err(error) = storage.delete(older.cloned().collect()).await {
            // They are true all the same; the next record tries again.
            tracing::debug!(%error, "earlier records of a quiet log stay in the copy");
        }
        Ok(())
    }
}

/// An object whose name may carry the beginning of its digest.
fn named((key, size): (Path, u64)) -> Wanted {
    let digest = key.filename().and_then(named_digest);
    Wanted { key, size, digest: digest.map_or(Digest::Unknown, Digest::Begins) }
}

/// Whether it is the record of a quiet time: `logs/<target>/<stream>/quiet/<timeline>-…`.
fn is_quiet(key: &Path) -> bool {
    key.parts().nth(3).is_some_and(|part| part.as_ref() == "quiet")
}

/// The stream and timeline of such a record: all up to its first dash.
fn quiet_of(key: &Path) -> &str {
    let (folder, file) = key.as_ref().rsplit_once('/').unwrap_or_default();
    let timeline = file.split('-').next().unwrap_or_default();
    &key.as_ref()[..(folder.len() + 1 + timeline.len()).min(key.as_ref().len())]
}

/// The newest record of each stream and timeline; the names sort as what they say.
fn newest_quiet<'a>(keys: impl Iterator<Item = &'a Path>) -> BTreeSet<Path> {
    let mut newest: BTreeMap<&str, &Path> = BTreeMap::new();
    for key in keys.filter(|key| is_quiet(key)) {
        let known = newest.entry(quiet_of(key)).or_insert(key);
        *known = (*known).max(key);
    }
    newest.into_values().cloned().collect()
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
