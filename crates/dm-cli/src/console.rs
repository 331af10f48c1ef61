//! The one place that writes to the standard streams.
//!
//! Data goes to stdout through [`Stdout`]; everything said *about* the work — progress, logs, questions, errors —
//! goes to stderr through [`Console`], which keeps lines from tearing a live progress bar. A closed pipe is no
//! error: what is written after it is dropped, and [`Stdout::is_closed`] tells long listings to stop.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_manager::{Error, ErrorKind, Result};
use indicatif::ProgressBar;

/// Standard output, or what stands for it.
pub(crate) struct Stdout {
    writer: Box<dyn Write + Send>,
    closed: bool,
}

impl Stdout {
    pub(crate) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { writer, closed: false }
    }

    /// Whether the reader went away.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = self.writer.write_all(bytes);
        self.settle(written)
    }

    /// Hands everything over to the reader.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.writer.flush();
        self.settle(flushed)
    }

    fn settle(&mut self, result: io::Result<()>) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => {
                let kind = match e.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
                    _ => ErrorKind::Internal,
                };
                Err(Error::new(kind, "the output cannot be written").with_source(e))
            }
        }
    }
}

/// Standard error, or what stands for it. Clones share it.
#[derive(Clone)]
pub(crate) struct Console(Arc<Mutex<Inner>>);

struct Inner {
    writer: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
}

impl Console {
    pub(crate) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(Inner { writer, bar: None })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one line above the live bar, if there is one.
    ///
    /// Nothing can be done about a stderr that takes nothing, and nothing may depend on it: failures are dropped.
    pub(crate) fn line(&self, text: &str) {
        self.raw(format!("{text}\n").as_bytes());
    }

    /// Writes text without ending the line: a question.
    pub(crate) fn prompt(&self, text: &str) {
        self.raw(text.as_bytes());
    }

    /// The bar that lines must not tear; `None` when it is gone.
    pub(crate) fn set_bar(&self, bar: Option<ProgressBar>) {
        self.inner().bar = bar;
    }

    fn raw(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        let Inner { writer, bar } = &mut *inner;
        let mut write = || {
            let _ = writer.write_all(bytes).and_then(|()| writer.flush());
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.raw(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
