//! Rows of the audit log. What they hash to is `dm-audit`'s business; here they are only kept.
//!
//! A leaf is appended with one statement that waits for no other append (`append.rs`). A trigger puts it on the queue of leaves
//! that no seal covers yet; sealing takes from there, under a fenced lease, in one transaction a batch (`seal.rs`).

use chrono::{DateTime, Utc};
use dm_core::{Result, RunId};

use crate::sql::Columns;

mod append;
mod chain;
mod file;
mod list;
mod raw;
mod retention;
mod seal;
mod server;
mod tree;

pub(crate) use append::insert_leaf;
pub use chain::SealedPart;
pub use retention::{Expirable, LeafHold};
pub use seal::Links;
pub use tree::{AnchorState, CheckpointRow, NewLeaves, SealedHash, Tile};

/// A leaf as its columns hold it: raw text and numbers, so that hashing never depends on their being well-formed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Version of the encoding that was hashed.
    pub version: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Microseconds of UTC.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// How it ended.
    pub outcome: String,
    /// Whether anything happened.
    pub effect: String,
    /// Microseconds from intent to outcome.
    pub duration_us: i64,
    /// The run.
    pub run_id: String,
    /// JSON; `None` when erased.
    pub details: Option<String>,
    /// The error's message.
    pub error: Option<String>,
    /// Salt of the commitment; `None` when erased.
    pub salt: Option<Vec<u8>>,
    /// Salted commitment to details and error.
    pub commitment: Vec<u8>,
    /// Hash of all of the above but the payload and its salt.
    pub leaf_hash: Vec<u8>,
    /// The run that erased the payload.
    pub erased_by: Option<String>,
}

/// A leaf that waits for its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLeaf {
    /// Its local id.
    pub id: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Its hash, as it was appended.
    pub leaf_hash: Vec<u8>,
}

/// A link of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Position in the chain, from 1 without gaps.
    pub seq: i64,
    /// Local id of the leaf.
    pub leaf_id: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Chain hash of the link before.
    pub prev_hash: Vec<u8>,
    /// Chain hash up to here.
    pub chain_hash: Vec<u8>,
    /// Microseconds of UTC.
    pub sealed_at: i64,
    /// The sealer's fence.
    pub epoch: i64,
}

/// A link with what it covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedEntry {
    /// The link.
    pub seal: Seal,
    /// The leaf, when it is there.
    pub leaf: Option<Leaf>,
}

/// A leaf that no seal covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsealedLeaf {
    /// Its local id.
    pub id: i64,
    /// Whether it is on the queue, as it should be.
    pub pending: bool,
    /// The leaf.
    pub leaf: Leaf,
}

/// A page of leaves that no seal covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsealedPage {
    /// Leaves in ascending order of their ids.
    pub leaves: Vec<UnsealedLeaf>,
    /// Id behind them whose row cannot be read at all, and why.
    pub unreadable: Option<(i64, String)>,
}

/// A leaf of the log, with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLeaf {
    /// Its local id; the cursor of a page that ends with it.
    pub id: i64,
    /// Position and time of its seal, when it has one.
    pub seal: Option<(i64, i64)>,
    /// The leaf.
    pub leaf: Leaf,
}

/// What an event is named by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafName {
    /// Its UUID.
    Event(String),
    /// Its position in the chain.
    Seq(i64),
}

/// Which leaves. Empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafFilter {
    /// This actor.
    pub actor: Option<String>,
    /// Actions that begin with this: `backup:`.
    pub action_prefix: Option<String>,
    /// One of these actions; any where there are none.
    pub actions: Vec<String>,
    /// Sealed ones behind this position of the chain, in its order, whatever the page's: what is sealed later comes behind what
    /// was seen, which is not so of ids, given before the commit.
    pub sealed_after: Option<i64>,
    /// No action that begins with this.
    pub not_action_prefix: Option<String>,
    /// This resource.
    pub resource: Option<String>,
    /// This outcome.
    pub outcome: Option<dm_core::AuditOutcome>,
    /// At this instant or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this instant.
    pub until: Option<DateTime<Utc>>,
    /// This run.
    pub run_id: Option<RunId>,
}

const LEAF_COLUMNS: &str = "l.version, l.event_id, l.at, l.actor, l.action, l.resource, l.outcome, l.effect, \
     l.duration_us, l.run_id, l.details, l.error, l.salt, l.commitment, l.leaf_hash, l.erased_by";

fn read_seal(columns: &mut Columns<'_>) -> Result<Seal> {
    Ok(Seal {
        seq: columns.take()?,
        leaf_id: columns.take()?,
        event_id: columns.take()?,
        prev_hash: columns.take()?,
        chain_hash: columns.take()?,
        sealed_at: columns.take()?,
        epoch: columns.take()?,
    })
}

fn read_leaf(columns: &mut Columns<'_>) -> Result<Leaf> {
    Ok(Leaf {
        version: columns.take()?,
        event_id: columns.take()?,
        at: columns.take()?,
        actor: columns.take()?,
        action: columns.take()?,
        resource: columns.take()?,
        outcome: columns.take()?,
        effect: columns.take()?,
        duration_us: columns.take()?,
        run_id: columns.take()?,
        details: columns.take()?,
        error: columns.take()?,
        salt: columns.take()?,
        commitment: columns.take()?,
        leaf_hash: columns.take()?,
        erased_by: columns.take()?,
    })
}
