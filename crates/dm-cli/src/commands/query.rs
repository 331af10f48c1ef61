//! `dm query`.

use data_manager::{AccessMode, DataManager, Error, Result, Row, Statement, TransactionOptions, Value};
use serde_json::Value as Json;

use crate::args::QueryArgs;
use crate::exit::Exit;
use crate::output::{Format, Table, text};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: QueryArgs) -> Result<Exit> {
    if args.lines.json_lines {
        session.out.set_format(Format::JsonLines);
    }
    let statement = args
        .parameters
        .iter()
        .fold(Statement::new(args.statement), |statement, text| statement.bind(value(text)));
    let ctx = session.quiet_context(dm);
    let access = if args.write { AccessMode::ReadWrite } else { AccessMode::ReadOnly };
    let options = TransactionOptions { access, ..TransactionOptions::default() };
    let mut transaction = dm.begin(&ctx, args.engine.as_ref(), options).await?;
    if args.write {
        let affected = ctx.run(transaction.execute(&ctx, statement)).await?;
        transaction.commit(&ctx).await?;
        session.out.document("change", &[("affected_rows", &affected)])?;
        session.out.say(format!("{} affected", text::count(affected, "row")))?;
        return Ok(Exit::Done);
    }
    let rows = ctx.run(transaction.query(&ctx, statement)).await.map_err(read_only_hint);
    let ended = transaction.rollback(&ctx).await;
    let rows = rows?;
    ended?;
    answer(session, &rows)?;
    Ok(Exit::Done)
}

/// A value as JSON where it is JSON, as text otherwise.
fn value(text: &str) -> Value {
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Null) => Value::Null,
        Ok(Json::Bool(b)) => Value::Bool(b),
        Ok(Json::Number(n)) => match (n.as_i64(), n.as_f64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(float)) => Value::Float(float),
            (None, None) => Value::Text(text.to_owned()),
        },
        Ok(Json::String(s)) => Value::Text(s),
        Ok(json) => Value::Json(json),
        Err(_) => Value::Text(text.to_owned()),
    }
}

/// Says how to write, where the refusal comes from our own reading transaction.
fn read_only_hint(error: Error) -> Error {
    let said = error.full_message().to_lowercase();
    if said.contains("read-only") || said.contains("readonly") {
        return error.with_hint("dm query only reads, unless --write is given");
    }
    error
}

fn answer(session: &mut Session, rows: &[Row]) -> Result<()> {
    let columns: Vec<String> = rows.first().map(|row| row.columns.to_vec()).unwrap_or_default();
    let values = |row: &Row| -> Vec<Json> { row.values.iter().map(Value::to_json).collect() };
    match session.out.format() {
        Format::Human if rows.is_empty() => session.out.say("no rows"),
        Format::Human => {
            let numbers = |i: usize| {
                rows.iter()
                    .all(|r| matches!(r.values.get(i), Some(Value::Int(_) | Value::Float(_) | Value::Null)))
            };
            let head =
                columns.iter().enumerate().map(|(i, c)| if numbers(i) { format!(">{c}") } else { c.clone() });
            let mut table = Table::new(head);
            for row in rows {
                table.row(row.values.iter().map(cell));
            }
            session.out.table(&table)?;
            session.out.say(format!("({})", text::count(rows.len() as u64, "row")))
        }
        Format::Json => {
            let rows: Vec<Vec<Json>> = rows.iter().map(values).collect();
            session.out.document("rows", &[("columns", &columns), ("rows", &rows)])
        }
        Format::JsonLines => {
            for row in rows {
                let object = columns.iter().cloned().zip(values(row)).collect();
                session.out.json(&Json::Object(object))?;
                if session.out.stdout().is_closed() {
                    break;
                }
            }
            Ok(())
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => text.clone(),
        other => match other.to_json() {
            Json::String(text) => text,
            json => json.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_json_where_they_are_json() {
        assert_eq!(value("5"), Value::Int(5));
        assert_eq!(value("\"5\""), Value::Text("5".into()));
        assert_eq!(value("null"), Value::Null);
        assert_eq!(value("O'Brien"), Value::Text("O'Brien".into()));
    }
}
