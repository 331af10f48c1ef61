//! Progress on stderr: a live bar on a terminal, a line every ten seconds otherwise, nothing when asked to be quiet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_manager::{ByteSize, Progress, ProgressSink};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::console::Console;
use crate::output::text;

const EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all; warnings still appear unless quiet.
    Nothing,
    /// A bar that redraws itself.
    Bar,
    /// A line now and then.
    Lines,
}

/// Shows progress until it is dropped.
pub(crate) struct Shown {
    sink: Arc<Sink>,
    ticker: Option<JoinHandle<()>>,
}

impl Shown {
    /// Starts showing. Call inside the runtime.
    pub(crate) fn start(style: Style, console: Console) -> Self {
        let bar = (style == Style::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            console.set_bar(Some(bar.clone()));
            bar
        });
        let sink = Arc::new(Sink { state: Mutex::new(State::default()), bar, style, console });
        let ticker = (style == Style::Lines).then(|| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(EVERY).await;
                    sink.line();
                }
            })
        });
        Self { sink, ticker }
    }

    /// What an operation reports to.
    pub(crate) fn sink(&self) -> Arc<dyn ProgressSink> {
        Arc::clone(&self.sink) as Arc<dyn ProgressSink>
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(ticker) = &self.ticker {
            ticker.abort();
        }
        if let Some(bar) = &self.sink.bar {
            bar.finish_and_clear();
        }
        self.sink.console.set_bar(None);
    }
}

struct Sink {
    state: Mutex<State>,
    bar: Option<ProgressBar>,
    style: Style,
    console: Console,
}

#[derive(Default)]
struct State {
    phase: Option<(&'static str, Option<u64>, Instant)>,
    bytes: u64,
    items: u64,
}

impl Sink {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) {
        let line = describe(&self.state(), Instant::now());
        if let Some(line) = line {
            self.console.line(&line);
        }
    }

    fn begin(&self, name: &'static str, total: Option<u64>) {
        *self.state() = State { phase: Some((name, total, Instant::now())), ..State::default() };
        let Some(bar) = &self.bar else { return };
        let template = match total {
            Some(_) => "{msg:12} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
            None => "{msg:12} {spinner} {bytes}  {bytes_per_sec}  {elapsed}",
        };
        // The templates are constants; one that does not parse would leave the plain bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(name);
        match total {
            Some(total) => bar.set_length(total.max(1)),
            None => bar.unset_length(),
        }
        bar.reset();
        // Nothing is drawn before the first phase has a name.
        bar.enable_steady_tick(Duration::from_millis(200));
    }
}

impl ProgressSink for Sink {
    fn report(&self, progress: Progress) {
        match progress {
            Progress::Phase { name, total_bytes } => self.begin(name, total_bytes),
            Progress::Bytes(more) => {
                self.state().bytes += more;
                if let Some(bar) = &self.bar {
                    bar.inc(more);
                }
            }
            Progress::Item(_) => self.state().items += 1,
            Progress::Warning(text) if self.style != Style::Nothing => {
                self.console.line(&format!("warning: {text}"));
            }
            _ => {}
        }
    }
}

/// `reading 1.2 GiB of 4.0 GiB (30 %), 110.0 MiB/s, 26 s left, 3 items done`
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn describe(state: &State, now: Instant) -> Option<String> {
    let (name, total, since) = state.phase?;
    let elapsed = now.saturating_duration_since(since).as_secs_f64().max(0.001);
    let rate = state.bytes as f64 / elapsed;
    let mut line = format!("{name}: {}", ByteSize(state.bytes));
    if let Some(total) = total.filter(|total| *total > 0) {
        let percent = (state.bytes.min(total) as f64 / total as f64 * 100.0) as u64;
        line.push_str(&format!(" of {} ({percent} %)", ByteSize(total)));
    }
    line.push_str(&format!(", {}/s", ByteSize(rate as u64)));
    if let Some(left) = total.and_then(|total| total.checked_sub(state.bytes)).filter(|_| rate >= 1.0) {
        line.push_str(&format!(", {} left", text::duration(Duration::from_secs_f64(left as f64 / rate))));
    }
    if state.items > 0 {
        line.push_str(&format!(", {} done", text::count(state.items, "item")));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long() {
        let start = Instant::now();
        let state = State { phase: Some(("reading", Some(400 << 20), start)), bytes: 100 << 20, items: 3 };
        assert_eq!(
            describe(&state, start + Duration::from_secs(10)).unwrap(),
            "reading: 100.0 MiB of 400.0 MiB (25 %), 10.0 MiB/s, 30 s left, 3 items done"
        );
        assert_eq!(describe(&State::default(), start), None);
    }
}
