//! The history of runs: one row an operation, written at its beginning and completed at its end.

use chrono::{DateTime, Utc};
use dm_core::{AuditOutcome, Effect, Error, ErrorKind, Result, RunId};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::audit::{Leaf, insert_leaf};
use crate::sql::{Columns, Page, Sql, clean, from_json, json, micros, variant, word};
use crate::store::{Store, commit};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Begun, and no end is known: under way, or its process died.
    Running,
    /// Done.
    Success,
    /// A part was done.
    Partial,
    /// Failed.
    Failure,
    /// Refused by the access rules.
    Denied,
    /// Cancelled.
    Interrupted,
}

impl From<AuditOutcome> for RunState {
    fn from(outcome: AuditOutcome) -> Self {
        match outcome {
            AuditOutcome::Intent => Self::Running,
            AuditOutcome::Success => Self::Success,
            AuditOutcome::Partial => Self::Partial,
            AuditOutcome::Failure => Self::Failure,
            AuditOutcome::Denied => Self::Denied,
            AuditOutcome::Interrupted => Self::Interrupted,
        }
    }
}

/// A run at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStart {
    /// Its id.
    pub run_id: RunId,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// Who.
    pub actor: String,
    /// When, by the context's clock.
    pub started_at: DateTime<Utc>,
}

/// A run at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    /// Its id.
    pub run_id: RunId,
    /// When.
    pub finished_at: DateTime<Utc>,
    /// How it ended; never [`RunState::Running`].
    pub state: RunState,
    /// Whether anything happened.
    pub effect: Effect,
    /// The error's message, redacted.
    pub error: Option<String>,
    /// The operation's report.
    pub report: Option<serde_json::Value>,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// What, as `area:verb`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// Who.
    pub actor: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Where it stands.
    pub state: RunState,
    /// Whether anything happened.
    pub effect: Effect,
    /// The error's message.
    pub error: Option<String>,
    /// The operation's report.
    pub report: Option<serde_json::Value>,
}

impl Run {
    /// Where a page that ends with this run ends.
    #[must_use]
    pub fn cursor(&self) -> RunCursor {
        RunCursor { started_at: self.started_at, run_id: self.run_id }
    }
}

/// A place in the list of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCursor {
    /// When the last run of the page began.
    pub started_at: DateTime<Utc>,
    /// Its id.
    pub run_id: RunId,
}

/// Which runs. Empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// This actor.
    pub actor: Option<String>,
    /// Actions that begin with this: `backup:`.
    pub action_prefix: Option<String>,
    /// This resource.
    pub resource: Option<String>,
    /// This state.
    pub state: Option<RunState>,
    /// Begun at this instant or later.
    pub since: Option<DateTime<Utc>>,
    /// Begun before this instant.
    pub until: Option<DateTime<Utc>>,
}

const COLUMNS: &str =
    "SELECT run_id, action, resource, actor, started_at, finished_at, state, effect, error, report FROM runs";

impl Store {
    /// Writes the beginning of a run; durable when it returns.
    ///
    /// # Errors
    /// `AlreadyExists` for a run id that was used; `Busy`, `Unreachable`, `Exhausted`.
    pub async fn begin_run(&self, start: &RunStart) -> Result<()> {
        let mut transaction = self.begin().await?;
        insert_run(&mut transaction, start).await?;
        commit(transaction).await
    }

    /// As [`begin_run`](Self::begin_run), with the audit leaf of the intent in the same transaction.
    ///
    /// # Errors
    /// As [`begin_run`](Self::begin_run).
    pub async fn begin_run_with_leaf(&self, start: &RunStart, leaf: &Leaf) -> Result<()> {
        let mut transaction = self.begin().await?;
        insert_run(&mut transaction, start).await?;
        insert_leaf(&mut transaction, self.dialect(), leaf).await?;
        commit(transaction).await
    }

    /// Writes the end of a run; durable when it returns.
    ///
    /// # Errors
    /// `NotFound` for an unknown run, `Conflict` for one that has ended; `Invalid` for the state `Running`; `Busy`,
    /// `Unreachable`, `Exhausted`.
    pub async fn finish_run(&self, end: &RunEnd) -> Result<()> {
        let mut transaction = self.begin().await?;
        complete_run(&mut transaction, end).await?;
        commit(transaction).await
    }

    /// As [`finish_run`](Self::finish_run), with the audit leaf of the outcome in the same transaction: the history
    /// and the audit log never disagree about how a run ended.
    ///
    /// # Errors
    /// As [`finish_run`](Self::finish_run).
    pub async fn finish_run_with_leaf(&self, end: &RunEnd, leaf: &Leaf) -> Result<()> {
        let mut transaction = self.begin().await?;
        complete_run(&mut transaction, end).await?;
        insert_leaf(&mut transaction, self.dialect(), leaf).await?;
        commit(transaction).await
    }

    /// Writes a run that was over before it began (a denial), with its audit leaf, in one transaction.
    ///
    /// # Errors
    /// As [`begin_run`](Self::begin_run).
    pub async fn record_run_with_leaf(&self, start: &RunStart, end: &RunEnd, leaf: &Leaf) -> Result<()> {
        let mut transaction = self.begin().await?;
        insert_run(&mut transaction, start).await?;
        complete_run(&mut transaction, end).await?;
        insert_leaf(&mut transaction, self.dialect(), leaf).await?;
        commit(transaction).await
    }

    /// One run.
    ///
    /// # Errors
    /// `NotFound`; `Busy`, `Unreachable`, `Corrupt`.
    pub async fn run(&self, run_id: RunId) -> Result<Run> {
        let row = Sql::new(COLUMNS)
            .push(" WHERE run_id = ")
            .value(run_id.to_string())
            .optional(self.reader())
            .await?;
        read_run(&row.ok_or_else(|| Error::not_found("there is no such run").about(run_id.to_string()))?)
    }

    /// A page of the history, by the time of beginning.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Corrupt`.
    pub async fn runs(&self, filter: &RunFilter, page: &Page<RunCursor>) -> Result<Vec<Run>> {
        let mut sql = Sql::new(COLUMNS)
            .push(" WHERE 1 = 1")
            .and("actor = ", filter.actor.as_deref())
            .and("resource = ", filter.resource.as_deref())
            .and("state = ", filter.state.as_ref().map(word).transpose()?)
            .and("started_at >= ", filter.since.map(micros))
            .and("started_at < ", filter.until.map(micros));
        if let Some(prefix) = &filter.action_prefix {
            sql = sql.push(" AND ").action_prefix(prefix);
        }
        if let Some(after) = page.after {
            sql = sql
                .push(" AND (started_at, run_id)")
                .push(page.order.beyond())
                .push("(")
                .value(micros(after.started_at))
                .push(", ")
                .value(after.run_id.to_string())
                .push(")");
        }
        let order = page.order.keyword();
        sql = sql.push(" ORDER BY started_at").push(order).push(", run_id").push(order).push(" LIMIT ");
        sql.value(page.limit()).all(self.reader()).await?.iter().map(read_run).collect()
    }
}

impl Sql {
    /// `LIKE` ignores case on SQLite and ranges depend on the collation on PostgreSQL; this is the same on both.
    pub(crate) fn action_prefix(self, prefix: &str) -> Self {
        let characters = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
        self.push("substr(action, 1, CAST(").value(characters).push(" AS INTEGER)) = ").value(prefix)
    }
}

async fn insert_run(on: &mut AnyConnection, start: &RunStart) -> Result<()> {
    let inserted = Sql::new(
        "INSERT INTO runs (run_id, action, resource, actor, started_at, state, effect) \
         VALUES ($1, $2, $3, $4, $5, 'running', 'none')",
    )
    .bind(start.run_id.to_string())
    .bind(clean(&start.action))
    .bind(clean(&start.resource))
    .bind(clean(&start.actor))
    .bind(micros(start.started_at))
    .execute(on)
    .await;
    inserted.map(|_| ()).map_err(|e| e.about(format!("run {}", start.run_id)))
}

async fn complete_run(on: &mut AnyConnection, end: &RunEnd) -> Result<()> {
    if end.state == RunState::Running {
        return Err(Error::invalid("a run cannot end as running"));
    }
    let updated = Sql::new(
        "UPDATE runs SET finished_at = $2, state = $3, effect = $4, error = $5, report = $6 \
         WHERE run_id = $1 AND state = 'running'",
    )
    .bind(end.run_id.to_string())
    .bind(micros(end.finished_at))
    .bind(word(&end.state)?)
    .bind(word(&end.effect)?)
    .bind(end.error.as_deref().map(clean))
    .bind(end.report.as_ref().map(json).transpose()?)
    .execute(&mut *on)
    .await?;
    if updated == 1 {
        return Ok(());
    }
    let known =
        Sql::new("SELECT state FROM runs WHERE run_id = ").value(end.run_id.to_string()).optional(on).await?;
    Err(match known {
        Some(_) => Error::new(ErrorKind::Conflict, "the run has ended already"),
        None => Error::not_found("there is no such run"),
    }
    .about(format!("run {}", end.run_id)))
}

fn read_run(row: &AnyRow) -> Result<Run> {
    let mut columns = Columns::new(row);
    Ok(Run {
        run_id: columns.take::<String>()?.parse()?,
        action: columns.take()?,
        resource: columns.take()?,
        actor: columns.take()?,
        started_at: columns.time()?,
        finished_at: columns.optional_time()?,
        state: variant(columns.take()?)?,
        effect: variant(columns.take()?)?,
        error: columns.take()?,
        report: columns.take::<Option<String>>()?.map(|text| from_json(&text)).transpose()?,
    })
}
