//! Installing, looking, removing.

use chrono::DateTime;
use dm_core::{CaptureRequest, CaptureStatus, CapturedTable, Error, Result, TableName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row};

use super::{SCHEMA, is_installed, not_installed};
use crate::error::{reading, writing};
use crate::sql::{dynamic, qualified, quote_ident, quote_literal};

const OBJECTS: &str = include_str!("../sql/capture/objects.sql");
const RECORD_ALL: &str = include_str!("../sql/capture/record_all.sql");
const RECORD_SOME: &str = include_str!("../sql/capture/record_some.sql");
const WITHOUT: &str = include_str!("../sql/capture/without.sql");
const FOLLOW: &str = include_str!("../sql/capture/follow.sql");

/// Each function: its name, its signature, its language with its rights, its text.
const FUNCTIONS: [(&str, &str, &str, &str); 4] = [
    ("without", "(whole jsonb, captured dm_capture.tables) RETURNS jsonb", "plpgsql STABLE", WITHOUT),
    ("record_all", "() RETURNS trigger", "plpgsql SECURITY DEFINER", RECORD_ALL),
    ("record_some", "() RETURNS trigger", WITH_PATH, RECORD_SOME),
    ("follow", "() RETURNS event_trigger", WITH_PATH, FOLLOW),
];
const WITH_PATH: &str = "plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp";

/// Schemas whose tables are the system's own: recording them would record the recording.
const OURS: [&str; 4] = [SCHEMA, "data_manager", "pg_catalog", "information_schema"];

/// A registered table as it is now.
struct Installed {
    id: i32,
    relation: sqlx::postgres::types::Oid,
    table: TableName,
    now: Option<TableName>,
    columns: Vec<String>,
    columns_now: Vec<String>,
    captured: CapturedTable,
}

impl Installed {
    fn read(row: &PgRow) -> Result<Self> {
        let get = |column: &str| row.try_get::<Vec<String>, _>(column).map_err(reading);
        let text = |column: &str| row.try_get::<Option<String>, _>(column).map_err(reading);
        let table = TableName { schema: text("schema")?, name: text("name")?.unwrap_or_default() };
        let since: i64 = row.try_get("since").map_err(reading)?;
        Ok(Self {
            id: row.try_get("id").map_err(reading)?,
            relation: row.try_get("relation").map_err(reading)?,
            now: text("name_now")?
                .map(|name| Ok(TableName { schema: text("schema_now")?, name }))
                .transpose()?,
            columns: get("columns")?,
            columns_now: get("columns_now")?,
            captured: CapturedTable {
                table: table.clone(),
                exclude: get("excluded")?,
                mask: get("masked")?,
                digest: get("digested")?,
                since: DateTime::from_timestamp_micros(since)
                    .ok_or_else(|| Error::corrupt("a time of dm_capture.tables is out of the calendar"))?,
                problems: Vec::new(),
            },
            table,
        })
    }

    fn keeps_out(&self) -> bool {
        let captured = &self.captured;
        !(captured.exclude.is_empty() && captured.mask.is_empty() && captured.digest.is_empty())
    }
}

async fn installed(on: &mut PgConnection) -> Result<Vec<Installed>> {
    let rows =
        sqlx::query(include_str!("../sql/capture/installed.sql")).fetch_all(on).await.map_err(reading)?;
    rows.iter().map(Installed::read).collect()
}

/// A table as the catalog has it.
struct Found {
    relation: sqlx::postgres::types::Oid,
    schema: String,
    name: String,
    columns: Vec<String>,
}

async fn find(on: &mut PgConnection, table: &TableName, schema: Option<&str>) -> Result<Found> {
    let text = match table.schema.as_deref().or(schema) {
        Some(schema) => qualified(schema, &table.name),
        None => quote_ident(&table.name),
    };
    let row = sqlx::query(
        "SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
                c.relpersistence = 't' AS temporary,
                ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = pg_catalog.to_regclass($1)",
    )
    .bind(&text)
    .fetch_optional(on)
    .await
    .map_err(reading)?
    .ok_or_else(|| {
        Error::not_found(format!("there is no table {table}"))
            .with_hint("write schema.table; names are taken as they are written, in upper and lower case")
    })?;
    let get = |column: &str| row.try_get::<String, _>(column).map_err(reading);
    let found = Found {
        relation: row.try_get("oid").map_err(reading)?,
        schema: get("schema")?,
        name: get("name")?,
        columns: row.try_get("columns").map_err(reading)?,
    };
    let refused =
        |why: &str| Err(Error::unsupported(format!("the changes of {table} cannot be recorded: {why}")));
    if OURS.contains(&found.schema.as_str()) || found.schema.starts_with("pg_") {
        return refused("it is one of the system's own tables");
    }
    if row.try_get::<bool, _>("temporary").map_err(reading)? {
        return refused("it is temporary");
    }
    match get("kind")?.as_str() {
        "r" | "p" => Ok(found),
        "v" | "m" => refused("it is a view; record the tables below it"),
        "f" => refused("its rows are on another server; record them there"),
        _ => refused("it is not a table"),
    }
}

pub(super) async fn install(
    on: &mut PgConnection,
    request: &CaptureRequest,
    schema: Option<&str>,
) -> Result<CapturedTable> {
    let found = find(on, &request.table, schema).await?;
    request.check_columns(&found.columns)?;
    objects(on).await?;
    let before = installed(on).await?.into_iter().find(|t| t.relation == found.relation);
    if let Some(partition) = covered_by(on, found.relation).await? {
        return Err(Error::unsupported(format!(
            "{} is a partition of {partition}, whose changes are recorded already",
            request.table
        )));
    }
    let id = match &before {
        Some(before) => before.id,
        None => sqlx::query_scalar(
            "INSERT INTO dm_capture.tables (relation, schema, name, columns, excluded, masked, digested)
             VALUES ($1, $2, $3, $4, '{}', '{}', '{}') RETURNING id",
        )
        .bind(found.relation)
        .bind(&found.schema)
        .bind(&found.name)
        .bind(&found.columns)
        .fetch_one(&mut *on)
        .await
        .map_err(writing)?,
    };
    sqlx::query(
        "UPDATE dm_capture.tables SET schema = $2, name = $3, columns = $4, excluded = $5, masked = $6, digested = $7
          WHERE id = $1",
    )
    .bind(id)
    .bind(&found.schema)
    .bind(&found.name)
    .bind(&found.columns)
    .bind(&request.exclude)
    .bind(&request.mask)
    .bind(&request.digest)
    .execute(&mut *on)
    .await
    .map_err(writing)?;
    triggers(on, &found, id, request).await?;
    let now = installed(on).await?.into_iter().find(|t| t.id == id);
    let now = now.ok_or_else(|| Error::internal("a table that was just registered is not there"))?;
    examined(on, now).await
}

/// The schema, its tables and its functions, as this program has them.
async fn objects(on: &mut PgConnection) -> Result<()> {
    on.execute(OBJECTS).await.map_err(writing)?;
    for (name, signature, language, body) in FUNCTIONS {
        let body = quote_literal(body);
        let text =
            format!("CREATE OR REPLACE FUNCTION dm_capture.{name}{signature} LANGUAGE {language} AS {body}");
        on.execute(dynamic(text)).await.map_err(writing)?;
    }
    // Only a superuser may have the schema's changes watched; without that, installing again is what a new partition needs.
    if is_superuser(on).await? && !watches(on).await? {
        on.execute(
            "CREATE EVENT TRIGGER dm_capture_follow ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
             EXECUTE FUNCTION dm_capture.follow()",
        )
        .await
        .map_err(writing)?;
        on.execute("ALTER EVENT TRIGGER dm_capture_follow ENABLE ALWAYS").await.map_err(writing)?;
    }
    Ok(())
}

async fn is_superuser(on: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .fetch_one(on)
        .await
        .map_err(reading)
}

async fn watches(on: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'dm_capture_follow' AND evtenabled = 'A')",
    )
    .fetch_one(on)
    .await
    .map_err(reading)
}

/// The table above a partition whose recording covers it.
async fn covered_by(on: &mut PgConnection, relation: sqlx::postgres::types::Oid) -> Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT t.schema || '.' || t.name FROM dm_capture.tables t
           JOIN pg_catalog.pg_partition_ancestors($1::oid::regclass) a ON a.relid = t.relation
          WHERE NOT t.removed AND t.relation <> $1 LIMIT 1",
    )
    .bind(relation)
    .fetch_optional(on)
    .await
    .map_err(reading)
}

async fn triggers(on: &mut PgConnection, found: &Found, id: i32, request: &CaptureRequest) -> Result<()> {
    let all = request.exclude.is_empty() && request.mask.is_empty() && request.digest.is_empty();
    let function = if all { "record_all" } else { "record_some" };
    let id = quote_literal(&id.to_string());
    let table = qualified(&found.schema, &found.name);
    // The row trigger of a partitioned table is copied to every partition, now and later. OR REPLACE is for constraints
    // of none: replacing it also brings a disabled one back.
    let text = format!(
        "DROP TRIGGER IF EXISTS dm_capture_rows ON {table};
         CREATE TRIGGER dm_capture_rows AFTER INSERT OR UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION dm_capture.{function}({id});
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER dm_capture_rows"
    );
    on.execute(sqlx::raw_sql(dynamic(text))).await.map_err(writing)?;
    for (schema, name, rows, _) in relations(on, found.relation).await? {
        let table = qualified(&schema, &name);
        let rows = if rows { "" } else { "ENABLE ALWAYS TRIGGER dm_capture_rows, " };
        let text = format!(
            "DROP TRIGGER IF EXISTS dm_capture_truncate ON {table};
             CREATE TRIGGER dm_capture_truncate AFTER TRUNCATE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION dm_capture.record_all({id});
             ALTER TABLE {table} {rows}ENABLE ALWAYS TRIGGER dm_capture_truncate"
        );
        on.execute(sqlx::raw_sql(dynamic(text))).await.map_err(writing)?;
    }
    Ok(())
}

/// A table and its partitions, with which of the triggers are in force.
async fn relations(
    on: &mut PgConnection,
    relation: sqlx::postgres::types::Oid,
) -> Result<Vec<(String, String, bool, bool)>> {
    sqlx::query_as(include_str!("../sql/capture/triggers.sql"))
        .bind(relation)
        .fetch_all(on)
        .await
        .map_err(reading)
}

pub(super) async fn status(on: &mut PgConnection) -> Result<CaptureStatus> {
    let mut status = CaptureStatus::default();
    if !is_installed(on).await? {
        return Ok(status);
    }
    let mut partitioned = false;
    for table in installed(on).await? {
        partitioned |= relations(on, table.relation).await?.len() > 1;
        status.tables.push(examined(on, table).await?);
    }
    let (waiting, oldest): (i64, Option<i64>) = sqlx::query_as(
        "SELECT count(*), (extract(epoch FROM min(at) FILTER (WHERE isfinite(at))) * 1000000)::bigint
           FROM dm_capture.changes",
    )
    .fetch_one(&mut *on)
    .await
    .map_err(reading)?;
    status.waiting = u64::try_from(waiting).unwrap_or_default();
    status.oldest = oldest.and_then(DateTime::from_timestamp_micros);
    let found: Vec<(String, String)> = sqlx::query_as(
        "SELECT p.proname::text, p.prosrc FROM pg_catalog.pg_proc p
          WHERE p.pronamespace = pg_catalog.to_regnamespace('dm_capture')",
    )
    .fetch_all(&mut *on)
    .await
    .map_err(reading)?;
    for (name, _, _, body) in FUNCTIONS {
        if !found.iter().any(|(n, b)| n == name && b == body) {
            status.problems.push(format!(
                "the function {SCHEMA}.{name} is not as this program writes it: install any table again"
            ));
        }
    }
    if partitioned && !watches(on).await? {
        status.problems.push(
            "a partition that comes later is not watched for TRUNCATE: only a superuser can have that done by itself; \
             install the table again after adding one"
                .to_owned(),
        );
    }
    Ok(status)
}

/// What keeps a table's changes from being recorded as was asked for.
async fn examined(on: &mut PgConnection, table: Installed) -> Result<CapturedTable> {
    let mut problems = Vec::new();
    match &table.now {
        None => problems.push("the table is gone: remove its recording".to_owned()),
        Some(now) if *now != table.table => {
            problems.push(format!(
                "the table is called {now} now: install that one, and its changes go under that name"
            ));
        }
        Some(_) => {}
    }
    if table.now.is_some() {
        for column in table.columns_now.iter().filter(|c| !table.columns.contains(c)) {
            problems.push(match table.keeps_out() {
                true => format!("the column {column} came since, or has a new name, and is masked until it is installed again"),
                false => format!("the column {column} came since, or has a new name, and is recorded as it is: install it again"),
            });
        }
        for column in table.columns.iter().filter(|c| !table.columns_now.contains(c)) {
            problems.push(format!("the column {column} is gone, or has a new name: install the table again"));
        }
        for (schema, name, rows, truncate) in relations(on, table.relation).await? {
            let relation = TableName::of(schema, name);
            if !rows {
                problems.push(format!(
                    "the trigger of rows on {relation} is missing or disabled: NOTHING is recorded there"
                ));
            }
            if !truncate {
                problems.push(format!("the trigger of TRUNCATE on {relation} is missing or disabled"));
            }
        }
    }
    Ok(CapturedTable { problems, ..table.captured })
}

pub(super) async fn remove(on: &mut PgConnection, table: &TableName) -> Result<()> {
    if !is_installed(on).await? {
        return Err(not_installed(table));
    }
    let all = installed(on).await?;
    let named = |t: &&Installed| {
        let fits = |name: &TableName| {
            name.name == table.name && (table.schema.is_none() || name.schema == table.schema)
        };
        fits(&t.table) || t.now.as_ref().is_some_and(fits)
    };
    let mut fitting = all.iter().filter(named);
    let found = fitting.next().ok_or_else(|| not_installed(table))?;
    if let Some(other) = fitting.next() {
        return Err(Error::invalid(format!("{table} may be {} or {}", found.table, other.table))
            .with_hint("name the schema: schema.table"));
    }
    // A partition that was detached keeps its trigger of TRUNCATE.
    let left: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text, g.tgname::text FROM pg_catalog.pg_trigger g
           JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid
          WHERE f.pronamespace = pg_catalog.to_regnamespace('dm_capture') AND g.tgparentid = 0
            AND pg_catalog.split_part(pg_catalog.encode(g.tgargs, 'escape'), '\\000', 1) = $1",
    )
    .bind(found.id.to_string())
    .fetch_all(&mut *on)
    .await
    .map_err(reading)?;
    for (schema, name, trigger) in left {
        let text = format!("DROP TRIGGER {} ON {}", quote_ident(&trigger), qualified(&schema, &name));
        on.execute(dynamic(text)).await.map_err(writing)?;
    }
    sqlx::query("UPDATE dm_capture.tables SET removed = true WHERE id = $1")
        .bind(found.id)
        .execute(on)
        .await
        .map_err(writing)?;
    Ok(())
}

pub(super) async fn clear_away(on: &mut PgConnection) -> Result<bool> {
    if !is_installed(on).await? {
        return Ok(true);
    }
    // Nobody writes to it any more when this lock is had and no table is registered.
    on.execute("LOCK TABLE dm_capture.changes IN ACCESS EXCLUSIVE MODE").await.map_err(writing)?;
    let needed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM dm_capture.tables WHERE NOT removed) OR EXISTS (SELECT FROM dm_capture.changes)",
    )
    .fetch_one(&mut *on)
    .await
    .map_err(reading)?;
    if needed {
        return Ok(false);
    }
    on.execute(dynamic(format!("DROP SCHEMA {} CASCADE", quote_ident(SCHEMA)))).await.map_err(writing)?;
    Ok(true)
}
