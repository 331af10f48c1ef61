//! `dm restore`: the plan, the question, the restore, the report.

mod documents;
mod options;
mod show;

pub(crate) use options::until;
pub(crate) use show::assertions;

use data_manager::{DataManager, Destination, Error, Level, Result};

use super::backup::table;
use crate::args::{ReleaseArgs, RestoreArgs, RestoreCommand};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: RestoreArgs) -> Result<Exit> {
    if let Some(RestoreCommand::Release(args)) = args.command {
        return release(session, dm, args).await;
    }
    let which = match &args.backup {
        Some(which) => which.clone(),
        // A point says which backup is best to begin from.
        None if args.point.is_given() => String::new(),
        None => choose(session, dm, &args).await?,
    };
    let apply = args.apply.clone();
    let options = options::of(args, which, dm)?;
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let plan = dm.plan_restore(&ctx, &options).await?;
    drop(progress);
    let stopped = plan.preview.findings.iter().any(|f| f.level == Level::Error);
    let zone = &dm.config().zone;
    if apply.dry_run {
        session.out.document("restore-plan", &[("plan", &documents::Plan::from(&plan))])?;
        if session.out.is_human() {
            session.show_plan(&show::plan(&plan, zone))?;
        }
        return Ok(if stopped { Exit::CheckFailed } else { Exit::Done });
    }
    session.show_plan(&show::plan(&plan, zone))?;
    // A restore beside what stands there destroys nothing; and a plan that cannot be applied needs no answer.
    if (plan.destination == Destination::InPlace || plan.delta) && !stopped {
        let what = if plan.delta { "Overwrite" } else { "Replace" };
        session.questions.confirm(&format!("{what} {}?", plan.preview.location), apply.yes)?;
    }
    let checks = plan.checks;
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.apply_restore(&ctx, plan).await?;
    drop(progress);
    session.out.document(
        "restore-run",
        &[
            ("run_id", &ctx.run_id()),
            ("backup_id", &report.backup.id),
            ("report", &documents::Report::from(&report)),
        ],
    )?;
    show::report(session, &report, checks, zone)?;
    let held =
        report.equal && report.assertions.iter().all(|a| a.ok) && report.hooks.iter().all(|hook| hook.ok);
    Ok(if held { Exit::Done } else { Exit::CheckFailed })
}

async fn release(session: &mut Session, dm: &DataManager, args: ReleaseArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let restored = dm.release_sealed(&ctx, args.engine.as_ref(), &args.location).await?;
    session.out.document("restore-release", &[("run_id", &ctx.run_id()), ("restored", &restored)])?;
    session.out.say(format!("{} is open", text::printable(&restored.location)))?;
    for note in &restored.notes {
        session.out.say(format!("  note: {}", text::printable(note)))?;
    }
    Ok(Exit::Done)
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
