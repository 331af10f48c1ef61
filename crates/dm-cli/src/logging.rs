//! Logs to stderr: text for people, JSON for collectors.

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::args::{GlobalArgs, LogFormat};
use crate::console::Console;

/// What is logged, by the number of `-v`. A person who asks for nothing gets no log line about an operation that failed:
/// the error itself is printed. A collector gets every operation.
fn directives(global: &GlobalArgs) -> &'static str {
    let collected = global.log_format == LogFormat::Json;
    match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) if !collected => "warn,data_manager::pipeline=off",
        (false, 0 | 1) => "warn,dm_=info,data_manager=info",
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
