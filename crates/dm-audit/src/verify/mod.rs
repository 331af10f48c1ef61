//! Verifying: everything is computed again from the rows: the leaves, the chain (`chain.rs`), the tree and its signed heads
//! (`tree.rs`).
//!
//! The chain is read in parts, several at once, and of each link no more is kept than its neighbours need: memory grows neither
//! with the log nor with its payloads, and entries sealed meanwhile do no harm.
//! Behind a bad entry the check goes on from what the store says there, so that one defect is counted once and a
//! second one is seen too.

use std::collections::HashMap;
use std::pin::pin;

use dm_core::{Error, OpContext, Result};
use dm_store::{SealedPart, Store};
use futures::future::{self, BoxFuture};
use futures::{FutureExt, Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};

use self::chain::{Checker, Examined};
use self::tree::TreeCheck;
use crate::checkpoint::Checkpoint;
use crate::head::LogHead;
use crate::log::AuditLog;
use crate::retention::EXPIRE;

mod chain;
mod narrow;
mod tree;

pub use narrow::Rewritten;

/// The action that erases a payload.
pub(crate) const ERASE: &str = "audit:erase";
/// Rows of a look at what is not sealed.
const PAGE: u32 = 1024;
/// Links of a part of the chain: so many full tiles that opening the part costs nothing beside reading it.
const PART: u32 = 64 * 256;
/// Parts that are read and examined at once.
const AT_ONCE: usize = 4;

/// A signed head from outside of the store, its signature checked by whoever brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it is from, for the report.
    pub place: String,
    /// The head.
    pub checkpoint: Checkpoint,
}

/// Whether the log contains a head from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptResult {
    /// Where it is from.
    pub place: String,
    /// Leaves that it covers.
    pub size: u64,
    /// Whether the log begins with those.
    pub ok: bool,
}

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
    /// How many of them have a payload that was erased, by a run that is in the log.
    pub erased: u64,
    /// Leaves that wait for their seal; nothing but their own hash protects them yet.
    pub unsealed: u64,
    /// How many entries are bad.
    pub bad: u64,
    /// The first of them: by position, then those without one.
    pub first_bad: Option<BadEntry>,
    /// Between which entries the log was rewritten, where the first bad one is known by a head from outside alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<Rewritten>,
    /// The last link as the store says it: what to note elsewhere.
    pub head: LogHead,
    /// The head from elsewhere that the log was held against.
    pub noted: Option<LogHead>,
    /// Root of the tree over all sealed leaves, in hexadecimal; `None` when the chain is not whole.
    pub root: Option<String>,
    /// Signed heads of the store that were compared.
    pub checkpoints: u64,
    /// Signed heads from outside of the store that were compared.
    pub kept: Vec<KeptResult>,
    /// Why the head is not signed, where it should be and whoever asked looked.
    pub unsigned: Option<String>,
    /// Places outside that should have signed heads and could not be read, with the reason.
    pub unread: Vec<String>,
}

/// A part of the chain, examined.
struct Part {
    links: SealedPart<Examined>,
    /// Position of its last link.
    up_to: i64,
}

impl Part {
    async fn read(store: Store, after: Option<i64>, up_to: i64) -> Result<Self> {
        Ok(Self { links: store.examine_sealed(after, up_to, Examined::new).await?, up_to })
    }
}

fn died(error: tokio::task::JoinError) -> Error {
    Error::internal("a part of the verification ended without an answer").with_source(error)
}

impl AuditLog {
    /// Checks the whole log against itself: every leaf, the chain, its gaps, the tree, its signed heads, and the leaves that
    /// wait.
    ///
    /// An edit of any column, a deletion in the middle, an inserted or swapped row is found. What a rewrite of the
    /// whole log or a cut of its end leaves behind is consistent in itself: see [`verify_from`](Self::verify_from) and
    /// [`verify_against`](Self::verify_against).
    ///
    /// # Errors
    /// `Interrupted`, `Timeout`; `Busy`, `Unreachable`. A defect is no error but a line of the result.
    pub async fn verify(&self, ctx: &OpContext) -> Result<AuditVerification> {
        self.verify_against(ctx, None, &[]).await
    }

    /// As [`verify`](Self::verify), and the log must contain a link that was noted outside of the store. A cut tail,
    /// a wiped log and a rewritten chain are found as far as that link reaches.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn verify_from(&self, ctx: &OpContext, noted: LogHead) -> Result<AuditVerification> {
        self.verify_against(ctx, Some(noted), &[]).await
    }

    /// As [`verify`](Self::verify), and the log must begin with every signed head that was kept outside of the store.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn verify_against(
        &self,
        ctx: &OpContext,
        noted: Option<LogHead>,
        kept: &[Kept],
    ) -> Result<AuditVerification> {
        let mut tree = TreeCheck::begin(self, kept).await?;
        let mut checker = Checker::new(noted);
        self.check_chain(ctx, &mut checker, &mut tree).await?;
        checker.end_of_chain();
        if checker.found_nothing() {
            for (seq, why) in tree.finish(self, checker.end()).await? {
                checker.bad(seq, None, why);
            }
        }
        self.check_unsealed(ctx, &mut checker).await?;
        Ok(checker.result(tree))
    }

    async fn check_chain(&self, ctx: &OpContext, checker: &mut Checker, tree: &mut TreeCheck) -> Result<()> {
        // Runs that erased payloads, and whether they are in the log: few, for many leaves.
        let mut erasures = HashMap::new();
        let mut parts = pin!(self.parts().buffered(AT_ONCE));
        while let Some(part) = parts.next().await {
            ctx.check()?;
            let mut part = part?;
            loop {
                if let Some(last) = part.links.entries.last() {
                    tree.prepare(self.store(), last.seq).await?;
                }
                for entry in &part.links.entries {
                    checker.entry(entry, tree);
                }
                for entry in &part.links.entries {
                    let Some(run) = &entry.erased_by else { continue };
                    let known = match erasures.get(run) {
                        Some(known) => *known,
                        None => {
                            let known = self.is_erasure(run).await?;
                            erasures.insert(run.clone(), known);
                            known
                        }
                    };
                    if !known {
                        let why = format!("its payload was erased by the run {run}, which is not in the log");
                        checker.bad_at(Some(entry.seq), why);
                    }
                }
                if tree.whole()
                    && let Some((seq, why)) = tree.compare_full(self.store()).await?
                {
                    checker.bad_at(seq, why);
                }
                let Some((seq, why)) = part.links.unreadable.take() else { break };
                checker.unreadable(seq, &why);
                tree.stop();
                part = Part::read(self.store().clone(), Some(seq), part.up_to).await?;
            }
        }
        Ok(())
    }

    /// The chain in parts, each read and examined by a task of its own; several are under way before the first is needed.
    fn parts(&self) -> impl Stream<Item = BoxFuture<'static, Result<Part>>> + Send + use<'_> {
        let store = self.store();
        stream::unfold(Some(None), async move |after: Option<Option<i64>>| {
            let after = after?;
            let up_to = match store.seals_ahead(after, PART).await {
                Ok(up_to) => up_to?,
                Err(error) => return Some((future::ready(Err(error)).boxed(), None)),
            };
            let part = tokio::spawn(Part::read(store.clone(), after, up_to));
            let part = async move { part.await.unwrap_or_else(|e| Err(died(e))) };
            Some((part.boxed(), Some(Some(up_to))))
        })
    }

    /// Whether the log has a run of this id that erases payloads.
    async fn is_erasure(&self, run: &str) -> Result<bool> {
        Ok(self.store().has_run_of(run, ERASE).await? || self.store().has_run_of(run, EXPIRE).await?)
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
