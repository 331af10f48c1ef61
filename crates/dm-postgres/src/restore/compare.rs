//! The proof: every table read again and compared with what the backup recorded, and the catalogs with the source's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use dm_core::{
    Comparison, ContentDigest, Error, Finding, Level, OpContext, Result, RowHasher, TableComparison,
    TableFacts,
};
use futures::StreamExt;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;

use super::plan::{Plan, Source, TableMember};
use crate::backup::{LARGE_OBJECT_FACTS, TableCopy, digest_large_objects};
use crate::catalog;
use crate::client::Client;
use crate::error::{reading, sqlstate};
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::sql::{qualified, quote_ident};

/// One thing to read.
#[derive(Debug)]
struct Task {
    table: String,
    /// `None` for the large objects.
    statement: Option<String>,
}

/// What was found of each table; `None` when it is not there as it was.
type Found = BTreeMap<String, Option<(u64, ContentDigest)>>;

/// What is compared.
pub(super) struct Subject<'a> {
    pub(super) client: &'a Client,
    pub(super) source: &'a Source,
    pub(super) plan: &'a Plan,
    pub(super) members: &'a BTreeMap<String, TableMember>,
    pub(super) key: [u8; 32],
    pub(super) jobs: usize,
}

/// Compares.
pub(super) async fn compare(
    ctx: &OpContext,
    subject: &Subject<'_>,
    expected: &[TableFacts],
) -> Result<Comparison> {
    let Subject { client, source, plan, members, key, jobs } = *subject;
    let mut control = open_pinned(ctx, client).await?;
    let major = catalog::version(&mut control).await?.major;
    let sizes = blocks(&mut control).await?;
    let mut tasks = VecDeque::new();
    for facts in expected {
        if facts.table == LARGE_OBJECT_FACTS {
            tasks.push_back(Task { table: facts.table.clone(), statement: None });
            continue;
        }
        let Some(member) = members.get(&facts.table) else { continue };
        let copy = TableCopy {
            quoted: qualified(&member.schema, &member.name),
            columns: member.columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", "),
            condition: member.condition.clone(),
            blocks: sizes.get(&facts.table).copied().unwrap_or(0),
        };
        for (_, statement) in copy.parts(major) {
            tasks.push_back(Task { table: facts.table.clone(), statement: Some(statement) });
        }
    }
    let found = read_all(ctx, client, tasks, key, jobs).await?;
    let tables = expected
        .iter()
        .map(|facts| {
            let found = found
                .get(&facts.table)
                .copied()
                .flatten()
                .map(|(rows, digest)| TableFacts::new(&facts.table, rows, Some(digest)));
            let equal = found.as_ref().is_some_and(|f| {
                f.rows == facts.rows && (facts.digest.is_none() || f.digest == facts.digest)
            });
            TableComparison { expected: facts.clone(), found, equal }
        })
        .collect();
    let whole = plan.tables.is_none() && source.left_out.is_empty();
    let mut checks = checks(&mut control, source, whole).await?;
    checks.extend(logins(&mut control, source).await?);
    close(control).await;
    Ok(Comparison { tables, checks })
}

async fn blocks(control: &mut PgConnection) -> Result<BTreeMap<String, u64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
                pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'",
    )
    .fetch_all(control)
    .await
    .map_err(reading)?;
    Ok(rows.into_iter().map(|(name, blocks)| (name, blocks.unsigned_abs())).collect())
}

/// Reads everything with so many connections, each taking the next task as it gets free.
async fn read_all(
    ctx: &OpContext,
    client: &Client,
    tasks: VecDeque<Task>,
    key: [u8; 32],
    jobs: usize,
) -> Result<Found> {
    let workers = jobs.clamp(1, tasks.len().max(1));
    let queue = Arc::new(Mutex::new(tasks));
    let found = Arc::new(Mutex::new(Found::new()));
    let mut set = JoinSet::new();
    for _ in 0..workers {
        let (ctx, client, queue, found) =
            (ctx.clone(), client.clone(), Arc::clone(&queue), Arc::clone(&found));
        set.spawn(async move {
            let mut connection = None;
            loop {
                let Some(task) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    break;
                };
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => open_pinned(&ctx, &client).await?,
                };
                let result = ctx.run(read(&mut open, &task, key)).await?;
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let entry = found.entry(task.table).or_insert_with(|| Some((0, ContentDigest::default())));
                match result {
                    Some(digest) => {
                        connection = Some(open);
                        if let Some((rows, sum)) = entry {
                            *rows += digest.rows();
                            *sum += digest;
                        }
                    }
                    None => *entry = None,
                }
            }
            if let Some(connection) = connection {
                close(connection).await;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = set.join_next().await {
        done.map_err(|e| Error::internal("a comparison ended unexpectedly").with_source(e))??;
    }
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(found)
}

/// Reads one part; `None` when the table is not there, or has other columns.
async fn read(connection: &mut PgConnection, task: &Task, key: [u8; 32]) -> Result<Option<ContentDigest>> {
    let Some(statement) = &task.statement else {
        return Ok(Some(digest_large_objects(connection, key).await?.1));
    };
    let mut lines = match connection.copy_out_raw(statement).await {
        Ok(lines) => lines,
        Err(e) if matches!(sqlstate(&e).as_deref(), Some("42P01" | "42703" | "3F000" | "42809")) => {
            return Ok(None);
        }
        Err(e) => return Err(reading(e).about(&task.table)),
    };
    let mut hasher = RowHasher::new(key);
    while let Some(line) = lines.next().await {
        let line = line.map_err(|e| reading(e).about(&task.table))?;
        hasher.row(line.strip_suffix(b"\n").unwrap_or(&line));
    }
    Ok(Some(hasher.digest()))
}

async fn checks(control: &mut PgConnection, source: &Source, whole: bool) -> Result<Vec<Finding>> {
    let now = catalog::object_counts(control).await?;
    let then = &source.counts;
    let mut checks = Vec::new();
    // Fewer out of order than at the source is fine: a restore builds them anew.
    for (what, now, then) in [
        ("invalid indexes", now.invalid_indexes, then.invalid_indexes),
        ("unvalidated constraints", now.unvalidated_constraints, then.unvalidated_constraints),
    ] {
        let level = if now > then { Level::Error } else { Level::Ok };
        checks.push(Finding::new(level, "integrity", format!("{now} {what}, the source had {then}")));
    }
    if whole {
        for (what, now, then) in [
            ("tables", now.tables, then.tables),
            ("views", now.views, then.views),
            ("sequences", now.sequences, then.sequences),
            ("indexes", now.indexes, then.indexes),
            ("constraints", now.constraints, then.constraints),
            ("triggers", now.triggers, then.triggers),
            ("policies", now.policies, then.policies),
        ] {
            let level = if now == then { Level::Ok } else { Level::Error };
            checks.push(Finding::new(level, "objects", format!("{now} {what}, the source had {then}")));
        }
    }
    Ok(checks)
}

/// Whether those who own or use what was restored are there, may log in, and will be let into the database.
async fn logins(control: &mut PgConnection, source: &Source) -> Result<Vec<Finding>> {
    let database = &source.database;
    let grants = database.grants.as_deref();
    let connects = |role: Option<&str>| {
        grants.is_none_or(|all| all.iter().any(|g| g.privilege == "CONNECT" && g.grantee.as_deref() == role))
    };
    let granted = grants.into_iter().flatten().filter_map(|g| g.grantee.clone());
    let names: BTreeSet<String> = database
        .roles
        .iter()
        .map(|r| r.name.clone())
        .chain([database.owner.clone()])
        .chain(granted)
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    let allowed: Vec<String> = names.iter().filter(|n| connects(Some(n))).cloned().collect();
    // Whoever is a member of one that may connect may too, and a superuser or the owner always.
    let there: Vec<(String, bool, bool)> = sqlx::query_as(
        "SELECT r.rolname::text, r.rolcanlogin,
                $2 OR r.rolsuper OR r.rolname = $4
                OR EXISTS (SELECT FROM pg_catalog.pg_roles a
                            WHERE a.rolname = ANY ($3::text[]) AND pg_catalog.pg_has_role(r.oid, a.oid, 'USAGE'))
           FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1::text[])",
    )
    .bind(&names)
    .bind(connects(None))
    .bind(&allowed)
    .bind(&database.owner)
    .fetch_all(control)
    .await
    .map_err(reading)?;
    let missing: Vec<String> =
        names.iter().filter(|n| !there.iter().any(|(t, ..)| t == *n)).cloned().collect();
    let logins = there.iter().filter(|(_, login, _)| *login).count();
    let shut: Vec<String> =
        there.iter().filter(|(_, login, may)| *login && !*may).map(|(name, ..)| name.clone()).collect();
    let mut findings = vec![Finding::new(
        Level::Ok,
        "logins",
        format!(
            "{} of {} roles of the source's database are there, {logins} may log in",
            there.len(),
            names.len()
        ),
    )];
    if !missing.is_empty() {
        findings.push(
            Finding::new(Level::Warning, "logins", format!("the server has no roles {}", listed(&missing)))
                .with_mend(
                    "make them (globals.sql of the backup has them), then restore again for their grants",
                ),
        );
    }
    if !shut.is_empty() {
        findings.push(Finding::new(
            Level::Info,
            "logins",
            format!("as at the source, these log in but not into this database: {}", listed(&shut)),
        ));
    }
    Ok(findings)
}
