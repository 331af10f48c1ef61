//! Which backup leads to a point in time, and what is lost behind it.

use chrono::{DateTime, Utc};
use dm_core::{
    BackupMode, ConsistencyPoint, Destination, Error, Finding, Level, LogPosition, RecoveryPoint,
    RestorePreview, RestoreRequest, Result, TargetName,
};
use dm_repository::{BackupHeader, Listing};

use crate::Selector;
use crate::keep::Soundness;
use crate::record::soundness;
use crate::select::{find, newest_first, none};

/// The most backups that are asked whether the log leads from them to the point.
const MOST_TRIED: usize = 8;

/// Backups to try in turn, and what a person should know of the choice.
pub(crate) struct Choice {
    pub(crate) backups: Vec<BackupHeader>,
    /// How far the log is replayed: the point itself, or the backup's own where the points are the backups.
    pub(crate) until: RecoveryPoint,
    pub(crate) findings: Vec<Finding>,
}

impl Choice {
    fn one(backup: BackupHeader, until: RecoveryPoint) -> Self {
        Self { backups: vec![backup], until, findings: Vec::new() }
    }
}

/// Rows for single tables and tenants, and for a database by name; files for a folder. Only where a target has both.
pub(crate) fn preference(request: &RestoreRequest) -> Option<BackupMode> {
    if !request.tables.is_empty() || request.tenant.is_some() {
        return Some(BackupMode::Logical);
    }
    Some(match &request.destination {
        Destination::New(Some(place)) if place.contains('/') => BackupMode::Physical,
        _ => BackupMode::Logical,
    })
}

/// Chooses. `logged` says whether the engine has a log at all; `prefer` decides where a target has backups of both modes
/// and the selector does not.
pub(crate) fn choose(
    listing: &Listing,
    selector: &Selector,
    request: &RestoreRequest,
    logged: bool,
    prefer: Option<BackupMode>,
) -> Result<Choice> {
    let until = request.until.clone();
    let has_log = |backup: &BackupHeader| logged && backup.mode == BackupMode::Physical;
    let Selector::Latest { target, verified_only, mode } = selector else {
        let backup = find(listing, selector)?;
        return named(backup, until, has_log);
    };
    let all: Vec<&BackupHeader> = newest_first(listing, target, *verified_only, *mode).collect();
    let Some(newest) = all.first() else { return Err(none(listing, target, *verified_only, *mode)) };
    let parts = !request.tables.is_empty() || request.tenant.is_some();
    let rows_there = all.iter().any(|b| b.mode == BackupMode::Logical);
    let by_log = !(parts && rows_there) && all.iter().any(|b| has_log(b));
    match &until {
        RecoveryPoint::Backup => {
            let preferred = prefer.and_then(|mode| all.iter().find(|b| b.mode == mode));
            let chosen = preferred.unwrap_or(newest);
            let mut choice = Choice::one((*chosen).clone(), until);
            choice.findings.extend(newer_of_other_mode(chosen, newest));
            Ok(choice)
        }
        _ if by_log => along_the_log(listing, target, &all, until, has_log),
        RecoveryPoint::End => {
            let chosen = if parts { all.iter().find(|b| b.mode == BackupMode::Logical) } else { None };
            Ok(Choice::one((*chosen.unwrap_or(newest)).clone(), RecoveryPoint::Backup))
        }
        RecoveryPoint::Time(at) => {
            let fits = |b: &&&BackupHeader| {
                let before = if request.exclusive { b.consistency.at < *at } else { b.consistency.at <= *at };
                before && (!parts || !rows_there || b.mode == BackupMode::Logical)
            };
            let sound = |b: &&&BackupHeader| soundness(listing, b.id) != Soundness::Damaged;
            let chosen = all.iter().filter(fits).find(sound).ok_or_else(|| too_early(&all, *at))?;
            let mut choice = Choice::one((*chosen).clone(), RecoveryPoint::Backup);
            choice.findings.push(between(chosen, *at));
            Ok(choice)
        }
        other => Err(no_log(other)),
    }
}

/// A backup that was named: it must lead to the point.
fn named(
    backup: BackupHeader,
    until: RecoveryPoint,
    has_log: impl Fn(&BackupHeader) -> bool,
) -> Result<Choice> {
    match &until {
        RecoveryPoint::Backup => {}
        RecoveryPoint::End if !has_log(&backup) => return Ok(Choice::one(backup, RecoveryPoint::Backup)),
        other if !has_log(&backup) => {
            return Err(no_log(other).with_hint(
                "say latest and the time: the newest backup at or before it is taken, for its points are the backups",
            ));
        }
        _ if before(&backup, &until) == Some(false) => {
            return Err(Error::invalid(format!(
                "the backup shows {}, which is after {until}",
                shown(&backup)
            ))
            .about(backup.id.to_string())
            .with_hint("name an earlier backup, or say latest: the right one is then taken"));
        }
        _ => {}
    }
    Ok(Choice::one(backup, until))
}

/// The newest backups of files from which the log may lead to the point.
fn along_the_log(
    listing: &Listing,
    target: &TargetName,
    all: &[&BackupHeader],
    until: RecoveryPoint,
    has_log: impl Fn(&BackupHeader) -> bool,
) -> Result<Choice> {
    let of_files: Vec<&BackupHeader> = all.iter().copied().filter(|b| has_log(b)).collect();
    let fits = |b: &&&BackupHeader| before(b, &until) != Some(false);
    let sound = |b: &&&BackupHeader| soundness(listing, b.id) != Soundness::Damaged;
    let backups: Vec<BackupHeader> =
        of_files.iter().filter(fits).filter(sound).take(MOST_TRIED).map(|b| (*b).clone()).collect();
    if backups.is_empty() {
        if let Some(damaged) = of_files.iter().find(fits) {
            return Err(Error::corrupt("every backup before that point was found damaged")
                .about(target.as_str())
                .with_hint(format!("name one to try it all the same, for example {}", damaged.id)));
        }
        let first = of_files.last().map_or_else(String::new, |b| shown(b));
        return Err(Error::not_found(format!(
            "no backup is old enough for {until}: the first shows {first}"
        ))
        .about(target.as_str())
        .with_hint(format!("the earliest point is {first}")));
    }
    let mut findings = Vec::new();
    if matches!(until, RecoveryPoint::Name(_) | RecoveryPoint::Transaction(_)) {
        findings.push(
            Finding::new(
                Level::Info,
                "selection",
                format!("{until} is looked for in the log after {}", shown(&backups[0])),
            )
            .with_mend("if it is older than that, name an earlier backup"),
        );
    }
    Ok(Choice { backups, until, findings })
}

/// Whether a backup shows a moment at or before a point; `None` where only the log itself tells.
fn before(backup: &BackupHeader, until: &RecoveryPoint) -> Option<bool> {
    match until {
        RecoveryPoint::Time(at) => Some(backup.consistency.at <= *at),
        RecoveryPoint::Position(position) => {
            let point = LogPosition::parse_offset(position)?;
            let own = LogPosition::parse_offset(backup.consistency.position.as_deref()?)?;
            Some(own <= point)
        }
        _ => None,
    }
}

/// Whether the engine says that the log does not lead from this backup to the point: an earlier one may do.
pub(crate) fn is_unreachable(preview: &RestorePreview) -> bool {
    preview
        .findings
        .iter()
        .any(|f| f.level == Level::Error && ["log", "timeline"].iter().any(|word| f.check.starts_with(word)))
}

/// The last point that will be in, as far as it is known before.
pub(crate) fn last_point(
    backup: &BackupHeader,
    request: &RestoreRequest,
    preview: &RestorePreview,
    now: DateTime<Utc>,
) -> ConsistencyPoint {
    if let Some(reaches) = &preview.reaches {
        return reaches.clone();
    }
    match &request.until {
        RecoveryPoint::Time(at) => ConsistencyPoint { at: (*at).min(now), position: None, timeline: None },
        _ => backup.consistency.clone(),
    }
}

fn newer_of_other_mode(chosen: &BackupHeader, newest: &BackupHeader) -> Option<Finding> {
    (chosen.mode != newest.mode).then(|| {
        Finding::new(
            Level::Warning,
            "selection",
            format!(
                "this is the newest {} backup, of {}; a {} one of {} is newer",
                chosen.mode,
                shown(chosen),
                newest.mode,
                shown(newest)
            ),
        )
        .with_mend(format!("ask for the mode {}, or name the backup, to take that one", newest.mode))
    })
}

/// The points are the backups: what lies between is lost.
fn between(chosen: &BackupHeader, at: DateTime<Utc>) -> Finding {
    let message = format!("the newest backup at or before {} shows {}", time(at), shown(chosen));
    if at <= chosen.consistency.at {
        return Finding::new(Level::Ok, "selection", message);
    }
    Finding::new(
        Level::Warning,
        "selection",
        format!("{message}: what was committed in the {} between is lost", span(at - chosen.consistency.at)),
    )
    .with_mend(
        "there is no log of these backups, so their points are the backups themselves: take them more often",
    )
}

fn too_early(all: &[&BackupHeader], at: DateTime<Utc>) -> Error {
    let first = all.iter().map(|b| b.consistency.at).min().unwrap_or(at);
    if first <= at {
        return Error::corrupt(format!("every backup at or before {} was found damaged", time(at)))
            .with_hint("name one by its id to try it all the same");
    }
    Error::not_found(format!("there is no backup at or before {}", time(at)))
        .with_hint(format!("the earliest one shows {}", time(first)))
}

fn no_log(until: &RecoveryPoint) -> Error {
    Error::unsupported(format!("nothing leads to {until}: these backups have no log"))
        .with_hint("restore to a time: the newest backup at or before it is taken")
}

fn shown(backup: &BackupHeader) -> String {
    match &backup.consistency.position {
        Some(position) => format!("{} ({position})", time(backup.consistency.at)),
        None => time(backup.consistency.at),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn span(length: chrono::TimeDelta) -> String {
    match (length.num_days(), length.num_hours(), length.num_minutes()) {
        (days @ 2.., ..) => format!("{days} days"),
        (_, hours @ 2.., _) => format!("{hours} hours"),
        (_, _, minutes @ 2..) => format!("{minutes} minutes"),
        _ => format!("{} s", length.num_seconds().max(1)),
    }
}
