//! What the restored server says of itself.

use std::path::Path;

use dm_core::{Finding, Level, OpContext, Progress, Result};
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row as _};

use super::plan::Plan;
use super::programs::Programs;
use crate::client::Client;
use crate::error::reading;
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::sql::{dynamic, qualified};

/// How many relations one transaction checks.
const RELATIONS: usize = 500;

/// Every database connects, and none has an index that is no good.
pub(super) async fn standard(ctx: &OpContext, client: &Client, major: u32) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let names = databases(ctx, client).await?;
    let mut opened = 0usize;
    for name in &names {
        ctx.check()?;
        let mut connection = match open_pinned(ctx, &client.on_database(name)).await {
            Ok(connection) => connection,
            Err(error) => {
                ctx.check()?;
                findings.push(Finding::new(
                    Level::Error,
                    "database",
                    format!("{name} cannot be opened: {error}"),
                ));
                continue;
            }
        };
        opened += 1;
        let invalid: Vec<String> = sqlx::query_scalar(
            "SELECT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i
              WHERE NOT i.indisvalid OR NOT i.indisready ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .map_err(reading)?;
        if !invalid.is_empty() {
            findings.push(
                Finding::new(
                    Level::Warning,
                    "indexes",
                    format!("{name} has indexes that were invalid on the source: {}", listed(&invalid)),
                )
                .with_mend("drop them or REINDEX"),
            );
        }
        close(connection).await;
    }
    findings.push(Finding::new(
        Level::Ok,
        "databases",
        format!("{opened} of {} databases open", names.len()),
    ));
    let mut connection = open_pinned(ctx, client).await?;
    if major >= 15 {
        let other: Vec<String> = sqlx::query_scalar(
            "SELECT datname::text FROM pg_catalog.pg_database
              WHERE datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid)
                AND datcollversion IS NOT NULL ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .map_err(reading)?;
        if !other.is_empty() {
            findings.push(
                Finding::new(
                    Level::Warning,
                    "collations",
                    format!("this machine sorts differently from the source in {}", listed(&other)),
                )
                .with_mend("REINDEX the indexes on text, then ALTER DATABASE ... REFRESH COLLATION VERSION"),
            );
        }
    }
    let prepared: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_catalog.pg_prepared_xacts")
        .fetch_one(&mut connection)
        .await
        .map_err(reading)?;
    if prepared > 0 {
        findings.push(
            Finding::new(
                Level::Warning,
                "prepared_transactions",
                format!(
                    "{prepared} prepared transactions were open at that point and still hold their locks"
                ),
            )
            .with_mend("COMMIT PREPARED or ROLLBACK PREPARED each: pg_prepared_xacts lists them"),
        );
    }
    close(connection).await;
    Ok(findings)
}

/// The databases that take connections.
pub(super) async fn databases(ctx: &OpContext, client: &Client) -> Result<Vec<String>> {
    let mut connection = open_pinned(ctx, client).await?;
    let names =
        sqlx::query_scalar("SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .map_err(reading)?;
    close(connection).await;
    Ok(names)
}

/// Reads everything: indexes against tables and tables page by page with `amcheck`, or, where that is not installed, the
/// rows alone.
pub(super) async fn deep(ctx: &OpContext, client: &Client) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (mut relations, mut without) = (0usize, false);
    for name in databases(ctx, client).await? {
        let place = client.on_database(&name);
        let mut connection = open_pinned(ctx, &place).await?;
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck')",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(reading)?;
        ctx.progress(Progress::Item(name.clone()));
        relations += match there {
            true => amcheck(ctx, &mut connection, &name, &mut findings).await?,
            false => {
                without = true;
                read_rows(ctx, &mut connection, &name, &mut findings).await?
            }
        };
        close(connection).await;
    }
    findings.push(match without {
        false => Finding::new(Level::Ok, "amcheck", format!("{relations} tables and indexes were checked")),
        true => Finding::new(
            Level::Info,
            "amcheck",
            format!("the server has no amcheck: the rows of {relations} tables were read instead, indexes were not checked"),
        )
        .with_mend("install the server's contrib modules"),
    });
    Ok(findings)
}

/// The extension is made in a transaction that is rolled back: the restored database stays as it was.
async fn amcheck(
    ctx: &OpContext,
    connection: &mut PgConnection,
    database: &str,
    findings: &mut Vec<Finding>,
) -> Result<usize> {
    let rows = sqlx::query(
        "SELECT c.oid::int8, c.relkind::text, c.relname::text, n.nspname::text,
                COALESCE(a.amname = 'btree', false) AS btree
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
           LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
          WHERE c.relpersistence = 'p'
            AND ((c.relkind IN ('r', 'm', 't', 'S') AND (c.relkind = 'S' OR a.amname = 'heap'))
                 OR (c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready))
            -- Sequences have had a check of their own only since 17.
            AND (c.relkind <> 'S' OR pg_catalog.current_setting('server_version_num')::int >= 170000)
          ORDER BY c.oid",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    let mut checked = 0;
    for batch in rows.chunks(RELATIONS) {
        connection.execute("BEGIN").await.map_err(reading)?;
        let schema: Option<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_catalog.pg_extension e
               JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'",
        )
        .fetch_optional(&mut *connection)
        .await
        .map_err(reading)?;
        let schema = match schema {
            Some(schema) => schema,
            None => {
                connection.execute("CREATE EXTENSION amcheck SCHEMA pg_catalog").await.map_err(reading)?;
                "pg_catalog".to_owned()
            }
        };
        for row in batch {
            ctx.check()?;
            let (oid, kind): (i64, String) = (row.get(0), row.get(1));
            let relation = format!("{}.{} of {database}", row.get::<String, _>(3), row.get::<String, _>(2));
            let result = ctx
                .run(async { Ok(one(connection, &schema, oid, row.get::<bool, _>(4) && kind == "i").await) })
                .await?;
            checked += 1;
            if let Some(message) = result? {
                findings.push(
                    Finding::new(Level::Error, "amcheck", format!("{relation}: {message}")).with_mend(
                        "the backup holds it like this: restore another one, or REINDEX or dump what is left",
                    ),
                );
            }
        }
        connection.execute("ROLLBACK").await.map_err(reading)?;
    }
    Ok(checked)
}

/// What is wrong with one relation. Each in a savepoint: an error is a finding.
async fn one(connection: &mut PgConnection, schema: &str, oid: i64, index: bool) -> Result<Option<String>> {
    connection.execute("SAVEPOINT one").await.map_err(reading)?;
    let text = match index {
        true => format!("SELECT {}($1::pg_catalog.oid::pg_catalog.regclass, true)", qualified(schema, "bt_index_check")),
        false => format!(
            "SELECT pg_catalog.string_agg(pg_catalog.format('block %s, item %s, column %s: %s', blkno, offnum, attnum, msg), '; ')
               FROM (SELECT * FROM {}($1::pg_catalog.oid::pg_catalog.regclass) LIMIT 3) x",
            qualified(schema, "verify_heapam")
        ),
    };
    let query = sqlx::query(dynamic(text)).bind(oid);
    match query.fetch_one(&mut *connection).await {
        Ok(row) => {
            connection.execute("RELEASE one").await.map_err(reading)?;
            Ok(if index { None } else { row.try_get::<Option<String>, _>(0).map_err(reading)? })
        }
        Err(error) if error.as_database_error().is_some() => {
            connection.execute("ROLLBACK TO one").await.map_err(reading)?;
            Ok(Some(reading(error).to_string()))
        }
        Err(error) => Err(reading(error)),
    }
}

/// Reads every row of every table, and whatever is stored out of line.
async fn read_rows(
    ctx: &OpContext,
    connection: &mut PgConnection,
    database: &str,
    findings: &mut Vec<Finding>,
) -> Result<usize> {
    use futures::TryStreamExt as _;
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated ORDER BY c.oid",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    for (schema, name) in &tables {
        let name = qualified(schema, name);
        let read: Result<()> = ctx
            .run(async {
                let text = format!("COPY (SELECT * FROM ONLY {name}) TO STDOUT");
                let mut rows = connection.copy_out_raw(&text).await.map_err(reading)?;
                while rows.try_next().await.map_err(reading)?.is_some() {}
                Ok(())
            })
            .await;
        if let Err(error) = read {
            ctx.check()?;
            if error.kind() == dm_core::ErrorKind::Unreachable {
                return Err(error);
            }
            findings.push(Finding::new(Level::Error, "rows", format!("{name} of {database}: {error}")));
        }
    }
    Ok(tables.len())
}

/// Every page against its checksum. The server must be down.
pub(super) async fn checksums(
    ctx: &OpContext,
    programs: &Programs,
    plan: &Plan,
    data: &Path,
) -> Result<Finding> {
    if !programs.has("pg_checksums") {
        return Ok(Finding::new(
            Level::Warning,
            "checksums",
            "there is no pg_checksums to verify the pages with",
        )
        .with_mend("install all of the server's programs"));
    }
    let arguments = ["--check".as_ref(), "-D".as_ref(), data.as_os_str()];
    let finished = programs.run(ctx, "pg_checksums", plan.user.as_ref(), arguments).await?;
    let said = String::from_utf8_lossy(&finished.stdout).into_owned();
    let number = |name: &str| said.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned()));
    let first = finished.stderr.lines().next().unwrap_or_default();
    Ok(match (finished.success, number("Blocks scanned:"), number("Bad checksums:")) {
        (true, Some(blocks), _) => {
            Finding::new(Level::Ok, "checksums", format!("{blocks} blocks have their checksum"))
        }
        (false, _, Some(bad)) => Finding::new(
            Level::Error,
            "checksums",
            format!("{bad} blocks do not have their checksum: {first}"),
        )
        .with_mend("restore another backup"),
        // It did not look at all.
        _ => Finding::new(Level::Error, "checksums", format!("pg_checksums verifies nothing: {first}"))
            .with_mend("see to the server's programs, or restore with standard checks"),
    })
}
