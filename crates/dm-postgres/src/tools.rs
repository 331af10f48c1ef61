//! Finding and running PostgreSQL's client programs.
//!
//! `pg_dump` must be at least as new as the server it reads, `pg_restore` at least as new as the `pg_dump` that wrote.
//! Of several that will do, the oldest is taken: newer ones write settings that older servers do not know.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dm_core::{EngineKind, Error, ErrorKind, OpContext, Result};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::client::Client;

/// How much of a program's error output is kept: its end tells what went wrong.
const STDERR_KEPT: usize = 16 << 10;

/// One installation of the client programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientTools {
    folder: PathBuf,
    /// Its major version.
    pub(crate) major: u32,
    /// Its version as it names itself.
    pub(crate) version: String,
}

/// A finished program.
pub(crate) struct Finished {
    /// Whether it ended well.
    pub(crate) success: bool,
    /// What it printed.
    pub(crate) stdout: Vec<u8>,
    /// The end of what it complained.
    pub(crate) stderr: String,
}

impl ClientTools {
    /// All installations, oldest first: the named folder alone when one is named.
    pub(crate) async fn discover(ctx: &OpContext, bin_dir: Option<&Path>) -> Result<Vec<Self>> {
        let folders = match bin_dir {
            Some(folder) => vec![folder.to_owned()],
            None => usual_folders(),
        };
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for folder in folders {
            let program = folder.join("pg_dump");
            let Ok(real) = tokio::fs::canonicalize(&program).await else { continue };
            // Debian's pg_dump on PATH is a wrapper that picks a version; the real ones are in their own folders.
            let wrapper = bin_dir.is_none() && real.file_name().is_some_and(|n| n == "pg_wrapper");
            if wrapper || !seen.insert(real) || !folder.join("pg_restore").exists() {
                continue;
            }
            match version_of(ctx, &program).await {
                Ok((major, version)) => found.push(Self { folder, major, version }),
                Err(error) if bin_dir.is_some() => return Err(error),
                Err(error) => tracing::debug!(%error, program = %program.display(), "not a usable pg_dump"),
            }
        }
        found.sort_by_key(|t| t.major);
        Ok(found)
    }

    /// The oldest that is at least this new.
    ///
    /// # Errors
    /// `Unsupported`, with the way out.
    pub(crate) async fn at_least(
        ctx: &OpContext,
        client: &Client,
        major: u32,
        purpose: &'static str,
    ) -> Result<Self> {
        let bin_dir = client.options.bin_dir.as_deref();
        let all = Self::discover(ctx, bin_dir).await?;
        if let Some(tools) = all.iter().find(|t| t.major >= major) {
            return Ok(tools.clone());
        }
        let message = match all.last() {
            Some(newest) => format!(
                "{purpose} {} cannot read a PostgreSQL {major} {}",
                newest.major,
                match purpose {
                    "pg_restore" => "dump",
                    _ => "server",
                }
            ),
            None => match bin_dir {
                Some(folder) => format!("there is no {purpose} in {}", folder.display()),
                None => format!("{purpose} was not found"),
            },
        };
        Err(Error::unsupported(message)
            .with_hint(format!("set the bin_dir of the engine or install postgresql-client-{major}"))
            .on_engine(EngineKind::Postgres))
    }

    /// A program of this installation, knowing where the server is.
    fn command(&self, program: &str, client: &Client) -> Command {
        let mut command = Command::new(self.folder.join(program));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PG") {
                command.env_remove(key);
            }
        }
        command
            .envs(client.environment())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a program to its end. Cancellation kills it.
    pub(crate) async fn run<I, S>(
        &self,
        ctx: &OpContext,
        client: &Client,
        program: &'static str,
        arguments: I,
    ) -> Result<Finished>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command(program, client);
        command.args(arguments);
        run(ctx, program, command).await
    }
}

impl Finished {
    /// Fails when the program did, with what it said.
    pub(crate) fn or_fail(self, program: &'static str) -> Result<Self> {
        if self.success {
            return Ok(self);
        }
        Err(failure(program, &self.stderr))
    }
}

/// The error for a program that failed. What it said decides the kind as far as it can be told.
fn failure(program: &'static str, stderr: &str) -> Error {
    let said = |text: &str| stderr.contains(text);
    let kind = if said("permission denied") || said("must be owner") || said("authentication failed") {
        ErrorKind::Denied
    } else if said("could not connect")
        || said("connection to server")
        || said("server closed the connection")
    {
        ErrorKind::Unreachable
    } else if said("does not exist") {
        ErrorKind::NotFound
    } else if said("No space left") {
        ErrorKind::Exhausted
    } else if said("server version mismatch") || said("unsupported version") {
        ErrorKind::Unsupported
    } else {
        ErrorKind::Internal
    };
    let line = stderr
        .lines()
        .find(|l| l.contains("error:"))
        .or_else(|| stderr.lines().last())
        .unwrap_or("it said nothing")
        .trim();
    Error::new(kind, format!("{program} failed: {line}")).on_engine(EngineKind::Postgres)
}

/// Runs a program to its end. Cancellation kills it.
pub(crate) async fn run(ctx: &OpContext, program: &'static str, mut command: Command) -> Result<Finished> {
    ctx.run(async {
        let mut child = command.spawn().map_err(|e| {
            Error::unsupported(format!("{program} cannot be run"))
                .with_source(e)
                .with_hint("set the bin_dir of the engine to the folder of the client programs")
        })?;
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::internal("a program's output is not connected"));
        };
        let mut stdout = Vec::new();
        let (read, stderr, status) = tokio::join!(out.read_to_end(&mut stdout), tail(&mut err), child.wait());
        let broken =
            |e: std::io::Error| Error::internal(format!("{program} cannot be followed")).with_source(e);
        read.map_err(broken)?;
        Ok(Finished { success: status.map_err(broken)?.success(), stdout, stderr: stderr.map_err(broken)? })
    })
    .await
}

async fn tail(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
        if kept.len() > 2 * STDERR_KEPT {
            kept.drain(..kept.len() - STDERR_KEPT);
        }
    }
}

/// The major version and the whole version that a program says it has.
pub(crate) async fn version_of(ctx: &OpContext, program: &Path) -> Result<(u32, String)> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LC_ALL", "C").kill_on_drop(true);
    let finished = run(ctx, "pg_dump", command).await?.or_fail("pg_dump")?;
    let text = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
    // `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
    let version = text.split_once("(PostgreSQL)").map_or("", |(_, v)| v).trim();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse() {
        Ok(major) => Ok((major, version.to_owned())),
        Err(_) => Err(Error::unsupported(format!("{} does not say its version", program.display()))
            .with_hint("set the bin_dir of the engine to the folder of the client programs")),
    }
}

/// `PATH`, and where distributions put versions side by side.
pub(crate) fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@")]
    {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        folders.extend(
            entries
                .filter_map(std::result::Result::ok)
                .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
                .map(|e| e.path().join("bin")),
        );
    }
    folders
}
