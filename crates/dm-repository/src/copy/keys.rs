//! What changing the recipients added: records of generations, key objects of backups that were copied before, keys of the log.

use std::collections::BTreeMap;

use dm_core::{Finding, Level, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::{Copying, Digest, Wanted};
use crate::{BackupHeader, Listing, paths};

/// Folders of keys looked at side by side.
const AT_ONCE: usize = 16;

impl Copying<'_> {
    /// The generations of recipients, in their order, and the keys of the log. Two places that were changed apart are told.
    pub(super) async fn recipients(&mut self) -> Result<()> {
        if !self.from.is_encrypted() {
            return Ok(());
        }
        for folder in [paths::recipients(), paths::log_keys()] {
            let (mut here, there) = self.small(&folder).await?;
            here.sort_unstable();
            for (key, size) in here {
                match there.get(&key) {
                    None => self.key_object(key, size).await?,
                    // Both are small; an index of their digests would be one more thing that could be wrong.
                    Some(_) if folder == paths::recipients() => self.compare(&key).await?,
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Key objects that were added to backups which the copy has already.
    pub(super) async fn keys(&mut self, here: &Listing, there: &Listing) -> Result<()> {
        // Nothing was ever rewrapped: no folder is looked at.
        let generations = self.ctx.run(self.from.inner.storage.children(Some(&paths::recipients()))).await?.1;
        if !self.from.is_encrypted() || generations.is_empty() {
            return Ok(());
        }
        let present = here.backups.iter().filter(|h| there.backups.iter().any(|t| t.id == h.id));
        let this = &*self;
        let looks = present.filter(|h| h.encrypted).map(|header| async move {
            let folder = paths::keys(&header.target, header.id);
            this.small(&folder).await
        });
        let looks: Vec<_> =
            futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        for (here, there) in looks {
            // Each place forgets by itself: what is older than the newest there was deleted there.
            let newest = there.keys().max().cloned();
            for (key, size) in here {
                if !there.contains_key(&key) && newest.as_ref().is_none_or(|newest| key > *newest) {
                    self.key_object(key, size).await?;
                }
            }
        }
        Ok(())
    }

    /// Of a backup that is being copied: what a rewrap added goes with it, and what it replaced is not missed.
    pub(super) async fn later_keys(&self, header: &BackupHeader, wanted: &mut Vec<Wanted>) -> Result<()> {
        if !header.encrypted {
            return Ok(());
        }
        let folder = paths::keys(&header.target, header.id);
        let storage = &self.from.inner.storage;
        let here: BTreeMap<Path, u64> = self
            .ctx
            .run(storage.list_as(&folder, |object| (object.location, object.size)))
            .await?
            .into_iter()
            .collect();
        if here.is_empty() {
            return Ok(());
        }
        wanted.retain(|object| !object.key.prefix_matches(&folder) || here.contains_key(&object.key));
        for (key, size) in here {
            if wanted.iter().all(|object| object.key != key) {
                wanted.push(Wanted { key, size, digest: Digest::Sealed });
            }
        }
        Ok(())
    }

    async fn small(&self, folder: &Path) -> Result<(Vec<(Path, u64)>, BTreeMap<Path, u64>)> {
        let list = |object: object_store::ObjectMeta| (object.location, object.size);
        let here = self.ctx.run(self.from.inner.storage.list_as(folder, list)).await?;
        let there = self.ctx.run(self.to.inner.storage.list_as(folder, list)).await?;
        Ok((here, there.into_iter().collect()))
    }

    async fn key_object(&mut self, key: Path, size: u64) -> Result<()> {
        self.report.keys += 1;
        if self.options.dry_run {
            return Ok(());
        }
        let digest = if key.as_ref().ends_with(".age") { Digest::Sealed } else { Digest::Unknown };
        match self.send(vec![Wanted { key: key.clone(), size, digest }]).await {
            Err(error) if super::concerns_one_backup(&error) => {
                self.report.keys -= 1;
                let mut finding = Finding::new(Level::Error, "copy", error.to_string());
                finding.mend = error.hint().map(str::to_owned);
                self.report.problems.push(finding);
                Ok(())
            }
            sent => sent,
        }
    }

    async fn compare(&mut self, key: &Path) -> Result<()> {
        let here = self.ctx.run(self.from.inner.storage.get(key)).await?;
        let there = self.ctx.run(self.to.inner.storage.get(key)).await?;
        if here != there {
            self.report.problems.push(
                Finding::new(
                    Level::Error,
                    "copy",
                    format!("{key} is another one in the copy: the recipients were changed in both places"),
                )
                .with_mend(
                    "recipients are changed in the primary place alone; remove this object from the place that is wrong, and copy again",
                ),
            );
        }
        Ok(())
    }
}
