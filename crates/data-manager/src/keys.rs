//! Keys of an encrypted repository: who can read what, and changing it.

use dm_core::{OpContext, Result};
use dm_repository::{KeyList, RewrapPlan, RewrapReport, RewrapRequest};

use crate::backups::Backups;
use crate::operations::OperationKind;
use crate::pipeline::Operation;

const LIST: OperationKind = OperationKind::KeyList;
const PLAN: OperationKind = OperationKind::KeyPlan;
const REWRAP: OperationKind = OperationKind::KeyRewrap;

impl Backups<'_> {
    /// Who can read the repository, and which backups are not sealed to the newest recipients. Needs no key.
    ///
    /// # Errors
    /// `NotFound` without a repository; `Corrupt` when a record of its recipients is damaged, missing or forged.
    pub async fn keys(&self, ctx: &OpContext) -> Result<KeyList> {
        let work = async { self.dm.backups(ctx).await?.repository.key_list(ctx).await };
        self.dm.operate(ctx, Operation::new(LIST, "*"), work).await
    }

    /// Says what changing the recipients would do. Where the request names nobody, the recipients of the configuration are meant, and
    /// where that names nobody either, those that the repository has.
    ///
    /// # Errors
    /// As [`dm_repository::Repository::plan_rewrap`].
    pub async fn plan_rewrap(&self, ctx: &OpContext, mut request: RewrapRequest) -> Result<RewrapPlan> {
        let named = !(request.recipients.is_empty() && request.add.is_empty() && request.remove.is_empty());
        if !named {
            request.recipients.clone_from(&self.dm.repository.recipients);
        }
        let work = async {
            self.dm.places.check_primary()?;
            self.dm.backups(ctx).await?.repository.plan_rewrap(ctx, &request).await
        };
        self.dm.operate(ctx, Operation::new(PLAN, "*"), work).await
    }

    /// Does what a plan says: a record of the new recipients, and for every backup and key of the log one small object more.
    ///
    /// # Errors
    /// As [`dm_repository::Repository::apply_rewrap`].
    ///
    /// # Cancellation
    /// Safe at any point; the next rewrap does what is left.
    pub async fn apply_rewrap(&self, ctx: &OpContext, plan: &RewrapPlan) -> Result<RewrapReport> {
        let details = serde_json::json!({
            "generation": plan.generation, "recipients": plan.recipients, "added": plan.added, "removed": plan.removed,
            "delete_old": plan.request.delete_old, "reason": plan.request.reason,
        });
        let operation = Operation::new(REWRAP, "*").with_details(details);
        let work = async { self.dm.backups(ctx).await?.repository.apply_rewrap(ctx, plan).await };
        self.dm.operate(ctx, operation, work).await
    }
}
