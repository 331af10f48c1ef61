//! Types and names that are regretted later.

use crate::lint::{Findings, View};
use crate::model::{Action, Column, ConstraintKind, Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (_, statement) in view.each() {
        match &statement.kind {
            Kind::CreateTable(table) => {
                for column in &table.columns {
                    let keyed = table.constraints.iter().any(|c| {
                        matches!(&c.kind, ConstraintKind::PrimaryKey { columns, .. } if columns.contains(&column.name))
                    });
                    typed(statement, &table.name, column, column.primary || keyed, findings);
                }
            }
            Kind::AlterTable { table, actions } => {
                for action in actions {
                    if let Action::AddColumn(column) = action {
                        typed(statement, table, column, column.primary, findings);
                    }
                }
            }
            Kind::AddEnumValue { of, value, positioned: false } => findings.add(
                "enum-value-without-position",
                statement,
                None,
                format!("{value} becomes the last value of {of}"),
                format!("ALTER TYPE {of} ADD VALUE {value} AFTER '<the value before it>';"),
            ),
            _ => {}
        }
        for name in &statement.too_long {
            let cut =
                name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 63).last();
            findings.add(
                "identifier-too-long",
                statement,
                None,
                format!("{name} has {} bytes", name.len()),
                format!(
                    "a name of at most 63 bytes; the server would make of it {}",
                    &name[..cut.unwrap_or(0)]
                ),
            );
        }
    }
}

fn typed(statement: &Statement, table: &str, column: &Column, key: bool, findings: &mut Findings<'_>) {
    let Column { name, data_type, .. } = column;
    let bare = data_type.split('(').next().unwrap_or_default().trim();
    let mut regret = |rule, message: String, instead: &str| {
        findings.add(rule, statement, Some(table), message, format!("{name} {instead}"));
    };
    match bare {
        "int" | "integer" | "int4" | "serial" | "serial4" | "smallint" | "int2" | "smallserial"
        | "serial2"
            if key =>
        {
            regret(
                "int32-key",
                format!("the key {table}.{name} is {data_type}"),
                "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            );
        }
        "json" => regret("json-type", format!("{table}.{name} is json"), "jsonb"),
        "char" | "character" | "nchar" | "bpchar" => {
            regret(
                "char-type",
                format!("{table}.{name} is {data_type}"),
                "text  -- with a CHECK on its length",
            );
        }
        // The precision may stand between the words.
        "timestamp" | "timestamp without time zone" if !data_type.contains("with time zone") => {
            regret("naive-timestamp", format!("{table}.{name} is {data_type}"), "timestamptz");
        }
        _ => {}
    }
}
