//! Logs to stderr: text for people, JSON for collectors.

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::args::{GlobalArgs, LogFormat};
use crate::console::Console;

/// What is logged when nothing else is said, by the number of `-v`.
fn directives(global: &GlobalArgs) -> &'static str {
    match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "warn,dm_=info,data_manager=info",
        (false, 2) => "info,dm_=debug,data_manager=debug",
        (false, _) => "debug,dm_=trace,data_manager=trace",
    }
}

/// The subscriber that the global flags ask for.
pub(crate) fn dispatch(global: &GlobalArgs, console: &Console, colour: bool) -> Dispatch {
    let writer = {
        let console = console.clone();
        move || console.clone()
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(global)))
        .with_timer(SystemTime)
        .with_ansi(colour)
        .with_writer(writer);
    match global.log_format {
        LogFormat::Text => Dispatch::new(builder.with_target(false).finish()),
        LogFormat::Json => Dispatch::new(builder.json().flatten_event(true).finish()),
    }
}
