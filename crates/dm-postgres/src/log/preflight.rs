//! Whether following would work, before anything is made.

use dm_core::{Finding, Level, LogRequest, OpContext, Result};
use sqlx::postgres::PgConnection;

use super::holder;
use crate::catalog::{self, OLDEST_MAJOR};
use crate::client::Client;
use crate::error::reading;
use crate::session::{close, open_pinned};

/// What must be granted, in the database connected to.
const FUNCTIONS: [&str; 3] = [
    "pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)",
    "pg_catalog.pg_stat_file(text,boolean)",
    "pg_catalog.pg_ls_dir(text,boolean,boolean)",
];

pub(super) async fn look(ctx: &OpContext, client: &Client, request: &LogRequest) -> Result<Vec<Finding>> {
    let mut connection = open_pinned(ctx, client).await?;
    let findings = ctx.run(Box::pin(examine(client, &mut connection, request))).await;
    close(connection).await;
    findings
}

async fn examine(
    client: &Client,
    connection: &mut PgConnection,
    request: &LogRequest,
) -> Result<Vec<Finding>> {
    let version = catalog::version(connection).await?;
    if version.major < OLDEST_MAJOR {
        let found = Finding::new(
            Level::Error,
            "server_version",
            format!("the server is PostgreSQL {}", version.text),
        )
        .with_mend(format!("PostgreSQL {OLDEST_MAJOR} is the oldest whose log can be shipped"));
        return Ok(vec![found]);
    }
    let mut findings = vec![Finding::new(
        Level::Ok,
        "reachable",
        format!("{} answers, PostgreSQL {}", client.location(), version.text),
    )];
    findings.extend(client.transport());
    if client.pgbouncer {
        findings.push(
            Finding::new(Level::Error, "pooler", "the url says that a transaction pooler stands between")
                .with_mend(
                    "give the shipping of logs a url of the server itself: it needs one session from end to end",
                ),
        );
    }
    findings.push(functions(client, connection).await?);
    findings.push(wal_level(connection).await?);
    findings.extend(slot(client, connection, &request.holder).await?);
    findings.extend(standby(client, connection).await?);
    Ok(findings)
}

async fn functions(client: &Client, connection: &mut PgConnection) -> Result<Finding> {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT f FROM unnest($1::text[]) f WHERE NOT pg_catalog.has_function_privilege(f, 'EXECUTE')",
    )
    .bind(FUNCTIONS.map(str::to_owned).to_vec())
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    let user = client.user();
    if missing.is_empty() {
        return Ok(Finding::new(Level::Ok, "privileges", format!("{user} may read the server's log")));
    }
    let grants: Vec<String> =
        missing.iter().map(|f| format!("GRANT EXECUTE ON FUNCTION {f} TO {user}")).collect();
    Ok(Finding::new(Level::Error, "privileges", format!("{user} may not read the server's log"))
        .with_mend(format!("in the database {}: {}", client.database, grants.join("; "))))
}

async fn wal_level(connection: &mut PgConnection) -> Result<Finding> {
    let level: String = setting(connection, "wal_level").await?;
    Ok(match level.as_str() {
        "minimal" => Finding::new(
            Level::Error,
            "wal_level",
            "wal_level is minimal: the log lacks what a restore needs",
        )
        .with_mend("set wal_level = replica and restart the server"),
        _ => Finding::new(Level::Ok, "wal_level", format!("wal_level is {level}")),
    })
}

async fn slot(client: &Client, connection: &mut PgConnection, name: &str) -> Result<Vec<Finding>> {
    let user = client.user();
    if !holder::may_hold(connection).await? {
        return Ok(vec![
            Finding::new(
                Level::Warning,
                "holder",
                format!(
                    "{user} may not make replication slots: the server may remove log before it is shipped"
                ),
            )
            .with_mend(format!("ALTER ROLE {user} REPLICATION, or raise wal_keep_size")),
        ]);
    }
    let mut findings = Vec::new();
    match holder::find(connection, name).await? {
        Some(slot) if !slot.physical => findings.push(
            Finding::new(Level::Error, "holder", format!("the replication slot \"{name}\" is a logical one"))
                .with_mend("choose another name for the slot"),
        ),
        Some(slot) if slot.lost => findings.push(
            Finding::new(
                Level::Warning,
                "holder",
                format!("the server has given up the slot \"{name}\": log may be missing"),
            )
            .with_mend("shipping makes it anew; take a base backup when a gap is reported"),
        ),
        Some(_) if holder::in_use(connection, name).await? => findings.push(
            Finding::new(Level::Error, "holder", format!("somebody else uses the slot \"{name}\" just now"))
                .with_mend("end the other one, or choose another name for the slot"),
        ),
        Some(_) => findings.push(Finding::new(Level::Ok, "holder", format!("the slot \"{name}\" is there"))),
        None => findings.push(room(connection, name).await?),
    }
    let limit: String = setting(connection, "max_slot_wal_keep_size").await?;
    if limit == "-1" {
        findings.push(
            Finding::new(
                Level::Info,
                "holder_limit",
                "the server keeps log without limit while shipping stands still",
            )
            .with_mend("watch the disk, or set max_slot_wal_keep_size: then the log gets a gap instead"),
        );
    }
    Ok(findings)
}

async fn room(connection: &mut PgConnection, name: &str) -> Result<Finding> {
    let free: i64 = sqlx::query_scalar(
        "SELECT pg_catalog.current_setting('max_replication_slots')::int8
              - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    Ok(match free > 0 {
        true => Finding::new(Level::Ok, "holder", format!("the slot \"{name}\" will be made")),
        false => Finding::new(Level::Error, "holder", "every replication slot of the server is taken")
            .with_mend("raise max_replication_slots, or drop a slot that nobody needs"),
    })
}

async fn standby(client: &Client, connection: &mut PgConnection) -> Result<Option<Finding>> {
    let (standby, may_see): (bool, bool) = sqlx::query_as(
        "SELECT pg_catalog.pg_is_in_recovery(),
                pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    let user = client.user();
    Ok(match (standby, may_see) {
        (false, _) => None,
        (true, true) => Some(Finding::new(
            Level::Info,
            "standby",
            "the server is a standby: its log ends a little behind the primary's",
        )),
        (true, false) => Some(
            Finding::new(
                Level::Error,
                "standby",
                format!("the server is a standby, and {user} may not see what it receives"),
            )
            .with_mend(format!("GRANT pg_read_all_stats TO {user}, or follow the primary")),
        ),
    })
}

async fn setting(connection: &mut PgConnection, name: &str) -> Result<String> {
    sqlx::query_scalar("SELECT pg_catalog.current_setting($1)")
        .bind(name)
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)
}
