//! Verification of what every backup and all log stand on: the records of recipients, and the keys of the log.

use dm_core::{Finding, OpContext, Result};

use crate::paths;
use crate::repository::{Inner, Repository};
use crate::verify::Seen;

impl Repository {
    /// What is wrong with the records of recipients and with the keys of the log. Most of it is told without a private key; what one of
    /// ours opens is compared with its public half as well. Objects that a rewrap added are in no record: what is told of them is that
    /// they are age files.
    ///
    /// # Errors
    /// The store's.
    pub async fn verify_keys(&self, ctx: &OpContext) -> Result<Vec<Finding>> {
        let mut seen = Seen::default();
        if self.is_encrypted() {
            ctx.run(self.inner.look_at_keys(&mut seen)).await?;
        }
        Ok(seen.findings)
    }
}

impl Inner {
    async fn look_at_keys(&self, seen: &mut Seen) -> Result<()> {
        seen.take(self.history_anew().await)?;
        let objects = self.log_key_objects().await?;
        let (folders, _) = self.storage.children(Some(&paths::log_keys())).await?;
        for id in folders.iter().filter_map(|folder| folder.parse().ok()) {
            let generations = objects.get(&id).map_or(&[][..], Vec::as_slice);
            seen.take(self.check_log_key(id, generations).await)?;
        }
        Ok(())
    }
}
