//! What each command does: asks the facade, shows the answer.

mod audit;
mod backup;
mod demo;
mod doctor;
pub(crate) mod files;
mod init;
mod log;
mod migrate;
mod pages;
mod query;
mod restore;
mod status;

use data_manager::Result;

use crate::args::Command;
use crate::exit::Exit;
use crate::session::Session;

/// Runs a command. Each one is boxed: an operation's future is large, and the largest would otherwise be reserved on the
/// stack for all of them.
pub(crate) async fn execute(session: &mut Session, command: Command) -> Result<Exit> {
    match command {
        Command::Init(args) => return Box::pin(init::run(session, &args)).await,
        Command::Demo(args) => return Box::pin(demo::run(session, &args)).await,
        Command::Completions(args) => return pages::completions(session, &args),
        Command::Man(args) => return pages::man(session, &args),
        _ => {}
    }
    let dm = session.manager(command.rate_limit(), command.identities())?;
    let result = match command {
        Command::Doctor => Box::pin(doctor::run(session, &dm)).await,
        Command::Status => Box::pin(status::run(session, &dm)).await,
        Command::Backup(args) => Box::pin(backup::run(session, &dm, args)).await,
        Command::Restore(args) => Box::pin(restore::run(session, &dm, *args)).await,
        Command::Log(args) => Box::pin(log::run(session, &dm, args)).await,
        Command::Migrate(args) => Box::pin(migrate::run(session, &dm, args)).await,
        Command::Audit(args) => Box::pin(audit::run(session, &dm, args)).await,
        Command::Query(args) => Box::pin(query::run(session, &dm, args)).await,
        // Answered above.
        Command::Init(_) | Command::Demo(_) | Command::Completions(_) | Command::Man(_) => Ok(Exit::Done),
    };
    dm.close().await;
    result
}
