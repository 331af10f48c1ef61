//! Files in, findings out.

use std::collections::BTreeMap;

use crate::comments::position;
use crate::finding::{Dialect, LintContext, LintFile, LintFinding, Severity};
use crate::history::History;
use crate::ignore::{Ignore, ignores};
use crate::model::{Action, Kind, Script, Statement, Table};
use crate::rules::{self, Rule};
use crate::{postgres, sqlite};

/// What a rule looks at: one file, with what went before.
pub(crate) struct View<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) file: &'a LintFile,
    pub(crate) statements: &'a [Statement],
    /// Statement by statement: what had been made when it ran.
    pub(crate) before: &'a [History],
    /// What there is when the file has run.
    pub(crate) after: &'a History,
    /// Statement by statement: whether a transaction is open around it.
    pub(crate) in_transaction: &'a [bool],
    /// Tables that the file itself makes, and by which statement: nobody uses them yet.
    pub(crate) created: &'a BTreeMap<String, usize>,
    pub(crate) context: &'a LintContext,
}

impl<'a> View<'a> {
    /// Statements with their numbers.
    pub(crate) fn each(&self) -> impl Iterator<Item = (usize, &'a Statement)> {
        self.statements.iter().enumerate()
    }

    /// Whether an earlier statement of the file made the table.
    pub(crate) fn is_new(&self, table: &str, number: usize) -> bool {
        self.created.get(table).is_some_and(|by| *by < number)
    }

    pub(crate) fn in_transaction(&self, number: usize) -> bool {
        self.in_transaction.get(number).copied().unwrap_or(self.file.transaction)
    }
}

/// Findings of one file, as rules report them.
pub(crate) struct Findings<'a> {
    file: &'a LintFile,
    context: &'a LintContext,
    found: Vec<(usize, LintFinding)>,
}

impl Findings<'_> {
    /// A rule's finding in a statement, about a table.
    pub(crate) fn add(
        &mut self,
        rule: &'static str,
        statement: &Statement,
        table: Option<&str>,
        message: impl Into<String>,
        rewrite: impl Into<String>,
    ) {
        self.at(rule, statement.offset, statement.brief(), table, message.into(), rewrite.into());
    }

    fn at(
        &mut self,
        name: &'static str,
        offset: usize,
        statement: String,
        table: Option<&str>,
        message: String,
        rewrite: String,
    ) {
        let Some(rule) = rules::named(name) else { return };
        let (line, column) = position(&self.file.text, offset);
        let size = table.and_then(|t| self.context.sizes.as_ref()?.get(t)).copied();
        let finding = LintFinding {
            rule: rule.name,
            severity: weigh(rule, table, self.context),
            file: self.file.path.clone(),
            line,
            column,
            statement,
            message,
            why: rule.why,
            rewrite,
            table: table.map(str::to_owned),
            size,
        };
        self.found.push((offset, finding));
    }
}

/// What only costs time costs little on a small table.
fn weigh(rule: &Rule, table: Option<&str>, context: &LintContext) -> Severity {
    match table {
        Some(table) if rule.weighed && context.is_small(table) => Severity::Notice,
        _ => rule.severity,
    }
}

/// Looks at files in the order in which they run. Findings come in that order too.
///
/// Rules about locks, scans and rewrites are silent on tables that the same file makes. A finding on a table that is known
/// to be small is a notice.
#[must_use]
pub fn lint(dialect: Dialect, files: &[LintFile], context: &LintContext) -> Vec<LintFinding> {
    let mut history = History::default();
    let mut findings = Vec::new();
    for file in files {
        let script = match dialect {
            Dialect::Postgres => postgres::read(&file.text),
            Dialect::Sqlite => sqlite::read(&file.text),
        };
        let mut before = Vec::with_capacity(script.statements.len());
        for statement in &script.statements {
            before.push(history.clone());
            history.note(&statement.kind);
        }
        if file.judged {
            findings.extend(judge(dialect, file, &script, &before, &history, context));
        }
    }
    findings
}

fn judge(
    dialect: Dialect,
    file: &LintFile,
    script: &Script,
    before: &[History],
    after: &History,
    context: &LintContext,
) -> Vec<LintFinding> {
    let view = View {
        dialect,
        file,
        statements: &script.statements,
        before,
        after,
        in_transaction: &open_transactions(file, &script.statements),
        created: &created(&script.statements),
        context,
    };
    let mut findings = Findings { file, context, found: Vec::new() };
    for unreadable in &script.unreadable {
        let line =
            file.text.get(unreadable.offset..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        findings.at(
            "syntax-error",
            unreadable.offset,
            line.trim().to_owned(),
            None,
            format!("syntax error: {}", unreadable.message),
            rules::syntax_hint(dialect, &file.text, unreadable.offset),
        );
    }
    rules::run(&view, &mut findings);
    let ignores = ignores(&file.text);
    let mut kept: Vec<(usize, LintFinding)> = findings
        .found
        .into_iter()
        .filter(|(offset, f)| !excused(*offset, f, &ignores, &script.statements))
        .collect();
    kept.extend(wrong_ignores(file, context, &ignores));
    kept.sort_by(|(a, x), (b, y)| (a, x.rule).cmp(&(b, y.rule)));
    kept.into_iter().map(|(_, finding)| finding).collect()
}

/// Whether somebody has said why the finding is fine: before its statement, behind the one before it, or inside.
fn excused(offset: usize, finding: &LintFinding, ignores: &[Ignore<'_>], statements: &[Statement]) -> bool {
    let Some(number) = statements.iter().position(|s| s.offset == offset) else { return false };
    let from = number.checked_sub(1).and_then(|n| statements.get(n)).map_or(0, |s| s.end);
    let until = statements.get(number).map_or(offset, |s| s.end);
    ignores
        .iter()
        .any(|i| (from..until).contains(&i.offset) && i.has_reason && i.rules.contains(&finding.rule))
}

fn wrong_ignores(
    file: &LintFile,
    context: &LintContext,
    ignores: &[Ignore<'_>],
) -> Vec<(usize, LintFinding)> {
    let mut findings = Findings { file, context, found: Vec::new() };
    for ignore in ignores {
        let line =
            file.text.get(ignore.offset..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim();
        for unknown in &ignore.unknown {
            let (message, rewrite) = match unknown.is_empty() {
                true => ("the comment names no rule".to_owned(), String::new()),
                false => {
                    (format!("there is no rule \"{unknown}\" that could be ignored"), rules::nearest(unknown))
                }
            };
            let rewrite = format!("-- dm:ignore <rule>: <reason>{rewrite}");
            findings.at("unknown-ignore", ignore.offset, line.to_owned(), None, message, rewrite);
        }
        if !ignore.has_reason {
            let rule = ignore.rules.first().copied().unwrap_or("<rule>");
            findings.at(
                "ignore-without-reason",
                ignore.offset,
                line.to_owned(),
                None,
                "the comment does not say why".to_owned(),
                format!("-- dm:ignore {rule}: <why it is fine here>"),
            );
        }
    }
    findings.found
}

/// Before each statement: is a transaction open?
fn open_transactions(file: &LintFile, statements: &[Statement]) -> Vec<bool> {
    let mut open = file.transaction;
    statements
        .iter()
        .map(|s| {
            let now = open;
            match s.kind {
                Kind::Begin => open = true,
                Kind::Commit | Kind::Rollback => open = false,
                _ => {}
            }
            now
        })
        .collect()
}

fn created(statements: &[Statement]) -> BTreeMap<String, usize> {
    let mut tables = BTreeMap::new();
    for (number, statement) in statements.iter().enumerate() {
        match &statement.kind {
            Kind::CreateTable(Table { name: table, .. }) | Kind::CreateTableAs { table } => {
                tables.entry(table.clone()).or_insert(number);
            }
            Kind::AlterTable { table, actions } if tables.contains_key(table) => {
                for action in actions {
                    if let Action::RenameTable { to } = action {
                        tables.entry(to.clone()).or_insert(number);
                    }
                }
            }
            _ => {}
        }
    }
    tables
}
