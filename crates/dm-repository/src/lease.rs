//! Leases (§9.1): who is at work, judged by the store's clock alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, Error, ErrorKind, Result, TargetName};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::storage::Storage;
use crate::{document, paths};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    Backup,
    Read,
    Verify,
    Sweep,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LeaseBody {
    pub(crate) holder: Uuid,
    pub(crate) purpose: Purpose,
    pub(crate) target: Option<TargetName>,
    pub(crate) backup: Option<BackupId>,
    pub(crate) n: u32,
}

/// Format name of a lease document.
pub(crate) const FORMAT: &str = "dm-lease";

/// A lease of our own, renewed in the background until it is released or dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    state: Arc<State>,
    renewal: JoinHandle<()>,
    released: bool,
}

#[derive(Debug)]
struct State {
    storage: Storage,
    body: LeaseBody,
    lifetime: Duration,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    next: u32,
    last: Option<DateTime<Utc>>,
    lost: bool,
}

impl Lease {
    /// Takes a lease; gives it with the store's time of its first object.
    pub(crate) async fn take(
        storage: &Storage,
        lifetime: Duration,
        purpose: Purpose,
        target: Option<&TargetName>,
        backup: Option<BackupId>,
    ) -> Result<Self> {
        let body = LeaseBody { holder: Uuid::now_v7(), purpose, target: target.cloned(), backup, n: 0 };
        let state = Arc::new(State {
            storage: storage.for_lease(),
            body,
            lifetime,
            progress: Mutex::new(Progress::default()),
        });
        state.renew().await?;
        let renewing = Arc::clone(&state);
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(renewing.lifetime / 4).await;
                // A failure is retried at the next turn; the gap between store times tells whether that was in time.
                if let Err(error) = renewing.renew().await {
                    tracing::warn!(%error, "a lease could not be renewed");
                }
            }
        });
        Ok(Self { state, renewal, released: false })
    }

    pub(crate) fn holder(&self) -> Uuid {
        self.state.body.holder
    }

    /// Renews now and gives the store's time.
    ///
    /// # Errors
    /// `Conflict` when the lease had run out in between: others may have acted as if we were dead.
    pub(crate) async fn prove(&self) -> Result<DateTime<Utc>> {
        self.state.renew().await
    }

    /// Ends the lease after a failure, which is the one that counts; what cannot be removed runs out.
    pub(crate) async fn let_go(self) {
        if let Err(error) = self.release().await {
            tracing::debug!(%error, "a lease was left to run out");
        }
    }

    /// Ends the lease.
    pub(crate) async fn release(mut self) -> Result<()> {
        self.released = true;
        self.renewal.abort();
        self.state.remove().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.released {
            return;
        }
        // Without a runtime, or when the removal fails, the lease simply runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let state = Arc::clone(&self.state);
            runtime.spawn(async move {
                if let Err(error) = state.remove().await {
                    tracing::debug!(%error, "a lease was left to run out");
                }
            });
        }
    }
}

impl State {
    async fn renew(&self) -> Result<DateTime<Utc>> {
        let mut progress = self.progress.lock().await;
        let n = progress.next;
        let key = paths::lease(self.body.holder, n);
        let body = LeaseBody { n, ..self.body.clone() };
        self.storage.create_own(&key, document::write(FORMAT, &body)?).await?;
        progress.next += 1;
        let time = self.storage.head(&key).await?.last_modified;
        if let Some(last) = progress.last {
            let gap = (time - last).to_std().unwrap_or_default();
            progress.lost |= gap >= self.lifetime;
        }
        progress.last = Some(time);
        // The first object tells since when we are here, the newest that we still are; those between say nothing.
        if n >= 2 {
            deleted(self.storage.delete(vec![paths::lease(self.body.holder, n - 1)]).await)?;
        }
        if progress.lost {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the lease ran out: this program was stopped, or the store not reachable, for too long",
            )
            .with_hint("run the operation again"));
        }
        Ok(time)
    }

    async fn remove(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        progress.lost = true;
        // Whatever a failed renewal left as well.
        let newest = progress.next;
        let mut keys = vec![paths::lease(self.body.holder, 0)];
        keys.extend((newest.saturating_sub(2).max(1)..=newest).map(|n| paths::lease(self.body.holder, n)));
        deleted(self.storage.delete(keys).await)
    }
}

/// Where nothing may be deleted, a lease that ended stays and runs out.
pub(crate) fn deleted(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
        deleted => deleted,
    }
}

/// A holder as the store shows it.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The newest document; `None` when it cannot be read, and then it may stand for anything.
    pub(crate) body: Option<LeaseBody>,
    pub(crate) first: DateTime<Utc>,
    pub(crate) newest: DateTime<Utc>,
    pub(crate) keys: Vec<object_store::path::Path>,
}

impl Holder {
    /// Whether it is alive at the store's `now`.
    pub(crate) fn is_alive(&self, now: DateTime<Utc>, lifetime: Duration) -> bool {
        (now - self.newest).to_std().unwrap_or_default() < lifetime
    }

    /// Whether it may be writing or reading backups of this target.
    pub(crate) fn concerns(&self, target: &TargetName) -> bool {
        self.body
            .as_ref()
            .is_none_or(|b| b.purpose != Purpose::Sweep && b.target.as_ref().is_none_or(|t| t == target))
    }

    /// Whether it names this backup, or may do so.
    pub(crate) fn names(&self, backup: BackupId) -> bool {
        self.body.as_ref().is_none_or(|b| b.backup.is_none_or(|named| named == backup))
    }
}

/// All holders but one's own.
pub(crate) async fn holders(storage: &Storage, own: Option<Uuid>) -> Result<Vec<Holder>> {
    let folder = paths::leases();
    let mut found: BTreeMap<String, Vec<object_store::ObjectMeta>> = BTreeMap::new();
    for object in storage.list(&folder).await? {
        let parts = paths::inside(&object.location, &folder);
        if let [holder, file] = parts.as_slice()
            && paths::number(file, "json").is_some()
            && own.is_none_or(|own| own.to_string() != *holder)
        {
            found.entry(holder.clone()).or_default().push(object);
        }
    }
    let mut holders = Vec::new();
    for mut objects in found.into_values() {
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let (Some(first), Some(newest)) =
            (objects.iter().map(|o| o.last_modified).min(), objects.iter().map(|o| o.last_modified).max())
        else {
            continue;
        };
        // A document that vanished in between belongs to a holder that was renewed or released; unreadable ones
        // count as whatever would hold us back most.
        let mut body = None;
        for object in objects.iter().rev() {
            if let Some(bytes) = storage.find(&object.location).await? {
                body = document::read(FORMAT, &bytes).ok();
                break;
            }
        }
        let keys = objects.into_iter().map(|o| o.location).collect();
        holders.push(Holder { body, first, newest, keys });
    }
    Ok(holders)
}
