//! Tables, columns and constraints.

use squawk_syntax::ast::{self, AlterColumnOption, AlterTableAction, AstNode};

use super::expressions::{kept_from_null, volatile};
use super::{name, names, squeezed};
use crate::LockMode;
use crate::model::{Action, Column, ColumnDefault, Constraint, ConstraintKind, Generated, Table};

pub(super) fn created(create: &ast::CreateTable) -> Table {
    let mut table = Table {
        name: name(create.table_name()),
        temporary: matches!(create.persistence(), Some(ast::Persistence::Temp(_))),
        partition_of: create.partition_of().and_then(|p| p.table_name_ref()).map(|t| name(Some(t))),
        inherits: create.inherits().map(|i| names(i.table_name_refs())).unwrap_or_default(),
        ..Table::default()
    };
    for arg in create.table_arg_list().into_iter().flat_map(|list| list.args()) {
        match arg {
            ast::TableArg::Column(column) => table.columns.push(column_of(&column)),
            ast::TableArg::TableConstraint(c) => {
                table
                    .constraints
                    .extend(ast::Constraint::cast(c.syntax().clone()).and_then(|c| constraint(&c)));
            }
            ast::TableArg::LikeClause(_) => {}
        }
    }
    table
}

fn column_of(column: &ast::Column) -> Column {
    let mut made =
        Column { name: name(column.name()), data_type: data_type(column.ty()), ..Column::default() };
    for clause in column.clauses() {
        if let ast::ColumnClause::ColumnConstraint(c) = clause
            && let Some(c) = ast::Constraint::cast(c.syntax().clone())
        {
            constrain(&mut made, &c);
        }
    }
    made
}

fn data_type(ty: Option<ast::Type>) -> String {
    ty.map(|t| squeezed(t.syntax())).unwrap_or_default()
}

/// Puts a constraint of a column into it.
fn constrain(column: &mut Column, constraint: &ast::Constraint) {
    match constraint {
        ast::Constraint::NotNullConstraint(_) => column.not_null = true,
        ast::Constraint::PrimaryKeyConstraint(_) => column.primary = true,
        ast::Constraint::UniqueConstraint(_) => column.unique = true,
        ast::Constraint::CheckConstraint(_) => column.check = true,
        ast::Constraint::ReferencesConstraint(r) => column.references = Some(name(r.table())),
        ast::Constraint::DefaultConstraint(d) => {
            column.default = d
                .expr()
                .map(|e| ColumnDefault { text: squeezed(e.syntax()), volatile: volatile(e.syntax()) });
        }
        ast::Constraint::GeneratedConstraint(g) => {
            column.generated = Some(match g.generated_as() {
                Some(ast::GeneratedAs::GeneratedStored(s)) => match s.generated_kind() {
                    Some(ast::GeneratedKind::Stored(_)) => Generated::Stored,
                    _ => Generated::Virtual,
                },
                _ => Generated::Identity,
            });
        }
        ast::Constraint::ExcludeConstraint(_)
        | ast::Constraint::ForeignKeyConstraint(_)
        | ast::Constraint::NullConstraint(_) => {}
    }
}

fn is_not_valid(mut options: impl Iterator<Item = ast::ConstraintOption>) -> bool {
    options.any(|o| matches!(o, ast::ConstraintOption::NotValid(_) | ast::ConstraintOption::NotEnforced(_)))
}

fn constraint(constraint: &ast::Constraint) -> Option<Constraint> {
    let named = |clause: Option<ast::ConstraintNameClause>| clause.map(|c| name(c.constraint_name()));
    let columns = |parameters: Option<ast::IndexParameters>| {
        parameters.and_then(|p| p.column_list()).map(|l| names(l.column_name_refs())).unwrap_or_default()
    };
    Some(match constraint {
        ast::Constraint::ForeignKeyConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: is_not_valid(c.constraint_options()),
            kind: ConstraintKind::ForeignKey {
                // The first list of columns is the table's own.
                columns: c
                    .syntax()
                    .children()
                    .find_map(ast::ForeignKeyColumnList::cast)
                    .map(|l| names(l.column_name_refs()))
                    .unwrap_or_default(),
                references: name(c.table_name_ref()),
            },
        },
        ast::Constraint::CheckConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: is_not_valid(c.constraint_options()),
            kind: ConstraintKind::Check {
                not_null: c.expr().and_then(|e| kept_from_null(e.syntax())),
                text: c.expr().map(|e| e.syntax().text().to_string()).unwrap_or_default(),
            },
        },
        ast::Constraint::NotNullConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: is_not_valid(c.constraint_options()),
            kind: ConstraintKind::NotNull { column: name(c.column_name_ref()) },
        },
        ast::Constraint::UniqueConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: false,
            kind: ConstraintKind::Unique {
                columns: columns(c.index_parameters()),
                using_index: c.using_index().is_some(),
            },
        },
        ast::Constraint::PrimaryKeyConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: false,
            kind: ConstraintKind::PrimaryKey {
                columns: columns(c.index_parameters()),
                using_index: c.using_index().is_some(),
            },
        },
        ast::Constraint::ExcludeConstraint(c) => Constraint {
            name: named(c.constraint_name_clause()),
            not_valid: false,
            kind: ConstraintKind::Exclusion,
        },
        ast::Constraint::DefaultConstraint(_)
        | ast::Constraint::GeneratedConstraint(_)
        | ast::Constraint::NullConstraint(_)
        | ast::Constraint::ReferencesConstraint(_) => return None,
    })
}

pub(super) fn action(action: &AlterTableAction) -> Action {
    match action {
        AlterTableAction::AddColumn(add) => {
            let mut column =
                Column { name: name(add.column_name()), data_type: data_type(add.ty()), ..Column::default() };
            add.constraints().for_each(|c| constrain(&mut column, &c));
            Action::AddColumn(Box::new(column))
        }
        AlterTableAction::AddConstraint(add) => match add.constraint().and_then(|c| constraint(&c)) {
            Some(constraint) => Action::AddConstraint(constraint),
            None => other(LockMode::AccessExclusive),
        },
        AlterTableAction::ValidateConstraint(v) => {
            Action::Validate { constraint: name(v.constraint_name_ref()) }
        }
        AlterTableAction::DropColumn(d) => Action::DropColumn { column: name(d.column_name_ref()) },
        AlterTableAction::DropConstraint(d) => {
            Action::DropConstraint { constraint: name(d.constraint_name_ref()) }
        }
        AlterTableAction::AlterColumn(alter) => altered(name(alter.column_name_ref()), alter.option()),
        AlterTableAction::TableRenameTo(r) => Action::RenameTable { to: name(r.table_name()) },
        AlterTableAction::RenameColumn(r) => {
            Action::RenameColumn { from: name(r.column_name_ref()), to: name(r.column_name()) }
        }
        AlterTableAction::AttachPartition(a) => {
            Action::AttachPartition { partition: name(a.table_name_ref()) }
        }
        AlterTableAction::DetachPartition(d) => Action::DetachPartition {
            partition: name(d.table_name_ref()),
            concurrently: d.detach_partition_option().is_some(),
        },
        AlterTableAction::InheritTable(i) => Action::Inherit { parent: name(i.table_name_ref()) },
        AlterTableAction::SetLogged(_)
        | AlterTableAction::SetUnlogged(_)
        | AlterTableAction::SetAccessMethod(_)
        | AlterTableAction::SetTablespace(_) => {
            Action::Other { mode: LockMode::AccessExclusive, rewrites: true }
        }
        AlterTableAction::EnableTrigger(_)
        | AlterTableAction::DisableTrigger(_)
        | AlterTableAction::EnableAlwaysTrigger(_)
        | AlterTableAction::EnableReplicaTrigger(_) => other(LockMode::ShareRowExclusive),
        AlterTableAction::ClusterOn(_)
        | AlterTableAction::SetWithoutCluster(_)
        | AlterTableAction::SetOptions(_)
        | AlterTableAction::ResetOptions(_) => other(LockMode::ShareUpdateExclusive),
        _ => other(LockMode::AccessExclusive),
    }
}

fn other(mode: LockMode) -> Action {
    Action::Other { mode, rewrites: false }
}

fn altered(column: String, option: Option<AlterColumnOption>) -> Action {
    match option {
        Some(AlterColumnOption::SetNotNull(_)) => Action::SetNotNull { column },
        Some(AlterColumnOption::DropNotNull(_)) => Action::DropNotNull { column },
        Some(AlterColumnOption::SetType(set)) => {
            Action::SetType { column, data_type: data_type(set.ty()), using: set.using_expr().is_some() }
        }
        Some(
            AlterColumnOption::SetStatistics(_)
            | AlterColumnOption::SetOptions(_)
            | AlterColumnOption::ResetOptions(_),
        ) => other(LockMode::ShareUpdateExclusive),
        Some(AlterColumnOption::SetExpression(_)) => {
            Action::Other { mode: LockMode::AccessExclusive, rewrites: true }
        }
        _ => other(LockMode::AccessExclusive),
    }
}
