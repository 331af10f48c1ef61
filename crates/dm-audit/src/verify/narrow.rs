//! Where a rewrite begins, found by the heads that a place outside kept.
//!
//! A head covers everything before it. So of the heads of one log in ascending order the first ones agree with a rewritten
//! log, up to where it was rewritten, and from there on none does: a handful of them, chosen by halves, says between which two.

use dm_core::Result;
use serde::{Deserialize, Serialize};

use super::{AuditVerification, BadEntry};
use crate::checkpoint::Checkpoint;
use crate::log::AuditLog;
use crate::tiles::{root_at, signed};

/// A log that was written anew, and signed anew, is another one than it was from somewhere between two entries on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewritten {
    /// The first entry that may be another; all before it are those that were signed for.
    pub from: u64,
    /// The first or a later one of those that are other ones.
    pub to: u64,
    /// Whose head says so.
    pub place: String,
}

impl Rewritten {
    pub(super) fn why(&self) -> String {
        let Self { from, to, place } = self;
        match from == to {
            true => {
                format!("the log was rewritten from entry {to} on: the checkpoint from {place} signs another")
            }
            false => format!(
                "the log was rewritten between entry {from} and entry {to}: the checkpoint from {place} signs another"
            ),
        }
    }
}

impl AuditLog {
    /// Narrows down where a rewrite that a verification found began, by signed heads that `place` kept of the span, their
    /// signatures checked by whoever brings them. Gives whether there was any.
    ///
    /// # Errors
    /// `Corrupt` when a tile is missing; `Busy`, `Unreachable`.
    pub async fn narrow(
        &self,
        verification: &mut AuditVerification,
        place: &str,
        heads: &[Checkpoint],
    ) -> Result<bool> {
        let Some(mut span) = verification.rewritten.clone() else { return Ok(false) };
        let mut heads: Vec<_> = heads.iter().filter(|h| h.size >= span.from && h.size < span.to).collect();
        heads.sort_by_key(|head| head.size);
        if heads.is_empty() {
            return Ok(false);
        }
        let (mut first, mut end) = (0, heads.len());
        while first < end {
            let middle = first.midpoint(end);
            let head = heads[middle];
            if root_at(self.store(), head.size).await? == head.root {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        if let Some(agrees) = first.checked_sub(1) {
            span.from = heads[agrees].size + 1;
        }
        if let Some(differs) = heads.get(first) {
            (span.to, span.place) = (differs.size, place.to_owned());
        }
        verification.first_bad =
            Some(BadEntry { seq: Some(signed(span.to)), event_id: None, why: span.why() });
        verification.statement = super::chain::damned(signed(span.to));
        verification.rewritten = Some(span);
        Ok(true)
    }
}
