//! What would go wrong, and the mend: configuration, engines, repository, keys, state, clock.

use chrono::Datelike;
use dm_core::{ErrorKind, Finding, Level, OpContext, Result};
use dm_repository::Repository;
use serde::Serialize;

use crate::DataManager;
use crate::backups::free_bytes;
use crate::config::Setting;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::repositories::RepositorySettings;

const DOCTOR: OperationKind = OperationKind::Doctor;

/// Less than this free on a local repository's disk is worth a warning.
const LITTLE_SPACE: u64 = 1 << 30;

/// Findings about one thing.
#[derive(Clone, Debug, Serialize)]
pub struct DoctorSection {
    /// `engine main`, `repository`, `state` ...
    pub name: String,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct DoctorReport {
    /// Section by section.
    pub sections: Vec<DoctorSection>,
    /// Every setting with where it came from, secrets redacted.
    pub settings: Vec<Setting>,
}

impl DoctorReport {
    /// The worst level found.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.sections.iter().flat_map(|s| &s.findings).map(|f| f.level).max().unwrap_or(Level::Ok)
    }
}

impl DataManager {
    /// Looks at everything that a backup or restore will need. Changes nothing that lasts.
    ///
    /// # Errors
    /// Only when the operation itself may not run; what is wrong is a finding.
    pub async fn doctor(&self, ctx: &OpContext) -> Result<DoctorReport> {
        let work = async {
            let mut sections = Vec::new();
            if !self.config.findings().is_empty() {
                sections.push(DoctorSection {
                    name: "configuration".to_owned(),
                    findings: self.config.findings().to_vec(),
                });
            }
            if self.engines.is_empty() {
                let finding = Finding::new(Level::Error, "engines", "no engine is configured")
                    .with_mend("set DATABASE_URL, or run \"dm init\"");
                sections.push(DoctorSection { name: "engines".to_owned(), findings: vec![finding] });
            }
            for engine in self.engines() {
                let name = format!("engine {} ({})", engine.id(), engine.location());
                sections.push(DoctorSection { name, findings: engine.diagnose(ctx).await });
            }
            sections.push(DoctorSection {
                name: format!("repository {}", self.repository.location),
                findings: check_repository(ctx, &self.repository).await,
            });
            for (place, settings) in &self.places.others {
                sections.push(DoctorSection {
                    name: format!("place {place} {}", settings.location),
                    findings: check_repository(ctx, settings).await,
                });
            }
            sections.push(DoctorSection { name: "state".to_owned(), findings: self.check_state(ctx).await });
            sections.push(DoctorSection { name: "clock".to_owned(), findings: vec![check_clock(ctx)] });
            Ok(DoctorReport { sections, settings: self.config.settings() })
        };
        self.operate(ctx, Operation::new(DOCTOR, "*"), work).await
    }

    async fn check_state(&self, ctx: &OpContext) -> Vec<Finding> {
        match self.state(ctx).await {
            Ok(state) => {
                vec![Finding::new(Level::Ok, "state", format!("opens ({})", state.store.location()))]
            }
            Err(error) => vec![finding_of("state", &error)],
        }
    }
}

fn check_clock(ctx: &OpContext) -> Finding {
    // A machine without a clock battery wakes up in 1970; anything before this program was written is wrong.
    if ctx.now().year() < 2026 {
        Finding::new(Level::Error, "clock", format!("the clock says {}", ctx.now()))
            .with_mend("set the clock; run a time service")
    } else {
        Finding::new(Level::Ok, "clock", format!("{}", ctx.now().format("%Y-%m-%d %H:%M:%S UTC")))
    }
}

pub(crate) fn finding_of(check: &str, error: &dm_core::Error) -> Finding {
    let finding = Finding::new(Level::Error, check, error.full_message());
    match error.hint() {
        Some(hint) => finding.with_mend(hint),
        None => finding,
    }
}

async fn check_repository(ctx: &OpContext, settings: &RepositorySettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(free) = settings.location.as_folder().and_then(free_bytes) {
        let size = dm_core::ByteSize(free);
        findings.push(if free < LITTLE_SPACE {
            Finding::new(Level::Warning, "disk_space", format!("only {size} free"))
                .with_mend("make room, or choose another url for it")
        } else {
            Finding::new(Level::Ok, "disk_space", format!("{size} free"))
        });
    }
    match settings.open(ctx).await {
        Ok(repository) => {
            let kind = if repository.is_encrypted() { "encrypted" } else { "not encrypted" };
            findings.push(Finding::new(Level::Ok, "repository", format!("opens; {kind}")));
            if repository.is_encrypted() && !repository.can_read_index() {
                findings.push(
                    Finding::new(
                        Level::Warning,
                        "index_key",
                        "this host has no index key: it can make full backups only",
                    )
                    .with_mend("set index_identity_file"),
                );
            }
            if repository.is_encrypted() {
                findings.extend(check_keys(ctx, &repository).await);
            }
            if settings.store.object_lock {
                findings.push(
                    Finding::new(
                        Level::Info,
                        "object_lock",
                        "objects are locked for as long as the bucket's default retention says; no lock is made longer because a newer backup needs the object",
                    )
                    .with_mend("take a full backup, or run \"dm backup rewrite\", at least once in that period"),
                );
            }
            if repository.single_writer() {
                findings.push(Finding::new(
                    Level::Warning,
                    "create_only",
                    "this store does not honour create-only writes: only one host may write at a time",
                ));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            findings.push(Finding::new(
                Level::Info,
                "repository",
                "there is none yet; the first backup, or copy, makes it",
            ));
        }
        Err(error) => findings.push(finding_of("repository", &error)),
    }
    findings
}

/// Who can read what is there, and whether this host would seal to them.
async fn check_keys(ctx: &OpContext, repository: &Repository) -> Vec<Finding> {
    let list = match repository.key_list(ctx).await {
        Ok(list) => list,
        Err(error) => return vec![finding_of("keys", &error)],
    };
    let mut findings = Vec::new();
    let current = list.recipients.iter().filter(|r| r.removed_in.is_none()).count();
    findings.push(Finding::new(
        Level::Ok,
        "keys",
        format!(
            "sealed to {current} {}, generation {}",
            if current == 1 { "recipient" } else { "recipients" },
            list.generation
        ),
    ));
    if let Some(expected) = &list.expected {
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        findings.push(
            Finding::new(
                Level::Warning,
                "recipients",
                format!("the configuration names other recipients than the repository has: {}", expected.join(", ")),
            )
            .with_mend("\"dm backup key list\" shows both; \"dm backup key rewrap\" changes the repository, [repository] recipients the configuration"),
        );
    }
    for foreign in &list.foreign {
        findings.push(
            Finding::new(
                Level::Warning,
                "identity",
                format!("the private key of {foreign} opens nothing here"),
            )
            .with_mend("take it out of identity_files; it may be that of another repository"),
        );
    }
    let behind = list.behind.len() as u64 + list.log_keys_behind;
    if behind > 0 {
        findings.push(
            Finding::new(
                Level::Warning,
                "keys_behind",
                format!(
                    "{} of {} backups and {} of {} keys of the log cannot be read by all of the newest recipients",
                    list.behind.len(),
                    list.backups,
                    list.log_keys_behind,
                    list.log_keys
                ),
            )
            .with_mend("\"dm backup key rewrap\", where a private key is, does what is left"),
        );
    }
    findings
}
