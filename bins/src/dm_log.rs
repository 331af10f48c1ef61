//! `dm log` as a program of its own: for archive_command and restore_command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_cli::main(dm_cli::Program::Task("log"))
}
