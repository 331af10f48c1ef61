//! How a person names a backup: the newest one, or the beginning of an id.

use std::fmt;
use std::str::FromStr;

use dm_core::{BackupMode, Error, OpContext, Result, TargetName};
use dm_repository::{BackupHeader, Listing};
use serde::{Deserialize, Serialize};

use crate::BackupService;
use crate::keep::Soundness;
use crate::record::{is_marked, of_target, soundness};

/// A backup id or its beginning: at least eight characters, so that a slip of the finger is unlikely to name
/// another one. Only beginnings count, never a part from the middle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupPrefix(String);

impl FromStr for BackupPrefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim().to_ascii_lowercase();
        let good = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if good && (8..=36).contains(&text.len()) {
            return Ok(Self(text));
        }
        Err(Error::invalid(format!("\"{text}\" is not a backup id"))
            .with_hint("give the id as \"dm backup list\" shows it: the first 13 characters name one"))
    }
}

impl TryFrom<String> for BackupPrefix {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackupPrefix> for String {
    fn from(prefix: BackupPrefix) -> Self {
        prefix.0
    }
}

impl From<dm_core::BackupId> for BackupPrefix {
    fn from(id: dm_core::BackupId) -> Self {
        Self(id.to_string())
    }
}

impl fmt::Display for BackupPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The newest complete backup of a target.
    Latest {
        /// The target.
        target: TargetName,
        /// Only one that a verification found sound.
        verified_only: bool,
        /// Only one of rows, or only one of files; a restore takes the one that suits it when `None`.
        mode: Option<BackupMode>,
    },
    /// By id.
    Id {
        /// Only among the backups of this target; all targets when `None`.
        target: Option<TargetName>,
        /// The id or its beginning.
        id: BackupPrefix,
    },
}

impl Selector {
    /// The newest complete backup of a target, verified or not.
    #[must_use]
    pub fn latest(target: TargetName) -> Self {
        Self::Latest { target, verified_only: false, mode: None }
    }

    /// By full id.
    #[must_use]
    pub fn id(id: dm_core::BackupId) -> Self {
        Self::Id { target: None, id: id.into() }
    }

    /// The target that narrows the search, where there is one.
    #[must_use]
    pub fn target(&self) -> Option<&TargetName> {
        match self {
            Self::Latest { target, .. } => Some(target),
            Self::Id { target, .. } => target.as_ref(),
        }
    }
}

impl BackupService {
    /// Finds the backup that a selector names.
    ///
    /// # Errors
    /// `NotFound` when there is none, saying what there is instead; `Invalid` when the beginning of an id fits several;
    /// what listing the repository fails with.
    pub async fn select(&self, ctx: &OpContext, selector: &Selector) -> Result<BackupHeader> {
        let listing = self.repository.list(ctx, selector.target()).await?;
        find(&listing, selector)
    }
}

pub(crate) fn find(listing: &Listing, selector: &Selector) -> Result<BackupHeader> {
    match selector {
        Selector::Latest { target, verified_only, mode } => latest(listing, target, *verified_only, *mode),
        Selector::Id { target, id } => {
            let fits = |h: &&BackupHeader| {
                target.as_ref().is_none_or(|t| *t == h.target) && h.id.to_string().starts_with(&id.0)
            };
            let marked = listing.tombstoned.iter().find(|m| m.to_string().starts_with(&id.0));
            let found: Vec<&BackupHeader> =
                listing.backups.iter().filter(|h| !is_marked(listing, h)).filter(fits).collect();
            match found.as_slice() {
                [one] => Ok((*one).clone()),
                [] if marked.is_some() => Err(Error::not_found(format!(
                    "the backup {id} is marked for deletion, and no longer one"
                ))
                .with_hint("choose another one from the list")),
                [] => Err(absent(listing, target.as_ref(), format!("there is no backup {id}"))),
                several => {
                    let ids: Vec<String> = several.iter().take(5).map(|h| h.id.to_string()).collect();
                    Err(Error::invalid(format!("\"{id}\" is the beginning of {} backups", several.len()))
                        .with_hint(format!("write more of it; it fits {}", ids.join(", "))))
                }
            }
        }
    }
}

fn latest(
    listing: &Listing,
    target: &TargetName,
    verified_only: bool,
    mode: Option<BackupMode>,
) -> Result<BackupHeader> {
    let found = newest_first(listing, target, verified_only, mode).next().cloned();
    found.ok_or_else(|| none(listing, target, verified_only, mode))
}

/// The backups of a target that `latest` may mean, the newest first.
pub(crate) fn newest_first<'a>(
    listing: &'a Listing,
    target: &'a TargetName,
    verified_only: bool,
    mode: Option<BackupMode>,
) -> impl Iterator<Item = &'a BackupHeader> {
    of_target(listing, target)
        .rev()
        .filter(move |h| mode.is_none_or(|mode| mode == h.mode))
        .filter(move |h| !verified_only || soundness(listing, h.id) == Soundness::Verified)
}

/// The error where `latest` means nothing.
pub(crate) fn none(
    listing: &Listing,
    target: &TargetName,
    verified_only: bool,
    mode: Option<BackupMode>,
) -> Error {
    let word = mode.map_or_else(String::new, |mode| format!("{mode} "));
    let unverified = verified_only && newest_first(listing, target, false, mode).next().is_some();
    if unverified {
        return absent(listing, Some(target), format!("no {word}backup was verified"))
            .with_hint("run a verification, or ask for the latest one without it");
    }
    let error = absent(listing, Some(target), format!("there is no {word}backup"));
    match mode {
        Some(mode) if of_target(listing, target).next().is_some() => {
            error.with_hint(format!("the backups there are are not {mode}: leave the mode out, or take one"))
        }
        _ => error,
    }
}

/// Not found, with what the reader may take it for: something is there but cannot be read.
fn absent(listing: &Listing, target: Option<&TargetName>, message: String) -> Error {
    let error = match target {
        Some(target) => Error::not_found(message).about(target.as_str()),
        None => Error::not_found(message),
    };
    match listing.problems.first() {
        Some(problem) => error.with_hint(format!(
            "{} things in the repository could not be read, the first: {}",
            listing.problems.len(),
            problem.message
        )),
        None => error.with_hint("list the backups to see what there is"),
    }
}
