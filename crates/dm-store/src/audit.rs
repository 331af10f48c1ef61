//! Rows of the audit log. What they hash to is `dm-audit`'s business; here they are only kept.
//!
//! A leaf is appended with one statement that waits for no other append. A trigger puts it on the queue of leaves
//! that no seal covers yet; sealing takes from there, under a fenced lease, in one transaction a batch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{OpContext, Result, RunId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::leases::{Lease, fence};
use crate::sql::{Columns, Page, Sql, micros, word};
use crate::store::{Store, commit};

/// A leaf as its columns hold it: raw text and numbers, so that hashing never depends on their being well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Version of the encoding that was hashed.
    pub version: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Microseconds of UTC.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// How it ended.
    pub outcome: String,
    /// Whether anything happened.
    pub effect: String,
    /// Microseconds from intent to outcome.
    pub duration_us: i64,
    /// The run.
    pub run_id: String,
    /// JSON; `None` when erased.
    pub details: Option<String>,
    /// The error's message.
    pub error: Option<String>,
    /// Salt of the commitment; `None` when erased.
    pub salt: Option<Vec<u8>>,
    /// Salted commitment to details and error.
    pub commitment: Vec<u8>,
    /// Hash of all of the above but the payload and its salt.
    pub leaf_hash: Vec<u8>,
    /// The run that erased the payload.
    pub erased_by: Option<String>,
}

/// A leaf that waits for its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLeaf {
    /// Its local id.
    pub id: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Its hash, as it was appended.
    pub leaf_hash: Vec<u8>,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Position in the chain, from 1 without gaps.
    pub seq: i64,
    /// Local id of the leaf.
    pub leaf_id: i64,
    /// UUID of the event.
    pub event_id: String,
    /// Chain hash of the link before.
    pub prev_hash: Vec<u8>,
    /// Chain hash up to here.
    pub chain_hash: Vec<u8>,
    /// Microseconds of UTC.
    pub sealed_at: i64,
    /// The sealer's fence.
    pub epoch: i64,
}

/// A link with what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEntry {
    /// The link.
    pub seal: Seal,
    /// The leaf, when it is there.
    pub leaf: Option<Leaf>,
}

/// A leaf that no seal covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsealedLeaf {
    /// Its local id.
    pub id: i64,
    /// Whether it is on the queue, as it should be.
    pub pending: bool,
    /// The leaf.
    pub leaf: Leaf,
}

/// A page of leaves that no seal covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsealedPage {
    /// Leaves in ascending order of their ids.
    pub leaves: Vec<UnsealedLeaf>,
    /// Id behind them whose row cannot be read at all, and why.
    pub unreadable: Option<(i64, String)>,
}

/// A leaf of the log, with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLeaf {
    /// Its local id; the cursor of a page that ends with it.
    pub id: i64,
    /// Position and time of its seal, when it has one.
    pub seal: Option<(i64, i64)>,
    /// The leaf.
    pub leaf: Leaf,
}

/// What an event is named by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafName {
    /// Its UUID.
    Event(String),
    /// Its position in the chain.
    Seq(i64),
}

/// Which leaves. Empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafFilter {
    /// This actor.
    pub actor: Option<String>,
    /// Actions that begin with this: `backup:`.
    pub action_prefix: Option<String>,
    /// One of these actions; any where there are none.
    pub actions: Vec<String>,
    /// Sealed ones behind this position of the chain, in its order, whatever the page's: what is sealed later comes behind what
    /// was seen, which is not so of ids, given before the commit.
    pub sealed_after: Option<i64>,
    /// No action that begins with this.
    pub not_action_prefix: Option<String>,
    /// This resource.
    pub resource: Option<String>,
    /// This outcome.
    pub outcome: Option<dm_core::AuditOutcome>,
    /// At this instant or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this instant.
    pub until: Option<DateTime<Utc>>,
    /// This run.
    pub run_id: Option<RunId>,
}

// Rows of a multi-row statement: enough to make its overhead small, few enough that the look-ups of named parameters
// on SQLite stay cheap: they are linear in the parameters, for each parameter, at every execution. (200 leaves a
// statement took three times as long as 32.)
const LEAVES_A_STATEMENT: usize = 32;
const SEALS_A_STATEMENT: usize = 64;

const LEAF_COLUMNS: &str = "l.version, l.event_id, l.at, l.actor, l.action, l.resource, l.outcome, l.effect, \
     l.duration_us, l.run_id, l.details, l.error, l.salt, l.commitment, l.leaf_hash, l.erased_by";

impl Store {
    /// Appends leaves in one transaction; durable when it returns.
    ///
    /// # Errors
    /// `AlreadyExists` for an event id that was used; `Busy`, `Unreachable`, `Exhausted`.
    pub async fn append_leaves(&self, leaves: &[Leaf]) -> Result<()> {
        match leaves {
            [] => Ok(()),
            // One statement is a transaction by itself, without the round trips.
            [one] => {
                insert_chunk(std::slice::from_ref(one)).committing().execute(self.writer()).await.map(|_| ())
            }
            many => {
                let mut transaction = self.begin().await?;
                insert_leaves(&mut transaction, many).await?;
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
            let sql = insert_chunk(chunk).push(" ON CONFLICT (event_id) DO NOTHING");
            appended += sql.execute(&mut *transaction).await?;
        }
        commit(transaction).await?;
        Ok(appended)
    }

    /// Whether any leaf waits for its seal. Cheap.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn has_pending_leaves(&self) -> Result<bool> {
        Ok(Sql::new("SELECT leaf_id FROM audit_pending LIMIT 1").optional(self.reader()).await?.is_some())
    }

    /// The last link of the chain.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn last_seal(&self) -> Result<Option<Seal>> {
        last_seal(&mut *self.reader().acquire().await.map_err(crate::error::map)?).await
    }

    /// Seals one batch: takes up to `limit` leaves from the queue, lets `link` make their links behind the present
    /// head, and stores them. All of it is one transaction that holds the lease, so that no two chains can grow. Gives
    /// the links that were made.
    ///
    /// # Errors
    /// `Conflict` when the lease was lost; `Busy`, `Unreachable`, `Exhausted`; whatever `link` gives.
    pub async fn seal_batch(
        &self,
        ctx: &OpContext,
        lease: &Lease,
        duration: Duration,
        limit: u32,
        link: impl FnOnce(Option<&Seal>, &[PendingLeaf], i64) -> Result<Vec<Seal>> + Send,
    ) -> Result<Vec<Seal>> {
        let mut transaction = self.begin().await?;
        fence(&mut transaction, ctx, lease, duration).await?;
        let head = last_seal(&mut transaction).await?;
        // A leaf that is gone, or is in the chain already, stays on the queue as evidence, and in nobody's way.
        let rows = Sql::new(
            "SELECT p.leaf_id, l.event_id, l.leaf_hash FROM audit_pending p \
             JOIN audit_leaves l ON l.id = p.leaf_id \
             WHERE NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.leaf_id = p.leaf_id) \
             ORDER BY p.leaf_id LIMIT $1",
        )
        .bind(i64::from(limit))
        .all(&mut *transaction)
        .await?;
        let waiting = rows.iter().map(read_pending).collect::<Result<Vec<_>>>()?;
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let seals = link(head.as_ref(), &waiting, lease.epoch)?;
        for chunk in seals.chunks(SEALS_A_STATEMENT) {
            let mut sql = Sql::new(
                "INSERT INTO audit_seals (seq, leaf_id, event_id, prev_hash, chain_hash, sealed_at, epoch) VALUES ",
            );
            for (i, seal) in chunk.iter().enumerate() {
                sql = sql.push(if i == 0 { "(" } else { ", (" });
                sql = sql.value(seal.seq).push(", ").value(seal.leaf_id).push(", ");
                sql =
                    sql.value(seal.event_id.as_str()).push(", ").value(seal.prev_hash.as_slice()).push(", ");
                sql = sql.value(seal.chain_hash.as_slice()).push(", ").value(seal.sealed_at).push(", ");
                sql = sql.value(seal.epoch).push(")");
            }
            if chunk.len() != SEALS_A_STATEMENT {
                sql = sql.once();
            }
            sql.execute(&mut *transaction).await?;
        }
        Sql::new(
            "DELETE FROM audit_pending WHERE leaf_id IN (SELECT leaf_id FROM audit_seals WHERE seq > $1)",
        )
        .bind(head.map_or(0, |h| h.seq))
        .execute(&mut *transaction)
        .await?;
        commit(transaction).await?;
        Ok(seals)
    }

    /// The position so many links behind another one (from the very beginning when `None`), or that of the last link; `None`
    /// when there is none behind it. It reads no link.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn seals_ahead(&self, after: Option<i64>, count: u32) -> Result<Option<i64>> {
        let ahead = |on: &'static str| Sql::new(on).and("seq > ", after);
        let sql = ahead("SELECT seq FROM audit_seals WHERE 1 = 1")
            .push(" ORDER BY seq LIMIT 1 OFFSET ")
            .value(i64::from(count.max(1) - 1));
        if let Some(row) = sql.optional(self.reader()).await? {
            return Columns::new(&row).take().map(Some);
        }
        let sql = ahead("SELECT MAX(seq) FROM audit_seals WHERE 1 = 1");
        Columns::new(&sql.one(self.reader()).await?).take()
    }

    /// Hands over the links behind a position (from the very beginning when `None`) up to another one, in ascending order,
    /// with their leaves, as they arrive. Gives the position whose row cannot be read at all, and why; nothing behind it was
    /// read.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn each_sealed(
        &self,
        after: Option<i64>,
        up_to: i64,
        mut take: impl FnMut(SealedEntry) + Send,
    ) -> Result<Option<(i64, String)>> {
        let sql = Sql::new(
            "SELECT s.seq, s.leaf_id, s.event_id, s.prev_hash, s.chain_hash, s.sealed_at, s.epoch, l.id, ",
        )
        .push(LEAF_COLUMNS)
        .push(" FROM audit_seals s LEFT JOIN audit_leaves l ON l.id = s.leaf_id WHERE 1 = 1")
        .and("s.seq > ", after)
        .and("s.seq <= ", Some(up_to))
        .push(" ORDER BY s.seq");
        let mut last = after;
        let why = sql.each(self.reader(), |row| {
            let entry = read_sealed(&row)?;
            last = Some(entry.seal.seq);
            take(entry);
            Ok(())
        });
        let Some(why) = why.await? else { return Ok(None) };
        let sql = Sql::new("SELECT seq FROM audit_seals WHERE 1 = 1")
            .and("seq > ", last)
            .push(" ORDER BY seq LIMIT 1");
        Ok(Some((Columns::new(&sql.one(self.reader()).await?).take()?, why)))
    }

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

    /// A page of leaves that no seal covers, behind a local id.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn unsealed_page(&self, after: Option<i64>, limit: u32) -> Result<UnsealedPage> {
        let tail = " FROM audit_leaves l LEFT JOIN audit_pending p ON p.leaf_id = l.id \
             WHERE NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.leaf_id = l.id)";
        let sql = Sql::new("SELECT l.id, p.leaf_id, ")
            .push(LEAF_COLUMNS)
            .push(tail)
            .and("l.id > ", after)
            .push(" ORDER BY l.id LIMIT ")
            .value(i64::from(limit));
        let (rows, mut why) = sql.readable(self.reader()).await?;
        let mut page = UnsealedPage::default();
        for row in &rows {
            match read_unsealed(row) {
                Ok(leaf) => page.leaves.push(leaf),
                Err(e) => {
                    why = Some(e.to_string());
                    break;
                }
            }
        }
        if let Some(why) = why {
            let sql = Sql::new("SELECT l.id")
                .push(tail)
                .and("l.id > ", page.leaves.last().map(|l| l.id).or(after))
                .push(" ORDER BY l.id LIMIT 1");
            page.unreadable = Some((Columns::new(&sql.one(self.reader()).await?).take()?, why));
        }
        Ok(page)
    }

    /// How many places on the queue wait for a leaf that is not there.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn vanished_pending(&self) -> Result<u64> {
        let sql = Sql::new(
            "SELECT COUNT(*) FROM audit_pending p \
             WHERE NOT EXISTS (SELECT 1 FROM audit_leaves l WHERE l.id = p.leaf_id)",
        );
        let count: i64 = Columns::new(&sql.one(self.reader()).await?).take()?;
        Ok(u64::try_from(count).unwrap_or(0))
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

pub(crate) async fn insert_leaves(on: &mut AnyConnection, leaves: &[Leaf]) -> Result<()> {
    for chunk in leaves.chunks(LEAVES_A_STATEMENT) {
        insert_chunk(chunk).execute(&mut *on).await?;
    }
    Ok(())
}

fn insert_chunk(leaves: &[Leaf]) -> Sql {
    let mut sql = Sql::new(
        "INSERT INTO audit_leaves (version, event_id, at, actor, action, resource, outcome, effect, duration_us, \
         run_id, details, error, salt, commitment, leaf_hash) VALUES ",
    );
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

async fn last_seal(on: &mut AnyConnection) -> Result<Option<Seal>> {
    let row = Sql::new(
        "SELECT seq, leaf_id, event_id, prev_hash, chain_hash, sealed_at, epoch FROM audit_seals \
         ORDER BY seq DESC LIMIT 1",
    )
    .optional(on)
    .await?;
    row.map(|row| read_seal(&mut Columns::new(&row))).transpose()
}

fn read_pending(row: &AnyRow) -> Result<PendingLeaf> {
    let mut columns = Columns::new(row);
    Ok(PendingLeaf { id: columns.take()?, event_id: columns.take()?, leaf_hash: columns.take()? })
}

fn read_seal(columns: &mut Columns<'_>) -> Result<Seal> {
    Ok(Seal {
        seq: columns.take()?,
        leaf_id: columns.take()?,
        event_id: columns.take()?,
        prev_hash: columns.take()?,
        chain_hash: columns.take()?,
        sealed_at: columns.take()?,
        epoch: columns.take()?,
    })
}

fn read_sealed(row: &AnyRow) -> Result<SealedEntry> {
    let mut columns = Columns::new(row);
    let seal = read_seal(&mut columns)?;
    let there = columns.take::<Option<i64>>()?.is_some();
    let leaf = if there { Some(read_leaf(&mut columns)?) } else { None };
    Ok(SealedEntry { seal, leaf })
}

fn read_unsealed(row: &AnyRow) -> Result<UnsealedLeaf> {
    let mut columns = Columns::new(row);
    let (id, pending) = (columns.take()?, columns.take::<Option<i64>>()?.is_some());
    Ok(UnsealedLeaf { id, pending, leaf: read_leaf(&mut columns)? })
}

fn read_listed(row: &AnyRow) -> Result<ListedLeaf> {
    let mut columns = Columns::new(row);
    let id = columns.take()?;
    let (seq, sealed_at): (Option<i64>, Option<i64>) = (columns.take()?, columns.take()?);
    Ok(ListedLeaf { id, seal: seq.zip(sealed_at), leaf: read_leaf(&mut columns)? })
}

fn read_leaf(columns: &mut Columns<'_>) -> Result<Leaf> {
    Ok(Leaf {
        version: columns.take()?,
        event_id: columns.take()?,
        at: columns.take()?,
        actor: columns.take()?,
        action: columns.take()?,
        resource: columns.take()?,
        outcome: columns.take()?,
        effect: columns.take()?,
        duration_us: columns.take()?,
        run_id: columns.take()?,
        details: columns.take()?,
        error: columns.take()?,
        salt: columns.take()?,
        commitment: columns.take()?,
        leaf_hash: columns.take()?,
        erased_by: columns.take()?,
    })
}
