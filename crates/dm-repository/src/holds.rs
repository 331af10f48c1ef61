//! Legal holds (§1, §9.3): a backup that is held is deleted by no rule and no command until the hold is released, with a reason.
//!
//! Holds have names, since two cases may need the same backup. Each word on a hold is a record of its own; the latest one of a name
//! counts. A record that cannot be read is a problem of the listing, and then nothing of the target is deleted.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, Effect, Error, ErrorKind, Finding, Level, OpContext, Result, TargetName};
use serde::{Deserialize, Serialize};

use crate::repository::Repository;
use crate::{BackupHeader, document, paths};

pub(crate) const HOLDS: &str = "holds";
pub(crate) const HOLD_FORMAT: &str = "dm-hold";

/// A word on a hold, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// The hold's name, for example that of the case.
    pub name: String,
    /// Placed, or released again.
    pub held: bool,
    /// When that was said.
    pub at: DateTime<Utc>,
    /// Who said it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; never when `None`.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
}

/// A hold that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub name: String,
    /// When it was placed.
    pub at: DateTime<Utc>,
    /// Who placed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; never when `None`.
    pub until: Option<DateTime<Utc>>,
}

/// The holds in force at an instant, by name.
pub(crate) fn in_force(records: &[HoldRecord], at: DateTime<Utc>) -> Vec<Hold> {
    let mut latest: BTreeMap<&str, &HoldRecord> = BTreeMap::new();
    for record in records {
        let known = latest.entry(&record.name).or_insert(record);
        // Of two words at the same instant the one that holds counts.
        if (record.at, record.held) > (known.at, known.held) {
            *known = record;
        }
    }
    latest
        .into_values()
        .filter(|record| record.held && record.until.is_none_or(|until| until > at))
        .map(|record| Hold {
            name: record.name.clone(),
            at: record.at,
            by: record.by.clone(),
            reason: record.reason.clone(),
            until: record.until,
        })
        .collect()
}

/// The instant by which holds end: now, or that of the newest backup where it is earlier. A clock that leaps ahead ends none.
pub(crate) fn reference<'a>(
    now: DateTime<Utc>,
    backups: impl Iterator<Item = &'a BackupHeader>,
) -> DateTime<Utc> {
    backups.map(|b| b.finished_at).max().map_or(now, |newest| newest.min(now))
}

impl Repository {
    /// Holds a backup, and with it what it references, until the hold is released or ends. Holding again under the same name
    /// replaces the reason and the end.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` when the backup is gone or marked; `Invalid` without a name or reason; the store's.
    pub async fn hold(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        name: &str,
        reason: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<()> {
        if name.trim().is_empty() || reason.trim().is_empty() {
            return Err(Error::invalid("a hold needs a name and a reason")
                .with_hint("say which case it is for; whoever releases it will ask"));
        }
        if until.is_some_and(|until| until <= ctx.now()) {
            return Err(Error::invalid("the hold would be over already")
                .with_hint("give an instant that is still to come, or none"));
        }
        ctx.run(self.check_usable(&header.target, header.id)).await?;
        ctx.run(self.add_hold(ctx, header, name, true, reason, until)).await?;
        // A deleter that did not see the hold is seen here; one that saw it takes its mark back.
        self.check_usable(&header.target, header.id).await.map_err(|e| e.with_effect(Effect::Applied))
    }

    /// Releases a hold; the keep-rules decide again when it was the last one.
    ///
    /// # Errors
    /// `NotFound` when the backup has no hold of this name; `Invalid` without a reason; the store's.
    pub async fn release_hold(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        name: &str,
        reason: &str,
    ) -> Result<()> {
        if reason.trim().is_empty() {
            return Err(Error::invalid("releasing a hold needs a reason"));
        }
        let records = ctx.run(self.hold_records(&header.target)).await?.0;
        let records = records.get(&header.id).map(Vec::as_slice).unwrap_or_default();
        // One that has ended is released as well: it is in the records as long as the backup.
        if !in_force(records, DateTime::<Utc>::MIN_UTC).iter().any(|hold| hold.name == name) {
            return Err(Error::not_found(format!("the backup has no hold \"{name}\""))
                .about(header.id.to_string())
                .with_hint("\"dm backup show\" names its holds"));
        }
        ctx.run(self.add_hold(ctx, header, name, false, reason, None)).await
    }

    async fn add_hold(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        name: &str,
        held: bool,
        reason: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let record = HoldRecord {
            name: name.to_owned(),
            held,
            at: ctx.now(),
            by: ctx.actor().name.clone(),
            reason: reason.to_owned(),
            until,
        };
        self.add_record(HOLDS, HOLD_FORMAT, header, &record).await
    }

    /// Every word on holds of a target's backups, and what could not be read.
    pub(crate) async fn hold_records(
        &self,
        target: &TargetName,
    ) -> Result<(BTreeMap<BackupId, Vec<HoldRecord>>, Vec<Finding>)> {
        let mut records: BTreeMap<BackupId, Vec<HoldRecord>> = BTreeMap::new();
        let mut problems = Vec::new();
        let folder = paths::records(HOLDS, target);
        for key in self.inner.storage.list_as(&folder, |object| object.location).await? {
            let parts = paths::inside(&key, &folder);
            let [id, file] = parts.as_slice() else { continue };
            let (Ok(id), Some(_)) = (id.parse(), paths::number(file, "json")) else { continue };
            let Some(bytes) = self.inner.storage.find(&key).await? else { continue };
            match document::read(HOLD_FORMAT, &bytes) {
                Ok(record) => records.entry(id).or_default().push(record),
                Err(error) => problems.push(
                    Finding::new(Level::Error, "hold", error.about(key.as_ref()).to_string())
                        .with_mend("nothing of the target is deleted while a hold cannot be read; put the object back from a copy"),
                ),
            }
        }
        Ok((records, problems))
    }

    /// Refuses what is held.
    pub(crate) async fn check_not_held<'a>(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        backups: impl Iterator<Item = &'a BackupHeader>,
    ) -> Result<()> {
        let (records, problems) = self.hold_records(&header.target).await?;
        let refuse = |why: String, hint: &str| {
            Err(Error::new(ErrorKind::Conflict, why).about(header.id.to_string()).with_hint(hint))
        };
        if let Some(problem) = problems.first() {
            return refuse(
                format!("a hold cannot be read: {}", problem.message),
                "put it back from a copy first",
            );
        }
        let records = records.get(&header.id).map(Vec::as_slice).unwrap_or_default();
        match in_force(records, reference(ctx.now(), backups)).first() {
            None => Ok(()),
            Some(hold) => refuse(
                format!("it is held ({}) by {}: {}", hold.name, hold.by, hold.reason),
                "release the hold first, with a reason: dm backup release",
            ),
        }
    }
}
