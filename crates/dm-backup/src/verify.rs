//! Looking whether backups are still what was written.

use chrono::{DateTime, Utc};
use dm_core::Period;
use dm_core::{BackupId, Effect, Error, ErrorKind, Finding, Level, OpContext, Progress, Result, TargetName};
use dm_repository::{BackupHeader, Listing, Verification, VerifyLevel, VerifyOptions};
use serde::{Deserialize, Serialize};

use crate::record::is_marked;
use crate::select::find;
use crate::{BackupService, Selector};

/// Which backups to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyScope {
    /// One.
    One(Selector),
    /// All of a target, or of the repository.
    All {
        /// The target; all when `None`.
        target: Option<TargetName>,
    },
    /// Those that show a moment at or after this one.
    Since {
        /// The target; all when `None`.
        target: Option<TargetName>,
        /// The moment.
        since: DateTime<Utc>,
    },
}

impl VerifyScope {
    pub(crate) fn target(&self) -> Option<&TargetName> {
        match self {
            Self::One(selector) => selector.target(),
            Self::All { target } | Self::Since { target, .. } => target.as_ref(),
        }
    }

    pub(crate) fn choose(&self, listing: &Listing) -> Result<Vec<BackupHeader>> {
        let since = match self {
            Self::One(selector) => return Ok(vec![find(listing, selector)?]),
            Self::All { .. } => DateTime::<Utc>::MIN_UTC,
            Self::Since { since, .. } => *since,
        };
        let wanted = |h: &&BackupHeader| !is_marked(listing, h) && h.consistency.at >= since;
        Ok(listing.backups.iter().filter(wanted).cloned().collect())
    }
}

/// One backup verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedBackup {
    /// The backup.
    pub id: BackupId,
    /// Its target.
    pub target: TargetName,
    /// What was found.
    pub verification: Verification,
}

/// How to verify, and what to leave out.
#[derive(Clone, Debug, Default)]
pub struct VerifyRequest {
    /// How deep, or how much.
    pub how: VerifyOptions,
    /// Leaves out what was proven within this period, as deep as now asked for.
    pub older_than: Option<Period>,
}

impl From<VerifyLevel> for VerifyRequest {
    fn from(level: VerifyLevel) -> Self {
        Self { how: level.into(), older_than: None }
    }
}

impl VerifyRequest {
    /// Since when a backup is proven, if that is recent enough to leave it out.
    fn leaves_out(&self, before: Option<&Verification>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let since = self.older_than?.before(now)?;
        let before = before.filter(|v| v.ok)?;
        let proven = match self.how.level {
            _ if self.how.sample.is_some() => {
                Some(before.at).filter(|_| before.level >= VerifyLevel::Sampled)
            }
            VerifyLevel::Quick | VerifyLevel::Sampled => Some(before.at),
            VerifyLevel::Stored => before.proven_at(),
            VerifyLevel::Full => Some(before.at).filter(|_| before.level == VerifyLevel::Full),
        };
        // A time ahead of now proves nothing.
        proven.filter(|at| *at >= since && *at <= now)
    }
}

/// A backup that was left out, because it was proven not long ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The backup.
    pub id: BackupId,
    /// Its target.
    pub target: TargetName,
    /// When it was proven.
    pub proven_at: DateTime<Utc>,
}

/// One server's log verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedLog {
    /// The target.
    pub target: TargetName,
    /// Whose log it is.
    pub stream: String,
    /// Pieces that are there.
    pub pieces: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// What a verification found.
#[must_use = "problems are in the report: call `check`"]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Oldest first.
    pub backups: Vec<VerifiedBackup>,
    /// Those that were proven not long ago.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The shipped log, where all of a target was verified.
    #[serde(default)]
    pub logs: Vec<VerifiedLog>,
    /// What could not even be listed.
    pub problems: Vec<Finding>,
}

impl VerifyReport {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let whole = |findings: &[Finding]| findings.iter().all(|p| p.level < Level::Error);
        self.backups.iter().all(|b| b.verification.ok)
            && self.logs.iter().all(|log| whole(&log.findings))
            && whole(&self.problems)
    }

    /// Turns problems into an error.
    ///
    /// # Errors
    /// `CheckFailed`, naming the damaged backups and the first thing found.
    pub fn check(&self) -> Result<()> {
        if self.is_sound() {
            return Ok(());
        }
        let damaged: Vec<&VerifiedBackup> = self.backups.iter().filter(|b| !b.verification.ok).collect();
        let first = damaged
            .iter()
            .flat_map(|b| &b.verification.findings)
            .chain(self.logs.iter().flat_map(|log| &log.findings))
            .chain(&self.problems)
            .find(|f| f.level == Level::Error)
            .map_or("", |f| f.message.as_str());
        let ids: Vec<String> = damaged.iter().take(3).map(|b| b.id.to_string()).collect();
        let message = if damaged.is_empty() && self.problems.iter().all(|p| p.level < Level::Error) {
            format!("the shipped log is damaged: {first}")
        } else if damaged.is_empty() {
            format!("the repository is damaged, or could not be read to its end: {first}")
        } else {
            format!(
                "{} of {} backups are damaged ({}): {first}",
                damaged.len(),
                self.backups.len(),
                ids.join(", ")
            )
        };
        Err(Error::new(ErrorKind::CheckFailed, message)
            .with_effect(Effect::Applied)
            .with_hint("restore from another backup, take a full one now, and look after the storage"))
    }
}

impl BackupService {
    /// Verifies backups one after the other, and records each result beside its backup; with all of a target its shipped log
    /// as well. Objects that several backups share are read once. What is found is in the report; [`VerifyReport::check`] makes an error of it.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the selector); `Denied` (a level that needs a key, without one); `Unreachable`; `Interrupted`.
    pub async fn verify(
        &self,
        ctx: &OpContext,
        scope: &VerifyScope,
        request: impl Into<VerifyRequest> + Send,
    ) -> Result<VerifyReport> {
        let request = request.into();
        let listing = ctx.run(self.repository.list(ctx, scope.target())).await?;
        let mut left_out = Vec::new();
        let mut chosen = scope.choose(&listing)?;
        chosen.retain(|header| match request.leaves_out(listing.verified.get(&header.id), ctx.now()) {
            Some(proven_at) => {
                left_out.push(LeftOut { id: header.id, target: header.target.clone(), proven_at });
                false
            }
            None => true,
        });
        let total: u64 = chosen.iter().map(|h| h.sizes.stored).sum();
        ctx.progress(Progress::Phase { name: "verifying", total_bytes: Some(total) });
        // What cannot be listed is a problem of the repository, unless one certain backup was asked for.
        let one = matches!(scope, VerifyScope::One(_));
        let mut problems = if one { Vec::new() } else { listing.problems };
        let mut backups = Vec::with_capacity(chosen.len());
        for header in chosen {
            match ctx.run(self.repository.verify(ctx, &header, request.how.clone())).await {
                Ok(verification) => {
                    backups.push(VerifiedBackup { id: header.id, target: header.target, verification });
                }
                // One that cannot be looked at does not keep the others from being looked at.
                Err(error)
                    if !one && !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Timeout) =>
                {
                    let problem = Finding::new(Level::Error, "verify", format!("{}: {error}", header.id));
                    problems.push(match error.hint() {
                        Some(hint) => problem.with_mend(hint),
                        None => problem,
                    });
                }
                Err(error) => return Err(error),
            }
            ctx.progress(Progress::Item(header.id.to_string()));
        }
        let logs = match scope {
            VerifyScope::All { target } => {
                problems.extend(self.repository.verify_keys(ctx).await?);
                self.verify_logs(ctx, target.as_ref(), &request.how).await?
            }
            VerifyScope::One(_) | VerifyScope::Since { .. } => Vec::new(),
        };
        Ok(VerifyReport { backups, left_out, logs, problems })
    }
}
