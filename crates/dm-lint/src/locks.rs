//! Which locks a statement takes, and whether it reads or rewrites a whole table.
//!
//! What the server's documentation says (<https://www.postgresql.org/docs/18/explicit-locking.html> and the pages of the
//! commands), held against real servers by this crate's tests. It is known from the text alone; `plan --trace` says what a
//! server really took.

use serde::{Deserialize, Serialize};

use crate::comments::position;
use crate::history::History;
use crate::model::{Action, ConstraintKind, Generated, IndexAction, Kind, Table};
use crate::{Dialect, postgres, sqlite};

/// PostgreSQL's table locks, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Conflicts with `AccessExclusive` alone.
    AccessShare,
    /// What SELECT FOR UPDATE takes.
    RowShare,
    /// What writers take.
    RowExclusive,
    /// Reads and writes go on; other changes of the schema wait.
    ShareUpdateExclusive,
    /// Writers wait.
    Share,
    /// Writers wait.
    ShareRowExclusive,
    /// Writers wait, and SELECT FOR UPDATE.
    Exclusive,
    /// Everybody waits, readers too.
    AccessExclusive,
}

impl LockMode {
    /// As SQL names it.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }

    /// As `pg_locks` names it: `AccessExclusiveLock`.
    #[must_use]
    pub fn from_catalog(name: &str) -> Option<Self> {
        Some(match name {
            "AccessShareLock" => Self::AccessShare,
            "RowShareLock" => Self::RowShare,
            "RowExclusiveLock" => Self::RowExclusive,
            "ShareUpdateExclusiveLock" => Self::ShareUpdateExclusive,
            "ShareLock" => Self::Share,
            "ShareRowExclusiveLock" => Self::ShareRowExclusive,
            "ExclusiveLock" => Self::Exclusive,
            "AccessExclusiveLock" => Self::AccessExclusive,
            _ => return None,
        })
    }

    /// Whom it keeps waiting, in words.
    #[must_use]
    pub fn stops(self) -> &'static str {
        match self {
            Self::AccessShare | Self::RowShare | Self::RowExclusive => "nobody",
            Self::ShareUpdateExclusive => "other schema changes",
            Self::Share | Self::ShareRowExclusive | Self::Exclusive => "writers",
            Self::AccessExclusive => "everybody",
        }
    }

    /// Whether the application's writers wait.
    #[must_use]
    pub fn stops_writers(self) -> bool {
        self >= Self::Share
    }
}

/// What a statement does to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The table, index or view.
    pub object: String,
    /// The strongest lock on it.
    pub lock: LockMode,
    /// Every row is written anew while the lock is held.
    pub rewrites: bool,
    /// Every row is read while the lock is held.
    pub scans: bool,
}

/// A statement with all that it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementEffects {
    /// The line, from 1.
    pub line: usize,
    /// The statement as it is written.
    pub statement: String,
    /// Effects on objects that were there before the statement. Empty: it takes no lock that anybody notices, or it is one
    /// whose locks are not known from its text.
    pub effects: Vec<Effect>,
}

/// What the statements of a file do. Whatever cannot be read is left out: [`lint`](crate::lint) says it.
#[must_use]
pub fn effects(dialect: Dialect, text: &str) -> Vec<StatementEffects> {
    let mut history = History::default();
    let script = match dialect {
        Dialect::Postgres => postgres::read(text),
        Dialect::Sqlite => sqlite::read(text),
    };
    script
        .statements
        .into_iter()
        .map(|statement| {
            let effects = match dialect {
                Dialect::Postgres => of(&statement.kind, &history),
                // SQLite locks the whole file for whoever writes; there is nothing to tell apart.
                Dialect::Sqlite => Vec::new(),
            };
            history.note(&statement.kind);
            StatementEffects { line: position(text, statement.offset).0, statement: statement.text, effects }
        })
        .collect()
}

fn effect(object: &str, lock: LockMode) -> Effect {
    Effect { object: object.to_owned(), lock, rewrites: false, scans: false }
}

fn each(names: &[String], lock: LockMode) -> Vec<Effect> {
    names.iter().map(|n| effect(n, lock)).collect()
}

/// What one statement does, of which `history` knows what went before.
pub(crate) fn of(kind: &Kind, history: &History) -> Vec<Effect> {
    use LockMode::{
        AccessExclusive, Exclusive, RowExclusive, Share, ShareRowExclusive, ShareUpdateExclusive,
    };
    match kind {
        Kind::AlterTable { table, actions } => altering(table, actions, history),
        Kind::CreateTable(table) => creating(table),
        Kind::CreateIndex { table, concurrently, .. } => {
            let lock = if *concurrently { ShareUpdateExclusive } else { Share };
            vec![Effect { scans: true, ..effect(table, lock) }]
        }
        Kind::DropIndex { names, concurrently } => {
            let lock = if *concurrently { ShareUpdateExclusive } else { AccessExclusive };
            let tables = names.iter().filter_map(|n| history.table_of_index(n));
            tables.map(|t| effect(t, lock)).chain(each(names, lock)).collect()
        }
        Kind::Reindex { target, is_index, concurrently } if !target.is_empty() => {
            let table = if *is_index { history.table_of_index(target) } else { Some(target.as_str()) };
            let lock = if *concurrently { ShareUpdateExclusive } else { Share };
            let mut found: Vec<Effect> =
                table.map(|t| Effect { scans: true, ..effect(t, lock) }).into_iter().collect();
            if *is_index {
                let lock = if *concurrently { ShareUpdateExclusive } else { AccessExclusive };
                found.push(Effect { rewrites: true, ..effect(target, lock) });
            }
            found
        }
        Kind::DropTable { names } | Kind::DropView { names } | Kind::Truncate { tables: names, .. } => {
            each(names, AccessExclusive)
        }
        Kind::Update { table, .. } | Kind::Delete { table, .. } => {
            vec![Effect { scans: true, ..effect(table, RowExclusive) }]
        }
        Kind::Insert { table, .. } | Kind::CopyFrom { table } => vec![effect(table, RowExclusive)],
        Kind::Refresh { view, concurrently } => {
            let lock = if *concurrently { Exclusive } else { AccessExclusive };
            vec![Effect { rewrites: !concurrently, scans: true, ..effect(view, lock) }]
        }
        Kind::Vacuum { tables, full } => {
            let lock = if *full { AccessExclusive } else { ShareUpdateExclusive };
            tables.iter().map(|t| Effect { rewrites: *full, scans: true, ..effect(t, lock) }).collect()
        }
        Kind::Cluster { table: Some(table) } => {
            vec![Effect { rewrites: true, scans: true, ..effect(table, AccessExclusive) }]
        }
        Kind::Analyze { tables } => each(tables, ShareUpdateExclusive),
        Kind::Lock { tables, mode } => each(tables, *mode),
        Kind::CreateTrigger { table, .. } => vec![effect(table, ShareRowExclusive)],
        Kind::DropTrigger { table: Some(table), .. }
        | Kind::CreatePolicy { table }
        | Kind::CreateRule { table } => vec![effect(table, AccessExclusive)],
        Kind::CommentOn { table: Some(table) } => vec![effect(table, ShareUpdateExclusive)],
        Kind::AlterIndex { index, action } => vec![effect(
            index,
            match action {
                IndexAction::Rename => ShareUpdateExclusive,
                IndexAction::Other => AccessExclusive,
            },
        )],
        _ => Vec::new(),
    }
}

/// A new table is nobody's yet; what it refers to is everybody's.
fn creating(table: &Table) -> Vec<Effect> {
    let keys = table.constraints.iter().filter_map(|c| match &c.kind {
        ConstraintKind::ForeignKey { references, .. } => Some(references),
        _ => None,
    });
    let referred = table.columns.iter().filter_map(|c| c.references.as_ref()).chain(keys);
    let mut found: Vec<Effect> = referred
        .filter(|other| **other != table.name)
        .map(|other| effect(other, LockMode::ShareRowExclusive))
        .chain(table.partition_of.iter().map(|parent| effect(parent, LockMode::AccessExclusive)))
        .chain(table.inherits.iter().map(|parent| effect(parent, LockMode::ShareUpdateExclusive)))
        .collect();
    merge(&mut found);
    found
}

fn altering(table: &str, actions: &[Action], history: &History) -> Vec<Effect> {
    use LockMode::{AccessExclusive, RowShare, ShareRowExclusive, ShareUpdateExclusive};
    let mut found = Vec::new();
    for action in actions {
        let mut own = effect(table, AccessExclusive);
        match action {
            Action::AddColumn(column) => {
                own.rewrites = is_computed(column);
                own.scans = own.rewrites || column.check && !column.not_null;
                if column.primary || column.unique {
                    own.scans = true;
                }
                found.extend(column.references.iter().map(|r| effect(r, ShareRowExclusive)));
            }
            Action::AddConstraint(constraint) => match &constraint.kind {
                ConstraintKind::ForeignKey { references, .. } => {
                    own.lock = ShareRowExclusive;
                    own.scans = !constraint.not_valid;
                    found.push(effect(references, ShareRowExclusive));
                }
                ConstraintKind::Unique { using_index, .. }
                | ConstraintKind::PrimaryKey { using_index, .. } => {
                    own.scans = !using_index;
                }
                ConstraintKind::Exclusion => own.scans = true,
                ConstraintKind::Check { .. } | ConstraintKind::NotNull { .. } => {
                    own.scans = !constraint.not_valid;
                }
            },
            Action::Validate { constraint } => {
                own.lock = ShareUpdateExclusive;
                own.scans = true;
                found.extend(history.referenced_by(table, constraint).map(|r| effect(r, RowShare)));
            }
            Action::DropConstraint { constraint } => {
                found.extend(history.referenced_by(table, constraint).map(|r| effect(r, AccessExclusive)));
            }
            Action::SetNotNull { column } => own.scans = !history.is_kept_from_null(table, column),
            Action::SetType { .. } => (own.rewrites, own.scans) = (true, true),
            Action::AttachPartition { partition } => {
                own.lock = ShareUpdateExclusive;
                found.push(Effect { scans: true, ..effect(partition, AccessExclusive) });
            }
            Action::DetachPartition { partition, concurrently } => {
                own.lock = if *concurrently { ShareUpdateExclusive } else { AccessExclusive };
                found.push(effect(partition, own.lock));
            }
            Action::Inherit { parent } => found.push(effect(parent, ShareUpdateExclusive)),
            Action::Other { mode, rewrites } => {
                own.lock = *mode;
                (own.rewrites, own.scans) = (*rewrites, *rewrites);
            }
            Action::DropColumn { .. }
            | Action::DropNotNull { .. }
            | Action::RenameTable { .. }
            | Action::RenameColumn { .. } => {}
        }
        found.insert(0, own);
    }
    merge(&mut found);
    found
}

/// Whether adding the column writes a value into every row.
pub(crate) fn is_computed(column: &crate::model::Column) -> bool {
    column.default.as_ref().is_some_and(|d| d.volatile.is_some())
        || matches!(column.generated, Some(Generated::Stored | Generated::Identity))
        || is_serial(&column.data_type)
}

pub(crate) fn is_serial(data_type: &str) -> bool {
    matches!(data_type, "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8")
}

/// One effect an object: the strongest of all.
fn merge(effects: &mut Vec<Effect>) {
    let mut merged: Vec<Effect> = Vec::new();
    for effect in effects.drain(..) {
        match merged.iter_mut().find(|m| m.object == effect.object) {
            Some(known) => {
                known.lock = known.lock.max(effect.lock);
                known.rewrites |= effect.rewrites;
                known.scans |= effect.scans;
            }
            None => merged.push(effect),
        }
    }
    *effects = merged;
}
