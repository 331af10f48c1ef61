//! Recording the changes of rows in the engine itself, in the transaction that makes them.
//!
//! An engine that can do so writes each change of a table into an *outbox* of its own, beside the change: both are there or
//! neither is. Whoever keeps the trail takes the changes over from there and then confirms them. A change that was taken
//! over and not confirmed comes again, the same in every field: whoever takes it over knows it by that.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{Error, OpContext, Result};

/// A table by its name, with its schema where there are schemas. Written `orders`, `public.orders`; a part with a dot or a
/// quote in it in double quotes: `"my.schema"."we""ird"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    /// The schema; the engine looks where statements look when `None`.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

impl TableName {
    /// A name without a schema.
    pub fn bare(name: impl Into<String>) -> Self {
        Self { schema: None, name: name.into() }
    }

    /// A name in a schema.
    pub fn of(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: Some(schema.into()), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &str| match text.contains(['.', '"']) || text.is_empty() {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        match &self.schema {
            Some(schema) => write!(f, "{}.{}", part(schema), part(&self.name)),
            None => f.write_str(&part(&self.name)),
        }
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("\"{text}\" is not the name of a table, which is table or schema.table"))
                .with_hint("a part with a dot or a quote in it stands in double quotes")
        };
        let mut parts = vec![String::new()];
        let mut quoted = false;
        let mut characters = text.chars().peekable();
        while let Some(c) = characters.next() {
            let part = parts.last_mut().ok_or_else(bad)?;
            match c {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    part.push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                '\0' => return Err(bad()),
                c => part.push(c),
            }
        }
        if quoted || parts.iter().any(String::is_empty) {
            return Err(bad());
        }
        match <[String; 1]>::try_from(parts) {
            Ok([name]) => Ok(Self { schema: None, name }),
            Err(parts) => {
                let [schema, name] = <[String; 2]>::try_from(parts).map_err(|_| bad())?;
                Ok(Self { schema: Some(schema), name })
            }
        }
    }
}

impl TryFrom<String> for TableName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

/// Which table to record, and what of it not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// The table.
    pub table: TableName,
    /// Columns whose values are in no record; that one changed is.
    pub exclude: Vec<String>,
    /// Columns whose values stand as `***` in the record, or as null where they are.
    pub mask: Vec<String>,
    /// Columns of whose values the record has a digest under a key that never leaves the engine: the same value gives the
    /// same digest, and whoever has only the record cannot try values out.
    pub digest: Vec<String>,
}

impl CaptureRequest {
    /// All of a table.
    #[must_use]
    pub fn of(table: TableName) -> Self {
        Self { table, exclude: Vec::new(), mask: Vec::new(), digest: Vec::new() }
    }

    /// Checks the columns against those of the table: each is there, and none is named for two treatments.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn check_columns(&self, columns: &[String]) -> Result<()> {
        let mut seen = Vec::new();
        for column in [&self.exclude, &self.mask, &self.digest].into_iter().flatten() {
            if !columns.contains(column) {
                return Err(Error::not_found(format!("{} has no column \"{column}\"", self.table))
                    .with_hint(format!("it has {}", columns.join(", "))));
            }
            if seen.contains(&column) {
                return Err(Error::invalid(format!("the column \"{column}\" is named twice"))
                    .with_hint("a column is excluded, masked or digested, not two of them"));
            }
            seen.push(column);
        }
        Ok(())
    }
}

/// A table whose changes are recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedTable {
    /// The table, by the name it had when the recording was installed.
    pub table: TableName,
    /// Columns whose values are in no record.
    pub exclude: Vec<String>,
    /// Columns whose values stand as `***`.
    pub mask: Vec<String>,
    /// Columns whose values stand as a digest.
    pub digest: Vec<String>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// What keeps changes from being recorded, or records them otherwise than was asked for; a sentence each.
    pub problems: Vec<String>,
}

/// What an engine records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// The tables, by name.
    pub tables: Vec<CapturedTable>,
    /// Changes that wait to be taken over.
    pub waiting: u64,
    /// When the oldest of them was made.
    pub oldest: Option<DateTime<Utc>>,
    /// What is wrong with the recording as a whole; a sentence each.
    pub problems: Vec<String>,
}

impl CaptureStatus {
    /// Whether everything is recorded as it was asked for.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.tables.iter().all(|t| t.problems.is_empty())
    }
}

/// What was done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Insert,
    /// It has other values.
    Update,
    /// It is gone.
    Delete,
    /// All rows of the table are gone at once.
    Truncate,
}

impl ChangeKind {
    /// The kind by its word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        Some(match word {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "truncate" => Self::Truncate,
            _ => return None,
        })
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// A recorded change that waits to be taken over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowChange {
    /// Where it waits, for [`CaptureSource::confirm`] only.
    #[serde(skip)]
    pub key: String,
    /// What the engine's outbox names it by: never used twice, also not after a restore of the database.
    pub id: String,
    /// When it was made, by the engine's clock.
    pub at: Option<DateTime<Utc>>,
    /// The table, as it was installed.
    pub table: Option<TableName>,
    /// The partition that the row is or was in, where that has a name of its own.
    pub partition: Option<TableName>,
    /// What was done; `None` for a row of the outbox that no recording writes.
    pub kind: Option<ChangeKind>,
    /// The row before, an object by columns.
    pub before: Option<Json>,
    /// The row afterwards.
    pub after: Option<Json>,
    /// Columns with another value than before, excluded ones too.
    pub changed: Vec<String>,
    /// The user that the application said it acted for.
    pub user: Option<String>,
    /// The engine's own user that made the change, where it has users.
    pub role: Option<String>,
    /// The transaction, as far as the engine names it.
    pub transaction: Option<String>,
    /// Its place within the transaction.
    pub ordinal: i64,
    /// Why it is not what a recording writes: somebody else wrote to the outbox.
    pub defect: Option<String>,
}

/// An engine that records changes.
#[async_trait]
pub trait CaptureSource: Send + Sync {
    /// Records the changes of a table from now on. What was installed before is brought to what is asked for now: repeating
    /// it is no change. All of it happens in one transaction.
    ///
    /// # Errors
    /// `NotFound` for a table or a column that is not there, `Unsupported` for what cannot be recorded, `Invalid`, `Denied`,
    /// `Busy`, `Unreachable`.
    async fn install(&self, ctx: &OpContext, request: &CaptureRequest) -> Result<CapturedTable>;

    /// What is recorded, and whether it is. Reads only; nothing at all where nothing was ever installed.
    ///
    /// # Errors
    /// `Denied`, `Unreachable`.
    async fn status(&self, ctx: &OpContext) -> Result<CaptureStatus>;

    /// Ends the recording of a table. What it recorded waits on.
    ///
    /// # Errors
    /// `NotFound` when it is not recorded; `Denied`, `Busy`, `Unreachable`.
    async fn remove(&self, ctx: &OpContext, table: &TableName) -> Result<()>;

    /// Takes away everything that recording needs in the database, unless a table is recorded or a change waits. Gives
    /// whether nothing is left.
    ///
    /// # Errors
    /// `Denied`, `Busy`, `Unreachable`.
    async fn clear_away(&self, ctx: &OpContext) -> Result<bool>;

    /// Changes that wait, those of a transaction in their order: at most so many, and at most so many bytes unless a single
    /// one is larger. None is lost when more transactions commit meanwhile, in whatever order: a change waits until it is
    /// confirmed.
    ///
    /// # Errors
    /// `Denied`, `Unreachable`. What somebody else wrote into the outbox is no error but a change with a
    /// [`defect`](RowChange::defect).
    async fn waiting(&self, ctx: &OpContext, most: u32, most_bytes: u64) -> Result<Vec<RowChange>>;

    /// Takes changes out of the outbox that are durable elsewhere, by their [`key`](RowChange::key)s. Idempotent.
    ///
    /// # Errors
    /// `Denied`, `Busy`, `Unreachable`; they then come again.
    async fn confirm(&self, ctx: &OpContext, keys: &[String]) -> Result<()>;
}

/// Reads JSON whose numbers may have more digits than a machine number holds: those become text, digit for digit.
///
/// # Errors
/// `Corrupt` for what is not JSON.
pub fn exact_json(text: &str) -> Result<Json> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        if in_string {
            let taken =
                if c == '\\' { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { c.len_utf8() };
            in_string = c != '"';
            out.push_str(&rest[..taken]);
            rest = &rest[taken..];
        } else if c.is_ascii_digit() || c == '-' {
            let number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
            let end = rest.find(|c| !number(c)).unwrap_or(rest.len());
            match fits(&rest[..end]) {
                true => out.push_str(&rest[..end]),
                false => out.extend(["\"", &rest[..end], "\""]),
            }
            rest = &rest[end..];
        } else {
            in_string = c == '"';
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    serde_json::from_str(&out).map_err(|e| Error::corrupt("a recorded row is not JSON").with_source(e))
}

/// Whether a machine number gives back the same digits. What is no number at all is left to the reader to refuse.
fn fits(number: &str) -> bool {
    let Ok(value) = number.parse::<f64>() else { return true };
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok();
    }
    // Up to fifteen significant digits always survive.
    let digits = number.split(['e', 'E']).next().unwrap_or_default().trim_start_matches('-').replace('.', "");
    value.is_finite() && (digits.trim_start_matches('0').len() <= 15 || value.to_string() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, schema, name) in [
            ("orders", None, "orders"),
            ("public.orders", Some("public"), "orders"),
            ("\"a.b\".\"we\"\"ird; DROP TABLE x\"", Some("a.b"), "we\"ird; DROP TABLE x"),
            ("Größe", None, "Größe"),
        ] {
            let read: TableName = text.parse().unwrap();
            assert_eq!((read.schema.as_deref(), read.name.as_str()), (schema, name));
            assert_eq!(read.to_string().parse::<TableName>().unwrap(), read);
        }
        for bad in ["", ".", "a.", ".a", "a.b.c", "\"a", "a\0b", "\"\""] {
            assert!(bad.parse::<TableName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let read = exact_json(
            r#"{"a": 12345678901234567890.123456789, "b": 1.5, "c": -7, "d": "9\"99999999999999999999", "e": 1e400,
                "f": 99999999999999999999, "g": 0.1}"#,
        );
        let expected = serde_json::json!({
            "a": "12345678901234567890.123456789", "b": 1.5, "c": -7, "d": "9\"99999999999999999999", "e": "1e400",
            "f": "99999999999999999999", "g": 0.1
        });
        assert_eq!(read.unwrap(), expected);
        assert!(exact_json("{\"a\": ").is_err() && exact_json("\"\\").is_err() && exact_json("--").is_err());
    }

    #[test]
    fn columns_are_there_and_treated_once() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let mut request = CaptureRequest::of(TableName::bare("t"));
        request.mask = vec!["b".to_owned()];
        assert!(request.check_columns(&columns).is_ok());
        request.exclude = vec!["b".to_owned()];
        assert_eq!(request.check_columns(&columns).unwrap_err().kind(), crate::ErrorKind::Invalid);
        request.exclude = vec!["c".to_owned()];
        assert_eq!(request.check_columns(&columns).unwrap_err().kind(), crate::ErrorKind::NotFound);
    }
}
