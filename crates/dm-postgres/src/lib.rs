//! The PostgreSQL adapter: statements, health, logical backup and restore, physical backup.
//!
//! Everything that knows SQL of PostgreSQL, its catalogs, its client tools or its error codes is in this crate.
//!
//! - A backup is one exported snapshot: the definitions come from `pg_dump` under that snapshot, the rows from parallel
//!   `COPY` under the same one; large tables are split by ranges of heap blocks.
//! - A physical backup is of the whole cluster: its files over plain SQL connections, incrementals exact to the page.
//! - A restore goes into a sealed database of a temporary name, is compared with the digests that the backup took,
//!   and gets its final name last.
//! - One module (`sql`) puts text into statements, quoted; everything else is bound.

mod backup;
mod capture;
mod catalog;
mod client;
mod diagnose;
mod engine;
mod error;
mod lending;
mod log;
mod migrate;
mod notes;
mod options;
mod physical;
mod placeholders;
mod query;
mod restore;
mod schema;
mod selection;
mod session;
mod sql;
mod tenant;
mod tools;
mod value;

pub use engine::PostgresEngine;
pub use options::PostgresOptions;
