//! Threads for blocking work, and the gate that stops it.
//!
//! SQLite blocks its caller. Every piece of work therefore runs on a thread of its own behind a [`Gate`], which knows the
//! caller's context. Work is stopped in three ways that cover each other's gaps: SQLite's progress handler asks the gate
//! every few thousand instructions; the busy handler asks it while waiting for a lock; and an interrupt reaches the
//! single instructions that run long (`count(*)` is one).

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dm_core::{Error, ErrorKind, OpContext, Result};
use rusqlite::{Connection, InterruptHandle};
use tokio::sync::oneshot;

use crate::error::thread_died;

/// Decides whether a piece of work may go on.
pub(crate) struct Gate {
    ctx: OpContext,
    until: Option<Instant>,
    busy_timeout: Duration,
    abandoned: AtomicBool,
    /// The connections to interrupt while the work runs; `None` once it is over, so that a late stop cannot hit
    /// the next work on the same connection.
    connections: Mutex<Option<Vec<Arc<InterruptHandle>>>>,
}

impl Gate {
    pub(crate) fn new(ctx: &OpContext, busy_timeout: Duration, limit: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            ctx: ctx.clone(),
            until: limit.map(|l| Instant::now() + l),
            busy_timeout,
            abandoned: AtomicBool::new(false),
            connections: Mutex::new(Some(Vec::new())),
        })
    }

    /// Fails when the work has to stop, saying why.
    pub(crate) fn check(&self) -> Result<()> {
        self.ctx.check()?;
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::new(ErrorKind::Timeout, "the statement ran longer than the query timeout")
                .with_hint("raise the query timeout, or make the statement cheaper"));
        }
        if self.abandoned.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// Stops the work because nobody waits for it any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.interrupt();
    }

    fn interrupt(&self) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.iter().flatten() {
            connection.interrupt();
        }
    }

    fn watch(&self, connection: Arc<InterruptHandle>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = connections.as_mut() {
            connections.push(connection);
        }
    }

    fn close(&self) {
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns when the work has to stop; never, when nothing stops it.
    pub(crate) async fn closing(&self) {
        let by_context = self.ctx.run(pending::<Result<()>>());
        let by_limit = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = by_context => {}
            () = by_limit => {}
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Gate>>> = const { RefCell::new(None) };
    static WAITING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether the work on this thread has to stop. SQLite's progress handler.
pub(crate) fn must_stop() -> bool {
    CURRENT.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.check().is_err()))
}

/// Fails when the work on this thread has to stop. Loops outside SQLite call it.
pub(crate) fn check() -> Result<()> {
    CURRENT.with_borrow(|gate| gate.as_ref().map_or(Ok(()), |gate| gate.check()))
}

/// SQLite's busy handler: whether to go on waiting for a lock.
pub(crate) fn keep_waiting(attempt: i32) -> bool {
    if must_stop() {
        return false;
    }
    if attempt == 0 {
        WAITING_SINCE.set(Some(Instant::now()));
    }
    let timeout = CURRENT.with_borrow(|gate| gate.as_ref().map_or(Duration::ZERO, |gate| gate.busy_timeout));
    let waited = WAITING_SINCE.get().map_or(Duration::ZERO, |since| since.elapsed());
    if waited >= timeout {
        return false;
    }
    // As SQLite's own handler: short at first, so that a short transaction costs little, and never past the timeout.
    let step = match attempt {
        0 => 1,
        1 => 2,
        2 => 5,
        3..8 => 15,
        _ => 40,
    };
    std::thread::sleep(Duration::from_millis(step).min(timeout - waited));
    true
}

/// Lets the gate of this thread's work interrupt a connection.
pub(crate) fn watch(connection: &Connection) {
    CURRENT.with_borrow(|gate| {
        if let Some(gate) = gate {
            gate.watch(Arc::new(connection.get_interrupt_handle()));
        }
    });
}

/// Runs work on this thread behind a gate. An interruption comes back with the gate's reason.
pub(crate) fn behind<T>(gate: &Arc<Gate>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    gate.check()?;
    let previous = CURRENT.replace(Some(Arc::clone(gate)));
    let result = work();
    CURRENT.set(previous);
    gate.close();
    result.map_err(|error| reason(gate, error))
}

/// An interruption's or a given-up wait's error with the reason that the gate knows.
fn reason(gate: &Gate, error: Error) -> Error {
    if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Busy) {
        return error;
    }
    match gate.check() {
        Ok(()) => error,
        Err(why) => why.with_effect(error.effect()),
    }
}

/// Stops the work when dropped before its end.
pub(crate) struct AbandonOnDrop(pub(crate) Arc<Gate>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A piece of work that runs elsewhere.
pub(crate) struct Running<T> {
    answer: oneshot::Receiver<Result<T>>,
    gate: AbandonOnDrop,
}

impl<T> Running<T> {
    /// What decides whether it goes on.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate.0
    }

    /// Waits for its end. When the context says stop, the work is interrupted, and its end still awaited, so that
    /// the answer is never a guess.
    pub(crate) async fn wait(mut self) -> Result<T> {
        let answer = tokio::select! {
            answer = &mut self.answer => answer,
            () = self.gate.0.closing() => {
                self.gate.0.interrupt();
                self.answer.await
            }
        };
        answer.unwrap_or_else(|_| Err(thread_died()))
    }
}

/// Starts work on a new thread. Dropping the handle stops it.
pub(crate) fn spawn<T: Send + 'static>(
    gate: Arc<Gate>,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Running<T>> {
    let (send, answer) = oneshot::channel();
    let inner = Arc::clone(&gate);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // The receiver may be gone: then nobody wants the answer.
            let _ = send.send(behind(&inner, work));
        })
        .map_err(|e| Error::new(ErrorKind::Exhausted, "cannot start a thread").with_source(e))?;
    Ok(Running { answer, gate: AbandonOnDrop(gate) })
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A connection with its thread. Jobs run one after the other in the order they were given.
pub(crate) struct Worker {
    jobs: Option<std::sync::mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    interrupt: Arc<InterruptHandle>,
    tainted: Arc<AtomicBool>,
}

impl Worker {
    /// Opens a connection on a thread of its own.
    pub(crate) async fn start(
        gate: Arc<Gate>,
        open: impl FnOnce() -> Result<Connection> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        let (send, answer) = oneshot::channel();
        let inner = Arc::clone(&gate);
        let thread = std::thread::Builder::new()
            .name("dm-sqlite".to_owned())
            .spawn(move || {
                let mut connection = match behind(&inner, open) {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = send.send(Err(error));
                        return;
                    }
                };
                if send.send(Ok(Arc::new(connection.get_interrupt_handle()))).is_err() {
                    return;
                }
                while let Ok(job) = queue.recv() {
                    job(&mut connection);
                }
            })
            .map_err(|e| Error::new(ErrorKind::Exhausted, "cannot start a thread").with_source(e))?;
        let interrupt = Running { answer, gate: AbandonOnDrop(gate) }.wait().await?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), interrupt, tainted: Arc::default() })
    }

    /// Gives the thread a job.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        gate: Arc<Gate>,
        job: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Running<T> {
        let (send, answer) = oneshot::channel();
        let inner = Arc::clone(&gate);
        gate.watch(Arc::clone(&self.interrupt));
        let boxed: Job = Box::new(move |connection| {
            let _ = send.send(behind(&inner, || job(connection)));
        });
        if let Some(jobs) = &self.jobs {
            // When the thread is gone the job is dropped, and with it the sender: the wait then says so.
            let _ = jobs.send(boxed);
        }
        Running { answer, gate: AbandonOnDrop(gate) }
    }

    /// Gives the thread a job that nobody waits for.
    pub(crate) fn submit_and_forget(&self, job: impl FnOnce(&mut Connection) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Marks the connection as not to be used by others after this.
    pub(crate) fn taint(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Relaxed)
            || self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// A handle with which a job can taint its own connection.
    pub(crate) fn tainter(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.tainted)
    }

    /// Lets the thread finish its jobs and close the connection; gives the thread to wait for.
    pub(crate) fn shut(mut self) -> Option<std::thread::JoinHandle<()>> {
        self.jobs = None;
        self.thread.take()
    }
}
