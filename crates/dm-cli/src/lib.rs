//! The command line: definitions, questions, rendering and exit codes.
//!
//! This crate sees only the facade and promises three things: data goes to stdout and everything said about the work to
//! stderr; what a program reads (JSON documents, exit codes) is a contract; nothing destructive happens without a plan
//! that was shown and answered. It is also the only place that reads the environment, which it hands down as a value.
//!
//! [`main`] is the whole program; [`run`] is the same with everything that it touches given by the caller.

mod args;
mod commands;
mod confirm;
mod console;
mod exit;
mod failure;
mod instant;
mod logging;
mod output;
mod priority;
mod progress;
mod session;
mod signals;
mod surroundings;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use data_manager::{Error, Result};
use tokio_util::sync::CancellationToken;

pub use args::Program;
pub use exit::Exit;
pub use surroundings::Surroundings;

use confirm::Questions;
use console::{Console, Stdout};
use output::{Format, Output};
use session::Session;
use signals::Asking;

/// Runs a program on the process's own arguments, environment and streams.
#[must_use]
pub fn main(program: Program) -> ExitCode {
    let surroundings = Surroundings::of_process();
    let fetches = exit::fetches(program, &surroundings.args);
    // The panic was told by the runtime; its own code, 101, would be the end of the log to a server.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run(program, surroundings)));
    ended.unwrap_or(if fetches { Exit::NotFetched } else { Exit::Failed }).into()
}

/// Runs a program in the given surroundings.
#[must_use]
pub fn run(program: Program, surroundings: Surroundings) -> Exit {
    let Surroundings { args, env, folder, stdin, stdout, stderr, stdin_is_terminal, .. } = surroundings;
    let console = Console::new(stderr);
    let stdout = Stdout::new(stdout);
    let plain =
        env.get("NO_COLOR").is_some_and(|v| !v.is_empty()) || env.get("TERM").is_some_and(|t| t == "dumb");
    let colour_out = surroundings.stdout_is_terminal && !plain;
    let colour_err = surroundings.stderr_is_terminal && !plain;

    let invocation = match args::parse(program, args.clone(), (!surroundings.owns_process).then_some(100)) {
        Ok(invocation) => invocation,
        Err(error) => {
            let wants_json = args.iter().any(|arg| arg == "--json" || arg == "--json-lines");
            let exit = unparsed(&error, stdout, &console, (colour_out, colour_err), wants_json);
            return if exit != Exit::Done && exit::fetches(program, &args) { Exit::NotFetched } else { exit };
        }
    };
    // How the program ends when it fails or is stopped, where the usual codes would mean something else to who calls.
    let otherwise = invocation.command.fetches().then_some(Exit::NotFetched);
    let global = invocation.global;
    let format = if global.json { Format::Json } else { Format::Human };
    let log = logging::dispatch(&global, &console, colour_err);
    let logging = if surroundings.owns_process {
        // Fails only when somebody set one before, who then wants it so.
        tracing::dispatcher::set_global_default(log).ok();
        None
    } else {
        Some(tracing::dispatcher::set_default(&log))
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let error = Error::internal("the program cannot start its threads").with_source(e);
            let exit = failed(&error, &mut Output::new(stdout, format, false), &console);
            return otherwise.unwrap_or(exit);
        }
    };
    let cancel = CancellationToken::new();
    let asking = Asking::default();
    let style = match (global.quiet, surroundings.stderr_is_terminal) {
        (true, _) => progress::Style::Nothing,
        (false, true) => progress::Style::Bar,
        (false, false) => progress::Style::Lines,
    };
    let mut session = Session {
        global,
        out: Output::new(stdout, format, colour_out),
        console: console.clone(),
        questions: Questions {
            input: stdin,
            is_terminal: stdin_is_terminal,
            console: console.clone(),
            asking: asking.clone(),
        },
        env,
        folder,
        cancel: cancel.clone(),
        style,
        owns_process: surroundings.owns_process,
    };
    let exit = runtime.block_on(async {
        let stopped = otherwise.unwrap_or(Exit::Interrupted);
        let signals =
            surroundings.owns_process.then(|| signals::listen(cancel, asking, console.clone(), stopped));
        let result = commands::execute(&mut session, invocation.command).await;
        if let Some(signals) = signals {
            signals.abort();
        }
        match result.and_then(|exit| session.out.stdout().flush().map(|()| exit)) {
            Ok(exit) => exit,
            Err(error) => {
                let exit = failed(&error, &mut session.out, &console);
                otherwise.unwrap_or(exit)
            }
        }
    });
    drop(logging);
    exit
}

/// Tells an error to whoever reads.
fn failed(error: &Error, out: &mut Output, console: &Console) -> Exit {
    for line in failure::lines(error) {
        console.line(&line);
    }
    let written: Result<()> = out
        .document("error", &[("error", &failure::ErrorDocument::of(error))])
        .and_then(|()| out.stdout().flush());
    if let Err(also) = written {
        console.line(&format!("error: {also}"));
    }
    Exit::of(error)
}

/// Answers a command line that asks for help, or that is wrong.
fn unparsed(
    error: &clap::Error,
    stdout: Stdout,
    console: &Console,
    (colour_out, colour_err): (bool, bool),
    wants_json: bool,
) -> Exit {
    let text = error.render();
    let mut out = Output::new(stdout, if wants_json { Format::Json } else { Format::Human }, colour_out);
    if !error.use_stderr() {
        let text = if colour_out { text.ansi().to_string() } else { text.to_string() };
        let written = out.stdout().bytes(text.as_bytes()).and_then(|()| out.stdout().flush());
        return written.map_or_else(|e| failed(&e, &mut out, console), |()| Exit::Done);
    }
    let shown = if colour_err { text.ansi().to_string() } else { text.to_string() };
    console.prompt(&shown);
    let plain = text.to_string();
    let message = plain.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let written = out
        .document("error", &[("error", &failure::ErrorDocument::of(&Error::invalid(message)))])
        .and_then(|()| out.stdout().flush());
    if let Err(e) = written {
        console.line(&format!("error: {e}"));
    }
    Exit::Usage
}
