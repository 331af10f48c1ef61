//! Ctrl-C once: stop cleanly and say how to go on. Twice: at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::exit::Exit;

/// Whether the program is waiting for an answer. Nothing was changed by then, so the first Ctrl-C ends it at once.
#[derive(Clone, Default)]
pub(crate) struct Asking(Arc<AtomicBool>);

impl Asking {
    /// Runs a question.
    pub(crate) fn during<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.0.store(true, Ordering::SeqCst);
        let answer = ask();
        self.0.store(false, Ordering::SeqCst);
        answer
    }

    fn now(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Listens for the rest of the process's life; `at_once` is how the process ends the second time. Call inside the runtime.
pub(crate) fn listen(
    cancel: CancellationToken,
    asking: Asking,
    console: Console,
    at_once: Exit,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = next().await {
                tracing::warn!(%error, "signals cannot be heard; ctrl-c will stop the program at once");
                return;
            }
            if asking.now() || cancel.is_cancelled() {
                console.line("");
                std::process::exit(at_once.code().into());
            }
            cancel.cancel();
            console.line("stopping cleanly; press ctrl-c again to stop at once");
        }
    })
}

#[cfg(unix)]
async fn next() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        heard = tokio::signal::ctrl_c() => heard,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn next() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
