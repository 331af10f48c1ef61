//! `dm backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use data_manager::repository::SampleSize;
use data_manager::{EngineId, Period, TargetName, TenantFilter};

use super::holds::{HoldArgs, ReleaseHoldArgs, RewriteArgs};
use super::keys::KeyArgs;
use super::places::{CopyArgs, RepairArgs};
use super::resources::ResourceArgs;
use super::{ApplyArgs, DrillArgs, LinesArgs};

/// Makes backups and looks after them.
///
/// A backup belongs to a *target*: the name under which one database's backups are kept. It is complete in itself
/// for a restore, even an incremental one: `full` reuses nothing, `differential` stores what changed since the last
/// full backup, `incremental` what changed since the previous one.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: BackupCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    Run(RunArgs),
    List(ListArgs),
    Show(ShowArgs),
    Verify(VerifyArgs),
    Copy(CopyArgs),
    Repair(RepairArgs),
    Drill(DrillArgs),
    Expire(ExpireArgs),
    Delete(DeleteArgs),
    Pin(PinArgs),
    /// Lets a pinned backup expire again.
    ///
    /// The opposite of pin: from now on the keep-rules decide about the backup as about any other.
    Unpin(PinArgs),
    Hold(HoldArgs),
    Release(ReleaseHoldArgs),
    Rewrite(RewriteArgs),
    Export(ExportArgs),
    Size(SizeArgs),
    Key(KeyArgs),
}

/// The target whose backups are meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArg {
    /// The target.
    ///
    /// The name under which the database's backups are kept. Needed only where the configuration knows several.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) target: Option<TargetName>,
}

/// Backs up a database.
///
/// Checks connections, privileges, client tools and space first, reads under one consistent snapshot without
/// blocking writers, and records row counts and content digests that a restore is compared with. Safe to interrupt
/// and to run again: an unfinished backup is never listed, and what it stored is not sent again where the database
/// still says the same.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The database, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// What is read: rows or files.
    ///
    /// `logical` takes one database: portable between versions, and by table. `physical` takes the whole server, page by
    /// page: fast, exact increments, and every instant in between with `dm log ship`. Without it the configuration decides.
    /// Physical backups have a target of their own, the engine's name with `-cluster` behind it.
    #[arg(short, long, value_enum, value_name = "MODE")]
    pub(crate) mode: Option<ModeArg>,

    /// The same as --mode physical.
    ///
    /// The whole server, page by page.
    #[arg(short, long, conflicts_with = "mode")]
    pub(crate) physical: bool,

    /// How much of earlier backups may be reused.
    ///
    /// `full` references nothing; `differential` only the last full backup; `incremental` whatever the previous one
    /// references, and that one. Without it the configuration decides (full, unless it says otherwise).
    #[arg(short, long, value_enum, value_name = "KIND")]
    pub(crate) kind: Option<KindArg>,

    /// How many connections (or reading threads) at once.
    ///
    /// Without it the configuration decides. More are faster and load the server more.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,

    /// Only these tables; may be given several times.
    ///
    /// A name (`orders`, `sales.orders`) or a pattern with `*`. All tables without it. A name that matches nothing
    /// is an error.
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) include_tables: Vec<String>,

    /// Not these tables; may be given several times.
    ///
    /// A name or a pattern with `*`. A name that matches nothing is an error.
    #[arg(long = "exclude-table", value_name = "TABLE")]
    pub(crate) exclude_tables: Vec<String>,

    /// Only the rows of one tenant: `tenant_id=42`.
    ///
    /// Every row of a table that has the column with this value, and the rows that those need along foreign keys. Such
    /// backups have a target of their own.
    #[arg(long, value_name = "COLUMN=VALUE")]
    pub(crate) tenant: Option<TenantFilter>,

    /// Verifies the backup right after it was made.
    ///
    /// With how much care: `quick`, `stored` (the default of the flag) or `full`; see `dm backup verify`. Without it
    /// the configuration decides.
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "stored")]
    pub(crate) verify: Option<LevelArg>,

    /// Does not verify, whatever the configuration says.
    ///
    /// `dm backup verify` can be run at a quieter time.
    #[arg(long, conflicts_with = "verify")]
    pub(crate) no_verify: bool,

    /// Begins anew, also where a run was interrupted.
    ///
    /// Without it the backup goes on from what an interrupted run of the same target stored within the last day: everything is
    /// read anew, and only what changed is sent.
    #[arg(long)]
    pub(crate) no_resume: bool,

    /// Does not copy it to the other places now.
    ///
    /// `dm backup copy` does it at a quieter time. Without this flag a backup is copied to every place under
    /// [repository.secondary] as soon as it is made.
    #[arg(long)]
    pub(crate) no_copy: bool,

    /// Looks whether it would succeed, and stops.
    ///
    /// Prints what was checked and how many bytes would be read. Changes nothing; exits 9 when something is in the
    /// way.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// One database, by rows.
    Logical,
    /// The whole server, by pages.
    Physical,
}

/// How much of earlier backups may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// References nothing.
    Full,
    /// References the last full backup.
    Differential,
    /// References the previous backup.
    Incremental,
}

/// How much is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// That every object is there with its size.
    Quick,
    /// The digest of every stored byte; needs no key.
    #[default]
    Stored,
    /// Also decrypts and decompresses everything and checks the content.
    Full,
}

/// Lists the backups.
///
/// Oldest first: id, kind, when, how large, how much was stored anew, when last verified, whether pinned.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
    #[command(flatten)]
    pub(crate) lines: LinesArgs,
}

/// Shows one backup: sizes, tables, what it references.
///
/// Reads the backup's own description; nothing of the database is touched.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// The thirteen characters that the lists show are enough. `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP", default_value = "latest")]
    pub(crate) backup: String,

    #[command(flatten)]
    pub(crate) target: TargetArg,
}

/// Checks that backups are whole.
///
/// One backup; without a name all, and the shipped log with them. Every object is read again, once however many backups share
/// it, and compared with the digest that was recorded when it was written. What was found is recorded beside each backup. Exits 9
/// when anything is missing or differs, naming the object.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The backup: its id, the beginning of it, or `latest`. All without it.
    ///
    /// `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// How much is checked.
    ///
    /// `quick` looks whether every object is there with its size, `stored` reads every stored byte (no key needed),
    /// `full` also decrypts and decompresses everything and checks the content.
    #[arg(short, long, value_enum, default_value_t, value_name = "LEVEL")]
    pub(crate) level: LevelArg,

    /// The same as --level quick.
    ///
    /// Objects exist, sizes, headers: no content is read.
    #[arg(long, conflicts_with = "level")]
    pub(crate) quick: bool,

    /// Reads only a part of the stored bytes: `5%`, `10GB`.
    ///
    /// Of each backup, beside the sizes of the rest. The next sample goes on where this one ends: twenty of 5 % have read
    /// everything, and count as one verification then.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["level", "quick"])]
    pub(crate) sample: Option<SampleSize>,

    /// Restores the backup into a throwaway place and proves it: `dm backup drill`.
    ///
    /// The only proof that it can be restored. Takes one backup, the latest where none is named.
    #[arg(long, conflicts_with_all = ["level", "quick", "sample", "older_than"])]
    pub(crate) deep: bool,

    /// Leaves out backups that were proven within this period: `30d`.
    ///
    /// As deep as asked for now. The answer names them.
    #[arg(long, value_name = "PERIOD")]
    pub(crate) older_than: Option<Period>,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

/// Deletes the backups that the keep-rules no longer want, and the log that no backup needs.
///
/// Prints which backups and which parts of the log would go and why each of the others stays, then asks. Never deletes what a
/// kept backup references, what is pinned or held, or the newest verified full backup. Needs no key.
#[derive(Args, Debug)]
pub(crate) struct ExpireArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Keep the newest N full backups.
    ///
    /// Any of the --keep flags replaces that rule of the configuration for this run only; the others stay as
    /// configured.
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u32>,

    /// Keep one full backup for each of the last N days that have one.
    ///
    /// Days of the calendar, in the configured time zone.
    #[arg(long, value_name = "N")]
    pub(crate) keep_daily: Option<u32>,

    /// Keep one full backup for each of the last N weeks that have one.
    ///
    /// Weeks begin on Monday.
    #[arg(long, value_name = "N")]
    pub(crate) keep_weekly: Option<u32>,

    /// Keep one full backup for each of the last N months that have one.
    ///
    /// Months of the calendar, in the configured time zone.
    #[arg(long, value_name = "N")]
    pub(crate) keep_monthly: Option<u32>,

    /// Keep one full backup for each of the last N years that have one.
    ///
    /// Years of the calendar, in the configured time zone.
    #[arg(long, value_name = "N")]
    pub(crate) keep_yearly: Option<u32>,

    /// Keep at least N verified full backups, whatever their age.
    ///
    /// The last line of defence: 2 unless the configuration says otherwise.
    #[arg(long, value_name = "N")]
    pub(crate) keep_verified: Option<u32>,

    /// Keep every full backup that is at most this much older than the newest one: `30d`, `6 months`.
    ///
    /// Counted back from the newest backup, so that nothing expires merely because no backups are made.
    #[arg(long, value_name = "PERIOD")]
    pub(crate) keep_within: Option<Period>,

    /// Keep incremental and differential backups for so long: `7d`.
    ///
    /// One that a kept backup references stays in any case.
    #[arg(long, value_name = "PERIOD")]
    pub(crate) keep_incremental_within: Option<Period>,

    /// Keep every instant of so long before the newest backup restorable by the shipped log: `14d`.
    ///
    /// The log is kept from the backup on that opens this window. Older backups stay as the rules say, and restore to the
    /// moment that they show.
    #[arg(long, value_name = "PERIOD")]
    pub(crate) keep_log_within: Option<Period>,

    #[command(flatten)]
    pub(crate) sweep: SweepArgs,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// When the room of deleted backups is freed.
#[derive(Args, Clone, Debug)]
pub(crate) struct SweepArgs {
    /// Stays until the room is free.
    ///
    /// Objects are removed only when nobody can still be reading them: after about two lease times (two minutes).
    /// Without this flag they are marked, and the next run of expire or delete removes them.
    #[arg(short, long)]
    pub(crate) wait: bool,
}

/// Deletes one backup.
///
/// Refuses when another backup references it, when it is pinned or held, or when it is the newest verified full one. Prints
/// what would be freed, then asks.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// The backup: its id, or the beginning of it.
    ///
    /// `latest` is understood too.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Why; stands in the repository and in the audit trail.
    ///
    /// For example the number of a ticket.
    #[arg(short, long, value_name = "TEXT", default_value = "deleted by hand")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) sweep: SweepArgs,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}

/// Keeps a backup until it is unpinned.
///
/// No rule and no command deletes a pinned backup, or one that it references.
#[derive(Args, Debug)]
pub(crate) struct PinArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// The thirteen characters that the lists show are enough. `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Why; stands in the repository and in the audit trail.
    ///
    /// For example the number of a ticket.
    #[arg(short, long, value_name = "TEXT", default_value = "by hand")]
    pub(crate) reason: String,
}

/// Writes a backup's content as plain files.
///
/// For reading without this program: definitions as SQL, rows and files as they were read. The files are not
/// encrypted.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// The thirteen characters that the lists show are enough. `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,

    /// The folder to write to; made if missing, and must be empty.
    ///
    /// Files are readable by the owner only.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// The form of the files.
    ///
    /// `files` writes one for each file and table of the backup. `basetar` writes a physical backup of PostgreSQL as
    /// pg_basebackup's tar format does: base.tar, one <oid>.tar for each tablespace, and pg_wal.tar.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: FormatArg,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

/// The form of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// One for each file and table.
    #[default]
    Files,
    /// As pg_basebackup's tar format.
    Basetar,
}

/// Says how much room the backups take.
///
/// For each target: how large the databases are that could be restored, and how many bytes are stored for that.
#[derive(Args, Debug)]
pub(crate) struct SizeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArg,
}
