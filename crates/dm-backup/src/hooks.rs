//! Commands of the application's own around a recovery, where they stop and start it, and around a backup.
//!
//! A hook runs in a process group of its own, with a time limit: one that hangs is ended with everything that it started.
//! What it says is kept for the report, its end where it says too much. The environment tells it what is going on:
//! `DM_PHASE` (`stop`, `start`), `DM_BACKUP`, `DM_TARGET`, `DM_LOCATION`, `DM_OUTCOME` (`start` only: `restored`, `failed`).

use std::collections::VecDeque;
use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dm_core::{Error, ErrorKind, OpContext, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::run::millis;

/// How long a hook may take, unless it says otherwise.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// The most of a hook's output that a report keeps: its end, in bytes.
const MOST_OUTPUT: usize = 16 << 10;

/// How long a group may take to go after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long output may still come after the command itself has ended.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HookCommand {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell.
    Program(Vec<String>),
}

impl fmt::Display for HookCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(line),
            Self::Program(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// What a failing hook means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookFailure {
    /// The recovery fails: before anything was restored (stop), or with the database restored (start). Likewise a backup:
    /// before anything was committed, or with the backup committed (after).
    #[default]
    Fail,
    /// The report says so, and the recovery goes on.
    Warn,
}

/// A command of the application's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The command.
    pub command: HookCommand,
    /// How long it may take, in seconds; [`HOOK_TIMEOUT`] when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// What it means when it fails.
    #[serde(default)]
    pub on_failure: HookFailure,
}

impl Hook {
    /// A line for the shell, with the defaults.
    pub fn shell(line: impl Into<String>) -> Self {
        Self { command: HookCommand::Shell(line.into()), timeout_s: None, on_failure: HookFailure::default() }
    }

    /// A program and its arguments, with the defaults.
    pub fn program<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { command: HookCommand::Program(words), ..Self::shell("") }
    }

    /// The same with a time limit in seconds.
    #[must_use]
    pub fn within(mut self, seconds: u64) -> Self {
        self.timeout_s = Some(seconds);
        self
    }

    /// The same, not failing the recovery.
    #[must_use]
    pub fn warning_only(mut self) -> Self {
        self.on_failure = HookFailure::Warn;
        self
    }

    fn timeout(&self) -> Duration {
        self.timeout_s.map_or(HOOK_TIMEOUT, Duration::from_secs)
    }
}

/// When the application is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartWhen {
    /// Only when the database was restored and released. After a failure it stays stopped, for a person to decide.
    #[default]
    OnSuccess,
    /// Also after a failure: with what stood there before, where the restore left it.
    Always,
}

/// The commands around a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Stops the application; run before anything is restored.
    pub stop: Option<Hook>,
    /// Starts it; run after the release.
    pub start: Option<Hook>,
    /// When `start` is run.
    pub start_when: StartWhen,
}

impl Hooks {
    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stop.is_none() && self.start.is_none()
    }
}

/// Around what a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPhase {
    /// Before the restore.
    Stop,
    /// After it.
    Start,
    /// Before a backup reads anything.
    Before,
    /// When the snapshot of a backup stands.
    During,
    /// When a backup was made.
    After,
    /// When none was made.
    Failed,
}

impl fmt::Display for HookPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
            Self::Failed => "failed",
        })
    }
}

/// What came of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// Which.
    pub phase: HookPhase,
    /// The command, as written.
    pub command: String,
    /// Whether it ended well.
    pub ok: bool,
    /// Its exit code, where it had one.
    pub exit_code: Option<i32>,
    /// Why it did not end well, or what else a person should know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// The end of what it said, on both channels.
    pub output: String,
    /// Whether it said more than that.
    pub truncated: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl HookReport {
    /// The failure as an error.
    pub(crate) fn error(&self) -> Error {
        let problem = self.problem.as_deref().unwrap_or("it failed");
        let last = self.output.lines().rev().find(|line| !line.trim().is_empty());
        let said = last.map_or_else(String::new, |line| format!(" (it said: {})", line.trim()));
        Error::new(ErrorKind::CheckFailed, format!("the {} hook failed: {problem}{said}", self.phase))
            .about(self.command.clone())
    }
}

/// The last bytes of what was said.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    truncated: bool,
}

impl Tail {
    fn add(&mut self, said: &[u8]) {
        self.bytes.extend(said);
        let over = self.bytes.len().saturating_sub(MOST_OUTPUT);
        if over > 0 {
            self.bytes.drain(..over);
            self.truncated = true;
        }
    }
}

/// Runs a hook to its end, or ends it. Never fails: what went wrong is in the report.
pub(crate) async fn run(
    ctx: &OpContext,
    phase: HookPhase,
    hook: &Hook,
    environment: &[(&str, String)],
) -> HookReport {
    let began = Instant::now();
    tracing::info!(%phase, command = %hook.command, "hook");
    let tail = Arc::new(Mutex::new(Tail::default()));
    let ended = attend(ctx, hook, environment, &tail).await;
    let (exit_code, problem, ok) = match ended {
        Ok((status, held)) => {
            let problem = match status.success() {
                false => Some(ending(status)),
                true if held => Some(
                    "something that it left running still holds its output: redirect that, or it may end with this program"
                        .to_owned(),
                ),
                true => None,
            };
            (status.code(), problem, status.success())
        }
        Err(error) => (None, Some(error.to_string()), false),
    };
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let report = HookReport {
        phase,
        command: hook.command.to_string(),
        ok,
        exit_code,
        problem,
        output: String::from_utf8_lossy(tail.bytes.make_contiguous()).into_owned(),
        truncated: tail.truncated,
        duration_ms: millis(began.elapsed()),
    };
    tracing::info!(%phase, ok, duration_ms = report.duration_ms, problem = report.problem.as_deref(), "hook ended");
    report
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "nobody knows how it ended".to_owned(),
    }
}

/// Its exit status, and whether somebody still holds its output.
async fn attend(
    ctx: &OpContext,
    hook: &Hook,
    environment: &[(&str, String)],
    tail: &Arc<Mutex<Tail>>,
) -> Result<(ExitStatus, bool)> {
    let mut command = match &hook.command {
        HookCommand::Shell(line) => {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(line);
            command
        }
        HookCommand::Program(words) => {
            let (program, arguments) =
                words.split_first().ok_or_else(|| Error::invalid("it names no program"))?;
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    let mut child = command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::new(ErrorKind::NotFound, format!("it cannot be started: {e}")))?;
    let listeners = [
        child.stdout.take().map(|out| listen(out, Arc::clone(tail))),
        child.stderr.take().map(|err| listen(err, Arc::clone(tail))),
    ];
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let waited = tokio::select! {
        status = child.wait() => Ok(status),
        () = ctx.cancellation().cancelled() => Err(Error::interrupted()),
        () = tokio::time::sleep(hook.timeout()) => Err(Error::new(
            ErrorKind::Timeout,
            format!("it did not end within {} s, and was ended with all that it started", hook.timeout().as_secs()),
        )),
    };
    let result = match waited {
        Ok(status) => status.map_err(|e| Error::internal("nobody knows how it ended").with_source(e)),
        Err(error) => {
            end(&mut child, group).await;
            Err(error)
        }
    };
    let mut held = false;
    for mut listener in listeners.into_iter().flatten() {
        if tokio::time::timeout(LAST_WORDS, &mut listener).await.is_err() {
            held = true;
            listener.abort();
        }
    }
    result.map(|status| (status, held))
}

/// Ends a process group: politely, then for good.
async fn end(child: &mut Child, group: Option<Pid>) {
    let signal = |signal| {
        if let Some(group) = group
            && let Err(error) = kill_process_group(group, signal)
        {
            // Nobody of the group is left: that is what was wanted.
            tracing::debug!(%error, "a hook's process group was gone before it was ended");
        }
    };
    signal(Signal::TERM);
    let went = tokio::time::timeout(FAREWELL, child.wait()).await;
    // Those that the hook started may have stayed when it went.
    signal(Signal::KILL);
    if went.is_err()
        && let Err(error) = child.wait().await
    {
        tracing::warn!(%error, "nobody knows whether a hook that was killed has ended");
    }
}

fn listen<R: AsyncRead + Unpin + Send + 'static>(mut from: R, tail: Arc<Mutex<Tail>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        // An error of a pipe is its end.
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            tail.lock().unwrap_or_else(PoisonError::into_inner).add(&buffer[..length]);
        }
    })
}

#[cfg(test)]
mod tests {
    use dm_core::Actor;

    use super::*;

    fn ctx() -> OpContext {
        OpContext::new(Actor::local_user("test"))
    }

    async fn report(hook: &Hook) -> HookReport {
        run(&ctx(), HookPhase::Stop, hook, &[("DM_BACKUP", "b-1".to_owned())]).await
    }

    #[tokio::test]
    async fn a_hook_knows_what_it_is_about_and_its_words_are_kept() {
        let ran = report(&Hook::shell("echo $DM_BACKUP; echo oops >&2")).await;
        assert!(ran.ok && ran.problem.is_none() && ran.exit_code == Some(0), "{ran:?}");
        assert!(ran.output.contains("b-1") && ran.output.contains("oops"));
        let ran = report(&Hook::program(["printf", "%s", "a b;c"])).await;
        assert_eq!(ran.output, "a b;c");
    }

    #[tokio::test]
    async fn a_failure_is_told_with_its_code_and_last_words() {
        let ran = report(&Hook::shell("echo cannot stop it; exit 3")).await;
        assert!(!ran.ok && ran.exit_code == Some(3));
        assert!(ran.error().to_string().contains("exit code 3 (it said: cannot stop it)"), "{}", ran.error());
        let ran = report(&Hook::program(["/no/such/program"])).await;
        assert!(!ran.ok && ran.problem.unwrap().contains("cannot be started"));
        assert!(!report(&Hook::program(Vec::<String>::new())).await.ok);
    }

    #[tokio::test]
    async fn a_hanging_hook_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // Deaf to SIGTERM itself, and with a child of its own.
        let line = format!("trap '' TERM; sleep 600 & echo $! > {}; wait; sleep 600", file.display());
        let began = Instant::now();
        let ran = report(&Hook::shell(line).within(1)).await;
        assert!(!ran.ok && ran.problem.unwrap().contains("within 1 s"));
        assert!(began.elapsed() < Duration::from_secs(60));
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let alive = || rustix::process::test_kill_process(Pid::from_raw(child).unwrap()).is_ok();
        let zombie =
            || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|s| s.contains(") Z "));
        while alive() && !zombie() {
            assert!(Instant::now() < deadline, "the hook's child {child} still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn endless_words_are_kept_to_their_end() {
        let ran = report(&Hook::shell("yes loud | head -c 200000; echo; echo last")).await;
        assert!(ran.ok && ran.truncated && ran.output.len() <= MOST_OUTPUT);
        assert!(ran.output.ends_with("last\n"));
    }

    #[tokio::test]
    async fn what_a_hook_leaves_running_does_not_hold_it_up() {
        let began = Instant::now();
        let ran = report(&Hook::shell("sleep 30 & echo $!")).await;
        assert!(ran.ok && began.elapsed() < Duration::from_secs(20));
        assert!(ran.problem.unwrap().contains("still holds its output"));
        let left: i32 = ran.output.trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_hook_is_ended() {
        let ctx = ctx();
        let hook = Hook::shell("sleep 600");
        let running = run(&ctx, HookPhase::Stop, &hook, &[]);
        let cancel = async {
            tokio::task::yield_now().await;
            ctx.cancellation().cancel();
        };
        let (ran, ()) = tokio::join!(running, cancel);
        assert!(!ran.ok && ran.problem.unwrap().contains("interrupted"));
    }

    #[test]
    fn hooks_are_written_as_a_line_or_as_words() {
        let hooks: Hooks = serde_json::from_str(
            r#"{"stop": {"command": "systemctl stop app", "timeout_s": 5},
                "start": {"command": ["systemctl", "start", "app"], "on_failure": "warn"}, "start_when": "always"}"#,
        )
        .unwrap();
        assert_eq!(hooks.stop.unwrap(), Hook::shell("systemctl stop app").within(5));
        assert_eq!(hooks.start.unwrap(), Hook::program(["systemctl", "start", "app"]).warning_only());
        assert_eq!(hooks.start_when, StartWhen::Always);
    }
}
