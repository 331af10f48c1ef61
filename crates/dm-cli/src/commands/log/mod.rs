//! `dm log`.

mod look;
mod ship;

use data_manager::backup::{Fetched, LogHole};
use data_manager::{DataManager, Error, FetchLogOptions, LogPosition, PushLogOptions, Result};

use crate::args::{DropSlotArgs, FetchArgs, LogCommand, LogShippingArgs, PushArgs};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: LogShippingArgs) -> Result<Exit> {
    match args.command {
        LogCommand::Ship(args) => ship::ship(session, dm, args).await,
        LogCommand::Push(args) => push(session, dm, args).await,
        LogCommand::Fetch(args) => fetch(session, dm, args).await,
        LogCommand::Status(args) => look::status(session, dm, args).await,
        LogCommand::DropSlot(args) => drop_slot(session, dm, args).await,
    }
}

async fn push(session: &mut Session, dm: &DataManager, args: PushArgs) -> Result<Exit> {
    let options = PushLogOptions {
        engine: args.of.engine,
        target: args.of.target.target,
        path: session.folder.join(&args.path),
    };
    let ctx = session.quiet_context(dm);
    let report = dm.logs().push(&ctx, &options).await?;
    session.out.document("log-push", &[("push", &report)])?;
    // A server calls this for each of its files, and puts what it says into its log.
    tracing::info!(file = %report.name, bytes = report.bytes, duration_ms = report.duration_ms, "pushed");
    Ok(Exit::Done)
}

async fn fetch(session: &mut Session, dm: &DataManager, args: FetchArgs) -> Result<Exit> {
    let options = FetchLogOptions {
        engine: args.of.engine,
        target: args.of.target.target,
        stream: args.stream,
        name: args.file,
        destination: session.folder.join(&args.dest),
    };
    let ctx = session.quiet_context(dm);
    let fetched = dm.logs().fetch(&ctx, &options).await?;
    session.out.document("log-fetch", &[("fetch", &fetched)])?;
    match fetched {
        Fetched::Found { name, bytes, .. } => {
            tracing::info!(file = %name, bytes, "fetched");
            Ok(Exit::Done)
        }
        // The one code that a server may take for the end of its log.
        Fetched::NotThere { name } => {
            tracing::info!(file = %name, "the log does not have it");
            Ok(Exit::Failed)
        }
    }
}

async fn drop_slot(session: &mut Session, dm: &DataManager, args: DropSlotArgs) -> Result<Exit> {
    let slot = args.slot.unwrap_or_else(|| dm.config().log.slot.clone());
    let engine = dm.engine(args.engine.as_ref())?;
    session.show_plan(&[
        format!("drop the replication slot {} of {}", text::printable(&slot), engine.location()),
        "  - the server removes log that was not shipped".to_owned(),
        "  - shipping that begins again may begin with a gap, and then needs a new backup".to_owned(),
    ])?;
    if args.apply.dry_run {
        session.out.document("log-drop-slot-plan", &[("engine", engine.id()), ("slot", &slot)])?;
        return Ok(Exit::Done);
    }
    session.questions.confirm(&format!("Drop {slot}?"), args.apply.yes)?;
    let ctx = session.quiet_context(dm);
    let dropped = dm.logs().drop_holder(&ctx, Some(engine.id()), Some(&slot)).await?;
    if !dropped.existed {
        return Err(Error::not_found(format!("there is no replication slot \"{slot}\""))
            .with_hint("name it with --slot; \"dm log status\" shows what is used"));
    }
    session.out.document("log-drop-slot", &[("run_id", &ctx.run_id()), ("slot", &dropped)])?;
    session.out.say(format!("dropped {}", text::printable(&slot)))?;
    Ok(Exit::Done)
}

fn hole(gap: &LogHole) -> String {
    let at = |offset| position(LogPosition { timeline: gap.timeline, offset });
    let why = gap.reason.as_deref().map_or_else(String::new, |r| format!(": {}", text::printable(r)));
    format!("{} to {} on timeline {}{why}", at(gap.start), at(gap.end), gap.timeline)
}

/// As the server writes it.
pub(crate) fn position(position: LogPosition) -> String {
    format!("{:X}/{:X}", position.offset >> 32, position.offset & 0xFFFF_FFFF)
}
