//! Who read what: each statement leaves a line of its own, with its tables, its rows, and itself without values.

use std::time::Instant;

use async_trait::async_trait;
use dm_audit::AuditLog;
use dm_core::{
    AuditIntent, AuditOutcome, AuditSink, Error, OpContext, Result, Row, RowStream, Statement, Transaction,
};
use futures::{StreamExt, stream};
use serde_json::{Value as Json, json};

use super::shape::shape;
use crate::operations::OperationKind;
use crate::pipeline;

/// What the trail says of a statement.
pub(super) fn details(statement: &Statement) -> Json {
    let shape = shape(&statement.text);
    json!({ "statement": shape.statement, "tables": shape.tables, "parameters": statement.parameters.len() })
}

/// Writes the lines of statements whose results go straight to the caller.
#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) audit: AuditLog,
    pub(super) ctx: OpContext,
    pub(super) kind: OperationKind,
    pub(super) engine: String,
}

impl Recorder {
    /// Records one that is over.
    ///
    /// # Errors
    /// As [`AuditSink::append`]: what could not be recorded must not be handed out.
    async fn record(
        &self,
        mut details: Json,
        rows: u64,
        began: Instant,
        error: Option<&Error>,
    ) -> Result<()> {
        details["rows"] = rows.into();
        let intent = AuditIntent {
            run_id: self.ctx.run_id(),
            actor: self.ctx.actor().name.clone(),
            action: self.kind.action().to_string(),
            resource: self.engine.clone(),
            details,
        };
        let outcome = error.map_or(AuditOutcome::Success, |e| pipeline::outcome_of(e.kind()));
        let unhindered = self.ctx.clone().with_cancellation(Default::default());
        self.audit.append(&unhindered, &pipeline::event(&self.ctx, &intent, outcome, began, error)).await
    }

    /// Records a statement with its result, which is handed on only then.
    async fn recorded<T>(
        &self,
        details: Json,
        began: Instant,
        result: Result<T>,
        rows: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let count = result.as_ref().map_or(0, rows);
        let written = self.record(details, count, began, result.as_ref().err()).await;
        let value = result?;
        written.map_err(|e| {
            Error::new(e.kind(), "the statement could not be recorded in the audit trail")
                .with_hint("mend the state store (dm doctor); the transaction can still be rolled back")
                .with_source(e)
        })?;
        Ok(value)
    }
}

/// A transaction whose statements are recorded.
pub(super) struct Recorded {
    pub(super) inner: Box<dyn Transaction>,
    pub(super) recorder: Recorder,
}

#[async_trait]
impl Transaction for Recorded {
    async fn query(&mut self, ctx: &OpContext, statement: Statement) -> Result<Vec<Row>> {
        let (began, details) = (Instant::now(), details(&statement));
        let result = self.inner.query(ctx, statement).await;
        self.recorder.recorded(details, began, result, |rows| rows.len() as u64).await
    }

    async fn execute(&mut self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        let (began, details) = (Instant::now(), details(&statement));
        let result = self.inner.execute(ctx, statement).await;
        self.recorder.recorded(details, began, result, |rows| *rows).await
    }

    async fn savepoint(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        self.inner.savepoint(ctx, name).await
    }

    async fn rollback_to(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        self.inner.rollback_to(ctx, name).await
    }

    async fn commit(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        let Self { inner, recorder } = *self;
        let began = Instant::now();
        let result = inner.commit(ctx).await;
        end(&recorder, "commit", began, result).await
    }

    async fn rollback(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        let Self { inner, recorder } = *self;
        let began = Instant::now();
        let result = inner.rollback(ctx).await;
        end(&recorder, "rollback", began, result).await
    }
}

/// Records how a transaction that may write ended; one that only read has no end that would matter.
async fn end(recorder: &Recorder, how: &str, began: Instant, result: Result<()>) -> Result<()> {
    if recorder.kind == OperationKind::Execute {
        let written = recorder.record(json!({ "transaction": how }), 0, began, result.as_ref().err()).await;
        if let Err(error) = written {
            tracing::warn!(%error, "the {how} of a transaction is not in the audit trail");
        }
    }
    result
}

/// Rows on their way, and the line that is written when they end: at their last, or where the reader stops.
struct Counted {
    rows: RowStream,
    line: Line,
}

struct Line {
    recorder: Recorder,
    details: Json,
    began: Instant,
    rows: u64,
    written: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        // The reader went away in between. Without a runtime there is only the line of the beginning.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (recorder, details, rows, began) =
                (self.recorder.clone(), self.details.take(), self.rows, self.began);
            runtime.spawn(async move {
                if let Err(error) = recorder.record(details, rows, began, Some(&Error::interrupted())).await {
                    tracing::warn!(%error, "the end of a query is not in the audit trail");
                }
            });
        }
    }
}

/// The same rows, counted and recorded at their end.
pub(super) fn counted(rows: RowStream, recorder: Recorder, details: Json) -> RowStream {
    let line = Line { recorder, details, began: Instant::now(), rows: 0, written: false };
    Box::pin(stream::unfold(Some(Counted { rows, line }), |counted| async move {
        let mut counted = counted?;
        match counted.rows.next().await {
            Some(Ok(row)) => {
                counted.line.rows += 1;
                Some((Ok(row), Some(counted)))
            }
            ended => {
                let line = &mut counted.line;
                line.written = true;
                let error = ended.and_then(Result::err);
                let written =
                    line.recorder.record(line.details.take(), line.rows, line.began, error.as_ref()).await;
                match (error, written) {
                    (Some(error), _) | (None, Err(error)) => Some((Err(error), None)),
                    (None, Ok(())) => None,
                }
            }
        }
    }))
}
