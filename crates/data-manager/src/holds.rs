//! Legal holds on backups, and backups written anew so that they need no others.

use chrono::{DateTime, Utc};
use dm_backup::{HOLD_NAME, RewritePlan, RewriteReport};
use dm_core::{OpContext, Result, TargetName};
use dm_repository::BackupHeader;

use crate::backups::Backups;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::restores::selector;

const HOLD: OperationKind = OperationKind::BackupHold;
const RELEASE: OperationKind = OperationKind::BackupRelease;
const PLAN: OperationKind = OperationKind::BackupPlan;
const REWRITE: OperationKind = OperationKind::BackupRewrite;

impl Backups<'_> {
    /// Holds a backup: no rule and no command deletes it until the hold is released, or until it ends.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` without a reason, or with an end that has passed.
    pub async fn hold(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        name: Option<&str>,
        reason: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<BackupHeader> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let name = name.unwrap_or(HOLD_NAME);
        let details = serde_json::json!({ "backup": which, "hold": name, "reason": reason, "until": until });
        let operation = Operation::new(HOLD, of.as_str()).with_details(details);
        let work = async {
            let selector = selector(&of, which, false, None)?;
            self.dm.backups(ctx).await?.hold(ctx, &selector, name, reason, until).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Releases a hold: the named one, or the only one. Gives its name.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Invalid` without a reason, or when there are several and none is named.
    pub async fn release(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &str,
        name: Option<&str>,
        reason: &str,
    ) -> Result<(BackupHeader, String)> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let details = serde_json::json!({ "backup": which, "hold": name, "reason": reason });
        let operation = Operation::new(RELEASE, of.as_str()).with_details(details);
        let work = async {
            let selector = selector(&of, which, false, None)?;
            self.dm.backups(ctx).await?.release_hold(ctx, &selector, name, reason).await
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Says what rewriting these backups would free; without any, those that keep others alive which no keep-rule wants.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::plan_rewrite`].
    pub async fn plan_rewrite(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: &[String],
        keep: bool,
    ) -> Result<RewritePlan> {
        let of = self.dm.target(ctx, target, None, None).await?;
        let (rules, zone) = (self.dm.keep_rules(), self.dm.config.zone);
        let work = async {
            self.dm.places.check_primary()?;
            let selectors =
                which.iter().map(|w| selector(&of, w, false, None)).collect::<Result<Vec<_>>>()?;
            let service = self.dm.backups(ctx).await?;
            service.plan_rewrite(ctx, &of, &selectors, &rules, ctx.now(), zone, keep).await
        };
        self.dm.operate(ctx, Operation::new(PLAN, of.as_str()), work).await
    }

    /// Does what a plan says.
    ///
    /// # Errors
    /// As [`dm_backup::BackupService::apply_rewrite`].
    ///
    /// # Cancellation
    /// Safe: run again, it goes on.
    pub async fn apply_rewrite(&self, ctx: &OpContext, plan: &RewritePlan) -> Result<RewriteReport> {
        let old: Vec<String> = plan.entries.iter().map(|e| e.id.to_string()).collect();
        let details = serde_json::json!({ "backups": old, "keep": plan.keep });
        let operation = Operation::new(REWRITE, plan.target.as_str()).with_details(details);
        let work = async { Box::pin(self.dm.backups(ctx).await?.apply_rewrite(ctx, plan)).await };
        self.dm.operate(ctx, operation, work).await
    }
}
