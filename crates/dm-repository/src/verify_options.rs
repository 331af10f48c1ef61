//! How much a verification reads: everything, a part that moves on from one verification to the next, or nothing twice.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use dm_core::{ByteSize, Error, Result};
use serde::{Deserialize, Serialize};

use crate::verify::Expected;
use crate::{Verification, VerifyLevel};

/// How to verify a backup.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// How deep.
    pub level: VerifyLevel,
    /// Reads only so much of the stored bytes, and looks at the sizes of the rest. The next sample goes on where this one
    /// ends: after enough of them everything was read. Takes the place of the level.
    pub sample: Option<SampleSize>,
    /// What other verifications of the same run read and found sound is not read again; backups that share packs share this.
    pub known: KnownSound,
}

impl From<VerifyLevel> for VerifyOptions {
    fn from(level: VerifyLevel) -> Self {
        Self { level, ..Self::default() }
    }
}

impl VerifyOptions {
    /// The level that is recorded.
    pub(crate) fn recorded(&self) -> VerifyLevel {
        if self.sample.is_some() { VerifyLevel::Sampled } else { self.level }
    }
}

/// How much a sample reads of each backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleSize {
    /// Thousandths of the stored bytes, 1 to 1000.
    PerMille(u32),
    /// So many bytes.
    Bytes(u64),
}

impl SampleSize {
    fn of(self, total: u64) -> u64 {
        match self {
            Self::PerMille(part) => {
                u64::try_from(u128::from(total) * u128::from(part) / 1000).unwrap_or(total).max(1)
            }
            Self::Bytes(bytes) => bytes.max(1),
        }
    }
}

impl FromStr for SampleSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("\"{text}\" is no size of a sample"))
                .with_hint("write a part such as 5% or 0.5%, or a size such as 10GB")
        };
        let Some(percent) = text.trim().strip_suffix('%') else {
            let bytes = text.trim().parse::<ByteSize>().map_err(|_| wrong())?.0;
            return if bytes > 0 { Ok(Self::Bytes(bytes)) } else { Err(wrong()) };
        };
        let (whole, tenths) = percent.trim().split_once('.').unwrap_or((percent.trim(), "0"));
        let digits = |text: &str, most: usize| {
            let plain = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| text.parse::<u32>().ok()).flatten()
        };
        let part = digits(whole, 3).zip(digits(tenths, 1)).map(|(whole, tenth)| whole * 10 + tenth);
        part.filter(|part| (1..=1000).contains(part)).map(Self::PerMille).ok_or_else(wrong)
    }
}

impl fmt::Display for SampleSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerMille(part) if part % 10 == 0 => write!(f, "{}%", part / 10),
            Self::PerMille(part) => write!(f, "{}.{}%", part / 10, part % 10),
            Self::Bytes(bytes) => write!(f, "{}", ByteSize(*bytes)),
        }
    }
}

/// Where samples of a backup have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleProgress {
    /// Objects, in the order of the inventory, that were read since `since`.
    pub read: u64,
    /// Of so many.
    pub of: u64,
    /// When the first of these samples began.
    pub since: DateTime<Utc>,
}

/// Objects that were read and found sound in the same run.
#[derive(Clone, Debug, Default)]
pub struct KnownSound(Arc<Mutex<HashSet<[u8; 32]>>>);

impl KnownSound {
    fn name(expected: &Expected) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(expected.digest.as_bytes());
        hasher.update(expected.key.as_ref().as_bytes());
        *hasher.finalize().as_bytes()
    }

    pub(crate) fn has(&self, expected: &Expected) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&Self::name(expected))
    }

    pub(crate) fn add(&self, expected: &Expected) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Self::name(expected));
    }
}

/// What of the inventory a verification reads.
pub(crate) struct Portion {
    pub(crate) read: std::ops::Range<usize>,
    /// Where the samples have come to, if this one is sound.
    progress: Option<SampleProgress>,
}

impl Portion {
    pub(crate) fn of(
        expected: &[Expected],
        options: &VerifyOptions,
        before: Option<&Verification>,
        now: DateTime<Utc>,
    ) -> Self {
        let Some(sample) = options.sample else {
            let read = if options.level == VerifyLevel::Quick { 0..0 } else { 0..expected.len() };
            return Self { read, progress: None };
        };
        let of = expected.len() as u64;
        let before = before.filter(|v| v.ok).and_then(|v| v.sample).filter(|s| s.of == of && s.read < of);
        let from = before.map_or(0, |s| usize::try_from(s.read).unwrap_or(0));
        let most = sample.of(expected.iter().map(|e| e.size).sum());
        let (mut to, mut bytes) = (from, 0);
        while to < expected.len() && (to == from || bytes < most) {
            bytes += expected[to].size;
            to += 1;
        }
        let since = before.map_or(now, |s| s.since);
        Self { read: from..to, progress: Some(SampleProgress { read: to as u64, of, since }) }
    }

    /// What this verification adds to what is known of the backup: where samples have come to, and since when every stored byte
    /// is known to be as it was written.
    pub(crate) fn conclude(
        &self,
        verification: &mut Verification,
        began: DateTime<Utc>,
        before: Option<&Verification>,
    ) {
        if !verification.ok {
            return;
        }
        let before = before.filter(|v| v.ok);
        let proven = before.and_then(Verification::proven_at);
        match self.progress {
            None if verification.level >= VerifyLevel::Stored => verification.proven_at = Some(began),
            None => (verification.proven_at, verification.sample) = (proven, before.and_then(|v| v.sample)),
            Some(progress) if progress.read >= progress.of => {
                verification.proven_at = proven.max(Some(progress.since));
            }
            Some(progress) => (verification.proven_at, verification.sample) = (proven, Some(progress)),
        }
    }
}
