//! The reader of SQLite's SQL, over `sqlite3-parser`: SQLite's own grammar file, compiled to Rust.

use sqlite3_parser::ast::{
    AlterTableBody, Cmd, ColumnConstraint, ColumnDefinition, CreateTableBody, Expr, Name,
    NamedTableConstraint, QualifiedName, Stmt, TableConstraint,
};
use sqlite3_parser::lexer::sql::{Error, Parser};
use sqlite3_parser::{Bump, FallibleIterator};

use crate::comments::{offset_of, skip_blank};
use crate::model::{
    Action, Column, ColumnDefault, Constraint, ConstraintKind, Generated, Kind, Script, Statement, Table,
    Unreadable,
};

/// Reads a text up to the first thing that SQLite would not read: it stops there, too.
pub(crate) fn read(text: &str) -> Script {
    let bump = Bump::new();
    let mut parser = Parser::new(&bump, text.as_bytes());
    let mut script = Script::default();
    let mut end = 0;
    loop {
        let offset = skip_blank(text, end);
        match parser.next() {
            Ok(Some(command)) => {
                let position = parser.position();
                end = offset_of(text, position.line, position.column).max(offset);
                let written = text.get(offset..end).unwrap_or_default();
                script.statements.push(Statement {
                    offset,
                    end,
                    text: written.trim_end().trim_end_matches(';').trim_end().to_owned(),
                    kind: kind(&command),
                    too_long: Vec::new(),
                });
            }
            Ok(None) => return script,
            Err(error) => {
                script.unreadable.push(unreadable(text, offset, &error));
                return script;
            }
        }
    }
}

fn unreadable(text: &str, statement: usize, error: &Error) -> Unreadable {
    let (message, position) = match error {
        Error::Io(e) => (e.to_string(), &None),
        Error::UnrecognizedToken(p) => ("a character that begins nothing".to_owned(), p),
        Error::UnterminatedLiteral(p) => ("a quote that is never closed".to_owned(), p),
        Error::UnterminatedBracket(p) => ("a [ that is never closed".to_owned(), p),
        Error::UnterminatedBlockComment(p) => ("a comment that is never closed".to_owned(), p),
        Error::BadVariableName(p) => ("a parameter without a name".to_owned(), p),
        Error::BadNumber(p) | Error::MalformedHexInteger(p) => ("a number that is none".to_owned(), p),
        Error::ExpectedEqualsSign(p) => ("a ! without its =".to_owned(), p),
        Error::MalformedBlobLiteral(p) => ("a blob that is not hexadecimal".to_owned(), p),
        Error::ParserError(e, p) => (e.to_string(), p),
        other => (other.to_string(), &None),
    };
    let offset = position.as_ref().map_or(statement, |p| offset_of(text, p.line, p.column));
    Unreadable { offset, message }
}

/// A name as SQLite compares it. `main.` is where everything is.
fn bare(name: &Name<'_>) -> String {
    unquoted(name.0)
}

fn unquoted(text: &str) -> String {
    let inner = match text.chars().next() {
        Some(q @ ('"' | '`' | '\'')) if text.len() > 1 => {
            text[1..text.len() - 1].replace(&format!("{q}{q}"), &q.to_string())
        }
        Some('[') if text.len() > 1 => text[1..text.len() - 1].to_owned(),
        _ => text.to_owned(),
    };
    inner.to_lowercase()
}

fn qualified(name: &QualifiedName<'_>) -> String {
    bare(&name.name)
}

fn kind(command: &Cmd<'_>) -> Kind {
    let Cmd::Stmt(stmt) = command else { return Kind::Other };
    match stmt {
        Stmt::Begin(..) => Kind::Begin,
        Stmt::Commit(_) => Kind::Commit,
        Stmt::Rollback { savepoint_name: None, .. } => Kind::Rollback,
        Stmt::CreateTable { tbl_name, temporary, body, .. } => match body {
            CreateTableBody::AsSelect(_) => Kind::CreateTableAs { table: qualified(tbl_name) },
            CreateTableBody::ColumnsAndConstraints { columns, constraints, .. } => Kind::CreateTable(Table {
                name: qualified(tbl_name),
                temporary: *temporary,
                columns: columns.iter().map(column).collect(),
                constraints: constraints.iter().flat_map(|all| all.iter()).map(constraint).collect(),
                ..Table::default()
            }),
        },
        Stmt::AlterTable(table, body) => {
            Kind::AlterTable { table: qualified(table), actions: vec![action(body)] }
        }
        Stmt::CreateIndex { idx_name, tbl_name, columns, where_clause, .. } => Kind::CreateIndex {
            name: Some(qualified(idx_name)),
            table: bare(tbl_name),
            columns: columns.iter().map(|c| expression(&c.expr)).collect(),
            concurrently: false,
            partial: where_clause.is_some(),
        },
        Stmt::DropIndex { idx_name, .. } => {
            Kind::DropIndex { names: vec![qualified(idx_name)], concurrently: false }
        }
        Stmt::DropTable { tbl_name, .. } => Kind::DropTable { names: vec![qualified(tbl_name)] },
        Stmt::DropView { view_name, .. } => Kind::DropView { names: vec![qualified(view_name)] },
        Stmt::CreateTrigger { trigger_name, tbl_name, .. } => {
            Kind::CreateTrigger { name: qualified(trigger_name), table: qualified(tbl_name) }
        }
        Stmt::DropTrigger { trigger_name, .. } => {
            Kind::DropTrigger { name: qualified(trigger_name), table: None }
        }
        Stmt::Insert { tbl_name, .. } => Kind::Insert { table: qualified(tbl_name) },
        // Every write of SQLite is alone on the file; a large one is judged by its rows, not by its condition.
        Stmt::Update { tbl_name, where_clause, .. } => {
            Kind::Update { table: qualified(tbl_name), bounded: where_clause.is_some() }
        }
        Stmt::Delete { tbl_name, where_clause, .. } => {
            Kind::Delete { table: qualified(tbl_name), bounded: where_clause.is_some() }
        }
        Stmt::Pragma(name, body) => Kind::Pragma { name: qualified(name), assigns: body.is_some() },
        _ => Kind::Other,
    }
}

fn expression(expr: &Expr<'_>) -> String {
    match expr {
        Expr::Id(id) => unquoted(id.0),
        Expr::Name(name) => bare(name),
        other => other.to_string().to_lowercase(),
    }
}

fn column(definition: &ColumnDefinition<'_>) -> Column {
    let mut made = Column {
        name: bare(&definition.col_name),
        data_type: definition.col_type.as_ref().map(|t| t.name.to_lowercase()).unwrap_or_default(),
        ..Column::default()
    };
    for constraint in definition.constraints {
        match &constraint.constraint {
            ColumnConstraint::PrimaryKey { .. } => made.primary = true,
            ColumnConstraint::NotNull { nullable, .. } => made.not_null = !nullable,
            ColumnConstraint::Unique(_) => made.unique = true,
            ColumnConstraint::Check(_) => made.check = true,
            ColumnConstraint::Default(value) => {
                made.default = Some(ColumnDefault { text: expression(value), volatile: None });
            }
            ColumnConstraint::ForeignKey { clause, .. } => made.references = Some(bare(&clause.tbl_name)),
            ColumnConstraint::Generated { typ, .. } => {
                let stored = typ.as_ref().is_some_and(|t| t.0.eq_ignore_ascii_case("stored"));
                made.generated = Some(if stored { Generated::Stored } else { Generated::Virtual });
            }
            ColumnConstraint::Defer(_) | ColumnConstraint::Collate { .. } => {}
        }
    }
    made
}

fn constraint(named: &NamedTableConstraint<'_>) -> Constraint {
    let columns =
        |list: &[sqlite3_parser::ast::SortedColumn<'_>]| list.iter().map(|c| expression(&c.expr)).collect();
    let kind = match &named.constraint {
        TableConstraint::PrimaryKey { columns: list, .. } => {
            ConstraintKind::PrimaryKey { columns: columns(list), using_index: false }
        }
        TableConstraint::Unique { columns: list, .. } => {
            ConstraintKind::Unique { columns: columns(list), using_index: false }
        }
        TableConstraint::Check(expr, _) => ConstraintKind::Check { not_null: None, text: expr.to_string() },
        TableConstraint::ForeignKey { columns: list, clause, .. } => ConstraintKind::ForeignKey {
            columns: list.iter().map(|c| bare(&c.col_name)).collect(),
            references: bare(&clause.tbl_name),
        },
    };
    Constraint { name: named.name.as_ref().map(bare), not_valid: false, kind }
}

fn action(body: &AlterTableBody<'_>) -> Action {
    match body {
        AlterTableBody::RenameTo(to) => Action::RenameTable { to: bare(to) },
        AlterTableBody::AddColumn(definition) => Action::AddColumn(Box::new(column(definition))),
        AlterTableBody::DropColumnNotNull(column) => Action::DropNotNull { column: bare(column) },
        AlterTableBody::SetColumnNotNull(column, _) => Action::SetNotNull { column: bare(column) },
        AlterTableBody::RenameColumn { old, new } => Action::RenameColumn { from: bare(old), to: bare(new) },
        AlterTableBody::DropColumn(column) => Action::DropColumn { column: bare(column) },
        AlterTableBody::AddConstraint(added) => Action::AddConstraint(constraint(added)),
        AlterTableBody::DropConstraint(name) => Action::DropConstraint { constraint: bare(name) },
    }
}
