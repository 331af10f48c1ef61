//! What every engine must do at its ports, as one suite that each adapter runs.
//!
//! ```ignore
//! struct Subject { .. }
//! impl dm_testkit::conformance::Subject for Subject { .. }
//! // One #[tokio::test] a demand; `None` where the engine cannot be had (see `require!`).
//! dm_testkit::conformance_tests!(async { Subject::start().await });
//! ```
//!
//! A demand fails by panicking with what was demanded. Each gets a subject of its own.

mod backup;
mod collect;
mod engine;
mod restore;

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{Actor, Destination, Engine, OpContext, Restored};

pub use backup::*;
pub use collect::{Collected, collect};
pub use engine::*;
pub use restore::*;

/// An engine under test, with some content: at least two tables with rows, one of them larger than a block of 64 KiB.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The engine.
    fn engine(&self) -> Arc<dyn Engine>;

    /// A secret of its configuration that must never be shown, where it has one.
    fn secret(&self) -> Option<String> {
        None
    }

    /// A place to restore into that does not exist; another one at each call.
    async fn fresh_destination(&self) -> Destination;

    /// A place to restore into that holds something already.
    async fn taken_destination(&self) -> Destination;

    /// Adds a row to a table, committed.
    async fn change(&self);

    /// An engine whose own database is the restored one.
    async fn open_restored(&self, restored: &Restored) -> Arc<dyn Engine>;
}

fn context() -> OpContext {
    OpContext::new(Actor::local_user("conformance"))
}

/// Makes one `#[tokio::test]` of each demand. The argument is an expression that gives a future of `Option<Subject>`.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::conformance_tests!(@each $subject;
            describes_itself, a_closed_engine_is_unreachable,
            members_are_named_once_and_in_order, blocks_are_laid_out_as_said, facts_are_repeatable,
            digests_depend_on_the_key, a_snapshot_does_not_move, an_unread_member_is_no_backup,
            an_unknown_member_is_refused, an_unknown_table_is_found_before_anything_starts,
            a_tenant_is_never_ignored, a_cancelled_backup_stops, a_dropped_backup_leaves_the_engine_usable,
            a_restore_gives_everything_back, stages_hold_each_member_once,
            a_second_look_sees_the_same_plan, a_taken_destination_is_refused, a_difference_is_seen, another_engines_backup_is_refused,
            an_unknown_table_is_not_restored, a_discarded_restore_leaves_nothing,
            a_broken_content_is_not_swallowed,
        );
    };
    (@each $subject:expr; $($demand:ident),* $(,)?) => {
        mod conformance {
            #[allow(unused_imports, reason = "the expression may need what stands beside it")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $demand() {
                    let Some(subject) = $subject.await else { return };
                    $crate::conformance::$demand(&subject).await;
                }
            )*
        }
    };
}
