//! The audit log: leaves appended without a lock, sealed into a chain, verifiable.
//!
//! - **Append** ([`AuditLog`] as [`dm_core::AuditSink`]): one statement that waits for no other append. The leaf carries
//!   a hash of itself and a salted commitment to its payload.
//! - **Seal** ([`AuditLog::seal`]): one fenced leader puts committed leaves into a gapless chain. Only the sealer
//!   chains: a chain kept in the append would make every append wait for every other.
//! - **Capture** ([`AuditLog::take_over`]): changes of rows that an engine recorded in its own transactions, each once.
//! - **Verify** ([`AuditLog::verify`], [`AuditLog::verify_from`]): recomputes everything from the rows. Alone it can
//!   say *internally consistent*, never *untampered*: whoever can write the store can rewrite all of it. A head noted
//!   somewhere else ([`LogHead`]) is what finds a cut tail, a wiped log and a rewritten chain.
//!
//! `docs/audit.md` defines every hash, so that a verifier can be written from it in another language.

mod anchor;
mod captured;
mod checkpoint;
mod encoding;
mod head;
mod key;
mod log;
mod merkle;
mod note;
mod proof;
mod redact;
mod retention;
mod seal;
mod sign;
mod tiles;
mod verify;

pub use anchor::Anchor;
pub use captured::CHANGE;
pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use encoding::{LEAF_VERSION, Link, chain_hash, commitment, leaf_hash};
pub use head::LogHead;
pub use key::LogKey;
pub use log::{AuditLog, LogFilter, SealedEvent};
pub use merkle::{
    Hash, NodeId, consistency_proof, empty_root, inclusion_proof, node_hash, root, verify_consistency,
    verify_inclusion,
};
pub use note::{NoteSigner, NoteVerifier};
pub use proof::{ConsistencyProof, EventProof, ProvenEvent, ProvenPayload, leaf_name};
pub use redact::{redact_json, redact_text};
pub use seal::SealReport;
pub use tiles::tile_path;
pub use verify::{AuditVerification, BadEntry, Kept, KeptResult, Rewritten};
