//! The SQLite adapter.
//!
//! A SQLite database is a file that anybody may have open. What this crate promises follows from that:
//!
//! - A backup never reads the file behind SQLite's back. It takes a copy through SQLite's own online backup, reads
//!   the copy page by page, and computes each table's digest from the copy. Opening the live file with anything but
//!   SQLite would, on closing, drop the POSIX locks of every SQLite connection in the same process
//!   (<https://www.sqlite.org/howtocorrupt.html>, section 2.2), so nothing in this crate does.
//! - A restore is written under a hidden temporary name that only the owner may open, is checked and compared there,
//!   and takes its final name by one rename.
//! - Every connection lives on a thread of its own; no call blocks the runtime. Cancelling a call stops the statement.
//!
//! The formats that this adapter defines (the member, the row encoding) are written down in `docs/sqlite.md`.

mod capture;
mod connect;
mod diagnose;
mod disk;
mod engine;
mod error;
mod facts;
mod image;
mod location;
mod migrate;
mod options;
mod pool;
mod preflight;
mod query;
mod record;
mod restore;
mod rows;
mod schema;
mod shape;
mod snapshot;
mod source;
mod statement;
mod transaction;
mod worker;

pub use engine::SqliteEngine;
pub use facts::ROW_ENCODING;
pub use location::{OpenMode, SqliteLocation};
pub use options::{FreeSpace, SqliteOptions};
pub use source::MEMBER;
