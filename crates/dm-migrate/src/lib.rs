//! Migrations: which files there are, what the database's history says of them, and the runner that brings the two together.
//!
//! This crate knows no engine and no SQL: an engine cuts scripts into statements, keeps the history and runs, through
//! [`dm_core::MigrationTarget`].

mod checksum;
mod files;
mod name;
mod problem;

pub use checksum::Checksums;
pub use files::{EmbeddedFile, MigrationFiles, MigrationScript, Script};
pub use name::{FileName, Style, parse_name};
pub use problem::{Problem, ProblemKind};
