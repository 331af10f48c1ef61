//! One file of log, as an archive command hands it over.

use std::path::Path;
use std::time::Instant;

use dm_core::{LogEvent, LogSource, OpContext, Result, TargetName};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::BackupService;
use crate::run::millis;

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// The target.
    pub target: TargetName,
    /// Whose log it is.
    pub stream: String,
    /// The file's name.
    pub name: String,
    /// Pieces that are in the repository now; none for a file that no restore asks for.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl BackupService {
    /// Puts one file of the server's log into the repository. `Ok` means that it is durable there and the server may remove
    /// its own. Idempotent; a file that was partly shipped already is completed.
    ///
    /// # Errors
    /// As [`LogSource::read_file`]; `Conflict` when other bytes are there for the same place; the store's.
    ///
    /// # Cancellation
    /// Each piece is there whole or not at all; pushing again completes it.
    pub async fn push_log(
        &self,
        ctx: &OpContext,
        source: &dyn LogSource,
        target: &TargetName,
        path: &Path,
    ) -> Result<PushReport> {
        let began = Instant::now();
        let mut file = source.read_file(ctx, path).await?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut report = PushReport {
            target: target.clone(),
            stream: file.stream.clone(),
            name,
            pieces: 0,
            bytes: 0,
            duration_ms: 0,
        };
        while let Some(event) = ctx.run(file.events.try_next()).await? {
            match event {
                LogEvent::Piece(piece) => {
                    self.repository.put_log(ctx, target, &file.stream, &piece).await?;
                    report.pieces += 1;
                    report.bytes += piece.bytes.len() as u64;
                }
                LogEvent::History { timeline, bytes } => {
                    report.pieces += 1;
                    report.bytes += bytes.len() as u64;
                    self.repository.put_log_history(ctx, target, &file.stream, timeline, bytes).await?;
                }
                LogEvent::Gap { timeline, missing, reason } => {
                    self.repository
                        .put_log_gap(ctx, target, &file.stream, timeline, missing, &reason)
                        .await?;
                }
                LogEvent::Idle { .. } => {}
            }
        }
        report.duration_ms = millis(began.elapsed());
        Ok(report)
    }
}
