//! Which backup an incremental or differential one is compared with.
//!
//! There is no silent full backup: where no base fits, the error says why and names the way out.

use std::collections::HashSet;

use dm_core::{
    BackupId, BackupKind, BackupMode, Capabilities, EngineKind, Error, ErrorKind, Result, SourceDescription,
    TargetName,
};
use dm_repository::{BackupHeader, Listing};

use crate::keep::Soundness;
use crate::record::{of_target, soundness};

/// The way out of every missing base.
const TAKE_FULL: &str = "take a full backup (kind full); the next ones can rest on it";

/// What must agree between a backup and its base. The mode and the system identifier are known only when the source
/// was opened (or asked for).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    engine: EngineKind,
    mode: Option<BackupMode>,
    /// `None` until the source was opened.
    system_identifier: Option<Option<String>>,
}

impl Origin {
    /// What is known before the source is opened.
    pub(crate) fn expected(engine: EngineKind, mode: Option<BackupMode>) -> Self {
        Self { engine, mode, system_identifier: None }
    }

    /// What is known of an open source.
    pub(crate) fn of(source: &SourceDescription) -> Self {
        Self {
            engine: source.engine,
            mode: Some(source.mode),
            system_identifier: Some(source.system_identifier.clone()),
        }
    }

    /// Whether a backup is of the same database, as far as is known.
    pub(crate) fn fits(&self, header: &BackupHeader) -> bool {
        header.engine == self.engine
            && self.mode.is_none_or(|mode| mode == header.mode)
            && self.system_identifier.as_ref().is_none_or(|s| *s == header.system_identifier)
    }
}

/// Refuses a kind that the engine cannot make.
pub(crate) fn require_capability(kind: BackupKind, engine: EngineKind, can: Capabilities) -> Result<()> {
    if kind == BackupKind::Full || can.incrementals || can.page_exact_incrementals {
        return Ok(());
    }
    Err(Error::unsupported(format!("{engine} backups cannot be {kind}: unchanged parts are not recognised"))
        .on_engine(engine)
        .with_hint("take full backups (kind full), more often where that matters"))
}

/// Chooses the base: the newest backup for an incremental one, the newest full one for a differential one. One that a
/// verification found damaged, or that rests on such a one, is passed over.
pub(crate) fn choose(
    listing: &Listing,
    target: &TargetName,
    kind: BackupKind,
    origin: &Origin,
) -> Result<BackupHeader> {
    let complete: HashSet<BackupId> = of_target(listing, target).map(|h| h.id).collect();
    let whole = |h: &BackupHeader| {
        let mut needed = h.references.iter().chain([&h.id]);
        needed.all(|id| complete.contains(id) && soundness(listing, *id) != Soundness::Damaged)
    };
    let of_kind = |h: &&BackupHeader| kind == BackupKind::Incremental || h.kind == BackupKind::Full;
    let mut of_target = of_target(listing, target).rev().filter(of_kind).peekable();
    let missing = |message: String| {
        Error::new(ErrorKind::NotFound, message).about(target.as_str()).with_hint(TAKE_FULL)
    };
    if of_target.peek().is_none() {
        let what = if kind == BackupKind::Differential { "full backup" } else { "backup" };
        let error = missing(format!("there is no {what} for {} to rest on", article(kind)));
        return Err(match listing.problems.first() {
            Some(problem) => {
                error.with_hint(format!("{TAKE_FULL} (not everything could be read: {})", problem.message))
            }
            None => error,
        });
    }
    let mut of_origin = of_target.filter(|h| origin.fits(h)).peekable();
    if of_origin.peek().is_none() {
        return Err(missing(format!(
            "{} cannot rest on the backups there are: they are of another database, mode or engine",
            article(kind)
        )));
    }
    of_origin.find(|h| whole(h)).cloned().ok_or_else(|| {
        missing(format!(
            "{} would rest on backups that a verification found damaged, or on one that is gone",
            article(kind)
        ))
    })
}

fn article(kind: BackupKind) -> String {
    match kind {
        BackupKind::Incremental => "an incremental backup".to_owned(),
        other => format!("a {other} backup"),
    }
}

/// Refuses when this host cannot read the map of an earlier backup.
pub(crate) fn require_index(kind: BackupKind, can_read_index: bool) -> Result<()> {
    if kind == BackupKind::Full || can_read_index {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{} needs the map of its base, which this host cannot read",
        article(kind)
    ))
    .with_hint("give this host the repository's index key, or take full backups (kind full)"))
}
