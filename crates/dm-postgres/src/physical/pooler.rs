//! Whether a pooler stands between: a backup is held by one session, and a pooler that gives each transaction another
//! backend ends it without a word.

use dm_core::{Error, OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use crate::error::reading;

/// What two connections see: the backend of the first, of the second while it holds a transaction open, and of the first
/// again meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backends {
    first: i32,
    second: i32,
    first_again: i32,
}

impl Backends {
    /// A pooler lends the second the backend that the first just used, and the first then gets another.
    fn are_shared(self) -> bool {
        self.first == self.second || self.first != self.first_again
    }
}

/// Fails when the two connections do not have a backend each.
pub(crate) async fn refuse_pooler(
    ctx: &OpContext,
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<()> {
    let backends = ctx
        .run(async {
            let before = pid(first).await?;
            second.execute("BEGIN").await.map_err(reading)?;
            let between = pid(second).await?;
            let after = pid(first).await?;
            second.execute("COMMIT").await.map_err(reading)?;
            Ok(Backends { first: before, second: between, first_again: after })
        })
        .await?;
    match backends.are_shared() {
        true => Err(pooled()),
        false => Ok(()),
    }
}

/// The error.
pub(crate) fn pooled() -> Error {
    Error::unsupported(
        "a pooler stands between here and the server: physical backups and the shipping of logs need a session of their \
         own from end to end",
    )
    .with_hint("give them a url of the server itself, or of a pooler that lends by the session")
}

async fn pid(connection: &mut PgConnection) -> Result<i32> {
    // Not prepared: a pooler need not know the statement.
    let row = connection.fetch_one("SELECT pg_catalog.pg_backend_pid()").await.map_err(reading)?;
    sqlx::Row::try_get(&row, 0).map_err(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_backend_is_a_pooler() {
        let seen = |first, second, first_again| Backends { first, second, first_again }.are_shared();
        assert!(!seen(10, 11, 10), "a backend each");
        assert!(seen(10, 10, 11), "the second got the first one's");
        assert!(seen(10, 11, 12), "the first was moved");
        assert!(seen(10, 10, 10), "one behind the other");
    }
}
