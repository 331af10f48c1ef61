//! What earlier statements made: later ones are judged by it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Action, ConstraintKind, Kind};

/// The schema, as far as rules ask for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// CHECKs and NOT NULLs that keep a column from being null: (table, constraint) to column, and whether validated.
    kept: BTreeMap<(String, String), (String, bool)>,
    /// Foreign keys: (table, constraint) to the table that they refer to.
    foreign_keys: BTreeMap<(String, String), String>,
    /// Indexes: name to table and columns.
    indexes: BTreeMap<String, (String, Vec<String>)>,
    /// Triggers by table.
    triggers: BTreeMap<String, BTreeSet<String>>,
}

impl History {
    /// Whether a validated constraint keeps the column from being null.
    pub(crate) fn is_kept_from_null(&self, table: &str, column: &str) -> bool {
        self.kept.iter().any(|((t, _), (c, valid))| *valid && t == table && c == column)
    }

    /// The table that a foreign key refers to; `None` when it is not known to be one.
    pub(crate) fn referenced_by(&self, table: &str, constraint: &str) -> Option<&str> {
        self.foreign_keys.get(&(table.to_owned(), constraint.to_owned())).map(String::as_str)
    }

    pub(crate) fn table_of_index(&self, index: &str) -> Option<&str> {
        self.indexes.get(index).map(|(table, _)| table.as_str())
    }

    /// The names of a table's indexes that statements made.
    pub(crate) fn indexes_of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a str> {
        self.indexes.iter().filter(move |(_, (t, _))| t == table).map(|(name, _)| name.as_str())
    }

    /// The names of a table's triggers.
    pub(crate) fn triggers_of(&self, table: &str) -> impl Iterator<Item = &str> {
        self.triggers.get(table).into_iter().flatten().map(String::as_str)
    }

    /// Whether an index begins with these columns, in any order.
    pub(crate) fn has_index_on(&self, table: &str, columns: &[String]) -> bool {
        self.indexes.values().any(|(t, indexed)| {
            t == table
                && indexed.get(..columns.len()).is_some_and(|first| columns.iter().all(|c| first.contains(c)))
        })
    }

    /// Takes note of a statement.
    pub(crate) fn note(&mut self, kind: &Kind) {
        match kind {
            Kind::CreateTable(table) => {
                for column in &table.columns {
                    self.note_column(&table.name, column);
                }
                for constraint in &table.constraints {
                    self.note_constraint(&table.name, constraint);
                }
            }
            Kind::AlterTable { table, actions } => {
                for action in actions {
                    self.note_action(table, action);
                }
            }
            Kind::CreateIndex { name, table, columns, partial, .. } => {
                let made_up = format!("{table}_{}_idx", columns.join("_"));
                // A partial index serves some questions only.
                let columns = if *partial { Vec::new() } else { columns.clone() };
                self.indexes.insert(name.clone().unwrap_or(made_up), (table.clone(), columns));
            }
            Kind::DropIndex { names, .. } => {
                for name in names {
                    self.indexes.remove(name);
                }
            }
            Kind::DropTable { names } => {
                for name in names {
                    self.forget(name);
                }
            }
            Kind::CreateTrigger { name, table } => {
                self.triggers.entry(table.clone()).or_default().insert(name.clone());
            }
            Kind::DropTrigger { name, table } => {
                for (of, names) in &mut self.triggers {
                    if table.as_ref().is_none_or(|t| t == of) {
                        names.remove(name);
                    }
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, table: &str) {
        self.indexes.retain(|_, (t, _)| t != table);
        self.kept.retain(|(t, _), _| t != table);
        self.foreign_keys.retain(|(t, _), _| t != table);
        self.triggers.remove(table);
    }

    fn note_column(&mut self, table: &str, column: &crate::model::Column) {
        if let Some(other) = &column.references {
            self.foreign_keys
                .insert((table.to_owned(), format!("{table}_{}_fkey", column.name)), other.clone());
        }
        if column.primary || column.unique {
            let suffix = if column.primary { "pkey".to_owned() } else { format!("{}_key", column.name) };
            self.indexes.insert(format!("{table}_{suffix}"), (table.to_owned(), vec![column.name.clone()]));
        }
    }

    fn note_constraint(&mut self, table: &str, constraint: &crate::model::Constraint) {
        let key = |made_up: String| (table.to_owned(), constraint.name.clone().unwrap_or(made_up));
        match &constraint.kind {
            ConstraintKind::ForeignKey { columns, references } => {
                self.foreign_keys
                    .insert(key(format!("{table}_{}_fkey", columns.join("_"))), references.clone());
            }
            ConstraintKind::Check { not_null: Some(column), .. } => {
                self.kept
                    .insert(key(format!("{table}_{column}_check")), (column.clone(), !constraint.not_valid));
            }
            ConstraintKind::NotNull { column } => {
                self.kept.insert(
                    key(format!("{table}_{column}_not_null")),
                    (column.clone(), !constraint.not_valid),
                );
            }
            ConstraintKind::Unique { columns, .. } | ConstraintKind::PrimaryKey { columns, .. } => {
                let (_, name) = key(format!("{table}_{}_key", columns.join("_")));
                self.indexes.insert(name, (table.to_owned(), columns.clone()));
            }
            ConstraintKind::Check { not_null: None, .. } | ConstraintKind::Exclusion => {}
        }
    }

    fn note_action(&mut self, table: &str, action: &Action) {
        match action {
            Action::AddColumn(column) => self.note_column(table, column),
            Action::AddConstraint(constraint) => self.note_constraint(table, constraint),
            Action::Validate { constraint } => {
                if let Some((_, valid)) = self.kept.get_mut(&(table.to_owned(), constraint.clone())) {
                    *valid = true;
                }
            }
            Action::DropConstraint { constraint } => {
                let key = (table.to_owned(), constraint.clone());
                self.kept.remove(&key);
                self.foreign_keys.remove(&key);
                self.indexes.remove(constraint);
            }
            Action::RenameTable { to } => self.rename(table, to),
            _ => {}
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        for (table, _) in self.indexes.values_mut() {
            if table == from {
                to.clone_into(table);
            }
        }
        if let Some(triggers) = self.triggers.remove(from) {
            self.triggers.insert(to.to_owned(), triggers);
        }
        let moved = |(table, name): (String, String)| match table == from {
            true => (to.to_owned(), name),
            false => (table, name),
        };
        self.kept = std::mem::take(&mut self.kept).into_iter().map(|(k, v)| (moved(k), v)).collect();
        self.foreign_keys =
            std::mem::take(&mut self.foreign_keys).into_iter().map(|(k, v)| (moved(k), v)).collect();
    }
}
