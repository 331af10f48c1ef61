//! `dm restore`.

use clap::{Args, Subcommand, ValueEnum};
use data_manager::backup::{Assertion, Expect};
use data_manager::{EngineId, TargetName, TenantFilter};

use super::ApplyArgs;
use super::resources::ResourceArgs;

/// Restores a backup, and proves that it is the same.
///
/// Writes to a new database, file or data directory unless told otherwise, keeps it closed to others until it is complete,
/// compares row counts and content with what was recorded at backup time, and only then gives it its name. With --at and its
/// like also replays the log that was shipped, to that point. Prints the plan first, and what is lost.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RestoreArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RestoreCommand>,

    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// Without it, on a terminal, a list is shown to choose from. With a point in time (--at and its like) it may be left
    /// out: the backup that is best to begin from is taken.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,

    /// The database whose server takes the restored one, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    /// The target whose backups are meant.
    ///
    /// The name under which the database's backups are kept. Needed only where the configuration knows several.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) target: Option<TargetName>,

    /// Where to: a database name, a file, a URL, or the data directory for a physical backup.
    ///
    /// It must not exist, or be empty. Without it a new name beside the original is chosen; a physical backup needs it.
    #[arg(long, value_name = "PLACE", conflicts_with = "in_place")]
    pub(crate) to: Option<String>,

    /// Replaces the database itself.
    ///
    /// What stands there now is kept under another name, and named at the end. Asks first.
    #[arg(long)]
    pub(crate) in_place: bool,

    #[command(flatten)]
    pub(crate) point: PointArgs,

    /// Only these tables; may be given several times.
    ///
    /// A name (`orders`, `sales.orders`) or a pattern with `*`. All tables without it.
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,

    /// Only the rows of one tenant: `tenant_id=42`.
    ///
    /// Every row of a table that has the column with this value, and the rows that those need along foreign keys. In place,
    /// they take the place of that tenant's rows there, and all others stay as they are.
    #[arg(long, value_name = "COLUMN=VALUE")]
    pub(crate) tenant: Option<TenantFilter>,

    /// Keeps what is at the destination and matches, and fetches only the rest.
    ///
    /// For a data directory that was damaged or that an earlier restore left: much faster where little differs. What stands
    /// there is changed in place and not kept, so it asks first.
    #[arg(long, requires = "to")]
    pub(crate) delta: bool,

    /// How many connections (or writing threads) at once.
    ///
    /// Without it the configuration decides.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,

    /// Only from a backup that was verified.
    ///
    /// With `latest`: the newest one whose verification found nothing wrong.
    #[arg(long)]
    pub(crate) verified_only: bool,

    #[command(flatten)]
    pub(crate) proof: ProofArgs,

    /// The user that the restored server runs as, where this program runs as root.
    ///
    /// The files are made that user's. Without it the configuration decides, else the owner of the folder above the
    /// destination.
    #[arg(long, value_name = "USER")]
    pub(crate) run_as: Option<String>,

    /// Where a tablespace goes; may be given several times: `16400=/data/fast`.
    ///
    /// By its oid, as the plan names it. Every tablespace that lay outside of the data directory needs a new, empty place.
    #[arg(long = "tablespace", value_name = "OID=DIR", value_parser = tablespace)]
    pub(crate) tablespaces: Vec<(u32, String)>,

    /// A setting of the engine's own; may be given several times: `port=5499`.
    ///
    /// For a physical backup of PostgreSQL: bin_dir, check_database, data_directory, port, restore_command, run_as,
    /// shared_preload_libraries, start, tablespaces, timeline; docs/postgres-physical.md describes them.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,

    /// Stops the application first; run by the shell.
    ///
    /// When it fails, nothing is restored. Without it the configuration's is run where the restore replaces what stands there.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) stop_command: Option<String>,

    /// Starts the application when the restore was proven; run by the shell.
    ///
    /// Not after a failure. Without it the configuration's is run where the restore replaces what stands there.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) start_command: Option<String>,

    /// When the failure happened that is recovered from.
    ///
    /// Written as for --at. The loss that is reported is measured up to it; up to the beginning of the restore without it.
    #[arg(long, value_name = "TIME")]
    pub(crate) failed_at: Option<String>,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    Release(ReleaseArgs),
}

/// Opens a restored database that was left closed to others.
///
/// One that --keep-sealed, or a comparison that found a difference, left sealed.
#[derive(Args, Debug)]
pub(crate) struct ReleaseArgs {
    /// Where it is, as the restore named it.
    ///
    /// A database name, or a data directory.
    #[arg(value_name = "LOCATION")]
    pub(crate) location: String,

    /// The database on whose server it is, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,
}

/// How far the log is replayed. At most one point; the moment of the backup without any.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Point in time")]
pub(crate) struct PointArgs {
    /// To an instant: `"2026-11-20 14:03:00+01"`, or `end` for the end of the log.
    ///
    /// The last transaction that committed by then is in. Without an offset the time is in the configured zone; the plan says
    /// it in both. An instant that the log does not cover is refused, and the plan says what it covers.
    #[arg(long, value_name = "TIME", group = "point")]
    pub(crate) at: Option<String>,

    /// To a position of the log: `0/5000148`.
    ///
    /// Everything up to it is in.
    #[arg(long, value_name = "LSN", group = "point", value_parser = lsn)]
    pub(crate) lsn: Option<String>,

    /// To a restore point that was made with pg_create_restore_point.
    ///
    /// The first one of this name after the backup.
    #[arg(long, value_name = "NAME", group = "point")]
    pub(crate) name: Option<String>,

    /// To a transaction, which is in.
    ///
    /// By its number; what committed before it is in as well.
    #[arg(long, value_name = "N", group = "point", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) xid: Option<u64>,

    /// Stops just before the point instead of after it.
    ///
    /// With --at, --lsn or --xid: what happened exactly there is left out.
    #[arg(long, requires = "point", conflicts_with = "name")]
    pub(crate) exclusive: bool,

    /// Follows this timeline.
    ///
    /// A server that was recovered to a point, or promoted, writes on a new timeline. Without it the newest one that leads
    /// from the backup is followed.
    #[arg(long, value_name = "N", requires = "point", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeline: Option<u32>,
}

impl PointArgs {
    /// Whether a point was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.at.is_some() || self.lsn.is_some() || self.name.is_some() || self.xid.is_some()
    }
}

/// How much is checked before the place is opened.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Proof")]
pub(crate) struct ProofArgs {
    /// How much is checked before the restored database is opened.
    ///
    /// `none` starts nothing: the place is written, ready to be started. `standard` compares content and starts the server of
    /// a physical backup once. `deep` also checks every page and every index against its table, which reads everything.
    /// Without it the configuration decides.
    #[arg(long, value_enum, value_name = "DEPTH")]
    pub(crate) checks: Option<DepthArg>,

    /// Starts nothing: the same as --checks none.
    ///
    /// For a host that lacks the server's programs.
    #[arg(long, conflicts_with = "checks")]
    pub(crate) no_start: bool,

    /// A question of your own to the restored database; may be given several times.
    ///
    /// `"orders: SELECT count(*) FROM orders [>= 1000]"`: a name, a statement that reads, and in brackets at the end what its
    /// answer must be: `true` (also without brackets), `empty`, `not empty`, a comparison, or the value. They come on top of
    /// those of the configuration.
    #[arg(long = "check", value_name = "CHECK", value_parser = check)]
    pub(crate) questions: Vec<Assertion>,

    /// Leaves the restored database closed to others.
    ///
    /// `dm restore release` opens it.
    #[arg(long, conflicts_with = "rehearse")]
    pub(crate) keep_sealed: bool,

    /// Does and compares everything, then takes it back.
    ///
    /// The report says what would have changed, and how long it takes.
    #[arg(long)]
    pub(crate) rehearse: bool,

    /// What to do when the restored content is not what the backup recorded.
    ///
    /// `keep-sealed` leaves it closed to others, to be looked at; `discard` removes it; `release` opens it all the
    /// same. The first two fail.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub(crate) unproven: UnprovenArg,
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DepthArg {
    /// Nothing is started or run.
    None,
    /// Content, and that the engine calls it consistent.
    Standard,
    /// Everything that the engine can check itself.
    Deep,
}

fn lsn(text: &str) -> Result<String, String> {
    let half =
        |part: &str| !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    match text.trim().split_once('/') {
        Some((high, low)) if half(high) && half(low) => Ok(text.trim().to_ascii_uppercase()),
        _ => Err("write it as the server does: 0/5000148".to_owned()),
    }
}

pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE: port=5499".to_owned()),
    }
}

fn tablespace(text: &str) -> Result<(u32, String), String> {
    let (oid, dir) = text.split_once('=').ok_or("write OID=DIR: 16400=/data/fast")?;
    match oid.trim().parse() {
        Ok(oid) if dir.starts_with('/') => Ok((oid, dir.to_owned())),
        Ok(_) => Err("the directory must be absolute".to_owned()),
        Err(_) => Err("write the tablespace's oid, as the plan names it: 16400=/data/fast".to_owned()),
    }
}

/// `name: statement [expectation]`; name and expectation may be missing.
pub(crate) fn check(text: &str) -> Result<Assertion, String> {
    let (name, rest) = match text.split_once(':') {
        // The second colon of `a::int` is no end of a name.
        Some((name, rest)) if is_name(name) && !rest.starts_with(':') => (name.trim(), rest),
        _ => ("check", text),
    };
    let rest = rest.trim();
    let (sql, expect) = match rest.strip_suffix(']').and_then(|r| r.rsplit_once('[')) {
        Some((sql, expect)) if sql.ends_with(char::is_whitespace) => (sql.trim(), expect),
        _ => (rest, ""),
    };
    if sql.is_empty() {
        return Err("there is no statement in it; write \"name: SELECT ... [expectation]\"".to_owned());
    }
    let expect: Expect = expect.parse().map_err(|e: data_manager::Error| e.to_string())?;
    Ok(Assertion::new(name, sql).expecting(expect))
}

fn is_name(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty()
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
        && !text.to_ascii_lowercase().starts_with("select ")
}

/// What to do with a restored place whose content differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnprovenArg {
    /// Leave it closed to others.
    #[default]
    KeepSealed,
    /// Remove it.
    Discard,
    /// Open it all the same.
    Release,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_a_name_a_statement_and_an_expectation() {
        let read = |text: &str| check(text).map(|a| (a.name, a.sql, a.expect.to_string()));
        let of =
            |name: &str, sql: &str, expect: &str| Ok((name.to_owned(), sql.to_owned(), expect.to_owned()));
        assert_eq!(
            read("orders: SELECT count(*) FROM o [>= 10]"),
            of("orders", "SELECT count(*) FROM o", ">= 10")
        );
        assert_eq!(read("SELECT true"), of("check", "SELECT true", "true"));
        // Brackets and colons of the statement's own stay in it.
        assert_eq!(read("SELECT a::int FROM t"), of("check", "SELECT a::int FROM t", "true"));
        assert_eq!(read("first: SELECT (array[1,2])[1] [1]"), of("first", "SELECT (array[1,2])[1]", "= 1"));
        assert_eq!(read("SELECT x[1]"), of("check", "SELECT x[1]", "true"));
        assert!(read("name:").is_err() && read("").is_err() && read("x: SELECT 1 [>=]").is_err());
    }

    #[test]
    fn positions_and_tablespaces_are_written_as_the_server_does() {
        assert_eq!(lsn(" 0/50a0148 ").unwrap(), "0/50A0148");
        for wrong in ["", "5", "0/", "/5", "0/x", "0/123456789"] {
            assert!(lsn(wrong).is_err(), "{wrong}");
        }
        assert_eq!(tablespace("16400=/data").unwrap(), (16400, "/data".to_owned()));
        assert!(tablespace("fast=/data").is_err() && tablespace("16400=data").is_err());
    }
}
