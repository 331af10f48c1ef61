//! Timeouts, transactions, and what is done while a lock is held.

use std::collections::BTreeMap;

use crate::finding::Dialect;
use crate::lint::{Findings, View};
use crate::locks::{self, LockMode};
use crate::model::{Kind, Statement};

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    nesting(view, findings);
    if view.dialect == Dialect::Postgres {
        timeouts(view, findings);
        after_exclusive(view, findings);
        many_alters(view, findings);
    }
}

fn nesting(view: &View<'_>, findings: &mut Findings<'_>) {
    let mut open: Option<&Statement> = None;
    for (_, statement) in view.each() {
        match statement.kind {
            Kind::Begin if view.file.transaction => findings.add(
                "nested-transaction",
                statement,
                None,
                "the file runs inside a transaction already",
                "remove BEGIN and COMMIT, or put -- no-transaction in the first line",
            ),
            Kind::Begin if open.is_some() => findings.add(
                "nested-transaction",
                statement,
                None,
                "a transaction is open already",
                "COMMIT first, or use SAVEPOINT",
            ),
            Kind::Begin => open = Some(statement),
            Kind::Commit | Kind::Rollback => open = None,
            _ => {}
        }
    }
    if let Some(statement) = open {
        findings.add(
            "begin-without-commit",
            statement,
            None,
            "no COMMIT follows",
            "COMMIT; at the end, or leave out BEGIN: the file runs inside a transaction unless it says -- no-transaction",
        );
    }
}

/// The strongest lock that a statement takes on something that is not new.
fn strongest<'a>(view: &View<'a>, number: usize, statement: &'a Statement) -> Option<(LockMode, String)> {
    let history = view.before.get(number)?;
    locks::of(&statement.kind, history)
        .into_iter()
        .filter(|e| !view.is_new(&e.object, number))
        .max_by_key(|e| e.lock)
        .map(|e| (e.lock, e.object))
}

fn timeouts(view: &View<'_>, findings: &mut Findings<'_>) {
    for (rule, setting, value, known) in [
        ("lock-timeout-missing", "lock_timeout", "3s", view.context.lock_timeout),
        ("statement-timeout-missing", "statement_timeout", "60s", view.context.statement_timeout),
    ] {
        let mut set = known;
        for (number, statement) in view.each() {
            if let Kind::Set { name, .. } = &statement.kind
                && name == setting
            {
                set = true;
            }
            let Some((lock, table)) = strongest(view, number, statement) else { continue };
            if !set && lock > LockMode::RowExclusive {
                let local = if view.file.transaction { "SET LOCAL" } else { "SET" };
                findings.add(
                    rule,
                    statement,
                    Some(&table),
                    format!("{} on {table}, and no {setting}", lock.sql()),
                    format!("{local} {setting} = '{value}';"),
                );
                break;
            }
        }
    }
}

/// In one transaction, only the last statement may lock out readers.
fn after_exclusive(view: &View<'_>, findings: &mut Findings<'_>) {
    let mut held: Option<(&Statement, String)> = None;
    for (number, statement) in view.each() {
        if matches!(statement.kind, Kind::Begin | Kind::Commit | Kind::Rollback)
            || !view.in_transaction(number)
        {
            held = None;
            continue;
        }
        let works = !matches!(statement.kind, Kind::Set { .. } | Kind::CommentOn { .. })
            && !creates_only(view, number, statement);
        if let Some((_, table)) = &held
            && works
            && !same_alter(&statement.kind, table)
        {
            findings.add(
                "statement-after-exclusive-lock",
                statement,
                Some(table),
                format!("{table} is locked ACCESS EXCLUSIVE by a statement before"),
                "put this statement into a migration of its own, or before the one that locks",
            );
            return;
        }
        if let Some((LockMode::AccessExclusive, table)) = strongest(view, number, statement) {
            held.get_or_insert((statement, table));
        }
    }
}

/// Another ALTER of the same table is `many-alters-of-one-table`'s business.
fn same_alter(kind: &Kind, held: &str) -> bool {
    matches!(kind, Kind::AlterTable { table, .. } if table == held)
}

/// What only makes something new ends at once, whoever waits.
fn creates_only(view: &View<'_>, number: usize, statement: &Statement) -> bool {
    match &statement.kind {
        Kind::CreateTable(_) => true,
        Kind::CreateIndex { table, .. } | Kind::AlterTable { table, .. } | Kind::Insert { table, .. } => {
            view.is_new(table, number)
        }
        _ => false,
    }
}

fn many_alters(view: &View<'_>, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, statement) in view.each() {
        let Kind::AlterTable { table, actions } = &statement.kind else { continue };
        let alone = actions.iter().any(|a| {
            use crate::model::Action::{RenameColumn, RenameTable, Validate};
            matches!(a, RenameTable { .. } | RenameColumn { .. } | Validate { .. })
        });
        if alone || view.is_new(table, number) || !view.in_transaction(number) {
            continue;
        }
        let count = seen.entry(table).or_default();
        *count += 1;
        if *count == 2 {
            findings.add(
                "many-alters-of-one-table",
                statement,
                Some(table),
                format!("{table} is altered by an earlier statement too"),
                format!("ALTER TABLE {table} <first action>, <second action>;"),
            );
        }
    }
}
