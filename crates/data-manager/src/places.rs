//! The places of the repository: the primary one, and copies of it elsewhere.

use std::collections::BTreeMap;
use std::time::Instant;

use dm_backup::RepairedBackup;
use dm_core::{Error, ErrorKind, OpContext, Progress, Result, TargetName};
use dm_repository::{CopyOptions, CopyReport, Repository};
use serde::Serialize;

use crate::DataManager;
use crate::backups::Backups;
use crate::operations::OperationKind;
use crate::pipeline::Operation;
use crate::repositories::RepositorySettings;

const COPY: OperationKind = OperationKind::BackupCopy;
const REPAIR: OperationKind = OperationKind::BackupRepair;

/// What the place that backups are made in is called.
pub const PRIMARY: &str = "primary";

/// What became of the copying to one place.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceCopy {
    /// The place's name: that of its section under `[repository.secondary]`.
    pub place: String,
    /// Where it is.
    pub location: String,
    /// What was (or would be) copied; `None` when the copying failed.
    pub report: Option<CopyReport>,
    /// Why it failed, with the way out. What had arrived stays, and the next copy goes on from there.
    pub failure: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}

impl PlaceCopy {
    /// Whether the place has everything now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.report.as_ref().is_some_and(CopyReport::is_whole)
    }
}

/// How far a copy is behind.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceStatus {
    /// The place's name.
    pub place: String,
    /// Where it is.
    pub location: String,
    /// Backups that it has.
    pub backups: u64,
    /// Backups that the primary place has and this one lacks.
    pub missing: u64,
    /// Why nothing is known of it, or what is wrong with it.
    pub problems: Vec<String>,
}

/// Every place by its name, and the one that is worked on.
pub(crate) struct Places {
    pub(crate) current: String,
    pub(crate) others: BTreeMap<String, RepositorySettings>,
}

impl Places {
    /// Takes the place that is worked on out of all.
    ///
    /// # Errors
    /// `Invalid`, naming what there is.
    pub(crate) fn choose(
        mut all: BTreeMap<String, RepositorySettings>,
        place: &str,
    ) -> Result<(RepositorySettings, Self)> {
        match all.remove(place) {
            Some(chosen) => Ok((chosen, Self { current: place.to_owned(), others: all })),
            None => {
                let known: Vec<&str> = all.keys().map(String::as_str).collect();
                Err(Error::invalid(format!("there is no place \"{place}\"")).with_hint(format!(
                    "there is {}; others are made in the configuration, as [repository.secondary.NAME]",
                    known.join(", ")
                )))
            }
        }
    }

    /// Whether this is the place that backups are made in.
    pub(crate) fn is_primary(&self) -> bool {
        self.current == PRIMARY
    }

    /// Refuses what would make a copy differ from what it is a copy of.
    pub(crate) fn check_primary(&self) -> Result<()> {
        if self.is_primary() {
            return Ok(());
        }
        Err(Error::invalid(format!("the place \"{}\" is a copy: nothing new is written there", self.current))
            .with_hint("work on the primary place, and copy"))
    }

    /// A repository that cannot be opened may have a copy that can.
    pub(crate) fn point_elsewhere(&self, error: Error) -> Error {
        let elsewhere = self.others.keys().next();
        match (elsewhere, error.kind()) {
            (
                Some(name),
                ErrorKind::Unreachable | ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::NotFound,
            ) => {
                let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
                error.with_hint(format!("{hint}or work on the other place, with --place {name}"))
            }
            _ => error,
        }
    }

    fn other(&self, name: &str) -> Result<(&str, &RepositorySettings)> {
        self.others.get_key_value(name).map(|(name, settings)| (name.as_str(), settings)).ok_or_else(|| {
            let known: Vec<&str> = self.others.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "no other one".to_owned() } else { known.join(", ") };
            Error::invalid(format!("there is no other place \"{name}\""))
                .with_hint(format!("there is {known}"))
        })
    }

    fn copies(&self) -> Result<Vec<(&str, &RepositorySettings)>> {
        if self.others.is_empty() {
            return Err(Error::invalid("there is no second place to copy to").with_hint(
                "name one in the configuration: [repository.secondary.offsite] with a url of its own",
            ));
        }
        Ok(self.others.iter().map(|(name, settings)| (name.as_str(), settings)).collect())
    }
}

impl Backups<'_> {
    /// The names of the places that hold copies.
    #[must_use]
    pub fn copies(&self) -> Vec<String> {
        let places = &self.dm.places;
        if places.is_primary() { places.others.keys().cloned().collect() } else { Vec::new() }
    }

    /// Copies what other places lack: to the named one, or to all that the configuration has. An empty place becomes a copy.
    /// One that fails keeps no other from its copy; each is an operation of its own in the audit trail.
    ///
    /// # Errors
    /// `Invalid` when there is no such place, or none at all; `NotFound` without a repository. What goes wrong with a place
    /// is in its [`PlaceCopy`].
    ///
    /// # Cancellation
    /// Safe; the next copy goes on.
    pub async fn copy(
        &self,
        ctx: &OpContext,
        to: Option<&str>,
        options: &CopyOptions,
    ) -> Result<Vec<PlaceCopy>> {
        let places = &self.dm.places;
        let chosen = match to {
            Some(name) => vec![places.other(name)?],
            None => {
                places.check_primary()?;
                places.copies()?
            }
        };
        let mut copies = Vec::new();
        for (name, settings) in chosen {
            let started = Instant::now();
            let details = serde_json::json!({
                "from": places.current, "to": name, "target": options.target, "dry_run": options.dry_run
            });
            let resource = options.target.as_ref().map_or("*", TargetName::as_str);
            let operation = Operation::new(COPY, resource).with_details(details);
            let work = async {
                let from = self.dm.repository.open(ctx).await?;
                let copy = match options.dry_run {
                    true => settings.look_at_copy(ctx, &from).await?,
                    false => settings.open_copy(ctx, &from).await?,
                };
                from.copy_to(ctx, &copy, options).await
            };
            let copied = self.dm.operate(ctx, operation, work).await;
            if copied.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
                return copied.map(|_| copies);
            }
            let failure = copied.as_ref().err().map(|error| {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                format!("{error}{hint}")
            });
            if let Some(failure) = &failure {
                ctx.progress(Progress::Warning(format!("{name}: {failure}")));
            }
            copies.push(PlaceCopy {
                place: name.to_owned(),
                location: settings.location.to_string(),
                report: copied.ok(),
                failure,
                duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        Ok(copies)
    }

    /// Replaces what is missing or damaged of one backup, or of all of a target or the repository, by what another place has:
    /// the named one, or the only other one.
    ///
    /// # Errors
    /// `Invalid` when there is no such place; `NotFound`, `Denied`, `Unreachable`. What cannot be mended is in the reports.
    pub async fn repair(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        which: Option<&str>,
        from: Option<&str>,
    ) -> Result<Vec<RepairedBackup>> {
        let places = &self.dm.places;
        let (name, settings) = match (from, places.copies()?.as_slice()) {
            (Some(name), _) => places.other(name)?,
            (None, [only]) => *only,
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
                return Err(Error::invalid("there are several other places")
                    .with_hint(format!("name one with --from: {}", names.join(", "))));
            }
        };
        let resource = target.map_or("*", TargetName::as_str);
        let details = serde_json::json!({ "backup": which, "of": places.current, "from": name });
        let work = async {
            let scope = self.scope(ctx, target, which).await?;
            let copy = settings.open(ctx).await?;
            self.dm.backups(ctx).await?.repair(ctx, &scope, &copy).await
        };
        self.dm.operate(ctx, Operation::new(REPAIR, resource).with_details(details), work).await
    }
}

impl DataManager {
    /// How far every copy is behind. A place that cannot be looked at is said, and fails nothing.
    pub(crate) async fn place_status(&self, ctx: &OpContext) -> Vec<PlaceStatus> {
        let mut statuses = Vec::new();
        if !self.places.is_primary() || self.places.others.is_empty() {
            return statuses;
        }
        // A primary place that cannot be opened is said elsewhere on the page.
        let Ok(here) = self.repository.open(ctx).await else { return statuses };
        for (name, settings) in &self.places.others {
            let mut status = PlaceStatus {
                place: name.clone(),
                location: settings.location.to_string(),
                backups: 0,
                missing: 0,
                problems: Vec::new(),
            };
            if let Err(error) = compare(ctx, &here, settings, &mut status).await {
                status.problems.push(error.to_string());
            }
            statuses.push(status);
        }
        statuses
    }
}

async fn compare(
    ctx: &OpContext,
    here: &Repository,
    settings: &RepositorySettings,
    status: &mut PlaceStatus,
) -> Result<()> {
    let options = CopyOptions { dry_run: true, ..CopyOptions::default() };
    let copy = settings.look_at_copy(ctx, here).await?;
    let report = here.copy_to(ctx, &copy, &options).await?;
    status.backups = report.present;
    status.missing = (report.backups.len() + report.left.len()) as u64;
    status.problems.extend(report.left.iter().map(|left| format!("{}: {}", left.id, left.reason)));
    status.problems.extend(report.problems.iter().map(|problem| problem.message.clone()));
    Ok(())
}
