//! The audit trail: read and verify.

use dm_audit::{AuditVerification, LogFilter, LogHead, SealedEvent};
use dm_core::{Action, OpContext, Result};
use dm_store::Page;

use crate::DataManager;
use crate::pipeline::Operation;

const LOG: Action = Action::read("audit", "log");
const VERIFY: Action = Action::read("audit", "verify");

/// The trail of a [`DataManager`].
#[derive(Clone, Copy, Debug)]
pub struct Audits<'a> {
    pub(crate) dm: &'a DataManager,
}

impl Audits<'_> {
    /// Reads the trail, a page at a time; [`SealedEvent::position`] is the cursor to go on from.
    ///
    /// # Errors
    /// `Unreachable`; `Corrupt` for a row that no append writes.
    pub async fn log(
        &self,
        ctx: &OpContext,
        filter: &LogFilter,
        page: &Page<i64>,
    ) -> Result<Vec<SealedEvent>> {
        let work = async { self.dm.audit_log(ctx).await?.log(filter, page).await };
        self.dm.operate(ctx, Operation::new(LOG, "*"), work).await
    }

    /// Seals what is committed, then recomputes every leaf and the chain. With a head that was noted outside before, a
    /// cut tail, a wiped log and a rewritten chain are found too; without one, only inner consistency can be claimed.
    ///
    /// # Errors
    /// `Unreachable`; damage is not an error but in the report.
    pub async fn verify(&self, ctx: &OpContext, from: Option<&LogHead>) -> Result<AuditVerification> {
        let work = async {
            let audit = self.dm.audit_log(ctx).await?;
            audit.seal(ctx).await?;
            match from {
                Some(head) => audit.verify_from(ctx, *head).await,
                None => audit.verify(ctx).await,
            }
        };
        self.dm.operate(ctx, Operation::new(VERIFY, "*"), work).await
    }
}
