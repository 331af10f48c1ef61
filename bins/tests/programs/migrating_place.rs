//! A folder with migrations and a configuration, in which the programs run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dm_testkit::postgres::{Options, Server};
use serde_json::Value;
use tempfile::TempDir;

use crate::place::said;

/// A folder with `dm.toml` and `migrations`, over one database.
pub(crate) struct Ground {
    pub(crate) folder: TempDir,
    pub(crate) server: Option<Server>,
}

impl Ground {
    /// Over a SQLite database that is there and empty.
    pub(crate) fn sqlite(settings: &str) -> Self {
        let ground = Self { folder: folder(), server: None };
        std::fs::write(ground.path("shop.db"), "").unwrap();
        ground.configure("shop.db", settings);
        ground
    }

    /// Over a database of a server of its own.
    pub(crate) fn postgres(major: u32, settings: &str) -> Option<Self> {
        let server = dm_testkit::require!(Server::private(major, &Options::default()), None);
        let ground = Self { folder: folder(), server: Some(server) };
        let url = ground.url();
        ground.configure(&url, settings);
        Some(ground)
    }

    pub(crate) fn url(&self) -> String {
        match &self.server {
            Some(server) => server.url("postgres"),
            None => format!("sqlite://{}", self.path("shop.db").display()),
        }
    }

    pub(crate) fn configure(&self, url: &str, settings: &str) {
        let bin_dir = self
            .server
            .as_ref()
            .map_or_else(String::new, |s| format!("bin_dir = \"{}\"\n", s.bin_dir().display()));
        let text = format!("[engines.main]\nurl = \"{url}\"\n{bin_dir}[migrate]\n{settings}\n");
        std::fs::write(self.path("dm.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of migrations.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path("migrations").join(name), text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("migrations").join(name)).unwrap();
    }

    /// A run of `dm migrate`, which nobody has started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_dm-migrate"), args)
    }

    /// A run of another of the programs.
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it to this exit code; gives everything that it said.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        let text = said(&ran);
        assert_eq!(ran.status.code(), Some(code), "dm-migrate {}: {text}", args.join(" "));
        text
    }

    /// The same as a document; the exit code may say that something is pending.
    #[track_caller]
    pub(crate) fn document(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.run(&args);
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&ran)))
    }

    /// What a judge says: the database's own client.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let mut command = match &self.server {
            Some(server) => {
                let mut command = Command::new(server.bin_dir().join("psql"));
                command.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url()]);
                command
            }
            None => {
                let mut command = Command::new("sqlite3");
                command.args(["-cmd", ".timeout 10000", self.path("shop.db").to_str().unwrap(), sql]);
                command
            }
        };
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{sql}: {}", said(&ran));
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("dm-migrate-").tempdir().unwrap();
    for name in ["migrations", "home"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

/// A program that the set-up of tests brings, or that is on the PATH.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/var/cache/dm-test/bin")]);
    let found = places.map(|p| p.join(name)).find(|p: &PathBuf| Path::is_file(p));
    dm_testkit::available(
        found.ok_or_else(|| dm_testkit::Unavailable::Missing(format!("{name} is not installed"))),
    )
}
