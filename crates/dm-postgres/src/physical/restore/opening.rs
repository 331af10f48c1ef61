//! Opening a sealed directory: its name, its own settings, and nothing of ours left.

use std::fs;
use std::path::{Path, PathBuf};

use dm_core::{Effect, Error, ErrorKind, Restored, Result};

use super::marker::{self, Marker, Stage};
use super::place::{self, failed, remove_file};
use super::recovery;
use super::wal::{history_name, parse_history, parse_segment};

/// Gives a sealed directory its name and opens it. What stood there is kept.
pub(super) fn open_up(data: &Path, marker: &Marker) -> Result<Restored> {
    let plan = &marker.plan;
    let kept = |error: Error| {
        let hint = format!("the restored cluster is kept, closed, at {}", data.display());
        error.with_effect(Effect::Partial).with_hint(hint)
    };
    let mut previous = None;
    if data != plan.destination {
        if let Some(name) = &plan.kept_as
            && fs::symlink_metadata(&plan.destination).is_ok()
        {
            if let Some(pid) = place::running(&plan.destination).map_err(kept)? {
                return Err(kept(Error::new(
                    ErrorKind::Busy,
                    format!("a server runs in {} (process {pid})", plan.destination.display()),
                )));
            }
            place::rename(&plan.destination, name).map_err(kept)?;
            previous = Some(name.clone());
        }
        if let Err(error) = place::rename(data, &plan.destination) {
            if let Some(name) = &previous {
                place::rename(name, &plan.destination).map_err(kept)?;
            }
            return Err(kept(error));
        }
    }
    // From here on it stands under its name, still closed; opening can be repeated.
    let by_hand = match marker.started {
        true => String::new(),
        false => recovery::lines_by_hand(plan, &plan.destination),
    };
    marker::unseal(&plan.destination, plan, &by_hand).map_err(|e| {
        e.with_effect(Effect::Partial).with_hint(format!("open it again: {}", plan.destination.display()))
    })?;
    let mut notes = marker.notes.clone();
    if !marker.started {
        notes.push(
            "nothing was started: recovery happens at the first start; take the marked lines out of \
             postgresql.auto.conf after it"
                .to_owned(),
        );
    }
    let program = plan.programs.as_ref().map_or(PathBuf::from("pg_ctl"), |p| p.path("pg_ctl"));
    let port = plan.port.map_or_else(String::new, |port| format!(" -o \"-p {port}\""));
    let user = plan.user.as_ref().map_or_else(String::new, |u| format!("sudo -u {} ", u.name));
    notes.push(format!(
        "start it with: {user}{} start -D {}{port}",
        program.display(),
        plan.destination.display()
    ));
    Ok(Restored {
        location: plan.destination.display().to_string(),
        previous: previous.map(|p| p.display().to_string()),
        reached: marker.reached.clone(),
        notes,
    })
}

/// Opens what a session kept.
pub(super) fn release_sealed(location: &str) -> Result<Restored> {
    let data = PathBuf::from(location);
    let marker = match Marker::read(&data) {
        Ok(Some(marker)) => marker,
        Ok(None) => {
            return Err(Error::not_found("no restore left a sealed data directory there").about(location));
        }
        Err(error) => return Err(error),
    };
    if marker.stage != Stage::Sealed {
        return Err(Error::invalid("the restore of this data directory did not come to its end")
            .about(location)
            .with_hint("restore again"));
    }
    if let Some(pid) = place::running(&data)? {
        return Err(
            Error::new(ErrorKind::Busy, format!("a server runs there (process {pid})")).about(location)
        );
    }
    if data != marker.plan.destination
        && marker.plan.kept_as.is_none()
        && place::standing(&marker.plan.destination)?.is_occupied()
    {
        return Err(Error::new(ErrorKind::AlreadyExists, "somebody took the name meanwhile")
            .about(marker.plan.destination.display().to_string())
            .with_hint(format!("the restored cluster is kept, closed, at {location}")));
    }
    open_up(&data, &marker)
}

/// After a shutdown in good order nothing of the older timelines' log is needed; left there, an archiving server would ship
/// copies of it that end elsewhere than the originals.
pub(super) fn forget_old_log(data: &Path, timeline: u32, segment_bytes: u64) -> Result<()> {
    let folder = data.join("pg_wal");
    let own = folder.join(history_name(timeline));
    let mut ancestors = vec![timeline];
    if let Ok(bytes) = fs::read(&own) {
        ancestors.extend(parse_history(timeline, &bytes)?.iter().map(|a| a.timeline));
    }
    for entry in fs::read_dir(&folder).map_err(|e| failed(&folder, "look into", e))? {
        let entry = entry.map_err(|e| failed(&folder, "look into", e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let old = match (parse_segment(&name, segment_bytes), name.strip_suffix(".history")) {
            (Some((t, _)), _) => t != timeline,
            (None, Some(t)) => u32::from_str_radix(t, 16).is_ok_and(|t| !ancestors.contains(&t)),
            (None, None) => false,
        };
        if old {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}
