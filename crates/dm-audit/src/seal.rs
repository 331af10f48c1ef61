//! Sealing: one leader at a time puts committed leaves into the chain.
//!
//! Leaves are sealed by the hash that they were appended with. One that was changed while it waited is thereby sealed
//! as what it was, and verification names it; a sealer that refused it would stop the log instead.

use std::time::Duration;

use dm_core::{Error, ErrorKind, OpContext, Result};
use dm_store::{PendingLeaf, Seal, Store};
use serde::{Deserialize, Serialize};

use crate::encoding::chain_hash;
use crate::head::LogHead;
use crate::log::AuditLog;

const LEASE: &str = "audit-sealer";
const LEASE_DURATION: Duration = Duration::from_secs(30);
/// Leaves a transaction: short enough that an append on SQLite, which has one writer, waits a fraction of a second.
const BATCH: u32 = 2000;

/// What a round of sealing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// Links added.
    pub sealed: u64,
    /// The head afterwards.
    pub head: LogHead,
    /// Whether this call led to its end. When not, another sealer is at work, and it seals what this one did not.
    pub led: bool,
}

impl AuditLog {
    /// Seals all leaves that are committed now. Idempotent; safe to call from many processes at once: one of them
    /// leads, the others return at once.
    ///
    /// # Errors
    /// `Interrupted`, `Timeout` between batches; `Busy`, `Unreachable`, `Exhausted`; `Corrupt` when the head of the
    /// chain is not a hash.
    ///
    /// # Cancellation
    /// Whole batches are sealed or not; the lease runs out within 30 s.
    pub async fn seal(&self, ctx: &OpContext) -> Result<SealReport> {
        let store = self.store();
        if !store.has_pending_leaves().await? {
            return Ok(SealReport { sealed: 0, head: self.head().await?, led: true });
        }
        // A holder of its own for each call: two calls of one process compete like any others.
        let holder = uuid::Uuid::now_v7().to_string();
        let Some(lease) = store.acquire_lease(ctx, LEASE, &holder, LEASE_DURATION).await? else {
            return Ok(SealReport { sealed: 0, head: self.head().await?, led: false });
        };
        let mut sealed = 0;
        let outcome = seal_all(store, ctx, &lease, &mut sealed).await;
        let released = store.release_lease(&lease).await;
        let led = match outcome {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::Conflict => false,
            Err(e) => return Err(e),
        };
        released?;
        Ok(SealReport { sealed, head: self.head().await?, led })
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

async fn seal_all(store: &Store, ctx: &OpContext, lease: &dm_store::Lease, sealed: &mut u64) -> Result<()> {
    loop {
        ctx.check()?;
        let now = ctx.now().timestamp_micros();
        let seals = store
            .seal_batch(ctx, lease, LEASE_DURATION, BATCH, |head, waiting, epoch| {
                link(head, waiting, epoch, now)
            })
            .await?;
        *sealed += seals.len() as u64;
        if seals.len() < BATCH as usize {
            return Ok(());
        }
    }
}

fn link(head: Option<&Seal>, waiting: &[PendingLeaf], epoch: i64, now: i64) -> Result<Vec<Seal>> {
    let mut head = head.map_or(Ok(LogHead::EMPTY), head_of)?;
    let mut seals = Vec::with_capacity(waiting.len());
    for leaf in waiting {
        let mut seal = Seal {
            seq: head.seq + 1,
            leaf_id: leaf.id,
            event_id: leaf.event_id.clone(),
            prev_hash: head.hash.to_vec(),
            chain_hash: Vec::new(),
            sealed_at: now,
            epoch,
        };
        head = LogHead { seq: seal.seq, hash: chain_hash(&head.hash, &seal, &leaf.leaf_hash) };
        seal.chain_hash = head.hash.to_vec();
        seals.push(seal);
    }
    Ok(seals)
}

fn head_of(seal: &Seal) -> Result<LogHead> {
    match <[u8; 32]>::try_from(seal.chain_hash.as_slice()) {
        Ok(hash) => Ok(LogHead { seq: seal.seq, hash }),
        Err(_) => Err(Error::corrupt("the chain hash of the last seal is not 32 bytes")
            .about(format!("audit seal {}", seal.seq))
            .with_hint("run the audit verification; it names the first bad entry")),
    }
}
