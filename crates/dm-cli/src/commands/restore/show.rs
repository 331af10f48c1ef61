//! What a person reads of a restore: the plan before it, the report after it.

use std::fmt::Display;
use std::time::Duration;

use chrono::TimeZone;
use data_manager::backup::{HookReport, RestoreReport};
use data_manager::{
    CheckDepth, ConsistencyPoint, Finding, Level, RecoveryPoint, RestorePlan, Result, TableFacts,
};

use super::super::backup::short;
use crate::instant;
use crate::output::{Table, text};
use crate::session::Session;

/// The plan, line by line.
pub(super) fn plan<Z: TimeZone>(plan: &RestorePlan, zone: &Z) -> Vec<String>
where
    Z::Offset: Display,
{
    let backup = &plan.backup;
    let mut lines =
        vec![format!("restore {} of {} ({}, {})", short(backup.id), backup.target, backup.kind, backup.mode)];
    let mut fact = |name: &str, value: String| lines.push(format!("  {name:8} {}", text::printable(&value)));
    fact("shows", text::time(backup.consistency.at));
    if plan.until != RecoveryPoint::Backup {
        let before = if plan.exclusive { "just before " } else { "" };
        fact("replays", format!("the log, to {before}{}", point(&plan.until, zone)));
    }
    if let Some(reaches) = &plan.preview.reaches {
        fact("reaches", reached(reaches));
    }
    fact("loses", lost(plan));
    fact("to", plan.preview.location.clone());
    fact("writes", writes(plan));
    if !plan.tables.is_empty() {
        fact("only", plan.tables.join(", "));
    }
    if let Some(tenant) = &plan.tenant {
        fact("only", format!("the rows of {tenant}, and what they need"));
    }
    match plan.checks {
        CheckDepth::None => fact("checks", "nothing: it is not started".to_owned()),
        CheckDepth::Deep => fact("checks", "everything that the engine can check itself".to_owned()),
        CheckDepth::Standard => {}
    }
    let options = plan.options();
    if !options.assertions.is_empty() {
        let names: Vec<&str> = options.assertions.iter().map(|a| a.name.as_str()).collect();
        fact("asks", names.join(", "));
    }
    for (name, hook) in [("stops", &options.hooks.stop), ("starts", &options.hooks.start)] {
        if let Some(hook) = hook {
            fact(name, format!("the application with: {}", hook.command));
        }
    }
    if options.keep_sealed {
        fact("leaves", "it closed to others; \"dm restore release\" opens it".to_owned());
    }
    if options.rehearse {
        fact("then", "takes everything back: this is a rehearsal".to_owned());
    }
    lines.extend(plan.preview.consequences.iter().map(|c| format!("  - {}", text::printable(c))));
    for finding in plan.preview.findings.iter().filter(|f| f.level >= Level::Warning) {
        let level = if finding.level == Level::Error { "error" } else { "warning" };
        lines.push(format!("  {level}: {}", text::printable(&finding.message)));
        lines.extend(finding.mend.iter().map(|mend| format!("    mend: {}", text::printable(mend))));
    }
    lines
}

fn writes(plan: &RestorePlan) -> String {
    let size = text::bytes(plan.preview.bytes);
    match (plan.delta, plan.backup.mode) {
        (true, _) => format!("at most {size}: what differs from what stands there"),
        (false, data_manager::BackupMode::Physical) => size,
        (false, data_manager::BackupMode::Logical) => format!("{size} before indexes"),
    }
}

fn lost(plan: &RestorePlan) -> String {
    match plan.loss.lost_ms {
        0 => "nothing".to_owned(),
        lost => format!(
            "what was committed after {}: the last {} until now",
            text::time(plan.loss.from),
            text::duration(Duration::from_millis(lost))
        ),
    }
}

/// A point in words, an instant by both clocks.
fn point<Z: TimeZone>(point: &RecoveryPoint, zone: &Z) -> String
where
    Z::Offset: Display,
{
    match point {
        RecoveryPoint::Time(at) => instant::both(*at, zone),
        RecoveryPoint::End => "its end".to_owned(),
        other => other.to_string(),
    }
}

fn reached(point: &ConsistencyPoint) -> String {
    let mut text = text::time(point.at);
    if let Some(position) = &point.position {
        text.push_str(&format!(", position {position}"));
    }
    if let Some(timeline) = &point.timeline {
        text.push_str(&format!(", timeline {timeline}"));
    }
    text
}

/// The report.
pub(super) fn report<Z: TimeZone>(
    session: &mut Session,
    report: &RestoreReport,
    depth: CheckDepth,
    zone: &Z,
) -> Result<()>
where
    Z::Offset: Display,
{
    session.out.say("")?;
    session.out.heading(verdict(report, depth))?;
    let until = match &report.until {
        RecoveryPoint::Backup => String::new(),
        other => format!("{}, replayed to {}", reached(&report.reached), point(other, zone)),
    };
    session.out.facts(&[
        ("where", report.location.clone()),
        ("before", report.previous.as_ref().map_or_else(String::new, |p| format!("kept as {p}"))),
        ("shows", until),
        ("content", compared(report)),
        ("written", format!("{}, {}/s", text::bytes(report.bytes), text::bytes(report.bytes_per_second))),
        ("took", took(report, depth)),
        ("RPO", rpo(report)),
        ("RTO", text::duration(Duration::from_millis(report.recovery.rto_ms))),
        ("open", opened(report)),
    ])?;
    differences(session, report)?;
    let checks: Vec<Finding> = report.checks.iter().filter(|c| c.level > Level::Ok).cloned().collect();
    session.out.findings(&checks)?;
    questions(session, report)?;
    for hook in &report.hooks {
        session.out.say(told(hook))?;
    }
    for note in &report.notes {
        session.out.say(format!("  next: {}", text::printable(note)))?;
    }
    for warning in &report.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    Ok(())
}

fn verdict(report: &RestoreReport, depth: CheckDepth) -> &'static str {
    let answered = report.assertions.iter().all(|a| a.ok);
    match (report.equal, answered, depth, report.tables.is_empty()) {
        (false, ..) => "restored, but NOT equal to the backup",
        (_, false, ..) => "restored, but a check of your own FAILED",
        (_, _, CheckDepth::None, _) => "written; nothing was started or compared",
        (_, _, _, false) => "restored, and proven equal to the backup",
        (_, _, _, true) => "restored, and found whole by the engine's own checks",
    }
}

fn compared(report: &RestoreReport) -> String {
    if report.tables.is_empty() {
        return match report.checks.iter().filter(|c| c.level == Level::Ok).count() {
            0 => String::new(),
            passed => format!("{} passed", text::count(passed as u64, "check")),
        };
    }
    let (tables, rows) = TableFacts::tally(report.tables.iter().filter_map(|t| t.found.as_ref()));
    format!("{}, {} compared", text::count(tables, "table"), text::count(rows, "row"))
}

fn took(report: &RestoreReport, depth: CheckDepth) -> String {
    let all = text::duration(Duration::from_millis(report.duration_ms));
    match depth {
        CheckDepth::None => all,
        _ => {
            let checking = text::duration(Duration::from_millis(report.comparison_ms));
            format!("{all}, of that {checking} checking")
        }
    }
}

fn rpo(report: &RestoreReport) -> String {
    let loss = &report.recovery.loss;
    match loss.lost_ms {
        0 => "nothing lost".to_owned(),
        lost => format!(
            "{}: from {} to {}",
            text::duration(Duration::from_millis(lost)),
            text::time(loss.from),
            text::time(loss.to)
        ),
    }
}

fn opened(report: &RestoreReport) -> String {
    if report.released {
        return String::new();
    }
    format!("no: it is closed to others; \"dm restore release {}\" opens it", report.location)
}

fn differences(session: &mut Session, report: &RestoreReport) -> Result<()> {
    let mut table = Table::new(["table", ">rows recorded", ">rows found", "content"]).indented(2);
    for t in report.tables.iter().filter(|t| !t.equal) {
        table.row([
            t.expected.table.clone(),
            text::grouped(t.expected.rows),
            t.found.as_ref().map_or_else(|| "missing".to_owned(), |f| text::grouped(f.rows)),
            "differs".to_owned(),
        ]);
    }
    if table.is_empty() { Ok(()) } else { session.out.table(&table) }
}

fn questions(session: &mut Session, report: &RestoreReport) -> Result<()> {
    if report.assertions.is_empty() {
        return Ok(());
    }
    session.out.table(&assertions(&report.assertions))
}

/// The answers to the application's own questions.
pub(crate) fn assertions(results: &[data_manager::backup::AssertionResult]) -> Table {
    let mut table = Table::new(["check", "expected", "found", "result"]).indented(2);
    for result in results {
        let found = match (&result.error, &result.found) {
            (Some(error), _) => error.clone(),
            (None, Some(found)) => found.clone(),
            (None, None) => "nothing".to_owned(),
        };
        let verdict = if result.ok { "ok" } else { "FAILED" };
        table.row([result.name.clone(), result.expected.to_string(), found, verdict.to_owned()]);
    }
    table
}

fn told(hook: &HookReport) -> String {
    let phase = hook.phase;
    let how = match (&hook.problem, hook.ok) {
        (Some(problem), _) => problem.clone(),
        (None, true) => format!("done in {}", text::duration(Duration::from_millis(hook.duration_ms))),
        (None, false) => "FAILED".to_owned(),
    };
    format!("  {phase}: {} ({})", text::printable(&hook.command), text::printable(&how))
}
