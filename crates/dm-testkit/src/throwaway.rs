//! Folders and server processes that end with the test process, however it ends.
//!
//! Each folder has a file `alive` on which the owner holds a lock for as long as it lives. A watchdog — a small shell
//! in its own process group — waits for that lock; the kernel gives it away when the owner exits, panics or is
//! killed, and the watchdog then stops the server and removes the folder. No destructor has to run.
//!
//! `scripts/test` runs many test processes and wants one server for all: it holds such a lock itself, on
//! `$DM_TEST_SHARED_DIR/alive`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Failure, Unavailable};

/// How long a server may take to come up. Generous: two cores may be busy with a build.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(90);

/// The user that servers run as when the tests run as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Servant {
    uid: u32,
    gid: u32,
}

impl Servant {
    /// `postgres`, else `nobody`, when this process is root; nobody in particular when it is not.
    pub(crate) fn find() -> Result<Option<Self>, Unavailable> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")
            .map_err(|e| Unavailable::broken(format!("cannot read /etc/passwd: {e}")))?;
        let lookup = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        lookup("postgres").or_else(|| lookup("nobody")).map(Some).ok_or_else(|| {
            Unavailable::missing("there is no user to run servers as: neither postgres nor nobody")
        })
    }

    pub(crate) fn uid(self) -> u32 {
        self.uid
    }

    pub(crate) fn gid(self) -> u32 {
        self.gid
    }

    pub(crate) fn apply(servant: Option<Self>, command: &mut Command) {
        if let Some(Self { uid, gid }) = servant {
            command.uid(uid).gid(gid);
        }
    }
}

/// A folder that goes away with its owner.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    servant: Option<Servant>,
    alive: PathBuf,
    /// Held for its lock; `None` when somebody else's lock keeps the folder.
    _lock: Option<File>,
}

impl Folder {
    /// A folder of this process.
    pub(crate) fn new(name: &str, servant: Option<Servant>) -> Result<Self, Failure> {
        let path = unique_folder(&std::env::temp_dir(), name, servant)?;
        let alive = path.join("alive");
        let lock = File::create(&alive).map_err(|e| failed("create", &alive, &e))?;
        lock.lock().map_err(|e| failed("lock", &alive, &e))?;
        Ok(Self { path, servant, alive, _lock: Some(lock) })
    }

    /// A folder that lives for as long as the lock on `alive` is held by whoever holds it.
    pub(crate) fn kept_by(alive: &Path, name: &str, servant: Option<Servant>) -> Result<Self, Failure> {
        let parent = alive.parent().unwrap_or(Path::new("/tmp"));
        let path = unique_folder(parent, name, servant)?;
        Ok(Self { path, servant, alive: alive.to_owned(), _lock: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn servant(&self) -> Option<Servant> {
        self.servant
    }

    /// Starts the watchdog: runs `command` beside it when `beside` is set and kills it at the end, else runs it at
    /// the end; then removes the folder. Both run as the servant.
    pub(crate) fn watch(&self, command: &[String], beside: bool) -> Result<Child, Failure> {
        const AT_END: &str = r#"folder=$1 alive=$2; shift 2
            flock "$alive" true
            "$@"
            rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }"#;
        const BESIDE: &str = r#"folder=$1 alive=$2; shift 2
            "$@" & server=$!
            echo "$server" >"$folder/pid"
            flock "$alive" true
            kill -9 "$server"; wait "$server"
            rm -rf "$folder""#;
        let log = |name: &str| -> Result<Stdio, Failure> {
            let path = self.path.join(name);
            Ok(File::create(&path).map_err(|e| failed("create", &path, &e))?.into())
        };
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(if beside { BESIDE } else { AT_END })
            .arg("watchdog")
            .arg(&self.path)
            .arg(&self.alive)
            .args(command)
            .current_dir("/")
            .env("HOME", &self.path)
            .stdin(Stdio::null())
            .stdout(log("server.out")?)
            .stderr(log("server.err")?)
            // Its own group: a Ctrl-C or a test runner that kills the test's group leaves it to do its work.
            .process_group(0);
        Servant::apply(self.servant, &mut shell);
        shell.spawn().map_err(|e| Failure(format!("cannot start the watchdog: {e}")))
    }

    /// Whether the command that runs beside the watchdog has ended.
    pub(crate) fn watched_is_dead(&self) -> bool {
        let Ok(pid) = fs::read_to_string(self.path.join("pid")) else { return false };
        let Ok(status) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return true };
        // A zombie, when the watchdog has not reaped it yet.
        status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    /// What the watched command printed, for messages.
    pub(crate) fn output(&self) -> String {
        ["server.out", "server.err"]
            .iter()
            .filter_map(|name| fs::read_to_string(self.path.join(name)).ok())
            .collect::<String>()
            .trim()
            .to_owned()
    }
}

fn unique_folder(parent: &Path, name: &str, servant: Option<Servant>) -> Result<PathBuf, Failure> {
    let path = parent.join(format!("dm-test-{name}-{:016x}", rand::random::<u64>()));
    fs::create_dir(&path).map_err(|e| failed("create", &path, &e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
        .map_err(|e| failed("protect", &path, &e))?;
    if let Some(Servant { uid, gid }) = servant {
        chown(&path, Some(uid), Some(gid)).map_err(|e| failed("give away", &path, &e))?;
    }
    Ok(path)
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("cannot {verb} {}: {error}", path.display()))
}

/// A port of the loopback interface that was free a moment ago. Callers try again with another when it was taken.
pub(crate) fn free_port() -> Result<u16, Failure> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| Failure(format!("cannot bind to a loopback port: {e}")))
}

/// Waits until something accepts connections on the port.
pub(crate) fn wait_for_port(port: u16, mut dead: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + START_DEADLINE;
    while Instant::now() < deadline {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        if dead() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Waits for a condition; the way tests wait instead of sleeping.
///
/// # Panics
/// When it does not come true within 60 seconds, naming it.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folder where `scripts/setup-servers` puts what no package manager installs.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DM_TEST_CACHE") {
        return dir.into();
    }
    // Root's home is closed to the users that servers run as.
    if rustix::process::geteuid().is_root() {
        return "/var/cache/dm-test".into();
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    home.join(".cache/dm-test")
}

/// A program: where `variable` says, in the cache, or on PATH.
pub(crate) fn find_program(variable: &str, in_cache: &str, name: &str) -> Result<PathBuf, Unavailable> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Unavailable::broken(format!("{variable} names {}, which is no file", path.display())))
        };
    }
    let cached = cache_dir().join(in_cache);
    if cached.is_file() {
        return Ok(cached);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file()).ok_or_else(
        || Unavailable::missing(format!("{name} is not installed (scripts/setup-servers installs it)")),
    )
}
