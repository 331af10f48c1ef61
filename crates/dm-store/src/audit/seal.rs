//! Sealing: leaves from the queue become links of the chain, a batch a transaction, under a fenced lease.

use std::time::Duration;

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{PendingLeaf, Seal, SealedHash, read_seal};
use crate::leases::{Lease, fence};
use crate::sql::{Columns, Sql};
use crate::store::{Store, commit};

/// The links of a batch of leaves, in the leaves' order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// Position of the first; the others follow without a gap.
    pub seq: i64,
    /// Chain hash of the link before the first.
    pub prev_hash: [u8; 32],
    /// Chain hash of each.
    pub chain_hashes: Vec<[u8; 32]>,
    /// Microseconds of UTC.
    pub sealed_at: i64,
}

impl Store {
    /// Whether any leaf waits for its seal. Cheap.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn has_pending_leaves(&self) -> Result<bool> {
        Ok(Sql::new("SELECT leaf_id FROM audit_pending LIMIT 1").optional(self.reader()).await?.is_some())
    }

    /// The last link of the chain.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn last_seal(&self) -> Result<Option<Seal>> {
        last_seal(&mut *self.reader().acquire().await.map_err(crate::error::map)?).await
    }

    /// Seals one batch: takes up to `limit` leaves from the queue, lets `link` make their links behind the present
    /// head, and stores them. All of it is one transaction that holds the lease, so that no two chains can grow. Gives
    /// what was sealed, in order.
    ///
    /// # Errors
    /// `Conflict` when the lease was lost; `Busy`, `Unreachable`, `Exhausted`; whatever `link` gives.
    pub async fn seal_batch(
        &self,
        ctx: &OpContext,
        lease: &Lease,
        duration: Duration,
        limit: u32,
        link: impl FnOnce(Option<&Seal>, &[PendingLeaf], i64) -> Result<Links> + Send,
    ) -> Result<Vec<SealedHash>> {
        let mut transaction = self.begin().await?;
        fence(&mut transaction, ctx, lease, duration).await?;
        let head = last_seal(&mut transaction).await?;
        // A leaf that is gone, or is in the chain already, stays on the queue as evidence, and in nobody's way.
        let rows = Sql::new(
            "SELECT p.leaf_id, l.event_id, l.leaf_hash FROM audit_pending p \
             JOIN audit_leaves l ON l.id = p.leaf_id \
             WHERE NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.leaf_id = p.leaf_id) \
             ORDER BY p.leaf_id LIMIT $1",
        )
        .bind(i64::from(limit))
        .all(&mut *transaction)
        .await?;
        let waiting = rows.iter().map(read_pending).collect::<Result<Vec<_>>>()?;
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let links = link(head.as_ref(), &waiting, lease.epoch)?;
        if links.chain_hashes.len() != waiting.len() {
            return Err(Error::internal("a batch of seals has another length than its leaves"));
        }
        let ids: Vec<i64> = waiting.iter().map(|leaf| leaf.id).collect();
        let hashes = [&[links.prev_hash][..], &links.chain_hashes].concat();
        let sealed = Sql::new(self.dialect().insert_seals())
            .bind(links.seq)
            .bind(crate::sql::json(&ids)?)
            .bind(hashes.as_flattened())
            .bind(links.sealed_at)
            .bind(lease.epoch)
            .execute(&mut *transaction)
            .await?;
        if sealed != waiting.len() as u64 {
            return Err(Error::new(ErrorKind::Busy, "a leaf vanished while it was sealed")
                .with_hint("try again; a verification says which leaf is gone"));
        }
        Sql::new(
            "DELETE FROM audit_pending WHERE leaf_id IN (SELECT leaf_id FROM audit_seals WHERE seq >= $1)",
        )
        .bind(links.seq)
        .execute(&mut *transaction)
        .await?;
        commit(transaction).await?;
        let sealed = (links.seq..).zip(waiting);
        Ok(sealed.map(|(seq, leaf)| SealedHash { seq, leaf_hash: Some(leaf.leaf_hash) }).collect())
    }
}

async fn last_seal(on: &mut AnyConnection) -> Result<Option<Seal>> {
    let row = Sql::new(
        "SELECT seq, leaf_id, event_id, prev_hash, chain_hash, sealed_at, epoch FROM audit_seals \
         ORDER BY seq DESC LIMIT 1",
    )
    .optional(on)
    .await?;
    row.map(|row| read_seal(&mut Columns::new(&row))).transpose()
}

fn read_pending(row: &AnyRow) -> Result<PendingLeaf> {
    let mut columns = Columns::new(row);
    Ok(PendingLeaf { id: columns.take()?, event_id: columns.take()?, leaf_hash: columns.take()? })
}
