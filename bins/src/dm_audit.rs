//! `dm audit` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_cli::main(dm_cli::Program::Task("audit"))
}
