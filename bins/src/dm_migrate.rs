//! `dm migrate` as a program of its own: for a deployment's first step.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_cli::main(dm_cli::Program::Task("migrate"))
}
