//! The bytes that are hashed. `docs/audit.md` is normative; a change here is a new version, never an edit.
//!
//! Everything is hashed as its column holds it. Text goes in behind its length, so that no two different rows give
//! the same bytes.

use dm_store::{Leaf, Seal};
use sha2::{Digest, Sha256};

/// The version of the leaf encoding that is written.
pub const LEAF_VERSION: i64 = 1;

const LEAF_TAG: &[u8] = b"dm-audit-leaf/1\n";
const PAYLOAD_TAG: &[u8] = b"dm-audit-payload/1\n";
const CHAIN_TAG: &[u8] = b"dm-audit-chain/1\n";

/// The commitment to a payload: without the salt it cannot be guessed back, with payload and salt it can be checked.
#[must_use]
pub fn commitment(salt: &[u8], details: &str, error: Option<&str>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(PAYLOAD_TAG);
    bytes(&mut hasher, salt);
    bytes(&mut hasher, details.as_bytes());
    match error {
        None => hasher.update([0]),
        Some(error) => {
            hasher.update([1]);
            bytes(&mut hasher, error.as_bytes());
        }
    }
    hasher.finalize().into()
}

/// The hash of a leaf by RFC 6962, section 2.1: SHA-256 over a zero byte and the encoded leaf. The payload takes part
/// by its commitment only, so that it can be erased and the leaf still holds.
#[must_use]
pub fn leaf_hash(leaf: &Leaf) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(LEAF_TAG);
    bytes(&mut hasher, leaf.event_id.as_bytes());
    hasher.update(leaf.at.to_be_bytes());
    for text in [&leaf.actor, &leaf.action, &leaf.resource, &leaf.outcome, &leaf.effect] {
        bytes(&mut hasher, text.as_bytes());
    }
    hasher.update(leaf.duration_us.to_be_bytes());
    bytes(&mut hasher, leaf.run_id.as_bytes());
    bytes(&mut hasher, &leaf.commitment);
    hasher.finalize().into()
}

/// The columns of a link that are hashed as they are.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Position in the chain.
    pub seq: i64,
    /// UUID of the event.
    pub event_id: &'a str,
    /// Microseconds of UTC.
    pub sealed_at: i64,
    /// The sealer's fence.
    pub epoch: i64,
}

impl<'a> From<&'a Seal> for Link<'a> {
    fn from(seal: &'a Seal) -> Self {
        Self { seq: seal.seq, event_id: &seal.event_id, sealed_at: seal.sealed_at, epoch: seal.epoch }
    }
}

/// The chain hash of a link: over the link before, this link's own columns, and its leaf.
#[must_use]
pub fn chain_hash(prev: &[u8], link: &Link<'_>, leaf_hash: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(CHAIN_TAG);
    bytes(&mut hasher, prev);
    hasher.update(link.seq.to_be_bytes());
    bytes(&mut hasher, link.event_id.as_bytes());
    hasher.update(link.sealed_at.to_be_bytes());
    hasher.update(link.epoch.to_be_bytes());
    bytes(&mut hasher, leaf_hash);
    hasher.finalize().into()
}

fn bytes(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Leaf {
        Leaf {
            version: 1,
            event_id: "e".into(),
            at: 1,
            actor: "ab".into(),
            action: "c".into(),
            resource: "d".into(),
            outcome: "success".into(),
            effect: "none".into(),
            duration_us: 2,
            run_id: "r".into(),
            details: None,
            error: None,
            salt: None,
            commitment: vec![7; 32],
            leaf_hash: Vec::new(),
            erased_by: None,
        }
    }

    #[test]
    fn neighbours_do_not_run_together() {
        let mut shifted = leaf();
        shifted.actor = "a".into();
        shifted.action = "bc".into();
        assert_ne!(leaf_hash(&leaf()), leaf_hash(&shifted));
        assert_ne!(commitment(b"s", "{}", None), commitment(b"s", "{}", Some("")));
        assert_ne!(commitment(b"s", "{}x", None), commitment(b"s{", "}x", None));
    }

    /// Pins version 1: these values change only by mistake. They were computed by `tests/oracle/verify.py`'s functions.
    #[test]
    fn version_one_is_pinned() {
        assert_eq!(
            hex::encode(commitment(b"salt", "{}", Some("boom"))),
            "fc4801c660583d2afd3017bcb914baeb8d167b2a72765addd8431ee83943b8d2"
        );
        assert_eq!(
            hex::encode(leaf_hash(&leaf())),
            "8fc5db241431734d472ea09c94aec2b3160ca26a2bdda9a8bd274669542c8ede"
        );
        let link = Link { seq: 1, event_id: "e", sealed_at: 3, epoch: 4 };
        assert_eq!(
            hex::encode(chain_hash(&[0; 32], &link, &[5; 32])),
            "eae27d7f56407a71a0985ffc317e87cd4b15913eb6bd3d7d899c53d2e6d0d3a5"
        );
    }
}
