//! What is copied beside backups: the latest word on pins, the log, checkpoints of audit trails.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{BackupId, Result, TargetName};
use object_store::path::Path;

use super::{Copying, Digest, Wanted};
use crate::format::{PIN_FORMAT, PINS};
use crate::holds::{HOLD_FORMAT, HOLDS};
use crate::log_expiry::Forgotten;
use crate::logs::named_digest;
use crate::{Listing, PinState, paths};

impl Copying<'_> {
    /// The later word counts in the copy as well.
    pub(super) async fn pins(&mut self, here: &Listing, there: &Listing) -> Result<()> {
        let copied: BTreeSet<BackupId> =
            there.backups.iter().map(|b| b.id).chain(self.report.backups.iter().map(|b| b.id)).collect();
        for header in here.backups.iter().filter(|header| copied.contains(&header.id)) {
            let Some(pin) = here.pins.get(&header.id) else { continue };
            if there.pins.get(&header.id).is_some_and(|known| known.at >= pin.at) {
                continue;
            }
            self.report.pins += 1;
            if !self.options.dry_run {
                self.ctx.run(self.to.add_record::<PinState>(PINS, PIN_FORMAT, header, pin)).await?;
            }
        }
        Ok(())
    }

    /// Every word on holds that the copy has not heard.
    pub(super) async fn holds(&mut self, here: &Listing, there: &Listing) -> Result<()> {
        let copied: BTreeSet<BackupId> =
            there.backups.iter().map(|b| b.id).chain(self.report.backups.iter().map(|b| b.id)).collect();
        let targets: BTreeSet<&TargetName> = here.backups.iter().map(|b| &b.target).collect();
        for target in targets {
            let (said, problems) = self.ctx.run(self.from.hold_records(target)).await?;
            if said.is_empty() && problems.is_empty() {
                continue;
            }
            let (heard, _) = self.ctx.run(self.to.hold_records(target)).await?;
            for header in here.backups.iter().filter(|h| h.target == *target && copied.contains(&h.id)) {
                let heard = heard.get(&header.id).map(Vec::as_slice).unwrap_or_default();
                for word in said.get(&header.id).into_iter().flatten().filter(|w| !heard.contains(w)) {
                    self.report.holds += 1;
                    if !self.options.dry_run {
                        self.ctx.run(self.to.add_record(HOLDS, HOLD_FORMAT, header, word)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The log: names that the copy lacks. What a name says is what the object holds, so names are all there is to compare.
    pub(super) async fn log(&mut self) -> Result<()> {
        let targets = match &self.options.target {
            Some(target) => vec![target.clone()],
            None => self.ctx.run(self.from.logged_targets()).await?,
        };
        for target in targets {
            let folder = Path::from(paths::logs(&target));
            let (mut wanted, there) = self.listed(&folder).await?;
            // Each place forgets by itself: what is expired in either is not brought to the copy, and marks stay where they are.
            for keys in [
                Forgotten::of(&folder, wanted.iter().map(|(key, _)| key)),
                Forgotten::of(&folder, there.iter()),
            ] {
                wanted.retain(|(key, size)| !keys.covers(&target, &folder, key, *size));
            }
            let quiet = newest_quiet(wanted.iter().map(|(key, _)| key));
            wanted.retain(|(key, _)| !there.contains(key) && (!is_quiet(key) || quiet.contains(key)));
            self.report.log_objects += wanted.len() as u64;
            self.report.log_bytes += wanted.iter().map(|(_, size)| size).sum::<u64>();
            if self.options.dry_run || wanted.is_empty() {
                continue;
            }
            let (quiet, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(key, _)| is_quiet(key));
            self.send(wanted.into_iter().map(named).collect()).await?;
            for (key, _) in quiet {
                self.ctx.run(self.quiet(&key, &there)).await?;
            }
        }
        Ok(())
    }

    /// The checkpoints of audit trails, which belong to no target.
    pub(super) async fn checkpoints(&mut self) -> Result<()> {
        if self.options.target.is_some() {
            return Ok(());
        }
        let folder = Path::from("audit");
        let (mut wanted, there) = self.listed(&folder).await?;
        wanted.retain(|(key, _)| !there.contains(key));
        self.report.checkpoints += wanted.len() as u64;
        if self.options.dry_run {
            return Ok(());
        }
        self.send(wanted.into_iter().map(named).collect()).await
    }

    /// What a folder holds here, with sizes, and what it holds in the copy.
    async fn listed(&self, folder: &Path) -> Result<(Vec<(Path, u64)>, BTreeSet<Path>)> {
        let (from, to) = (&self.from.inner.storage, &self.to.inner.storage);
        let here = self.ctx.run(from.list_as(folder, |object| (object.location, object.size))).await?;
        let there = self.ctx.run(to.list_as(folder, |object| object.location)).await?;
        Ok((here, there.into_iter().collect()))
    }

    /// The record of a quiet time takes the place of its timeline's earlier ones. Whoever ships replaces them all the time: one
    /// that is gone meanwhile is left to the next copy.
    async fn quiet(&self, key: &Path, there: &BTreeSet<Path>) -> Result<()> {
        let Some(record) = self.from.inner.storage.find(key).await? else { return Ok(()) };
        let storage = &self.to.inner.storage;
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
