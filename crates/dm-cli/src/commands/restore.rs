//! `dm restore`.

use std::time::Duration;

use data_manager::backup::{RestoreReport, Unproven};
use data_manager::{
    DataManager, Destination, Error, Finding, Level, RestoreOptions, RestorePlan, Result, TableComparison,
    TableFacts,
};
use serde::Serialize;

use super::backup::{MadeBackup, short, table};
use crate::args::{RestoreArgs, UnprovenArg};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

impl From<UnprovenArg> for Unproven {
    fn from(unproven: UnprovenArg) -> Self {
        match unproven {
            UnprovenArg::KeepSealed => Self::KeepSealed,
            UnprovenArg::Discard => Self::Discard,
            UnprovenArg::Release => Self::Release,
        }
    }
}

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: RestoreArgs) -> Result<Exit> {
    let which = match &args.backup {
        Some(which) => which.clone(),
        None => choose(session, dm, &args).await?,
    };
    let options = RestoreOptions {
        engine: args.engine,
        target: args.target,
        which,
        to: args.to,
        in_place: args.in_place,
        tables: args.tables,
        jobs: args.jobs.map(Into::into),
        verified_only: args.verified_only,
        unproven: args.unproven.into(),
        ..RestoreOptions::default()
    };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let plan = dm.plan_restore(&ctx, &options).await?;
    drop(progress);
    let stopped = plan.preview.findings.iter().any(|f| f.level == Level::Error);
    if args.apply.dry_run {
        session.out.document("restore-plan", &[("plan", &PlanDocument::from(&plan))])?;
        if session.out.is_human() {
            session.show_plan(&plan_lines(&plan))?;
        }
        return Ok(if stopped { Exit::CheckFailed } else { Exit::Done });
    }
    session.show_plan(&plan_lines(&plan))?;
    // A restore beside what stands there destroys nothing; and a plan that cannot be applied needs no answer.
    if plan.destination == Destination::InPlace && !stopped {
        session.questions.confirm(&format!("Replace {}?", plan.preview.location), args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.apply_restore(&ctx, plan).await?;
    drop(progress);
    session.out.document(
        "restore-run",
        &[
            ("run_id", &ctx.run_id()),
            ("backup_id", &report.backup.id),
            ("report", &ReportDocument::from(&report)),
        ],
    )?;
    tell(session, &report)?;
    Ok(if report.equal { Exit::Done } else { Exit::CheckFailed })
}

/// Lets a person choose a backup.
async fn choose(session: &mut Session, dm: &DataManager, args: &RestoreArgs) -> Result<String> {
    if !session.questions.is_terminal || !session.out.is_human() {
        return Err(Error::invalid("which backup? there is no terminal to choose on")
            .with_hint("name one: \"dm restore latest\", or an id of \"dm backup list\""));
    }
    let ctx = session.quiet_context(dm);
    let mut list = dm.backup().list(&ctx, args.target.as_ref()).await?;
    list.backups.retain(|b| !b.deleting);
    if list.backups.is_empty() {
        return Err(
            Error::not_found("there is no backup to restore").with_hint("\"dm backup run\" makes one")
        );
    }
    session.show_plan(&table(&list, true).lines())?;
    loop {
        let answer =
            session.questions.ask(&format!("Which one? [1-{}, Enter for the last] ", list.backups.len()))?;
        let chosen = match answer.as_str() {
            "" => list.backups.last(),
            number => number.parse::<usize>().ok().and_then(|n| list.backups.get(n.checked_sub(1)?)),
        };
        match chosen {
            Some(row) => return Ok(row.id.to_string()),
            None => session.console.line(&format!("\"{}\" is not one of them", text::printable(&answer))),
        }
    }
}

fn plan_lines(plan: &RestorePlan) -> Vec<String> {
    let backup = &plan.backup;
    let mut lines = vec![
        format!("restore {} of {} ({})", short(backup.id), backup.target, backup.kind),
        format!("  shows    {}", text::time(backup.consistency.at)),
        format!("  to       {}", text::printable(&plan.preview.location)),
        format!("  writes   {} before indexes", text::bytes(plan.preview.bytes)),
    ];
    if !plan.tables.is_empty() {
        lines.push(format!("  only     {}", text::printable(&plan.tables.join(", "))));
    }
    lines.extend(plan.preview.consequences.iter().map(|c| format!("  - {}", text::printable(c))));
    for finding in plan.preview.findings.iter().filter(|f| f.level >= Level::Warning) {
        let level = if finding.level == Level::Error { "error" } else { "warning" };
        lines.push(format!("  {level}: {}", text::printable(&finding.message)));
        lines.extend(finding.mend.iter().map(|mend| format!("    mend: {}", text::printable(mend))));
    }
    lines
}

fn tell(session: &mut Session, report: &RestoreReport) -> Result<()> {
    let verdict = if report.equal {
        "restored, and proven equal to the backup"
    } else {
        "restored, but NOT equal to the backup"
    };
    session.out.say("")?;
    session.out.heading(verdict)?;
    let rows: u64 = report.tables.iter().filter_map(|t| t.found.as_ref()).map(|t| t.rows).sum();
    session.out.facts(&[
        ("where", report.location.clone()),
        ("before", report.previous.as_ref().map_or_else(String::new, |p| format!("kept as {p}"))),
        (
            "content",
            format!(
                "{}, {} compared",
                text::count(report.tables.len() as u64, "table"),
                text::count(rows, "row")
            ),
        ),
        ("written", format!("{}, {}/s", text::bytes(report.bytes), text::bytes(report.bytes_per_second))),
        (
            "took",
            format!(
                "{}, of that {} comparing",
                text::duration(Duration::from_millis(report.duration_ms)),
                text::duration(Duration::from_millis(report.comparison_ms))
            ),
        ),
        ("open", if report.released { String::new() } else { "no: it stays closed to others".to_owned() }),
    ])?;
    let mut table = Table::new(["table", ">rows recorded", ">rows found", "content"]).indented(2);
    for t in report.tables.iter().filter(|t| !t.equal) {
        table.row([
            t.expected.table.clone(),
            text::grouped(t.expected.rows),
            t.found.as_ref().map_or_else(|| "missing".to_owned(), |f| text::grouped(f.rows)),
            "differs".to_owned(),
        ]);
    }
    if !table.is_empty() {
        session.out.table(&table)?;
    }
    let checks: Vec<Finding> = report.checks.iter().filter(|c| c.level > Level::Ok).cloned().collect();
    session.out.findings(&checks)?;
    for warning in &report.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    Ok(())
}

/// The document `dm.restore-plan/1`.
#[derive(Serialize)]
struct PlanDocument<'a> {
    backup: MadeBackup,
    location: &'a str,
    in_place: bool,
    tables: &'a [String],
    jobs: usize,
    bytes: u64,
    consequences: &'a [String],
    findings: &'a [Finding],
}

impl<'a> From<&'a RestorePlan> for PlanDocument<'a> {
    fn from(plan: &'a RestorePlan) -> Self {
        Self {
            backup: MadeBackup::from(&plan.backup),
            location: &plan.preview.location,
            in_place: plan.destination == Destination::InPlace,
            tables: &plan.tables,
            jobs: plan.jobs,
            bytes: plan.preview.bytes,
            consequences: &plan.preview.consequences,
            findings: &plan.preview.findings,
        }
    }
}

/// The report of `dm.restore-run/1`.
#[derive(Serialize)]
struct ReportDocument<'a> {
    backup: MadeBackup,
    location: &'a str,
    previous: Option<&'a str>,
    equal: bool,
    released: bool,
    tables: Vec<TableDocument<'a>>,
    checks: &'a [Finding],
    bytes: u64,
    bytes_per_second: u64,
    duration_ms: u64,
    comparison_ms: u64,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct TableDocument<'a> {
    table: &'a str,
    equal: bool,
    recorded: &'a TableFacts,
    found: Option<&'a TableFacts>,
}

impl<'a> From<&'a TableComparison> for TableDocument<'a> {
    fn from(t: &'a TableComparison) -> Self {
        Self { table: &t.expected.table, equal: t.equal, recorded: &t.expected, found: t.found.as_ref() }
    }
}

impl<'a> From<&'a RestoreReport> for ReportDocument<'a> {
    fn from(report: &'a RestoreReport) -> Self {
        Self {
            backup: MadeBackup::from(&report.backup),
            location: &report.location,
            previous: report.previous.as_deref(),
            equal: report.equal,
            released: report.released,
            tables: report.tables.iter().map(TableDocument::from).collect(),
            checks: &report.checks,
            bytes: report.bytes,
            bytes_per_second: report.bytes_per_second,
            duration_ms: report.duration_ms,
            comparison_ms: report.comparison_ms,
            warnings: &report.warnings,
        }
    }
}
