//! Plans: what would happen, in full, with a digest that `apply` checks.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The digest of a plan's content: `apply` refuses a plan whose world has changed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanDigest(String);

impl PlanDigest {
    /// The digest of a serialisable plan body (BLAKE3 of its JSON).
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the body cannot be serialised.
    pub fn of(body: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(body)
            .map_err(|e| Error::internal("a plan cannot be serialised").with_source(e))?;
        Ok(Self(blake3::hash(&json).to_hex().to_string()))
    }

    /// Refuses when the world gives another digest now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`].
    pub fn require(&self, now: &Self) -> Result<()> {
        if self == now {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the plan went stale: what it would act on has changed since it was made",
        )
        .with_hint("make the plan again, read it, and apply that one"))
    }
}

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
