//! `dm audit capture`.

use data_manager::{
    CaptureRequest, CaptureStatus, CapturedTable, DataManager, DrainOptions, DrainReport, Engine, Result,
    TableName,
};
use std::sync::Arc;

use crate::args::{
    CaptureCommand, CaptureDrainArgs, CaptureInstallArgs, CaptureOfArgs, CaptureRemoveArgs, CaptureStatusArgs,
};
use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(super) async fn run(session: &mut Session, dm: &DataManager, command: CaptureCommand) -> Result<Exit> {
    match command {
        CaptureCommand::Install(args) => install(session, dm, args).await,
        CaptureCommand::Status(args) => status(session, dm, args).await,
        CaptureCommand::Remove(args) => remove(session, dm, args).await,
        CaptureCommand::Drain(args) => drain(session, dm, args).await,
    }
}

fn engine(dm: &DataManager, of: &CaptureOfArgs) -> Result<Arc<dyn Engine>> {
    dm.engine(of.engine.as_ref())
}

async fn install(session: &mut Session, dm: &DataManager, args: CaptureInstallArgs) -> Result<Exit> {
    let engine = engine(dm, &args.of)?;
    let request =
        CaptureRequest { table: args.table, exclude: args.exclude, mask: args.mask, digest: args.digest };
    let ctx = session.quiet_context(dm);
    let table = dm.audit().capture().install(&ctx, Some(engine.id()), &request).await?;
    session.out.document("audit-capture", &[("engine", engine.id()), ("table", &table)])?;
    session.out.say(format!(
        "the changes of {} are recorded",
        text::printable(&format!("{}/{}", engine.id(), table.table))
    ))?;
    session.out.facts(&[("kept out", kept_out(&table))])?;
    problems(session, &table.problems)?;
    session.out.say("Take them over into the trail with: dm audit capture drain --follow")?;
    Ok(if table.problems.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

fn kept_out(table: &CapturedTable) -> String {
    let lists = [("excluded", &table.exclude), ("masked", &table.mask), ("digested", &table.digest)];
    let said = lists.iter().filter(|(_, columns)| !columns.is_empty());
    said.map(|(word, columns)| format!("{word}: {}", columns.join(", "))).collect::<Vec<_>>().join("; ")
}

fn problems(session: &mut Session, problems: &[String]) -> Result<()> {
    for problem in problems {
        session.out.say(format!("  PROBLEM: {}", text::printable(problem)))?;
    }
    Ok(())
}

async fn status(session: &mut Session, dm: &DataManager, args: CaptureStatusArgs) -> Result<Exit> {
    let engine = engine(dm, &args.of)?;
    let ctx = session.quiet_context(dm);
    let status = dm.audit().capture().status(&ctx, Some(engine.id())).await?;
    session.out.document(
        "audit-capture-status",
        &[("engine", engine.id()), ("sound", &status.is_sound()), ("status", &status)],
    )?;
    tell_status(session, &status, ctx.now())?;
    Ok(if status.is_sound() { Exit::Done } else { Exit::CheckFailed })
}

fn tell_status(
    session: &mut Session,
    status: &CaptureStatus,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<()> {
    if status.tables.is_empty() {
        session.out.say("no table's changes are recorded")?;
    } else {
        let mut table = Table::new(["table", "since", "kept out", ""]);
        for captured in &status.tables {
            let word = if captured.problems.is_empty() { "recorded" } else { "PROBLEM" };
            let name = text::printable(&captured.table.to_string());
            table.row([
                name,
                text::time(captured.since),
                text::printable(&kept_out(captured)),
                word.to_owned(),
            ]);
        }
        session.out.table(&table)?;
    }
    for captured in &status.tables {
        if !captured.problems.is_empty() {
            session.out.say(text::printable(&captured.table.to_string()))?;
            problems(session, &captured.problems)?;
        }
    }
    problems(session, &status.problems)?;
    if status.waiting > 0 {
        let oldest =
            status.oldest.map_or_else(String::new, |at| format!(", the oldest of {}", text::ago(now, at)));
        session.out.say(format!("{} to be taken over{oldest}", text::count(status.waiting, "change")))?;
    }
    Ok(())
}

async fn remove(session: &mut Session, dm: &DataManager, args: CaptureRemoveArgs) -> Result<Exit> {
    let engine = engine(dm, &args.of)?;
    let ctx = session.quiet_context(dm);
    let capture = dm.audit().capture();
    let status = capture.status(&ctx, Some(engine.id())).await?;
    let tables = match args.all {
        true => status.tables.iter().map(|t| t.table.clone()).collect(),
        false => args.tables,
    };
    let mut plan = vec![format!("end the recording of changes in {}", engine.location())];
    plan.extend(tables.iter().map(|table| format!("  - {}", text::printable(&table.to_string()))));
    if status.tables.iter().all(|t| tables.iter().any(|said| names(said, &t.table))) {
        plan.push("  - with the outbox and everything else that belongs to it".to_owned());
    }
    session.show_plan(&plan)?;
    if args.apply.dry_run {
        session.out.document("audit-capture-remove-plan", &[("engine", engine.id()), ("tables", &tables)])?;
        return Ok(Exit::Done);
    }
    session.questions.confirm("End the recording?", args.apply.yes)?;
    let removed = capture.remove(&ctx, Some(engine.id()), &tables).await?;
    session.out.document("audit-capture-remove", &[("engine", engine.id()), ("removal", &removed)])?;
    session.out.say(format!("{} no longer recorded", text::count(removed.tables.len() as u64, "table")))?;
    tell_drained(session, removed.drained)?;
    if removed.cleared {
        session.out.say("nothing of the recording is left in the database")?;
    }
    Ok(Exit::Done)
}

/// Whether somebody means this table, who may leave its schema out.
fn names(said: &TableName, table: &TableName) -> bool {
    said.name.eq_ignore_ascii_case(&table.name) && (said.schema.is_none() || said.schema == table.schema)
}

fn tell_drained(session: &mut Session, report: DrainReport) -> Result<()> {
    session.out.say(format!("{} taken over into the trail", text::count(report.taken_over, "change")))?;
    if report.known > 0 {
        session.out.say(format!("{} in the trail already", text::count(report.known, "change")))?;
    }
    if report.defective > 0 {
        session.out.say(format!(
            "PROBLEM: {} of the outbox not written by the recording; see dm audit log --action change: --outcome failure",
            text::count(report.defective, "row")
        ))?;
    }
    Ok(())
}

async fn drain(session: &mut Session, dm: &DataManager, args: CaptureDrainArgs) -> Result<Exit> {
    let engine = engine(dm, &args.of)?;
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let options = DrainOptions { follow: args.follow.then_some(args.every) };
    let report = dm.audit().capture().drain(&ctx, Some(engine.id()), &options).await?;
    drop(progress);
    session.out.document("audit-capture-drain", &[("engine", engine.id()), ("report", &report)])?;
    tell_drained(session, report)?;
    Ok(if report.defective == 0 { Exit::Done } else { Exit::CheckFailed })
}
