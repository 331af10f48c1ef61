//! What a doctor wants to know.

use dm_core::{Finding, Level, OpContext, Result};
use sqlx::postgres::PgConnection;

use crate::backup;
use crate::catalog::{self, OLDEST_MAJOR};
use crate::client::Client;
use crate::error::reading;
use crate::physical;
use crate::selection::listed;
use crate::session::{close, open_pinned};

/// Looks at everything; what cannot be looked at is a finding too.
pub(crate) async fn diagnose(ctx: &OpContext, client: &Client) -> Vec<Finding> {
    let mut connection = match open_pinned(ctx, client).await {
        Ok(connection) => connection,
        Err(error) => {
            let finding = Finding::new(Level::Error, "reachable", error.full_message());
            return vec![match error.hint() {
                Some(hint) => finding.with_mend(hint),
                None => finding,
            }];
        }
    };
    let mut findings = Vec::new();
    if let Err(error) = ctx.run(Box::pin(examine(ctx, client, &mut connection, &mut findings))).await {
        findings.push(Finding::new(Level::Error, "examination", error.full_message()));
    }
    close(connection).await;
    findings
}

async fn examine(
    ctx: &OpContext,
    client: &Client,
    connection: &mut PgConnection,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let version = catalog::version(connection).await?;
    findings.push(Finding::new(Level::Ok, "reachable", format!("{} answers", client.location())));
    findings.push(match version.major < OLDEST_MAJOR {
        true => {
            Finding::new(Level::Error, "server_version", format!("PostgreSQL {} is too old", version.text))
                .with_mend(format!("PostgreSQL {OLDEST_MAJOR} is the oldest that is supported"))
        }
        false => Finding::new(Level::Ok, "server_version", format!("PostgreSQL {}", version.text)),
    });
    if version.major < OLDEST_MAJOR {
        return Ok(());
    }
    findings.extend(client.transport());
    findings.push(backup::client_tools(ctx, client, version.major).await);
    let user = client.user();
    let relations = catalog::relations(connection).await?;
    let unreadable: Vec<String> = relations
        .iter()
        .filter(|r| r.has_rows() && (!r.readable || r.filtered))
        .map(|r| r.display.clone())
        .collect();
    findings.push(match unreadable.is_empty() {
        true => Finding::new(Level::Ok, "privileges", format!("{user} may read every table")),
        false => Finding::new(
            Level::Error,
            "privileges",
            format!("{user} may not read all of {}", listed(&unreadable)),
        )
        .with_mend(format!(
            "GRANT pg_read_all_data TO {user} (PostgreSQL 14 and later); row security needs BYPASSRLS"
        )),
    });
    let (superuser, may_create): (bool, bool) = sqlx::query_as(
        "SELECT rolsuper, rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    findings.push(match may_create {
        true => Finding::new(Level::Ok, "create_database", format!("{user} may create databases")),
        false => Finding::new(Level::Warning, "create_database", format!("{user} may not create databases"))
            .with_mend(format!("restores need it: ALTER ROLE {user} CREATEDB")),
    });
    if !superuser {
        findings.push(Finding::new(
            Level::Info,
            "globals",
            format!("{user} is no superuser: owners other than itself cannot be restored, and some roles' settings may be missing from a backup"),
        ));
    }
    findings.push(backup::connections(connection, 2).await?);
    findings.extend(physical::diagnose(client, connection).await?);
    let wal: Option<String> = sqlx::query_scalar("SELECT pg_catalog.current_setting('wal_level', true)")
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)?;
    let wal = wal.unwrap_or_else(|| "unknown".to_owned());
    findings.push(Finding::new(
        Level::Info,
        "wal_level",
        format!("wal_level is {wal}; logical backups do not depend on it"),
    ));
    let standby: bool = sqlx::query_scalar("SELECT pg_catalog.pg_is_in_recovery()")
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)?;
    if standby {
        findings.push(
            Finding::new(
                Level::Warning,
                "standby",
                "the server is a standby: a long backup may be cancelled by recovery",
            )
            .with_mend(
                "raise max_standby_streaming_delay or set hot_standby_feedback, or back up the primary",
            ),
        );
    }
    Ok(())
}
