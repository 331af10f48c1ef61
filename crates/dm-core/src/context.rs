//! What travels through every call.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{Actor, Error, ErrorKind, LogPosition, Result, RunId};

/// Where the time comes from. There is no other source of it below the facade.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, as an instant of UTC.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// One step of progress.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// A phase began. `total_bytes` is an estimate.
    Phase {
        /// A short name in the present participle: `reading`, `verifying`.
        name: &'static str,
        /// Expected bytes of this phase, where known.
        total_bytes: Option<u64>,
    },
    /// So many more bytes of the current phase are done.
    Bytes(u64),
    /// A member (a table, a file) is done.
    Item(String),
    /// Something worth a person's attention; the work goes on.
    Warning(String),
    /// So far a log was shipped.
    Log {
        /// Everything before this place is durable in the repository.
        position: LogPosition,
        /// Bytes that the server has beyond it.
        lag_bytes: u64,
        /// For how long a commit may have been waiting, in milliseconds.
        lag_ms: u64,
    },
}

/// Takes progress; must return at once.
pub trait ProgressSink: Send + Sync {
    /// Takes one step.
    fn report(&self, progress: Progress);
}

/// Drops all progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn report(&self, _: Progress) {}
}

/// The context of an operation: who, in which run, by which clock, until when, and how it is told to stop.
///
/// Cheap to clone; a clone shares the cancellation and the progress sink.
#[derive(Clone)]
pub struct OpContext {
    actor: Actor,
    run_id: RunId,
    clock: Arc<dyn Clock>,
    deadline: Option<Instant>,
    cancel: CancellationToken,
    progress: Arc<dyn ProgressSink>,
}

impl OpContext {
    /// A context by the system clock, without deadline, with a fresh run id.
    #[must_use]
    pub fn new(actor: Actor) -> Self {
        Self {
            actor,
            run_id: RunId::generate(),
            clock: Arc::new(SystemClock),
            deadline: None,
            cancel: CancellationToken::new(),
            progress: Arc::new(NoProgress),
        }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same with a time limit from now.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Some(Instant::now() + timeout);
        self
    }

    /// The same, stopped by this token.
    #[must_use]
    pub fn with_cancellation(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The same, reporting progress here.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn ProgressSink>) -> Self {
        self.progress = progress;
        self
    }

    /// The same run for a part of it: shares everything, and can be cancelled on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// The same in a run of its own: shares everything else, the deadline too.
    #[must_use]
    pub fn in_own_run(&self) -> Self {
        Self { run_id: RunId::generate(), ..self.clone() }
    }

    /// Who acts.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The run that this belongs to.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.run_id
    }

    /// Now, by the context's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The clock itself.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// The token that stops the work.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Reports progress.
    pub fn progress(&self, progress: Progress) {
        self.progress.report(progress);
    }

    /// Fails when the work was cancelled or its deadline has passed. Long loops call this between steps.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] or [`ErrorKind::Timeout`].
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::interrupted());
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(Error::new(ErrorKind::Timeout, "the deadline of the operation has passed"))
            }
            _ => Ok(()),
        }
    }

    /// Runs a future until it is done, cancelled, or out of time. On cancellation the future is dropped.
    ///
    /// # Errors
    /// The future's own, [`ErrorKind::Interrupted`] or [`ErrorKind::Timeout`].
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.check()?;
        let expiry = async {
            match self.deadline {
                Some(deadline) => self.clock_sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        futures::pin_mut!(work, expiry);
        let cancelled = self.cancel.cancelled();
        futures::pin_mut!(cancelled);
        match futures::future::select(work, futures::future::select(cancelled, expiry)).await {
            futures::future::Either::Left((result, _)) => result,
            futures::future::Either::Right(_) => {
                self.check()?;
                Err(Error::new(ErrorKind::Timeout, "the deadline of the operation has passed"))
            }
        }
    }

    async fn clock_sleep(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

impl fmt::Debug for OpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpContext")
            .field("actor", &self.actor)
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}
