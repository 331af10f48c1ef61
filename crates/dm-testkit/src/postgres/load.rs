//! Writers in the background: pgbench, bounded in time.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;

use super::Server;
use super::programs::output;
use crate::Failure;

/// pgbench at work on a database. Killed when dropped; ends by itself when its time is over.
#[derive(Debug)]
pub struct Load {
    child: Child,
}

/// What a load did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// Transactions that were committed.
    pub transactions: u64,
    /// And how many a second.
    pub per_second: f64,
}

impl Server {
    /// Makes a database, unless it is there, and fills it with `pgbench -i` at this scale (100,000 accounts each).
    ///
    /// # Errors
    /// With what psql or pgbench said.
    pub async fn pgbench_database(&self, database: &str, scale: u32) -> Result<(), Failure> {
        if !self.databases().await?.iter().any(|name| name == database) {
            self.psql(&format!("CREATE DATABASE \"{database}\"")).await?;
        }
        let mut command = self.program("pgbench", database);
        command.args(["-i", "-q", "-s"]).arg(scale.to_string());
        output(command).await.map(drop)
    }

    /// Starts pgbench's own transactions on a database that [`pgbench_database`](Self::pgbench_database) filled.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn load(&self, database: &str, clients: u32, at_most: Duration) -> Result<Load, Failure> {
        let mut command = self.program("pgbench", database);
        command
            .args(["--no-vacuum", "--client"])
            .arg(clients.to_string())
            .arg(format!("--time={}", at_most.as_secs().max(1)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|e| Failure(format!("cannot run pgbench: {e}")))?;
        Ok(Load { child })
    }
}

impl Load {
    /// Waits for its end.
    ///
    /// # Errors
    /// With what pgbench said.
    pub async fn finish(self) -> Result<LoadReport, Failure> {
        let output = self
            .child
            .wait_with_output()
            .await
            .map_err(|e| Failure(format!("cannot wait for pgbench: {e}")))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let number = |before: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(before))?;
            line.split(|c: char| c.is_whitespace() || c == '/').next().map(str::to_owned)
        };
        let read = || {
            Some(LoadReport {
                transactions: number("number of transactions actually processed: ")?.parse().ok()?,
                per_second: number("tps = ")?.parse().ok()?,
            })
        };
        let complaint =
            || Failure(format!("pgbench failed: {said}{}", String::from_utf8_lossy(&output.stderr)));
        if output.status.success() { read().ok_or_else(complaint) } else { Err(complaint()) }
    }

    /// Ends it now and waits until it is gone; its transactions may be cut anywhere.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|e| Failure(format!("cannot end pgbench: {e}")))
    }
}
