//! Mending a place from its copy: what a verification finds missing or damaged is put back, each object with its digest.

use std::collections::BTreeSet;

use dm_core::{Error, ErrorKind, Finding, Level, OpContext, Progress, Result};
use object_store::path::Path;
use serde::Serialize;

use crate::index::PageReader;
use crate::lease::Purpose;
use crate::reader::is_finding;
use crate::repository::Repository;
use crate::verify::{Expected, expected};
use crate::{BackupHeader, document, keys, paths};

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects looked at.
    pub objects: u64,
    /// Objects that were missing or damaged and are whole again.
    pub mended: Vec<String>,
    /// Objects that are damaged still, and why.
    pub problems: Vec<Finding>,
}

impl Repository {
    /// Reads every object that a backup needs, and replaces what is missing or damaged by what the copy has, if that is whole.
    /// What is whole is not touched. Needs no key.
    ///
    /// What cannot be mended is in the report.
    ///
    /// # Errors
    /// `Conflict` when `copy` is no copy of this repository; `Denied` when this place may only be read or appended to;
    /// either store's.
    ///
    /// # Cancellation
    /// Safe between objects. One that was being replaced may be missing afterwards, as it was useless before; a repair
    /// puts it back.
    pub async fn repair_from(
        &self,
        ctx: &OpContext,
        copy: &Self,
        header: &BackupHeader,
    ) -> Result<RepairReport> {
        if copy.id() != self.id() {
            return Err(Error::new(ErrorKind::Conflict, "the two places hold different repositories")
                .with_hint("open the second place as a copy of the first"));
        }
        let here = ctx.run(self.lease_for(ctx, header, Purpose::Verify)).await?;
        let there = ctx.run(copy.lease_for(ctx, header, Purpose::Read)).await?;
        let report = self.mend(ctx, copy, header).await;
        for lease in [here, there].into_iter().flatten() {
            lease.let_go().await;
        }
        report
    }

    async fn mend(&self, ctx: &OpContext, copy: &Self, header: &BackupHeader) -> Result<RepairReport> {
        let mut report = RepairReport::default();
        let target = &header.target;
        let list = Expected {
            key: paths::inventory(target, header.id),
            size: header.inventory.size,
            digest: header.inventory.digest.clone(),
        };
        ctx.progress(Progress::Phase { name: "mending", total_bytes: None });
        self.mend_object(ctx, copy, &list, &mut report).await?;
        if !report.problems.is_empty() {
            return Ok(report);
        }
        let pages = PageReader { repository: std::sync::Arc::clone(&self.inner), target: target.clone() };
        let inventory = ctx.run(pages.inventory(header)).await?;
        for object in expected(target, &inventory) {
            if object.key.as_ref().ends_with(".age") && self.has_later_key(ctx, &object.key).await? {
                continue;
            }
            self.mend_object(ctx, copy, &object, &mut report).await?;
        }
        let owners: BTreeSet<_> = inventory.keys.iter().map(|k| k.id.backup).collect();
        for owner in owners {
            self.mend_keys(ctx, copy, &paths::keys(target, owner), &mut report).await?;
        }
        self.mend_keys(ctx, copy, &paths::recipients(), &mut report).await?;
        Ok(report)
    }

    /// Whether a key object is not missed, because a rewrap put another in its place and its keys were deleted.
    async fn has_later_key(&self, ctx: &OpContext, key: &Path) -> Result<bool> {
        if ctx.run(self.inner.storage.exists(key)).await? {
            return Ok(false);
        }
        let folder = key.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
        let there = ctx.run(self.inner.storage.list(&Path::from(folder))).await?;
        Ok(there.iter().any(|other| other.location > *key))
    }

    /// Puts back what a rewrap added and this place lost: key objects and records that only the copy has. No digest of them is
    /// recorded, so what is here is replaced only where it cannot be what it should.
    async fn mend_keys(
        &self,
        ctx: &OpContext,
        copy: &Self,
        folder: &Path,
        report: &mut RepairReport,
    ) -> Result<()> {
        let mut here: Vec<Path> = Vec::new();
        for object in ctx.run(self.inner.storage.list(folder)).await? {
            report.objects += 1;
            let bytes = ctx.run(self.inner.storage.get(&object.location)).await?;
            if is_whole(&object.location, &bytes) {
                here.push(object.location);
                continue;
            }
            let Some(bytes) = ctx.run(copy.inner.storage.find(&object.location)).await? else { continue };
            if is_whole(&object.location, &bytes) {
                ctx.check()?;
                self.inner.storage.delete(vec![object.location.clone()]).await?;
                self.inner.storage.create_own(&object.location, bytes).await?;
                report.mended.push(object.location.to_string());
                here.push(object.location);
            }
        }
        let newest = here.into_iter().max();
        for object in ctx.run(copy.inner.storage.list(folder)).await? {
            let key = object.location;
            // What is older than the newest here was deleted here.
            if newest.as_ref().is_some_and(|newest| key <= *newest) {
                continue;
            }
            let bytes = ctx.run(copy.inner.storage.get(&key)).await?;
            if is_whole(&key, &bytes) {
                ctx.run(self.inner.storage.create(&key, bytes)).await?;
                report.objects += 1;
                report.mended.push(key.to_string());
            }
        }
        Ok(())
    }

    async fn mend_object(
        &self,
        ctx: &OpContext,
        copy: &Self,
        object: &Expected,
        report: &mut RepairReport,
    ) -> Result<()> {
        report.objects += 1;
        let damage = match ctx.run(self.check_bytes(object)).await {
            Ok(bytes) => {
                ctx.progress(Progress::Bytes(bytes));
                return Ok(());
            }
            Err(error) if is_finding(&error) => error,
            Err(error) => return Err(error.about(object.key.as_ref())),
        };
        let name = object.key.to_string();
        match ctx.run(copy.check_bytes(object)).await {
            Ok(_) => {}
            Err(error) if is_finding(&error) => {
                let text = format!("{name}: {damage}; and in the copy: {error}");
                report.problems.push(
                    Finding::new(Level::Error, "repair", text).with_mend(
                        "the backup is damaged in both places; try another copy, or another backup",
                    ),
                );
                return Ok(());
            }
            Err(error) => return Err(error.about(name)),
        }
        let bytes = ctx.run(copy.inner.storage.get_large(&object.key)).await?;
        ctx.check()?;
        // From here on it is not interrupted: between these two the object is missing.
        self.inner.storage.delete(vec![object.key.clone()]).await?;
        self.inner.storage.create_own(&object.key, bytes).await?;
        self.check_bytes(object).await.map_err(|e| e.about(&name))?;
        ctx.progress(Progress::Item(name.clone()));
        report.mended.push(name);
        Ok(())
    }
}

/// Whether it can be what its name says: an age file, or a document whose digest holds.
fn is_whole(key: &Path, bytes: &[u8]) -> bool {
    match key.extension() {
        Some("age") => keys::recipients_in(bytes).is_some_and(|n| n > 0),
        _ => document::read::<serde_json::Value>(crate::recipients::FORMAT, bytes).is_ok(),
    }
}
