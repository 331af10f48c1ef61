//! The port to the audit trail.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Effect, OpContext, Result, RunId};

/// What is about to happen. Durable before anything is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditIntent {
    /// The run.
    pub run_id: RunId,
    /// Who.
    pub actor: String,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// Parameters a reader needs; no secret, no personal data.
    pub details: serde_json::Value,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// Begun; no end is known yet (or ever, when the process died).
    Intent,
    /// Done.
    Success,
    /// A part was done.
    Partial,
    /// Failed.
    Failure,
    /// Refused by the access rules.
    Denied,
    /// Cancelled.
    Interrupted,
}

/// One line of the trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When, by the context's clock.
    pub at: DateTime<Utc>,
    /// What it is about.
    #[serde(flatten)]
    pub intent: AuditIntent,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Whether anything happened.
    pub effect: Effect,
    /// From intent to outcome.
    pub duration: Duration,
    /// The error's message, redacted.
    pub error: Option<String>,
}

/// Takes lines of the trail. Appending takes no lock that another append waits for.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Makes one event durable.
    ///
    /// # Errors
    /// When it is not durable; the pipeline then does not go on to apply anything.
    async fn append(&self, ctx: &OpContext, event: &AuditEvent) -> Result<()>;
}
