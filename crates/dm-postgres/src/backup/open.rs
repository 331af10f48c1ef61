//! Taking the snapshot: locks first, then the moment, then what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use dm_core::{
    BackupMode, BackupRequest, ConsistencyPoint, EngineKind, Error, ErrorKind, MemberKind, OpContext, Result,
    SourceDescription, TenantFilter,
};
use serde_json::json;
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::large_objects;
use super::members::{Reading, plain, table_members};
use super::scope::Scope;
use super::session::LogicalBackup;
use super::snapshot::Snapshot;
use super::toc::{self, Toc};
use super::{GLOBALS, SCHEMA, SEQUENCES, tenant};
use crate::catalog::{self, OLDEST_MAJOR, Relation, RelationKind};
use crate::client::Client;
use crate::error::{reading, sqlstate};
use crate::selection::{listed, nothing_matches};
use crate::session::open_pinned;
use crate::sql::{dump_pattern, dynamic};
use crate::tenant::foreign_keys;
use crate::tools::ClientTools;

/// Locks named in one statement.
const LOCKS_AT_ONCE: usize = 500;

/// How often the tables are listed again when one vanishes while they are locked.
const LISTINGS: usize = 5;

/// Opens a backup.
pub(super) async fn open(ctx: &OpContext, client: &Client, request: &BackupRequest) -> Result<LogicalBackup> {
    let mut control = open_pinned(ctx, client).await?;
    let version = catalog::version(&mut control).await?;
    if version.major < OLDEST_MAJOR {
        return Err(Error::unsupported(format!("PostgreSQL {} is too old to be backed up", version.text))
            .with_hint(format!("PostgreSQL {OLDEST_MAJOR} is the oldest that can be")));
    }
    let tools = ClientTools::at_least(ctx, client, version.major, "pg_dump").await?;
    let identity = catalog::text_if_permitted(
        &mut control,
        "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
    )
    .await?;
    let timeline = catalog::text_if_permitted(
        &mut control,
        "SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint()",
    )
    .await?;
    let (relations, scope, edges) = ctx.run(lock(&mut control, request)).await?;
    let at = ctx.now();
    let snapshot_id: String = sqlx::query_scalar("SELECT pg_catalog.pg_export_snapshot()")
        .fetch_one(&mut control)
        .await
        .map_err(reading)?;
    // Whether this may be asked depends on recovery and on nothing that could end the transaction.
    let position: Option<String> = sqlx::query_scalar(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                     ELSE pg_catalog.pg_current_wal_lsn() END::text",
    )
    .fetch_one(&mut control)
    .await
    .map_err(reading)?;
    let sizes = sizes(&mut control, &scope).await?;
    let properties = catalog::database_properties(&mut control).await?;
    let belongings = catalog::belongings(&mut control).await?;
    let counts = catalog::object_counts(&mut control).await?;
    let keys = foreign_keys(&mut control, &relations).await?;
    let tenant = match &request.tenant {
        Some(tenant) => Some(tenant::choose(ctx, &mut control, tenant, &relations, &scope, &keys).await?),
        None => None,
    };
    // Nobody knows whose a large object is.
    let large = match tenant {
        Some(_) => Vec::new(),
        None => large_objects::facts(&mut control).await?,
    };
    let block_bytes: i64 = sqlx::query_scalar("SELECT pg_catalog.current_setting('block_size')::int8")
        .fetch_one(&mut control)
        .await
        .map_err(reading)?;

    let scratch = scratch(request.scratch_dir.as_deref())?;
    let archive = scratch.path().join("schema.dump");
    dump_definitions(ctx, client, &tools, &snapshot_id, &archive, &relations, &scope).await?;
    let mut list_command =
        tools.run(ctx, client, "pg_restore", ["--list".as_ref(), archive.as_os_str()]).await?;
    list_command = list_command.or_fail("pg_restore")?;
    let lines = toc::parse_list(&String::from_utf8_lossy(&list_command.stdout));
    let map = Toc::build(tools.major, &lines, &relations, &belongings);

    let mut warnings = scope.warnings.clone();
    let map_json = serde_json::to_vec(&map)
        .map_err(|e| Error::internal("the map of definitions cannot be written").with_source(e))?;
    let archive_bytes = std::fs::metadata(&archive).map_err(scratch_failed)?.len();
    let mut members = vec![
        (
            plain(toc::MEMBER, MemberKind::Schema, Some(map_json.len() as u64)),
            Reading::Memory(map_json.into()),
        ),
        (plain(SCHEMA, MemberKind::Schema, Some(archive_bytes)), Reading::File(archive)),
    ];
    match tenant {
        Some(chosen) => {
            members.extend(chosen.members);
            warnings.extend(chosen.warnings);
        }
        None => members.extend(table_members(
            &relations,
            &scope,
            &sizes,
            block_bytes.unsigned_abs(),
            version.major,
        )),
    }
    if !large.is_empty() {
        let facts = serde_json::to_vec(&large)
            .map_err(|e| Error::internal("the list of large objects cannot be written").with_source(e))?;
        members.push((
            plain(large_objects::FACTS_MEMBER, MemberKind::LargeObjects, Some(facts.len() as u64)),
            Reading::Memory(facts.into()),
        ));
        members.push((plain(large_objects::MEMBER, MemberKind::LargeObjects, None), Reading::LargeObjects));
    }
    let sequences: Vec<Relation> = relations.iter().filter(|r| scope.has_sequence(r)).cloned().collect();
    members.push((plain(SEQUENCES, MemberKind::Sequences, None), Reading::Sequences(sequences)));
    match globals(ctx, client, &tools).await? {
        Ok(text) => {
            members.push((
                plain(GLOBALS, MemberKind::Globals, Some(text.len() as u64)),
                Reading::Memory(Bytes::from(text)),
            ));
        }
        Err(why) => warnings.push(format!("roles and tablespaces of the server are not in it: {why}")),
    }

    let mut attributes = attributes(&properties, &counts, &relations, &scope, &edges, tools.major)?;
    attributes.insert("foreign_keys".to_owned(), json!(keys));
    if let Some(tenant) = &request.tenant {
        attributes.insert(TenantFilter::ATTRIBUTE.to_owned(), json!(tenant));
    }
    let description = SourceDescription {
        engine: EngineKind::Postgres,
        version: version.clone(),
        mode: BackupMode::Logical,
        database: client.database.clone(),
        system_identifier: identity,
        consistency: ConsistencyPoint { at, position, timeline },
        attributes,
    };
    let snapshot = Snapshot::new(client.clone(), snapshot_id, request.jobs);
    Ok(LogicalBackup::new(description, members, snapshot, control, scratch, warnings, request))
}

/// Lists the tables, begins the transaction, locks, and lists again under the locks.
///
/// `LOCK TABLE` takes no snapshot, so the transaction's snapshot is taken after all locks are held: no table can be
/// dropped or rewritten between the moment that the backup shows and the reading of its rows.
async fn lock(
    control: &mut PgConnection,
    request: &BackupRequest,
) -> Result<(Vec<Relation>, Scope, Vec<(i64, i64)>)> {
    let mut last = None;
    for _ in 0..LISTINGS {
        let relations = catalog::relations(control).await?;
        let edges = catalog::view_edges(control).await?;
        let scope = Scope::of(request, &relations, &edges);
        if !scope.unmatched.is_empty() {
            return Err(nothing_matches(&scope.unmatched));
        }
        control.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(reading)?;
        match lock_tables(control, &lockable(&relations, &scope)).await {
            Ok(()) => {}
            // Dropped or renamed since it was listed.
            Err(e) if matches!(sqlstate(&e).as_deref(), Some("42P01" | "3F000" | "XX000")) => {
                last = Some(reading(e));
                control.execute("ROLLBACK").await.map_err(reading)?;
                continue;
            }
            Err(e) => return Err(lock_failed(reading(e), &relations, &scope)),
        }
        let again = catalog::relations(control).await?;
        let edges = catalog::view_edges(control).await?;
        let scope_again = Scope::of(request, &again, &edges);
        let before: BTreeSet<i64> = lockable(&relations, &scope).iter().map(|r| r.oid).collect();
        let after = lockable(&again, &scope_again);
        if after.iter().all(|r| before.contains(&r.oid)) {
            return Ok((again, scope_again, edges));
        }
        // Made since: it may be in the snapshot, so it must be locked as well. Begin again.
        control.execute("ROLLBACK").await.map_err(reading)?;
    }
    Err(last
        .unwrap_or_else(|| Error::new(ErrorKind::Busy, "tables were made and dropped all the while"))
        .with_hint("take the backup while no tables are made or dropped, or exclude them"))
}

fn lockable<'a>(relations: &'a [Relation], scope: &Scope) -> Vec<&'a Relation> {
    relations
        .iter()
        .filter(|r| matches!(r.kind, RelationKind::Table | RelationKind::Partitioned))
        .filter(|r| r.is_dumped() && !scope.left_out.contains(&r.oid))
        .collect()
}

async fn lock_tables(control: &mut PgConnection, tables: &[&Relation]) -> Result<(), sqlx::Error> {
    for some in tables.chunks(LOCKS_AT_ONCE) {
        let names: Vec<String> = some.iter().map(|t| format!("ONLY {}", t.quoted())).collect();
        let statement = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        control.execute(sqlx::raw_sql(dynamic(statement))).await?;
    }
    Ok(())
}

fn lock_failed(error: Error, relations: &[Relation], scope: &Scope) -> Error {
    if error.kind() != ErrorKind::Denied {
        return error;
    }
    let unreadable: Vec<String> =
        lockable(relations, scope).iter().filter(|r| !r.readable).map(|r| r.display.clone()).collect();
    Error::new(ErrorKind::Denied, format!("no permission to read {}", listed(&unreadable)))
        .with_source(error)
        .on_engine(EngineKind::Postgres)
        .with_hint("grant pg_read_all_data to the role (PostgreSQL 14 and later), or exclude the tables")
}

async fn sizes(control: &mut PgConnection, scope: &Scope) -> Result<BTreeMap<i64, u64>> {
    let oids: Vec<i64> = scope.rows.iter().copied().collect();
    let rows: Vec<(i64, Option<i64>)> = sqlx::query_as(
        "SELECT oid, pg_catalog.pg_relation_size(oid::oid) FROM pg_catalog.unnest($1::int8[]) AS t(oid)",
    )
    .bind(oids)
    .fetch_all(control)
    .await
    .map_err(reading)?;
    Ok(rows.into_iter().map(|(oid, bytes)| (oid, bytes.unwrap_or(0).unsigned_abs())).collect())
}

async fn dump_definitions(
    ctx: &OpContext,
    client: &Client,
    tools: &ClientTools,
    snapshot: &str,
    archive: &Path,
    relations: &[Relation],
    scope: &Scope,
) -> Result<()> {
    let mut arguments: Vec<std::ffi::OsString> = vec![
        "--format=custom".into(),
        "--schema-only".into(),
        "--compress=0".into(),
        "--encoding=UTF8".into(),
        "--no-password".into(),
        format!("--snapshot={snapshot}").into(),
        "--file".into(),
        archive.into(),
    ];
    for relation in relations.iter().filter(|r| scope.left_out.contains(&r.oid)) {
        arguments.push(format!("--exclude-table={}", dump_pattern(&relation.schema, &relation.name)).into());
    }
    tools.run(ctx, client, "pg_dump", arguments).await?.or_fail("pg_dump")?;
    Ok(())
}

/// The server's roles and tablespaces without passwords, or why they cannot be had.
async fn globals(ctx: &OpContext, client: &Client, tools: &ClientTools) -> Result<Result<Vec<u8>, String>> {
    let finished = tools
        .run(
            ctx,
            client,
            "pg_dumpall",
            [
                "--globals-only",
                "--no-role-passwords",
                "--no-password",
                &format!("--database={}", client.dbname_argument()),
            ],
        )
        .await?;
    Ok(match finished.or_fail("pg_dumpall") {
        Ok(finished) => Ok(finished.stdout),
        Err(error) => Err(error.to_string()),
    })
}

fn attributes(
    properties: &catalog::DatabaseProperties,
    counts: &catalog::ObjectCounts,
    relations: &[Relation],
    scope: &Scope,
    edges: &[(i64, i64)],
    tool_major: u32,
) -> Result<BTreeMap<String, serde_json::Value>> {
    let wanted: Vec<i64> = relations
        .iter()
        .filter(|r| r.kind == RelationKind::MaterialisedView && r.is_dumped() && r.is_populated)
        .filter(|r| !scope.left_out.contains(&r.oid))
        .map(|r| r.oid)
        .collect();
    let names: BTreeMap<i64, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
    let views: Vec<serde_json::Value> = catalog::in_reading_order(&wanted, edges)
        .iter()
        .filter_map(|oid| names.get(oid))
        .map(|r| json!([r.schema, r.name]))
        .collect();
    let left_out: Vec<&str> =
        relations.iter().filter(|r| scope.left_out.contains(&r.oid)).map(|r| r.display.as_str()).collect();
    // Partitions, children and their parents: who names a parent at a restore means them all.
    let parents: BTreeSet<i64> = relations.iter().flat_map(|r| r.parents.iter().copied()).collect();
    let families: Vec<serde_json::Value> = relations
        .iter()
        .filter(|r| r.is_table() && r.is_dumped() && !scope.left_out.contains(&r.oid))
        .filter(|r| !r.parents.is_empty() || parents.contains(&r.oid) || r.kind == RelationKind::Partitioned)
        .map(|r| {
            let above: Vec<&str> =
                r.parents.iter().filter_map(|p| names.get(p)).map(|p| p.display.as_str()).collect();
            json!({"schema": r.schema, "name": r.name, "table": r.display, "parents": above})
        })
        .collect();
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.map_err(|e| Error::internal("the description of the database cannot be written").with_source(e))
    };
    Ok(BTreeMap::from([
        ("database".to_owned(), json(serde_json::to_value(properties))?),
        ("counts".to_owned(), json(serde_json::to_value(counts))?),
        ("materialised_views".to_owned(), serde_json::Value::Array(views)),
        ("left_out".to_owned(), json!(left_out)),
        ("families".to_owned(), serde_json::Value::Array(families)),
        ("tool_major".to_owned(), json!(tool_major)),
        // The canonical encoding of a row, version 1: its COPY text line under the pinned settings, without newline.
        ("row_encoding".to_owned(), json!("copy-text-1")),
    ]))
}

/// A folder for temporary files that only this user may enter: definitions and rows pass through it.
pub(crate) fn scratch(parent: Option<&Path>) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("dm-").permissions(std::fs::Permissions::from_mode(0o700));
    match parent {
        Some(folder) => builder.tempdir_in(folder),
        None => builder.tempdir(),
    }
    .map_err(scratch_failed)
}

/// The error for a scratch folder that does not work.
pub(crate) fn scratch_failed(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "the folder for temporary files cannot be used")
        .with_source(error)
        .with_hint("set scratch_dir to a folder with free space")
}
