//! Keep-rules: which backups stay, and why.
//!
//! Pure: candidates, rules, an instant and a zone go in, one [`Verdict`] for each candidate comes out, and nothing is
//! read or changed. The promises, each held by a property test in `tests/keep.rs`:
//!
//! - The rules are a *union*: a rule can only keep, so adding one never deletes more.
//! - Deciding is idempotent: what stays after the deletions is kept again.
//! - What a kept backup references stays, whatever the rules say of it.
//! - Held and pinned backups, the newest one, the newest undamaged one, and `min_verified_full` full ones stay, whatever dates and
//!   clocks say. A backup dated in the future is not judged at all: it stays, and takes nobody's place.
//! - Ages are measured from the newest backup (or now, if that is earlier): when backups stop being made, or a clock
//!   leaps ahead, nothing expires on that account.

pub(crate) mod calendar;
mod decide;

use std::fmt;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, BackupKind, Period};
use serde::{Deserialize, Serialize};

pub use decide::decide;

/// The rules. Each keeps some; what none keeps may go.
///
/// `last`, `daily` ... `yearly` and `within` choose among full backups only: differential and incremental ones are kept
/// by `incremental_within`, and never count towards a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepRules {
    /// The newest so many full backups.
    pub last: u32,
    /// The newest full backup of each of the newest so many days that have one.
    pub daily: u32,
    /// The same by ISO week.
    pub weekly: u32,
    /// The same by month.
    pub monthly: u32,
    /// The same by year.
    pub yearly: u32,
    /// Every full backup that is at most this much older than the newest one.
    pub within: Option<Period>,
    /// At least so many full backups that a verification found sound. Where there are fewer, the newest unverified full ones
    /// make up the number.
    pub min_verified_full: u32,
    /// Every differential and incremental backup that is at most this much older than the newest backup.
    pub incremental_within: Option<Period>,
    /// For how long before the newest backup every instant stays within reach of the shipped log. Without it, from every kept
    /// backup on.
    pub log_within: Option<Period>,
    /// For how long after its last backup an earlier *generation* (the database before a major upgrade, or under
    /// another system identifier) is judged by itself as well, so that an upgrade makes nothing vanish at once.
    pub superseded_within: Option<Period>,
}

impl Default for KeepRules {
    /// 7 daily, 4 weekly, 12 monthly, 5 yearly, at least 2 verified full ones, incrementals 7 days, log 30 days, superseded
    /// generations 90 days.
    fn default() -> Self {
        Self {
            last: 0,
            daily: 7,
            weekly: 4,
            monthly: 12,
            yearly: 5,
            within: None,
            min_verified_full: 2,
            incremental_within: Some(Period::days(7)),
            log_within: Some(Period::days(30)),
            superseded_within: Some(Period::days(90)),
        }
    }
}

impl KeepRules {
    /// No rule at all. The newest backup and the pinned ones stay nevertheless, and the log behind whatever stays.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            last: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            within: None,
            min_verified_full: 0,
            incremental_within: None,
            log_within: None,
            superseded_within: None,
        }
    }
}

/// What the last verification said of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Soundness {
    /// Nobody looked, or only at sizes.
    Unverified,
    /// Every stored byte was found as written.
    Verified,
    /// Something was missing or changed.
    Damaged,
}

/// A complete backup as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The backup.
    pub id: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The moment that it shows.
    pub at: DateTime<Utc>,
    /// The backups that it needs.
    pub references: Vec<BackupId>,
    /// Engine, mode, major version and system identifier in one text: what an upgrade or a new cluster changes.
    pub generation: String,
    /// What the last verification said.
    pub soundness: Soundness,
    /// Whether somebody pinned it.
    pub pinned: bool,
    /// Why it is held, where it is.
    pub held: Option<String>,
    /// Bytes in its own folder.
    pub stored_bytes: u64,
}

/// Why a backup stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
#[non_exhaustive]
pub enum KeepReason {
    /// It is the newest one, or the newest undamaged one.
    Newest,
    /// Somebody pinned it.
    Pinned,
    /// It is under a legal hold.
    Held {
        /// The holds, with their reasons.
        reason: String,
    },
    /// One of the verified full ones that always stay, or an unverified one in the place of a missing one.
    Minimum,
    /// One of the newest full ones.
    Last {
        /// 1 for the newest.
        rank: u32,
    },
    /// The newest full one of a day.
    Daily {
        /// The local date.
        day: String,
    },
    /// The newest full one of an ISO week.
    Weekly {
        /// For example `2026-W09`.
        week: String,
    },
    /// The newest full one of a month.
    Monthly {
        /// For example `2026-03`.
        month: String,
    },
    /// The newest full one of a year.
    Yearly {
        /// For example `2026`.
        year: String,
    },
    /// Young enough.
    Within {
        /// The rule's period.
        period: Period,
    },
    /// Dated after now: a clock was wrong, then or now. Nothing is concluded from such a date.
    FutureDated,
    /// A kept backup needs it.
    ReferencedBy {
        /// That one; with several, the newest.
        backup: BackupId,
    },
    /// The list of backups could not be read to its end, so nobody knows who needs it.
    ListIncomplete,
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Pinned => f.write_str("pinned"),
            Self::Held { reason } => write!(f, "held ({reason})"),
            Self::Minimum => f.write_str("minimum of verified full backups"),
            Self::Last { rank } => write!(f, "last, no. {rank}"),
            Self::Daily { day } => write!(f, "daily {day}"),
            Self::Weekly { week } => write!(f, "weekly {week}"),
            Self::Monthly { month } => write!(f, "monthly {month}"),
            Self::Yearly { year } => write!(f, "yearly {year}"),
            Self::Within { period } => write!(f, "within {period}"),
            Self::FutureDated => f.write_str("dated in the future"),
            Self::ReferencedBy { backup } => write!(f, "referenced by {backup}"),
            Self::ListIncomplete => f.write_str("list of backups incomplete"),
        }
    }
}

/// What is decided of one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Why it stays; empty when no rule keeps it.
    pub kept_because: Vec<KeepReason>,
    /// Bytes that stay only because a kept backup references this one.
    pub pinned_bytes: u64,
}

impl Verdict {
    /// Whether it stays.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.kept_because.is_empty()
    }

    /// Whether only a reference keeps it.
    #[must_use]
    pub fn is_kept_by_reference_only(&self) -> bool {
        self.is_kept() && self.kept_because.iter().all(|r| matches!(r, KeepReason::ReferencedBy { .. }))
    }
}
