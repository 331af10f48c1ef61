//! Reading what is there: commits, marks, pins, verifications.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dm_core::{BackupId, Error, ErrorKind, Finding, Level, OpContext, Result, TargetName};
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::format::{BACKUP_FORMAT, PIN_FORMAT, PINS, VERIFICATION_FORMAT, VERIFICATIONS};
use crate::repository::Repository;
use crate::{BackupHeader, Hold, PinState, Verification, document, paths};

/// Small objects fetched at once.
const FETCHES: usize = 64;

/// The backups of a repository.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Whole backups, oldest first: by consistency point, a parent before its children.
    pub backups: Vec<BackupHeader>,
    /// What could not be read or does not fit together.
    pub problems: Vec<Finding>,
    /// The latest word on pins.
    pub pins: BTreeMap<BackupId, PinState>,
    /// The holds in force.
    pub holds: BTreeMap<BackupId, Vec<Hold>>,
    /// The latest verification of each.
    pub verified: BTreeMap<BackupId, Verification>,
    /// Backups that are marked for deletion.
    pub tombstoned: BTreeSet<BackupId>,
    /// Backups without a commit: running ones and what interrupted ones left.
    pub incomplete: BTreeSet<BackupId>,
}

/// A folder below `backups/<target>`.
#[derive(Debug)]
pub(crate) enum Folder {
    Committed(Box<BackupHeader>),
    Incomplete,
    /// There is a commit, and it cannot be read: it may reference anything.
    Unreadable(Error),
}

impl Repository {
    /// Lists the backups, of one target or of all. A part that cannot be read is a problem of the listing; the rest is
    /// listed.
    ///
    /// # Errors
    /// When the store cannot be listed: a listing is whole or it is an error.
    pub async fn list(&self, ctx: &OpContext, target: Option<&TargetName>) -> Result<Listing> {
        let mut listing = Listing::default();
        let targets = match target {
            Some(target) => vec![target.clone()],
            None => ctx.run(self.targets()).await?,
        };
        let mut all = Vec::new();
        for target in &targets {
            self.list_target(ctx, target, &mut listing, &mut all).await?;
        }
        listing.backups = in_order(all);
        Ok(listing)
    }

    /// The targets that have backups, or had.
    ///
    /// # Errors
    /// The store's.
    pub async fn targets(&self) -> Result<Vec<TargetName>> {
        let (folders, _) = self.inner.storage.children(Some(&paths::backups())).await?;
        Ok(folders.into_iter().filter_map(|f| TargetName::new(f).ok()).collect())
    }

    async fn list_target(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        listing: &mut Listing,
        all: &mut Vec<BackupHeader>,
    ) -> Result<()> {
        // Marks are read last: a backup that is marked in between is not listed.
        let folders = ctx.run(self.folders(target)).await?;
        let marked = ctx.run(self.marked(target)).await?;
        listing.tombstoned.extend(&marked);
        let mut committed: HashMap<BackupId, BackupHeader> = HashMap::new();
        for (id, folder) in folders {
            match folder {
                _ if marked.contains(&id) => {}
                Folder::Committed(header) => {
                    committed.insert(id, *header);
                }
                Folder::Incomplete => {
                    listing.incomplete.insert(id);
                }
                Folder::Unreadable(error) => {
                    let mut finding = Finding::new(Level::Error, "commit", error.to_string());
                    finding.mend = error.hint().map(str::to_owned);
                    listing.problems.push(finding);
                }
            }
        }
        let known: HashSet<BackupId> = committed.keys().copied().collect();
        for (id, header) in committed {
            match header.references.iter().find(|r| !known.contains(r)) {
                None => all.push(header),
                Some(gone) => listing.problems.push(
                    Finding::new(
                        Level::Error,
                        "references",
                        format!("backup {id} of {target} needs backup {gone}, which is deleted, marked or unreadable"),
                    )
                    .with_mend("take a new full backup; a sweep removes or restores what is marked"),
                ),
            }
        }
        let (holds, unreadable) = ctx.run(self.hold_records(target)).await?;
        listing.problems.extend(unreadable);
        let at = crate::holds::reference(ctx.now(), all.iter().filter(|h| h.target == *target));
        let in_force = holds.iter().map(|(id, records)| (*id, crate::holds::in_force(records, at)));
        listing.holds.extend(in_force.filter(|(_, holds)| !holds.is_empty()));
        let pins = ctx.run(self.records::<PinState>(PINS, PIN_FORMAT, target, &mut listing.problems)).await?;
        listing.pins.extend(pins);
        let verified = ctx
            .run(self.records::<Verification>(
                VERIFICATIONS,
                VERIFICATION_FORMAT,
                target,
                &mut listing.problems,
            ))
            .await?;
        for (id, _) in verified.iter().filter(|(id, _)| listing.incomplete.contains(id)) {
            listing.problems.extend(ctx.run(self.lost_commit(target, *id)).await?);
        }
        listing.verified.extend(verified);
        Ok(())
    }

    /// A backup that was verified was whole: without a commit and without a mark, its commit was lost.
    pub(crate) async fn lost_commit(&self, target: &TargetName, id: BackupId) -> Result<Option<Finding>> {
        let storage = &self.inner.storage;
        let key = paths::commit(target, id);
        let (_, records) = storage.children(Some(&paths::records_of(VERIFICATIONS, target, id))).await?;
        // It may have been committed, or marked, since it was looked at.
        if records.is_empty()
            || storage.exists(&key).await?
            || storage.exists(&paths::tombstone(target, id)).await?
        {
            return Ok(None);
        }
        let message = format!("{key}: backup {id} of {target} was whole once, and its commit is gone");
        let mend = format!(
            "put the object back from a copy; or give the backup up by deleting {}: the next sweep removes the rest",
            paths::records_of(VERIFICATIONS, target, id)
        );
        Ok(Some(Finding::new(Level::Error, "commit", message).with_mend(mend)))
    }

    /// The header of one backup.
    ///
    /// # Errors
    /// `NotFound` when there is none or it is marked, `Corrupt`, `Unsupported`; the store's.
    pub async fn header(&self, ctx: &OpContext, target: &TargetName, id: BackupId) -> Result<BackupHeader> {
        if ctx.run(self.inner.storage.exists(&paths::tombstone(target, id))).await? {
            return Err(Error::not_found("the backup is marked for deletion").about(id.to_string()));
        }
        match ctx.run(self.folder(target, id)).await? {
            Folder::Committed(header) => Ok(*header),
            Folder::Incomplete => Err(Error::not_found("there is no such backup").about(id.to_string())),
            Folder::Unreadable(error) => Err(error),
        }
    }

    /// Every backup folder of a target.
    pub(crate) async fn folders(&self, target: &TargetName) -> Result<Vec<(BackupId, Folder)>> {
        let (names, _) = self.inner.storage.children(Some(&paths::target(target))).await?;
        let ids: Vec<BackupId> = names.iter().filter_map(|n| n.parse().ok()).collect();
        futures::stream::iter(ids)
            .map(|id| async move { Ok((id, self.folder(target, id).await?)) })
            .buffered(FETCHES)
            .try_collect()
            .await
    }

    async fn folder(&self, target: &TargetName, id: BackupId) -> Result<Folder> {
        let key = paths::commit(target, id);
        let bytes = match self.inner.storage.find(&key).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Folder::Incomplete),
            // One object that cannot be read must not hide the others; a store that is away fails the listing.
            Err(error) if error.kind() == ErrorKind::Denied => return Ok(Folder::Unreadable(error)),
            Err(error) => return Err(error),
        };
        Ok(
            match document::read::<BackupHeader>(BACKUP_FORMAT, &bytes).and_then(|h| self.fits(target, id, h))
            {
                Ok(header) => Folder::Committed(Box::new(header)),
                Err(error) => Folder::Unreadable(error.about(key.as_ref())),
            },
        )
    }

    fn fits(&self, target: &TargetName, id: BackupId, header: BackupHeader) -> Result<BackupHeader> {
        if header.id != id || header.target != *target {
            return Err(Error::corrupt(format!(
                "this is the commit of backup {} of {}",
                header.id, header.target
            ))
            .with_hint("the folder was renamed or copied; put it back where it was"));
        }
        if header.repository != self.id() {
            return Err(Error::corrupt(format!(
                "this backup belongs to the repository {}",
                header.repository
            ))
            .with_hint("copy backups between repositories with this program, not by hand"));
        }
        Ok(header)
    }

    /// The backups of a target that are marked.
    pub(crate) async fn marked(&self, target: &TargetName) -> Result<BTreeSet<BackupId>> {
        let (_, files) = self.inner.storage.children(Some(&paths::tombstones(target))).await?;
        Ok(files.iter().filter_map(|f| f.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// The latest record of each backup; one that cannot be read is a problem, and the one before it counts.
    pub(crate) async fn records<T: DeserializeOwned>(
        &self,
        family: &str,
        format: &str,
        target: &TargetName,
        problems: &mut Vec<Finding>,
    ) -> Result<Vec<(BackupId, T)>> {
        let folder = paths::records(family, target);
        let mut numbers: BTreeMap<BackupId, BTreeSet<u32>> = BTreeMap::new();
        for object in self.inner.storage.list(&folder).await? {
            if let [id, file] = paths::inside(&object.location, &folder).as_slice()
                && let (Ok(id), Some(n)) = (id.parse(), paths::number(file, "json"))
            {
                numbers.entry(id).or_default().insert(n);
            }
        }
        let read = numbers.into_iter().map(|(id, numbers)| self.latest(family, format, target, id, numbers));
        let read: Vec<(BackupId, Option<T>, Vec<Finding>)> =
            futures::stream::iter(read).buffered(FETCHES).try_collect().await?;
        let mut latest = Vec::new();
        for (id, record, found) in read {
            latest.extend(record.map(|record| (id, record)));
            problems.extend(found);
        }
        Ok(latest)
    }

    /// The latest record of a backup that can be read, and what is wrong with later ones.
    async fn latest<T: DeserializeOwned>(
        &self,
        family: &str,
        format: &str,
        target: &TargetName,
        id: BackupId,
        numbers: BTreeSet<u32>,
    ) -> Result<(BackupId, Option<T>, Vec<Finding>)> {
        let mut problems = Vec::new();
        for n in numbers.into_iter().rev() {
            let key = paths::record(family, target, id, n);
            let Some(bytes) = self.inner.storage.find(&key).await? else { continue };
            match document::read::<T>(format, &bytes) {
                Ok(record) => return Ok((id, Some(record), problems)),
                Err(error) => {
                    problems.push(Finding::new(
                        Level::Error,
                        "record",
                        error.about(key.as_ref()).to_string(),
                    ));
                }
            }
        }
        Ok((id, None, problems))
    }
}

/// Oldest first by consistency point; a parent always before its children, whatever clocks said.
fn in_order(mut backups: Vec<BackupHeader>) -> Vec<BackupHeader> {
    backups.sort_by_key(|b| (b.consistency.at, b.started_at, b.id));
    let place: HashMap<BackupId, usize> = backups.iter().enumerate().map(|(i, b)| (b.id, i)).collect();
    let mut order = Vec::with_capacity(backups.len());
    let mut listed = vec![false; backups.len()];
    for start in 0..backups.len() {
        let mut line = Vec::new();
        let mut next = Some(start);
        while let Some(i) = next.filter(|i| !listed[*i]) {
            listed[i] = true;
            line.push(i);
            next = backups[i].parent.and_then(|p| place.get(&p).copied());
        }
        order.extend(line.into_iter().rev());
    }
    let mut slots: Vec<Option<BackupHeader>> = backups.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| slots[i].take()).collect()
}
