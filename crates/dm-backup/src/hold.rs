//! Legal holds: placed and released with a reason, and said wherever something is kept because of them.

use chrono::{DateTime, Utc};
use dm_core::{Error, OpContext, Result};
use dm_repository::BackupHeader;

use crate::select::find;
use crate::{BackupService, Selector};

/// What a hold is called that nobody named.
pub const HOLD_NAME: &str = "hold";

impl BackupService {
    /// Holds a backup under a name until it is released, or until an instant. What it references stays with it; nothing else does.
    ///
    /// # Errors
    /// As [`select`](Self::select); `Invalid` without a reason; what writing fails with.
    pub async fn hold(
        &self,
        ctx: &OpContext,
        selector: &Selector,
        name: &str,
        reason: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<BackupHeader> {
        let listing = ctx.run(self.repository.list(ctx, selector.target())).await?;
        let header = find(&listing, selector)?;
        self.repository.hold(ctx, &header, name, reason, until).await?;
        Ok(header)
    }

    /// Releases a hold: the one of this name, or the only one. Gives its name.
    ///
    /// # Errors
    /// As [`hold`](Self::hold); `Invalid` when there are several and none is named; `NotFound` when there is none.
    pub async fn release_hold(
        &self,
        ctx: &OpContext,
        selector: &Selector,
        name: Option<&str>,
        reason: &str,
    ) -> Result<(BackupHeader, String)> {
        let listing = ctx.run(self.repository.list(ctx, selector.target())).await?;
        let header = find(&listing, selector)?;
        let names: Vec<&str> =
            listing.holds.get(&header.id).into_iter().flatten().map(|hold| hold.name.as_str()).collect();
        let name = match (name, names.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, []) => {
                return Err(Error::not_found("the backup is not held").about(header.id.to_string()));
            }
            (None, several) => {
                return Err(Error::invalid(format!("the backup has {} holds", several.len()))
                    .about(header.id.to_string())
                    .with_hint(format!("name one: {}", several.join(", "))));
            }
        };
        self.repository.release_hold(ctx, &header, name, reason).await?;
        Ok((header, name.to_owned()))
    }
}
