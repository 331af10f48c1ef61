//! Migrations: which files there are, what the database's history says of them, and the runner that brings the two together.
//!
//! This crate knows no engine and no SQL: an engine cuts scripts into statements, keeps the history and runs, through
//! [`dm_core::MigrationTarget`].
//!
//! - [`MigrationFiles`] are read from a folder or embedded; [`StatusReport`] compares them with the history.
//! - [`Migrator`] has the verbs. Whatever changes something holds the run lock, of which a database has one.
//! - A transactional script and its record are one transaction. Any other is run statement by statement, with a record of each,
//!   and goes on after a crash.

mod adopt;
mod apply;
mod backfill;
mod checksum;
mod compare;
mod files;
mod lock;
mod mend;
mod migrator;
mod name;
mod new;
mod own;
mod plan;
mod problem;
mod run;
mod script;
mod seed;
mod select;
mod tryout;

pub use apply::{DoneMigration, MigrationReport};
pub use backfill::{BackfillPace, BackfillReport};
pub use checksum::Checksums;
pub use compare::{MigrationStatus, Standing, StatusReport};
pub use files::{EmbeddedFile, MigrationFiles, MigrationScript, Script};
pub use mend::Resolution;
pub use migrator::{Migrator, RunSettings};
pub use name::{FileName, Style, parse_name};
pub use new::NewMigration;
pub use own::open_store;
pub use plan::{MigrationPlan, PlannedMigration, PlannedStatement, Relations};
pub use problem::{Problem, ProblemKind};
pub use run::StatementVerdict;
pub use seed::{SeedFiles, SeedReport};
pub use select::Goal;
pub use tryout::{DriftReport, TracedMigration, Tryout};
