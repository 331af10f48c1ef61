//! So many connections at once, kept between uses. How one is opened is the borrower's business.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use dm_core::{Error, OpContext, Result};
use sqlx::postgres::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::close;

/// Connections on loan and idle ones.
#[derive(Debug)]
pub(crate) struct Lending {
    idle: Mutex<Vec<PgConnection>>,
    permits: Arc<Semaphore>,
}

/// A connection on loan. It goes back only when its work ended well: after an error its state is not trusted.
pub(crate) struct Loan {
    pub(crate) connection: PgConnection,
    permit: OwnedSemaphorePermit,
}

impl Lending {
    /// At most `jobs` at once; these are open already.
    pub(crate) fn new(idle: Vec<PgConnection>, jobs: usize) -> Self {
        Self { idle: Mutex::new(idle), permits: Arc::new(Semaphore::new(jobs.max(1))) }
    }

    /// Waits for a place and gives an idle connection, or a new one.
    pub(crate) async fn borrow(
        &self,
        ctx: &OpContext,
        open: impl Future<Output = Result<PgConnection>>,
    ) -> Result<Loan> {
        let permits = Arc::clone(&self.permits);
        let permit = ctx
            .run(async {
                permits.acquire_owned().await.map_err(|_| Error::internal("the connections were closed"))
            })
            .await?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open.await?,
        };
        Ok(Loan { connection, permit })
    }

    /// Takes a connection back.
    pub(crate) fn give_back(&self, loan: Loan) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(loan.connection);
        drop(loan.permit);
    }

    /// Closes what is idle.
    pub(crate) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            close(connection).await;
        }
    }
}
