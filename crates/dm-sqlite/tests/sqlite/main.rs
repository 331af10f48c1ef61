//! The adapter against real files: one binary, one idea a module.

// The lint's own exception for tests does not reach their shared helpers.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod backup;
mod capture;
mod faults;
mod oracle;
mod query;
mod restore;
mod schema;
mod support;
mod tables;
mod unchanged;
