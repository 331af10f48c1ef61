//! Reading everything back, for a verification: the links with their leaves, and the leaves that no link covers.

use dm_core::{Error, Result};
use sqlx::any::AnyRow;

use super::{LEAF_COLUMNS, SealedEntry, UnsealedLeaf, UnsealedPage, file, read_leaf, read_seal, server};
use crate::sql::{Columns, Sql};
use crate::store::Store;

/// The links of a part of the chain with their leaves, each as it was asked to be examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedPart<T> {
    /// In ascending order of their positions.
    pub entries: Vec<T>,
    /// Position behind them whose row cannot be read at all, and why; nothing behind it was read.
    pub unreadable: Option<(i64, String)>,
}

pub(super) const SEALED: &str =
    "SELECT s.seq, s.leaf_id, s.event_id, s.prev_hash, s.chain_hash, s.sealed_at, s.epoch, l.id, ";
pub(super) const SEALED_FROM: &str =
    " FROM audit_seals s LEFT JOIN audit_leaves l ON l.id = s.leaf_id WHERE 1 = 1";

impl Store {
    /// A position some links behind another one (from the very beginning when `None`): `count` of them, or fewer where the chain
    /// has gaps; that of the last link when there are not so many; `None` when there is none. It reads no link.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn seals_ahead(&self, after: Option<i64>, count: u32) -> Result<Option<i64>> {
        let count = i64::from(count.max(1));
        // Where the chain has no gaps, which is nearly always, the place is known.
        let guess = after.unwrap_or(0).saturating_add(count);
        let there = Sql::new("SELECT seq FROM audit_seals WHERE seq = ").value(guess);
        if after.is_none_or(|after| after >= 0) && there.optional(self.reader()).await?.is_some() {
            return Ok(Some(guess));
        }
        let ahead = |on: &'static str| Sql::new(on).and("seq > ", after);
        let sql = ahead("SELECT seq FROM audit_seals WHERE 1 = 1")
            .push(" ORDER BY seq LIMIT 1 OFFSET ")
            .value(count - 1);
        if let Some(row) = sql.optional(self.reader()).await? {
            return Columns::new(&row).take().map(Some);
        }
        let sql = ahead("SELECT MAX(seq) FROM audit_seals WHERE 1 = 1");
        Columns::new(&sql.one(self.reader()).await?).take()
    }

    /// Examines the links behind a position (from the very beginning when `None`) up to another one, in ascending order, with
    /// their leaves, as they arrive. No more of them is kept than `examine` gives.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn examine_sealed<T: Send + 'static>(
        &self,
        after: Option<i64>,
        up_to: i64,
        mut examine: impl FnMut(&SealedEntry) -> T + Send + 'static,
    ) -> Result<SealedPart<T>> {
        let (entries, last, why) = match (self.file(), self.server()) {
            (Some(path), _) => {
                let path = path.to_owned();
                let reading =
                    tokio::task::spawn_blocking(move || file::examine(&path, after, up_to, examine));
                let died =
                    |e| Error::internal("the reading of the chain ended without an answer").with_source(e);
                reading.await.map_err(died)??
            }
            (None, Some(server)) => server::examine(server, after, up_to, examine).await?,
            (None, None) => {
                let sql = Sql::new(SEALED).push(LEAF_COLUMNS).push(SEALED_FROM);
                let sql = sql.and("s.seq > ", after).and("s.seq <= ", Some(up_to)).push(" ORDER BY s.seq");
                let (mut entries, mut last) = (Vec::new(), after);
                let why = sql.each(self.reader(), |row| {
                    let entry = read_sealed(&row)?;
                    last = Some(entry.seal.seq);
                    entries.push(examine(&entry));
                    Ok(())
                });
                let why = why.await?;
                (entries, last, why)
            }
        };
        let Some(why) = why else { return Ok(SealedPart { entries, unreadable: None }) };
        let sql = Sql::new("SELECT seq FROM audit_seals WHERE 1 = 1")
            .and("seq > ", last)
            .push(" ORDER BY seq LIMIT 1");
        let seq = Columns::new(&sql.one(self.reader()).await?).take()?;
        Ok(SealedPart { entries, unreadable: Some((seq, why)) })
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
