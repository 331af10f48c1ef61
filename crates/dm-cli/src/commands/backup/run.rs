//! `dm backup run`.

use std::collections::BTreeSet;
use std::time::Duration;

use data_manager::backup::{HookReport, RunReport, Stage, Step};
use data_manager::repository::{CopyOptions, ResumedFrom, Verification, VerifyLevel};
use data_manager::{BackupKind, BackupMode, BackupOptions, DataManager, Finding, Level, Result};
use serde::Serialize;

use super::places;
use super::views::MadeBackup;
use crate::args::{KindArg, LevelArg, ModeArg, RunArgs};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

impl From<ModeArg> for BackupMode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Logical => Self::Logical,
            ModeArg::Physical => Self::Physical,
        }
    }
}

impl From<KindArg> for BackupKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Full => Self::Full,
            KindArg::Differential => Self::Differential,
            KindArg::Incremental => Self::Incremental,
        }
    }
}

impl From<LevelArg> for VerifyLevel {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Quick => Self::Quick,
            LevelArg::Stored => Self::Stored,
            LevelArg::Full => Self::Full,
        }
    }
}

pub(super) async fn run(session: &mut Session, dm: &DataManager, args: RunArgs) -> Result<Exit> {
    let options = BackupOptions {
        engine: args.engine,
        target: args.target.target,
        mode: if args.physical { Some(BackupMode::Physical) } else { args.mode.map(Into::into) },
        kind: args.kind.map(Into::into),
        jobs: args.jobs.map(Into::into),
        include_tables: args.include_tables,
        exclude_tables: args.exclude_tables,
        verify: args.verify.map(Into::into),
        skip_verify: args.no_verify,
        no_resume: args.no_resume,
        tenant: args.tenant,
    };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    if args.dry_run {
        let preflight = dm.backup().preflight(&ctx, &options).await?;
        drop(progress);
        session.out.document("backup-preflight", &[("preflight", &preflight)])?;
        session.out.findings(&preflight.findings)?;
        session.out.say(format!(
            "about {} would be read; nothing was changed",
            text::bytes(preflight.estimated_bytes)
        ))?;
        let stopped = preflight.findings.iter().any(|f| f.level == Level::Error);
        return Ok(if stopped { Exit::CheckFailed } else { Exit::Done });
    }
    let report = dm.backup().run(&ctx, &options).await?;
    let mut copies = Vec::new();
    if !args.no_copy && !dm.backup().copies().is_empty() {
        let copying = CopyOptions { target: Some(report.backup.target.clone()), dry_run: false };
        copies = dm.backup().copy(&ctx, None, &copying).await?;
    }
    drop(progress);
    session.out.document(
        "backup-run",
        &[
            ("run_id", &ctx.run_id()),
            ("backup_id", &report.backup.id),
            ("report", &Report::from(&report)),
            ("copies", &copies),
        ],
    )?;
    tell(session, &report)?;
    places::tell(session, &copies)?;
    // Made, and of use; but the database has a page that is not what was written to it.
    Ok(if corrupt_pages(&report) == 0 { places::exit(&copies) } else { Exit::CheckFailed })
}

/// Pages of the database whose checksum does not hold.
fn corrupt_pages(report: &RunReport) -> u64 {
    report.attributes.get("corrupt_pages").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

/// How an incremental backup found what changed, where the engine says it.
fn changes_by(report: &RunReport) -> Option<&str> {
    report.attributes.get("changes_by").and_then(serde_json::Value::as_str)
}

fn compared(report: &RunReport) -> String {
    match changes_by(report) {
        Some("wal_summaries") => "by the server's WAL summaries: unchanged pages were not read".to_owned(),
        Some("page_lsn") => "by the pages' LSN: everything was read".to_owned(),
        Some(other) => format!("by {other}"),
        None => String::new(),
    }
}

fn content(report: &RunReport) -> String {
    match report.backup.mode {
        BackupMode::Physical if report.tables == 0 => {
            format!(
                "{}, {}",
                text::count(report.backup.counts.members, "file"),
                text::bytes(report.backup.sizes.logical)
            )
        }
        _ => format!("{}, {}", text::count(report.tables, "table"), text::count(report.rows, "row")),
    }
}

fn read(report: &RunReport) -> String {
    let per_second = |ms: u64| report.read_bytes.saturating_mul(1000) / ms.max(1);
    let step = report.steps.iter().find(|s| s.name == "read");
    match step {
        Some(step) => {
            format!("{}, {}/s", text::bytes(report.read_bytes), text::bytes(per_second(step.duration_ms)))
        }
        None => text::bytes(report.read_bytes),
    }
}

fn tell(session: &mut Session, report: &RunReport) -> Result<()> {
    let backup = &report.backup;
    let duration = Duration::from_millis(report.duration_ms);
    let bad = match corrupt_pages(report) {
        0 => String::new(),
        n => format!(", but the database has {}", text::count(n, "corrupt page")),
    };
    session.out.heading(&format!("{} backup of {} done{bad}", backup.kind, backup.target))?;
    let verified = match &report.verification {
        Some(v) => format!("{} at level {}", if v.ok { "sound" } else { "DAMAGED" }, v.level),
        None => String::new(),
    };
    session.out.facts(&[
        ("id", backup.id.to_string()),
        ("database", format!("{} ({} {})", backup.database, backup.engine, backup.engine_version.text)),
        ("shows", text::time(backup.consistency.at)),
        ("content", content(report)),
        ("read", read(report)),
        ("changes", compared(report)),
        ("stored", stored(report)),
        ("resumed", resumed(report)),
        ("encrypted", if backup.encrypted { "yes" } else { "no" }.to_owned()),
        ("took", text::duration(duration)),
        ("verified", verified),
        ("before", procedure(report, Stage::Pre)),
        ("during", procedure(report, Stage::During)),
        ("after", procedure(report, Stage::Post)),
    ])?;
    for warning in &report.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    Ok(())
}

/// The steps of a stage, each with its time.
fn procedure(report: &RunReport, stage: Stage) -> String {
    let steps = report.steps.iter().filter(|step| step.stage == stage);
    let told = steps.map(|s| format!("{} {}", s.name, text::duration(Duration::from_millis(s.duration_ms))));
    let mut told: Vec<String> = told.collect();
    if stage == Stage::Pre {
        let checked = report.findings.iter().map(|f| text::printable(&f.check)).collect::<BTreeSet<_>>();
        let checked: Vec<_> = checked.into_iter().collect();
        told.insert(0, format!("looked at {}", checked.join(", ")));
    }
    told.join(" · ")
}

fn stored(report: &RunReport) -> String {
    let stored = text::bytes(report.stored_bytes);
    if report.reused_bytes == 0 {
        return stored;
    }
    format!("{stored}; {} were there already", text::bytes(report.reused_bytes))
}

/// What an interrupted run had stored.
fn resumed(report: &RunReport) -> String {
    match &report.resumed {
        Some(from) => format!("from {}, {} not sent again", from.backup, text::bytes(from.bytes)),
        None => String::new(),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    backup: MadeBackup,
    read_bytes: u64,
    stored_bytes: u64,
    reused_bytes: u64,
    resumed: Option<ResumedFrom>,
    duration_ms: u64,
    warnings: &'a [String],
    findings: &'a [Finding],
    verification: Option<&'a Verification>,
    hooks: &'a [HookReport],
    steps: &'a [Step],
    changes_by: Option<&'a str>,
    /// Of a physical backup: bytes read from the server, by what they belong to.
    read_by: Option<&'a serde_json::Value>,
    corrupt_pages: u64,
}

impl<'a> From<&'a RunReport> for Report<'a> {
    fn from(report: &'a RunReport) -> Self {
        Self {
            backup: MadeBackup::from(&report.backup),
            read_bytes: report.read_bytes,
            stored_bytes: report.stored_bytes,
            reused_bytes: report.reused_bytes,
            resumed: report.resumed,
            duration_ms: report.duration_ms,
            warnings: &report.warnings,
            findings: &report.findings,
            verification: report.verification.as_ref(),
            hooks: &report.hooks,
            steps: &report.steps,
            changes_by: changes_by(report),
            read_by: report.attributes.get("read_bytes"),
            corrupt_pages: corrupt_pages(report),
        }
    }
}
