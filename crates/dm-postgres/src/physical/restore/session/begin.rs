//! Making the sealed place, and removing it again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dm_core::{
    Effect, Error, ErrorKind, Level, OpContext, RestoreManifest, RestorePreview, RestoreRequest, Result,
};

use super::super::files::Files;
use super::super::leftover::{self, Hold, Leftover};
use super::super::marker::{self, Marker};
use super::super::place::{self, Durability, Standing};
use super::super::plan::{Plan, Way, beside};
use super::super::source::Source;
use super::{Session, stages};
use crate::client::Client;

/// Makes the place.
pub(in super::super) async fn open_place(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Session> {
    let source = Source::read(manifest)?;
    let plan = Plan::load(preview)?;
    if let Some(finding) = preview.findings.iter().find(|f| f.level == Level::Error) {
        let error = Error::invalid(finding.message.clone()).about(preview.location.clone());
        return Err(match &finding.mend {
            Some(mend) => error.with_hint(mend.clone()),
            None => error,
        });
    }
    // The preview may be old.
    let standing = place::standing(&plan.destination)?;
    if let Standing::Cluster { running: Some(pid), .. } = &standing {
        return Err(Error::new(ErrorKind::Busy, format!("a server runs there (process {pid})"))
            .about(preview.location.clone())
            .with_hint("stop it first"));
    }
    let expected = match plan.way {
        Way::Beside => !standing.is_occupied() || plan.kept_as.is_some(),
        Way::Within => standing == Standing::Empty,
        Way::Delta => {
            matches!(&standing, Standing::Cluster { system_identifier: Some(id), .. } if *id == source.system_identifier)
        }
    };
    if !expected {
        return Err(changed().about(preview.location.clone()));
    }
    let data = match plan.way {
        Way::Beside => leftover::name(&plan.destination, &short_id(ctx)),
        Way::Within | Way::Delta => plan.destination.clone(),
    };
    for leftover in Leftover::beside(&plan.destination)? {
        if plan.leftovers.contains(&leftover.path) && !leftover.whole {
            leftover.remove()?;
        }
    }
    if plan.way != Way::Delta {
        for folder in plan.tablespaces.values() {
            if place::standing(folder)?.is_occupied() {
                return Err(changed().about(folder.display().to_string()));
            }
        }
    }
    let user = plan.user.as_ref();
    place::make_folder(&data, user, plan.way != Way::Beside)?;
    let hold = Hold::take(&data)?;
    place::make_folder(&data.join(marker::FOLDER), user, true)?;
    Marker::new(plan.clone(), source.system_identifier.clone(), source.segment_bytes).write(&data)?;
    if plan.way == Way::Delta {
        // Without it no server takes the directory for a cluster; it comes back last.
        place::remove_file(&data.join("global/pg_control"))?;
        place::sync_parent(&data.join("global/pg_control"))?;
    }
    for folder in plan.tablespaces.values() {
        place::make_folders(folder, user)?;
        place::make_folder(folder, user, true)?;
    }
    leftover::stamp_tablespaces(&data, &plan)?;
    let durability = Durability::of(
        std::iter::once(data.as_path()).chain(plan.tablespaces.values().map(PathBuf::as_path)),
    )?;
    let sizes: HashMap<String, u64> =
        manifest.members.iter().map(|(s, size)| (s.name.clone(), *size)).collect();
    let files = Files::new(data.clone(), plan.tablespaces.clone(), plan.user.clone(), sizes);
    Ok(Session {
        options: client.options.clone(),
        database: client.database.clone(),
        roles: vec!["postgres".to_owned(), client.user().to_owned()],
        stages: stages(manifest),
        source,
        log: request.log.clone(),
        checks: request.checks,
        jobs: request.jobs.max(1),
        data,
        files,
        durability,
        server: tokio::sync::Mutex::new(None),
        state: Mutex::default(),
        _hold: hold,
        plan,
    })
}

fn changed() -> Error {
    Error::new(ErrorKind::AlreadyExists, "the destination has changed since the plan was made")
        .with_hint("make the plan again")
}

/// The run's id, short. Its end: the beginning of a UUIDv7 is the time.
fn short_id(ctx: &OpContext) -> String {
    let id = ctx.run_id().as_uuid().simple().to_string();
    id.get(id.len() - 8..).unwrap_or(&id).to_owned()
}

/// Removes what a restore made.
pub(super) fn remove(data: &Path, plan: &Plan) -> Result<()> {
    match plan.way {
        Way::Beside => leftover::remove_place(data)?,
        Way::Within => place::empty_folder(data)?,
        Way::Delta => {
            // What was there before cannot come back; a repeated restore goes on from here.
            place::remove_file(&data.join("global/pg_control"))?;
            return Err(Error::new(
                ErrorKind::Partial,
                "the data directory was partly overwritten and cannot be started",
            )
            .about(data.display().to_string())
            .with_effect(Effect::Partial)
            .with_hint("restore over it again, or remove it"));
        }
    }
    for folder in plan.tablespaces.values() {
        place::remove_tree(folder)?;
    }
    // The folder around them, when it was made for them and is empty now.
    let base = beside(&plan.destination, "_tablespaces");
    if plan.tablespaces.values().any(|t| t.starts_with(&base)) {
        place::remove_empty(&base)?;
    }
    Ok(())
}
