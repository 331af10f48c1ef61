//! Every command and flag, once: help, man pages and completions come from here, and `dm-backup` is `dm backup`.

mod audit;
mod backup;
mod capture;
mod drill;
mod general;
mod holds;
mod keys;
mod log;
mod migrate;
mod places;
mod resources;
mod restore;

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};

pub(crate) use audit::{
    AuditArgs, AuditCommand, AuditExpireArgs, AuditKeyArgs, AuditVerifyArgs, CheckpointArgs, EraseArgs,
    LogArgs, ProveArgs,
};
pub(crate) use backup::{
    BackupArgs, BackupCommand, DeleteArgs, ExpireArgs, ExportArgs, FormatArg, KindArg, LevelArg, ListArgs,
    ModeArg, PinArgs, RunArgs, ShowArgs, SizeArgs, VerifyArgs,
};
pub(crate) use capture::{
    CaptureCommand, CaptureDrainArgs, CaptureInstallArgs, CaptureOfArgs, CaptureRemoveArgs, CaptureStatusArgs,
};
pub(crate) use drill::DrillArgs;
pub(crate) use general::{CompletionsArgs, DemoArgs, InitArgs, ManArgs, ProgramArg, QueryArgs};
pub(crate) use holds::{HoldArgs, ReleaseHoldArgs, RewriteArgs};
pub(crate) use keys::{KeyArgs, KeyCommand, NewKeyArgs, RewrapArgs};
pub(crate) use log::{
    DropSlotArgs, FetchArgs, LogCommand, LogShippingArgs, LogStatusArgs, PushArgs, ShipArgs,
};
pub(crate) use migrate::{
    BackfillArgs, BaselineArgs, DownArgs, DriftArgs, GoalArgs, LintArgs, MigrateArgs, MigrateCommand,
    MigrationsOfArgs, NewArgs, PlanArgs, RedoArgs, ResolveArgs, ResumeArgs, SeedArgs, StatementArg,
    StatusArgs, ToolArg, UpArgs,
};
pub(crate) use places::{CopyArgs, RepairArgs};
pub(crate) use resources::ResourceArgs;
pub(crate) use restore::{DepthArg, PointArgs, ReleaseArgs, RestoreArgs, RestoreCommand, UnprovenArg};

/// Which program this is: `dm` with all commands, or one of them under its own name (`dm-backup`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `dm`.
    All,
    /// `dm-<task>`: `backup`, `restore`, `log`, `migrate` or `audit`.
    Task(&'static str),
}

/// The tasks that exist as programs of their own.
pub(crate) const TASKS: [(&str, &str); 5] = [
    ("backup", "dm-backup"),
    ("restore", "dm-restore"),
    ("log", "dm-log"),
    ("migrate", "dm-migrate"),
    ("audit", "dm-audit"),
];

/// Keeps databases recoverable, and proves it.
///
/// Backs up PostgreSQL and SQLite databases into a repository (a folder or an object store), verifies and restores
/// them, and compares what was restored with what was backed up.
///
/// New here? `dm demo` shows the whole story on a small database of its own; `dm init` writes a configuration for
/// yours.
#[derive(Debug, Parser)]
#[command(name = "dm", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 confirmation needed, 4 not found,\n\
    5 unreachable, 6 denied, 7 interrupted, 8 partly done, 9 a check found problems."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Demo(DemoArgs),
    /// Says what is wrong with the set-up, and the mend.
    ///
    /// Looks at the configuration, whether each database and the repository can be reached, privileges, client
    /// tools, free disk space and the clock. With -v also lists every setting and where it came from. Changes
    /// nothing. Exits 9 when something does not work.
    Doctor,
    /// One page: is everything protected, and what needs attention?
    ///
    /// The verdict first, then for each database the last backup, its last verification and its last proof of
    /// restore, then what is due or wrong.
    Status,
    Backup(BackupArgs),
    Restore(Box<RestoreArgs>),
    Log(LogShippingArgs),
    Migrate(MigrateArgs),
    Audit(AuditArgs),
    Query(QueryArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Command {
    /// What it may take of the machine and of the network, as far as flags say so.
    pub(crate) fn resources(&self) -> ResourceArgs {
        match self {
            Self::Backup(BackupArgs { command }) => match command {
                BackupCommand::Run(args) => args.resources,
                BackupCommand::Verify(args) => args.resources,
                BackupCommand::Copy(args) => args.resources,
                BackupCommand::Repair(args) => args.resources,
                BackupCommand::Drill(args) => args.resources,
                BackupCommand::Rewrite(args) => args.resources,
                BackupCommand::Export(args) => args.resources,
                _ => ResourceArgs::default(),
            },
            Self::Restore(restore) => restore.resources,
            _ => ResourceArgs::default(),
        }
    }

    /// Whether it gives way to everything else on the machine where neither a flag nor the configuration says otherwise.
    pub(crate) fn gives_way(&self) -> bool {
        matches!(self, Self::Backup(_))
    }

    /// The files of secret keys that were given beside those of the configuration, and the file of their passphrase.
    pub(crate) fn identities(&self) -> (&[PathBuf], Option<&Path>) {
        match self {
            Self::Backup(BackupArgs {
                command: BackupCommand::Key(KeyArgs { command: KeyCommand::Rewrap(args) }),
            }) => (&args.identities, args.passphrase_file.as_deref()),
            _ => (&[], None),
        }
    }

    /// Whether a server waits for a file of its log, and reads the exit code in its own way.
    pub(crate) fn fetches(&self) -> bool {
        matches!(self, Self::Log(LogShippingArgs { command: LogCommand::Fetch(_) }))
    }
}

/// Flags that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalArgs {
    /// The configuration file.
    ///
    /// Without it: ./dm.toml, else dm/dm.toml in the user's configuration folder, else only the environment
    /// (DATABASE_URL and its kin).
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,

    /// The profile of the configuration: development, staging or production.
    ///
    /// Without it: DM_PROFILE, else NODE_ENV, else none. A profile's settings lie over the shared
    /// ones.
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) profile: Option<String>,

    /// Works on a copy of the repository instead of the primary place.
    ///
    /// A name under [repository.secondary]. Its backups can be listed, verified, restored, mended and expired; nothing new
    /// is written there but by `dm backup copy`.
    #[arg(long, global = true, value_name = "PLACE", help_heading = "Global options")]
    pub(crate) place: Option<String>,

    /// Answers with one JSON document.
    ///
    /// `{"schema": "dm.<noun>/1", ...}` with raw numbers and times in RFC 3339 UTC. An error is a document too
    /// (`dm.error/1`). The shapes are described in docs/cli.md and are a contract.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    /// Says more: -v what happens, -vv every step.
    ///
    /// Logs go to stderr. -v logs each operation with its run id, outcome and duration; -vv every step of ours; -vvv
    /// everything, the libraries included.
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,

    /// Says nothing but the answer and errors.
    ///
    /// No progress, no warnings.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// How logs are written.
    ///
    /// `text` for people, `json` for a log collector: one object a line.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of a command that changes something after showing its plan.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApplyArgs {
    /// Does it without asking.
    ///
    /// Without this flag the plan is printed and a question asked; where there is no terminal to ask on, the program
    /// exits 3 and has changed nothing.
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Prints the plan and stops.
    ///
    /// Changes nothing.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// Flags of a list.
#[derive(Args, Clone, Debug)]
pub(crate) struct LinesArgs {
    /// Answers with one JSON document a line.
    ///
    /// Each line is one item as it stands in the list of --json.
    #[arg(long)]
    pub(crate) json_lines: bool,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) global: GlobalArgs,
    pub(crate) command: Command,
}

/// The definition of a program.
pub(crate) fn definition(program: Program) -> clap::Command {
    let all = Cli::command();
    let Program::Task(task) = program else { return all };
    let name = TASKS.iter().find(|(word, _)| *word == task).map_or("dm", |(_, name)| *name);
    let command = all.find_subcommand(task).cloned().unwrap_or_else(|| clap::Command::new(name));
    // The heads of a command's own help stand; only the name changes, and `global` flags need a root that has them.
    let about = (command.get_about().cloned(), command.get_long_about().cloned());
    let mut command = GlobalArgs::augment_args(command.name(name).bin_name(name).display_name(name));
    if let (Some(short), Some(long)) = about {
        command = command.about(short).long_about(long);
    }
    let after = all.get_after_help().cloned().unwrap_or_default();
    command.version(env!("CARGO_PKG_VERSION")).propagate_version(true).max_term_width(100).after_help(after)
}

/// Reads a command line; the first word is the program's own name. Help is as wide as the terminal, unless a width is
/// given.
pub(crate) fn parse(
    program: Program,
    line: impl IntoIterator<Item = std::ffi::OsString>,
    width: Option<usize>,
) -> Result<Invocation, clap::Error> {
    let mut definition = definition(program);
    if let Some(width) = width {
        definition = definition.term_width(width);
    }
    let matches = definition.try_get_matches_from(line)?;
    let global = GlobalArgs::from_arg_matches(&matches)?;
    let command = match program {
        Program::All => Command::from_arg_matches(&matches)?,
        Program::Task("backup") => Command::Backup(BackupArgs::from_arg_matches(&matches)?),
        Program::Task("restore") => Command::Restore(Box::new(RestoreArgs::from_arg_matches(&matches)?)),
        Program::Task("log") => Command::Log(LogShippingArgs::from_arg_matches(&matches)?),
        Program::Task("migrate") => Command::Migrate(MigrateArgs::from_arg_matches(&matches)?),
        Program::Task("audit") => Command::Audit(AuditArgs::from_arg_matches(&matches)?),
        Program::Task(other) => {
            return Err(clap::Error::raw(
                clap::error::ErrorKind::InvalidSubcommand,
                format!("there is no program dm-{other}\n"),
            ));
        }
    };
    Ok(Invocation { global, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_hold_together() {
        definition(Program::All).debug_assert();
        for (task, _) in TASKS {
            definition(Program::Task(task)).debug_assert();
        }
    }

    /// A flag without help, or whose long help only repeats the short one, is not finished.
    #[test]
    fn every_flag_has_a_short_and_a_long_help() {
        fn check(command: &clap::Command, missing: &mut Vec<String>) {
            for arg in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version"))
            {
                let short = arg.get_help().map(ToString::to_string);
                let long = arg.get_long_help().map(ToString::to_string);
                if short.is_none() || long.is_none() || short == long {
                    missing.push(format!("{} {}", command.get_name(), arg.get_id()));
                }
            }
            for sub in command.get_subcommands() {
                if sub.get_about().is_none() || sub.get_long_about().is_none() {
                    missing.push(sub.get_name().to_owned());
                }
                check(sub, missing);
            }
        }
        let mut missing = Vec::new();
        check(&Cli::command(), &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn a_task_program_is_the_command_of_the_same_name() {
        let line = ["dm-backup", "run", "--kind", "incremental", "--json"].map(Into::into);
        let invocation = parse(Program::Task("backup"), line, None).unwrap();
        assert!(invocation.global.json);
        let Command::Backup(BackupArgs { command: BackupCommand::Run(run) }) = invocation.command else {
            panic!("not a run");
        };
        assert_eq!(run.kind, Some(KindArg::Incremental));
    }
}
