//! `dm backup hold`, `release`, `rewrite`.

use clap::Args;

use super::ApplyArgs;
use super::backup::TargetArg;
use super::resources::ResourceArgs;

/// Places a legal hold on a backup.
///
/// No rule and no command deletes the backup, or one that it references, until the hold is released with a reason or ends. All others
/// expire as before. A backup may have several holds, each with a name. Who placed and released it, and why, stands in the
/// repository and in the audit trail.
#[derive(Args, Debug)]
pub(crate) struct HoldArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// The thirteen characters that the lists show are enough. `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Why; stands in the repository and in the audit trail.
    ///
    /// For example the authority and its file number.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) reason: String,

    /// The hold's name, to tell several apart: `case-4711`.
    ///
    /// `hold` without it. Holding again under the same name replaces the reason and the end.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// When it ends by itself: an instant as for `dm restore --at`.
    ///
    /// Never without it. Judged by this host's clock, but not before the newest backup of the target is as young: a clock that
    /// leaps ahead ends no hold.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// Releases a legal hold.
///
/// From now on the keep-rules decide about the backup as about any other, when it was the last hold.
#[derive(Args, Debug)]
pub(crate) struct ReleaseHoldArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    ///
    /// The thirteen characters that the lists show are enough. `latest` is the newest one of the target.
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Why; stands in the repository and in the audit trail.
    ///
    /// For example who decided it.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) reason: String,

    /// The hold's name.
    ///
    /// Needed only where the backup has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// Writes backups anew so that they need no others.
///
/// An incremental backup keeps older ones alive, whatever the keep-rules want of them. This reads its content and writes it as a backup
/// of its own, every byte compared; then the old one is marked, and what only it kept alive goes with the next `expire`. Several of a
/// target share what they have in common. Without a name: every backup that keeps alive what no rule wants. Needs a secret key
/// in an encrypted repository. Interrupted, it is run again.
#[derive(Args, Debug)]
pub(crate) struct RewriteArgs {
    /// The backups: ids, or the beginnings of them.
    ///
    /// `latest` is understood too.
    #[arg(value_name = "BACKUP")]
    pub(crate) backups: Vec<String>,

    #[command(flatten)]
    pub(crate) target: TargetArg,

    /// Leaves the old ones where they are.
    ///
    /// Nothing is freed then.
    #[arg(long)]
    pub(crate) keep: bool,

    #[command(flatten)]
    pub(crate) apply: ApplyArgs,

    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}
