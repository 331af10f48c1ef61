//! Retention of the trail: plan and apply.

use chrono::{DateTime, Utc};
use dm_core::{Error, OpContext, Period, PlanDigest, Result};
use dm_store::{Expirable, LeafHold};
use serde::Serialize;

use crate::audit::Audits;
use crate::operations::OperationKind;
use crate::pipeline::Operation;

/// What an expiry of the trail would take.
#[derive(Clone, Debug, Serialize)]
pub struct AuditExpirePlan {
    /// Everything before this instant.
    pub before: DateTime<Utc>,
    /// Lines that lose their details and their error. The lines themselves stay.
    pub payloads: u64,
    /// Lines as old that keep them because they are held.
    pub held: u64,
    /// Entries of the history of runs that lose report and error.
    pub runs: u64,
    /// What is held, as configured.
    pub holds: Vec<String>,
    /// What apply checks.
    pub digest: PlanDigest,
}

/// What an expiry took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditExpireReport {
    /// Everything before this instant.
    pub before: DateTime<Utc>,
    /// Lines that lost their details and their error.
    pub payloads: u64,
    /// Entries of the history of runs that lost report and error.
    pub runs: u64,
}

impl Audits<'_> {
    /// What would go of the details that are older than this, or than `audit.retention` says. Changes nothing.
    ///
    /// # Errors
    /// `Invalid` when neither is given, or for a hold that cannot be read; `Unreachable`.
    pub async fn plan_expire(&self, ctx: &OpContext, older_than: Option<Period>) -> Result<AuditExpirePlan> {
        let work = async {
            let period = older_than.or(self.dm.config.audit.retention).ok_or_else(|| {
                Error::invalid("the trail is kept for ever: audit.retention is not set")
                    .with_hint("set audit.retention = \"2 years\", or give --older-than")
            })?;
            let before = period.before(ctx.now()).ok_or_else(|| {
                Error::invalid("the calendar does not reach back so far").about("audit.retention")
            })?;
            self.expire_plan(ctx, before).await
        };
        self.dm.operate(ctx, Operation::new(OperationKind::AuditPlan, "*"), work).await
    }

    /// Does what a plan says: erases those details. Lines, seals, checkpoints and proofs stay, and the expiry is itself in the
    /// trail.
    ///
    /// # Errors
    /// `Conflict` when the plan went stale; `Interrupted` with the effect `Partial`, and repeating goes on; `Unreachable`.
    pub async fn apply_expire(&self, ctx: &OpContext, plan: AuditExpirePlan) -> Result<AuditExpireReport> {
        // One run for the expiry alone: the lines name it.
        let ctx = &ctx.in_own_run();
        let operation = Operation::new(OperationKind::AuditExpire, "*").with_details(serde_json::json!({
            "before": plan.before, "payloads": plan.payloads, "held": plan.held, "holds": plan.holds,
        }));
        let work = async {
            plan.digest.require(&self.expire_plan(ctx, plan.before).await?.digest)?;
            let audit = self.dm.audit_log(ctx).await?;
            let taken = audit.expire(ctx, plan.before, &self.dm.audit_holds()?, ctx.run_id()).await;
            let taken = taken.map_err(|e| e.with_effect(dm_core::Effect::Partial))?;
            Ok(AuditExpireReport { before: plan.before, payloads: taken.payloads, runs: taken.runs })
        };
        self.dm.operate(ctx, operation, work).await
    }

    async fn expire_plan(&self, ctx: &OpContext, before: DateTime<Utc>) -> Result<AuditExpirePlan> {
        let audit = self.dm.audit_log(ctx).await?;
        let found = audit.expirable(before, &self.dm.audit_holds()?).await?;
        let holds = self.dm.config.audit.holds.clone();
        let Expirable { payloads, held, runs } = found;
        // The history grows by the looking itself; what counts is what the trail loses.
        let digest = PlanDigest::of(&(before, payloads, held, &holds))?;
        Ok(AuditExpirePlan { before, payloads, held, runs, holds, digest })
    }
}

impl crate::DataManager {
    /// What is held, as configured.
    ///
    /// # Errors
    /// `Invalid`.
    pub(crate) fn audit_holds(&self) -> Result<Vec<LeafHold>> {
        self.config.audit.holds.iter().map(|text| read_hold(text)).collect()
    }
}

fn read_hold(text: &str) -> Result<LeafHold> {
    let bad = || {
        Error::invalid(format!("\"{text}\" does not say which lines are held"))
            .about("audit.holds")
            .with_hint("write \"actor=user:alice\", \"resource=shop/users action=change:\"")
    };
    let mut hold = LeafHold::default();
    for pair in text.split_whitespace() {
        let (name, value) = pair.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(bad)?;
        let place = match name {
            "actor" => &mut hold.actor,
            "action" => &mut hold.action_prefix,
            "resource" => &mut hold.resource,
            _ => return Err(bad()),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(bad());
        }
    }
    if hold == LeafHold::default() { Err(bad()) } else { Ok(hold) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_read_or_refused() {
        let hold = read_hold("resource=shop/users  action=change:").unwrap();
        assert_eq!(
            (hold.resource.as_deref(), hold.action_prefix.as_deref()),
            (Some("shop/users"), Some("change:"))
        );
        for bad in ["", "  ", "users", "actor=", "who=alice", "actor=a actor=b"] {
            assert!(read_hold(bad).is_err(), "{bad:?}");
        }
    }
}
