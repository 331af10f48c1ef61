//! The place of a repository before it is one: empty, taken by something else, and what its store is good for.

use std::sync::Arc;

use backon::Retryable;
use bytes::Bytes;
use dm_core::{Error, ErrorKind, OpContext, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore};
use uuid::Uuid;

use crate::error::is_transient;
use crate::paths;
use crate::storage::{Created, Storage, backoff};

fn already_there() -> Error {
    Error::new(ErrorKind::AlreadyExists, "there is a repository here already").with_hint("open it instead")
}

/// Puts a repository's description into an empty place.
pub(crate) async fn plant(store: &Arc<dyn ObjectStore>, ctx: &OpContext, document: Bytes) -> Result<()> {
    let storage = Storage::new(Arc::clone(store));
    let key = paths::repository();
    if ctx.run(storage.exists(&key)).await? {
        return Err(already_there());
    }
    if let Some(foreign) = foreign(&storage, ctx).await? {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("the place is not empty: it holds \"{foreign}\", which is no part of a repository"),
        )
        .with_hint("give the repository an empty folder or a prefix of its own"));
    }
    // A store without create-only PUTs is found out by the probe in `open`; here it must still work.
    let mut created = storage.create(&key, document.clone()).await;
    if matches!(&created, Err(e) if e.kind() == ErrorKind::Unsupported) {
        created = storage.without_create().create(&key, document).await;
    }
    if created? == Created::Taken {
        return Err(already_there());
    }
    Ok(())
}

/// Something in the place that no repository has.
pub(crate) async fn foreign(storage: &Storage, ctx: &OpContext) -> Result<Option<String>> {
    const OURS: [&str; 13] = [
        "repository.json",
        "recipients",
        "log-keys",
        "holds",
        "audit",
        "backups",
        "logs",
        "tombstones",
        "pins",
        "verifications",
        "leases",
        "probes",
        "lost+found",
    ];
    let (folders, objects) = ctx.run(storage.children(None)).await?;
    Ok(folders.into_iter().chain(objects).find(|name| !OURS.contains(&name.as_str())))
}

pub(crate) enum Probe {
    Honoured,
    Overwritten,
    Unknown,
    ReadOnly,
}

/// Creates the same key twice (§9): the second must fail. Each try takes a key of its own, since after a PUT whose outcome
/// is unknown a refusal proves nothing.
pub(crate) async fn probe(storage: &Storage) -> Result<Probe> {
    let probed = (|| probe_once(storage)).retry(backoff()).when(is_transient).await;
    let (result, key) = match probed {
        Ok(probed) => probed,
        Err(error) => {
            let error = crate::error::store_error(error, "probes");
            return if error.kind() == ErrorKind::Denied { Ok(Probe::ReadOnly) } else { Err(error) };
        }
    };
    match storage.delete(vec![key]).await {
        // Where nothing may be deleted, one byte stays.
        Err(error) if error.kind() == ErrorKind::Denied => {
            tracing::info!("the store lets nothing be deleted: backups are marked, and stay");
        }
        deleted => deleted?,
    }
    Ok(result)
}

async fn probe_once(storage: &Storage) -> Result<(Probe, Path), StoreError> {
    let key = paths::probe(Uuid::now_v7());
    let result = match storage.try_create(&key, Bytes::from_static(b"1")).await {
        Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => Probe::Unknown,
        Err(error) => return Err(error),
        Ok(()) => match storage.try_create(&key, Bytes::from_static(b"2")).await {
            Ok(()) => Probe::Overwritten,
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Probe::Honoured,
            Err(error) => return Err(error),
        },
    };
    Ok((result, key))
}
