//! `dm migrate up`, `down`, `redo`, `resume` and `resolve`: what changes the database.

use data_manager::migration::MigrationPlan;
use data_manager::{
    DataManager, Direction, MigrateOptions, MigrationReport, OpContext, Resolution, Result, StatementVerdict,
};

use super::look::{planned_lines, tell_problems};
use super::{goal, options};
use crate::args::{DownArgs, RedoArgs, ResolveArgs, ResumeArgs, StatementArg, UpArgs};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(super) async fn up(session: &mut Session, dm: &DataManager, args: UpArgs) -> Result<Exit> {
    let options = MigrateOptions {
        goal: goal(&args.goal),
        out_of_order: args.out_of_order,
        wait: args.wait.wait,
        production: args.production,
        ..options(session, args.of)
    };
    let production = args.production || dm.config().migrate.production;
    let mut planned = None;
    if args.apply.dry_run || production {
        let plan = dm.migrate().plan(&session.quiet_context(dm), &options, Direction::Up).await?;
        if args.apply.dry_run {
            return show(session, dm, &options, &plan);
        }
        session.show_plan(&planned_lines(dm, &options, &plan)?)?;
        if !plan.migrations.is_empty() && plan.problems.is_empty() {
            let question =
                format!("Apply {} in production?", text::count(plan.migrations.len() as u64, "migration"));
            session.questions.confirm(&question, args.apply.yes)?;
            planned = Some(plan.digest()?);
        }
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().up(&ctx, &options, planned.as_ref()).await;
    drop(progress);
    tell(session, &ctx, &report?)
}

pub(super) async fn down(session: &mut Session, dm: &DataManager, args: DownArgs) -> Result<Exit> {
    let options =
        MigrateOptions { goal: goal(&args.goal), wait: args.wait.wait, ..options(session, args.of) };
    let plan = dm.migrate().plan(&session.quiet_context(dm), &options, Direction::Down).await?;
    if args.apply.dry_run {
        return show(session, dm, &options, &plan);
    }
    session.show_plan(&planned_lines(dm, &options, &plan)?)?;
    if !plan.migrations.is_empty() {
        let question = format!("Undo {}?", text::count(plan.migrations.len() as u64, "migration"));
        session.questions.confirm(&question, args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().down(&ctx, &options, Some(&plan.digest()?)).await;
    drop(progress);
    tell(session, &ctx, &report?)
}

pub(super) async fn redo(session: &mut Session, dm: &DataManager, args: RedoArgs) -> Result<Exit> {
    let steps = usize::try_from(args.steps).unwrap_or(usize::MAX);
    let options = MigrateOptions { goal: data_manager::Goal::Steps(steps), ..options(session, args.of) };
    let plan = dm.migrate().plan(&session.quiet_context(dm), &options, Direction::Down).await?;
    if args.apply.dry_run {
        return show(session, dm, &options, &plan);
    }
    session.show_plan(&planned_lines(dm, &options, &plan)?)?;
    if !plan.migrations.is_empty() {
        let question =
            format!("Undo {} and apply again?", text::count(plan.migrations.len() as u64, "migration"));
        session.questions.confirm(&question, args.apply.yes)?;
    }
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().redo(&ctx, &options, steps).await;
    drop(progress);
    tell(session, &ctx, &report?)
}

pub(super) async fn resume(session: &mut Session, dm: &DataManager, args: ResumeArgs) -> Result<Exit> {
    let options = MigrateOptions { wait: args.wait.wait, ..options(session, args.of) };
    let verdict = args.statement.map(|word| match word {
        StatementArg::Done => StatementVerdict::Done,
        StatementArg::Again => StatementVerdict::Again,
    });
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().resume(&ctx, &options, verdict).await;
    drop(progress);
    tell(session, &ctx, &report?)
}

pub(super) async fn resolve(session: &mut Session, dm: &DataManager, args: ResolveArgs) -> Result<Exit> {
    let options = options(session, args.of);
    let (resolution, word) = match args.applied {
        true => (Resolution::Applied, "applied"),
        false => (Resolution::RolledBack, "undone"),
    };
    session.show_plan(&[
        format!("declare version {} {word}: {}", args.version, text::printable(&args.reason)),
        "  - nothing is run; only the history changes".to_owned(),
    ])?;
    if args.apply.dry_run {
        session
            .out
            .document("migration-resolve-plan", &[("version", &args.version), ("state", &resolution)])?;
        return Ok(Exit::Done);
    }
    session.questions.confirm(&format!("Declare {} {word}?", args.version), args.apply.yes)?;
    let ctx = session.quiet_context(dm);
    let entry = dm.migrate().resolve(&ctx, &options, args.version, resolution, &args.reason).await?;
    session.out.document("migration-resolve", &[("run_id", &ctx.run_id()), ("migration", &entry)])?;
    session.out.say(format!("{} is declared {word}", args.version))?;
    Ok(Exit::Done)
}

fn show(
    session: &mut Session,
    dm: &DataManager,
    options: &MigrateOptions,
    plan: &MigrationPlan,
) -> Result<Exit> {
    session.out.document("migration-plan", &[("plan", plan)])?;
    for line in planned_lines(dm, options, plan)? {
        session.out.say(line)?;
    }
    tell_problems(session, &plan.problems)?;
    Ok(if plan.problems.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

fn tell(session: &mut Session, ctx: &OpContext, report: &MigrationReport) -> Result<Exit> {
    session.out.document("migration-run", &[("run_id", &ctx.run_id()), ("run", report)])?;
    if !report.adopted.is_empty() {
        session
            .out
            .say(format!("{} of sqlx taken over", text::count(report.adopted.len() as u64, "migration")))?;
    }
    for migration in &report.migrations {
        let did = if migration.direction == Direction::Up { "applied" } else { "undid" };
        session.out.say(format!(
            "{did} {} {} ({} ms)",
            migration.version,
            text::printable(&migration.description),
            migration.execution_time_ms
        ))?;
    }
    if report.migrations.is_empty() {
        session.out.say("nothing was to be done")?;
    }
    Ok(Exit::Done)
}
