//! Shadow databases: made for a moment beside the live one, or given.
//!
//! A given database is emptied, so it must be empty at first, and is marked by its comment from then on. Whether it is the live
//! database after all is asked of the server, not of the URLs: an advisory lock taken in the one must not be seen in the other.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use dm_core::{
    Error, ErrorKind, OpContext, Result, SchemaSnapshot, Shadow, ShadowPlace, ShadowScript, TracedLock,
    TracedStatement,
};
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

use super::snapshot;
use crate::PostgresOptions;
use crate::catalog;
use crate::client::Client;
use crate::error::{reading, sqlstate, writing};
use crate::restore::create_like as create_database_like;
use crate::session::{close, open, open_control, open_pinned};
use crate::sql::{dynamic, quote_ident, quote_literal};

/// What the comment of a shadow database begins with.
const MARK: &str = "shadow database of data-manager";
const PREFIX: &str = "dm_shadow_";
/// A temporary one that was left behind is removed when it is this old.
const FORGOTTEN_SECONDS: i64 = 3600;

/// A shadow database and a session in it.
pub(super) struct PostgresShadow {
    client: Client,
    /// As scripts see the database.
    connection: PgConnection,
    /// The live server, for removing the temporary one.
    live: Client,
    temporary: bool,
}

impl PostgresShadow {
    pub(super) async fn make(ctx: &OpContext, live: &Client, place: &ShadowPlace) -> Result<Self> {
        let mut source = open_pinned(ctx, live).await?;
        let made = Box::pin(make(ctx, live, &mut source, place)).await;
        close(source).await;
        let (client, temporary) = made?;
        let connection = async {
            let mut connection = open(ctx, &client).await?;
            if let Some(schema) = &live.schema {
                let schema = quote_ident(schema);
                let text = format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}");
                ctx.run(run(&mut connection, text)).await?;
            }
            Ok(connection)
        };
        match connection.await {
            Ok(connection) => Ok(Self { client, connection, live: live.clone(), temporary }),
            Err(error) => {
                if temporary {
                    remove(ctx, live, &client.database).await?;
                }
                Err(error)
            }
        }
    }
}

async fn run(connection: &mut PgConnection, text: impl Into<String>) -> Result<()> {
    connection.execute(sqlx::raw_sql(dynamic(text))).await.map(drop).map_err(writing)
}

async fn make(
    ctx: &OpContext,
    live: &Client,
    source: &mut PgConnection,
    place: &ShadowPlace,
) -> Result<(Client, bool)> {
    let major = ctx.run(catalog::version(source)).await?.major;
    match place {
        ShadowPlace::Given(url) => {
            let client = Client::parse(url, PostgresOptions { pool_max: 1, ..live.options.clone() })?;
            let mut connection = open_pinned(ctx, &client).await?;
            let ready = ctx.run(take(ctx, &mut connection, source, &client, major)).await;
            close(connection).await;
            ready.map(|()| (client, false))
        }
        ShadowPlace::Temporary => {
            let properties = ctx.run(catalog::database_properties(source)).await?;
            let name = format!("{PREFIX}{}", ctx.run_id().as_uuid().simple());
            let mut control = open_control(ctx, live, &[]).await?;
            let made = ctx
                .run(async {
                    forget(&mut control).await?;
                    create_database_like(&mut control, &name, &properties, major).await?;
                    mark(&mut control, &name).await
                })
                .await;
            close(control).await;
            made.map_err(|e| match e.kind() {
                ErrorKind::Denied => e.with_hint(
                    "the role may not create databases: name an empty one of the same server version in SHADOW_DATABASE_URL",
                ),
                _ => e,
            })?;
            Ok((live.on_database(&name), true))
        }
    }
}

async fn mark(connection: &mut PgConnection, database: &str) -> Result<()> {
    let now: i64 = sqlx::query_scalar("SELECT extract(epoch FROM pg_catalog.clock_timestamp())::int8")
        .fetch_one(&mut *connection)
        .await
        .map_err(reading)?;
    let comment = quote_literal(&format!("{MARK} since {now}"));
    run(connection, format!("COMMENT ON DATABASE {} IS {comment}", quote_ident(database))).await
}

/// Removes temporary ones of runs that died.
async fn forget(control: &mut PgConnection) -> Result<()> {
    let old: Vec<String> = sqlx::query_scalar(
        "SELECT d.datname::text FROM pg_catalog.pg_database d
          WHERE pg_catalog.starts_with(d.datname::text, $1)
            AND pg_catalog.substring(pg_catalog.shobj_description(d.oid, 'pg_database'), '^' || $2 || ' since ([0-9]+)$')::int8
                < extract(epoch FROM pg_catalog.clock_timestamp())::int8 - $3
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)",
    )
    .bind(PREFIX)
    .bind(MARK)
    .bind(FORGOTTEN_SECONDS)
    .fetch_all(&mut *control)
    .await
    .map_err(reading)?;
    for name in old {
        // Another run may remove it at the same time.
        if let Err(error) = run(control, format!("DROP DATABASE IF EXISTS {}", quote_ident(&name))).await {
            tracing::warn!(%error, database = name, "a shadow database of a run that died cannot be removed");
        }
    }
    Ok(())
}

/// Makes sure that a given database may be emptied, and empties it.
async fn take(
    ctx: &OpContext,
    connection: &mut PgConnection,
    live: &mut PgConnection,
    client: &Client,
    live_major: u32,
) -> Result<()> {
    let major = catalog::version(connection).await?.major;
    if major != live_major {
        return Err(Error::invalid(format!(
            "the shadow database is of PostgreSQL {major}, the live one of {live_major}: they describe objects differently"
        ))
        .with_hint("name a shadow database on a server of the same major version"));
    }
    if is_same(ctx, connection, live).await? {
        return Err(Error::invalid("the shadow database is the live database")
            .about(client.location())
            .with_hint("name another, empty database in SHADOW_DATABASE_URL: its content is removed"));
    }
    let marked: bool = sqlx::query_scalar(
        "SELECT coalesce(pg_catalog.starts_with(pg_catalog.shobj_description(oid, 'pg_database'), $1), false)
           FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
    )
    .bind(MARK)
    .fetch_one(&mut *connection)
    .await
    .map_err(reading)?;
    if !marked {
        let found = snapshot::read(connection, &[]).await?;
        let known = |title: &str| title == "schema public" || title.starts_with("grant SCHEMA public");
        if let Some(object) =
            found.objects.iter().find(|o| !known(&o.title()) && !o.name.starts_with("schema public"))
        {
            return Err(Error::invalid(format!(
                "the shadow database is not empty: it has the {}",
                object.title()
            ))
            .about(client.location())
            .with_hint("its content would be removed; name an empty database in SHADOW_DATABASE_URL"));
        }
        mark(connection, &client.database).await?;
    }
    empty(connection, major).await
}

/// Whether two sessions are in one database, by whatever names they came there.
async fn is_same(ctx: &OpContext, one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    // The random half of the run's id.
    let key = ctx.run_id().as_uuid().as_u64_pair().1.cast_signed();
    sqlx::query("SELECT pg_catalog.pg_advisory_lock($1)")
        .bind(key)
        .execute(&mut *other)
        .await
        .map_err(reading)?;
    let seen = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
          WHERE l.locktype = 'advisory' AND d.datname = pg_catalog.current_database()
            AND l.classid::int8 = ($1::int8 >> 32) & 4294967295 AND l.objid::int8 = $1::int8 & 4294967295)",
    )
    .bind(key)
    .fetch_one(&mut *one)
    .await
    .map_err(reading);
    sqlx::query("SELECT pg_catalog.pg_advisory_unlock($1)")
        .bind(key)
        .execute(&mut *other)
        .await
        .map_err(reading)?;
    seen
}

/// Removes everything that scripts make.
async fn empty(connection: &mut PgConnection, major: u32) -> Result<()> {
    let statements: Vec<String> = sqlx::query_scalar(include_str!("../sql/schema/empty.sql"))
        .fetch_all(&mut *connection)
        .await
        .map_err(reading)?;
    for statement in statements {
        run(connection, statement).await?;
    }
    // As initdb makes it.
    let (owner, rights) = match major {
        ..15 => ("CURRENT_USER", "ALL"),
        _ => ("pg_database_owner", "USAGE"),
    };
    run(
        connection,
        format!(
            "CREATE SCHEMA public AUTHORIZATION {owner}; GRANT {rights} ON SCHEMA public TO PUBLIC; \
             COMMENT ON SCHEMA public IS 'standard public schema'"
        ),
    )
    .await
}

async fn remove(ctx: &OpContext, live: &Client, name: &str) -> Result<()> {
    let mut control = open_control(ctx, live, &[name]).await?;
    let removed = ctx
        .run(run(&mut control, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name))))
        .await;
    close(control).await;
    removed.map_err(|e| e.about(name).with_hint(format!("drop the database {name} by hand")))
}

/// Statements on what all databases of a server share. Trying them would change the live one's server.
fn is_server_wide(statement: &str) -> bool {
    let words: Vec<String> = statement.split_whitespace().take(3).map(str::to_uppercase).collect();
    let word = |n: usize| words.get(n).map_or("", String::as_str).trim_end_matches(';');
    match word(0) {
        "CREATE" | "ALTER" | "DROP" => {
            matches!(
                word(1),
                "ROLE" | "USER" | "GROUP" | "DATABASE" | "TABLESPACE" | "SYSTEM" | "SUBSCRIPTION"
            ) && !(word(1) == "USER" && word(2) == "MAPPING")
        }
        "COMMENT" => matches!(word(2), "ROLE" | "DATABASE" | "TABLESPACE"),
        "REASSIGN" => true,
        _ => false,
    }
}

#[async_trait]
impl Shadow for PostgresShadow {
    fn location(&self) -> String {
        self.client.location()
    }

    async fn replay(
        &mut self,
        ctx: &OpContext,
        script: &ShadowScript,
        trace: bool,
    ) -> Result<Vec<TracedStatement>> {
        let connection = &mut self.connection;
        // A statement that is traced has a transaction of its own: a lock is held to the end of its transaction, and the next
        // statement that takes it again could not be told.
        let whole = script.transaction && !trace;
        let mut traced = Vec::with_capacity(script.statements.len());
        ctx.run(async {
            if whole {
                run(connection, "BEGIN").await?;
            }
            let mut own = false;
            for (line, statement) in &script.statements {
                let skipped = is_server_wide(statement);
                let first = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
                match first.trim_end_matches(';') {
                    "BEGIN" | "START" => own = true,
                    "COMMIT" | "END" | "ROLLBACK" | "ABORT" => own = false,
                    _ => {}
                }
                let about = |e: Error| e.about(format!("{}:{line}", script.name));
                let locks = match (skipped, trace && !own && first != "SET") {
                    (true, _) => None,
                    (false, true) => watched(connection, statement).await.map_err(about)?,
                    (false, false) => {
                        run(connection, statement.as_str()).await.map_err(about)?;
                        None
                    }
                };
                traced.push(TracedStatement { line: *line, statement: statement.clone(), locks, skipped });
            }
            if whole {
                run(connection, "COMMIT").await.map_err(|e| e.about(script.name.clone()))?;
            }
            Ok(())
        })
        .await?;
        Ok(traced)
    }

    async fn snapshot(&mut self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot> {
        // The scripts' session may have settings of its own.
        let mut connection = open_pinned(ctx, &self.client).await?;
        let read = ctx.run(snapshot::read(&mut connection, leave_out)).await;
        close(connection).await;
        read
    }

    async fn close(self: Box<Self>, ctx: &OpContext) -> Result<()> {
        close(self.connection).await;
        match self.temporary {
            true => remove(ctx, &self.live, &self.client.database).await,
            false => Ok(()),
        }
    }
}

/// Relations by number: name, file.
async fn relations(connection: &mut PgConnection) -> Result<BTreeMap<i64, (String, i64)>> {
    let rows = connection
        .fetch_all(
            "SELECT c.oid::int8 AS oid, CASE n.nspname WHEN 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END AS name,
                    coalesce(pg_catalog.pg_relation_filenode(c.oid)::int8, 0) AS file
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
        )
        .await
        .map_err(reading)?;
    rows.iter()
        .map(|row| {
            Ok((
                row.try_get("oid").map_err(reading)?,
                (row.try_get("name").map_err(reading)?, row.try_get("file").map_err(reading)?),
            ))
        })
        .collect()
}

/// Runs a statement in a transaction of its own and looks at its locks; `None` when it has to run outside of one.
async fn watched(connection: &mut PgConnection, statement: &str) -> Result<Option<Vec<TracedLock>>> {
    let before = relations(connection).await?;
    run(connection, "BEGIN").await?;
    if let Err(error) = connection.execute(sqlx::raw_sql(dynamic(statement))).await {
        run(connection, "ROLLBACK").await?;
        // active_sql_transaction: cannot run inside a transaction block
        if sqlstate(&error).as_deref() != Some("25001") {
            return Err(writing(error));
        }
        run(connection, statement).await?;
        return Ok(None);
    }
    let held: Vec<(i64, String)> = sqlx::query_as(
        "SELECT relation::int8, mode FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation'",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    let after = relations(connection).await?;
    run(connection, "COMMIT").await?;
    let mut strongest: BTreeMap<i64, &'static str> = BTreeMap::new();
    for (relation, mode) in held {
        let (Some(mode), true) = (mode_name(&mode), before.contains_key(&relation)) else { continue };
        let known = strongest.entry(relation).or_insert(mode);
        if strength(mode) > strength(known) {
            *known = mode;
        }
    }
    let rewritten: BTreeSet<i64> = before
        .iter()
        .filter(|(oid, (_, file))| after.get(oid).is_some_and(|(_, now)| now != file))
        .map(|(oid, _)| *oid)
        .collect();
    let mut locks: Vec<TracedLock> = strongest
        .into_iter()
        .filter_map(|(oid, mode)| {
            let (name, _) = before.get(&oid)?;
            Some(TracedLock {
                object: name.clone(),
                mode: mode.to_owned(),
                rewritten: rewritten.contains(&oid),
            })
        })
        .collect();
    locks.sort_by(|a, b| (strength(&b.mode), &a.object).cmp(&(strength(&a.mode), &b.object)));
    Ok(Some(locks))
}

/// The modes, weakest first, as the catalog and as SQL names them.
const MODES: [(&str, &str); 8] = [
    ("AccessShareLock", "ACCESS SHARE"),
    ("RowShareLock", "ROW SHARE"),
    ("RowExclusiveLock", "ROW EXCLUSIVE"),
    ("ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
    ("ShareLock", "SHARE"),
    ("ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
    ("ExclusiveLock", "EXCLUSIVE"),
    ("AccessExclusiveLock", "ACCESS EXCLUSIVE"),
];

fn mode_name(catalog: &str) -> Option<&'static str> {
    MODES.iter().find(|(c, _)| *c == catalog).map(|(_, sql)| *sql)
}

fn strength(mode: &str) -> usize {
    MODES.iter().position(|(_, sql)| *sql == mode).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::is_server_wide;

    #[test]
    fn what_all_databases_share_is_not_tried() {
        for statement in [
            "create role x",
            "ALTER\n SYSTEM SET a = 1",
            "DROP DATABASE d;",
            "COMMENT ON ROLE x IS 'y'",
            "CREATE USER x",
        ] {
            assert!(is_server_wide(statement), "{statement}");
        }
        for statement in [
            "CREATE USER MAPPING FOR x SERVER y",
            "ALTER TABLE role ADD x int",
            "COMMENT ON TABLE role IS 'x'",
            "GRANT SELECT ON t TO x",
        ] {
            assert!(!is_server_wide(statement), "{statement}");
        }
    }
}
