//! The backup repository: one format for every engine over any object store.
//!
//! It must be safe with nothing but *create-only* PUTs of single objects, readable by standard tools (`age`, `zstd`),
//! collectable without keys, and complete in itself. The normative description is `docs/repository-format.md`;
//! section numbers in comments refer to it.
//!
//! - [`open_store`] makes a store of a [`StoreLocation`]; local folders are written durably.
//! - [`Repository`] begins backups ([`BackupWriter`]), lists, reads ([`BackupReader`]), verifies, pins, marks and sweeps.
//! - Nothing here knows an engine: what goes in and out are members, blocks and facts of `dm-core`.

mod cloud;
mod error;
mod format;
mod keys;
mod local;
mod location;
mod repository;
mod storage_class;

pub use format::{BackupHeader, Counts, InventoryRef, PinState, RootRef, Sizes, Verification, VerifyLevel};
pub use keys::{Identity, Recipient};
pub use location::{StoreLocation, StoreOptions, open_store};
pub use repository::{
    BackupReader, BackupStart, BackupWriter, InitOptions, Listing, MemberSummary, OpenOptions, Repository,
    SweepOptions, SweepReport,
};
