//! Appending leaves.

use dm_core::Result;
use sqlx::AnyConnection;

use super::Leaf;
use crate::dialect::Dialect;
use crate::sql::Sql;
use crate::store::{Store, commit};

/// Rows of one statement: enough to make its overhead small.
const LEAVES_A_STATEMENT: usize = 32;

impl Store {
    /// Appends leaves in one transaction; durable when it returns.
    ///
    /// # Errors
    /// `AlreadyExists` for an event id that was used; `Busy`, `Unreachable`, `Exhausted`.
    pub async fn append_leaves(&self, leaves: &[Leaf]) -> Result<()> {
        match leaves {
            [] => Ok(()),
            // One statement is a transaction by itself, without the round trips.
            [one] => insert(self.dialect(), std::slice::from_ref(one))
                .committing()
                .execute(self.writer())
                .await
                .map(|_| ()),
            many => {
                let mut transaction = self.begin().await?;
                for chunk in many.chunks(LEAVES_A_STATEMENT) {
                    insert(self.dialect(), chunk).execute(&mut *transaction).await?;
                }
                commit(transaction).await
            }
        }
    }

    /// Appends those leaves whose events are not in the log yet, in one transaction; durable when it returns. Gives how many
    /// that were.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`; none of them is then in the log.
    pub async fn append_new_leaves(&self, leaves: &[Leaf]) -> Result<u64> {
        let mut transaction = self.begin().await?;
        let mut appended = 0;
        for chunk in leaves.chunks(LEAVES_A_STATEMENT) {
            let sql = insert(self.dialect(), chunk).push(" ON CONFLICT (event_id) DO NOTHING");
            appended += sql.execute(&mut *transaction).await?;
        }
        commit(transaction).await?;
        Ok(appended)
    }
}

/// Appends a leaf within a transaction that does something else as well.
pub(crate) async fn insert_leaf(on: &mut AnyConnection, dialect: Dialect, leaf: &Leaf) -> Result<()> {
    insert(dialect, std::slice::from_ref(leaf)).execute(on).await.map(|_| ())
}

fn insert(dialect: Dialect, leaves: &[Leaf]) -> Sql {
    let mut sql = Sql::new(
        "INSERT INTO audit_leaves (version, event_id, at, actor, action, resource, outcome, effect, duration_us, \
         run_id, details, error, salt, commitment, leaf_hash) VALUES ",
    )
    .in_order(dialect);
    for (i, leaf) in leaves.iter().enumerate() {
        sql = sql.push(if i == 0 { "(" } else { ", (" });
        sql = sql.value(leaf.version).push(", ").value(leaf.event_id.as_str()).push(", ");
        sql = sql.value(leaf.at).push(", ").value(leaf.actor.as_str()).push(", ");
        sql = sql.value(leaf.action.as_str()).push(", ").value(leaf.resource.as_str()).push(", ");
        sql = sql.value(leaf.outcome.as_str()).push(", ").value(leaf.effect.as_str()).push(", ");
        sql = sql.value(leaf.duration_us).push(", ").value(leaf.run_id.as_str()).push(", ");
        sql = sql.value(leaf.details.as_deref()).push(", ").value(leaf.error.as_deref()).push(", ");
        sql = sql.value(leaf.salt.as_deref()).push(", ").value(leaf.commitment.as_slice()).push(", ");
        sql = sql.value(leaf.leaf_hash.as_slice()).push(")");
    }
    if leaves.len() == 1 || leaves.len() == LEAVES_A_STATEMENT { sql } else { sql.once() }
}
