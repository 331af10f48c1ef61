//! PostgreSQL's own programs as judges and as peers.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Install, Server};
use crate::Failure;

const ROLL_BACK_PREPARED: &str = r"SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \gexec";

impl Install {
    /// Verifies every page checksum of a cluster that is shut down, or was never started (`pg_checksums`); gives what the
    /// program said. `None` where the major comes without it, or the cluster without checksums.
    ///
    /// # Errors
    /// With the program's words when a page fails, or the cluster was not shut down.
    pub async fn checksums(&self, data_dir: &Path) -> Result<Option<String>, Failure> {
        if !self.has("pg_checksums") {
            return Ok(None);
        }
        let mut command = self.offline("pg_checksums");
        command.arg("--check").arg("--pgdata").arg(data_dir);
        match output(command).await {
            Ok(said) => Ok(Some(said)),
            Err(Failure(said)) if said.contains("checksums are not enabled") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A line of `pg_controldata`, by the name before the colon. `None` where the major comes without it.
    ///
    /// # Errors
    /// With the program's words; also when there is no such line.
    pub async fn control_value(&self, data_dir: &Path, name: &str) -> Result<Option<String>, Failure> {
        if !self.has("pg_controldata") {
            return Ok(None);
        }
        let mut command = self.offline("pg_controldata");
        command.arg("--pgdata").arg(data_dir);
        let said = output(command).await?;
        said.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| Some(value.trim().to_owned()))
            .ok_or_else(|| Failure(format!("pg_controldata says nothing of \"{name}\":\n{said}")))
    }

    /// Puts a full backup and its incremental ones, oldest first, together (`pg_combinebackup`, from 17 on).
    ///
    /// # Errors
    /// With the program's words.
    pub async fn combine(&self, backups: &[&Path], to: &Path) -> Result<(), Failure> {
        let mut command = self.offline("pg_combinebackup");
        command.args(backups).arg("--output").arg(to).arg("--no-sync");
        output(command).await.map(drop)
    }

    fn offline(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Server {
    /// A plain backup of this server by `pg_basebackup`, with more arguments (`--incremental=MANIFEST` ...). `to` is made.
    ///
    /// # Errors
    /// With the program's words.
    pub async fn basebackup(&self, to: &Path, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = self.program("pg_basebackup", "postgres");
        command.arg("--pgdata").arg(to).args(["--checkpoint=fast", "--no-sync"]).args(arguments);
        output(command).await.map(drop)
    }

    /// Checks tables and indexes of every database against each other (`pg_amcheck`, every tuple looked up in its
    /// indexes). `None` where the major comes without the extension. It would wait for the locks of prepared
    /// transactions: those are rolled back first.
    ///
    /// # Errors
    /// With what it found.
    pub async fn amcheck(&self) -> Result<Option<String>, Failure> {
        let there =
            self.psql("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'").await? == "1";
        if !there || !self.install().has("pg_amcheck") {
            return Ok(None);
        }
        for database in self.databases().await? {
            self.psql_in(&database, ROLL_BACK_PREPARED).await?;
        }
        let mut command = self.program("pg_amcheck", "postgres");
        command.env("PGOPTIONS", "-c lock_timeout=60s");
        command.args([
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--parent-check",
            "--no-strict-names",
        ]);
        output(command).await.map(Some)
    }
}

/// Runs a program to its end; gives what it printed on both streams.
pub(super) async fn output(mut command: Command) -> Result<String, Failure> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Failure(format!("cannot run {program}: {e}")))?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(said);
    }
    Err(Failure(format!("{program} failed ({}): {said}", output.status)))
}
