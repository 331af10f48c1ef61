//! Columns that are added and changed.

use crate::finding::Dialect;
use crate::lint::{Findings, View};
use crate::locks::is_serial;
use crate::model::{Action, Column, Generated, Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (number, statement) in view.each() {
        let Kind::AlterTable { table, actions } = &statement.kind else { continue };
        if view.is_new(table, number) {
            continue;
        }
        for action in actions {
            match action {
                Action::AddColumn(column) => added(view, statement, table, column, findings),
                Action::SetType { column, data_type, using } => {
                    typed(statement, table, column, data_type, *using, findings);
                }
                Action::RenameColumn { from, to } => findings.add(
                    "rename-column",
                    statement,
                    Some(table),
                    format!("whoever runs the old code asks {table} for {from}"),
                    renamed_column(view.dialect, table, from, to),
                ),
                Action::RenameTable { to } => findings.add(
                    "rename-table",
                    statement,
                    Some(table),
                    format!("whoever runs the old code asks for {table}"),
                    format!(
                        "ALTER TABLE {table} RENAME TO {to};\nCREATE VIEW {table} AS SELECT * FROM {to};\n\
                         -- and drop the view when nobody asks for it any more"
                    ),
                ),
                _ => {}
            }
        }
    }
}

fn renamed_column(dialect: Dialect, table: &str, from: &str, to: &str) -> String {
    let kind = if dialect == Dialect::Sqlite { "<type>" } else { "<its type>" };
    format!(
        "ALTER TABLE {table} ADD COLUMN {to} {kind};\n\
         -- let the application write both, fill {to} with `dm migrate backfill`, let it read {to}, then drop {from}"
    )
}

fn added(view: &View<'_>, statement: &Statement, table: &str, column: &Column, findings: &mut Findings<'_>) {
    let Column { name, data_type, .. } = column;
    let postgres = view.dialect == Dialect::Postgres;
    // What the column is filled with is known from a default, an expression or a sequence.
    let filled = column.default.is_some() || column.generated.is_some() || is_serial(data_type);
    if (column.not_null || column.primary) && !filled {
        let rewrite = match postgres {
            true => format!(
                "ALTER TABLE {table} ADD COLUMN {name} {data_type} NOT NULL DEFAULT <value>;\n\
                 -- or: ADD COLUMN {name} {data_type}, fill it with `dm migrate backfill`, then SET NOT NULL"
            ),
            false => format!("ALTER TABLE {table} ADD COLUMN {name} {data_type} NOT NULL DEFAULT <value>;"),
        };
        let message = format!("{table} has rows, and nothing says what their {name} is");
        findings.add("required-column-without-default", statement, Some(table), message, rewrite);
    }
    if !postgres {
        return;
    }
    let in_steps = |last: &str| {
        format!(
            "ALTER TABLE {table} ADD COLUMN {name} {data_type};\n{last}\n\
             -- then: dm migrate backfill <name> --table {table} --set \"{name} = …\""
        )
    };
    if let Some(default) = &column.default
        && let Some(function) = &default.volatile
    {
        findings.add(
            "volatile-default",
            statement,
            Some(table),
            format!("{function} gives every row of {table} another value, so every row is written"),
            in_steps(&format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {};", default.text)),
        );
    }
    match column.generated {
        Some(Generated::Stored) => findings.add(
            "stored-generated-column",
            statement,
            Some(table),
            format!("{name} is computed and written for every row of {table}"),
            format!(
                "ALTER TABLE {table} ADD COLUMN {name} {data_type};\n\
                 -- keep it right with a trigger, and fill it with `dm migrate backfill`; from PostgreSQL 18 on VIRTUAL needs neither"
            ),
        ),
        Some(Generated::Identity) => serial(statement, table, column, findings),
        _ if is_serial(data_type) => serial(statement, table, column, findings),
        _ => {}
    }
}

fn serial(statement: &Statement, table: &str, column: &Column, findings: &mut Findings<'_>) {
    let name = &column.name;
    findings.add(
        "serial-column",
        statement,
        Some(table),
        format!("{name} is numbered and written for every row of {table}"),
        format!(
            "CREATE SEQUENCE {table}_{name}_seq;\nALTER TABLE {table} ADD COLUMN {name} bigint;\n\
             ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT nextval('{table}_{name}_seq');\n\
             -- then: dm migrate backfill <name> --table {table} --set \"{name} = nextval('{table}_{name}_seq')\" --where \"{name} IS NULL\""
        ),
    );
}

fn typed(
    statement: &Statement,
    table: &str,
    column: &str,
    data_type: &str,
    using: bool,
    findings: &mut Findings<'_>,
) {
    // Dropping a length limit changes the catalogue alone.
    if !using && matches!(data_type, "text" | "varchar" | "character varying") {
        return;
    }
    findings.add(
        "type-change",
        statement,
        Some(table),
        format!("{table} is rewritten while {column} becomes {data_type}"),
        format!(
            "ALTER TABLE {table} ADD COLUMN {column}_new {data_type};\n\
             -- keep it in step with a trigger, fill it with `dm migrate backfill <name> --table {table} --set \"{column}_new = {column}::{data_type}\"`,\n\
             -- then in one short transaction: drop {column}, rename {column}_new to {column}"
        ),
    );
}
