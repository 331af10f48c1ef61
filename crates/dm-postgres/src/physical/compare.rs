//! How a backup finds what did not change since its base.

use dm_core::{MemberSpec, OpContext, Result};

use super::plan::Plan;
use super::reading::is_pages;

/// Against what, and by what.
pub(super) enum Comparison {
    /// Everything is read.
    Nothing,
}

impl Comparison {
    /// What is read of a member.
    #[expect(clippy::unused_async, reason = "a base is asked")]
    pub(super) async fn plan(&self, _ctx: &OpContext, spec: &MemberSpec) -> Result<Plan> {
        let size = spec.size_hint.unwrap_or(0);
        Ok(match is_pages(spec) {
            true => Plan::whole(size),
            false if size <= 1 << 20 => Plan::replaceable(size),
            false => Plan::whole(size),
        })
    }
}
