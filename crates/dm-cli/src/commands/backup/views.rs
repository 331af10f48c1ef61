//! The documents of backups. Their shape is a contract of its own: what the library calls its fields may change.

use chrono::{DateTime, Utc};
use data_manager::backup::BackupRow;
use data_manager::repository::{BackupHeader, Hold};
use data_manager::{BackupId, BackupKind, BackupMode, EngineKind, TargetName};
use serde::Serialize;

/// One item of `dm.backups/1`.
#[derive(Serialize)]
pub(crate) struct BackupItem {
    id: BackupId,
    target: TargetName,
    engine: EngineKind,
    database: String,
    kind: BackupKind,
    mode: BackupMode,
    parent: Option<BackupId>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    consistent_at: DateTime<Utc>,
    bytes: u64,
    stored_bytes: u64,
    tables: u64,
    rows: u64,
    verified_at: Option<DateTime<Utc>>,
    verified_level: Option<String>,
    proven_at: Option<DateTime<Utc>>,
    proof: &'static str,
    pinned: bool,
    pin_reason: Option<String>,
    holds: Vec<Hold>,
    rewrites: Option<BackupId>,
    referenced_by: Vec<BackupId>,
    deleting: bool,
}

impl From<&BackupRow> for BackupItem {
    fn from(row: &BackupRow) -> Self {
        Self {
            id: row.id,
            target: row.target.clone(),
            engine: row.engine,
            database: row.database.clone(),
            kind: row.kind,
            mode: row.mode,
            parent: row.parent,
            started_at: row.started_at,
            finished_at: row.finished_at,
            consistent_at: row.consistent_at,
            bytes: row.bytes,
            stored_bytes: row.stored_bytes,
            tables: row.tables,
            rows: row.rows,
            verified_at: row.verified_at,
            verified_level: row.verified_level.map(|level| level.to_string()),
            proven_at: row.proven_at,
            proof: proof(row),
            pinned: row.pinned,
            pin_reason: row.pin_reason.clone(),
            holds: row.holds.clone(),
            rewrites: row.rewrites,
            referenced_by: row.referenced_by.clone(),
            deleting: row.deleting,
        }
    }
}

/// What a verification proved, in the words of the documents.
pub(crate) fn proof(row: &BackupRow) -> &'static str {
    use data_manager::backup::keep::Soundness;
    match row.proof {
        Soundness::Unverified => "unverified",
        Soundness::Verified => "verified",
        Soundness::Damaged => "damaged",
    }
}

/// A backup that was just made, `dm.backup-run/1`.
#[derive(Serialize)]
pub(crate) struct MadeBackup {
    id: BackupId,
    target: TargetName,
    engine: EngineKind,
    database: String,
    kind: BackupKind,
    mode: BackupMode,
    parent: Option<BackupId>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    consistent_at: DateTime<Utc>,
    bytes: u64,
    stored_bytes: u64,
    tables: u64,
    rows: u64,
    encrypted: bool,
}

impl From<&BackupHeader> for MadeBackup {
    fn from(header: &BackupHeader) -> Self {
        Self {
            id: header.id,
            target: header.target.clone(),
            engine: header.engine,
            database: header.database.clone(),
            kind: header.kind,
            mode: header.mode,
            parent: header.parent,
            started_at: header.started_at,
            finished_at: header.finished_at,
            consistent_at: header.consistency.at,
            bytes: header.sizes.logical,
            stored_bytes: header.sizes.stored,
            tables: header.counts.tables,
            rows: header.counts.rows,
            encrypted: header.encrypted,
        }
    }
}

/// The first thirteen characters of an id, which name it: they are its millisecond. (The first eight are the same for a
/// minute, and then name several.)
pub(crate) fn short(id: BackupId) -> String {
    let mut text = id.to_string();
    text.truncate(13);
    text
}
