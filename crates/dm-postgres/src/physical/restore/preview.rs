//! What a restore would do, and what stands in its way. Reads only.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dm_core::{
    CheckDepth, Destination, Error, ErrorKind, Finding, Level, OpContext, RestoreManifest, RestorePreview,
    RestoreRequest, Result,
};

use super::leftover::Leftover;
use super::place::{self, Standing};
use super::plan::{Plan, Way, beside};
use super::points::{self, Question};
use super::programs::{Programs, RunAs};
use super::source::{Part, Source};
use crate::PostgresOptions;

/// The settings that are understood.
const SETTINGS: [&str; 11] = [
    "bin_dir",
    "check_database",
    "data_directory",
    "port",
    "restore_command",
    "run_as",
    "shared_preload_libraries",
    "start",
    "tablespaces",
    "timeline",
    "tablespace.<oid>",
];

/// Looks.
pub(super) async fn preview(
    ctx: &OpContext,
    options: &PostgresOptions,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
) -> Result<RestorePreview> {
    let source = Source::read(manifest)?;
    check_request(request, manifest)?;
    let mut findings = Vec::new();
    let mut consequences = Vec::new();

    let (destination, in_place) = destination(ctx, request, &source)?;
    let parent = destination.parent().ok_or_else(|| {
        Error::invalid("the destination is no data directory").about(destination.display().to_string())
    })?;
    let mut way = Way::Beside;
    let mut kept_as = None;
    let mut leftovers = Vec::new();
    if parent.is_dir() {
        leftovers = Leftover::beside(&destination)?;
        for leftover in &leftovers {
            findings.push(leftover.finding());
            if !leftover.whole {
                consequences.push(format!("{} is removed first", leftover.path.display()));
            }
        }
        leftovers.retain(|leftover| !leftover.whole);
        let standing = place::standing(&destination)?;
        way = way_of(&destination, &standing, request, &source, in_place, &mut findings);
        if in_place && !request.delta && standing.is_occupied() {
            let kept = place::free_name(&beside(
                &destination,
                &format!(".before-restore-{}", ctx.now().format("%Y%m%d%H%M%S")),
            ));
            consequences.push(format!(
                "what stands at {} is kept as {}",
                destination.display(),
                kept.display()
            ));
            kept_as = Some(kept);
        }
        if way == Way::Delta {
            consequences.push(format!(
                "the files at {} are overwritten where they differ, and removed where the backup has none; nothing is kept aside",
                destination.display()
            ));
        }
    } else {
        findings.push(
            Finding::new(Level::Error, "destination", format!("there is no folder {}", parent.display()))
                .with_mend("make it, owned by the user that runs the server"),
        );
    }

    let user = match RunAs::find(ctx, setting(request, "run_as"), parent).await {
        Ok(user) => user,
        Err(error) => {
            findings.push(finding_of("run_as", &error));
            None
        }
    };
    if let Some(user) = &user {
        findings.push(Finding::new(
            Level::Info,
            "run_as",
            format!("the files belong to {}, who also runs the server", user.name),
        ));
        if parent.is_dir() && !user.enters(ctx, parent).await? {
            findings.push(
                Finding::new(
                    Level::Error,
                    "run_as",
                    format!("{} cannot get into {}", user.name, parent.display()),
                )
                .with_mend("open the folders above the destination to that user, or restore elsewhere"),
            );
        }
    }

    let programs = programs(ctx, options, request, source.major, &mut findings).await?;
    let free: Vec<&Path> = leftovers.iter().flat_map(|l| &l.tablespaces).map(PathBuf::as_path).collect();
    let tablespaces =
        tablespaces(request, &source, &destination, way, &free, &mut findings, &mut consequences)?;

    let backup_end = source.log_end(manifest);
    let question = Question {
        until: &request.until,
        exclusive: request.exclusive,
        timeline: setting(request, "timeline"),
    };
    let command = setting(request, "restore_command").map(str::to_owned);
    let (log, reaches) = match (&command, &request.log) {
        // Whoever brings a command of their own answers for what it gives.
        (Some(_), None) => (None, None),
        _ => {
            let answer = points::plan(ctx, &source, backup_end, request.log.as_deref(), &question).await?;
            findings.extend(answer.findings);
            (answer.log, answer.reaches)
        }
    };
    let files: u64 = manifest.members.iter().map(|(_, size)| *size).sum();
    let fetched = match command {
        Some(_) => 0,
        None => log.as_ref().map_or(0, |log| log.bytes(source.segment_bytes)),
    };
    let bytes = files + fetched;
    if parent.is_dir() && way != Way::Delta {
        let freed: u64 = leftovers.iter().map(Leftover::bytes).sum();
        findings.push(place::room(parent, bytes.saturating_sub(freed))?);
    }
    outside(&source, &mut findings);

    let plan = Plan {
        way,
        destination: destination.clone(),
        kept_as,
        leftovers: leftovers.into_iter().map(|l| l.path).collect(),
        tablespaces,
        user,
        programs,
        until: request.until.clone(),
        exclusive: request.exclusive,
        log,
        restore_command: command,
        timeline: setting(request, "timeline").map(str::to_owned),
        libraries: setting(request, "shared_preload_libraries").map(str::to_owned),
        database: setting(request, "check_database").map(str::to_owned),
        port: port(request)?,
    };
    let mut attributes = BTreeMap::new();
    plan.store(&mut attributes)?;
    Ok(RestorePreview {
        location: destination.display().to_string(),
        consequences,
        findings,
        members: (0..manifest.members.len()).collect(),
        bytes,
        reaches,
        attributes,
    })
}

/// A setting of the request.
pub(super) fn setting<'a>(request: &'a RestoreRequest, name: &str) -> Option<&'a str> {
    request.settings.get(name).map(String::as_str)
}

/// The port of the command to start the server with, when one is wanted.
fn port(request: &RestoreRequest) -> Result<Option<u16>> {
    let port = setting(request, "port")
        .map(|p| p.parse().map_err(|_| Error::invalid(format!("\"{p}\" is not a port"))))
        .transpose()?;
    match setting(request, "start") {
        None | Some("false") => Ok(port),
        Some("true") => Ok(Some(port.unwrap_or(5432))),
        Some(other) => Err(Error::invalid(format!("start is true or false, not \"{other}\""))),
    }
}

fn check_request(request: &RestoreRequest, manifest: &RestoreManifest) -> Result<()> {
    if !request.tables.is_empty() || request.tenant.is_some() {
        return Err(Error::unsupported("single tables cannot be taken out of a physical backup").with_hint(
            "restore the whole cluster to a new place and copy the table from there, or use a logical backup",
        ));
    }
    for name in request.settings.keys() {
        let tablespace = name.strip_prefix("tablespace.").is_some_and(|oid| oid.parse::<u32>().is_ok());
        if !tablespace && !SETTINGS.contains(&name.as_str()) {
            return Err(Error::invalid(format!("a physical restore has no setting \"{name}\""))
                .with_hint(format!("there are {}", SETTINGS.join(", "))));
        }
    }
    for (spec, _) in &manifest.members {
        Part::of(&spec.name)?;
    }
    Ok(())
}

/// The final data directory, absolute.
fn destination(ctx: &OpContext, request: &RestoreRequest, source: &Source) -> Result<(PathBuf, bool)> {
    let named = setting(request, "data_directory");
    let (path, in_place) = match (&request.destination, named) {
        (Destination::New(Some(path)), _) => (PathBuf::from(path), false),
        (Destination::New(None), _) => {
            let name = format!("{}-restored-{}", source.database, ctx.now().format("%Y%m%d%H%M%S"));
            (PathBuf::from(name), false)
        }
        (Destination::InPlace, Some(path)) => (PathBuf::from(path), true),
        (Destination::InPlace, None) => {
            return Err(Error::invalid("files cannot be restored into a running server")
                .with_hint("restore to a new folder, or stop the server and name its folder with --set data_directory=..."));
        }
    };
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the destination has no name"));
    }
    let absolute = std::path::absolute(&path).map_err(|e| {
        Error::invalid("the destination is no path").about(path.display().to_string()).with_source(e)
    })?;
    // Where the path itself is a link, the folder behind it is meant.
    let real = match std::fs::symlink_metadata(&absolute) {
        Ok(m) if m.is_symlink() => std::fs::canonicalize(&absolute).unwrap_or(absolute),
        _ => absolute,
    };
    Ok((real, in_place))
}

/// How the files get there; what stands in the way is a finding.
fn way_of(
    destination: &Path,
    standing: &Standing,
    request: &RestoreRequest,
    source: &Source,
    in_place: bool,
    findings: &mut Vec<Finding>,
) -> Way {
    let mut wrong = |message: String, mend: &str| {
        findings.push(Finding::new(Level::Error, "destination", message).with_mend(mend));
    };
    let shown = destination.display();
    if let Standing::Cluster { running: Some(pid), .. } = standing {
        wrong(
            format!("a server runs in {shown} (process {pid})"),
            "stop it first, or restore to a new folder",
        );
        return Way::Beside;
    }
    match standing {
        Standing::Nothing => Way::Beside,
        Standing::Empty => match place::is_mount_point(destination) {
            true => Way::Within,
            false => Way::Beside,
        },
        Standing::Cluster { system_identifier, .. } if request.delta => {
            match system_identifier {
                Some(id) if *id == source.system_identifier => {}
                Some(id) => wrong(
                    format!(
                        "{shown} holds another cluster ({id}) than the backup's ({})",
                        source.system_identifier
                    ),
                    "restore to a new folder",
                ),
                None => wrong(
                    format!(
                        "nobody can tell which cluster {shown} holds: global/pg_control is missing or damaged"
                    ),
                    "restore to a new folder, or without delta",
                ),
            }
            Way::Delta
        }
        Standing::Cluster { .. } if in_place => match place::is_mount_point(destination) {
            true => {
                wrong(
                    format!("{shown} is a mount point and cannot be renamed"),
                    "restore with delta, or empty it first",
                );
                Way::Beside
            }
            false => Way::Beside,
        },
        Standing::Cluster { .. } => {
            wrong(
                format!("{shown} holds a cluster already"),
                "choose another folder, restore in place, or with delta over it",
            );
            Way::Beside
        }
        Standing::Foreign(what) => {
            wrong(format!("{shown} is not empty and no data directory ({what})"), "choose another folder");
            Way::Beside
        }
    }
}

async fn programs(
    ctx: &OpContext,
    options: &PostgresOptions,
    request: &RestoreRequest,
    major: u32,
    findings: &mut Vec<Finding>,
) -> Result<Option<Programs>> {
    let named = setting(request, "bin_dir").map(Path::new);
    match Programs::find(ctx, named, options.bin_dir.as_deref(), major).await {
        Ok(programs) => {
            findings.push(Finding::new(
                Level::Ok,
                "server_programs",
                format!("PostgreSQL {}", programs.version),
            ));
            Ok(Some(programs))
        }
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Timeout) => Err(error),
        Err(error) => {
            let mut finding = finding_of("server_programs", &error);
            if request.checks == CheckDepth::None {
                finding.level = Level::Warning;
            }
            findings.push(finding);
            Ok(None)
        }
    }
}

fn finding_of(check: &str, error: &Error) -> Finding {
    let finding = Finding::new(Level::Error, check, error.to_string());
    match error.hint() {
        Some(hint) => finding.with_mend(hint),
        None => finding,
    }
}

/// A place for each tablespace: as asked, where a delta has it already, or in a folder beside the data directory. Never
/// where the source has it. Those that are `free` will be empty by then.
fn tablespaces(
    request: &RestoreRequest,
    source: &Source,
    destination: &Path,
    way: Way,
    free: &[&Path],
    findings: &mut Vec<Finding>,
    consequences: &mut Vec<String>,
) -> Result<BTreeMap<u32, PathBuf>> {
    let mut places = BTreeMap::new();
    for (oid, live) in &source.tablespaces {
        let link = destination.join("pg_tblspc").join(oid.to_string());
        let standing = (way == Way::Delta).then(|| std::fs::read_link(&link).ok()).flatten();
        let kept = standing.is_some();
        let asked = setting(request, &format!("tablespace.{oid}")).map(PathBuf::from);
        let folder = setting(request, "tablespaces").map(PathBuf::from);
        let path = asked
            .or(standing)
            .or_else(|| folder.map(|f| f.join(oid.to_string())))
            .unwrap_or_else(|| beside(destination, "_tablespaces").join(oid.to_string()));
        let path = std::path::absolute(&path).map_err(|e| {
            Error::invalid("a tablespace's place is no path").about(path.display().to_string()).with_source(e)
        })?;
        let mut wrong = |message: String| {
            findings.push(
                Finding::new(Level::Error, "tablespaces", message)
                    .with_mend(format!("name an empty folder with --set tablespace.{oid}=...")),
            );
        };
        let shown = path.display();
        if !kept && path == Path::new(live) {
            wrong(format!("tablespace {oid} would go to {shown}, where the source has it"));
        } else if path.starts_with(destination) {
            wrong(format!("tablespace {oid} would lie inside of the data directory, at {shown}"));
        } else if !kept && !free.contains(&path.as_path()) && place::standing(&path)?.is_occupied() {
            wrong(format!("tablespace {oid} would go to {shown}, which is not empty"));
        } else if places.values().any(|other| *other == path) {
            wrong(format!("two tablespaces would go to {shown}"));
        }
        consequences.push(format!("tablespace {oid} ({live} on the source) goes to {shown}"));
        places.insert(*oid, path);
    }
    let known = |oid: &str| oid.parse().is_ok_and(|oid: u32| source.tablespaces.contains_key(&oid));
    for name in request.settings.keys() {
        if let Some(oid) = name.strip_prefix("tablespace.")
            && !known(oid)
        {
            return Err(Error::not_found(format!("the backup has no tablespace {oid}")).with_hint(format!(
                "it has {}",
                source.tablespaces.keys().map(u32::to_string).collect::<Vec<_>>().join(", ")
            )));
        }
    }
    Ok(places)
}

/// Configuration that the source keeps elsewhere.
fn outside(source: &Source, findings: &mut Vec<Finding>) {
    for file in &source.outside {
        let what = match file.member {
            Some(_) => "a copy is put into dm-outside",
            None => "the backup could not read it",
        };
        findings.push(Finding::new(
            if file.member.is_some() { Level::Info } else { Level::Warning },
            "configuration",
            format!("the source keeps {} at {}; {what}", file.name, file.path),
        ));
    }
}

/// The file system that a path is on.
pub(super) fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.dev())
}
