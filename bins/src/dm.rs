//! All commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_cli::main(dm_cli::Program::All)
}
