//! Signing: the tree follows the chain, and its head is signed when it continues every head that was signed before.

use std::time::Duration;

use dm_core::{ErrorKind, OpContext, Result};
use dm_store::{CheckpointRow, Lease, NewLeaves, SealedHash, Store, Tile};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::key::LogKey;
use crate::log::AuditLog;
use crate::merkle::Hash;
use crate::tiles::{edge_of, grow, root_at, signed};

/// Leaves that one transaction adds to the tree.
const STEP: u32 = 8192;

/// Lets the tree follow the chain to its end.
pub(crate) async fn follow(store: &Store, ctx: &OpContext, lease: &Lease, duration: Duration) -> Result<()> {
    loop {
        ctx.check()?;
        let added = extend(store, ctx, lease, duration, NewLeaves::Stored(STEP)).await?;
        if added < u64::from(STEP) {
            return Ok(());
        }
    }
}

/// Adds leaves that were just sealed to the tree, unless it does not end where they begin. Gives how many were added.
pub(crate) async fn follow_batch(
    store: &Store,
    ctx: &OpContext,
    lease: &Lease,
    duration: Duration,
    batch: Vec<SealedHash>,
) -> Result<u64> {
    extend(store, ctx, lease, duration, NewLeaves::Sealed(batch)).await
}

async fn extend(
    store: &Store,
    ctx: &OpContext,
    lease: &Lease,
    duration: Duration,
    leaves: NewLeaves,
) -> Result<u64> {
    let edge = |size| edge_of(u64::try_from(size).unwrap_or_default());
    let grow = |size, edge: &[Tile], fresh: &[SealedHash]| {
        grow(u64::try_from(size).unwrap_or_default(), edge, &hashes_behind(size, fresh)?)
    };
    store.extend_tree(ctx, lease, duration, leaves, edge, grow).await
}

fn hashes_behind(size: i64, fresh: &[SealedHash]) -> Result<Vec<Hash>> {
    let mut hashes = Vec::with_capacity(fresh.len());
    for (seq, sealed) in (size + 1..).zip(fresh) {
        let hash = sealed.leaf_hash.as_deref().and_then(|hash| Hash::try_from(hash).ok());
        match hash {
            Some(hash) if sealed.seq == seq => hashes.push(hash),
            _ => {
                return Err(dm_core::Error::corrupt(format!("seal {seq} or its leaf is missing"))
                    .with_hint("run the audit verification; it names the first bad entry"));
            }
        }
    }
    Ok(hashes)
}

/// Signs the tree's head unless that was done. A head that does not continue what was signed before is refused.
pub(crate) async fn sign(
    store: &Store,
    ctx: &OpContext,
    lease: &Lease,
    duration: Duration,
    key: &LogKey,
    takes_over: bool,
) -> Result<()> {
    let size = store.tree_size().await?;
    let vkey = key.verifier().to_string();
    let newest = store.checkpoint_keys().await?.pop();
    if let Some(other) = newest.filter(|other| *other != vkey && !takes_over) {
        return Err(refused(format!(
            "the checkpoints are signed by another key ({other}) than the one in {}",
            key.path().display()
        ))
        .with_hint("put that key back; if it is lost, let this one take over: dm audit key --replace"));
    }
    let last = store.last_checkpoint().await?;
    let mut before = Vec::new();
    if let Some(last) = &last {
        before.push((Checkpoint::read_unchecked(&last.note)?, "the last checkpoint in the store"));
    }
    before
        .extend(key.remembered()?.map(|remembered| (remembered, "the last checkpoint that this key signed")));
    for (old, what) in &before {
        if signed(old.size) > size {
            return Err(refused(format!("{what} covers {} entries, and the tree has {size}", old.size)));
        }
        if root_at(store, old.size).await? != old.root {
            return Err(refused(format!("the log does not continue {what} ({} entries)", old.size)));
        }
    }
    if size == 0 || last.is_some_and(|last| last.size == size) {
        return Ok(());
    }
    let tree = u64::try_from(size).unwrap_or_default();
    let root = root_at(store, tree).await?;
    let checkpoint = Checkpoint { origin: key.verifier().name().to_owned(), size: tree, root };
    let note = key.sign(&checkpoint)?;
    let row = CheckpointRow { size, at: ctx.now().timestamp_micros(), root: root.to_vec(), note };
    store.record_checkpoint(ctx, lease, duration, &row, &vkey).await
}

fn refused(message: String) -> dm_core::Error {
    dm_core::Error::new(ErrorKind::CheckFailed, format!("{message}; nothing is signed"))
        .with_hint("run \"dm audit verify\"; it names the first bad entry")
}

impl AuditLog {
    /// The newest signed head.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`; `Corrupt` when what is kept is not one.
    pub async fn checkpoint(&self) -> Result<Option<SignedCheckpoint>> {
        let last = self.store().last_checkpoint().await?;
        last.map(|row| SignedCheckpoint::of_note(&row.note)).transpose()
    }
}
