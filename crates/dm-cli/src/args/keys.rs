//! `dm backup key`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::ApplyArgs;

/// Makes and changes the keys of an encrypted repository.
///
/// A repository is encrypted to public keys, its recipients; reading its content needs the secret key of one of them.
#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    New(NewKeyArgs),
    /// Shows who can read the backups.
    ///
    /// Every key that is or was a recipient, how many backups it opens, whether its secret half is here, and which backups are
    /// not sealed to the newest recipients. Needs no key.
    List,
    Rewrap(RewrapArgs),
}

/// Makes a new key: a secret file, an index key beside it, and a public text for the configuration.
///
/// The secret key is needed for every restore: keep it where the database is not. The index key (the same name with
/// .index) stays with the database: it lets incremental backups see what changed, and reads no content. Existing files
/// are never overwritten.
#[derive(Args, Debug)]
pub(crate) struct NewKeyArgs {
    /// The file for the secret key.
    ///
    /// Readable by the owner only.
    #[arg(short, long, value_name = "FILE", default_value = "dm.key", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,

    /// A file whose first line is a passphrase that protects the key.
    ///
    /// Without it the environment variable DM_KEY_PASSPHRASE is used; without either the file is not protected by a
    /// passphrase.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Changes who can read the backups, or finishes such a change.
///
/// Adds and removes recipients: what is made from now on is sealed to the new ones, and every backup and the log get one small object
/// more, so that the new ones read what stands there already. No backup is written anew. Needs the secret key of a present
/// recipient. Without --add, --remove and --recipient the recipients of the configuration are meant. Interrupted, it is run again.
///
/// A removed key opens nothing that is made from now on. What it could open before, it can open still wherever the older key objects
/// are, in this repository or in somebody's copy of it: --delete-old removes them here.
#[derive(Args, Debug)]
pub(crate) struct RewrapArgs {
    /// Adds a recipient; may be given several times.
    ///
    /// A public key (`age1…`), or a file with one or with a secret key that is not protected by a passphrase.
    #[arg(long, value_name = "KEY")]
    pub(crate) add: Vec<String>,

    /// Removes a recipient; may be given several times.
    ///
    /// Named as for --add. The last one cannot be removed.
    #[arg(long, value_name = "KEY")]
    pub(crate) remove: Vec<String>,

    /// All recipients, instead of the present ones; may be given several times.
    ///
    /// Named as for --add.
    #[arg(long = "recipient", value_name = "KEY")]
    pub(crate) recipients: Vec<String>,

    /// A file with the secret key of a present recipient; may be given several times.
    ///
    /// Beside those of `identity_files` in the configuration.
    #[arg(short, long = "identity", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identities: Vec<PathBuf>,

    /// A file whose first line is the passphrase of those files.
    ///
    /// Without it the configuration's passphrase is used, or the environment variable DM_KEY_PASSPHRASE.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Deletes the older key objects when the new ones are in place.
    ///
    /// So that a removed key opens nothing that is still in the store. A copy of the repository elsewhere has its own: they
    /// stay there.
    #[arg(long)]
    pub(crate) delete_old: bool,

    /// Seals everything anew, also to the same recipients.
    ///
    /// A way out where key objects were damaged.
    #[arg(long)]
    pub(crate) renew: bool,

    /// Why; stands in the repository and in the audit trail.
    ///
    /// For example who left, or the number of a ticket.
    #[arg(short, long, value_name = "TEXT", default_value = "by hand")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,
}
