//! Anchors: places outside of the store that the signed heads are taken to.
//!
//! Only the newest head is taken: it covers all before it, so that nothing is lost while a place cannot be reached. A place
//! that fails is written down as failing and tried again by the next seal.

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use dm_core::{Error, ErrorKind, OpContext, Result};
use dm_store::AnchorState;

use crate::checkpoint::SignedCheckpoint;
use crate::log::AuditLog;

/// A place that keeps signed heads.
#[async_trait]
pub trait Anchor: Debug + Send + Sync {
    /// What it is called in reports: where it is, without secrets.
    fn name(&self) -> &str;

    /// Hands a signed head over; it is kept there when this returns. Idempotent.
    ///
    /// # Errors
    /// Whatever keeps it from being there.
    async fn publish(&self, ctx: &OpContext, checkpoint: &SignedCheckpoint) -> Result<()>;

    /// The heads of the trail `origin` that it has, of as many leaves as `sizes` says: all of them, or some that are evenly
    /// spread and the largest; none when it only takes them.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    async fn kept(&self, ctx: &OpContext, origin: &str, sizes: Range<u64>) -> Result<Vec<String>>;
}

impl AuditLog {
    /// Takes the newest signed head to every anchor that does not have it yet, and notes how each is. Gives the states of these
    /// anchors afterwards.
    ///
    /// # Errors
    /// `Busy`, `Unreachable` of the store; an anchor that fails is no error but a state.
    pub async fn publish(
        &self,
        ctx: &OpContext,
        anchors: &[Box<dyn Anchor + '_>],
        timeout: Option<Duration>,
    ) -> Result<Vec<AnchorState>> {
        let newest = self.checkpoint().await?;
        for anchor in anchors {
            let Some(checkpoint) = &newest else { break };
            let size = crate::tiles::signed(checkpoint.size);
            let states = self.store().anchor_states().await?;
            if states.iter().any(|s| s.anchor == anchor.name() && s.size == size && s.failure.is_none()) {
                continue;
            }
            let publishing = anchor.publish(ctx, checkpoint);
            let result = match timeout {
                None => publishing.await,
                Some(timeout) => tokio::time::timeout(timeout, publishing).await.unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Timeout,
                        format!("no answer within {} s", timeout.as_secs_f64()),
                    ))
                }),
            };
            let now = ctx.now();
            let (size, at, failure) = match &result {
                Ok(()) => (size, Some(now), None),
                Err(error) => (0, None, Some(error.full_message())),
            };
            let state = AnchorState { anchor: anchor.name().to_owned(), size, at, tried_at: now, failure };
            self.store().record_anchor(&state).await?;
        }
        let states = self.store().anchor_states().await?;
        Ok(states.into_iter().filter(|s| anchors.iter().any(|a| a.name() == s.anchor)).collect())
    }
}
