//! `dm migrate status`, `plan` and `lint`: what only reads.

use data_manager::lint::{self, Dialect, Effect, LintFinding, Severity};
use data_manager::migration::{MigrationPlan, PlannedStatement, Problem, StatusReport, TracedMigration};
use data_manager::{DataManager, Direction, MigrateOptions, PlannedLocks, Result, Standing, TracedStatement};
use serde_json::json;

use super::{goal, options};
use crate::args::{LintArgs, PlanArgs, StatusArgs};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn status(session: &mut Session, dm: &DataManager, args: StatusArgs) -> Result<Exit> {
    let options = options(session, args.of);
    let ctx = session.quiet_context(dm);
    let report = dm.migrate().status(&ctx, &options).await?;
    session.out.document(
        "migrations",
        &[
            ("migrations", &report.migrations),
            ("problems", &report.problems),
            ("leftovers", &report.leftovers),
            ("table", &report.table),
            ("settled", &report.is_settled()),
        ],
    )?;
    tell_status(session, &report)?;
    Ok(if report.is_settled() { Exit::Done } else { Exit::CheckFailed })
}

fn tell_status(session: &mut Session, report: &StatusReport) -> Result<()> {
    let mut table = Table::new(["version", "state", "when", "took", "description"]);
    for migration in &report.migrations {
        let standing = match migration.standing {
            Standing::Applied => "applied",
            Standing::Pending => "pending",
            Standing::RolledBack => "pending (undone)",
            Standing::Failed => "pending (failed)",
            Standing::Unfinished => "UNFINISHED",
        };
        let applied = migration.standing == Standing::Applied;
        let remark = migration.remark.as_deref().or(migration.error.as_deref());
        let remark = remark.map_or_else(String::new, |r| format!(" ({r})"));
        table.row([
            migration.version.to_string(),
            standing.to_owned(),
            migration.applied_at.filter(|_| applied).map_or_else(String::new, text::time),
            migration.execution_time_ms.filter(|_| applied).map_or_else(String::new, |ms| format!("{ms} ms")),
            text::printable(&format!("{}{remark}", migration.description)),
        ]);
    }
    if !table.is_empty() {
        session.out.table(&table)?;
    }
    let pending = report.pending().count();
    session.out.say(match (report.migrations.is_empty(), pending) {
        (true, _) => format!("{} has no migrations", text::printable(&report.origin)),
        (false, 0) => "nothing is pending".to_owned(),
        (false, n) => format!("{n} pending"),
    })?;
    tell_problems(session, &report.problems)?;
    session.out.findings(&report.leftovers)
}

pub(super) fn tell_problems(session: &mut Session, problems: &[Problem]) -> Result<()> {
    for problem in problems {
        session.out.say(format!("  - {}", text::printable(&problem.message)))?;
        session.out.say(format!("    mend: {}", text::printable(&problem.mend)))?;
    }
    Ok(())
}

pub(super) async fn plan(session: &mut Session, dm: &DataManager, args: PlanArgs) -> Result<Exit> {
    let direction = if args.down { Direction::Down } else { Direction::Up };
    let options = MigrateOptions {
        goal: goal(&args.goal),
        out_of_order: args.out_of_order,
        ..options(session, args.of)
    };
    let ctx = session.quiet_context(dm);
    let plan = dm.migrate().plan(&ctx, &options, direction).await?;
    let kind = dm.engine(options.engine.as_ref())?.kind();
    let locks = dm.migrate().locks(kind, &plan);
    let traced = match args.trace {
        true => Some(dm.migrate().trace(&ctx, &options).await?),
        false => None,
    };
    session.out.document("migration-plan", &[("plan", &plan), ("locks", &locks), ("traced", &traced)])?;
    let lines = plan_lines(&plan, &locks, traced.as_deref());
    for line in lines {
        session.out.say(line)?;
    }
    tell_problems(session, &plan.problems)?;
    let settled = plan.migrations.is_empty() && plan.problems.is_empty();
    Ok(if settled { Exit::Done } else { Exit::CheckFailed })
}

/// A plan for a person, with the locks that the statements' texts tell.
pub(super) fn planned_lines(
    dm: &DataManager,
    options: &MigrateOptions,
    plan: &MigrationPlan,
) -> Result<Vec<String>> {
    let kind = dm.engine(options.engine.as_ref())?.kind();
    Ok(plan_lines(plan, &dm.migrate().locks(kind, plan), None))
}

fn plan_lines(
    plan: &MigrationPlan,
    locks: &[PlannedLocks],
    traced: Option<&[TracedMigration]>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.migrations.is_empty() {
        lines.push(match plan.direction {
            Direction::Up => "nothing is pending".to_owned(),
            Direction::Down => "nothing is to be undone".to_owned(),
        });
    }
    for migration in &plan.migrations {
        let doing = if plan.direction == Direction::Up { "apply" } else { "undo" };
        let how = if migration.transaction { "one transaction" } else { "statement by statement" };
        lines.push(format!(
            "{doing} {} {} ({}, {how})",
            migration.version,
            text::printable(&migration.description),
            text::printable(&migration.file)
        ));
        let traced = traced.and_then(|all| all.iter().find(|t| t.version == migration.version));
        for statement in &migration.statements {
            lines.extend(statement_lines(statement));
            let known = locks.iter().find(|l| (l.version, l.number) == (migration.version, statement.number));
            let seen = traced.and_then(|t| t.statements.get(statement.number.checked_sub(1)? as usize));
            lines.extend(match seen {
                Some(seen) => seen_lines(seen),
                None => known.map(|l| l.effects.iter().map(effect_line).collect()).unwrap_or_default(),
            });
        }
    }
    lines
}

fn statement_lines(statement: &PlannedStatement) -> Vec<String> {
    let mut lines: Vec<String> =
        statement.text.lines().map(|l| format!("    {}", text::printable(l))).collect();
    if let Some(last) = lines.last_mut() {
        last.push(';');
    }
    for table in &statement.tables {
        let rows = table.rows.map_or_else(
            || "an unknown number of rows".to_owned(),
            |n| format!("about {}", text::count(n, "row")),
        );
        let bytes = table.bytes.map_or_else(String::new, |b| format!(", {}", text::bytes(b)));
        let perhaps = if statement.tables_by_words { " (named by a word)" } else { "" };
        lines.push(format!("      -> {}: {rows}{bytes}{perhaps}", text::printable(&table.name)));
    }
    lines
}

/// A lock as the statement's text tells it.
fn effect_line(effect: &Effect) -> String {
    let work = match (effect.rewrites, effect.scans) {
        (true, _) => ", writes every row anew",
        (false, true) => ", reads every row",
        (false, false) => "",
    };
    let (object, lock) = (text::printable(&effect.object), effect.lock);
    format!("      -> locks {object} {}: {} waits{work}", lock.sql(), lock.stops())
}

/// The locks that a statement took on the shadow database.
fn seen_lines(seen: &TracedStatement) -> Vec<String> {
    match &seen.locks {
        Some(locks) => locks
            .iter()
            .map(|l| {
                let work = if l.rewritten { ", wrote every row anew" } else { "" };
                format!("      => locked {} {}{work}", text::printable(&l.object), l.mode)
            })
            .collect(),
        None if seen.skipped => vec!["      => not tried: it is about the whole server".to_owned()],
        None => vec!["      => ran outside of a transaction: its locks were not seen".to_owned()],
    }
}

pub(super) async fn lint(session: &mut Session, dm: &DataManager, args: LintArgs) -> Result<Exit> {
    if args.rules {
        return rules(session);
    }
    let options = options(session, args.of);
    let ctx = session.quiet_context(dm);
    let report = dm.migrate().lint(&ctx, &options, args.all).await?;
    let passes = report.passes();
    session.out.document(
        "migration-lint",
        &[("findings", &report.findings), ("files", &report.files), ("passes", &passes)],
    )?;
    for finding in &report.findings {
        tell_finding(session, finding)?;
    }
    session.out.say(match (report.files.len(), report.findings.len()) {
        (0, _) => "no file is pending; --all looks at every one".to_owned(),
        (files, 0) => format!("{} looked at, nothing found", text::count(files as u64, "file")),
        (files, found) => format!("{} looked at, {found} found", text::count(files as u64, "file")),
    })?;
    Ok(if passes { Exit::Done } else { Exit::CheckFailed })
}

/// The rules and what they find.
fn rules(session: &mut Session) -> Result<Exit> {
    let all: Vec<_> = lint::rules()
        .iter()
        .map(|r| json!({ "name": r.name, "severity": r.severity, "dialects": r.dialects, "summary": r.summary, "why": r.why }))
        .collect();
    session.out.document("lint-rules", &[("rules", &all)])?;
    let mut table = Table::new(["rule", "finds", "where"]);
    for rule in lint::rules() {
        let places = match rule.dialects {
            [Dialect::Postgres] => "PostgreSQL",
            [Dialect::Sqlite] => "SQLite",
            _ => "both",
        };
        table.row([rule.name.to_owned(), rule.summary.to_owned(), places.to_owned()]);
    }
    session.out.table(&table)?;
    Ok(Exit::Done)
}

fn tell_finding(session: &mut Session, finding: &LintFinding) -> Result<()> {
    let severity = match finding.severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let size = finding.size.map_or_else(String::new, |size| {
        format!(
            " [{}: about {}, {}]",
            finding.table.as_deref().unwrap_or_default(),
            text::count(size.rows, "row"),
            text::bytes(size.bytes)
        )
    });
    session.out.heading(&text::printable(&format!(
        "{}:{}:{}: {severity}: {} ({}){size}",
        finding.file, finding.line, finding.column, finding.message, finding.rule
    )))?;
    session.out.say(format!("    {}", text::printable(&finding.statement)))?;
    session.out.say(format!("  why: {}", text::printable(finding.why)))?;
    for (number, line) in finding.rewrite.lines().enumerate() {
        let lead = if number == 0 { "  instead: " } else { "           " };
        session.out.say(format!("{lead}{}", text::printable(line)))?;
    }
    Ok(())
}
