//! Beginning a backup: the session that holds it, the slot that holds the log, the list of files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dm_core::{
    BackupMode, BackupRequest, ConsistencyPoint, EngineKind, Error, ErrorKind, Layout, MemberKind,
    MemberSpec, OpContext, Result, SourceDescription,
};
use futures::TryStreamExt;
use serde_json::json;
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::compare::Comparison;
use super::connections::{Connections, Piece, read};
use super::control::ControlFile;
use super::files::{self, EMPTIED, Listed, RelationFile, Selection};
use super::outside;
use super::pooler::{pooled, refuse_pooler};
use super::preflight::grants;
use super::reading::Files;
use super::server::{Server, missing_functions, open_same};
use super::session::{Begun, Control, PhysicalBackup, Reading, databases, plain};
use super::timeline::TimelineHistory;
use super::{DATA, DIRECTORIES, Lsn};
use crate::client::Client;
use crate::error::{reading, sqlstate};
use crate::session::{close, open_pinned};

/// How often pg_control is read until it is not caught in a change.
const CONTROL_READINGS: usize = 50;

/// A small file, and all of them: what is read at once stays in memory until it is taken.
const EARLY_BYTES: u64 = 64 << 10;
const ALL_EARLY_BYTES: u64 = 16 << 20;

/// Begins a backup.
pub(crate) async fn open(
    ctx: &OpContext,
    client: &Client,
    request: &BackupRequest,
) -> Result<PhysicalBackup> {
    refuse_parts(request)?;
    if client.pgbouncer {
        return Err(pooled());
    }
    let mut control = open_pinned(ctx, client).await?;
    // Before anything is prepared: statements of one session are unknown to the next.
    let mut second = open_pinned(ctx, client).await?;
    refuse_pooler(ctx, &mut control, &mut second).await?;
    close(second).await;
    let server = ctx.run(Server::look(&mut control)).await?;
    refuse_server(client, &server, &mut control).await?;
    let second = open_same(ctx, client, &server).await?;
    // Through firewalls that forget a connection on which nothing passes for an hour.
    control.execute("SET tcp_keepalives_idle = 60").await.map_err(reading)?;

    let mut warnings = Vec::new();
    warnings.extend(ctx.run(hold_log(&mut control, &server)).await?);
    let databases = databases(&mut control).await.map_err(reading)?;
    let label = format!("dm {}", ctx.run_id());
    let start: String = ctx
        .run(async {
            sqlx::query_scalar("SELECT pg_catalog.pg_backup_start($1, true)::text")
                .bind(&label)
                .fetch_one(&mut control)
                .await
                .map_err(not_startable)
        })
        .await?;
    let start: Lsn = start.parse()?;
    let at = ctx.now();
    let (control_file, _) = ctx.run(read_control_file(&mut control)).await?;
    let timeline = timeline(&mut control, &server, control_file, start).await?;
    let history = ctx.run(history(&mut control, timeline)).await?;

    let (known, text) = (&history.0, history.1.as_deref());
    let comparison = match &request.base {
        None => Comparison::Nothing,
        Some(base) => {
            let base = Arc::clone(base);
            let compared = ctx.run(Comparison::with(base, &mut control, &server, known, text, start)).await?;
            warnings.extend(compared.warnings);
            compared.comparison
        }
    };

    let mut selection = ctx.run(list(&mut control, &server, control_file)).await?;
    let tablespaces = tablespaces(&mut control).await?;
    let inside: BTreeSet<&str> = selection.files.iter().map(|(path, _)| path.as_str()).collect();
    let outside = ctx.run(outside::find(&mut control, &inside)).await?;
    warnings.extend(outside.warnings);

    let folders = serde_json::to_vec(&selection.folders)
        .map_err(|e| Error::internal("the list of folders cannot be written").with_source(e))?;
    let mut others = vec![(
        plain(DIRECTORIES, MemberKind::File, Some(folders.len() as u64)),
        Reading::Memory(folders.into()),
    )];
    others.extend(outside.members);
    others.extend(ctx.run(read_early(&mut control, &mut selection)).await?);
    let description = SourceDescription {
        engine: EngineKind::Postgres,
        version: server.version.clone(),
        mode: BackupMode::Physical,
        database: "cluster".to_owned(),
        system_identifier: Some(server.facts.system_identifier.clone()),
        consistency: ConsistencyPoint {
            at,
            position: Some(start.to_string()),
            timeline: Some(timeline.to_string()),
        },
        attributes: BTreeMap::from([
            ("physical_format".to_owned(), json!(1)),
            ("start_lsn".to_owned(), json!(start.to_string())),
            ("start_timeline".to_owned(), json!(timeline)),
            ("wal_segment_bytes".to_owned(), json!(server.wal_segment_bytes())),
            ("block_bytes".to_owned(), json!(server.block_bytes())),
            ("data_checksums".to_owned(), json!(server.facts.data_checksums)),
            ("hints_logged".to_owned(), json!(server.facts.hints_logged)),
            ("server_version_num".to_owned(), json!(server.facts.version_num)),
            ("tablespaces".to_owned(), json!(tablespaces)),
            ("outside".to_owned(), json!(outside.files)),
            ("changes_by".to_owned(), json!(comparison.name())),
            ("timeline_history".to_owned(), json!(text)),
        ]),
    };
    let members = members(selection, server.block_bytes());
    let connections = Connections::new(client.clone(), server.clone(), second, request.jobs);
    let files = Files::new(connections, server, start, comparison, members);
    let control = Control { connection: control, seen: Instant::now() };
    Ok(PhysicalBackup::new(
        description,
        files,
        others,
        control,
        Begun { start, history, databases },
        warnings,
    ))
}

fn refuse_parts(request: &BackupRequest) -> Result<()> {
    let parts =
        !request.include_tables.is_empty() || !request.exclude_tables.is_empty() || request.tenant.is_some();
    match parts {
        true => Err(Error::unsupported(
            "a physical backup has the whole cluster: tables and tenants cannot be chosen",
        )
        .with_hint("take a logical backup of them")),
        false => Ok(()),
    }
}

async fn refuse_server(client: &Client, server: &Server, control: &mut PgConnection) -> Result<()> {
    let missing = missing_functions(control).await?;
    if !missing.is_empty() {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("{} may not make a physical backup", client.user()),
        )
        .with_hint(grants(&missing, client)));
    }
    if !server.facts.full_page_writes {
        return Err(Error::unsupported("full_page_writes is off: a copy of files could not be made whole")
            .with_hint("set full_page_writes = on and reload the server"));
    }
    if server.facts.wal_level == "minimal" {
        return Err(Error::unsupported("wal_level is minimal: the log does not have what a backup needs")
            .with_hint("set wal_level = replica and restart the server"));
    }
    Ok(())
}

/// Makes a slot that ends with this session, so that the server keeps the log that it writes from here on. The warning, when
/// there can be none.
async fn hold_log(control: &mut PgConnection, server: &Server) -> Result<Option<String>> {
    let unheld = |why: &str| {
        Ok(Some(format!(
            "nothing keeps the server from removing log that the backup needs before its end ({why}); the backup would then fail"
        )))
    };
    if server.facts.wal_keep_megabytes < 0 {
        return Ok(None);
    }
    if !server.facts.replication {
        return unheld("the role has not the attribute REPLICATION");
    }
    let name = format!("dm_backup_{}", server.facts.pid);
    let made = sqlx::query("SELECT pg_catalog.pg_create_physical_replication_slot($1, true, true)")
        .bind(&name)
        .execute(control)
        .await;
    match made {
        Ok(_) => Ok(None),
        // All slots are taken, or there are to be none.
        Err(e) if e.as_database_error().is_some() => unheld(&reading(e).to_string()),
        Err(e) => Err(reading(e)),
    }
}

fn not_startable(error: sqlx::Error) -> Error {
    // object_not_in_prerequisite_state: recovery has not come to a consistent point, or log was written without whole pages.
    match sqlstate(&error).as_deref() {
        Some("55000") => Error::new(
            ErrorKind::Conflict,
            "the server cannot be backed up in the state it is in",
        )
        .with_source(reading(error))
        .with_hint(
            "on a standby: full_page_writes must be on at the primary; make a checkpoint there and try again",
        ),
        _ => reading(error),
    }
}

/// Reads pg_control until it is not caught in a change.
pub(super) async fn read_control_file(connection: &mut PgConnection) -> Result<(ControlFile, Vec<u8>)> {
    for _ in 0..CONTROL_READINGS {
        let bytes: Vec<u8> =
            sqlx::query_scalar("SELECT pg_catalog.pg_read_binary_file('global/pg_control', 0, 65536, false)")
                .fetch_one(&mut *connection)
                .await
                .map_err(reading)?;
        if let Some(file) = ControlFile::parse(&bytes)? {
            return Ok((file, bytes));
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Err(Error::corrupt("the checksum of global/pg_control does not hold")
        .with_hint("look after the server's disk: it would not start from this file"))
}

/// The timeline that the backup's log begins on.
async fn timeline(
    control: &mut PgConnection,
    server: &Server,
    control_file: ControlFile,
    start: Lsn,
) -> Result<u32> {
    if server.facts.in_recovery {
        return Ok(control_file.checkpoint_timeline);
    }
    let name: String = sqlx::query_scalar("SELECT pg_catalog.pg_walfile_name($1::pg_catalog.pg_lsn)")
        .bind(start.to_string())
        .fetch_one(control)
        .await
        .map_err(reading)?;
    name.get(..8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Error::internal(format!("the server calls a segment of its log {name}")))
}

/// The history of a timeline with the file's text; the first one has none.
pub(super) async fn history(
    connection: &mut PgConnection,
    timeline: u32,
) -> Result<(TimelineHistory, Option<String>)> {
    if timeline <= 1 {
        return Ok((TimelineHistory { timeline, ancestors: Vec::new() }, None));
    }
    let path = format!("pg_wal/{timeline:08X}.history");
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT pg_catalog.pg_read_binary_file($1, 0, 1048576, true)")
            .bind(&path)
            .fetch_one(connection)
            .await
            .map_err(reading)?;
    let bytes = bytes.ok_or_else(|| {
        Error::new(ErrorKind::Conflict, "the history of the server's timeline is not in its log folder")
            .about(&path)
            .with_hint(
                "put the file back from the archive, or restart the server's history by a full restore",
            )
    })?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((TimelineHistory::parse(timeline, &text)?, Some(text)))
}

pub(super) async fn list(
    connection: &mut PgConnection,
    server: &Server,
    control_file: ControlFile,
) -> Result<Selection> {
    let emptied: Vec<String> = EMPTIED.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<(String, Option<i64>)> = sqlx::query_as(include_str!("../sql/physical/files.sql"))
        .bind(emptied)
        .fetch_all(connection)
        .await
        .map_err(reading)?;
    let listed: Vec<Listed> =
        rows.into_iter().map(|(path, size)| (path, size.map(i64::unsigned_abs))).collect();
    let version_folder = format!("PG_{}_{}", server.version.major, control_file.catalog_version);
    Ok(files::select(listed, &version_folder, server.version.major))
}

/// Reads small files that are no relations at once: prepared transactions, settings, maps. They come and go, and one that went
/// must not be there as an empty file, which a server would not start with.
async fn read_early(
    connection: &mut PgConnection,
    selection: &mut Selection,
) -> Result<Vec<(MemberSpec, Reading)>> {
    let mut bytes = 0;
    let mut early = Vec::new();
    selection.files.retain(|(path, size)| {
        let is_early = files::comes_and_goes(path) && *size <= EARLY_BYTES && bytes + size <= ALL_EARLY_BYTES;
        if is_early {
            bytes += size;
            // More than it was: a settings file that was replaced since must not be cut off.
            let length = 2 * size + EARLY_BYTES;
            early.push(Piece { path: path.as_str().into(), offset: 0, length });
        }
        !is_early
    });
    let mut members = Vec::new();
    for query in early.chunks(1024) {
        let mut asked = query.iter();
        let mut rows = read(connection, query);
        while let Some(content) = rows.try_next().await? {
            let (Some(piece), Some(bytes)) = (asked.next(), content) else { continue };
            let spec = plain(&format!("{DATA}{}", piece.path), MemberKind::File, Some(bytes.len() as u64));
            // A copy of its own: what was received is kept by all that was received with it.
            members.push((spec, Reading::Memory(Bytes::copy_from_slice(&bytes))));
        }
    }
    Ok(members)
}

/// Tablespaces that are elsewhere; what lies in the data directory itself is no more than a folder of it.
async fn tablespaces(connection: &mut PgConnection) -> Result<Vec<serde_json::Value>> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT oid::int8, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace
          WHERE pg_catalog.pg_tablespace_location(oid) LIKE '/%' ORDER BY oid",
    )
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    Ok(rows.into_iter().map(|(oid, location)| json!({"oid": oid, "location": location})).collect())
}

/// The members: the largest first, so that the last reader does not end long after the others; files of about the same size
/// by name, which keeps neighbours together.
fn members(selection: Selection, block_bytes: u32) -> Vec<MemberSpec> {
    let mut files = selection.files;
    files.sort_unstable_by(|(a, a_size), (b, b_size)| {
        let magnitude = |size: u64| (size >> 22).checked_ilog2();
        magnitude(*b_size).cmp(&magnitude(*a_size)).then_with(|| a.cmp(b))
    });
    files
        .into_iter()
        .map(|(path, size)| {
            let mut spec = plain(&format!("{DATA}{path}"), MemberKind::File, Some(size));
            if RelationFile::parse(&path).is_some() {
                spec.layout = Layout::Pages { page_bytes: block_bytes };
            }
            spec
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_come_first_and_neighbours_together() {
        let selection = Selection {
            files: vec![
                ("base/5/3".to_owned(), 8192),
                ("base/5/1".to_owned(), 3 << 20),
                ("PG_VERSION".to_owned(), 3),
                ("base/5/2".to_owned(), 1 << 30),
                ("base/5/4".to_owned(), 900 << 20),
            ],
            folders: Vec::new(),
        };
        let members = members(selection, 8192);
        let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            ["data/base/5/2", "data/base/5/4", "data/PG_VERSION", "data/base/5/1", "data/base/5/3"]
        );
        assert_eq!(members[2].layout, Layout::Stream);
        assert_eq!(members[3].layout, Layout::Pages { page_bytes: 8192 });
    }
}
