//! Recovery proofs: what was verified, restored or drilled, and how long it took.

use chrono::{DateTime, Utc};
use dm_core::{BackupId, Result, TargetName};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use crate::sql::{Columns, Sql, from_json, json, micros, variant, word};
use crate::store::Store;

/// How strong a proof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofKind {
    /// The backup's stored bytes were read and are what was written.
    Verify,
    /// It was restored somewhere for good.
    Restore,
    /// It was restored for the proof alone, compared, and removed.
    Drill,
}

/// One proof of one backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryProof {
    /// The backup.
    pub backup_id: BackupId,
    /// What was backed up.
    pub target: TargetName,
    /// When.
    pub at: DateTime<Utc>,
    /// How.
    pub kind: ProofKind,
    /// Whether it held.
    pub ok: bool,
    /// How long the restore took, in milliseconds; `None` for a verify.
    pub restore_time_ms: Option<u64>,
    /// What was compared, in full.
    pub results: serde_json::Value,
}

const COLUMNS: &str =
    "SELECT backup_id, target, at, kind, ok, restore_time_ms, results FROM recovery_tests WHERE target = ";

impl Store {
    /// Keeps a proof, also of a failure.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn record_proof(&self, proof: &RecoveryProof) -> Result<()> {
        Sql::new(
            "INSERT INTO recovery_tests (backup_id, target, at, kind, ok, restore_time_ms, results) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(proof.backup_id.to_string())
        .bind(proof.target.as_str())
        .bind(micros(proof.at))
        .bind(word(&proof.kind)?)
        .bind(i64::from(proof.ok))
        .bind(proof.restore_time_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)))
        .bind(json(&proof.results)?)
        .committing()
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// The latest proof of a target, of whatever kind and whether it held or not.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn last_proof(&self, target: &TargetName) -> Result<Option<RecoveryProof>> {
        Ok(self.proofs(target, None, 1).await?.into_iter().next())
    }

    /// The latest proofs of a target, the newest first, of one kind or all.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn proofs(
        &self,
        target: &TargetName,
        kind: Option<ProofKind>,
        limit: u32,
    ) -> Result<Vec<RecoveryProof>> {
        let sql =
            Sql::new(COLUMNS).value(target.as_str()).and("kind = ", kind.as_ref().map(word).transpose()?);
        let sql = sql.push(" ORDER BY at DESC, id DESC LIMIT ").value(i64::from(limit));
        sql.all(self.reader()).await?.iter().map(read_proof).collect()
    }
}

fn read_proof(row: &AnyRow) -> Result<RecoveryProof> {
    let mut columns = Columns::new(row);
    Ok(RecoveryProof {
        backup_id: columns.take::<String>()?.parse()?,
        target: columns.take::<String>()?.parse()?,
        at: columns.time()?,
        kind: variant(columns.take()?)?,
        ok: columns.take::<i64>()? != 0,
        restore_time_ms: columns.take::<Option<i64>>()?.and_then(|ms| u64::try_from(ms).ok()),
        results: from_json(&columns.take::<String>()?)?,
    })
}
