//! `dm migrate drift`, `new --from-diff` and `baseline --from schema`: files against schemas.

use data_manager::{DataManager, MigrateOptions, Result, SchemaChange};

use super::options;
use crate::args::{DriftArgs, NewArgs};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(super) async fn drift(session: &mut Session, dm: &DataManager, args: DriftArgs) -> Result<Exit> {
    let options = options(session, args.of);
    let ctx = session.quiet_context(dm);
    let report = dm.migrate().drift(&ctx, &options).await?;
    let clean = report.changes.is_empty();
    session.out.document("migration-drift", &[("drift", &report), ("clean", &clean)])?;
    for change in &report.changes {
        let title = text::printable(&change.object().title());
        session.out.heading(&match change {
            SchemaChange::Added { .. } => format!("only in the database: {title}"),
            SchemaChange::Removed { .. } => format!("missing in the database: {title}"),
            SchemaChange::Changed { .. } => format!("different: {title}"),
        })?;
        for (name, files, live) in change.facets() {
            let said = |value: Option<&str>| value.map_or_else(|| "nothing".to_owned(), text::printable);
            session.out.say(format!("    {name}: the files say {}", said(files)))?;
            session.out.say(format!("    {}  the database has {}", " ".repeat(name.len()), said(live)))?;
        }
    }
    for skipped in &report.skipped {
        session
            .out
            .say(format!("not replayed, as it is about the whole server: {}", text::printable(skipped)))?;
    }
    let files = text::count(report.files.len() as u64, "applied file");
    session.out.say(match report.changes.len() {
        0 => format!("no drift: the database is what {files} make"),
        n => format!("{} beside {files}", text::count(n as u64, "change")),
    })?;
    Ok(if clean { Exit::Done } else { Exit::CheckFailed })
}

pub(super) async fn new_from_diff(session: &mut Session, dm: &DataManager, args: NewArgs) -> Result<Exit> {
    let options = options(session, args.of);
    let ctx = session.quiet_context(dm);
    let written = dm.migrate().create_from_diff(&ctx, &options, &args.description, args.one_way).await?;
    tell(session, &written)?;
    session.out.say("read them before they run; what the database has already is declared with \"dm migrate resolve --applied\"")?;
    Ok(Exit::Done)
}

pub(super) async fn baseline(
    session: &mut Session,
    dm: &DataManager,
    options: &MigrateOptions,
) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let written = dm.migrate().baseline(&ctx, options).await?;
    tell(session, &written)?;
    session.out.say("replayed on a shadow database it makes the same schema; recorded as applied")?;
    Ok(Exit::Done)
}

fn tell(session: &mut Session, written: &data_manager::WrittenMigration) -> Result<()> {
    let files: Vec<String> = written.files.iter().map(|p| p.display().to_string()).collect();
    session.out.document("migration-files", &[("files", &files), ("not_written", &written.not_written)])?;
    for file in &files {
        session.out.say(text::printable(file))?;
    }
    for missing in &written.not_written {
        session.out.say(format!("not written: {}", text::printable(missing)))?;
    }
    Ok(())
}
