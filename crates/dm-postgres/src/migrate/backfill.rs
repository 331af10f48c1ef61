//! Backfills: an UPDATE over many rows, in portions along a unique key.
//!
//! Each portion is a transaction of its own together with the record of how far it came, so that rows are locked for moments, and
//! a killed backfill goes on where it ended. Rows that are inserted behind the place are not looked at: the
//! application writes the new column by then, or a trigger does (expand, backfill, contract).

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use dm_core::{
    BackfillProgress, BackfillRecord, BackfillRequest, BackfillSession, Error, ErrorKind, MigrationSettings,
    OpContext, Result,
};
use sqlx::Executor;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::history::Table;
use super::search_path;
use super::session::is_passing;
use crate::client::Client;
use crate::error::{reading, sqlstate, writing};
use crate::session::{close, open};
use crate::sql::{dynamic, quote_ident};

const TABLE: &str = include_str!("../sql/migrate/backfills.sql");

/// First half of the lock's key, `dmmb`; the second is made of the name.
const LOCK_CLASS: i32 = 0x646D_6D62;

/// A column of the key and its type, as the catalog writes it.
struct KeyColumn {
    name: String,
    type_name: String,
}

pub(super) struct Backfill {
    connection: PgConnection,
    name: String,
    /// The target, quoted.
    table: String,
    key: Vec<KeyColumn>,
    set: String,
    filter: Option<String>,
    /// Where progress is kept, quoted.
    records: String,
    progress: BackfillProgress,
    estimated: Option<u64>,
}

impl Backfill {
    pub(super) async fn open(
        ctx: &OpContext,
        client: &Client,
        settings: &MigrationSettings,
        request: &BackfillRequest,
    ) -> Result<Self> {
        let mut connection = open(ctx, client).await?;
        let limit = |time: Option<Duration>| time.map_or(0, |t| t.as_millis().max(1));
        let own = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}; {}",
            limit(settings.lock_timeout),
            limit(settings.statement_timeout),
            search_path(client)
        );
        ctx.run(async {
            connection.execute(sqlx::raw_sql(dynamic(own))).await.map_err(reading)?;
            lock(&mut connection, &request.name).await?;
            let target = Table::resolve(&mut connection, &request.table).await?;
            let (key, estimated) = key_of(&mut connection, &target).await?;
            let history = Table::resolve(&mut connection, &settings.table).await?;
            let records = Table { name: format!("{}_backfills", history.name), ..history };
            if records.columns(&mut connection).await?.is_empty() {
                let ddl = TABLE.replace('%', &records.quoted());
                connection.execute(sqlx::raw_sql(dynamic(ddl))).await.map_err(writing)?;
            }
            let progress = begin(&mut connection, &records.quoted(), request).await?;
            Ok(Self {
                connection,
                name: request.name.clone(),
                table: target.quoted(),
                key,
                set: request.set.clone(),
                filter: request.filter.clone(),
                records: records.quoted(),
                progress,
                estimated,
            })
        })
        .await
    }

    /// `("a", "b")`, or with values `($1::text::int, …)`, counted from a number.
    fn columns(&self) -> String {
        self.key.iter().map(|k| quote_ident(&k.name)).collect::<Vec<_>>().join(", ")
    }

    fn values(&self, from: usize) -> String {
        let one = |(i, k): (usize, &KeyColumn)| format!("${}::text::{}", from + i, k.type_name);
        self.key.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    }

    async fn portion(&mut self, rows: u32) -> Result<BackfillProgress, sqlx::Error> {
        let columns = self.columns();
        let after = self.progress.last_key.clone();
        let begins = match after.is_empty() {
            true => "true".to_owned(),
            false => format!("({columns}) > ({})", self.values(1)),
        };
        // By the portion's name: alone, a name would mean the text in the answer, and texts are in another order.
        let texts =
            self.key.iter().map(|k| format!("{}::text", quote_ident(&k.name))).collect::<Vec<_>>().join(", ");
        let descending = self
            .key
            .iter()
            .map(|k| format!("portion.{} DESC", quote_ident(&k.name)))
            .collect::<Vec<_>>()
            .join(", ");
        let find = format!(
            "WITH portion AS MATERIALIZED (SELECT {columns} FROM {} WHERE {begins} ORDER BY {columns} LIMIT {rows})
             SELECT (SELECT pg_catalog.count(*) FROM portion), {texts} FROM portion ORDER BY {descending} LIMIT 1",
            self.table
        );
        let mut progress = self.progress.clone();
        let mut query = sqlx::query(dynamic(find));
        for value in &after {
            query = query.bind(value);
        }
        match query.fetch_optional(&mut self.connection).await? {
            None => progress.finished = true,
            Some(row) => {
                let seen: i64 = row.try_get(0)?;
                progress.last_key =
                    (0..self.key.len()).map(|i| row.try_get(i + 1)).collect::<Result<_, _>>()?;
                progress.seen_rows += u64::try_from(seen).unwrap_or_default();
                progress.finished = seen < i64::from(rows);
                let from = after.len() + 1;
                let mut update = format!(
                    "UPDATE {} SET {}\n WHERE ({columns}) <= ({})",
                    self.table,
                    self.set,
                    self.values(from)
                );
                // Writing to a String cannot fail.
                let _ = write!(update, " AND {begins}");
                if let Some(filter) = &self.filter {
                    let _ = write!(update, " AND ({filter}\n)");
                }
                let mut query = sqlx::query(dynamic(update));
                for value in after.iter().chain(&progress.last_key) {
                    query = query.bind(value);
                }
                progress.changed_rows += query.execute(&mut self.connection).await?.rows_affected();
            }
        }
        let keep = format!(
            "UPDATE {} SET last_key = $2, seen_rows = $3, changed_rows = $4, finished = $5, updated_at = now() WHERE name = $1",
            self.records
        );
        sqlx::query(dynamic(keep))
            .bind(&self.name)
            .bind(progress.key_text())
            .bind(i64::try_from(progress.seen_rows).unwrap_or(i64::MAX))
            .bind(i64::try_from(progress.changed_rows).unwrap_or(i64::MAX))
            .bind(progress.finished)
            .execute(&mut self.connection)
            .await?;
        Ok(progress)
    }
}

#[async_trait]
impl BackfillSession for Backfill {
    fn progress(&self) -> &BackfillProgress {
        &self.progress
    }

    fn estimated_rows(&self) -> Option<u64> {
        self.estimated
    }

    async fn next(&mut self, ctx: &OpContext, rows: u32) -> Result<&BackfillProgress> {
        let begun = self.connection.execute("BEGIN").await.map(drop).map_err(writing);
        begun?;
        let mut failed = None;
        let done = ctx
            .run(async {
                self.portion(rows.max(1)).await.map_err(|e| {
                    failed = Some(e);
                    Error::interrupted()
                })
            })
            .await;
        match (done, failed) {
            (Ok(progress), _) => {
                self.connection.execute("COMMIT").await.map_err(writing)?;
                self.progress = progress;
                Ok(&self.progress)
            }
            (Err(error), failed) => {
                // When the connection is gone the server has rolled back by itself.
                self.connection.execute("ROLLBACK").await.ok();
                Err(match failed {
                    None => error,
                    Some(e) if sqlstate(&e).is_some_and(|code| is_passing(&code)) => {
                        Error::new(ErrorKind::Busy, "a row was locked for too long").with_source(writing(e))
                    }
                    Some(e) => writing(e),
                })
            }
        }
    }

    async fn close(self: Box<Self>) {
        close(self.connection).await;
    }
}

async fn lock(connection: &mut PgConnection, name: &str) -> Result<()> {
    let locked: bool =
        sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))")
            .bind(LOCK_CLASS)
            .bind(name)
            .fetch_one(connection)
            .await
            .map_err(reading)?;
    match locked {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Busy, format!("somebody else runs the backfill \"{name}\""))
            .with_hint("wait for it; it tells how far it is in the history's table of backfills")),
    }
}

/// The columns of the primary key, or of another unique key without NULLs; and the estimated rows.
async fn key_of(connection: &mut PgConnection, table: &Table) -> Result<(Vec<KeyColumn>, Option<u64>)> {
    let rows: Option<f32> = sqlx::query_scalar(
        "SELECT c.reltuples FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(reading)?;
    let shown = format!("{}.{}", table.schema, table.name);
    let Some(rows) = rows else {
        return Err(Error::invalid(format!("there is no table {shown}"))
            .with_hint("name it as \"table\" or \"schema.table\""));
    };
    let columns: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT i.indexrelid::int8, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) ON k.place <= i.indnkeyatts
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
          WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
            AND i.indexprs IS NULL
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute x
                             WHERE x.attrelid = c.oid AND x.attnum = ANY (i.indkey::int2[]) AND NOT x.attnotnull)
          ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid, k.place",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    let Some((first, ..)) = columns.first() else {
        return Err(Error::invalid(format!("{shown} has no primary key and no unique key without NULLs"))
            .with_hint("a backfill goes along such a key; add one, or write the UPDATE as a migration"));
    };
    let first = *first;
    let key = columns.into_iter().filter(|(index, ..)| *index == first);
    let key = key.map(|(_, name, type_name)| KeyColumn { name, type_name }).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive")]
    Ok((key, (rows >= 1.0).then_some(rows as u64)))
}

/// The progress on record under the name, or a new record.
async fn begin(
    connection: &mut PgConnection,
    records: &str,
    request: &BackfillRequest,
) -> Result<BackfillProgress> {
    let text =
        format!("SELECT request, last_key, seen_rows, changed_rows, finished FROM {records} WHERE name = $1");
    let row: Option<(String, String, i64, i64, bool)> = sqlx::query_as(dynamic(text))
        .bind(&request.name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(reading)?;
    if let Some((recorded, last_key, seen_rows, changed_rows, finished)) = row {
        let record = BackfillRecord { request: recorded, last_key, seen_rows, changed_rows, finished };
        return request.progress_of(&record);
    }
    let text = format!(
        "INSERT INTO {records} (name, request, last_key, seen_rows, changed_rows, finished) VALUES ($1, $2, '[]', 0, 0, false)"
    );
    sqlx::query(dynamic(text))
        .bind(&request.name)
        .bind(request.text()?)
        .execute(connection)
        .await
        .map_err(writing)?;
    Ok(BackfillProgress::default())
}
