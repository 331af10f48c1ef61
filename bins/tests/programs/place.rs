//! A folder with a configuration for a server, in which the programs run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use dm_testkit::postgres::Server;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with `dm.toml`, a repository `backups`, and a home of its own.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// For the files and the log of a server.
    pub(crate) fn of(server: &Server) -> Self {
        let folder = tempfile::Builder::new().prefix("dm-bins-").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let configuration = format!(
            "[engines.main]\nurl = \"{}\"\nbin_dir = \"{}\"\n\
             [repository]\nurl = \"{}\"\npack_size = \"1 MiB\"\njobs = 2\n\
             [backup]\nmode = \"physical\"\nverify_after = \"off\"\n\
             [log]\nseal_every = \"300ms\"\npoll = \"50ms\"\n",
            server.url("postgres"),
            server.bin_dir().display(),
            folder.path().join("backups").display()
        );
        std::fs::write(folder.path().join("dm.toml"), configuration).unwrap();
        Self { folder }
    }

    /// For a SQLite database `shop.db`, which is not there yet; with more sections of the configuration.
    pub(crate) fn sqlite(sections: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dm-bins-").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let configuration = format!(
            "[engines.main]\nurl = \"sqlite:shop.db?mode=rwc\"\n\
             [repository]\nurl = \"backups\"\npack_size = \"1 MiB\"\n{sections}"
        );
        std::fs::write(folder.path().join("dm.toml"), configuration).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of `dm`, which nobody has started yet.
    pub(crate) fn dm(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dm"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null());
        if let Some(folder) = std::env::var_os("TMPDIR") {
            command.env("TMPDIR", folder);
        }
        command
    }

    /// Starts `dm`, to be killed.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(self.dm(args), self.path("log"))
    }

    /// Runs `dm` to its good end; gives what it printed.
    #[track_caller]
    pub(crate) fn succeeds(&self, args: &[&str]) -> String {
        let ran = self.dm(args).output().unwrap();
        assert!(ran.status.success(), "dm {}: {}", args.join(" "), said(&ran));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// The same, as a document.
    #[track_caller]
    pub(crate) fn document(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.succeeds(&args)).unwrap()
    }

    /// The files of the repository.
    pub(crate) fn objects(&self) -> usize {
        files(&self.path("backups"))
    }
}

/// What a program said, and how it ended.
pub(crate) fn said(ran: &Output) -> String {
    format!(
        "{}\n{}{}",
        ran.status,
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    )
}

/// How many files are below a folder; those that go away meanwhile do not count.
pub(crate) fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            Ok(_) => 1,
            Err(_) => 0,
        })
        .sum()
}

/// A run under way. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program, to be killed; what it says goes to a file.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    /// `kill -9` as soon as the moment has come; gives whether it was still running.
    pub(crate) fn kill_when(mut self, what: &str, moment: impl Fn() -> bool) -> bool {
        let mut ended = None;
        dm_testkit::wait_until(what, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some() || moment()
        });
        if let Some(status) = ended {
            let log = std::fs::read_to_string(&self.log).unwrap();
            assert!(status.success(), "it failed before \"{what}\": {status}\n{log}");
            return false;
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
