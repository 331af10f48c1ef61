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
use data_manager::config::Priority;

use crate::args::Command;
use crate::exit::Exit;
use crate::priority;
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
    let resources = command.resources();
    let dm = session.manager(resources, command.identities())?;
    let priority = resources.priority.map(Priority::from);
    let priority = priority.or_else(|| command.gives_way().then_some(dm.config().backup.priority));
    if priority == Some(Priority::Low)
        && session.owns_process
        && let Err(error) = priority::lower()
    {
        // Worth a word, and no reason to go without a backup.
        tracing::warn!(%error, "the priority of this program could not be lowered");
    }
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
