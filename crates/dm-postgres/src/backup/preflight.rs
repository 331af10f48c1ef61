//! What can be known before anything starts.

use dm_core::{BackupRequest, Finding, Level, OpContext, Preflight, Result};

use super::scope::Scope;
use super::tenant;
use crate::catalog::{self, OLDEST_MAJOR, Relation};
use crate::client::Client;
use crate::error::reading;
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::tools::ClientTools;

/// Looks at everything a backup needs.
pub(super) async fn look(ctx: &OpContext, client: &Client, request: &BackupRequest) -> Result<Preflight> {
    let mut connection = open_pinned(ctx, client).await?;
    let mut findings = Vec::new();
    let version = catalog::version(&mut connection).await?;
    if version.major < OLDEST_MAJOR {
        findings.push(
            Finding::new(
                Level::Error,
                "server_version",
                format!("the server is PostgreSQL {}", version.text),
            )
            .with_mend(format!("PostgreSQL {OLDEST_MAJOR} is the oldest that can be backed up")),
        );
        return Ok(Preflight { findings, estimated_bytes: 0, scratch: None });
    }
    findings.push(Finding::new(
        Level::Ok,
        "reachable",
        format!("{} answers, PostgreSQL {}", client.location(), version.text),
    ));
    findings.push(client_tools(ctx, client, version.major).await);
    if client.pgbouncer {
        findings.push(
            Finding::new(Level::Warning, "pooler", "the url says that a transaction pooler stands between")
                .with_mend(
                    "give backups a url of the server itself: a snapshot needs one session from end to end",
                ),
        );
    }
    let relations = catalog::relations(&mut connection).await?;
    let edges = catalog::view_edges(&mut connection).await?;
    let scope = Scope::of(request, &relations, &edges);
    if !scope.unmatched.is_empty() {
        findings.push(
            Finding::new(Level::Error, "tables", format!("no table matches {}", listed(&scope.unmatched)))
                .with_mend("name tables as schema.table; * stands for any text"),
        );
    }
    findings.extend(scope.warnings.iter().map(|w| Finding::new(Level::Warning, "tables", w.clone())));
    findings.extend(privileges(client, &scope, &relations));
    if let Some(tenant) = &request.tenant {
        findings.extend(tenant::look(&mut connection, tenant, &relations, &scope).await?);
    }
    findings.push(connections(&mut connection, request.jobs).await?);
    let block: i64 = sqlx::query_scalar("SELECT pg_catalog.current_setting('block_size')::int8")
        .fetch_one(&mut connection)
        .await
        .map_err(reading)?;
    let pages: u64 = relations.iter().filter(|r| scope.rows.contains(&r.oid)).map(|r| r.pages).sum();
    close(connection).await;
    Ok(Preflight { findings, estimated_bytes: pages * block.unsigned_abs(), scratch: None })
}

/// Whether there is a `pg_dump` new enough.
pub(crate) async fn client_tools(ctx: &OpContext, client: &Client, server_major: u32) -> Finding {
    match ClientTools::at_least(ctx, client, server_major, "pg_dump").await {
        Ok(tools) => {
            Finding::new(Level::Ok, "client_tools", format!("pg_dump {} will be used", tools.version))
        }
        Err(error) => {
            let finding = Finding::new(Level::Error, "client_tools", error.to_string());
            match error.hint() {
                Some(hint) => finding.with_mend(hint),
                None => finding,
            }
        }
    }
}

/// What the role may not read, or would read only in part.
fn privileges(client: &Client, scope: &Scope, relations: &[Relation]) -> Vec<Finding> {
    let user = client.user();
    let chosen = |r: &&Relation| r.is_dumped() && !scope.left_out.contains(&r.oid);
    let wanted =
        |r: &&Relation| scope.rows.contains(&r.oid) || (r.is_table() && chosen(r)) || scope.has_sequence(r);
    let names = |keep: &dyn Fn(&&Relation) -> bool| -> Vec<String> {
        relations.iter().filter(|r| wanted(r) && keep(r)).map(|r| r.display.clone()).collect()
    };
    let unreadable = names(&|r| !r.readable);
    let filtered = names(&|r| r.filtered && scope.rows.contains(&r.oid));
    let mut findings = Vec::new();
    if !unreadable.is_empty() {
        findings.push(
            Finding::new(Level::Error, "privileges", format!("{user} may not read {}", listed(&unreadable)))
                .with_mend(format!(
                    "GRANT pg_read_all_data TO {user} (PostgreSQL 14 and later), or exclude the tables"
                )),
        );
    }
    if !filtered.is_empty() {
        findings.push(
            Finding::new(
                Level::Error,
                "privileges",
                format!("row security would hide rows from {user} in {}", listed(&filtered)),
            )
            .with_mend(format!("ALTER ROLE {user} BYPASSRLS, connect as the owner, or exclude the tables")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::new(Level::Ok, "privileges", format!("{user} may read every table")));
    }
    findings
}

/// Whether there is room for the connections of a run.
pub(crate) async fn connections(connection: &mut sqlx::PgConnection, jobs: usize) -> Result<Finding> {
    let (used, most): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
                pg_catalog.current_setting('max_connections')::int8
                - pg_catalog.current_setting('superuser_reserved_connections')::int8",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    // The jobs, the one that holds the snapshot, and pg_dump.
    let needed = i64::try_from(jobs).unwrap_or(i64::MAX).saturating_add(2);
    let free = most.saturating_sub(used);
    let message = format!("{used} of {most} connections are in use, a run needs {needed}");
    Ok(match free >= needed {
        true => Finding::new(Level::Ok, "connections", message),
        false => Finding::new(Level::Error, "connections", message)
            .with_mend("raise max_connections, or lower jobs and connection_limit"),
    })
}
