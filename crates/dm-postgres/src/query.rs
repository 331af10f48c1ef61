//! Statements: prepared, with bound parameters; rows as they arrive; transactions.
//!
//! A connection goes back to the pool only when its work ended in good order. One that was left in the middle — a dropped
//! stream, a cancelled call, a transaction without an end — is closed, which makes the server stop and roll back.

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    AccessMode, Error, ErrorKind, Isolation, OpContext, QueryPort, Result, Row, RowStream, Statement,
    Transaction, TransactionOptions, Value,
};
use futures::{StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgArguments, PgConnection, PgPool, PgRow, PgStatement, PgTypeInfo, PgTypeKind, Postgres,
};
use sqlx::{Arguments, Column, Either, Executor, Row as _, Statement as _, TypeInfo};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::error::{During, map, reading, sqlstate, writing};
use crate::placeholders::{first_word, numbered, with_casts};
use crate::session::{close, open};
use crate::sql::{dynamic, quote_ident};
use crate::value::{self, Outgoing, Raw, oid};

/// Rows read ahead of the consumer.
const READ_AHEAD: usize = 64;

/// Statements on a pool.
pub(crate) struct PostgresQuery {
    client: Client,
    pool: PgPool,
}

impl PostgresQuery {
    pub(crate) fn new(client: Client, pool: PgPool) -> Self {
        Self { client, pool }
    }

    async fn acquire(&self, ctx: &OpContext) -> Result<Held> {
        // The pool would try again and again until its own timeout; the first connection says at once what is wrong.
        if self.pool.size() == 0 && !self.pool.is_closed() {
            close(open(ctx, &self.client).await?).await;
        }
        let connection = ctx.run(async { self.pool.acquire().await.map_err(reading) }).await?;
        Ok(Held(Some(connection)))
    }
}

/// A connection that is closed unless it is explicitly given back.
struct Held(Option<PoolConnection<Postgres>>);

impl Held {
    fn get(&mut self) -> Result<&mut PgConnection> {
        self.0.as_deref_mut().ok_or_else(|| Error::internal("a connection was used after it was given back"))
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// A statement ready to run.
struct Ready {
    statement: PgStatement,
    arguments: PgArguments,
    columns: Arc<[String]>,
    types: Vec<u32>,
}

impl Ready {
    /// Prepares a statement, finds out what the server makes of its parameters, and brings them into that form.
    async fn new(connection: &mut PgConnection, statement: &Statement, rows: bool) -> Result<Self> {
        let count = statement.parameters.len();
        let mut text = numbered(&statement.text, count)?.into_owned();
        let mut prepared = prepare(connection, &text).await?;
        let types = parameter_types(&prepared);
        if types.len() != count {
            let wanted = types.len();
            return Err(Error::invalid(format!(
                "the statement has {wanted} placeholders for {count} parameters"
            )));
        }
        let mut outgoing = Vec::with_capacity(count);
        for (i, (value, type_oid)) in statement.parameters.iter().zip(&types).enumerate() {
            outgoing.push(value::encode(value, *type_oid, i + 1)?);
        }
        if outgoing.iter().any(|o| matches!(o, Outgoing::Text(_))) {
            let names = type_names(connection, &types).await?;
            text = with_casts(&text, |n| match outgoing.get(n.checked_sub(1)?) {
                Some(Outgoing::Text(_)) => names.get(n - 1).cloned(),
                _ => None,
            });
            prepared = prepare(connection, &text).await?;
        }
        let columns: Arc<[String]> = prepared.columns().iter().map(|c| c.name().to_owned()).collect();
        let mut types: Vec<u32> = prepared.columns().iter().map(|c| result_type(c.type_info())).collect();
        if rows
            && types.iter().any(|t| !value::is_native(*t))
            && let Some(wrapped) = wrap(&text, &types)
        {
            prepared = prepare(connection, &wrapped).await.map_err(|e| {
                e.with_hint("cast columns of types that are neither numbers, texts nor times to text")
            })?;
            for type_oid in types.iter_mut().filter(|t| !value::is_native(**t)) {
                *type_oid = oid::TEXT;
            }
        }
        let mut arguments = PgArguments::default();
        for value in outgoing {
            let raw = match value {
                Outgoing::Binary(bytes) => Raw(bytes),
                Outgoing::Text(text) => Raw(Some(text.into_bytes())),
            };
            arguments
                .add(raw)
                .map_err(|e| Error::invalid("a parameter cannot be sent to the server").with_source(e))?;
        }
        Ok(Self { statement: prepared, arguments, columns, types })
    }

    async fn execute(self, connection: &mut PgConnection, during: During) -> Result<u64> {
        let done = self.statement.query_with(self.arguments).execute(connection).await;
        done.map(|d| d.rows_affected()).map_err(|e| map(e, during))
    }
}

async fn prepare(connection: &mut PgConnection, text: &str) -> Result<PgStatement> {
    connection.prepare(sqlx::SqlSafeStr::into_sql_str(dynamic(text))).await.map_err(reading)
}

fn parameter_types(statement: &PgStatement) -> Vec<u32> {
    match statement.parameters() {
        Some(Either::Left(types)) => types.iter().map(type_oid).collect(),
        _ => Vec::new(),
    }
}

fn type_oid(info: &PgTypeInfo) -> u32 {
    info.oid().map_or(0, |o| o.0)
}

/// The type to read a result as: an enum's binary form is its label.
fn result_type(info: &PgTypeInfo) -> u32 {
    match info.kind() {
        PgTypeKind::Enum(_) => oid::TEXT,
        _ => type_oid(info),
    }
}

async fn type_names(connection: &mut PgConnection, oids: &[u32]) -> Result<Vec<String>> {
    let oids: Vec<i64> = oids.iter().map(|o| i64::from(*o)).collect();
    sqlx::query_scalar(
        "SELECT pg_catalog.format_type(o::oid, NULL) FROM pg_catalog.unnest($1::int8[]) WITH ORDINALITY t(o, n) ORDER BY n",
    )
    .bind(oids)
    .fetch_all(connection)
    .await
    .map_err(reading)
}

/// The statement with every column that has no binary reading here given as text. Only statements that can stand in WITH.
fn wrap(text: &str, types: &[u32]) -> Option<String> {
    let word = first_word(text);
    if !matches!(
        word.as_str(),
        "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge"
    ) {
        return None;
    }
    let bare = text.trim_end().trim_end_matches(';');
    let names: Vec<String> = (0..types.len()).map(|i| quote_ident(&format!("c{i}"))).collect();
    let outputs: Vec<String> = names
        .iter()
        .zip(types)
        .map(|(name, t)| if value::is_native(*t) { name.clone() } else { format!("{name}::pg_catalog.text") })
        .collect();
    Some(format!(
        "WITH dm_rows({}) AS (\n{bare}\n) SELECT {} FROM dm_rows",
        names.join(", "),
        outputs.join(", ")
    ))
}

fn read_row(row: &PgRow, columns: &Arc<[String]>, types: &[u32]) -> Result<Row> {
    let mut values: Vec<Value> = Vec::with_capacity(types.len());
    for (i, type_oid) in types.iter().enumerate() {
        let raw = row.try_get_raw(i).map_err(reading)?;
        if !value::is_native(*type_oid) && !sqlx::ValueRef::is_null(&raw) {
            let name = sqlx::ValueRef::type_info(&raw).name().to_owned();
            return Err(Error::unsupported(format!("a column of the type {name} cannot be read here"))
                .about(columns.get(i).cloned().unwrap_or_default())
                .with_hint("cast the column to text"));
        }
        values.push(value::decode(raw, *type_oid)?);
    }
    Ok(Row { columns: Arc::clone(columns), values })
}

#[async_trait]
impl QueryPort for PostgresQuery {
    async fn query(&self, ctx: &OpContext, statement: Statement) -> Result<RowStream> {
        let mut held = self.acquire(ctx).await?;
        let ready = ctx.run(Ready::new(held.get()?, &statement, true)).await?;
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
        let ctx = ctx.clone();
        tokio::spawn(async move {
            let work = ctx.run(send_rows(&mut held, ready, &sender));
            // A consumer that goes away stops the statement even while it has no row to give.
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = sender.closed() => return,
            };
            match outcome {
                Ok(()) => held.give_back(),
                // The connection is closed before the consumer hears of the end.
                Err(error) => {
                    drop(held);
                    drop(sender.send(Err(error)).await);
                }
            }
        });
        Ok(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed())
    }

    async fn execute(&self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        let mut held = self.acquire(ctx).await?;
        let ready = ctx.run(Ready::new(held.get()?, &statement, false)).await?;
        let count =
            ctx.run(ready.execute(held.get()?, During::Writing)).await.map_err(|e| match e.kind() {
                // Cancelled while it ran: the server is told by the closed connection, but may have been done already.
                ErrorKind::Interrupted => e.with_effect(dm_core::Effect::Unknown),
                _ => e,
            })?;
        held.give_back();
        Ok(count)
    }

    async fn begin(&self, ctx: &OpContext, options: TransactionOptions) -> Result<Box<dyn Transaction>> {
        let mut held = self.acquire(ctx).await?;
        let isolation = match options.isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::Serializable => "SERIALIZABLE",
        };
        let access = match options.access {
            AccessMode::ReadWrite => "READ WRITE",
            AccessMode::ReadOnly => "READ ONLY",
        };
        let begin = format!("BEGIN ISOLATION LEVEL {isolation} {access}");
        let connection = held.get()?;
        ctx.run(async { simple(connection, begin).await.map_err(reading) }).await?;
        Ok(Box::new(PostgresTransaction { held }))
    }
}

async fn send_rows(held: &mut Held, ready: Ready, sender: &mpsc::Sender<Result<Row>>) -> Result<()> {
    let Ready { statement, arguments, columns, types } = ready;
    let mut rows = statement.query_with(arguments).fetch(held.get()?);
    while let Some(row) = rows.next().await {
        let row = read_row(&row.map_err(writing)?, &columns, &types)?;
        if sender.send(Ok(row)).await.is_err() {
            return Err(Error::interrupted());
        }
    }
    Ok(())
}

async fn simple(connection: &mut PgConnection, text: impl Into<String>) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(dynamic(text))).await.map(drop)
}

/// An open transaction.
struct PostgresTransaction {
    held: Held,
}

impl PostgresTransaction {
    async fn command(&mut self, ctx: &OpContext, text: String) -> Result<()> {
        let connection = self.held.get()?;
        ctx.run(async { simple(connection, text).await.map_err(reading) }).await
    }
}

fn savepoint_name(name: &str) -> Result<String> {
    let mut letters = name.chars();
    let plain = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 63;
    match plain {
        true => Ok(quote_ident(name)),
        false => Err(Error::invalid(format!("\"{name}\" is not a savepoint's name"))
            .with_hint("use letters, digits and _, at most 63, not beginning with a digit")),
    }
}

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn query(&mut self, ctx: &OpContext, statement: Statement) -> Result<Vec<Row>> {
        let connection = self.held.get()?;
        ctx.run(async {
            let Ready { statement, arguments, columns, types } =
                Ready::new(connection, &statement, true).await?;
            statement
                .query_with(arguments)
                .fetch(connection)
                .map_err(reading)
                .and_then(|row| std::future::ready(read_row(&row, &columns, &types)))
                .try_collect()
                .await
        })
        .await
    }

    async fn execute(&mut self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        let connection = self.held.get()?;
        ctx.run(async {
            // Whatever goes wrong, the transaction is not committed by it: nothing happened.
            Ready::new(connection, &statement, false).await?.execute(connection, During::Reading).await
        })
        .await
    }

    async fn savepoint(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        self.command(ctx, format!("SAVEPOINT {}", savepoint_name(name)?)).await
    }

    async fn rollback_to(&mut self, ctx: &OpContext, name: &str) -> Result<()> {
        self.command(ctx, format!("ROLLBACK TO SAVEPOINT {}", savepoint_name(name)?)).await
    }

    async fn commit(mut self: Box<Self>, ctx: &OpContext) -> Result<()> {
        let connection = self.held.get()?;
        // COMMIT of an aborted block answers ROLLBACK, without an error, and the driver does not look at the answer.
        // A savepoint can be set only in a block that is alive.
        ctx.run(async {
            simple(connection, "SAVEPOINT dm_before_commit").await.map_err(|e| {
                match sqlstate(&e).as_deref() {
                    Some("25P02") => Error::new(
                        ErrorKind::Conflict,
                        "the transaction was aborted by an earlier error and is rolled back",
                    ),
                    Some("25P01") => Error::new(
                        ErrorKind::Conflict,
                        "the transaction was ended by one of its own statements",
                    )
                    .with_effect(dm_core::Effect::Unknown),
                    _ => return reading(e),
                }
                .with_source(e)
            })
        })
        .await?;
        let connection = self.held.get()?;
        ctx.run(async { simple(connection, "COMMIT").await.map_err(writing) }).await.map_err(|e| match e
            .kind()
        {
            ErrorKind::Interrupted | ErrorKind::Timeout => e.with_effect(dm_core::Effect::Unknown),
            _ => e,
        })?;
        self.held.give_back();
        Ok(())
    }

    async fn rollback(mut self: Box<Self>, ctx: &OpContext) -> Result<()> {
        self.command(ctx, "ROLLBACK".to_owned()).await?;
        self.held.give_back();
        Ok(())
    }
}
