//! Retention of the log itself: old payloads go, and every proof holds.

use chrono::{DateTime, Utc};
use dm_core::{OpContext, Result, RunId};
use dm_store::{Expirable, LeafHold};

use crate::log::AuditLog;

/// The action of an expiry: what `erased_by` of an expired leaf must lead to in the log.
pub(crate) const EXPIRE: &str = "audit:expire";

/// Leaves of a transaction.
const BATCH: u32 = 1000;

impl AuditLog {
    /// What an expiry of everything before an instant would take. Reads only.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn expirable(&self, before: DateTime<Utc>, holds: &[LeafHold]) -> Result<Expirable> {
        self.store().expirable(before, holds).await
    }

    /// Erases the payloads of sealed events before an instant that are not held, and what the history of runs says beyond
    /// who, what and when, for the run `run_id` of the action `audit:expire`, whose intent is in the log already. Leaves,
    /// seals, tree and checkpoints stay, and with them every proof. Repeating it goes on where it was interrupted.
    ///
    /// # Errors
    /// `Interrupted`, `Timeout` between batches; `Busy`, `Unreachable`, `Exhausted`.
    pub async fn expire(
        &self,
        ctx: &OpContext,
        before: DateTime<Utc>,
        holds: &[LeafHold],
        run_id: RunId,
    ) -> Result<Expirable> {
        let mut taken = Expirable::default();
        let mut after = Some(0);
        while let Some(behind) = after {
            ctx.check()?;
            let (erased, next) = self.store().expire_payloads(before, holds, run_id, behind, BATCH).await?;
            taken.payloads += erased;
            after = next;
        }
        taken.runs = self.store().expire_runs(before, holds).await?;
        Ok(taken)
    }
}
