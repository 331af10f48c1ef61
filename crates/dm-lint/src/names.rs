//! Which tables a statement names.

use std::collections::BTreeSet;

use crate::model::{Action, Column, ConstraintKind, Kind, Statement, Table};
use crate::{Dialect, postgres, sqlite};

/// The tables and views that a statement names, as the grammar has it: folded as the server does, without `public.`. `None` where only
/// the statement's words could tell: it cannot be read, runs code that is a string (`DO`), or is one of SQLite that looks at rows.
#[must_use]
pub fn relations(dialect: Dialect, statement: &str) -> Option<BTreeSet<String>> {
    match dialect {
        Dialect::Postgres => postgres::relations(statement),
        Dialect::Sqlite => {
            let script = sqlite::read(statement);
            match (script.statements.as_slice(), script.unreadable.is_empty()) {
                ([Statement { kind, .. }], true) => of(kind),
                _ => None,
            }
        }
    }
}

/// Of statements that name nothing but what the model keeps.
fn of(kind: &Kind) -> Option<BTreeSet<String>> {
    let names: Vec<&String> = match kind {
        Kind::CreateTable(table) => named_by(table),
        Kind::AlterTable { table, actions } => actions.iter().flat_map(referred).chain([table]).collect(),
        Kind::CreateIndex { table, .. } => vec![table],
        Kind::DropTable { names } | Kind::DropView { names } => names.iter().collect(),
        Kind::Begin | Kind::Commit | Kind::Rollback | Kind::DropIndex { .. } | Kind::Pragma { .. } => {
            Vec::new()
        }
        _ => return None,
    };
    Some(names.into_iter().cloned().collect())
}

fn named_by(table: &Table) -> Vec<&String> {
    let keys = table.constraints.iter().filter_map(|c| foreign(&c.kind));
    table.columns.iter().filter_map(column).chain(keys).chain([&table.name]).collect()
}

fn referred(action: &Action) -> Option<&String> {
    match action {
        Action::AddColumn(added) => column(added),
        Action::AddConstraint(constraint) => foreign(&constraint.kind),
        _ => None,
    }
}

fn column(column: &Column) -> Option<&String> {
    column.references.as_ref()
}

fn foreign(kind: &ConstraintKind) -> Option<&String> {
    match kind {
        ConstraintKind::ForeignKey { references, .. } => Some(references),
        _ => None,
    }
}
