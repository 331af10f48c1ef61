//! Backfills: an UPDATE over many rows, in portions along the rowid or the primary key.
//!
//! Each portion is a transaction of its own together with the record of how far it came, so that other writers wait for moments, and
//! a killed backfill goes on where it ended.

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    BackfillProgress, BackfillRecord, BackfillRequest, BackfillSession, Error, ErrorKind, MigrationSettings,
    OpContext, Result,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::history::{columns, quoted};
use super::lock::FileLock;
use crate::connect::{self, Purpose};
use crate::error::sqlite;
use crate::pool::Pool;
use crate::schema::quote;
use crate::worker::{Gate, Worker};

/// What is done, in the form that goes to the thread.
#[derive(Clone)]
struct Work {
    name: String,
    /// The target, quoted.
    table: String,
    /// The key's columns, quoted.
    key: Vec<String>,
    set: String,
    filter: Option<String>,
    /// Where progress is kept, quoted.
    records: String,
}

pub(super) struct Backfill {
    worker: Worker,
    work: Work,
    settings: MigrationSettings,
    progress: BackfillProgress,
    estimated: Option<u64>,
    lock: FileLock,
}

impl Backfill {
    pub(super) async fn open(
        ctx: &OpContext,
        pool: &Arc<Pool>,
        settings: &MigrationSettings,
        request: &BackfillRequest,
    ) -> Result<Self> {
        pool.check_open()?;
        let lock = FileLock::try_take(pool.path(), "-backfill-lock")?.ok_or_else(|| {
            Error::new(ErrorKind::Busy, "somebody else runs a backfill on this database")
                .with_hint("wait for it")
        })?;
        let opening = Arc::clone(pool);
        let worker = Worker::start(pool.gate(ctx), move || {
            connect::live(opening.path(), opening.options(), Purpose::Statements)
        })
        .await?;
        let (asked, history) = (request.clone(), settings.table.clone());
        let (work, progress, estimated) = worker
            .submit(pool.gate(ctx), move |connection| {
                let key = key_of(connection, &asked.table)?;
                let records = quoted(&format!("{history}_backfills"));
                let progress = begin(connection, &records, &asked)?;
                let estimated: Option<i64> = connection
                    .query_row(&format!("SELECT max(rowid) FROM {}", quoted(&asked.table)), [], |r| r.get(0))
                    // A table without rowid has no estimate.
                    .unwrap_or(None);
                let work = Work {
                    name: asked.name,
                    table: quoted(&asked.table),
                    key,
                    set: asked.set,
                    filter: asked.filter,
                    records,
                };
                Ok((work, progress, estimated.and_then(|n| u64::try_from(n).ok())))
            })
            .wait()
            .await?;
        Ok(Self { worker, work, settings: settings.clone(), progress, estimated, lock })
    }
}

impl Work {
    fn portion(
        &self,
        connection: &Connection,
        mut progress: BackfillProgress,
        rows: u32,
    ) -> Result<BackfillProgress> {
        let columns = self.key.join(", ");
        // The keys are literals that SQLite's own quote() wrote.
        let begins = match progress.last_key.is_empty() {
            true => "true".to_owned(),
            false => format!("({columns}) > ({})", progress.last_key.join(", ")),
        };
        let aliases: Vec<String> = (0..self.key.len()).map(|i| format!("k{i}")).collect();
        let each = |form: &dyn Fn(&String, &String) -> String| {
            self.key
                .iter()
                .zip(&aliases)
                .map(|(column, alias)| form(column, alias))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let names = each(&|column, alias| format!("{column} AS {alias}"));
        let literals = each(&|_, alias| format!("quote({alias})"));
        let descending = each(&|_, alias| format!("{alias} DESC"));
        let find = format!(
            "WITH portion AS MATERIALIZED (SELECT {names} FROM {} WHERE {begins} ORDER BY {columns} LIMIT {rows})
             SELECT (SELECT count(*) FROM portion), {literals} FROM portion ORDER BY {descending} LIMIT 1",
            self.table
        );
        let found = connection
            .query_row(&find, [], |row| {
                let key: rusqlite::Result<Vec<String>> =
                    (0..self.key.len()).map(|i| row.get(i + 1)).collect();
                Ok((row.get::<_, u32>(0)?, key?))
            })
            .optional()
            .map_err(sqlite)?;
        match found {
            None => progress.finished = true,
            Some((seen, key)) => {
                let filter = self.filter.as_ref().map_or_else(String::new, |f| format!(" AND ({f}\n)"));
                let update = format!(
                    "UPDATE {} SET {}\n WHERE ({columns}) <= ({}) AND {begins}{filter}",
                    self.table,
                    self.set,
                    key.join(", ")
                );
                let changed = connection.execute(&update, []).map_err(sqlite)?;
                progress.last_key = key;
                progress.seen_rows += u64::from(seen);
                progress.changed_rows += u64::try_from(changed).unwrap_or_default();
                progress.finished = seen < rows;
            }
        }
        let keep = format!(
            "UPDATE {} SET last_key = ?2, seen_rows = ?3, changed_rows = ?4, finished = ?5, \
             updated_at = CURRENT_TIMESTAMP WHERE name = ?1",
            self.records
        );
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let values = params![
            self.name,
            progress.key_text(),
            number(progress.seen_rows),
            number(progress.changed_rows),
            progress.finished
        ];
        connection.execute(&keep, values).map_err(sqlite)?;
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
        let (work, progress) = (self.work.clone(), self.progress.clone());
        let waits = self.settings.lock_timeout.unwrap_or(super::session::FOREVER);
        self.progress = self
            .worker
            .submit(Gate::new(ctx, waits, self.settings.statement_timeout), move |connection| {
                let transaction = connection
                    .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                    .map_err(sqlite)?;
                let progress = work.portion(&transaction, progress, rows.max(1))?;
                transaction.commit().map_err(sqlite)?;
                Ok(progress)
            })
            .wait()
            .await?;
        Ok(&self.progress)
    }

    async fn close(self: Box<Self>) {
        let Self { worker, lock, .. } = *self;
        if let Some(thread) = worker.shut() {
            // A panicked thread has nothing more to close.
            tokio::task::spawn_blocking(move || thread.join().ok()).await.ok();
        }
        lock.release();
    }
}

/// A name of the rowid that no column hides, or the columns of the primary key.
fn key_of(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let (schema, name) = table.split_once('.').unwrap_or(("main", table));
    let form: Option<(String, bool)> = connection
        .query_row(
            "SELECT type, wr FROM pragma_table_list WHERE schema = ?1 AND name = ?2 COLLATE NOCASE",
            [schema, name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(sqlite)?;
    let without_rowid = match form {
        Some((form, without_rowid)) if form == "table" => without_rowid,
        Some(_) => return Err(Error::invalid(format!("{table} is no table with rows of its own"))),
        None => return Err(Error::invalid(format!("there is no table {table}"))),
    };
    if !without_rowid {
        let taken = columns(connection, table)?;
        let free = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|n| !taken.iter().any(|c| c.eq_ignore_ascii_case(n)));
        return match free {
            Some(name) => Ok(vec![name.to_owned()]),
            None => {
                Err(Error::invalid(format!("every name of the rowid of {table} is the name of a column")))
            }
        };
    }
    let mut statement = connection
        .prepare("SELECT name FROM pragma_table_info(?1, ?2) WHERE pk > 0 ORDER BY pk")
        .map_err(sqlite)?;
    let names = statement.query_map([name, schema], |row| row.get::<_, String>(0)).map_err(sqlite)?;
    names.map(|name| name.map(|n| quote(&n)).map_err(sqlite)).collect()
}

/// The progress on record under the name, or a new record.
fn begin(connection: &Connection, records: &str, request: &BackfillRequest) -> Result<BackfillProgress> {
    let ddl = format!(
        "CREATE TABLE IF NOT EXISTS {records} (name TEXT NOT NULL PRIMARY KEY, request TEXT NOT NULL,
             last_key TEXT NOT NULL, seen_rows INTEGER NOT NULL, changed_rows INTEGER NOT NULL, finished INTEGER NOT NULL,
             started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    );
    connection.execute_batch(&ddl).map_err(sqlite)?;
    let record = connection
        .query_row(
            &format!(
                "SELECT request, last_key, seen_rows, changed_rows, finished FROM {records} WHERE name = ?1"
            ),
            [&request.name],
            |row| {
                Ok(BackfillRecord {
                    request: row.get(0)?,
                    last_key: row.get(1)?,
                    seen_rows: row.get(2)?,
                    changed_rows: row.get(3)?,
                    finished: row.get(4)?,
                })
            },
        )
        .optional()
        .map_err(sqlite)?;
    if let Some(record) = record {
        return request.progress_of(&record);
    }
    connection
        .execute(
            &format!("INSERT INTO {records} (name, request, last_key, seen_rows, changed_rows, finished) VALUES (?1, ?2, '[]', 0, 0, 0)"),
            [&request.name, &request.text()?],
        )
        .map_err(sqlite)?;
    Ok(BackfillProgress::default())
}
