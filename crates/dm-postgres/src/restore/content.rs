//! Small members on their way back: to a file, or to memory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dm_core::{Error, RestoreContent, Result};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;

use crate::backup::scratch_failed;

/// Writes content to a file.
pub(super) async fn spool(mut content: RestoreContent, path: PathBuf) -> Result<()> {
    let mut file = tokio::fs::File::create(&path).await.map_err(scratch_failed)?;
    while let Some(block) = content.next().await {
        file.write_all(&block?.bytes).await.map_err(scratch_failed)?;
    }
    file.flush().await.map_err(scratch_failed)
}

/// Reads a small member of JSON.
pub(super) async fn json<T: DeserializeOwned>(mut content: RestoreContent, name: &str) -> Result<T> {
    let mut bytes = Vec::new();
    while let Some(block) = content.next().await {
        bytes.extend_from_slice(&block?.bytes);
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::corrupt("a member is not what it should be").about(name).with_source(e))
}

/// Locks; what a panic of somebody else left is still whole, because nothing is written in parts.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
