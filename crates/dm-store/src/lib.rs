//! The system's own state in SQLite or PostgreSQL, from one SQL text.
//!
//! What is kept here — runs, recovery proofs, leases, the audit log's rows — is a workplace and a history. What must
//! survive its loss (backups, their headers, pins) is in the repository.
//!
//! Both engines run the same statements through sqlx's `Any` driver: columns are integers, text and bytes, times are
//! microseconds of UTC, binds are `$n`. Little differs by engine: the DDL under `migrations/`, the start of a writing
//! transaction, the settings of a new connection, how a list comes out of a single value (`dialect.rs`), and that the audit
//! chain is read as a whole through each engine's own driver (`audit/file.rs`, `audit/server.rs`).
//!
//! The schema is the workspace's `migrations/`, which dm-migrate applies; this crate says what it needs, and opens nothing else.
//!
//! This crate stores audit leaves and seals but knows nothing of how they are hashed; that is `dm-audit`'s.

mod audit;
mod dialect;
mod error;
mod files;
mod leases;
mod location;
mod proofs;
mod runs;
mod schema;
mod sql;
mod store;

pub use audit::{
    AnchorState, CheckpointRow, Expirable, Leaf, LeafFilter, LeafHold, LeafName, Links, ListedLeaf,
    NewLeaves, PendingLeaf, Seal, SealedEntry, SealedHash, SealedPart, Tile, UnsealedLeaf, UnsealedPage,
};
pub use leases::Lease;
pub use proofs::{ProofKind, RecoveryProof};
pub use runs::{Run, RunCursor, RunEnd, RunFilter, RunStart, RunState};
pub use schema::StorePlace;
pub use sql::{Order, Page};
pub use store::Store;
