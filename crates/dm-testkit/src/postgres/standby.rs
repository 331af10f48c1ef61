//! Standbys, promotion, the end of a recovery.

use std::path::Path;
use std::time::{Duration, Instant};

use super::server::run;
use super::{Options, Server};
use crate::throwaway::START_DEADLINE;
use crate::{Failure, Unavailable};

impl Server {
    /// A streaming standby of this server in a new directory, which must lie in a [`Place`](super::Place).
    ///
    /// # Errors
    /// [`Unavailable::Broken`] with what `pg_basebackup` or the standby's log said.
    pub async fn standby(&self, data_dir: &Path, options: &Options) -> Result<Self, Unavailable> {
        self.basebackup(data_dir, &["--write-recovery-conf", "--wal-method=stream"])
            .await
            .map_err(|error| Unavailable::Broken(error.0))?;
        Self::on_directory(self.major(), data_dir, self.password(), options)
    }

    /// Makes a standby a primary; returns when it takes writes.
    ///
    /// # Errors
    /// When it was none, or does not get there.
    pub fn promote(&self) -> Result<(), Failure> {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.args(["promote", "--wait", "--silent"]).arg("--pgdata").arg(self.data_dir());
        run(pg_ctl).map(drop)
    }

    /// Waits until the server has ended its recovery and takes writes.
    ///
    /// # Errors
    /// With the end of its log, when it stops or does not get there.
    pub async fn until_recovered(&self) -> Result<(), Failure> {
        self.until("the end of the recovery", "SELECT NOT pg_is_in_recovery()").await
    }

    /// Waits until a standby has replayed everything that its primary had written when this was called.
    ///
    /// # Errors
    /// With the end of its log, when it does not get there.
    pub async fn until_caught_up(&self, primary: &Self) -> Result<(), Failure> {
        let end = primary.psql("SELECT pg_current_wal_flush_lsn()").await?;
        let question =
            format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{end}'::pg_lsn, NOT pg_is_in_recovery())");
        self.until("a standby to catch up", &question).await
    }

    /// Waits until a question that is answered with a boolean is answered with yes.
    ///
    /// # Errors
    /// With the end of the server's log, when it stops answering or does not get there.
    pub async fn until(&self, what: &str, question: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let said = self.psql(question).await;
            if said.as_deref() == Ok("t") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure(format!("waited in vain for {what}: {said:?}\n{}", self.log_tail())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
