//! Verifying: everything is computed again from the rows.
//!
//! The chain is read in pages, so that memory does not grow with the log, and entries sealed meanwhile do no harm.
//! Behind a bad entry the check goes on from what the store says there, so that one defect is counted once and a
//! second one is seen too.

use dm_core::{OpContext, Result};
use dm_store::{Leaf, Seal, SealedEntry};
use serde::{Deserialize, Serialize};

use crate::encoding::{LEAF_VERSION, chain_hash, commitment, leaf_hash};
use crate::head::LogHead;
use crate::log::AuditLog;

const PAGE: u32 = 1000;

/// A defect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadEntry {
    /// Position in the chain; `None` for a leaf that no seal covers.
    pub seq: Option<i64>,
    /// The event, where it is known.
    pub event_id: Option<String>,
    /// What is wrong, one sentence.
    pub why: String,
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerification {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What that means and what it does not, one sentence.
    pub statement: String,
    /// Links checked.
    pub sealed: u64,
    /// Leaves that wait for their seal; nothing but their own hash protects them yet.
    pub unsealed: u64,
    /// How many entries are bad.
    pub bad: u64,
    /// The first of them: by position, then those without one.
    pub first_bad: Option<BadEntry>,
    /// The last link as the store says it: what to note elsewhere.
    pub head: LogHead,
    /// The head from elsewhere that the log was held against.
    pub noted: Option<LogHead>,
}

impl AuditLog {
    /// Checks the whole log against itself: every leaf, the chain, its gaps, and the leaves that wait.
    ///
    /// An edit of any column, a deletion in the middle, an inserted or swapped row is found. What a rewrite of the
    /// whole log or a cut of its end leaves behind is consistent in itself: see [`verify_from`](Self::verify_from).
    ///
    /// # Errors
    /// `Interrupted`, `Timeout`; `Busy`, `Unreachable`. A defect is no error but a line of the result.
    pub async fn verify(&self, ctx: &OpContext) -> Result<AuditVerification> {
        self.check(ctx, None).await
    }

    /// As [`verify`](Self::verify), and the log must contain a link that was noted outside of the store. A cut tail,
    /// a wiped log and a rewritten chain are found as far as that link reaches.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn verify_from(&self, ctx: &OpContext, noted: LogHead) -> Result<AuditVerification> {
        self.check(ctx, Some(noted)).await
    }

    async fn check(&self, ctx: &OpContext, noted: Option<LogHead>) -> Result<AuditVerification> {
        let mut checker = Checker { noted, ..Checker::default() };
        self.check_chain(ctx, &mut checker).await?;
        checker.end_of_chain();
        self.check_unsealed(ctx, &mut checker).await?;
        Ok(checker.result())
    }

    async fn check_chain(&self, ctx: &OpContext, checker: &mut Checker) -> Result<()> {
        let mut after = None;
        loop {
            ctx.check()?;
            let page = self.store().sealed_page(after, PAGE).await?;
            for entry in &page.entries {
                checker.entry(entry);
                after = Some(entry.seal.seq);
            }
            match page.unreadable {
                Some((seq, why)) => {
                    checker.unreadable(seq, &why);
                    after = Some(seq);
                }
                None if page.entries.len() < PAGE as usize => return Ok(()),
                None => {}
            }
        }
    }

    async fn check_unsealed(&self, ctx: &OpContext, checker: &mut Checker) -> Result<()> {
        let mut after = None;
        loop {
            ctx.check()?;
            let page = self.store().unsealed_page(after, PAGE).await?;
            for leaf in &page.leaves {
                checker.unsealed_leaf(&leaf.leaf, leaf.pending);
                after = Some(leaf.id);
            }
            match page.unreadable {
                Some((id, why)) => {
                    checker.unsealed += 1;
                    checker.bad(None, None, format!("an unsealed row cannot be read: {why}"));
                    after = Some(id);
                }
                None if page.leaves.len() < PAGE as usize => break,
                None => {}
            }
        }
        let vanished = self.store().vanished_pending().await?;
        for _ in 0..vanished {
            checker.bad(None, None, "a leaf that waited for its seal is gone".into());
        }
        Ok(())
    }
}

/// What has been seen so far.
#[derive(Default)]
struct Checker {
    noted: Option<LogHead>,
    sealed: u64,
    unsealed: u64,
    bad: u64,
    first_bad: Option<BadEntry>,
    /// Position of the last link seen.
    seq: i64,
    /// Chain hash of the last link; `None` when it could not be read, and the empty log's at first.
    hash: Option<Vec<u8>>,
    begun: bool,
}

impl Checker {
    fn bad(&mut self, seq: Option<i64>, event_id: Option<&str>, why: String) {
        self.bad += 1;
        self.first_bad.get_or_insert_with(|| BadEntry { seq, event_id: event_id.map(str::to_owned), why });
    }

    fn entry(&mut self, entry: &SealedEntry) {
        let seal = &entry.seal;
        self.sealed += 1;
        self.position(seal.seq);
        let expected = if self.begun { self.hash.clone() } else { Some(LogHead::EMPTY.hash.to_vec()) };
        let why = wrong_leaf(entry)
            .or_else(|| {
                expected
                    .filter(|hash| *hash != seal.prev_hash)
                    .map(|_| "it does not follow from the seal before it".to_owned())
            })
            .or_else(|| wrong_chain(seal, entry.leaf.as_ref()))
            .or_else(|| self.not_as_noted(seal));
        if let Some(why) = why {
            self.bad(Some(seal.seq), Some(&seal.event_id), why);
        }
        self.begun = true;
        self.seq = seal.seq;
        self.hash = Some(seal.chain_hash.clone());
    }

    fn unreadable(&mut self, seq: i64, why: &str) {
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

    fn not_as_noted(&self, seal: &Seal) -> Option<String> {
        let noted = self.noted.filter(|n| n.seq == seal.seq && n.hash[..] != seal.chain_hash)?;
        Some(format!(
            "the chain was rewritten here or before: its hash is not the one noted outside for seal {}",
            noted.seq
        ))
    }

    fn end_of_chain(&mut self) {
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

    fn unsealed_leaf(&mut self, leaf: &Leaf, pending: bool) {
        self.unsealed += 1;
        let why = wrong_content(leaf)
            .or_else(|| (!pending).then(|| "it is neither sealed nor waiting for its seal".to_owned()));
        if let Some(why) = why {
            self.bad(None, Some(&leaf.event_id), why);
        }
    }

    fn result(self) -> AuditVerification {
        let ok = self.bad == 0;
        let head = match self.hash.map(<[u8; 32]>::try_from) {
            Some(Ok(hash)) if self.begun => LogHead { seq: self.seq, hash },
            _ => LogHead { seq: self.seq, ..LogHead::EMPTY },
        };
        let statement = match (&self.first_bad, self.noted) {
            (None, None) => {
                "internally consistent; whether somebody rewrote all of it, only a head noted elsewhere can tell"
                    .to_owned()
            }
            (None, Some(noted)) => {
                format!("internally consistent, and up to seal {} it is the log whose head was noted", noted.seq)
            }
            (Some(BadEntry { seq: Some(seq), .. }), _) => format!("not consistent: seal {seq} is the first bad entry"),
            (Some(_), _) => "not consistent: an entry that no seal covers is bad".to_owned(),
        };
        AuditVerification {
            ok,
            statement,
            sealed: self.sealed,
            unsealed: self.unsealed,
            bad: self.bad,
            first_bad: self.first_bad,
            head,
            noted: self.noted,
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
    let (Some(salt), Some(details)) = (&leaf.salt, &leaf.details) else {
        return Some("its payload is gone".into());
    };
    if commitment(salt, details, leaf.error.as_deref())[..] != leaf.commitment {
        return Some("its details, error, salt or commitment were changed".into());
    }
    if leaf_hash(leaf)[..] != leaf.leaf_hash {
        return Some("its leaf was changed after it was written".into());
    }
    None
}

fn wrong_chain(seal: &Seal, leaf: Option<&Leaf>) -> Option<String> {
    let leaf = leaf?;
    (chain_hash(&seal.prev_hash, seal, &leaf.leaf_hash)[..] != seal.chain_hash)
        .then(|| "its chain hash does not cover what is there: the leaf or the seal was changed".into())
}
