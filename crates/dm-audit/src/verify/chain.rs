//! The chain: every link against its leaf and against the link before it.

use dm_store::{Leaf, Seal, SealedEntry};

use super::tree::TreeCheck;
use super::{AuditVerification, BadEntry, KeptResult};
use crate::encoding::{LEAF_VERSION, Link, chain_hash, commitment, leaf_hash};
use crate::head::LogHead;
use crate::merkle::Hash;

/// What has been seen so far.
#[derive(Default)]
pub(super) struct Checker {
    noted: Option<LogHead>,
    sealed: u64,
    erased: u64,
    pub(super) unsealed: u64,
    bad: u64,
    first_bad: Option<BadEntry>,
    /// Position of the last link seen.
    seq: i64,
    /// Chain hash of the last link; `None` when it could not be read, and the empty log's at first.
    hash: Option<Hash>,
    begun: bool,
}

impl Checker {
    pub(super) fn new(noted: Option<LogHead>) -> Self {
        Self { noted, ..Self::default() }
    }

    pub(super) fn found_nothing(&self) -> bool {
        self.bad == 0
    }

    /// Position of the last link.
    pub(super) fn end(&self) -> i64 {
        self.seq
    }

    /// Notes a defect that may stand before one that is known.
    pub(super) fn bad_at(&mut self, seq: Option<i64>, why: String) {
        let known = self.first_bad.as_ref().and_then(|bad| bad.seq);
        if known.zip(seq).is_some_and(|(known, seq)| seq < known) {
            self.first_bad = None;
        }
        self.bad(seq, None, why);
    }

    pub(super) fn bad(&mut self, seq: Option<i64>, event_id: Option<&str>, why: String) {
        self.bad += 1;
        self.first_bad.get_or_insert_with(|| BadEntry { seq, event_id: event_id.map(str::to_owned), why });
    }

    pub(super) fn entry(&mut self, entry: &Examined, tree: &mut TreeCheck) {
        self.sealed += 1;
        self.erased += u64::from(entry.erased_by.is_some());
        self.position(entry.seq);
        let expected = if self.begun { self.hash } else { Some(LogHead::EMPTY.hash) };
        let why = entry
            .wrong_leaf
            .clone()
            .or_else(|| {
                expected
                    .filter(|hash| Some(*hash) != entry.prev_hash)
                    .map(|_| "it does not follow from the seal before it".to_owned())
            })
            .or_else(|| entry.wrong_chain.clone())
            .or_else(|| self.not_as_noted(entry));
        match (why, entry.leaf_hash) {
            (Some(why), _) => {
                self.bad(Some(entry.seq), Some(&entry.event_id), why);
                tree.stop();
            }
            (None, Some(hash)) => {
                if let Some((seq, why)) = tree.push(hash) {
                    self.bad(seq, None, why);
                }
            }
            (None, None) => tree.stop(),
        }
        if !self.found_nothing() {
            tree.stop();
        }
        self.begun = true;
        self.seq = entry.seq;
        self.hash = entry.chain_hash;
    }

    pub(super) fn unreadable(&mut self, seq: i64, why: &str) {
        self.sealed += 1;
        self.position(seq);
        self.bad(Some(seq), None, format!("its row cannot be read: {why}"));
        self.begun = true;
        self.seq = seq;
        self.hash = None;
    }

    /// Notes a gap before a position, and goes on behind it.
    fn position(&mut self, seq: i64) {
        let next = self.seq + 1;
        if seq == next {
            return;
        }
        if seq < next {
            self.bad(Some(seq), None, "it stands before the beginning of the chain".into());
        } else if seq == next + 1 {
            self.bad(Some(next), None, "this seal is missing".into());
        } else {
            self.bad(Some(next), None, format!("the seals {next} to {} are missing", seq - 1));
        }
        self.begun = true;
        self.hash = None;
    }

    fn not_as_noted(&self, entry: &Examined) -> Option<String> {
        let noted = self.noted.filter(|n| n.seq == entry.seq && Some(n.hash) != entry.chain_hash)?;
        Some(format!(
            "the chain was rewritten here or before: its hash is not the one noted outside for seal {}",
            noted.seq
        ))
    }

    pub(super) fn end_of_chain(&mut self) {
        let Some(noted) = self.noted else { return };
        if noted.seq > self.seq {
            let why = if self.sealed == 0 {
                format!("the log is empty, and seal {} was noted outside", noted.seq)
            } else {
                format!("the log ends at seal {}, and seal {} was noted outside", self.seq, noted.seq)
            };
            self.bad(Some(self.seq + 1), None, why);
        } else if noted.seq == 0 && noted != LogHead::EMPTY {
            self.bad(None, None, "the head noted outside is not one of an empty log".into());
        }
    }

    pub(super) fn unsealed_leaf(&mut self, leaf: &Leaf, pending: bool) {
        self.unsealed += 1;
        let why = wrong_content(leaf)
            .or_else(|| (!pending).then(|| "it is neither sealed nor waiting for its seal".to_owned()));
        if let Some(why) = why {
            self.bad(None, Some(&leaf.event_id), why);
        }
    }

    pub(super) fn result(self, tree: TreeCheck) -> AuditVerification {
        let ok = self.bad == 0;
        let head = match self.hash {
            Some(hash) if self.begun => LogHead { seq: self.seq, hash },
            _ => LogHead { seq: self.seq, ..LogHead::EMPTY },
        };
        let (checkpoints, kept, root, rewritten) = tree.into_result();
        // An edit that is found by itself is named; a rewrite is what nothing else speaks against.
        let rewritten =
            rewritten.filter(|span| self.first_bad.as_ref().is_some_and(|bad| bad.why == span.why()));
        let statement = match &self.first_bad {
            None => self.praise(&kept),
            Some(BadEntry { seq: Some(seq), .. }) => damned(*seq),
            Some(_) => "not consistent: an entry that no seal covers is bad".to_owned(),
        };
        AuditVerification {
            ok,
            statement,
            sealed: self.sealed,
            erased: self.erased,
            unsealed: self.unsealed,
            bad: self.bad,
            first_bad: self.first_bad,
            rewritten,
            head,
            noted: self.noted,
            root: root.map(hex::encode),
            checkpoints,
            kept,
            unsigned: None,
            unread: Vec::new(),
        }
    }

    /// What a log without defects proves, and no more.
    fn praise(&self, kept: &[KeptResult]) -> String {
        let reaches = kept.iter().map(|kept| kept.size).max().unwrap_or_default();
        match self.noted {
            _ if reaches > 0 => format!(
                "internally consistent, and up to entry {reaches} it is the log whose signed checkpoint was kept outside"
            ),
            Some(noted) => {
                format!(
                    "internally consistent, and up to seal {} it is the log whose head was noted",
                    noted.seq
                )
            }
            None => {
                "internally consistent; whether somebody rewrote all of it, only a head or a checkpoint kept \
                     elsewhere can tell"
                    .to_owned()
            }
        }
    }
}

/// What a log with a bad entry is.
pub(super) fn damned(seq: i64) -> String {
    format!("not consistent: seal {seq} is the first bad entry")
}

/// What a link and its leaf say of themselves: everything that needs no other link, and what the links beside it need. It can
/// be found out anywhere and in any order; the leaf itself is not kept.
pub(super) struct Examined {
    pub(super) seq: i64,
    event_id: String,
    /// `None` where it is not as long as one.
    prev_hash: Option<Hash>,
    chain_hash: Option<Hash>,
    leaf_hash: Option<Hash>,
    pub(super) erased_by: Option<String>,
    wrong_leaf: Option<String>,
    wrong_chain: Option<String>,
}

impl Examined {
    pub(super) fn new(entry: &SealedEntry) -> Self {
        let SealedEntry { seal, leaf } = entry;
        let hash = |bytes: &Vec<u8>| bytes.as_slice().try_into().ok();
        Self {
            seq: seal.seq,
            event_id: seal.event_id.clone(),
            prev_hash: hash(&seal.prev_hash),
            chain_hash: hash(&seal.chain_hash),
            leaf_hash: leaf.as_ref().and_then(|leaf| hash(&leaf.leaf_hash)),
            erased_by: leaf.as_ref().and_then(|leaf| leaf.erased_by.clone()),
            wrong_leaf: wrong_leaf(entry),
            wrong_chain: wrong_chain(seal, leaf.as_ref()),
        }
    }
}

fn wrong_leaf(entry: &SealedEntry) -> Option<String> {
    let Some(leaf) = &entry.leaf else { return Some("its leaf is gone".into()) };
    if leaf.event_id != entry.seal.event_id {
        return Some(format!("its leaf is of another event ({})", leaf.event_id));
    }
    wrong_content(leaf)
}

fn wrong_content(leaf: &Leaf) -> Option<String> {
    if leaf.version != LEAF_VERSION {
        return Some(format!("its encoding has the unknown version {}", leaf.version));
    }
    match (&leaf.salt, &leaf.details, &leaf.erased_by) {
        (Some(salt), Some(details), None) => {
            if commitment(salt, details, leaf.error.as_deref())[..] != leaf.commitment {
                return Some("its details, error, salt or commitment were changed".into());
            }
        }
        (None, None, Some(_)) if leaf.error.is_none() => {}
        (_, _, Some(_)) => return Some("its payload is said to be erased, and a part of it is there".into()),
        (_, _, None) => return Some("its payload is gone".into()),
    }
    if leaf_hash(leaf)[..] != leaf.leaf_hash {
        return Some("its leaf was changed after it was written".into());
    }
    None
}

fn wrong_chain(seal: &Seal, leaf: Option<&Leaf>) -> Option<String> {
    let leaf = leaf?;
    (chain_hash(&seal.prev_hash, &Link::from(seal), &leaf.leaf_hash)[..] != seal.chain_hash)
        .then(|| "its chain hash does not cover what is there: the leaf or the seal was changed".into())
}
