//! `dm migrate`.

mod look;
mod run;
mod schema;

use std::path::PathBuf;

use data_manager::{
    BackfillPace, BackfillRequest, DataManager, ForeignTool, Goal, MigrateOptions, MigrationSource, Result,
};

use crate::args::{
    BackfillArgs, BaselineArgs, GoalArgs, MigrateArgs, MigrateCommand, MigrationsOfArgs, NewArgs, SeedArgs,
    ToolArg,
};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: MigrateArgs) -> Result<Exit> {
    match args.command {
        MigrateCommand::New(args) => new(session, dm, args).await,
        MigrateCommand::Status(args) => look::status(session, dm, args).await,
        MigrateCommand::Plan(args) => look::plan(session, dm, args).await,
        MigrateCommand::Lint(args) => look::lint(session, dm, args).await,
        MigrateCommand::Drift(args) => schema::drift(session, dm, args).await,
        MigrateCommand::Up(args) => run::up(session, dm, args).await,
        MigrateCommand::Down(args) => run::down(session, dm, args).await,
        MigrateCommand::Redo(args) => run::redo(session, dm, args).await,
        MigrateCommand::Resume(args) => run::resume(session, dm, args).await,
        MigrateCommand::Resolve(args) => run::resolve(session, dm, args).await,
        MigrateCommand::Baseline(args) => baseline(session, dm, args).await,
        MigrateCommand::Seed(args) => seed(session, dm, args).await,
        MigrateCommand::Backfill(args) => backfill(session, dm, args).await,
    }
}

/// Where the files are, as the flags say.
fn source(session: &Session, folder: Option<PathBuf>) -> MigrationSource {
    folder.map_or(MigrationSource::Configured, |folder| MigrationSource::Folder(session.folder.join(folder)))
}

fn options(session: &Session, of: MigrationsOfArgs) -> MigrateOptions {
    MigrateOptions { engine: of.of.engine, source: source(session, of.source), ..MigrateOptions::default() }
}

fn goal(args: &GoalArgs) -> Goal {
    match (args.to, args.steps) {
        (Some(to), _) => Goal::To(to),
        (None, Some(steps)) => Goal::Steps(usize::try_from(steps).unwrap_or(usize::MAX)),
        (None, None) => Goal::Usual,
    }
}

async fn new(session: &mut Session, dm: &DataManager, args: NewArgs) -> Result<Exit> {
    if args.from_diff {
        return schema::new_from_diff(session, dm, args).await;
    }
    let options = options(session, args.of);
    let ctx = session.quiet_context(dm);
    let paths = dm.migrate().create(&ctx, &options, &args.description, args.one_way).await?;
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    session.out.document("migration-files", &[("files", &paths)])?;
    for path in &paths {
        session.out.say(text::printable(path))?;
    }
    Ok(Exit::Done)
}

async fn baseline(session: &mut Session, dm: &DataManager, args: BaselineArgs) -> Result<Exit> {
    let options = options(session, args.of);
    let tool = match args.from {
        ToolArg::Sqlx => ForeignTool::Sqlx,
        ToolArg::Refinery => ForeignTool::Refinery,
        ToolArg::Schema => return schema::baseline(session, dm, &options).await,
    };
    let ctx = session.quiet_context(dm);
    let adopted = dm.migrate().adopt(&ctx, &options, tool).await?;
    let versions: Vec<i64> = adopted.iter().map(|h| h.version).collect();
    session.out.document(
        "migration-baseline",
        &[("run_id", &ctx.run_id()), ("from", &tool), ("adopted", &versions)],
    )?;
    session.out.say(match versions.len() {
        0 => format!("nothing is new: everything that {} applied is in the history", tool.as_str()),
        n => format!("{} of {} taken over", text::count(n as u64, "migration"), tool.as_str()),
    })?;
    Ok(Exit::Done)
}

async fn seed(session: &mut Session, dm: &DataManager, args: SeedArgs) -> Result<Exit> {
    let source = source(session, args.seeds);
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().seed(&ctx, args.of.engine.as_ref(), &source).await;
    drop(progress);
    let report = report?;
    session.out.document("seed-run", &[("run_id", &ctx.run_id()), ("seeds", &report)])?;
    for file in &report.ran {
        session.out.say(format!("ran {}", text::printable(file)))?;
    }
    if report.ran.is_empty() {
        session.out.say(format!(
            "nothing to run: {} in the database as they are",
            text::count(report.unchanged.len() as u64, "seed")
        ))?;
    }
    Ok(Exit::Done)
}

async fn backfill(session: &mut Session, dm: &DataManager, args: BackfillArgs) -> Result<Exit> {
    let request = BackfillRequest { name: args.name, table: args.table, set: args.set, filter: args.filter };
    let pace = BackfillPace { max_rows: args.batch, pause: args.pause, ..BackfillPace::default() };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.migrate().backfill(&ctx, args.of.engine.as_ref(), &request, pace).await;
    drop(progress);
    let report = report?;
    session.out.document("backfill", &[("run_id", &ctx.run_id()), ("backfill", &report)])?;
    session.out.say(format!(
        "{}: {} looked at, {} changed, in {} (the longest took {} ms)",
        text::printable(&report.name),
        text::count(report.progress.seen_rows, "row"),
        report.progress.changed_rows,
        text::count(report.portions, "portion"),
        report.longest_ms
    ))?;
    Ok(Exit::Done)
}
