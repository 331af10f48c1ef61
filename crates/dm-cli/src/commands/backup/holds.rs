//! `dm backup hold` and `release`.

use data_manager::{BackupId, DataManager, Result};
use serde::Serialize;

use crate::args::{HoldArgs, ReleaseHoldArgs};
use crate::exit::Exit;
use crate::instant;
use crate::output::text;
use crate::session::Session;

/// The document `dm.hold/1`.
#[derive(Serialize)]
struct Hold<'a> {
    backup_id: BackupId,
    target: &'a str,
    name: &'a str,
    held: bool,
    reason: &'a str,
    until: Option<chrono::DateTime<chrono::Utc>>,
}

pub(super) async fn hold(session: &mut Session, dm: &DataManager, args: HoldArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let until =
        args.until.as_deref().map(|text| instant::to_come(text, &dm.config().zone, ctx.now())).transpose()?;
    let (target, name) = (args.target.target.as_ref(), args.name.as_deref());
    let header = dm.backup().hold(&ctx, target, &args.backup, name, &args.reason, until).await?;
    let name = name.unwrap_or(data_manager::backup::HOLD_NAME);
    let document = Hold {
        backup_id: header.id,
        target: header.target.as_str(),
        name,
        held: true,
        reason: &args.reason,
        until,
    };
    session.out.document("hold", &[("hold", &document)])?;
    session.out.say(format!(
        "{} of {} is held ({}) {}",
        header.id,
        header.target,
        text::printable(name),
        until.map_or_else(
            || "until it is released".to_owned(),
            |until| format!("until {}", text::time(until))
        )
    ))?;
    if !header.references.is_empty() {
        session.out.say(format!(
            "{} that it needs stay with it",
            text::count(header.references.len() as u64, "backup")
        ))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn release(session: &mut Session, dm: &DataManager, args: ReleaseHoldArgs) -> Result<Exit> {
    let ctx = session.quiet_context(dm);
    let (target, name) = (args.target.target.as_ref(), args.name.as_deref());
    let (header, name) = dm.backup().release(&ctx, target, &args.backup, name, &args.reason).await?;
    let document = Hold {
        backup_id: header.id,
        target: header.target.as_str(),
        name: &name,
        held: false,
        reason: &args.reason,
        until: None,
    };
    session.out.document("hold", &[("hold", &document)])?;
    session.out.say(format!(
        "{} of {} is no longer held ({})",
        header.id,
        header.target,
        text::printable(&name)
    ))?;
    Ok(Exit::Done)
}
