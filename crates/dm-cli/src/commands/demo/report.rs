//! The report at the end of the demo, for somebody who sees this for the first time.

use std::time::Duration;

use data_manager::{BackupId, Result};
use serde::Serialize;

use crate::output::{Output, Table, text};

/// One step of the story.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// A stable name for programs.
    pub(super) name: &'static str,
    /// What was done.
    pub(super) what: &'static str,
    /// What came of it.
    pub(super) result: String,
    /// How long it took.
    pub(super) duration_ms: u64,
}

/// One table before the damage and after the restore.
#[derive(Debug, Serialize)]
pub(super) struct TableProof {
    pub(super) table: String,
    pub(super) rows_before: u64,
    pub(super) rows_after: u64,
    pub(super) digest_before: String,
    pub(super) digest_after: String,
    pub(super) equal: bool,
}

/// The document `dm.demo/1`.
#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    pub(super) folder: String,
    pub(super) database: String,
    pub(super) restored: String,
    pub(super) repository: String,
    pub(super) backups: Vec<BackupId>,
    pub(super) database_bytes: u64,
    pub(super) full_stored_bytes: u64,
    pub(super) incremental_stored_bytes: u64,
    pub(super) steps: Vec<Step>,
    /// What the damaged database answered.
    pub(super) damage: Vec<String>,
    pub(super) tables: Vec<TableProof>,
    /// Whether the restore's own comparison found everything equal.
    pub(super) restore_equal: bool,
    /// Whether the trail of what was done is whole.
    pub(super) audit_ok: bool,
    /// All of the above.
    pub(super) proven: bool,
    pub(super) duration_ms: u64,
}

/// One line of the story, as it happens.
pub(super) fn step(out: &mut Output, number: usize, step: &Step) -> Result<()> {
    let took = text::duration(Duration::from_millis(step.duration_ms));
    out.say(format!("{number:>3}  {:32}  {:>7}   {}", step.what, took, text::printable(&step.result)))?;
    out.stdout().flush()
}

/// Everything after the story: the damage, the proof, the verdict, and what to do next.
pub(super) fn end(out: &mut Output, report: &DemoReport) -> Result<()> {
    out.say("")?;
    out.heading("What the broken database answered")?;
    for line in &report.damage {
        out.say(format!("  {}", text::printable(line)))?;
    }
    out.say("")?;
    out.heading("Before the damage, and after the restore")?;
    let mut table =
        Table::new(["table", ">rows before", ">rows after", "fingerprint of all rows", ""]).indented(2);
    for proof in &report.tables {
        table.row([
            proof.table.clone(),
            text::grouped(proof.rows_before),
            text::grouped(proof.rows_after),
            format!("{}…  {}…", &proof.digest_before[..12], &proof.digest_after[..12]),
            if proof.equal { "the same" } else { "DIFFERENT" }.to_owned(),
        ]);
    }
    out.table(&table)?;
    out.say("")?;
    out.heading("Sizes")?;
    out.facts(&[
        ("the database", text::bytes(report.database_bytes)),
        ("first backup", format!("{} stored", text::bytes(report.full_stored_bytes))),
        (
            "second backup",
            format!(
                "{} stored, {} of the first: only what had changed",
                text::bytes(report.incremental_stored_bytes),
                text::percent(report.incremental_stored_bytes, report.full_stored_bytes)
            ),
        ),
    ])?;
    out.say("")?;
    let took = text::duration(Duration::from_millis(report.duration_ms));
    if report.proven {
        out.heading(&format!("Every row is back, exactly as it was. The whole story took {took}."))?;
        out.say("The restore compared each table with what was recorded at backup time; the fingerprints above were")?;
        out.say(
            "taken apart from that, by reading every row in order before the damage and after the restore.",
        )?;
    } else {
        out.heading("NOT PROVEN: the restored database is not what was backed up.")?;
    }
    out.say("")?;
    out.heading("What is where")?;
    out.facts(&[
        ("broken", report.database.clone()),
        ("restored", report.restored.clone()),
        ("backups", report.repository.clone()),
    ])?;
    out.say("")?;
    out.heading("What next")?;
    out.facts(&[
        ("dm init <url>", "write a configuration for your own PostgreSQL or SQLite database".to_owned()),
        ("dm doctor", "see whether everything is ready".to_owned()),
        ("dm backup run", "make the first backup".to_owned()),
        ("dm restore latest", "bring it back under a new name, and compare".to_owned()),
    ])
}
