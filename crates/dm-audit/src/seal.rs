//! Sealing: one leader at a time puts committed leaves into the chain.
//!
//! The tree follows the chain, and its head is signed (`sign.rs`). That part may fail without stopping the chain: a key
//! that is lost must not keep events from being sealed.
//!
//! Leaves are sealed by the hash that they were appended with. One that was changed while it waited is thereby sealed
//! as what it was, and verification names it; a sealer that refused it would stop the log instead.

use std::time::Duration;

use dm_core::{Error, ErrorKind, OpContext, Result};
use dm_store::{Lease, Links, PendingLeaf, Seal, Store};
use serde::{Deserialize, Serialize};

use crate::checkpoint::SignedCheckpoint;
use crate::encoding::{Link, chain_hash};
use crate::head::LogHead;
use crate::log::AuditLog;
use crate::sign;

const LEASE: &str = "audit-sealer";
const LEASE_DURATION: Duration = Duration::from_secs(30);
/// Leaves a transaction: short enough that an append on SQLite, which has one writer, waits a fraction of a second.
const BATCH: u32 = 8192;

/// What a round of sealing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// Links added.
    pub sealed: u64,
    /// The head afterwards.
    pub head: LogHead,
    /// Whether this call led to its end. When not, another sealer is at work, and it seals what this one did not.
    pub led: bool,
    /// The newest signed head.
    pub checkpoint: Option<SignedCheckpoint>,
    /// Why the head is not signed though everything is sealed; `None` when it is.
    pub unsigned: Option<String>,
}

impl AuditLog {
    /// Seals all leaves that are committed now, and signs the head. Idempotent; safe to call from many processes at once:
    /// one of them leads, the others return at once. That the head cannot be signed is no error: it is said in the report.
    ///
    /// # Errors
    /// `Interrupted`, `Timeout` between batches; `Busy`, `Unreachable`, `Exhausted`; `Corrupt` when the head of the
    /// chain is not a hash.
    ///
    /// # Cancellation
    /// Whole batches are sealed or not; the lease runs out within 30 s.
    pub async fn seal(&self, ctx: &OpContext) -> Result<SealReport> {
        self.seal_and_sign(ctx, false).await
    }

    /// As [`seal`](Self::seal), and from here on this log's key signs, whichever did before. What was signed before must
    /// still be continued.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub async fn seal_with_new_key(&self, ctx: &OpContext) -> Result<SealReport> {
        self.seal_and_sign(ctx, true).await
    }

    async fn seal_and_sign(&self, ctx: &OpContext, takes_over: bool) -> Result<SealReport> {
        let store = self.store();
        if !store.has_pending_leaves().await? && !takes_over && self.is_signed().await? {
            return self.report(0, true, None).await;
        }
        // A holder of its own for each call: two calls of one process compete like any others.
        let holder = uuid::Uuid::now_v7().to_string();
        let Some(lease) = store.acquire_lease(ctx, LEASE, &holder, LEASE_DURATION).await? else {
            return self.report(0, false, None).await;
        };
        let mut sealed = 0;
        let outcome = match seal_all(store, ctx, &lease, &mut sealed).await {
            Ok(()) => Ok(self.follow_and_sign(ctx, &lease, takes_over).await),
            Err(error) => Err(error),
        };
        let released = store.release_lease(&lease).await;
        let (led, unsigned) = match outcome {
            Ok(Ok(())) => (true, None),
            Ok(Err(e)) | Err(e) if e.kind() == ErrorKind::Conflict => (false, None),
            // What stopped the signing is said; what stops everything is an error.
            Ok(Err(e)) if is_of_signing(e.kind()) => (true, Some(e.full_message())),
            Ok(Err(e)) | Err(e) => return Err(e),
        };
        released?;
        self.report(sealed, led, unsigned).await
    }

    async fn follow_and_sign(&self, ctx: &OpContext, lease: &Lease, takes_over: bool) -> Result<()> {
        sign::follow(self.store(), ctx, lease, LEASE_DURATION).await?;
        match &*self.key() {
            Ok(Some(key)) => sign::sign(self.store(), ctx, lease, LEASE_DURATION, key, takes_over).await,
            Ok(None) => Ok(()),
            Err(why) => Err(Error::invalid(why.as_str())),
        }
    }

    /// Whether the chain's end is in the tree, and signed where there is somebody to sign.
    async fn is_signed(&self) -> Result<bool> {
        let end = self.store().last_seal().await?.map_or(0, |seal| seal.seq);
        if end == 0 || self.store().tree_size().await? != end {
            return Ok(end == 0);
        }
        match &*self.key() {
            Ok(None) => Ok(true),
            Ok(Some(_)) | Err(_) => {
                Ok(self.store().last_checkpoint().await?.is_some_and(|last| last.size == end))
            }
        }
    }

    async fn report(&self, sealed: u64, led: bool, unsigned: Option<String>) -> Result<SealReport> {
        Ok(SealReport {
            sealed,
            head: self.head().await?,
            led,
            checkpoint: self.checkpoint().await?,
            unsigned,
        })
    }

    /// The head of the chain as the store says it, unverified.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`; `Corrupt` when it is not a hash.
    pub async fn head(&self) -> Result<LogHead> {
        match self.store().last_seal().await? {
            None => Ok(LogHead::EMPTY),
            Some(seal) => head_of(&seal),
        }
    }
}

async fn seal_all(store: &Store, ctx: &OpContext, lease: &Lease, sealed: &mut u64) -> Result<()> {
    let mut tree_follows = true;
    loop {
        ctx.check()?;
        let now = ctx.now().timestamp_micros();
        let batch = store
            .seal_batch(ctx, lease, LEASE_DURATION, BATCH, |head, waiting, epoch| {
                link(head, waiting, epoch, now)
            })
            .await?;
        let count = batch.len();
        *sealed += count as u64;
        if tree_follows && count > 0 {
            // The hashes are at hand. What is wrong with the tree must not stop the chain: `sign::follow` meets it and says it.
            let grown = sign::follow_batch(store, ctx, lease, LEASE_DURATION, batch).await;
            tree_follows = grown.is_ok_and(|grown| grown == count as u64);
        }
        if count < BATCH as usize {
            return Ok(());
        }
    }
}

/// Whether an error speaks of the tree, the key or the signed heads, and not of the store or the caller.
fn is_of_signing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::CheckFailed | ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::Denied)
}

fn link(head: Option<&Seal>, waiting: &[PendingLeaf], epoch: i64, sealed_at: i64) -> Result<Links> {
    let head = head.map_or(Ok(LogHead::EMPTY), head_of)?;
    let mut chain_hashes = Vec::with_capacity(waiting.len());
    let mut prev_hash = head.hash;
    for (seq, leaf) in (head.seq + 1..).zip(waiting) {
        let link = Link { seq, event_id: &leaf.event_id, sealed_at, epoch };
        prev_hash = chain_hash(&prev_hash, &link, &leaf.leaf_hash);
        chain_hashes.push(prev_hash);
    }
    Ok(Links { seq: head.seq + 1, prev_hash: head.hash, chain_hashes, sealed_at })
}

fn head_of(seal: &Seal) -> Result<LogHead> {
    match <[u8; 32]>::try_from(seal.chain_hash.as_slice()) {
        Ok(hash) => Ok(LogHead { seq: seal.seq, hash }),
        Err(_) => Err(Error::corrupt("the chain hash of the last seal is not 32 bytes")
            .about(format!("audit seal {}", seal.seq))
            .with_hint("run the audit verification; it names the first bad entry")),
    }
}
