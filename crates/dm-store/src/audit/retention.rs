//! The end of payloads: what is old enough and not held loses its details, its error and its salt. Leaf, seal and tree stay.

use chrono::{DateTime, Utc};
use dm_core::{Result, RunId};

use super::Leaf;
use crate::sql::{Columns, Sql, micros};
use crate::store::{Store, commit};

/// Leaves whose payloads must stay, whatever their age. Empty fields match everything, but one that is empty as a whole
/// holds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafHold {
    /// This actor.
    pub actor: Option<String>,
    /// Actions that begin with this.
    pub action_prefix: Option<String>,
    /// This resource.
    pub resource: Option<String>,
}

impl LeafHold {
    /// Whether it holds this leaf.
    #[must_use]
    pub fn holds(&self, leaf: &Leaf) -> bool {
        *self != Self::default()
            && self.actor.as_ref().is_none_or(|actor| *actor == leaf.actor)
            && self.action_prefix.as_ref().is_none_or(|prefix| leaf.action.starts_with(prefix))
            && self.resource.as_ref().is_none_or(|resource| *resource == leaf.resource)
    }
}

/// What an expiry would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expirable {
    /// Payloads that would go.
    pub payloads: u64,
    /// Payloads that are as old and are held.
    pub held: u64,
    /// Reports and errors in the history of runs that would go.
    pub runs: u64,
}

impl Sql {
    /// ` AND NOT (…)` for each hold.
    fn not_held(mut self, holds: &[LeafHold]) -> Self {
        for hold in holds.iter().filter(|hold| **hold != LeafHold::default()) {
            self = self.push(" AND NOT (1 = 1");
            self = self.and("actor = ", hold.actor.as_deref()).and("resource = ", hold.resource.as_deref());
            if let Some(prefix) = &hold.action_prefix {
                self = self.push(" AND ").action_prefix(prefix);
            }
            self = self.push(")");
        }
        self
    }
}

const OLD_LEAVES: &str = " FROM audit_leaves WHERE erased_by IS NULL \
     AND EXISTS (SELECT 1 FROM audit_seals s WHERE s.leaf_id = audit_leaves.id) AND at < ";
const OLD_RUNS: &str = "(error IS NOT NULL OR report IS NOT NULL) AND state <> 'running' AND finished_at < ";

impl Store {
    /// What an expiry of everything before an instant would take.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn expirable(&self, before: DateTime<Utc>, holds: &[LeafHold]) -> Result<Expirable> {
        let count = async |sql: Sql| -> Result<u64> {
            let count: i64 = Columns::new(&sql.one(self.reader()).await?).take()?;
            Ok(u64::try_from(count).unwrap_or_default())
        };
        let leaves = || Sql::new("SELECT COUNT(*)").push(OLD_LEAVES).value(micros(before));
        let payloads = count(leaves().not_held(holds)).await?;
        let held = count(leaves()).await?.saturating_sub(payloads);
        let runs = Sql::new("SELECT COUNT(*) FROM runs WHERE ").push(OLD_RUNS).value(micros(before));
        Ok(Expirable { payloads, held, runs: count(runs.not_held(holds)).await? })
    }

    /// Erases the payloads of up to `limit` sealed leaves before an instant, behind a local id, in one transaction. Gives how
    /// many that were, and the id to go on behind; `None` when there are no more.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn expire_payloads(
        &self,
        before: DateTime<Utc>,
        holds: &[LeafHold],
        run_id: RunId,
        after: i64,
        limit: u32,
    ) -> Result<(u64, Option<i64>)> {
        let mut transaction = self.begin().await?;
        let last = Sql::new("SELECT MAX(id) FROM (SELECT id")
            .push(OLD_LEAVES)
            .value(micros(before))
            .and("id > ", Some(after))
            .not_held(holds)
            .push(" ORDER BY id LIMIT ")
            .value(i64::from(limit))
            .push(") some");
        let Some(last) = Columns::new(&last.one(&mut *transaction).await?).take::<Option<i64>>()? else {
            return Ok((0, None));
        };
        let erased =
            Sql::new("UPDATE audit_leaves SET details = NULL, error = NULL, salt = NULL, erased_by = ")
                .value(run_id.to_string())
                .push(" WHERE id IN (SELECT id")
                .push(OLD_LEAVES)
                .value(micros(before))
                .and("id > ", Some(after))
                .and("id <= ", Some(last))
                .not_held(holds)
                .push(")")
                .execute(&mut *transaction)
                .await?;
        commit(transaction).await?;
        Ok((erased, Some(last)))
    }

    /// Erases reports and errors of runs that ended before an instant. Gives of how many.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn expire_runs(&self, before: DateTime<Utc>, holds: &[LeafHold]) -> Result<u64> {
        let sql = Sql::new("UPDATE runs SET error = NULL, report = NULL WHERE ").push(OLD_RUNS);
        sql.value(micros(before)).not_held(holds).committing().execute(self.writer()).await
    }
}
