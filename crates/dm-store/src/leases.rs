//! Leases with a fence: at most one holder a name, and a number that tells a late one from the present one.

use std::time::Duration;

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::AnyConnection;

use crate::sql::{Columns, Sql, micros};
use crate::store::{Store, commit};

/// A lease as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is held.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// The fence. It grows with every acquisition, also after a release, and is never used twice. Whatever a holder
    /// writes under the lease must be conditional on it: clocks of several hosts only decide *when* somebody else may
    /// take over, never whether two can write.
    pub epoch: i64,
}

impl Store {
    /// Takes a lease that is free or has run out, or takes one anew that this holder has; `None` when somebody else
    /// holds it. One that ends later than twice its duration from now is a clock's that was wrong, and counts as run out.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`.
    pub async fn acquire_lease(
        &self,
        ctx: &OpContext,
        name: &str,
        holder: &str,
        duration: Duration,
    ) -> Result<Option<Lease>> {
        let now = micros(ctx.now());
        let row = Sql::new(
            "INSERT INTO leases (name, holder, epoch, expires_at) VALUES ($1, $2, 1, $3) \
             ON CONFLICT (name) DO UPDATE \
             SET holder = excluded.holder, epoch = leases.epoch + 1, expires_at = excluded.expires_at \
             WHERE leases.expires_at <= $4 OR leases.holder = excluded.holder OR leases.expires_at > $5 \
             RETURNING epoch",
        )
        .bind(name)
        .bind(holder)
        .bind(now.saturating_add(span(duration)))
        .bind(now)
        .bind(now.saturating_add(span(duration).saturating_mul(2)))
        .committing()
        .optional(self.writer())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let epoch = Columns::new(&row).take()?;
        Ok(Some(Lease { name: name.into(), holder: holder.into(), epoch }))
    }

    /// Prolongs a lease from now.
    ///
    /// # Errors
    /// `Conflict` when it is no longer this holder's; `Busy`, `Unreachable`.
    pub async fn renew_lease(&self, ctx: &OpContext, lease: &Lease, duration: Duration) -> Result<()> {
        let mut transaction = self.begin().await?;
        fence(&mut transaction, ctx, lease, duration).await?;
        commit(transaction).await
    }

    /// Gives a lease back. One that was lost meanwhile is left alone.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`.
    pub async fn release_lease(&self, lease: &Lease) -> Result<()> {
        Sql::new("UPDATE leases SET expires_at = 0 WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(lease.name.as_str())
            .bind(lease.holder.as_str())
            .bind(lease.epoch)
            .committing()
            .execute(self.writer())
            .await?;
        Ok(())
    }
}

/// Prolongs the lease inside the transaction whose writes it is to protect. The row stays locked until the
/// transaction ends, so nobody can take the lease over between this and the commit.
pub(crate) async fn fence(
    on: &mut AnyConnection,
    ctx: &OpContext,
    lease: &Lease,
    duration: Duration,
) -> Result<()> {
    let mine = Sql::new("UPDATE leases SET expires_at = $4 WHERE name = $1 AND holder = $2 AND epoch = $3")
        .bind(lease.name.as_str())
        .bind(lease.holder.as_str())
        .bind(lease.epoch)
        .bind(micros(ctx.now()).saturating_add(span(duration)))
        .execute(on)
        .await?;
    if mine == 1 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the lease was taken over by somebody else")
        .about(lease.name.clone()))
}

fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
