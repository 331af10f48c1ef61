//! Physical backup of a cluster over plain SQL connections: its files, page by page, and the log that makes them
//! consistent. No agent, no superuser: five functions that may be executed.
//!
//! - A session that stays open holds the backup on the server, and a slot that holds the log, where the role may make one.
//! - Files are listed once, after the start; what they do meanwhile is in the log, so that a file read while it changes,
//!   shortens or goes is right once the log is replayed. What has grown is read to where it ended when it was listed.
//! - What an incremental backup need not read, or need not store, is found by the server's WAL summaries or by the LSN of each
//!   page; where neither is to be trusted everything is handed over and compared by content.
//! - `global/pg_control` is read last, then the backup is ended, then the log is read up to that end.

mod changes;
mod compare;
mod connections;
mod control;
mod files;
mod lsn;
mod open;
mod outside;
mod page;
mod plan;
mod pooler;
mod preflight;
mod reading;
pub(crate) mod restore;
mod server;
mod session;
mod timeline;
mod wal;

pub(crate) use lsn::{Lsn, segment_name};
pub(crate) use open::open;
pub(crate) use pooler::{pooled, refuse_pooler};
pub(crate) use preflight::{diagnose, look};

/// The oldest and the newest major version whose files are known well enough.
const OLDEST_MAJOR: u32 = 15;
const NEWEST_MAJOR: u32 = 18;

/// What the members of the data directory are called begins with this.
const DATA: &str = "data/";
/// The member that lists the folders.
const DIRECTORIES: &str = "directories.json";
/// The member without which nothing starts.
const CONTROL_FILE: &str = "data/global/pg_control";
