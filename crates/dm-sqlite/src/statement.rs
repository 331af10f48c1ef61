//! Texts, placeholders and values on their way in and out.

use std::sync::Arc;

use dm_core::{Error, Result, Row, Value};
use rusqlite::types::{Null, ValueRef};
use rusqlite::{Connection, Statement};

use crate::error::sqlite;

/// What a statement's first words say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Begins or ends a transaction or savepoint: the port has methods for that.
    Control,
    /// Changes the connection itself, which must not be given to others afterwards.
    Session,
    /// May change rows.
    Rows,
    /// Anything else.
    Other,
}

/// Reads the first words of a statement, past blanks and comments.
pub(crate) fn classify(text: &str) -> Class {
    let (first, rest) = word(text);
    match first.to_ascii_uppercase().as_str() {
        "BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => Class::Control,
        "PRAGMA" | "ATTACH" | "DETACH" => Class::Session,
        "CREATE" if ["TEMP", "TEMPORARY"].iter().any(|t| word(rest).0.eq_ignore_ascii_case(t)) => {
            Class::Session
        }
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "WITH" => Class::Rows,
        _ => Class::Other,
    }
}

fn word(text: &str) -> (&str, &str) {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(after) = rest.strip_prefix("--") {
            rest = after.find('\n').map_or("", |end| &after[end..]);
        } else if let Some(after) = rest.strip_prefix("/*") {
            rest = after.find("*/").map_or("", |end| &after[end + 2..]);
        } else {
            break;
        }
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    rest.split_at(end)
}

/// The error for a text that belongs to the transaction methods.
pub(crate) fn control_refused() -> Error {
    Error::invalid("transactions and savepoints are not begun or ended by text")
        .with_hint("use the methods begin, commit, rollback, savepoint and rollback_to")
}

/// Prepares a statement and binds its parameters: `?` by position, `?n` and `$n` by number.
pub(crate) fn prepare<'c>(
    connection: &'c Connection,
    statement: &dm_core::Statement,
) -> Result<Statement<'c>> {
    let mut prepared = connection.prepare(&statement.text).map_err(sqlite)?;
    let given = statement.parameters.len();
    let count = prepared.parameter_count();
    let mut numbers = Vec::with_capacity(count);
    let (mut dollars, mut marks, mut most) = (false, false, 0);
    for index in 1..=count {
        let number = match prepared.parameter_name(index) {
            // A bare `?`, or a gap below a `?n`: SQLite numbers both by position.
            None => {
                marks = true;
                index
            }
            Some(name) if name.starts_with('?') => {
                marks = true;
                index
            }
            Some(name) => {
                dollars = true;
                name.strip_prefix('$')
                    .and_then(|digits| digits.parse().ok())
                    .filter(|number| *number > 0)
                    .ok_or_else(|| {
                        Error::invalid(format!("\"{name}\" is not a placeholder that is understood here"))
                            .with_hint("use ? or $1, $2 ...")
                    })?
            }
        };
        most = most.max(number);
        numbers.push(number);
    }
    if dollars && marks {
        return Err(
            Error::invalid("the statement mixes ? and $n placeholders").with_hint("use one of the two")
        );
    }
    if most != given {
        return Err(Error::invalid(format!("the statement has {most} parameters, {given} values are given")));
    }
    for (at, number) in numbers.into_iter().enumerate() {
        bind(&mut prepared, at + 1, &statement.parameters[number - 1])?;
    }
    Ok(prepared)
}

fn bind(prepared: &mut Statement<'_>, index: usize, value: &Value) -> Result<()> {
    let bound = match value {
        Value::Null => prepared.raw_bind_parameter(index, Null),
        Value::Bool(b) => prepared.raw_bind_parameter(index, i64::from(*b)),
        Value::Int(i) => prepared.raw_bind_parameter(index, i),
        Value::Float(x) if x.is_nan() => {
            return Err(Error::invalid("sqlite cannot hold NaN: it would silently become NULL")
                .with_hint("bind NULL, or the text 'NaN'"));
        }
        Value::Float(x) => prepared.raw_bind_parameter(index, x),
        Value::Text(text) => prepared.raw_bind_parameter(index, text.as_str()),
        Value::Bytes(bytes) => prepared.raw_bind_parameter(index, bytes.as_slice()),
        Value::Json(json) => prepared.raw_bind_parameter(index, json.to_string()),
        other => return Err(Error::unsupported(format!("{other:?} cannot be bound in sqlite"))),
    };
    bound.map_err(sqlite)
}

/// The column names of a prepared statement.
pub(crate) fn columns(prepared: &Statement<'_>) -> Arc<[String]> {
    prepared.column_names().into_iter().map(str::to_owned).collect()
}

/// One row. Text that is not UTF-8 comes as bytes, for nothing may be lost.
pub(crate) fn row(columns: &Arc<[String]>, row: &rusqlite::Row<'_>) -> Result<Row> {
    let mut values = Vec::with_capacity(columns.len());
    for index in 0..columns.len() {
        values.push(match row.get_ref(index).map_err(sqlite)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(i) => Value::Int(i),
            ValueRef::Real(x) => Value::Float(x),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Bytes(text.to_vec()),
            },
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        });
    }
    Ok(Row { columns: Arc::clone(columns), values })
}

/// Runs a statement to its end for its effect; gives the number of rows it changed.
pub(crate) fn execute(connection: &Connection, statement: &dm_core::Statement) -> Result<u64> {
    let mut prepared = prepare(connection, statement)?;
    {
        let mut rows = prepared.raw_query();
        while rows.next().map_err(sqlite)?.is_some() {}
    }
    // sqlite3_changes keeps the count of the last statement that had one.
    let counts = classify(&statement.text) == Class::Rows && !prepared.readonly();
    Ok(if counts { connection.changes() } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_words() {
        assert_eq!(classify(" /* x */ -- y\n begin"), Class::Control);
        assert_eq!(classify("create temp table t(x)"), Class::Session);
        assert_eq!(classify("create table temp(x)"), Class::Other);
        assert_eq!(classify("with a as (select 1) select * from a"), Class::Rows);
        assert_eq!(classify("beginning"), Class::Other);
        assert_eq!(classify("; ; PRAGMA x"), Class::Session);
        assert_eq!(classify("/* never ends"), Class::Other);
    }

    #[test]
    fn placeholders_map_by_number() {
        let connection = Connection::open_in_memory().unwrap();
        let ask = |text: &str, values: &[i64]| {
            let mut statement = dm_core::Statement::new(text);
            for v in values {
                statement = statement.bind(*v);
            }
            let mut prepared = prepare(&connection, &statement)?;
            let mut rows = prepared.raw_query();
            let row = rows.next().unwrap().unwrap();
            Ok::<(i64, i64), Error>((row.get(0).unwrap(), row.get(1).unwrap()))
        };
        assert_eq!(ask("select ?, ?", &[1, 2]).unwrap(), (1, 2));
        assert_eq!(ask("select $2, $1", &[1, 2]).unwrap(), (2, 1));
        assert_eq!(ask("select ?2, ?1", &[1, 2]).unwrap(), (2, 1));
        assert_eq!(ask("select $1, $1", &[7]).unwrap(), (7, 7));
        for (text, values) in [
            ("select ?, ?", &[1][..]),
            ("select $1, $1", &[1, 2]),
            ("select $1, ?", &[1, 2]),
            ("select :a, 1", &[1]),
            ("select $0, 1", &[]),
            ("select 1, 2; select 3", &[]),
        ] {
            assert_eq!(ask(text, values).unwrap_err().kind(), dm_core::ErrorKind::Invalid, "{text}");
        }
    }
}
