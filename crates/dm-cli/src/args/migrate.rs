//! `dm migrate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum, ValueHint};
use data_manager::EngineId;
use data_manager::config::parse_duration;

use super::ApplyArgs;

/// Changes a database's schema by files, and proves what it did.
///
/// Reads folders of sqlx and refinery as they are. A transactional migration and the record of it are one transaction; any
/// other is recorded statement by statement and goes on after a crash. However many runners start at once, each migration is
/// applied exactly once.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    pub(crate) command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    New(NewArgs),
    Status(StatusArgs),
    Plan(PlanArgs),
    Up(UpArgs),
    Down(DownArgs),
    Redo(RedoArgs),
    Resume(ResumeArgs),
    Resolve(ResolveArgs),
    Baseline(BaselineArgs),
    Lint(LintArgs),
    Drift(DriftArgs),
    Seed(SeedArgs),
    Backfill(BackfillArgs),
}

/// Which database.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// The database, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineId>,
}

/// Which files and which database.
#[derive(Args, Clone, Debug)]
pub(crate) struct MigrationsOfArgs {
    #[command(flatten)]
    pub(crate) of: EngineArgs,

    /// The folder of the files.
    ///
    /// Without it the configuration decides: the engine's `migrations`, else `migrate.folder`.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) source: Option<PathBuf>,
}

/// How far to go.
#[derive(Args, Clone, Debug)]
pub(crate) struct GoalArgs {
    /// Goes to this version.
    ///
    /// Forward: up to and with it. Back: until it is the newest that is applied; 0 undoes everything.
    #[arg(long, value_name = "VERSION", conflicts_with = "steps")]
    pub(crate) to: Option<i64>,

    /// So many migrations.
    ///
    /// Without it and without --to, up applies everything that is pending and down undoes the last one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: Option<u32>,
}

/// Waiting for others.
#[derive(Args, Clone, Debug)]
pub(crate) struct WaitArgs {
    /// Waits at most this long for another runner.
    ///
    /// Without it the configuration decides (`migrate.wait`). 0s does not wait at all.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

/// Makes the files of a new migration.
///
/// Called as those that are there (timestamps, numbers, refinery's form) and after the newest of them: a script and, unless
/// the migration goes one way, the script back.
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// What it does, in some words.
    ///
    /// They become a part of the files' names.
    #[arg(value_name = "DESCRIPTION")]
    pub(crate) description: String,

    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,

    /// Without a script back.
    ///
    /// "dm migrate down" then stops before this migration.
    #[arg(long)]
    pub(crate) one_way: bool,

    /// Writes the scripts from the difference between the files and the database.
    ///
    /// For a development database that was changed by hand. All files are replayed on a shadow database; the scripts bring that to
    /// the schema of the database, and back. What they leave out is said. Read them before they run.
    #[arg(long)]
    pub(crate) from_diff: bool,
}

/// Compares the files with the database.
///
/// Lists every migration and where it stands, and what is wrong: edited, missing, duplicate, out of order, unfinished. Writes
/// nothing into the database. Exits 9 when something is pending or wrong.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
}

/// Shows what would run.
///
/// The exact statements, the locks that each takes, and of the tables that they name the size. Writes nothing into the database.
/// Exits 9 when something is pending or wrong.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
    #[command(flatten)]
    pub(crate) goal: GoalArgs,

    /// Tries it on a shadow database, and shows the locks really taken.
    ///
    /// On `engines.*.shadow_url` (SHADOW_DATABASE_URL), whose content is removed, or on one made for the moment beside the live one.
    #[arg(long, conflicts_with = "down")]
    pub(crate) trace: bool,

    /// Plans the way back.
    ///
    /// What "dm migrate down" with the same flags would undo.
    #[arg(long)]
    pub(crate) down: bool,

    /// Also those that are older than the newest applied one.
    ///
    /// Without it a migration that comes too late is a problem.
    #[arg(long)]
    pub(crate) out_of_order: bool,
}

/// Applies what is pending.
///
/// Takes the run lock, which is only ever tried for, and lets go of it however it ends. A statement that does not get its lock
/// in time is tried again. In production it asks first, and demands time limits, a clean lint and a verified backup.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
    #[command(flatten)]
    pub(crate) goal: GoalArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,

    /// With the demands of production.
    ///
    /// Lint must pass, time limits must be set, the same files must have been applied in staging where the configuration names
    /// it, and there must be a verified backup of `migrate.backup_within`: otherwise one is made first. The plan is shown and a
    /// question asked. On by itself where `migrate.production` says so, as the profile production does.
    #[arg(long)]
    pub(crate) production: bool,

    /// Also those that are older than the newest applied one.
    ///
    /// Without it a migration that comes too late is refused.
    #[arg(long)]
    pub(crate) out_of_order: bool,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Undoes applied migrations.
///
/// By their scripts back, newest first: the last one, or as --steps and --to say. When one has no script back, that is said
/// before anything runs.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
    #[command(flatten)]
    pub(crate) goal: GoalArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Undoes the last migration and applies it again.
///
/// For a migration that is being written. Its content is lost: whatever it put into the database goes with the way back.
#[derive(Args, Debug)]
pub(crate) struct RedoArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,

    /// So many migrations.
    ///
    /// All of them are undone before the first is applied again.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Goes on with a migration that ended in the middle.
///
/// One that runs statement by statement, and whose runner died or whose statement failed. Goes on behind the last statement that
/// is done; an index that is not valid is found, dropped and built anew. Statements that are not done may have been mended in
/// the file meanwhile.
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,

    /// Answers whether the statement was done at which the runner died.
    ///
    /// Only asked for where the database itself cannot tell.
    #[arg(long, value_enum, value_name = "WORD")]
    pub(crate) statement: Option<StatementArg>,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// Whether a statement was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatementArg {
    /// It was: go on behind it.
    Done,
    /// It was not, or it may be done twice.
    Again,
}

/// Declares a migration applied or undone, without running it.
///
/// For what was done by hand. The reason stands in the history and in the audit trail.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("state").required(true).args(["applied", "rolled_back"])))]
pub(crate) struct ResolveArgs {
    /// The version.
    ///
    /// As "dm migrate status" shows it.
    #[arg(id = "of_version", value_name = "VERSION")]
    pub(crate) version: i64,

    /// It is applied.
    ///
    /// "dm migrate up" then passes over it.
    #[arg(long)]
    pub(crate) applied: bool,

    /// It is undone.
    ///
    /// "dm migrate up" then applies it.
    #[arg(long)]
    pub(crate) rolled_back: bool,

    /// Why.
    ///
    /// A sentence for whoever reads the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Begins the history of a database that has one already.
///
/// Takes over what another tool has applied, so that "dm migrate up" goes on behind it. That tool's own table stays as it is; with
/// `migrate.keep_sqlx` sqlx's is kept in step from then on. Without any tool, --from schema writes the first migration from
/// the live schema, proves on a shadow database that it makes the same, and records it as applied.
#[derive(Args, Debug)]
pub(crate) struct BaselineArgs {
    /// Whose history.
    ///
    /// `sqlx` reads _sqlx_migrations, `refinery` reads refinery_schema_history; `schema` reads the schema itself.
    #[arg(long, value_enum, value_name = "TOOL")]
    pub(crate) from: ToolArg,

    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
}

/// Another tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolArg {
    /// sqlx and sqlx-cli.
    Sqlx,
    /// refinery.
    Refinery,
    /// None: the schema of the database.
    Schema,
}

/// Says what the pending files would do to a database in use.
///
/// Each finding with its reason and the safe way to write it, weighed by the size of the table now. Writes nothing. Exits 9
/// when something is found that is more than a notice.
#[derive(Args, Debug)]
pub(crate) struct LintArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,

    /// All files, not only the pending ones.
    ///
    /// Also those that were applied long ago.
    #[arg(long)]
    pub(crate) all: bool,

    /// Lists the rules instead.
    ///
    /// Their names are what "-- dm:ignore <rule>: <reason>" takes.
    #[arg(long, conflicts_with_all = ["all", "source", "engine"])]
    pub(crate) rules: bool,
}

/// Compares the live schema with what the applied files make.
///
/// Replays them on a shadow database (`engines.*.shadow_url`, SHADOW_DATABASE_URL, whose content is removed, or one made for the
/// moment) and compares object by object. Writes nothing into the live database. Exits 9 when something differs.
#[derive(Args, Debug)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    pub(crate) of: MigrationsOfArgs,
}

/// Runs the files of seeds.
///
/// In the order of their names, each as one transaction. One that was run and not edited since is passed over; an edited one runs
/// again, so write seeds that may (INSERT … ON CONFLICT).
#[derive(Args, Debug)]
pub(crate) struct SeedArgs {
    #[command(flatten)]
    pub(crate) of: EngineArgs,

    /// The folder of the seeds.
    ///
    /// Without it the configuration decides (`migrate.seeds`).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) seeds: Option<PathBuf>,
}

/// Fills a column of many rows in portions.
///
/// The middle of expand, backfill, contract: an UPDATE along a unique key, each portion a short transaction with a record of how
/// far it came. The application goes on meanwhile. Stopped at any time, the same command goes on.
#[derive(Args, Debug)]
pub(crate) struct BackfillArgs {
    /// The name under which its progress is kept.
    ///
    /// The same name with the same request goes on; with another request it is refused.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// The table.
    ///
    /// As `table` or `schema.table`. It needs a primary key, or a unique key without NULLs.
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: String,

    /// What is set.
    ///
    /// In SQL, what stands behind SET: "email_lower = lower(email)".
    #[arg(long, value_name = "SQL")]
    pub(crate) set: String,

    /// Which rows.
    ///
    /// In SQL, what stands behind WHERE: "email_lower IS NULL". All rows without it.
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) filter: Option<String>,

    /// The most rows of a portion.
    ///
    /// Portions are smaller where these would take longer than a tenth of a second.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) batch: u32,

    /// The least pause behind each portion.
    ///
    /// It is never shorter than the portion took. Longer is gentler; 0ms makes none at all.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = duration)]
    pub(crate) pause: Duration,

    #[command(flatten)]
    pub(crate) of: EngineArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a number and its unit: 500ms, 5s, 1m".to_owned())
}
