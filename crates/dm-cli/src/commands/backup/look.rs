//! `dm backup list`, `show`, `size`.

use std::collections::BTreeSet;

use chrono::Utc;
use data_manager::backup::{BackupDetails, BackupList, SizeReport};
use data_manager::repository::{Hold, VerifyLevel};
use data_manager::{BackupId, DataManager, Result, TableFacts};
use serde::Serialize;

use super::views::{BackupItem, proof, short};
use crate::args::{ListArgs, ShowArgs, SizeArgs};
use crate::exit::Exit;
use crate::output::{Format, Table, text, values};
use crate::session::Session;

pub(super) async fn list(session: &mut Session, dm: &DataManager, args: ListArgs) -> Result<Exit> {
    if args.lines.json_lines {
        session.out.set_format(Format::JsonLines);
    }
    let ctx = session.quiet_context(dm);
    let list = dm.backup().list(&ctx, args.target.target.as_ref()).await?;
    let items = values(list.backups.iter().map(BackupItem::from))?;
    if session.out.is_human() {
        tell_list(session, &list)?;
    } else {
        session.out.list(
            "backups",
            &items,
            &[("problems", &list.problems), ("incomplete", &list.incomplete)],
        )?;
    }
    // A list that may lack what stands there is not a whole answer.
    Ok(if list.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

/// The table of backups, also shown to choose from.
pub(crate) fn table(list: &BackupList, numbered: bool) -> Table {
    let mut head = vec!["id", "target", "kind", "shows", ">size", ">stored", "proof", "notes"];
    if numbered {
        head.insert(0, ">no.");
    }
    let ids: BTreeSet<String> = list.backups.iter().map(|b| short(b.id)).collect();
    let ambiguous = ids.len() < list.backups.len();
    let mut table = Table::new(head);
    for (number, row) in list.backups.iter().enumerate() {
        let mut notes = Vec::new();
        if row.pinned {
            notes.push("pinned".to_owned());
        }
        if !row.holds.is_empty() {
            notes.push("held".to_owned());
        }
        if row.deleting {
            notes.push("being deleted".to_owned());
        }
        if !row.referenced_by.is_empty() {
            notes.push(format!("needed by {}", text::count(row.referenced_by.len() as u64, "other")));
        }
        let mut cells = vec![
            if ambiguous { row.id.to_string() } else { short(row.id) },
            row.target.to_string(),
            row.kind.to_string(),
            text::time(row.consistent_at),
            text::bytes(row.bytes),
            text::bytes(row.stored_bytes),
            proof(row).to_owned(),
            notes.join(", "),
        ];
        if numbered {
            cells.insert(0, (number + 1).to_string());
        }
        table.row(cells);
    }
    table
}

fn tell_list(session: &mut Session, list: &BackupList) -> Result<()> {
    if list.backups.is_empty() {
        session.out.say("no backups yet; \"dm backup run\" makes one")?;
    } else {
        session.out.table(&table(list, false))?;
    }
    if !list.incomplete.is_empty() {
        let n = text::count(list.incomplete.len() as u64, "backup");
        session.out.say(format!(
            "{n} running or interrupted; what is left of interrupted ones goes with the next expiry"
        ))?;
    }
    session.out.findings(&list.problems)
}

/// The document `dm.backup/1`.
#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    item: BackupItem,
    engine_version: &'a str,
    tool: &'a str,
    encrypted: bool,
    references: &'a [BackupId],
    position: Option<&'a str>,
    warnings: &'a [String],
    facts: &'a [TableFacts],
    members: Option<Vec<Member<'a>>>,
    map_problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Member<'a> {
    name: &'a str,
    bytes: u64,
}

pub(super) async fn show(session: &mut Session, dm: &DataManager, args: ShowArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let details = dm.backup().show(&ctx, args.target.target.as_ref(), &args.backup).await?;
    let members = details.members.as_ref();
    let document = Details {
        item: BackupItem::from(&details.row),
        engine_version: &details.header.engine_version.text,
        tool: &details.header.tool,
        encrypted: details.header.encrypted,
        references: &details.header.references,
        position: details.header.consistency.position.as_deref(),
        warnings: &details.warnings,
        facts: &details.tables,
        members: members
            .map(|all| all.iter().map(|(spec, bytes)| Member { name: &spec.name, bytes: *bytes }).collect()),
        map_problem: details.map_problem.as_deref(),
    };
    session.out.document("backup", &[("backup", &document)])?;
    tell_details(session, &details)?;
    Ok(Exit::Done)
}

/// A hold in a line.
fn hold(hold: &Hold) -> String {
    let until = hold.until.map_or_else(String::new, |until| format!(" until {}", text::time(until)));
    text::printable(&format!("{}: {} (by {}{until})", hold.name, hold.reason, hold.by))
}

fn tell_details(session: &mut Session, details: &BackupDetails) -> Result<()> {
    let (row, header) = (&details.row, &details.header);
    let ids = |ids: &[BackupId]| ids.iter().map(|id| short(*id)).collect::<Vec<_>>().join(", ");
    let verified = row.verified_at.map_or_else(
        || "never".to_owned(),
        |at| {
            let level = row.verified_level.map(|l| l.to_string()).unwrap_or_default();
            format!("{} ({level}, {})", proof(row), text::ago(Utc::now(), at))
        },
    );
    // A quick look or a sample came after it.
    let proven = row.proven_at.filter(|_| row.verified_level < Some(VerifyLevel::Stored));
    let proven = proven.map_or_else(String::new, |at| format!("every byte {}", text::ago(Utc::now(), at)));
    session.out.facts(&[
        ("id", row.id.to_string()),
        ("target", row.target.to_string()),
        ("kind", format!("{}, {}", row.kind, row.mode)),
        ("database", format!("{} ({} {})", row.database, row.engine, header.engine_version.text)),
        ("shows", text::time(row.consistent_at)),
        ("position", header.consistency.position.clone().unwrap_or_default()),
        (
            "made",
            format!("{} to {} by {}", text::time(row.started_at), text::time(row.finished_at), header.tool),
        ),
        ("restores", text::bytes(row.bytes)),
        ("stored", text::bytes(row.stored_bytes)),
        ("encrypted", if header.encrypted { "yes" } else { "no" }.to_owned()),
        ("verified", verified),
        ("proven", proven),
        ("needs", ids(&header.references)),
        ("needed by", ids(&row.referenced_by)),
        ("held", row.holds.iter().map(hold).collect::<Vec<_>>().join("; ")),
        ("rewritten from", row.rewrites.map(short).unwrap_or_default()),
        (
            "pinned",
            if row.pinned {
                row.pin_reason.clone().unwrap_or_else(|| "yes".to_owned())
            } else {
                String::new()
            },
        ),
    ])?;
    session.out.findings(&row.problems)?;
    for warning in &details.warnings {
        session.out.say(format!("  warning: {}", text::printable(warning)))?;
    }
    if let Some(problem) = &details.map_problem {
        session.out.say(format!("  its content cannot be listed here: {}", text::printable(problem)))?;
    }
    if !details.tables.is_empty() {
        session.out.say("")?;
        let mut table = Table::new(["table", ">rows"]).indented(2);
        for facts in &details.tables {
            table.row([facts.table.clone(), text::grouped(facts.rows)]);
        }
        session.out.table(&table)?;
    }
    Ok(())
}

pub(super) async fn size(session: &mut Session, dm: &DataManager, args: SizeArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let report = dm.backup().size(&ctx, args.target.target.as_ref()).await?;
    session.out.document(
        "sizes",
        &[("sizes", &report.targets), ("stored_bytes", &report.stored_bytes), ("problems", &report.problems)],
    )?;
    tell_size(session, &report)?;
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

fn tell_size(session: &mut Session, report: &SizeReport) -> Result<()> {
    let mut table = Table::new(["target", ">backups", ">could restore", ">stored", ">of that shared"]);
    for target in &report.targets {
        table.row([
            target.target.to_string(),
            target.backups.len().to_string(),
            text::bytes(target.bytes),
            text::bytes(target.stored_bytes),
            text::bytes(target.pinned_by_reference_bytes),
        ]);
    }
    if table.is_empty() {
        session.out.say("no backups yet; \"dm backup run\" makes one")?;
    } else {
        session.out.table(&table)?;
        session.out.say(format!("{} stored in all", text::bytes(report.stored_bytes)))?;
    }
    session.out.findings(&report.problems)
}
