//! A clock that stands still until a test moves it.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use dm_core::Clock;

/// A settable clock. Clones share the time.
#[derive(Clone, Debug)]
pub struct FixedClock(Arc<Mutex<DateTime<Utc>>>);

impl FixedClock {
    /// Stands at this instant.
    #[must_use]
    pub fn new(at: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    /// Stands at an instant in RFC 3339: `2026-01-31T23:00:00Z`.
    ///
    /// # Panics
    /// When the text is no such instant.
    #[must_use]
    pub fn at(text: &str) -> Self {
        match DateTime::parse_from_rfc3339(text) {
            Ok(at) => Self::new(at.with_timezone(&Utc)),
            Err(error) => panic!("\"{text}\" is no instant: {error}"),
        }
    }

    /// Moves to an instant, forward or back.
    pub fn set(&self, at: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Moves by a span, forward or (a negative one) back.
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
