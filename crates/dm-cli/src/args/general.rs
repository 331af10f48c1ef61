//! Commands without a family.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use clap_complete::Shell;
use data_manager::EngineId;

use super::LinesArgs;

/// Writes a commented dm.toml for a database.
///
/// The database is the one given, else the one in DATABASE_URL. Never overwrites a file. Makes the key that signs the audit
/// trail, and does not connect to the database; `dm doctor` says whether it works.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The database: postgres://user@host/database, or sqlite:./shop.db.
    ///
    /// Without it DATABASE_URL is used. A password in it is not written to the file: the file refers to the
    /// environment instead.
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,

    /// Makes a key, and encrypts the repository with it.
    ///
    /// The secret key is written to dm.key beside the configuration. It is needed for every restore: keep a copy of
    /// it where the database is not. DM_KEY_PASSPHRASE, when set, protects it.
    #[arg(long)]
    pub(crate) encrypt: bool,
}

/// Shows the whole story on a small database of its own; no server needed.
///
/// Builds an SQLite database of a shop (200,000 rows and more), backs it up, changes it, backs up only the changes,
/// breaks the database, restores it, and proves that every row is back. Takes under a minute and touches nothing
/// outside its folder.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The folder for the demo.
    ///
    /// Made if missing. A folder of an earlier demo is used again; any other folder with something in it is refused.
    #[arg(long, value_name = "DIR", default_value = "dm-demo", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}

/// Runs one statement against a database.
///
/// Reads only, unless --write is given: the statement runs in a transaction that refuses changes. The answer is a
/// table, or JSON.
#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    /// The statement.
    ///
    /// One statement; values may be given apart with --param, as `?` or `$1` in the text.
    #[arg(value_name = "SQL")]
    pub(crate) statement: String,

    /// The database, by its name in the configuration.
    ///
    /// Needed only where the configuration has several engines.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) engine: Option<EngineId>,

    /// A value for the next placeholder; may be given several times.
    ///
    /// Taken as JSON where it is JSON (`5`, `true`, `null`, `"5"`), as text otherwise. Always bound, never spliced
    /// into the statement.
    #[arg(short, long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) parameters: Vec<String>,

    /// Lets the statement change things.
    ///
    /// It runs in a transaction that is committed when it succeeds.
    #[arg(long)]
    pub(crate) write: bool,

    #[command(flatten)]
    pub(crate) lines: LinesArgs,
}

/// Prints completions for a shell.
///
/// For example: dm completions bash > ~/.local/share/bash-completion/completions/dm
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    ///
    /// Each shell has its own place for the script; see its manual.
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,

    /// The program that is to be completed.
    ///
    /// The task programs (dm-backup ...) are the commands of dm under their own names.
    #[arg(long = "for", value_enum, default_value_t, value_name = "PROGRAM")]
    pub(crate) program: ProgramArg,
}

/// A program by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgramArg {
    /// All commands.
    #[default]
    Dm,
    /// `dm backup` alone.
    DmBackup,
    /// `dm restore` alone.
    DmRestore,
    /// `dm log` alone.
    DmLog,
    /// `dm audit` alone.
    DmAudit,
}

/// Prints the manual page, or writes all of them to a folder.
///
/// One page a command: dm.1, dm-backup.1, dm-backup-run.1 and so on.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The folder to write all pages to.
    ///
    /// Made if missing. Without it the page of dm itself is printed.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}
