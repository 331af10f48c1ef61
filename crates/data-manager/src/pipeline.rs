//! The one way that every operation goes: authorise, record the intent, work, record the outcome.
//!
//! Promises: nothing is applied before its intent is durable; every operation, also a refused one, leaves a line in
//! the audit trail; no secret reaches that line.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dm_core::{
    Action, AuditEvent, AuditIntent, AuditOutcome, AuditSink, Effect, Error, ErrorKind, OpContext, Resource,
    Result, RunId,
};
use dm_store::{RunEnd, RunStart};
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value as Json;
use tracing::Instrument;

use crate::DataManager;
use crate::operations::OperationKind;

/// How long an operation that needs no state store waits for it.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What is about to be done, for the permission check and the trail.
pub(crate) struct Operation {
    action: Action,
    resource: Resource,
    details: Json,
    notes: Notes,
}

/// What the work finds out on its way, for the details of the outcome: what was read, and how much. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<serde_json::Map<String, Json>>>);

impl Notes {
    /// Notes a value; no secret, no personal data.
    pub(crate) fn put(&self, name: &str, value: impl Into<Json>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.into());
    }

    /// The details with what was noted.
    fn added_to(&self, details: Json) -> Json {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match details {
            details if notes.is_empty() => details,
            Json::Object(mut fields) => {
                fields.extend(notes.clone());
                Json::Object(fields)
            }
            _ => Json::Object(notes.clone()),
        }
    }
}

impl Operation {
    pub(crate) fn new(kind: OperationKind, resource: impl Into<Resource>) -> Self {
        Self {
            action: kind.action(),
            resource: resource.into(),
            details: Json::Null,
            notes: Notes::default(),
        }
    }

    /// Parameters that a reader of the trail needs; no secret, no personal data.
    pub(crate) fn with_details(mut self, details: Json) -> Self {
        self.details = details;
        self
    }

    /// Where the work puts what it finds out.
    pub(crate) fn noting(mut self, notes: &Notes) -> Self {
        self.notes = notes.clone();
        self
    }
}

impl DataManager {
    /// Runs `work` as an operation. A reading one is recorded by its outcome, a changing one by intent and outcome.
    ///
    /// The work is boxed: operations hold many steps, and callers should not pay for them on their stacks.
    pub(crate) fn operate<'a, T, F>(
        &'a self,
        ctx: &'a OpContext,
        operation: Operation,
        work: F,
    ) -> BoxFuture<'a, Result<T>>
    where
        T: Serialize + Send + 'a,
        F: Future<Output = Result<T>> + Send + 'a,
    {
        Box::pin(self.guarded(ctx, operation, Box::pin(work)))
    }

    /// Runs `work` as an operation that must not depend on the state store: what a database server calls for every file of
    /// its log. It is authorised like every other; a denial or a failure is recorded if the store takes it at once, a
    /// success is not.
    pub(crate) fn operate_alone<'a, T, F>(
        &'a self,
        ctx: &'a OpContext,
        operation: Operation,
        work: F,
    ) -> BoxFuture<'a, Result<T>>
    where
        T: Send + 'a,
        F: Future<Output = Result<T>> + Send + 'a,
    {
        Box::pin(self.alone(ctx, operation, Box::pin(work)))
    }

    async fn alone<T>(
        &self,
        ctx: &OpContext,
        operation: Operation,
        work: BoxFuture<'_, Result<T>>,
    ) -> Result<T> {
        let Operation { action, resource, details, notes: _ } = operation;
        let span =
            tracing::info_span!("operation", run = %ctx.run_id(), action = %action, resource = %resource);
        async {
            let began = Instant::now();
            let result = match self.permissions().check(ctx.actor(), action, &resource) {
                Ok(()) => match ctx.check() {
                    Ok(()) => work.await,
                    Err(error) => Err(error),
                },
                Err(denied) => Err(denied),
            };
            let duration_ms = began.elapsed().as_millis();
            let Err(error) = &result else {
                tracing::debug!(outcome = "success", duration_ms, "finished");
                return result;
            };
            let outcome = outcome_of(error.kind());
            tracing::warn!(outcome = ?outcome, duration_ms, error = %error, "finished");
            let intent = AuditIntent {
                run_id: ctx.run_id(),
                actor: ctx.actor().name.clone(),
                action: action.to_string(),
                resource: resource.to_string(),
                details,
            };
            let failed = event(ctx, &intent, outcome, began, Some(error));
            let unhindered = ctx.clone().with_cancellation(Default::default());
            let record = async {
                let audit = self.audit_log(&unhindered).await?;
                audit.record_run(&start(ctx, &intent), &end(&failed, None), &failed).await
            };
            match tokio::time::timeout(AT_ONCE, record).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the failure is not in the audit trail"),
                Err(_) => {
                    tracing::warn!("the failure is not in the audit trail: the state store does not answer");
                }
            }
            result
        }
        .instrument(span)
        .await
    }

    async fn guarded<T: Serialize>(
        &self,
        ctx: &OpContext,
        operation: Operation,
        work: BoxFuture<'_, Result<T>>,
    ) -> Result<T> {
        let Operation { action, resource, details, notes } = operation;
        let mut intent = AuditIntent {
            run_id: ctx.run_id(),
            actor: ctx.actor().name.clone(),
            action: action.to_string(),
            resource: resource.to_string(),
            details,
        };
        let span =
            tracing::info_span!("operation", run = %ctx.run_id(), action = %action, resource = %resource);
        async {
            let began = Instant::now();
            let audit = self.audit_log(ctx).await?;
            let critical = is_critical(action);
            if let Err(denied) = self.permissions().check(ctx.actor(), action, &resource) {
                let refused = event(ctx, &intent, AuditOutcome::Denied, began, Some(&denied));
                audit.record_run(&start(ctx, &intent), &end(&refused, None), &refused).await?;
                tracing::warn!(error = %denied, "denied");
                return Err(denied);
            }
            if action.writes {
                let first = event(ctx, &intent, AuditOutcome::Intent, began, None);
                match audit.begin_run(&start(ctx, &intent), &first).await {
                    // A context that serves several operations: each is a run of its own.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        intent.run_id = RunId::generate();
                        let first = event(ctx, &intent, AuditOutcome::Intent, began, None);
                        audit.begin_run(&start(ctx, &intent), &first).await?;
                    }
                    begun => begun?,
                }
            }
            if critical {
                self.settle(ctx, audit).await;
            }
            // The work watches the context itself: dropping it here would leave behind what it cleans up when cancelled.
            let result = match ctx.check() {
                Ok(()) => work.await,
                Err(error) => Err(error),
            };
            intent.details = notes.added_to(std::mem::take(&mut intent.details));
            let outcome = result.as_ref().map_or_else(|e| outcome_of(e.kind()), |_| AuditOutcome::Success);
            let ended = event(ctx, &intent, outcome, began, result.as_ref().err());
            let recorded = if action.writes {
                audit.finish_run(&end(&ended, report_of(&result)), &ended).await
            } else {
                audit.append(ctx, &ended).await
            };
            if critical {
                self.settle(ctx, audit).await;
            }
            let duration_ms = began.elapsed().as_millis();
            match &result {
                Ok(_) => tracing::info!(outcome = "success", duration_ms, "finished"),
                Err(error) => tracing::warn!(outcome = ?outcome, duration_ms, error = %error, "finished"),
            }
            match (result, recorded) {
                (Err(error), _) => Err(error),
                (Ok(value), Ok(())) => Ok(value),
                (Ok(_), Err(error)) => Err(Error::new(
                    error.kind(),
                    "the operation was done, but its outcome could not be recorded",
                )
                .with_effect(if action.writes { Effect::Applied } else { Effect::None })
                .with_hint("the result stands; mend the state store (dm doctor) and look at the audit trail")
                .with_source(error)),
            }
        }
        .instrument(span)
        .await
    }
}

/// What destroys or replaces data, or changes who may act or what is believed: its intent is sealed and anchored before it
/// happens, its outcome before the caller has the answer.
fn is_critical(action: Action) -> bool {
    action.writes
        && matches!(
            (action.area, action.verb),
            ("restore" | "access", _)
                | (
                    _,
                    "restore"
                        | "delete"
                        | "expire"
                        | "erase"
                        | "replace-key"
                        | "drop-slot"
                        | "rewrap"
                        | "release"
                        | "rewrite"
                )
        )
}

pub(crate) fn outcome_of(kind: ErrorKind) -> AuditOutcome {
    match kind {
        ErrorKind::Interrupted => AuditOutcome::Interrupted,
        ErrorKind::Denied => AuditOutcome::Denied,
        ErrorKind::Partial => AuditOutcome::Partial,
        _ => AuditOutcome::Failure,
    }
}

pub(crate) fn event(
    ctx: &OpContext,
    intent: &AuditIntent,
    outcome: AuditOutcome,
    began: Instant,
    error: Option<&Error>,
) -> AuditEvent {
    AuditEvent {
        at: ctx.now(),
        intent: intent.clone(),
        outcome,
        effect: match (outcome, error) {
            (_, Some(error)) => error.effect(),
            (AuditOutcome::Success, None) => Effect::Applied,
            _ => Effect::None,
        },
        duration: began.elapsed(),
        error: error.map(Error::full_message),
    }
}

fn start(ctx: &OpContext, intent: &AuditIntent) -> RunStart {
    RunStart {
        run_id: intent.run_id,
        action: intent.action.clone(),
        resource: intent.resource.clone(),
        actor: intent.actor.clone(),
        started_at: ctx.now(),
    }
}

fn end(event: &AuditEvent, report: Option<Json>) -> RunEnd {
    RunEnd {
        run_id: event.intent.run_id,
        finished_at: event.at,
        state: event.outcome.into(),
        effect: event.effect,
        error: event.error.clone(),
        report,
    }
}

fn report_of<T: Serialize>(result: &Result<T>) -> Option<Json> {
    result.as_ref().ok().and_then(|value| serde_json::to_value(value).ok())
}
