//! `dm backup`.

mod change;
mod copies;
mod drill;
mod holds;
mod keys;
mod look;
mod places;
mod rewrite;
mod run;
mod verify;
mod views;

use data_manager::{DataManager, Result};

use crate::args::{BackupArgs, BackupCommand, KeyCommand};
use crate::exit::Exit;
use crate::session::Session;

pub(crate) use keys::tell_key;
pub(crate) use look::table;
pub(crate) use views::{MadeBackup, short};

pub(crate) async fn run(session: &mut Session, dm: &DataManager, args: BackupArgs) -> Result<Exit> {
    match args.command {
        BackupCommand::Run(args) => run::run(session, dm, args).await,
        BackupCommand::List(args) => look::list(session, dm, args).await,
        BackupCommand::Show(args) => look::show(session, dm, args).await,
        BackupCommand::Verify(args) => verify::verify(session, dm, args).await,
        BackupCommand::Copy(args) => places::copy(session, dm, args).await,
        BackupCommand::Repair(args) => places::repair(session, dm, args).await,
        BackupCommand::Drill(args) => drill::drill(session, dm, args).await,
        BackupCommand::Expire(args) => change::expire(session, dm, args).await,
        BackupCommand::Delete(args) => change::delete(session, dm, args).await,
        BackupCommand::Pin(args) => change::pin(session, dm, args, true).await,
        BackupCommand::Unpin(args) => change::pin(session, dm, args, false).await,
        BackupCommand::Hold(args) => holds::hold(session, dm, args).await,
        BackupCommand::Release(args) => holds::release(session, dm, args).await,
        BackupCommand::Rewrite(args) => rewrite::rewrite(session, dm, args).await,
        BackupCommand::Export(args) => copies::export(session, dm, args).await,
        BackupCommand::Size(args) => look::size(session, dm, args).await,
        BackupCommand::Key(args) => match args.command {
            KeyCommand::New(args) => keys::new_key(session, dm, args).await,
            KeyCommand::List => keys::list(session, dm).await,
            KeyCommand::Rewrap(args) => keys::rewrap(session, dm, args).await,
        },
    }
}
