//! `dm log ship`: in the foreground, until it is stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_manager::backup::{ShipEnd, ShipReport};
use data_manager::{DataManager, LogPosition, Progress, ProgressSink, Result, ShipLogOptions};
use serde::Serialize;

use super::{hole, position};
use crate::args::ShipArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::output::{Format, text};
use crate::progress::Style;
use crate::session::Session;

/// When the first line comes, and how often the later ones.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(10);

/// How far it is, `dm.log-shipped/1`.
#[derive(Clone, Copy, PartialEq, Serialize)]
struct Shipped {
    timeline: u32,
    #[serde(serialize_with = "as_position")]
    position: LogPosition,
    lag_bytes: u64,
    lag_ms: u64,
}

fn as_position<S: serde::Serializer>(
    at: &LogPosition,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&position(*at))
}

/// Takes what the shipping tells: the newest place, and warnings at once.
struct Watch {
    newest: Mutex<(Option<Shipped>, Option<Shipped>)>,
    console: Console,
    style: Style,
}

impl Watch {
    fn new(console: Console, style: Style) -> Self {
        Self { newest: Mutex::default(), console, style }
    }

    /// The newest place, unless it was asked for already.
    fn news(&self) -> Option<Shipped> {
        let mut state = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (newest, told) = *state;
        if newest == told {
            return None;
        }
        state.1 = newest;
        newest
    }
}

impl ProgressSink for Watch {
    fn report(&self, progress: Progress) {
        match progress {
            Progress::Log { position, lag_bytes, lag_ms } => {
                let shipped = Shipped { timeline: position.timeline, position, lag_bytes, lag_ms };
                self.newest.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(shipped);
            }
            Progress::Warning(text) if self.style != Style::Nothing => {
                self.console.line(&format!("warning: {}", text::printable(&text)));
            }
            _ => {}
        }
    }
}

/// One line of how far it is, when that changed.
fn tell_progress(session: &mut Session, watch: &Watch) -> Result<()> {
    let Some(shipped) = watch.news() else { return Ok(()) };
    session.out.document("log-shipped", &[("shipped", &shipped)])?;
    session.out.stdout().flush()?;
    if session.out.is_human() && session.style != Style::Nothing {
        let behind = match shipped.lag_bytes {
            0 => "nothing waits".to_owned(),
            bytes => format!(
                "{} behind, for {}",
                text::bytes(bytes),
                text::duration(Duration::from_millis(shipped.lag_ms))
            ),
        };
        session.console.line(&format!(
            "shipped to {} on timeline {}; {behind}",
            position(shipped.position),
            shipped.timeline
        ));
    }
    Ok(())
}

pub(super) async fn ship(session: &mut Session, dm: &DataManager, args: ShipArgs) -> Result<Exit> {
    let options = ShipLogOptions {
        engine: args.of.engine,
        target: args.of.target.target,
        holder: args.slot,
        seal_every: args.seal_every,
        poll: None,
        once: args.once,
    };
    // A line for each answer, as a program reads them that follows.
    if !session.out.is_human() {
        session.out.set_format(Format::JsonLines);
    }
    let watch = Arc::new(Watch::new(session.console.clone(), session.style));
    let ctx = session.quiet_context(dm).with_progress(Arc::clone(&watch) as Arc<dyn ProgressSink>);
    let logs = dm.logs();
    let mut shipping = Box::pin(logs.ship(&ctx, &options));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, EVERY);
    let report = loop {
        tokio::select! {
            report = &mut shipping => break report?,
            _ = ticks.tick() => tell_progress(session, &watch)?,
        }
    };
    drop(shipping);
    session.out.document("log-ship-run", &[("run_id", &ctx.run_id()), ("report", &report)])?;
    tell_ship(session, &report)?;
    Ok(if report.alarms.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

fn tell_ship(session: &mut Session, report: &ShipReport) -> Result<()> {
    let end = match report.end {
        ShipEnd::CaughtUp => "everything that the server had is shipped",
        ShipEnd::Cancelled => "stopped; what was read is sealed, and the next run goes on from here",
    };
    session.out.heading(&format!("log of {}: {end}", report.target))?;
    let again = match (report.reconnects, report.store_retries) {
        (0, 0) => String::new(),
        (server, store) => format!("server {server} times, store {store} times"),
    };
    session.out.facts(&[
        ("server", report.stream.clone()),
        ("slot", report.holder.clone()),
        ("shipped", format!("{} in {}", text::bytes(report.bytes), text::count(report.pieces, "piece"))),
        ("stored", text::bytes(report.stored_bytes)),
        ("up to", report.position.map_or_else(|| "nothing yet".to_owned(), position)),
        ("complete", report.complete_until.map_or_else(String::new, text::time)),
        ("behind", if report.lag_bytes == 0 { String::new() } else { text::bytes(report.lag_bytes) }),
        ("tried again", again),
        ("took", text::duration(Duration::from_millis(report.duration_ms))),
    ])?;
    for gap in &report.gaps {
        session.out.say(format!("  gap: {}", hole(gap)))?;
    }
    for alarm in &report.alarms {
        session.out.say(format!("  ALARM: {}", text::printable(alarm)))?;
    }
    for warning in &report.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    Ok(())
}
