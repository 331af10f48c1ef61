//! A sealed place from its making to its proof: what a restore and a drill have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dm_core::{
    Comparison, Effect, Error, OpContext, Progress, RestorePreview, RestoreSession, RestoreTarget, Result,
    TableFacts,
};
use dm_repository::BackupReader;

use super::Looked;
use super::fill::fill;
use super::proof::{differences, expected_tables, is_proven};
use crate::run::{Stage, Steps};
use crate::{Assertion, AssertionResult, assertions, pool};

/// A sealed place that was made.
pub(crate) struct Place {
    session: Box<dyn RestoreSession>,
    /// What it is called, for whoever must look at it or remove it by hand.
    pub(crate) name: String,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// How long that took, in milliseconds.
    pub(crate) written_ms: u64,
    /// What the backup recorded.
    pub(crate) expected: Vec<TableFacts>,
}

/// What was found in a place.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    pub(crate) comparison: Comparison,
    pub(crate) assertions: Vec<AssertionResult>,
    pub(crate) comparison_ms: u64,
    /// What is wrong, in a sentence; `None` when everything agrees.
    pub(crate) complaint: Option<String>,
}

impl Proof {
    pub(crate) fn is_equal(&self) -> bool {
        self.complaint.is_none()
    }
}

impl Place {
    /// Makes a place and fills it; removes it again when that fails.
    pub(crate) async fn make(
        ctx: &OpContext,
        target: &dyn RestoreTarget,
        reader: &BackupReader,
        looked: &Looked,
        preview: &RestorePreview,
        steps: &mut Steps,
    ) -> Result<Self> {
        let Looked { request, manifest, .. } = looked;
        let began = Instant::now();
        // Not raced with the cancellation: whoever drops a half-made place cannot remove it.
        let opened = steps.time(Stage::Pre, "open", target.open(ctx, request, manifest, preview)).await?;
        let session: Arc<Box<dyn RestoreSession>> = Arc::new(opened);
        let name = session.location().unwrap_or_else(|| format!("the sealed place of {}", preview.location));
        let bytes = Arc::new(AtomicU64::new(0));
        let filling = Box::pin(fill(ctx, reader, &session, manifest, preview, request, &bytes));
        let mut filled = steps.time(Stage::During, "write", filling).await;
        if filled.is_ok() {
            ctx.progress(Progress::Phase { name: "finishing", total_bytes: None });
            filled = steps.time(Stage::During, "finish", ctx.run(session.finish(ctx))).await;
        }
        let session = Arc::try_unwrap(session).map_err(|_| {
            Error::internal("a task of the restore outlived it")
                .with_effect(Effect::Partial)
                .with_hint(format!("what is left is sealed: {name}"))
        })?;
        let place = Self {
            session,
            name,
            bytes: bytes.load(Ordering::Relaxed),
            written_ms: crate::run::millis(began.elapsed()),
            expected: expected_tables(manifest, preview, request),
        };
        match filled {
            Ok(()) => Ok(place),
            Err(error) => Err(place.discard_after(ctx, error).await),
        }
    }

    /// Compares with what was recorded, and asks the application's own questions.
    pub(crate) async fn prove(
        &self,
        ctx: &OpContext,
        questions: &[Assertion],
        steps: &mut Steps,
    ) -> Result<Proof> {
        ctx.progress(Progress::Phase { name: "comparing", total_bytes: None });
        let began = Instant::now();
        let comparing = ctx.run(self.session.compare(ctx, &self.expected));
        let comparison = steps.time(Stage::During, "compare", comparing).await?;
        let comparison_ms = crate::run::millis(began.elapsed());
        let mut answers = Vec::new();
        if !questions.is_empty() {
            ctx.progress(Progress::Phase { name: "asking", total_bytes: None });
            let asking = async {
                let port = ctx.run(self.session.statements(ctx)).await?;
                assertions::ask(ctx, port.as_deref(), questions).await
            };
            answers = steps.time(Stage::During, "ask", asking).await?;
        }
        let mut complaints = Vec::new();
        if !is_proven(&comparison, &self.expected) {
            complaints.push(differences(&comparison, &self.expected));
        }
        complaints.extend(answers.iter().filter(|a| !a.ok).take(3).map(AssertionResult::complaint));
        Ok(Proof {
            comparison,
            assertions: answers,
            comparison_ms,
            complaint: (!complaints.is_empty()).then(|| complaints.join("; ")),
        })
    }

    /// Gives the session to whoever ends it.
    pub(crate) fn into_session(self) -> Box<dyn RestoreSession> {
        self.session
    }

    /// Removes the place, also when the work was cancelled.
    pub(crate) async fn discard(self, ctx: &OpContext) -> Result<()> {
        self.session.discard(&pool::cleanup(ctx)).await
    }

    /// Removes the place, and gives back the error that led here, with what is left if that failed.
    pub(crate) async fn discard_after(self, ctx: &OpContext, error: Error) -> Error {
        let name = self.name.clone();
        match self.discard(ctx).await {
            Ok(()) => error.with_effect(Effect::None),
            Err(second) => {
                tracing::warn!(place = name, error = %second, "the sealed place could not be removed");
                let hint = format!("what is left is sealed and must be removed by hand: {name} ({second})");
                let hint = error.hint().map_or_else(|| hint.clone(), |first| format!("{first}; {hint}"));
                error.with_effect(Effect::Partial).with_hint(hint)
            }
        }
    }
}
