//! Migrations: what a runner asks of an engine.
//!
//! The engine cuts a script into statements by its own lexical rules, keeps the history in itself, and runs a script
//! so that what it did and the record of it cannot come apart. Which scripts, in which order and what their files are called is
//! the runner's business; it knows no SQL.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, Finding, OpContext, Result};

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationState {
    /// Begun statement by statement, and not at its end. Under the run lock this means: the runner died.
    Running,
    /// Done.
    Applied,
    /// Failed. A transactional one left nothing; one that runs statement by statement did its
    /// [`finished`](HistoryEntry::finished) ones.
    Failed,
    /// Undone by its down script, or declared so.
    RolledBack,
}

impl MigrationState {
    /// As the history spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Reads what [`as_str`](Self::as_str) gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Applied, Self::Failed, Self::RolledBack]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

impl std::fmt::Display for MigrationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which script of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Forward.
    Up,
    /// Back.
    Down,
}

impl Direction {
    /// As the history spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A statement that was begun outside of a transaction: when nothing says that it finished, nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedStatement {
    /// Its number in the script, from 1.
    pub number: u32,
    /// What the engine noted before, to find out later whether it was done.
    pub mark: Option<String>,
}

/// One row of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The version; the history's key.
    pub version: i64,
    /// The description out of the file's name.
    pub description: String,
    /// Where it stands.
    pub state: MigrationState,
    /// SHA-384 of the file's bytes, hexadecimal: what sqlx keeps.
    pub checksum: String,
    /// SHA-384 of the text without what an editor or a checkout may change (byte order mark, line endings, blanks at
    /// the ends of lines); hexadecimal. Empty when another tool applied it.
    pub text_checksum: String,
    /// The script as it was run. Empty when another tool applied it and the file is not known.
    pub migration_sql: String,
    /// The script that undoes it, as it stood then.
    pub rollback_sql: Option<String>,
    /// When its state was reached, by the runner's clock.
    pub applied_at: DateTime<Utc>,
    /// Who ran it.
    pub applied_by: String,
    /// How long its statements took.
    pub execution_time_ms: u64,
    /// Which script ran last.
    pub direction: Direction,
    /// How many statements of that script are done, where each is recorded for itself.
    pub finished: u32,
    /// A statement that may or may not have been done.
    pub started: Option<StartedStatement>,
    /// Why it failed.
    pub error: Option<String>,
    /// Why its state was declared rather than reached, or which tool reached it.
    pub remark: Option<String>,
}

/// What a statement means for the running of its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatementKind {
    /// Does something to the database.
    Plain,
    /// Only sets something for the session: has to be said again when a script goes on in a new session.
    Session,
    /// Begins a transaction, and asks for nothing else.
    Begin,
    /// Ends a transaction and keeps what it did.
    Commit,
    /// Ends a transaction and undoes what it did.
    Rollback,
}

/// One statement of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptStatement {
    /// Its text, without comments around it and without its end mark.
    pub text: String,
    /// Byte offset of the text in the script.
    pub offset: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// What it means.
    pub kind: StatementKind,
}

/// Another tool whose history is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ForeignTool {
    /// sqlx: `_sqlx_migrations`.
    Sqlx,
    /// refinery: `refinery_schema_history`.
    Refinery,
}

impl ForeignTool {
    /// The table in which it keeps its history unless told otherwise.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Sqlx => "_sqlx_migrations",
            Self::Refinery => "refinery_schema_history",
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Refinery => "refinery",
        }
    }
}

/// What another tool's history says of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignEntry {
    /// The version.
    pub version: i64,
    /// The description.
    pub description: String,
    /// When it was applied, where that can be read.
    pub applied_at: Option<DateTime<Utc>>,
    /// The checksum in that tool's form: hexadecimal SHA-384 of the bytes for sqlx, a decimal number for refinery.
    pub checksum: String,
    /// Whether it came to its end.
    pub success: bool,
    /// How long it took, where it is known.
    pub execution_time_ms: Option<u64>,
}

/// How large a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Its schema, where the engine has such.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// Rows, as the engine estimates them; `None` when it has not looked yet.
    pub rows: Option<u64>,
    /// Bytes with its indexes.
    pub bytes: Option<u64>,
}

/// How a session of migrations behaves.
#[derive(Clone, Debug)]
pub struct MigrationSettings {
    /// The history's table, as `name` or `schema.name`.
    pub table: String,
    /// How long a statement waits for a lock of the database.
    pub lock_timeout: Option<Duration>,
    /// How long a statement may run.
    pub statement_timeout: Option<Duration>,
    /// Another tool's history to be kept in step, so that it goes on where this one ended.
    pub in_step: Option<ForeignTool>,
}

/// A script that failed, and where.
#[derive(Debug)]
pub struct ScriptFailure {
    /// Why.
    pub error: Error,
    /// How many of its statements ran before, where the engine tells.
    pub ran: Option<usize>,
    /// Byte offset in the script at which the engine points.
    pub offset: Option<usize>,
    /// Only the moment was wrong (a lock was not to be had in time, a deadlock): the same again may succeed, and
    /// nothing was done.
    pub passing: bool,
}

impl From<Error> for ScriptFailure {
    fn from(error: Error) -> Self {
        Self { error, ran: None, offset: None, passing: false }
    }
}

/// What became of a statement that was begun outside of a transaction by a runner that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It was done.
    Done,
    /// It was not done, or doing it again is harmless; what it left half-made was removed. The texts say what.
    NotDone(Vec<String>),
    /// Only a person can tell.
    Unknown,
}

/// Filling a column of many rows: what is set, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillRequest {
    /// Under which name its progress is kept.
    pub name: String,
    /// The table, as `name` or `schema.name`.
    pub table: String,
    /// The assignments, in the engine's language: `email_lower = lower(email)`.
    pub set: String,
    /// Which rows, in the engine's language; all without it.
    pub filter: Option<String>,
}

/// How far a backfill is. The default: at its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillProgress {
    /// The key of the last row that was looked at, column by column, as text.
    pub last_key: Vec<String>,
    /// Rows looked at so far, over all its runs.
    pub seen_rows: u64,
    /// Rows changed so far, over all its runs.
    pub changed_rows: u64,
    /// Whether there are no more.
    pub finished: bool,
}

/// The record of a backfill as an engine keeps it, in its own table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillRecord {
    /// [`BackfillRequest::text`].
    pub request: String,
    /// [`BackfillProgress::key_text`].
    pub last_key: String,
    /// As in [`BackfillProgress`].
    pub seen_rows: i64,
    /// As in [`BackfillProgress`].
    pub changed_rows: i64,
    /// As in [`BackfillProgress`].
    pub finished: bool,
}

impl BackfillRequest {
    /// As the record keeps it.
    ///
    /// # Errors
    /// `Internal`.
    pub fn text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::internal("the request of a backfill cannot be written down").with_source(e))
    }

    /// How far a record says that this request is.
    ///
    /// # Errors
    /// `Invalid` when it is another request's; `Corrupt` when it cannot be read.
    pub fn progress_of(&self, record: &BackfillRecord) -> Result<BackfillProgress> {
        if record.request != self.text()? {
            let message = format!("the backfill \"{}\" was begun with another request", self.name);
            return Err(Error::invalid(message).with_hint(
                "give this one another name, or the first one its own table, assignments and condition",
            ));
        }
        let last_key = serde_json::from_str(&record.last_key)
            .map_err(|e| Error::corrupt("the record of the backfill cannot be read").with_source(e))?;
        let number = |n: i64| u64::try_from(n).unwrap_or_default();
        Ok(BackfillProgress {
            last_key,
            seen_rows: number(record.seen_rows),
            changed_rows: number(record.changed_rows),
            finished: record.finished,
        })
    }
}

impl BackfillProgress {
    /// The last key as the record keeps it.
    #[must_use]
    pub fn key_text(&self) -> String {
        serde_json::Value::from(self.last_key.clone()).to_string()
    }
}

/// An engine whose schema migrations change.
#[async_trait]
pub trait MigrationTarget: Send + Sync {
    /// How the files are called that it takes: `sql`.
    fn extension(&self) -> &'static str;

    /// How a line begins that is a comment: `--`.
    fn comment(&self) -> &'static str;

    /// Whether a script and its record can be one transaction. Where not, every script runs statement by statement.
    fn is_transactional(&self) -> bool;

    /// Cuts a script into statements.
    ///
    /// # Errors
    /// `Invalid` for a string, a comment or a body that does not end, and for what no migration can have, naming the line.
    fn split(&self, script: &str) -> Result<Vec<ScriptStatement>>;

    /// Reads the history, in the order of versions, and writes nothing; `None` when there is none yet.
    ///
    /// # Errors
    /// `Invalid` when another program's table has its name; `Unreachable`, `Denied`.
    async fn history(&self, ctx: &OpContext, table: &str) -> Result<Option<Vec<HistoryEntry>>>;

    /// Reads another tool's history, in the order of versions; `None` when there is none.
    ///
    /// # Errors
    /// `Invalid` when the table does not look like that tool's; `Unreachable`, `Denied`.
    async fn foreign_history(
        &self,
        ctx: &OpContext,
        tool: ForeignTool,
        table: &str,
    ) -> Result<Option<Vec<ForeignEntry>>>;

    /// How large the tables are. Reads only, and only what the engine knows without counting.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn table_sizes(&self, ctx: &OpContext) -> Result<Vec<TableSize>>;

    /// What failed or killed migrations left behind: indexes that are not valid. Reads only.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn leftovers(&self, ctx: &OpContext) -> Result<Vec<Finding>>;

    /// Opens a session for running migrations; it has no lock yet.
    ///
    /// # Errors
    /// `Unsupported` behind a pooler that lends by the transaction; `Unreachable`, `Denied`.
    async fn connect(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
    ) -> Result<Box<dyn MigrationSession>>;

    /// Begins a backfill, or goes on with the one of this name.
    ///
    /// # Errors
    /// `Invalid` (no such table, no key, a text that is more than one expression list, another backfill under this name);
    /// `Busy` when somebody else is at it; `Unreachable`, `Denied`.
    async fn backfill(
        &self,
        ctx: &OpContext,
        settings: &MigrationSettings,
        request: &BackfillRequest,
    ) -> Result<Box<dyn BackfillSession>>;
}

/// A session that runs migrations. Dropping it ends the lock and undoes what was not committed.
#[async_trait]
pub trait MigrationSession: Send {
    /// Tries once to take the run lock, and gives whether it was had; never waits. Of all runners on one database, on
    /// whatever host, at most one has it; it ends with the session, however that ends. A statement that a dead runner
    /// left running on the server keeps it until it ended.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn try_lock(&mut self, ctx: &OpContext) -> Result<bool>;

    /// Fails when the lock was lost meanwhile.
    ///
    /// # Errors
    /// `Conflict`, `Unreachable`.
    async fn check_lock(&mut self, ctx: &OpContext) -> Result<()>;

    /// Makes the history's table where it is missing. Needs the lock.
    ///
    /// # Errors
    /// `Invalid` when another program's table has its name; `Denied`.
    async fn prepare(&mut self, ctx: &OpContext) -> Result<()>;

    /// The history, in the order of versions.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn history(&mut self, ctx: &OpContext) -> Result<Vec<HistoryEntry>>;

    /// Runs a script as one transaction together with its record; gives the record with its time filled in. When it fails,
    /// neither happened.
    ///
    /// # Errors
    /// Whatever the engine says; the effect is `Unknown` when the connection was lost while committing.
    ///
    /// # Cancellation
    /// Dropping the future undoes everything.
    async fn run_whole(
        &mut self,
        ctx: &OpContext,
        script: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure>;

    /// Runs one statement, or one transaction of the script's own, in a transaction with its record where the engine can do
    /// that, and otherwise the record of its beginning, the statement, and the record of its end. Gives the record with its time
    /// filled in.
    ///
    /// # Errors
    /// As [`run_whole`](Self::run_whole).
    ///
    /// # Cancellation
    /// Dropping the future may leave a statement running on the server; [`settle`](Self::settle) finds out.
    async fn run_step(
        &mut self,
        ctx: &OpContext,
        statement: &str,
        record: HistoryEntry,
    ) -> Result<HistoryEntry, ScriptFailure>;

    /// Says something for the session again, without a record.
    ///
    /// # Errors
    /// Whatever the engine says.
    async fn repeat_setting(&mut self, ctx: &OpContext, statement: &str) -> Result<()>;

    /// Finds out whether a statement was done that was [begun](HistoryEntry::started) and has no end on record, and removes what
    /// it left half-made.
    ///
    /// # Errors
    /// `Busy` when the server still works on it; `Unreachable`, `Denied`.
    async fn settle(&mut self, ctx: &OpContext, statement: &str, mark: Option<&str>) -> Result<Doubt>;

    /// Gives settings, roles and timeouts back to what they were when the session began.
    ///
    /// # Errors
    /// `Unreachable`.
    async fn reset(&mut self, ctx: &OpContext) -> Result<()>;

    /// Writes records, all or none, and whatever is kept in step with them.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Conflict`.
    async fn record(&mut self, ctx: &OpContext, records: &[HistoryEntry]) -> Result<()>;

    /// Gives up the lock and closes.
    async fn close(self: Box<Self>);
}

/// A backfill under way. Dropping it loses nothing: its progress is kept with every portion.
#[async_trait]
pub trait BackfillSession: Send {
    /// How far it is.
    fn progress(&self) -> &BackfillProgress;

    /// Rows of the table, as the engine estimates them.
    fn estimated_rows(&self) -> Option<u64>;

    /// Does the next portion — the next so many rows in the order of the key — in a transaction of its own, together
    /// with the record of it.
    ///
    /// # Errors
    /// `Busy` when a lock was not to be had in time (nothing was done; call again); whatever else the engine says.
    async fn next(&mut self, ctx: &OpContext, rows: u32) -> Result<&BackfillProgress>;

    /// Closes.
    async fn close(self: Box<Self>);
}
