//! Making the sealed place, and the order in which it is filled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dm_core::{Error, ErrorKind, OpContext, RestoreManifest, RestorePreview, RestoreRequest, Result};
use sqlx::postgres::PgConnection;
use tokio::sync::Semaphore;

use super::plan::{Kind, Plan, Source, table_members};
use super::session::{Session, State};
use super::{PostgresRestore, place};
use crate::backup::toc;
use crate::backup::{SCHEMA, scratch};
use crate::catalog;
use crate::session::{close, open_control};
use crate::tools::ClientTools;

/// Makes the place.
pub(super) async fn open(
    ctx: &OpContext,
    target: &PostgresRestore,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Session> {
    let client = target.client.clone();
    let source = Source::read(manifest)?;
    let plan = Plan::load(preview)?;
    let tables = table_members(manifest)?;
    let tools = ClientTools::at_least(ctx, &client, source.tool_major, "pg_restore").await?;
    let scratch = scratch(request.scratch_dir.as_deref())?;
    let mut remaining: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (spec, size) in preview.members.iter().filter_map(|i| manifest.members.get(*i)) {
        if let Some(table) = &spec.table {
            let (members, bytes) = remaining.entry(table.clone()).or_default();
            *members += 1;
            *bytes += size;
        }
    }
    let stages = stages(manifest, preview, &remaining);
    let mut control = open_control(ctx, &client, &[]).await?;
    let server_major = catalog::version(&mut control).await?.major;
    let place = match plan.kind {
        Kind::Tables | Kind::Merge => client.clone(),
        Kind::Database => {
            if plan.kept_as.is_none() && place::exists(&mut control, &plan.database).await? {
                return Err(taken(&plan.database));
            }
            let id = ctx.run_id().as_uuid().simple().to_string();
            let unique = uuid_tail(&id);
            let name = free_name(&mut control, &format!("dm_restore_{unique}")).await?;
            place::create(&mut control, &name, &source.database, server_major).await?;
            client.on_database(&name)
        }
    };
    close(control).await;
    let jobs = request.jobs.max(1);
    Ok(Session {
        place,
        client,
        pool: target.pool.clone(),
        plan,
        source,
        server_major,
        tools,
        tables,
        stages,
        jobs,
        digest_key: request.digest_key,
        scratch,
        idle: Mutex::default(),
        questions: Mutex::default(),
        progress: Mutex::new(State { remaining, ..State::default() }),
        background: tokio::sync::Mutex::default(),
        background_permits: Arc::new(Semaphore::new(jobs)),
        pick: tokio::sync::Mutex::default(),
    })
}

pub(super) fn taken(database: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("the database {database} exists and is not empty"))
        .with_hint("name another database, drop it first, or restore in place")
}

fn uuid_tail(id: &str) -> &str {
    id.get(id.len().saturating_sub(12)..).unwrap_or(id)
}

/// The name, or the first of `name_2`, `name_3` ... that is free: an earlier place of the same run may have been left.
async fn free_name(control: &mut PgConnection, name: &str) -> Result<String> {
    let mut candidate = name.to_owned();
    let mut n = 1;
    while place::exists(control, &candidate).await? {
        n += 1;
        candidate = format!("{name}_{n}");
    }
    Ok(candidate)
}

/// The map, the definitions, then rows and all else: largest tables first, so that their indexes start early.
fn stages(
    manifest: &RestoreManifest,
    preview: &RestorePreview,
    tables: &BTreeMap<String, (usize, u64)>,
) -> Vec<Vec<usize>> {
    let (mut first, mut second, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for index in preview.members.iter().copied() {
        match manifest.members.get(index).map(|(spec, _)| spec.name.as_str()) {
            Some(toc::MEMBER) => first.push(index),
            Some(SCHEMA) => second.push(index),
            _ => rest.push(index),
        }
    }
    rest.sort_by_key(|index| {
        let member = manifest.members.get(*index);
        let table = member.and_then(|(spec, _)| spec.table.clone());
        let whole = table.as_ref().and_then(|t| tables.get(t)).map_or(0, |(_, bytes)| *bytes);
        (std::cmp::Reverse(whole), table, *index)
    });
    vec![first, second, rest]
}
