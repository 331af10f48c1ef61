//! Rows of the tree over the audit log: tiles, signed heads, keys, and how far each anchor has them. As with the leaves,
//! what they hash to is `dm-audit`'s business.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{OpContext, Result};
use sqlx::any::AnyRow;

use crate::leases::{Lease, fence};
use crate::sql::{Columns, Sql, clean, micros};
use crate::store::{Store, commit};

/// Hashes of one level of the tree, side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Level; 0 holds the leaves' hashes.
    pub level: i64,
    /// Place on its level.
    pub index: i64,
    /// Up to 256 hashes of 32 bytes.
    pub hashes: Vec<u8>,
}

/// What a seal covers, as far as the tree needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedHash {
    /// Position in the chain.
    pub seq: i64,
    /// The leaf's hash; `None` when the leaf is gone.
    pub leaf_hash: Option<Vec<u8>>,
}

/// The leaves by which the tree is to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLeaves {
    /// Those behind the tree's end as the store has them, at most so many.
    Stored(u32),
    /// These, which were just sealed; none where the tree is not where they begin.
    Sealed(Vec<SealedHash>),
}

/// A signed head as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Leaves that it covers.
    pub size: i64,
    /// Microseconds of UTC.
    pub at: i64,
    /// Root of the tree.
    pub root: Vec<u8>,
    /// The signed note.
    pub note: String,
}

/// How far an anchor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorState {
    /// Which one.
    pub anchor: String,
    /// Size of the newest checkpoint that it has.
    pub size: i64,
    /// When it took that.
    pub at: Option<DateTime<Utc>>,
    /// When it was last tried.
    pub tried_at: DateTime<Utc>,
    /// Why the last try failed; `None` when it did not.
    pub failure: Option<String>,
}

impl Store {
    /// How many leaves the tree has.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn tree_size(&self) -> Result<i64> {
        tree_size(&mut *self.reader().acquire().await.map_err(crate::error::map)?).await
    }

    /// The tiles at these places (level, index), those that are there, in no order.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn tiles(&self, places: &[(i64, i64)]) -> Result<Vec<Tile>> {
        tiles(&mut *self.reader().acquire().await.map_err(crate::error::map)?, places).await
    }

    /// Lets the tree follow the chain by one step: hands the leaves behind the tree's end to `grow`, with the tiles
    /// that `edge` asks for, and keeps the tiles that it gives. One transaction that holds the lease. Gives how many leaves
    /// were added.
    ///
    /// # Errors
    /// `Conflict` when the lease was lost; `Busy`, `Unreachable`, `Exhausted`; whatever `grow` gives.
    pub async fn extend_tree(
        &self,
        ctx: &OpContext,
        lease: &Lease,
        duration: Duration,
        leaves: NewLeaves,
        edge: impl FnOnce(i64) -> Vec<(i64, i64)> + Send,
        grow: impl FnOnce(i64, &[Tile], &[SealedHash]) -> Result<Vec<Tile>> + Send,
    ) -> Result<u64> {
        let mut transaction = self.begin().await?;
        fence(&mut transaction, ctx, lease, duration).await?;
        let size = tree_size(&mut transaction).await?;
        let fresh = match leaves {
            NewLeaves::Stored(limit) => sealed_hashes(&mut transaction, size, limit).await?,
            NewLeaves::Sealed(leaves) if leaves.first().is_some_and(|l| l.seq == size + 1) => leaves,
            NewLeaves::Sealed(_) => Vec::new(),
        };
        if fresh.is_empty() {
            return Ok(0);
        }
        let edge = tiles(&mut transaction, &edge(size)).await?;
        for tile in grow(size, &edge, &fresh)? {
            Sql::new(
                "INSERT INTO audit_tiles (level, tile_index, hashes) VALUES ($1, $2, $3) \
                 ON CONFLICT (level, tile_index) DO UPDATE SET hashes = excluded.hashes",
            )
            .bind(tile.level)
            .bind(tile.index)
            .bind(tile.hashes)
            .execute(&mut *transaction)
            .await?;
        }
        commit(transaction).await?;
        Ok(fresh.len() as u64)
    }

    /// Keeps a signed head. Under the lease, so that there is one a size.
    ///
    /// # Errors
    /// `Conflict` when the lease was lost; `AlreadyExists` when that size has one; `Busy`, `Unreachable`, `Exhausted`.
    pub async fn record_checkpoint(
        &self,
        ctx: &OpContext,
        lease: &Lease,
        duration: Duration,
        row: &CheckpointRow,
        vkey: &str,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        fence(&mut transaction, ctx, lease, duration).await?;
        Sql::new("INSERT INTO audit_checkpoints (size, at, root, note) VALUES ($1, $2, $3, $4)")
            .bind(row.size)
            .bind(row.at)
            .bind(row.root.as_slice())
            .bind(row.note.as_str())
            .execute(&mut *transaction)
            .await?;
        Sql::new(
            "INSERT INTO audit_keys (vkey, since, at) VALUES ($1, $2, $3) ON CONFLICT (vkey) DO NOTHING",
        )
        .bind(vkey)
        .bind(row.size)
        .bind(row.at)
        .execute(&mut *transaction)
        .await?;
        commit(transaction).await
    }

    /// The signed heads above a size, the smallest first.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn checkpoints_above(&self, size: i64, limit: u32) -> Result<Vec<CheckpointRow>> {
        let sql = Sql::new(
            "SELECT size, at, root, note FROM audit_checkpoints WHERE size > $1 ORDER BY size LIMIT $2",
        );
        let rows = sql.bind(size).bind(i64::from(limit)).all(self.reader()).await?;
        rows.iter().map(read_checkpoint).collect()
    }

    /// The newest signed head.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn last_checkpoint(&self) -> Result<Option<CheckpointRow>> {
        let sql = Sql::new("SELECT size, at, root, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1");
        sql.optional(self.reader()).await?.as_ref().map(read_checkpoint).transpose()
    }

    /// The public keys that signed heads of this log, the oldest first.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn checkpoint_keys(&self) -> Result<Vec<String>> {
        let rows = Sql::new("SELECT vkey FROM audit_keys ORDER BY id").all(self.reader()).await?;
        rows.iter().map(|row| Columns::new(row).take()).collect()
    }

    /// How far the anchors are.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn anchor_states(&self) -> Result<Vec<AnchorState>> {
        let sql = Sql::new("SELECT anchor, size, at, tried_at, failure FROM audit_anchors ORDER BY anchor");
        sql.all(self.reader()).await?.iter().map(read_anchor).collect()
    }

    /// Notes how a try to reach an anchor ended. Its size never goes back.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn record_anchor(&self, state: &AnchorState) -> Result<()> {
        Sql::new(
            "INSERT INTO audit_anchors (anchor, size, at, tried_at, failure) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (anchor) DO UPDATE SET \
             at = CASE WHEN excluded.size > audit_anchors.size THEN excluded.at ELSE audit_anchors.at END, \
             size = CASE WHEN excluded.size > audit_anchors.size THEN excluded.size ELSE audit_anchors.size END, \
             tried_at = excluded.tried_at, failure = excluded.failure",
        )
        .bind(state.anchor.as_str())
        .bind(state.size)
        .bind(state.at.map(micros))
        .bind(micros(state.tried_at))
        .bind(state.failure.as_deref().map(clean))
        .committing()
        .execute(self.writer())
        .await?;
        Ok(())
    }
}

async fn tree_size(on: &mut sqlx::AnyConnection) -> Result<i64> {
    let sql = Sql::new(
        "SELECT tile_index, CAST(length(hashes) AS BIGINT) FROM audit_tiles WHERE level = 0 \
         ORDER BY tile_index DESC LIMIT 1",
    );
    let Some(row) = sql.optional(on).await? else { return Ok(0) };
    let mut columns = Columns::new(&row);
    let (index, bytes): (i64, i64) = (columns.take()?, columns.take()?);
    Ok(index.saturating_mul(256).saturating_add(bytes / 32))
}

async fn sealed_hashes(on: &mut sqlx::AnyConnection, after: i64, limit: u32) -> Result<Vec<SealedHash>> {
    let rows = Sql::new(
        "SELECT s.seq, l.leaf_hash FROM audit_seals s LEFT JOIN audit_leaves l ON l.id = s.leaf_id \
         WHERE s.seq > $1 ORDER BY s.seq LIMIT $2",
    )
    .bind(after)
    .bind(i64::from(limit))
    .all(on)
    .await?;
    rows.iter().map(read_sealed_hash).collect()
}

async fn tiles(on: &mut sqlx::AnyConnection, places: &[(i64, i64)]) -> Result<Vec<Tile>> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Sql::new("SELECT level, tile_index, hashes FROM audit_tiles WHERE ");
    for (i, (level, index)) in places.iter().enumerate() {
        sql = sql.push(if i == 0 { "(level = " } else { " OR (level = " });
        sql = sql.value(*level).push(" AND tile_index = ").value(*index).push(")");
    }
    sql.once().all(on).await?.iter().map(read_tile).collect()
}

fn read_tile(row: &AnyRow) -> Result<Tile> {
    let mut columns = Columns::new(row);
    Ok(Tile { level: columns.take()?, index: columns.take()?, hashes: columns.take()? })
}

fn read_sealed_hash(row: &AnyRow) -> Result<SealedHash> {
    let mut columns = Columns::new(row);
    Ok(SealedHash { seq: columns.take()?, leaf_hash: columns.take()? })
}

fn read_checkpoint(row: &AnyRow) -> Result<CheckpointRow> {
    let mut columns = Columns::new(row);
    Ok(CheckpointRow {
        size: columns.take()?,
        at: columns.take()?,
        root: columns.take()?,
        note: columns.take()?,
    })
}

fn read_anchor(row: &AnyRow) -> Result<AnchorState> {
    let mut columns = Columns::new(row);
    Ok(AnchorState {
        anchor: columns.take()?,
        size: columns.take()?,
        at: columns.optional_time()?,
        tried_at: columns.time()?,
        failure: columns.take()?,
    })
}
