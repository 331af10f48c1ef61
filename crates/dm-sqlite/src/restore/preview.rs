//! What a restore would do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dm_core::{
    ByteSize, Destination, EngineKind, Error, ErrorKind, Finding, Layout, Level, OpContext, RestoreManifest,
    RestorePreview, RestoreRequest, Result,
};
use rusqlite::Connection;

use super::{Plan, name_beside, tables};
use crate::connect::{self, Purpose};
use crate::pool::Pool;
use crate::preflight::{from_error, room};
use crate::{MEMBER, SqliteLocation, disk, schema};

/// Looks. Blocks; runs behind a gate.
pub(super) fn look(
    ctx: &OpContext,
    pool: &Pool,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
) -> Result<RestorePreview> {
    if manifest.source.engine != EngineKind::Sqlite {
        return Err(Error::unsupported(format!(
            "a backup of {} cannot be restored into sqlite",
            manifest.source.engine
        ))
        .with_hint(format!("restore into an engine of the kind {}", manifest.source.engine)));
    }
    if request.tenant.is_some() {
        return Err(Error::unsupported("one tenant's rows cannot be restored out of a sqlite backup")
            .with_hint(
                "restore the whole to a new file, or choose tables, and copy the rows over with sqlite3",
            ));
    }
    let (member, size) = manifest
        .members
        .iter()
        .enumerate()
        .find(|(_, (spec, _))| spec.name == MEMBER && matches!(spec.layout, Layout::Pages { .. }))
        .map(|(index, (_, size))| (index, *size))
        .ok_or_else(|| Error::corrupt("the backup has no member main.db"))?;
    let chosen = choose(request, manifest)?;
    let plan = plan(ctx, pool, request, chosen)?;

    let mut preview = RestorePreview {
        location: plan.destination.display().to_string(),
        members: vec![member],
        bytes: size,
        attributes: [(Plan::ATTRIBUTE.to_owned(), to_value(&plan)?)].into(),
        ..RestorePreview::default()
    };
    let existing = disk::size_of(&plan.destination)?;
    match (plan.in_place, existing) {
        (false, _) => new_place(&plan, existing, &mut preview),
        (true, None) => preview
            .consequences
            .push(format!("{} is missing now and is made anew", plan.destination.display())),
        (true, Some(_)) => in_place(pool, &plan, manifest, &mut preview),
    }
    if plan.in_place && pool.options().read_only {
        preview.findings.push(
            Finding::new(Level::Error, "destination", "the engine is read-only")
                .with_mend("open it without read_only, or restore to a new file"),
        );
    }
    // The image, and behind a choice of tables their copy, or the kept copy of what they replace.
    let second = if plan.tables.is_empty() {
        0
    } else if plan.in_place {
        existing.unwrap_or_default().max(size)
    } else {
        size
    };
    let need = size.saturating_add(second).saturating_add(16 << 20);
    preview.findings.push(room(disk::folder_of(&plan.destination), need, pool.options()));
    Ok(preview)
}

fn to_value(plan: &Plan) -> Result<serde_json::Value> {
    serde_json::to_value(plan).map_err(|e| {
        Error::unsupported("the destination's path is not valid UTF-8")
            .about(plan.destination.display().to_string())
            .with_hint("restore to a path of plain characters and rename the file")
            .with_source(e)
    })
}

fn plan(ctx: &OpContext, pool: &Pool, request: &RestoreRequest, tables: Vec<String>) -> Result<Plan> {
    let (path, in_place) = match &request.destination {
        Destination::InPlace => (pool.path().to_owned(), true),
        Destination::New(None) => (name_beside(pool.path(), "restored", ctx.now()), false),
        Destination::New(Some(name)) => (new_path(pool.path(), name)?, false),
    };
    // Through a link, the file behind it is the one that SQLite opens and that must be replaced.
    let destination = match std::fs::canonicalize(&path) {
        Ok(real) => real,
        Err(_) => match path.parent().map(std::fs::canonicalize) {
            Some(Ok(folder)) => folder.join(path.file_name().unwrap_or_default()),
            _ => path,
        },
    };
    if !in_place && std::fs::canonicalize(pool.path()).is_ok_and(|own| own == destination) {
        return Err(Error::invalid("the new place is the engine's own database")
            .about(destination.display().to_string())
            .with_hint("ask for a restore in place, or name another file"));
    }
    let kept = name_beside(&destination, "before-restore", ctx.now());
    Ok(Plan { destination, in_place, kept, tables })
}

/// A bare name lies beside the engine's own file; anything with a folder in it is a path.
fn new_path(own: &Path, name: &str) -> Result<PathBuf> {
    let url = ["sqlite:", "file:"].iter().any(|s| name.to_ascii_lowercase().starts_with(s));
    if url || name.contains('/') {
        return Ok(SqliteLocation::parse(name)?.path().to_owned());
    }
    if name.is_empty() || name == "." || name == ".." {
        return Err(Error::invalid(format!("\"{name}\" is not the name of a file")));
    }
    Ok(disk::folder_of(own).join(name))
}

fn choose(request: &RestoreRequest, manifest: &RestoreManifest) -> Result<Vec<String>> {
    let names = |attribute: &str| -> BTreeSet<&str> {
        let value = manifest.source.attributes.get(attribute).and_then(|v| v.as_array());
        value.into_iter().flatten().filter_map(|v| v.as_str()).collect()
    };
    let (virtuals, shadows) = (names("virtual_tables"), names("shadow_tables"));
    let mut chosen = BTreeSet::new();
    for pattern in &request.tables {
        let mut found = false;
        let plain = manifest.tables.iter().map(|facts| facts.table.as_str());
        for name in plain.chain(virtuals.iter().copied()).filter(|name| tables::matches(pattern, name)) {
            if name.starts_with("sqlite_") {
                if pattern.contains('*') {
                    continue;
                }
                return Err(Error::unsupported("this is one of sqlite's own tables")
                    .about(name)
                    .with_hint("restore the whole database to a new file and read it there"));
            }
            if virtuals.contains(name) || shadows.contains(name) {
                return Err(Error::unsupported("a virtual table cannot be restored by itself")
                    .about(name)
                    .with_hint("restore the whole database to a new file and copy from there"));
            }
            found = true;
            chosen.insert(name.to_owned());
        }
        if !found {
            return Err(Error::not_found("the backup has no such table").about(pattern.clone()));
        }
    }
    Ok(chosen.into_iter().collect())
}

/// The error for a destination with something in it.
pub(super) fn not_empty(path: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, "there is a file with content")
        .about(path.display().to_string())
        .with_hint("name another file, or move this one away")
}

fn new_place(plan: &Plan, existing: Option<u64>, preview: &mut RestorePreview) {
    let path = &plan.destination;
    match existing {
        None => preview.consequences.push(format!("{} is made", path.display())),
        Some(0) => preview.consequences.push(format!("the empty file {} is replaced", path.display())),
        Some(_) => preview.findings.push(from_error("destination", &not_empty(path))),
    }
    if path.is_dir() {
        preview.findings.push(
            Finding::new(Level::Error, "destination", format!("{} is a folder", path.display()))
                .with_mend("name a file"),
        );
    }
    // SQLite would replay a stranger's log into the restored database.
    for (_, left) in disk::companions(path) {
        preview.findings.push(
            Finding::new(
                Level::Error,
                "destination",
                format!("{} is left from another database", left.display()),
            )
            .with_mend("name another file, or move this one away"),
        );
    }
    if !plan.tables.is_empty() {
        preview.consequences.push(format!("only {} is restored", plan.tables.join(", ")));
    }
}

fn in_place(pool: &Pool, plan: &Plan, manifest: &RestoreManifest, preview: &mut RestorePreview) {
    let path = &plan.destination;
    let kept = plan.kept.file_name().unwrap_or_default().to_string_lossy();
    let opened = connect::live(path, pool.options(), Purpose::Reading);
    if plan.tables.is_empty() {
        preview.consequences.push(format!("{} is replaced as a whole", path.display()));
        preview.consequences.push(format!("what stands there now is kept beside it as {kept}"));
        preview.consequences.push("programs that have the database open must open it again".to_owned());
        match opened {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Corrupt => preview.findings.push(
                Finding::new(
                    Level::Warning,
                    "destination",
                    format!("the present database cannot be opened ({e}); it is kept as it is"),
                )
                .with_mend("make sure that no program has it open: that cannot be checked here"),
            ),
            Err(e) => preview.findings.push(from_error("destination", &e)),
        }
        return;
    }
    preview.consequences.push(format!("the rows of {} are replaced", plan.tables.join(", ")));
    preview.consequences.push(format!("a copy of the whole database as it is now is kept as {kept}"));
    match opened {
        Ok(connection) => preview.findings.extend(existing_tables(&connection, plan, manifest)),
        Err(e) => preview.findings.push(from_error("destination", &e)),
    }
}

/// What of the chosen tables stands there already, and whether it can take the rows.
fn existing_tables(connection: &Connection, plan: &Plan, manifest: &RestoreManifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    let encoding = manifest.source.attributes.get("encoding").and_then(|v| v.as_str());
    match schema::pragma_text(connection, "encoding") {
        Ok(here) if encoding.is_some_and(|there| there != here) => findings.push(
            Finding::new(Level::Error, "encoding", format!("the database is {here}, the backup is not"))
                .with_mend("restore the tables to a new file"),
        ),
        Ok(_) => {}
        Err(e) => findings.push(from_error("encoding", &e)),
    }
    for table in &plan.tables {
        let columns = schema::columns(connection, "main", table);
        match columns {
            Ok(columns) if columns.is_empty() => {
                findings.push(Finding::new(
                    Level::Info,
                    "table",
                    format!("{table} is missing now and is made anew"),
                ));
            }
            Ok(_) => {
                let facts = crate::facts::one(connection, "main", table, None);
                let rows = facts.ok().flatten().map_or_else(|| "some".to_owned(), |f| f.rows.to_string());
                findings.push(Finding::new(
                    Level::Info,
                    "table",
                    format!("{table} has {rows} rows now, which go"),
                ));
            }
            Err(e) => findings.push(from_error("table", &e)),
        }
    }
    let pages = schema::pragma_number(connection, "page_count").unwrap_or_default();
    let page = schema::pragma_number(connection, "page_size").unwrap_or_default();
    let bytes = u64::try_from(pages.saturating_mul(page)).unwrap_or_default();
    findings.push(Finding::new(Level::Info, "copy", format!("{} are copied aside first", ByteSize(bytes))));
    findings
}
