//! Pins and marks for deletion (§9.3).

use chrono::{DateTime, Utc};
use dm_core::{BackupId, BackupKind, Effect, Error, ErrorKind, OpContext, Result, TargetName};
use serde::{Deserialize, Serialize};

use crate::format::{PIN_FORMAT, PINS};
use crate::listing::Folder;
use crate::repository::Repository;
use crate::storage::{Created, Storage};
use crate::{BackupHeader, PinState, document, paths};

const FORMAT: &str = "dm-tombstone";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tombstone {
    backup: BackupId,
    target: TargetName,
    at: DateTime<Utc>,
    reason: String,
    by: String,
}

/// Marks a backup. The mark is the key itself; that there is one already is as good.
pub(crate) async fn mark(
    storage: &Storage,
    ctx: &OpContext,
    target: &TargetName,
    backup: BackupId,
    reason: &str,
) -> Result<()> {
    let tombstone = Tombstone {
        backup,
        target: target.clone(),
        at: ctx.now(),
        reason: reason.to_owned(),
        by: ctx.actor().name.clone(),
    };
    storage.create(&paths::tombstone(target, backup), document::write(FORMAT, &tombstone)?).await.map(drop)
}

impl Repository {
    /// Pins a backup, so that nothing deletes it, or takes the pin away. The reason is recorded.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` when the backup is gone or marked; the store's.
    pub async fn pin(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        pinned: bool,
        reason: &str,
    ) -> Result<()> {
        ctx.run(self.check_usable(&header.target, header.id)).await?;
        let state =
            PinState { pinned, at: ctx.now(), by: ctx.actor().name.clone(), reason: reason.to_owned() };
        ctx.run(self.add_record(PINS, PIN_FORMAT, header, &state)).await?;
        // A deleter that did not see the pin is seen here; one that saw it takes its mark back.
        self.check_usable(&header.target, header.id).await.map_err(|e| e.with_effect(Effect::Applied))
    }

    /// Adds the next numbered record about a backup.
    pub(crate) async fn add_record<T: Serialize>(
        &self,
        family: &str,
        format: &str,
        header: &BackupHeader,
        record: &T,
    ) -> Result<()> {
        let document = document::write(format, record)?;
        let folder = object_store::path::Path::from(format!("{family}/{}/{}", header.target, header.id));
        let (_, files) = self.inner.storage.children(Some(&folder)).await?;
        let mut n = files.iter().filter_map(|f| paths::number(f, "json")).max().map_or(0, |n| n + 1);
        loop {
            let key = paths::record(family, &header.target, header.id, n);
            match self.inner.storage.create(&key, document.clone()).await? {
                Created::Ours => return Ok(()),
                Created::Taken => n += 1,
            }
        }
    }

    /// Marks a backup for deletion; the next sweeps remove it when that is safe. Marking twice is no error.
    ///
    /// # Errors
    /// `Conflict` when a kept backup references it, it is pinned, it is the newest verified full backup of its target,
    /// or some commit of the target cannot be read (it may reference anything); `NotFound`; the store's.
    pub async fn tombstone(&self, ctx: &OpContext, header: &BackupHeader, reason: &str) -> Result<()> {
        let storage = &self.inner.storage;
        let (target, id) = (&header.target, header.id);
        if ctx.run(storage.exists(&paths::tombstone(target, id))).await? {
            return Ok(());
        }
        if !ctx.run(storage.exists(&paths::commit(target, id))).await? {
            return Err(Error::not_found("there is no such backup").about(id.to_string()));
        }
        ctx.run(self.may_go(ctx, header)).await?;
        mark(storage, ctx, target, id, reason).await?;
        // A commit or a pin that came in between did not see the mark: then the mark goes.
        if let Err(error) = self.may_go(ctx, header).await {
            storage.delete(vec![paths::tombstone(target, id)]).await.map_err(|e| {
                e.with_effect(Effect::Applied).with_hint(format!(
                    "the backup has to stay ({error}), but its mark cannot be taken away with these credentials: delete tombstones/{target}/{id}.json with others"
                ))
            })?;
            return Err(error);
        }
        Ok(())
    }

    async fn may_go(&self, ctx: &OpContext, header: &BackupHeader) -> Result<()> {
        let refuse = |why: String, hint: &str| {
            Err(Error::new(ErrorKind::Conflict, why).about(header.id.to_string()).with_hint(hint))
        };
        let mut problems = Vec::new();
        let folders = self.folders(&header.target).await?;
        let marked = self.marked(&header.target).await?;
        let committed = folders.iter().filter_map(|(_, folder)| match folder {
            Folder::Committed(header) => Some(&**header),
            _ => None,
        });
        self.check_not_held(ctx, header, committed).await?;
        let mut newest_verified: Option<BackupHeader> = None;
        let verified: std::collections::BTreeMap<_, crate::Verification> = self
            .records(
                crate::format::VERIFICATIONS,
                crate::format::VERIFICATION_FORMAT,
                &header.target,
                &mut problems,
            )
            .await?
            .into_iter()
            .collect();
        for (id, folder) in folders {
            match folder {
                _ if marked.contains(&id) && id != header.id => {}
                Folder::Incomplete => {}
                Folder::Unreadable(error) => {
                    return refuse(
                        format!("a commit of the target cannot be read and may need this backup: {error}"),
                        "mend or remove the unreadable commit first",
                    );
                }
                Folder::Committed(other) => {
                    if other.references.contains(&header.id) {
                        return refuse(
                            format!("backup {id} needs it"),
                            "delete the backups that build on it first, or keep it",
                        );
                    }
                    let is_good =
                        other.judged_kind() == BackupKind::Full && verified.get(&id).is_some_and(|v| v.ok);
                    let is_newer =
                        newest_verified.as_ref().is_none_or(|n| n.consistency.at < other.consistency.at);
                    if is_good && is_newer {
                        newest_verified = Some(*other);
                    }
                }
            }
        }
        if newest_verified.is_some_and(|n| n.id == header.id) {
            return refuse(
                "it is the newest verified full backup of the target".into(),
                "take and verify another full backup first",
            );
        }
        let pins: Vec<(BackupId, PinState)> =
            self.records(PINS, PIN_FORMAT, &header.target, &mut problems).await?;
        if let Some((_, pin)) = pins.iter().find(|(id, pin)| *id == header.id && pin.pinned) {
            return refuse(format!("it is pinned by {}: {}", pin.by, pin.reason), "take the pin away first");
        }
        if let Some(problem) = problems.iter().find(|p| p.message.contains(&header.id.to_string())) {
            return refuse(
                format!("a pin or verification of it cannot be read: {}", problem.message),
                "pin or unpin it again",
            );
        }
        Ok(())
    }
}
