//! Leaves by name and by filter, and the end of one's payload.

use dm_core::{Result, RunId};
use sqlx::any::AnyRow;

use super::{LEAF_COLUMNS, Leaf, LeafFilter, LeafName, ListedLeaf, read_leaf};
use crate::sql::{Columns, Page, Sql, micros, word};
use crate::store::Store;

impl Store {
    /// A leaf by its name, with its position in the chain once it is sealed.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn find_leaf(&self, name: &LeafName) -> Result<Option<(Option<i64>, Leaf)>> {
        let sql = Sql::new("SELECT s.seq, ")
            .push(LEAF_COLUMNS)
            .push(" FROM audit_leaves l LEFT JOIN audit_seals s ON s.leaf_id = l.id WHERE ");
        let sql = match name {
            LeafName::Event(id) => sql.push("l.event_id = ").value(id.as_str()),
            LeafName::Seq(seq) => sql.push("s.seq = ").value(*seq),
        };
        let row = sql.optional(self.reader()).await?;
        row.map(|row| {
            let mut columns = Columns::new(&row);
            Ok((columns.take()?, read_leaf(&mut columns)?))
        })
        .transpose()
    }

    /// Erases the payload of a sealed leaf, and notes the run that does it. Gives whether there was one to erase.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn erase_payload(&self, event_id: &str, run_id: RunId) -> Result<bool> {
        let sql = Sql::new(
            "UPDATE audit_leaves SET details = NULL, error = NULL, salt = NULL, erased_by = $2 \
             WHERE event_id = $1 AND erased_by IS NULL \
             AND EXISTS (SELECT 1 FROM audit_seals s WHERE s.leaf_id = audit_leaves.id)",
        );
        let sql = sql.bind(event_id).bind(run_id.to_string()).committing();
        Ok(sql.execute(self.writer()).await? == 1)
    }

    /// Whether a run of this action is in the log.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn has_run_of(&self, run_id: &str, action: &str) -> Result<bool> {
        let sql = Sql::new("SELECT 1 FROM audit_leaves WHERE run_id = $1 AND action = $2 LIMIT 1");
        Ok(sql.bind(run_id).bind(action).optional(self.reader()).await?.is_some())
    }

    /// A page of the log in the order of appending, with the seals.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn list_leaves(&self, filter: &LeafFilter, page: &Page<i64>) -> Result<Vec<ListedLeaf>> {
        let mut sql = Sql::new("SELECT l.id, s.seq, s.sealed_at, ")
            .push(LEAF_COLUMNS)
            .push(" FROM audit_leaves l LEFT JOIN audit_seals s ON s.leaf_id = l.id WHERE 1 = 1")
            .and("l.actor = ", filter.actor.as_deref())
            .and("l.resource = ", filter.resource.as_deref())
            .and("l.outcome = ", filter.outcome.as_ref().map(word).transpose()?)
            .and("l.run_id = ", filter.run_id.map(|id| id.to_string()))
            .and("l.at >= ", filter.since.map(micros))
            .and("l.at < ", filter.until.map(micros))
            .and("s.seq > ", filter.sealed_after);
        if let Some(prefix) = &filter.action_prefix {
            sql = sql.push(" AND ").action_prefix(prefix);
        }
        if let Some(prefix) = &filter.not_action_prefix {
            sql = sql.push(" AND NOT ").action_prefix(prefix);
        }
        for (i, action) in filter.actions.iter().enumerate() {
            sql = sql.push(if i == 0 { " AND l.action IN (" } else { ", " }).value(action.as_str());
        }
        if !filter.actions.is_empty() {
            sql = sql.push(")");
        }
        if let Some(after) = page.after {
            sql = sql.push(" AND l.id").push(page.order.beyond()).value(after);
        }
        sql = match filter.sealed_after {
            Some(_) => sql.push(" ORDER BY s.seq"),
            None => sql.push(" ORDER BY l.id").push(page.order.keyword()),
        };
        sql = sql.push(" LIMIT ").value(page.limit());
        sql.all(self.reader()).await?.iter().map(read_listed).collect()
    }
}

fn read_listed(row: &AnyRow) -> Result<ListedLeaf> {
    let mut columns = Columns::new(row);
    let id = columns.take()?;
    let (seq, sealed_at): (Option<i64>, Option<i64>) = (columns.take()?, columns.take()?);
    Ok(ListedLeaf { id, seal: seq.zip(sealed_at), leaf: read_leaf(&mut columns)? })
}
