//! Statements put together from fixed fragments, and rows taken apart. This is the only place that vouches for a
//! statement's text: fragments are `&'static str`, everything else is bound.

use chrono::{DateTime, Utc};
use dm_core::{Error, Result};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Arguments, AssertSqlSafe, Encode, Executor, Row, Type};

use crate::dialect::Dialect;
use crate::error;

/// A query for PostgreSQL's own driver.
pub(crate) fn of_postgres(fragments: &[&'static str]) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(fragments.concat()))
}

/// The direction of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}

impl Order {
    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Newest => " DESC",
            Self::Oldest => " ASC",
        }
    }

    pub(crate) fn beyond(self) -> &'static str {
        match self {
            Self::Newest => " < ",
            Self::Oldest => " > ",
        }
    }
}

/// A page of a list: so many entries beyond a cursor. A cursor is what the last entry of the page before gave, so
/// that a page costs the same wherever it is, and entries that come meanwhile move nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<C> {
    /// Where the page before ended; `None` for the first.
    pub after: Option<C>,
    /// The most entries to give; at least 1 and at most 10,000 are taken.
    pub limit: u32,
    /// The direction.
    pub order: Order,
}

impl<C> Default for Page<C> {
    fn default() -> Self {
        Self { after: None, limit: 100, order: Order::Newest }
    }
}

impl<C> Page<C> {
    pub(crate) fn limit(&self) -> i64 {
        i64::from(self.limit.clamp(1, 10_000))
    }
}

/// A statement under construction.
#[derive(Default)]
pub(crate) struct Sql {
    text: String,
    arguments: AnyArguments,
    failed: bool,
    once: bool,
    committing: bool,
    in_order: bool,
}

impl Sql {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// Says that this text will hardly be run again, so that it does not push others out of the statement cache.
    pub(crate) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Writes the placeholders of [`value`](Self::value) in the way that many of them cost least.
    pub(crate) fn in_order(mut self, dialect: Dialect) -> Self {
        self.in_order = dialect.values_in_order();
        self
    }

    /// Says that this statement is a transaction by itself: when the connection is lost meanwhile, nobody knows
    /// whether it happened, and a retry might do it twice.
    pub(crate) fn committing(mut self) -> Self {
        self.committing = true;
        self
    }

    fn mapper(&self) -> fn(sqlx::Error) -> Error {
        if self.committing { error::map_commit } else { error::map }
    }

    pub(crate) fn push(mut self, fragment: &'static str) -> Self {
        self.text.push_str(fragment);
        self
    }

    /// Binds the next value, for a text that names its placeholders itself.
    pub(crate) fn bind<'t, T: Encode<'t, Any> + Type<Any>>(mut self, value: T) -> Self {
        self.failed |= self.arguments.add(value).is_err();
        self
    }

    /// Appends the next placeholder and binds its value.
    pub(crate) fn value<'t, T: Encode<'t, Any> + Type<Any>>(mut self, value: T) -> Self {
        self = self.bind(value);
        match self.in_order {
            true => self.text.push('?'),
            false => {
                self.text.push('$');
                self.text.push_str(&self.arguments.len().to_string());
            }
        }
        self
    }

    /// Appends ` AND <fragment> $n` when there is a value.
    pub(crate) fn and<'t, T: Encode<'t, Any> + Type<Any>>(
        self,
        fragment: &'static str,
        value: Option<T>,
    ) -> Self {
        match value {
            Some(value) => self.push(" AND ").push(fragment).value(value),
            None => self,
        }
    }

    fn build(self) -> Result<Query<'static, Any, AnyArguments>> {
        if self.failed {
            return Err(Error::internal("a value cannot be bound"));
        }
        Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments).persistent(!self.once))
    }

    pub(crate) async fn execute<'e>(self, on: impl Executor<'e, Database = Any>) -> Result<u64> {
        let map = self.mapper();
        Ok(self.build()?.execute(on).await.map_err(map)?.rows_affected())
    }

    pub(crate) async fn all<'e>(self, on: impl Executor<'e, Database = Any>) -> Result<Vec<AnyRow>> {
        let map = self.mapper();
        self.build()?.fetch_all(on).await.map_err(map)
    }

    pub(crate) async fn optional<'e>(self, on: impl Executor<'e, Database = Any>) -> Result<Option<AnyRow>> {
        // All rows, not the first: an INSERT … RETURNING must run to its end on SQLite to have happened at all.
        Ok(self.all(on).await?.into_iter().next())
    }

    pub(crate) async fn one<'e>(self, on: impl Executor<'e, Database = Any>) -> Result<AnyRow> {
        self.optional(on).await?.ok_or_else(|| Error::internal("a statement gave no row"))
    }

    /// Rows up to the first that cannot be read, and why it cannot.
    pub(crate) async fn readable<'e>(
        self,
        on: impl Executor<'e, Database = Any>,
    ) -> Result<(Vec<AnyRow>, Option<String>)> {
        let mut rows = Vec::new();
        let why = self.each(on, |row| {
            rows.push(row);
            Ok(())
        });
        let why = why.await?;
        Ok((rows, why))
    }

    /// Hands over each row as it arrives, up to the first that cannot be read or is refused; gives why.
    pub(crate) async fn each<'e>(
        self,
        on: impl Executor<'e, Database = Any>,
        mut take: impl FnMut(AnyRow) -> Result<()> + Send,
    ) -> Result<Option<String>> {
        use futures::TryStreamExt;
        let query = self.build()?;
        let mut stream = query.fetch(on);
        loop {
            match stream.try_next().await {
                Ok(Some(row)) => {
                    if let Err(refused) = take(row) {
                        return Ok(Some(refused.to_string()));
                    }
                }
                Ok(None) => return Ok(None),
                Err(e) if error::is_unreadable(&e) => return Ok(Some(e.to_string())),
                Err(e) => return Err(error::map(e)),
            }
        }
    }
}

/// Runs a fixed text of one or several statements, without binds.
pub(crate) async fn run_script(connection: &mut AnyConnection, text: &'static str) -> Result<()> {
    sqlx::raw_sql(text).execute(connection).await.map_err(error::map)?;
    Ok(())
}

/// Takes the columns of a row one after the other.
pub(crate) struct Columns<'r> {
    row: &'r AnyRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(crate) fn new(row: &'r AnyRow) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn take<T: sqlx::Decode<'r, Any> + Type<Any>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index).map_err(error::map)
    }

    pub(crate) fn time(&mut self) -> Result<DateTime<Utc>> {
        time(self.take()?)
    }

    pub(crate) fn optional_time(&mut self) -> Result<Option<DateTime<Utc>>> {
        self.take::<Option<i64>>()?.map(time).transpose()
    }
}

/// Microseconds of UTC as a column holds them.
pub(crate) fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

pub(crate) fn time(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| Error::corrupt(format!("{micros} µs is not an instant of the calendar")))
}

/// A text column that holds the name of an enum's variant, as serde writes it.
pub(crate) fn variant<T: serde::de::DeserializeOwned>(text: String) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(text))
        .map_err(|e| Error::corrupt("a word of the store is not known").with_source(e))
}

/// The name of an enum's variant, as serde writes it.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(Error::internal("a value has no single word")),
    }
}

/// Text for a column: PostgreSQL takes no NUL in it, and both engines are to hold the same.
pub(crate) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// JSON for a text column.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::internal("a value cannot be written as JSON").with_source(e))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::corrupt("JSON in the store cannot be read").with_source(e))
}
