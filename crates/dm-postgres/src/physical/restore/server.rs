//! A server on the restored files that nobody else can reach, and what it says while it recovers.
//!
//! It listens on one socket in a folder that its user alone may enter, takes its rules of access from there, and has
//! everything switched off that would reach out: archiving, replication, subscriptions, libraries that bring workers of
//! their own. It ends with this process, also a killed one: a small shell holds the other end of a pipe.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dm_core::{EngineKind, Error, ErrorKind, OpContext, Progress, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::place::{give, write_file};
use super::programs::{Programs, RunAs};
use super::wal::parse_lsn;
use crate::PostgresOptions;
use crate::client::Client;

/// How many lines of the server's log are kept.
const KEPT: usize = 400;

/// The name of the one socket; there is no network.
const PORT: u16 = 5432;

/// How long a server that was told to stop at once may take.
const AT_ONCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Ended,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Sealed {
    child: Child,
    watcher: Option<Child>,
    folder: tempfile::TempDir,
    lines: Arc<Mutex<VecDeque<String>>>,
    phase: watch::Receiver<Phase>,
}

/// Why it did not come up.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Recovery came to the end of the log before it met its target.
    pub(super) ended_early: bool,
    pub(super) error: Error,
}

impl Sealed {
    /// Starts it. [`ready`](Self::ready) waits for it.
    pub(super) async fn start(
        ctx: &OpContext,
        programs: &Programs,
        user: Option<&RunAs>,
        data: &Path,
        settings: &[(String, String)],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("dm-pg-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|e| {
                Error::new(ErrorKind::Denied, "there is no place for the server's socket").with_source(e)
            })?;
        let (hba, ident) = (folder.path().join("pg_hba.conf"), folder.path().join("pg_ident.conf"));
        write_file(&hba, b"local all all trust\n", user)?;
        write_file(&ident, b"", user)?;
        give(folder.path(), user)?;
        let mut command = programs.command("postgres", user);
        command.arg("-D").arg(data);
        let path = |p: &Path| p.display().to_string();
        let own = [
            ("data_directory", path(data)),
            ("hba_file", path(&hba)),
            ("ident_file", path(&ident)),
            ("unix_socket_directories", path(folder.path())),
            ("port", PORT.to_string()),
        ];
        for (name, value) in own
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .chain(settings.iter().map(|(n, v)| (n.as_str(), v.as_str())))
        {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(false).process_group(0);
        let mut child = command.spawn().map_err(|e| {
            Error::unsupported("the server cannot be run")
                .about(programs.path("postgres").display().to_string())
                .with_source(e)
                .with_hint("the folder of the server's programs must be open to the user that runs it")
        })?;
        let watcher = watch_over(&child, user)?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, phase) = watch::channel(Phase::Starting);
        if let Some(stderr) = child.stderr.take() {
            let (kept, ctx) = (Arc::clone(&lines), ctx.clone());
            tokio::spawn(async move {
                let mut read = BufReader::new(stderr);
                let mut line = Vec::new();
                let mut replayed = None;
                while matches!(read.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    tracing::debug!(target: "dm_postgres::restored_server", "{text}");
                    if text.contains("database system is ready to accept connections") {
                        // Nobody listens any more when the session is gone.
                        let _ = tell.send(Phase::Ready);
                    }
                    if let Some(at) = text.split("current LSN: ").nth(1).and_then(|l| parse_lsn(l).ok()) {
                        let before = replayed.replace(at).unwrap_or(at);
                        ctx.progress(Progress::Bytes(at.saturating_sub(before)));
                    }
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == KEPT {
                        kept.pop_front();
                    }
                    kept.push_back(text);
                }
                let _ = tell.send(Phase::Ended);
            });
        }
        Ok(Self { child, watcher, folder, lines, phase })
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// What the log tells of the reason.
    pub(super) async fn ready(&mut self, ctx: &OpContext) -> Result<Result<(), Trouble>> {
        let phase = &mut self.phase;
        let reached = ctx
            .run(async {
                phase
                    .wait_for(|p| *p != Phase::Starting)
                    .await
                    .map(|p| *p)
                    .map_err(|e| Error::internal("the server's log cannot be followed").with_source(e))
            })
            .await?;
        if reached == Phase::Ready {
            return Ok(Ok(()));
        }
        self.reap(ctx).await?;
        Ok(Err(diagnose(&self.log())))
    }

    /// What it said last.
    pub(super) fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How to reach it.
    pub(super) fn client(&self, role: &str, database: &str, options: &PostgresOptions) -> Client {
        let options = PostgresOptions { application_name: "dm restore".to_owned(), ..options.clone() };
        Client::on_socket(self.folder.path(), PORT, role, database, options)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // It may have ended this moment.
            if let Err(error) = kill_process(pid, signal) {
                tracing::debug!(%error, "the restored server took no signal");
            }
        }
    }

    async fn reap(&mut self, ctx: &OpContext) -> Result<()> {
        let child = &mut self.child;
        ctx.run(async {
            child
                .wait()
                .await
                .map(drop)
                .map_err(|e| Error::internal("the server cannot be followed").with_source(e))
        })
        .await?;
        self.dismiss().await;
        Ok(())
    }

    async fn dismiss(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            if let Some(mut stdin) = watcher.stdin.take() {
                // It ends either way: with the line, or with the pipe.
                let _ = stdin.write_all(b"done\n").await;
            }
            let _ = watcher.wait().await;
        }
    }

    /// Stops it in good order: everything is in the files.
    pub(super) async fn stop(mut self, ctx: &OpContext) -> Result<()> {
        self.signal(Signal::INT);
        self.reap(ctx).await
    }

    /// Stops it at once; the files are thrown away.
    pub(super) async fn kill(mut self, ctx: &OpContext) -> Result<()> {
        self.signal(Signal::QUIT);
        if tokio::time::timeout(AT_ONCE, self.reap(ctx)).await.is_err() {
            self.signal(Signal::KILL);
            self.reap(ctx).await?;
        }
        Ok(())
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
    }
}

/// Ends the server when this process ends without a word.
fn watch_over(child: &Child, user: Option<&RunAs>) -> Result<Option<Child>> {
    let Some(pid) = child.id() else { return Ok(None) };
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "read -r word && exit 0; kill -QUIT \"$1\"", "sh"])
        .arg(pid.to_string())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(user) = user {
        shell.uid(user.uid).gid(user.gid);
    }
    shell
        .spawn()
        .map(Some)
        .map_err(|e| Error::internal("nobody can watch over the restored server").with_source(e))
}

/// What a server that ended tells, in words that help.
fn diagnose(lines: &[String]) -> Trouble {
    let said = |text: &str| lines.iter().rev().find(|l| l.contains(text));
    let fatal = lines
        .iter()
        .find(|l| ["FATAL:", "PANIC:"].iter().any(|level| l.starts_with(level)))
        .or_else(|| lines.last())
        .map_or("it said nothing", |l| l.split_once(':').map_or(l.as_str(), |(_, rest)| rest.trim()));
    let error = |kind, message: String, hint: &str| {
        Error::new(kind, message).with_hint(hint.to_owned()).on_engine(EngineKind::Postgres)
    };
    if said("recovery ended before configured recovery target was reached").is_some() {
        let upto = last_position(lines).map_or_else(String::new, |at| format!(": it came to {at}"));
        return Trouble {
            ended_early: true,
            error: error(
                ErrorKind::NotFound,
                format!("the log ends before the point is reached{upto}"),
                "check the name or the number of the point, and that it lies after the backup and within the shipped log",
            ),
        };
    }
    let table: [(&str, ErrorKind, &str, &str); 13] = [
        (
            "is not a child of this server's history",
            ErrorKind::Conflict,
            "the timeline does not go on from the backup",
            "choose --set timeline=current, or a backup of that timeline",
        ),
        (
            "WAL ends before end of online backup",
            ErrorKind::Corrupt,
            "the log that the backup brought along is not whole",
            "verify the backup, and restore another one",
        ),
        (
            "WAL ends before consistent recovery point",
            ErrorKind::Corrupt,
            "the log ends before the files are consistent",
            "verify the backup, and restore another one",
        ),
        (
            "could not locate required checkpoint record",
            ErrorKind::Corrupt,
            "the segment in which the backup began is missing or damaged",
            "verify the backup, and restore another one",
        ),
        (
            "could not locate a valid checkpoint record",
            ErrorKind::Corrupt,
            "the segment in which the backup began is missing or damaged",
            "verify the backup, and restore another one",
        ),
        (
            "resource manager with ID",
            ErrorKind::Unsupported,
            "the log has records of an extension whose library is not loaded",
            "name it with --set shared_preload_libraries=...",
        ),
        (
            "could not access file",
            ErrorKind::Unsupported,
            "a library that the settings name is not installed here",
            "install the extension, or leave it out with --set shared_preload_libraries=",
        ),
        (
            "database files are incompatible with server",
            ErrorKind::Unsupported,
            "the server's programs are built differently from the one that wrote the files",
            "name the folder of matching ones with --set bin_dir=...",
        ),
        (
            "No space left on device",
            ErrorKind::Exhausted,
            "the disk is full",
            "free space, or restore elsewhere",
        ),
        (
            "could not map anonymous shared memory",
            ErrorKind::Exhausted,
            "there is not enough memory for the server",
            "free memory, or restore on another machine",
        ),
        (
            "maximum number of prepared transactions reached",
            ErrorKind::Invalid,
            "max_prepared_transactions is lower than on the source",
            "restore the source's configuration with the files",
        ),
        (
            "contains errors",
            ErrorKind::Invalid,
            "the restored configuration has errors",
            "restore unchecked (checks none), mend the file, and start the server by hand",
        ),
        (
            "Permission denied",
            ErrorKind::Denied,
            "the server may not read its files",
            "open the folders above the destination to the user that runs the server",
        ),
    ];
    let known = table.iter().find_map(|(text, kind, message, hint)| {
        let line = said(text)?;
        let told = line.split_once(':').map_or(line.as_str(), |(_, rest)| rest.trim());
        Some(error(*kind, format!("{message} ({told})"), hint))
    });
    Trouble {
        ended_early: false,
        error: known.unwrap_or_else(|| {
            Error::internal(format!("the restored server did not start: {fatal}"))
                .on_engine(EngineKind::Postgres)
        }),
    }
}

/// Up to where the log was replayed, as the server said it.
fn last_position(lines: &[String]) -> Option<String> {
    let after = |line: &String, text: &str| {
        let rest = line.split_once(text)?.1;
        let end = rest.find(|c: char| !c.is_ascii_hexdigit() && c != '/').unwrap_or(rest.len());
        rest.get(..end).filter(|p| parse_lsn(p).is_ok()).map(str::to_owned)
    };
    let at =
        lines.iter().rev().find_map(|l| after(l, "redo done at ").or_else(|| after(l, "current LSN: ")))?;
    let time = lines
        .iter()
        .rev()
        .find_map(|l| l.split_once("last completed transaction was at log time ").map(|(_, t)| t.to_owned()));
    Some(match time {
        Some(time) => format!("{at}, the last transaction at {time}"),
        None => at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_early_end_says_how_far_it_came() {
        let trouble = diagnose(&lines(
            "LOG:  starting point-in-time recovery to \"x\"\nLOG:  redo done at 0/5000110 system usage: CPU\n\
             LOG:  last completed transaction was at log time 2026-11-20 13:03:00+00\n\
             FATAL:  recovery ended before configured recovery target was reached\nLOG:  startup process exited",
        ));
        assert!(trouble.ended_early);
        let told = trouble.error.to_string();
        assert!(told.contains("0/5000110") && told.contains("13:03:00"), "{told}");
    }

    #[test]
    fn the_first_fatal_line_is_told() {
        let trouble = diagnose(&lines("LOG:  starting\nFATAL:  something new\nLOG:  shut down"));
        assert!(!trouble.ended_early);
        assert!(trouble.error.to_string().ends_with("something new"));
        let known = diagnose(&lines("FATAL:  could not access file \"pg_x\": No such file or directory"));
        assert_eq!(known.error.kind(), ErrorKind::Unsupported);
    }
}
