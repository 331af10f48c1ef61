//! Statements with bound parameters, streaming rows, transactions.

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{OpContext, Result};

/// A value that goes in or comes out. Numbers that do not fit a machine type stay text, so nothing loses precision.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text; also dates, times, decimals and everything else in the engine's own text form.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A JSON document.
    Json(serde_json::Value),
}

impl Value {
    /// The value as JSON: bytes as hexadecimal behind `\x`, non-finite numbers as text.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Float(x) => serde_json::Number::from_f64(*x)
                .map_or_else(|| x.to_string().into(), serde_json::Value::Number),
            Self::Text(t) => t.clone().into(),
            Self::Bytes(b) => format!("\\x{}", hex::encode(b)).into(),
            Self::Json(j) => j.clone(),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => |$x:ident| $to:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from($x: $from) -> Self {
                $to
            }
        }
    )*};
}

value_from! {
    bool => |x| Self::Bool(x),
    i32 => |x| Self::Int(x.into()),
    i64 => |x| Self::Int(x),
    f64 => |x| Self::Float(x),
    &str => |x| Self::Text(x.to_owned()),
    String => |x| Self::Text(x),
    Vec<u8> => |x| Self::Bytes(x),
    serde_json::Value => |x| Self::Json(x),
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(x: Option<T>) -> Self {
        x.map_or(Self::Null, Into::into)
    }
}

/// One statement and its parameters. `?` and `$n` are both understood as placeholders.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text.
    pub text: String,
    /// The parameters, always bound, never spliced into the text.
    pub parameters: Vec<Value>,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), parameters: Vec::new() }
    }

    /// Binds the next parameter.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.parameters.push(value.into());
        self
    }
}

/// A row: column names are shared by position with every row of the same result.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Column names in order.
    pub columns: std::sync::Arc<[String]>,
    /// Values in order.
    pub values: Vec<Value>,
}

impl Row {
    /// The value of a column by name.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.columns.iter().position(|c| c == column).and_then(|i| self.values.get(i))
    }
}

/// Rows as they arrive.
pub type RowStream = BoxStream<'static, Result<Row>>;

/// Transaction isolation, weakest first. An engine may give more than asked, never less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    #[default]
    ReadCommitted,
    /// The whole transaction sees one snapshot.
    RepeatableRead,
    /// As if transactions ran one after the other.
    Serializable,
}

/// Whether a transaction may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// It may.
    #[default]
    ReadWrite,
    /// A write fails.
    ReadOnly,
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TransactionOptions {
    /// Isolation.
    pub isolation: Isolation,
    /// Access.
    pub access: AccessMode,
}

/// An engine that takes statements.
#[async_trait]
pub trait QueryPort: Send + Sync {
    /// Runs a statement that gives rows.
    ///
    /// # Errors
    /// `Invalid` (syntax, types, number of parameters), `Denied`, `Conflict` (constraint, serialisation), `Busy`,
    /// `Unreachable`; also as an item of the stream, which then ends.
    ///
    /// # Cancellation
    /// Dropping the stream stops the statement; what it changed by then is undone by the engine.
    async fn query(&self, ctx: &OpContext, statement: Statement) -> Result<RowStream>;

    /// Runs a statement for its effect; gives the number of rows affected.
    ///
    /// # Errors
    /// As [`query`](Self::query). A connection lost while the statement ran has the effect `Unknown`.
    async fn execute(&self, ctx: &OpContext, statement: Statement) -> Result<u64>;

    /// Begins a transaction on a connection of its own.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`; `Unsupported` for an isolation that the engine lacks.
    async fn begin(&self, ctx: &OpContext, options: TransactionOptions) -> Result<Box<dyn Transaction>>;
}

/// An open transaction. Dropping it rolls it back.
#[async_trait]
pub trait Transaction: Send {
    /// As [`QueryPort::query`], all rows at once (a transaction's connection serves one statement at a time).
    ///
    /// # Errors
    /// As [`QueryPort::query`].
    async fn query(&mut self, ctx: &OpContext, statement: Statement) -> Result<Vec<Row>>;

    /// As [`QueryPort::execute`].
    ///
    /// # Errors
    /// As [`QueryPort::execute`].
    async fn execute(&mut self, ctx: &OpContext, statement: Statement) -> Result<u64>;

    /// Sets a named savepoint (a plain identifier).
    ///
    /// # Errors
    /// `Invalid` for a bad name.
    async fn savepoint(&mut self, ctx: &OpContext, name: &str) -> Result<()>;

    /// Undoes everything since a savepoint; the savepoint stays.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    async fn rollback_to(&mut self, ctx: &OpContext, name: &str) -> Result<()>;

    /// Commits. `Ok` means that the engine confirmed the commit itself, not merely the end of the block.
    ///
    /// # Errors
    /// `Conflict`; `Unreachable` with the effect `Unknown` when the connection was lost meanwhile.
    async fn commit(self: Box<Self>, ctx: &OpContext) -> Result<()>;

    /// Rolls back.
    ///
    /// # Errors
    /// `Unreachable`; the engine has then rolled back by itself.
    async fn rollback(self: Box<Self>, ctx: &OpContext) -> Result<()>;
}
