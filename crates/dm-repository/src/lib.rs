//! The backup repository: one format for every engine over any object store.
//!
//! It must be safe with nothing but *create-only* PUTs of single objects, readable by standard tools (`age`, `zstd`),
//! collectable without keys, and complete in itself. The normative description is `docs/repository-format.md`;
//! section numbers in comments refer to it.
//!
//! - [`open_store`] makes a store of a [`StoreLocation`]; local folders are written durably.
//! - [`Repository`] begins backups ([`BackupWriter`]), lists, reads ([`BackupReader`]), verifies, pins, marks and sweeps;
//!   it keeps the log that was shipped ([`Repository::put_log`], [`LogListing`]).
//! - Nothing here knows an engine: what goes in and out are members, blocks and facts of `dm-core`.

mod begin;
mod checkpoints;
mod cloud;
mod commit;
mod connections;
mod content;
mod copy;
mod cpu;
mod delta;
mod document;
mod error;
mod fetch;
mod format;
mod ground;
mod holds;
mod index;
mod journal;
mod key_list;
mod keys;
mod lease;
mod listing;
mod local;
mod location;
mod log_expiry;
mod log_keys;
mod log_pieces;
mod logs;
mod map;
mod member_summary;
mod memory;
mod packs;
mod page;
mod parent;
mod paths;
mod place;
mod rate;
mod reader;
mod recipients;
mod repair;
mod repository;
mod resume;
mod rewrap;
mod rewrap_plan;
mod rewrite;
mod storage;
mod storage_class;
mod sweep;
mod tombstone;
mod verify;
mod verify_keys;
mod verify_options;
mod write_fresh;
mod write_pages;
mod write_stream;
mod writer;

pub use checkpoints::CheckpointEntry;
pub use copy::{CopiedBackup, CopyOptions, CopyReport, LeftBackup};
pub use format::{
    BackupHeader, Counts, InventoryRef, PinState, ResumedFrom, RewrittenFrom, RootRef, Sizes, Verification,
    VerifyLevel,
};
pub use holds::{Hold, HoldRecord};
pub use key_list::{BehindBackup, KeyList, RecipientStatus};
pub use keys::{Identity, Recipient};
pub use listing::Listing;
pub use location::{StoreLocation, StoreOptions, open_store};
pub use log_expiry::LogFloor;
pub use logs::{LogEntry, LogGap, LogListing, LogQuiet};
pub use member_summary::MemberSummary;
pub use rate::RateLimit;
pub use reader::BackupReader;
pub use recipients::RecipientsGeneration;
pub use repair::RepairReport;
pub use repository::{InitOptions, OpenOptions, Repository};
pub use rewrap::RewrapReport;
pub use rewrap_plan::{RewrapPlan, RewrapRequest};
pub use sweep::{SweepOptions, SweepReport};
pub use verify_options::{KnownSound, SampleProgress, SampleSize, VerifyOptions};
pub use writer::{BackupStart, BackupWriter};
