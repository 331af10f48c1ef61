//! Whether shipped log is what was shipped, and all there.

use dm_core::{Error, ErrorKind, Finding, Level, LogPosition, OpContext, Progress, Result, TargetName};
use dm_repository::{LogListing, SampleSize, VerifyLevel, VerifyOptions};
use futures::{StreamExt, TryStreamExt};

use super::cover;
use crate::BackupService;
use crate::verify::VerifiedLog;

/// Pieces read side by side.
const PIECES: usize = 4;
/// Findings kept in the report.
const KEPT_FINDINGS: usize = 100;

impl BackupService {
    /// Verifies the logs of a target, or of all: that every piece has the digest that its name tells, that every record of a
    /// timeline can be found, and that nothing is missing between the pieces but known gaps. Needs no key. A quick look reads
    /// names alone; a sample reads the newest pieces.
    pub(crate) async fn verify_logs(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        how: &VerifyOptions,
    ) -> Result<Vec<VerifiedLog>> {
        let targets = match target {
            Some(target) => vec![target.clone()],
            None => self.repository.log_targets(ctx).await?,
        };
        let mut logs = Vec::new();
        for target in targets {
            for stream in self.repository.log_streams(ctx, &target).await? {
                logs.push(Box::pin(self.verify_log_of(ctx, &target, stream, how)).await?);
            }
        }
        Ok(logs)
    }

    async fn verify_log_of(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: String,
        how: &VerifyOptions,
    ) -> Result<VerifiedLog> {
        let mut listing = self.repository.list_log(ctx, target, &stream).await?;
        let mut findings = std::mem::take(&mut listing.problems);
        findings.extend(holes(&listing));
        let pieces = listing.entries.len() as u64;
        let total: u64 = listing.entries.iter().map(|e| e.size).sum();
        let most = match (how.sample, how.level) {
            (Some(SampleSize::PerMille(part)), _) => total / 1000 * u64::from(part),
            (Some(SampleSize::Bytes(bytes)), _) => bytes,
            (None, VerifyLevel::Quick) => 0,
            (None, _) => u64::MAX,
        };
        let mut bytes = 0;
        listing.entries.reverse();
        listing.entries.retain(|entry| {
            let wanted = bytes < most;
            bytes += if wanted { entry.size } else { 0 };
            wanted
        });
        ctx.progress(Progress::Phase { name: "verifying the log", total_bytes: Some(bytes) });
        let (repository, of, named) = (&self.repository, target, stream.as_str());
        let entries = std::mem::take(&mut listing.entries);
        let mut checks = futures::stream::iter(entries.into_iter().map(|entry| async move {
            let checked = repository.verify_log(ctx, of, named, &entry).await;
            Ok::<_, Error>((entry, checked))
        }))
        .buffered(PIECES);
        while let Some((entry, checked)) = ctx.run(checks.try_next()).await? {
            ctx.progress(Progress::Bytes(entry.size));
            let at = LogPosition { timeline: entry.timeline, offset: entry.start };
            match checked {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    findings.push(wrong(format!("the piece of log at {at}: {error}")));
                }
                Err(error) => return Err(error),
            }
        }
        drop(checks);
        if how.level > VerifyLevel::Quick || how.sample.is_some() {
            for timeline in &listing.histories {
                match self.repository.verify_log_history(ctx, target, &stream, *timeline).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        findings.push(wrong(error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        findings.truncate(KEPT_FINDINGS);
        Ok(VerifiedLog { target: target.clone(), stream, pieces, bytes, findings })
    }
}

fn wrong(message: String) -> Finding {
    Finding::new(Level::Error, "log", message).with_mend(
        "copy it back from another place; points of time behind it need a base backup from behind it until then",
    )
}

/// What is missing between the pieces of a timeline, and is no known gap.
fn holes(listing: &LogListing) -> Vec<Finding> {
    let spans = cover::spans(&listing.entries, &[]);
    let mut found = Vec::new();
    for pair in spans.windows(2) {
        let [before, after] = pair else { continue };
        if before.timeline != after.timeline {
            continue;
        }
        let mut at = before.range.end;
        for gap in listing.gaps.iter().filter(|gap| gap.timeline == before.timeline) {
            if gap.start <= at {
                at = at.max(gap.end);
            }
        }
        if at < after.range.start {
            let place = |offset| LogPosition { timeline: before.timeline, offset };
            found.push(wrong(format!(
                "log is missing from {} to {}, and no gap was recorded there",
                place(at),
                place(after.range.start)
            )));
        }
    }
    found
}
