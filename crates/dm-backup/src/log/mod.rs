//! Log between backups: shipped to the repository, pushed by an archive command, fetched by a restore command, read by a
//! restore.
//!
//! Pieces may overlap (a shipper that was killed and began again, an archive command beside it): whoever reads takes what
//! covers the range, and says so when nothing does. A hole is never passed over in silence.

mod cover;
pub(crate) mod expiry;
mod fetch;
mod push;
mod reader;
mod ship;
mod status;
mod verify;
mod window;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use expiry::{LogDecision, LogExpiry, LogKeepReason, LogRange};
pub use fetch::Fetched;
pub use push::PushReport;
pub use ship::{ShipEnd, ShipOptions, ShipReport};
pub use status::{LogStatusReport, ServerLog, StreamStatus, TargetLog};
pub use window::LogWindow;

/// A part of a log that is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHole {
    /// Its timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: u64,
    /// The offset of the byte after it.
    pub end: u64,
    /// When it was found.
    pub at: Option<DateTime<Utc>>,
    /// Why it is gone.
    pub reason: Option<String>,
}

impl From<dm_repository::LogGap> for LogHole {
    fn from(gap: dm_repository::LogGap) -> Self {
        Self { timeline: gap.timeline, start: gap.start, end: gap.end, at: gap.at, reason: gap.reason }
    }
}
