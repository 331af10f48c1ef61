//! The documents of a restore.

use data_manager::backup::{AssertionResult, HookReport, Loss, Recovery, RestoreReport, Step};
use data_manager::{
    CheckDepth, ConsistencyPoint, Destination, Finding, RecoveryPoint, RestorePlan, TableComparison,
    TableFacts, TenantFilter,
};
use serde::Serialize;

use super::super::backup::MadeBackup;

/// The document `dm.restore-plan/1`.
#[derive(Serialize)]
pub(super) struct Plan<'a> {
    backup: MadeBackup,
    location: &'a str,
    in_place: bool,
    delta: bool,
    tables: &'a [String],
    tenant: Option<&'a TenantFilter>,
    until: &'a RecoveryPoint,
    exclusive: bool,
    reaches: Option<&'a ConsistencyPoint>,
    loss: &'a Loss,
    checks: CheckDepth,
    jobs: usize,
    bytes: u64,
    consequences: &'a [String],
    findings: &'a [Finding],
}

impl<'a> From<&'a RestorePlan> for Plan<'a> {
    fn from(plan: &'a RestorePlan) -> Self {
        Self {
            backup: MadeBackup::from(&plan.backup),
            location: &plan.preview.location,
            in_place: plan.destination == Destination::InPlace,
            delta: plan.delta,
            tables: &plan.tables,
            tenant: plan.tenant.as_ref(),
            until: &plan.until,
            exclusive: plan.exclusive,
            reaches: plan.preview.reaches.as_ref(),
            loss: &plan.loss,
            checks: plan.checks,
            jobs: plan.jobs,
            bytes: plan.preview.bytes,
            consequences: &plan.preview.consequences,
            findings: &plan.preview.findings,
        }
    }
}

/// The report of `dm.restore-run/1`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    backup: MadeBackup,
    until: &'a RecoveryPoint,
    reached: &'a ConsistencyPoint,
    location: &'a str,
    previous: Option<&'a str>,
    equal: bool,
    released: bool,
    tables: Vec<Table<'a>>,
    checks: &'a [Finding],
    assertions: &'a [AssertionResult],
    bytes: u64,
    bytes_per_second: u64,
    duration_ms: u64,
    comparison_ms: u64,
    recovery: &'a Recovery,
    hooks: &'a [HookReport],
    steps: &'a [Step],
    notes: &'a [String],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Table<'a> {
    table: &'a str,
    equal: bool,
    recorded: &'a TableFacts,
    found: Option<&'a TableFacts>,
}

impl<'a> From<&'a TableComparison> for Table<'a> {
    fn from(t: &'a TableComparison) -> Self {
        Self { table: &t.expected.table, equal: t.equal, recorded: &t.expected, found: t.found.as_ref() }
    }
}

impl<'a> From<&'a RestoreReport> for Report<'a> {
    fn from(report: &'a RestoreReport) -> Self {
        Self {
            backup: MadeBackup::from(&report.backup),
            until: &report.until,
            reached: &report.reached,
            location: &report.location,
            previous: report.previous.as_deref(),
            equal: report.equal,
            released: report.released,
            tables: report.tables.iter().map(Table::from).collect(),
            checks: &report.checks,
            assertions: &report.assertions,
            bytes: report.bytes,
            bytes_per_second: report.bytes_per_second,
            duration_ms: report.duration_ms,
            comparison_ms: report.comparison_ms,
            recovery: &report.recovery,
            hooks: &report.hooks,
            steps: &report.steps,
            notes: &report.notes,
            warnings: &report.warnings,
        }
    }
}
