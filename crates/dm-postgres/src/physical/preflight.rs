//! What a physical backup needs, before it begins: privileges, settings, a session of its own.

use dm_core::{BackupRequest, Finding, Level, OpContext, Preflight, Result};
use sqlx::postgres::PgConnection;

use super::open::{list, read_control_file};
use super::pooler::pooled;
use super::server::{Server, missing_functions};
use super::{NEWEST_MAJOR, OLDEST_MAJOR};
use crate::backup::connections;
use crate::catalog;
use crate::client::Client;
use crate::session::{close, open_pinned};
use crate::sql::quote_ident;

/// The statement that gives the role what it lacks.
pub(super) fn grants(missing: &[&str], client: &Client) -> String {
    format!(
        "in the database {}: GRANT EXECUTE ON FUNCTION {} TO {};",
        client.database,
        missing.join(", "),
        quote_ident(client.user())
    )
}

/// Looks at everything a physical backup needs.
pub(crate) async fn look(ctx: &OpContext, client: &Client, request: &BackupRequest) -> Result<Preflight> {
    let mut connection = open_pinned(ctx, client).await?;
    let version = ctx.run(catalog::version(&mut connection)).await?;
    if !(OLDEST_MAJOR..=NEWEST_MAJOR).contains(&version.major) {
        let finding = Finding::new(
            Level::Error,
            "server_version",
            format!("the server is PostgreSQL {}", version.text),
        )
        .with_mend(format!(
            "PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR} can be copied; take a logical backup of others"
        ));
        return Ok(Preflight { findings: vec![finding], estimated_bytes: 0, scratch: None });
    }
    let mut findings = vec![Finding::new(
        Level::Ok,
        "reachable",
        format!("{} answers, PostgreSQL {}", client.location(), version.text),
    )];
    let server = ctx.run(Server::look(&mut connection)).await?;
    let missing = ctx.run(missing_functions(&mut connection)).await?;
    findings.extend(settings(client, &server, &missing, Level::Error));
    findings.push(connections(&mut connection, request.jobs).await?);
    let mut estimated_bytes = 0;
    if missing.is_empty() {
        let (control_file, _) = ctx.run(read_control_file(&mut connection)).await?;
        let selection = ctx.run(list(&mut connection, &server, control_file)).await?;
        estimated_bytes = selection.files.iter().map(|(_, size)| size).sum();
    }
    close(connection).await;
    Ok(Preflight { findings, estimated_bytes, scratch: None })
}

/// What a doctor says of physical backups. Who takes logical ones only needs none of it.
pub(crate) async fn diagnose(client: &Client, connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let version = catalog::version(connection).await?;
    if !(OLDEST_MAJOR..=NEWEST_MAJOR).contains(&version.major) {
        return Ok(Vec::new());
    }
    let server = Server::look(connection).await?;
    let missing = missing_functions(connection).await?;
    let mut findings = settings(client, &server, &missing, Level::Info);
    findings.retain(|finding| finding.level != Level::Ok);
    if findings.is_empty() {
        findings.push(Finding::new(
            Level::Ok,
            "physical_backup",
            format!("{} may make physical backups of the cluster", client.user()),
        ));
    }
    Ok(findings)
}

/// What the role and the server lack; how bad it is depends on whether anybody wants a physical backup.
fn settings(client: &Client, server: &Server, missing: &[&str], level: Level) -> Vec<Finding> {
    let user = client.user();
    let mut findings = Vec::new();
    let mut found = |level: Level, check: &str, message: String, mend: String| {
        findings.push(Finding::new(level, check, message).with_mend(mend));
    };
    if !missing.is_empty() {
        found(
            level,
            "physical_backup",
            format!("{user} may not execute {} of the functions that a physical backup needs", missing.len()),
            grants(missing, client),
        );
    }
    if client.pgbouncer {
        let error = pooled();
        found(level, "pooler", error.to_string(), error.hint().unwrap_or_default().to_owned());
    }
    if !server.facts.full_page_writes {
        found(
            level,
            "full_page_writes",
            "full_page_writes is off: a physical backup could not be made whole".to_owned(),
            "set full_page_writes = on and reload the server".to_owned(),
        );
    }
    if server.facts.wal_level == "minimal" {
        found(
            level,
            "wal_level",
            "wal_level is minimal: the log does not have what a physical backup needs".to_owned(),
            "set wal_level = replica and restart the server".to_owned(),
        );
    }
    let lesser = if level == Level::Error { Level::Warning } else { Level::Info };
    if !server.facts.replication && server.facts.wal_keep_megabytes >= 0 {
        found(
            lesser,
            "replication",
            format!(
                "{user} has not the attribute REPLICATION, so nothing holds the log during a physical backup; the server keeps {} MB of it anyway",
                server.facts.wal_keep_megabytes
            ),
            format!("ALTER ROLE {} REPLICATION, or raise wal_keep_size", quote_ident(user)),
        );
    }
    if !server.facts.hints_logged {
        found(
            Level::Info,
            "data_checksums",
            "the server has neither data checksums nor wal_log_hints: corrupt pages cannot be seen, and without WAL summaries an incremental physical backup reads and compares everything".to_owned(),
            "pg_checksums --enable on the stopped server".to_owned(),
        );
    }
    if server.version.major >= 17 && !server.facts.summarize_wal {
        found(
            Level::Info,
            "summarize_wal",
            "summarize_wal is off: an incremental physical backup has to read everything".to_owned(),
            "set summarize_wal = on and reload the server".to_owned(),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::new(Level::Ok, "privileges", format!("{user} may copy the cluster's files")));
    }
    findings
}
