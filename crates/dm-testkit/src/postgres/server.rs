//! One server: made, started, stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::database::{self, Role, TestDatabase};
use super::{Install, place, shared};
use crate::throwaway::{Folder, START_DEADLINE, Servant, free_port};
use crate::{Failure, Unavailable};

pub(super) const SUPERUSER: &str = "postgres";

/// What a server is started with beyond the harness's own settings.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines of `postgresql.conf`, as name and value; a later one of a name wins.
    pub settings: Vec<(String, String)>,
    /// More arguments for `initdb`, for example `--no-data-checksums`.
    pub initdb_args: Vec<String>,
}

impl Options {
    /// What physical backups ask of a server: page checksums, full page writes, WAL summaries where the major has them.
    /// Commits are synchronous (without fsync still): after an asynchronous one VACUUM finds rows not yet all-visible, and
    /// visibility maps stay empty.
    #[must_use]
    pub fn physical(major: u32) -> Self {
        let mut options = Self::default()
            .with_setting("full_page_writes", "on")
            .with_setting("synchronous_commit", "on")
            .with_setting("wal_level", "replica")
            .with_setting("max_wal_senders", "10")
            .with_setting("max_replication_slots", "10");
        options.initdb_args.push("--data-checksums".to_owned());
        if major >= 17 {
            options = options.with_setting("summarize_wal", "on");
        }
        options
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Connections are cut, everything is written.
    Fast,
    /// As if the power went: the next start recovers from the log.
    Immediate,
}

/// A throwaway server. A shared one stops with the test process, a private one when it is dropped.
#[derive(Debug)]
pub struct Server {
    install: Install,
    port: AtomicU16,
    password: String,
    data_dir: PathBuf,
    log: PathBuf,
    servant: Option<Servant>,
    folder: Option<Folder>,
    private: bool,
    /// Settings given on the command line, where the configuration file is not ours.
    overrides: Vec<(String, String)>,
}

impl Server {
    /// The server of this major that all tests of the process share (all of the run, under `scripts/test`). Tests
    /// take a database of it each, and must not stop it or change what belongs to the whole server.
    ///
    /// # Errors
    /// [`Unavailable::Missing`] when the major is not installed, [`Unavailable::Broken`] when it does not start.
    pub fn shared(major: u32) -> Result<&'static Self, Unavailable> {
        shared::server(major)
    }

    /// A server for one test, which may stop and restart it.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub fn private(major: u32, options: &Options) -> Result<Self, Unavailable> {
        let install = Install::find(major)?;
        let servant = Servant::find()?;
        let folder = Folder::new(&format!("pg{major}"), servant).map_err(broken)?;
        let mut server = Self::create(install, folder, options).map_err(broken)?;
        server.private = true;
        Ok(server)
    }

    /// Makes a cluster in the folder and starts it.
    pub(super) fn create(install: Install, folder: Folder, options: &Options) -> Result<Self, Failure> {
        let data_dir = folder.path().join("data");
        let server = Self {
            port: AtomicU16::new(0),
            password: format!("{:032x}", rand::random::<u128>()),
            log: folder.path().join("postgres.log"),
            servant: folder.servant(),
            data_dir,
            install,
            folder: Some(folder),
            private: false,
            overrides: Vec::new(),
        };
        server.keep_watch()?;
        let folder = server.folder.as_ref().ok_or_else(|| Failure("a new server has a folder".into()))?;
        server.initdb(folder, options)?;
        server.start_on_free_port(5)?;
        Ok(server)
    }

    /// Starts a server on a data directory that something else wrote: restored, combined, copied.
    ///
    /// The directory and its tablespaces are given to the user that servers run as; they must lie where that user
    /// gets to (a [`Place`](super::Place)), and are not removed. The superuser has the password of the cluster that it
    /// is a copy of. The server has its own port and log; it is started with `options`' settings, which win over the
    /// cluster's own files. It may still be in recovery when this returns
    /// ([`until_recovered`](Self::until_recovered)).
    ///
    /// # Errors
    /// [`Unavailable::Missing`] when the major is not installed, [`Unavailable::Broken`] with the end of its log when
    /// it does not start.
    pub fn on_directory(
        major: u32,
        data_dir: &Path,
        password: &str,
        options: &Options,
    ) -> Result<Self, Unavailable> {
        let install = Install::find(major)?;
        let servant = Servant::find()?;
        let folder = Folder::new(&format!("pg{major}"), servant).map_err(broken)?;
        let mut overrides: Vec<(String, String)> =
            [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", ""), ("fsync", "off")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
        overrides.extend(options.settings.iter().cloned());
        let server = Self {
            port: AtomicU16::new(0),
            password: password.to_owned(),
            log: folder.path().join("postgres.log"),
            servant,
            data_dir: data_dir.to_owned(),
            install,
            folder: Some(folder),
            private: true,
            overrides,
        };
        place::give_cluster(servant, data_dir).map_err(broken)?;
        server.keep_watch().map_err(broken)?;
        server.start_on_free_port(5).map_err(broken)?;
        Ok(server)
    }

    /// From here on nothing is left behind, whatever happens to this process.
    fn keep_watch(&self) -> Result<(), Failure> {
        let Some(folder) = &self.folder else { return Ok(()) };
        folder.watch(
            &[
                self.install.program("pg_ctl").display().to_string(),
                "stop".into(),
                "--pgdata".into(),
                self.data_dir.display().to_string(),
                "--mode=immediate".into(),
                "--silent".into(),
            ],
            false,
        )?;
        Ok(())
    }

    /// A server that another process of the run started.
    pub(super) fn attach(install: Install, port: u16, password: String, home: &Path) -> Self {
        Self {
            install,
            port: AtomicU16::new(port),
            password,
            data_dir: home.join("data"),
            log: home.join("postgres.log"),
            servant: None,
            folder: None,
            private: false,
            overrides: Vec::new(),
        }
    }

    fn initdb(&self, folder: &Folder, options: &Options) -> Result<(), Failure> {
        let password_file = folder.path().join("password");
        fs::write(&password_file, &self.password)
            .map_err(|e| Failure(format!("cannot write the password: {e}")))?;
        if self.servant.is_some() {
            // The folder is closed to everybody else, so this opens the file to the servant alone.
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&password_file, fs::Permissions::from_mode(0o644))
                .map_err(|e| Failure(format!("cannot open the password to the server: {e}")))?;
        }
        let mut initdb = self.command("initdb");
        initdb
            .arg("--pgdata")
            .arg(&self.data_dir)
            .args(["--username", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"])
            .arg("--no-sync")
            .arg("--pwfile")
            .arg(&password_file)
            .args(&options.initdb_args);
        run(initdb)?;
        let mut conf = String::from(
            "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\nsynchronous_commit = off\n\
             full_page_writes = off\nmax_prepared_transactions = 10\nmax_connections = 200\ntimezone = 'UTC'\n\
             shared_buffers = '64MB'\nlc_messages = 'C'\n",
        );
        for (name, value) in &options.settings {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let path = self.data_dir.join("postgresql.conf");
        let mut text =
            fs::read_to_string(&path).map_err(|e| Failure(format!("cannot read postgresql.conf: {e}")))?;
        text.push_str(&conf);
        fs::write(&path, text).map_err(|e| Failure(format!("cannot write postgresql.conf: {e}")))
    }

    fn start_on_free_port(&self, tries: u32) -> Result<(), Failure> {
        let mut last = Failure("never tried".into());
        for _ in 0..tries {
            self.port.store(free_port()?, Ordering::Relaxed);
            match self.start() {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Starts a stopped server on the port it had; returns when it takes connections.
    ///
    /// # Errors
    /// With the end of the server's log.
    pub fn start(&self) -> Result<(), Failure> {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl
            .args(["start", "--wait", "--silent"])
            .arg(format!("--timeout={}", START_DEADLINE.as_secs()))
            .arg("--pgdata")
            .arg(&self.data_dir)
            .arg("--log")
            .arg(&self.log)
            .arg("--options")
            .arg(self.postgres_options());
        run(pg_ctl).map(drop).map_err(|error| Failure(format!("{error}\n{}", self.log_tail())))
    }

    /// For pg_ctl, which hands them to a shell.
    fn postgres_options(&self) -> String {
        let mut options = format!("-p {}", self.port());
        for (name, value) in &self.overrides {
            options.push_str(&format!(" -c '{name}={}'", value.replace('\'', r"'\''")));
        }
        options
    }

    /// Stops the server; returns when it is down.
    ///
    /// # Errors
    /// When it was not running or does not stop.
    pub fn stop(&self, mode: StopMode) -> Result<(), Failure> {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.args(["stop", "--wait", "--silent"]).arg("--pgdata").arg(&self.data_dir).arg(match mode {
            StopMode::Fast => "--mode=fast",
            StopMode::Immediate => "--mode=immediate",
        });
        run(pg_ctl).map(drop)
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&self, mode: StopMode) -> Result<(), Failure> {
        self.stop(mode)?;
        self.start()
    }

    /// A fresh database of a name that begins with this one; dropped with the value.
    ///
    /// # Errors
    /// With what the server said.
    pub async fn database(&self, name: &str) -> Result<TestDatabase, Failure> {
        database::create(self.access(SUPERUSER, &self.password), &self.install, name).await
    }

    /// A fresh role that may log in, with a password and these attributes (`NOSUPERUSER CREATEDB` ...).
    ///
    /// Roles belong to the whole server: the name gets a random ending.
    ///
    /// # Errors
    /// With what the server said.
    pub async fn role(&self, name: &str, attributes: &str) -> Result<Role, Failure> {
        database::create_role(&self.access(SUPERUSER, &self.password), &self.install, name, attributes).await
    }

    /// Runs SQL as the superuser in the database `postgres`.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn psql(&self, sql: &str) -> Result<String, Failure> {
        self.psql_in("postgres", sql).await
    }

    /// Runs SQL as the superuser in a database.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn psql_in(&self, database: &str, sql: &str) -> Result<String, Failure> {
        database::psql(&self.install, &self.access(SUPERUSER, &self.password), database, sql).await
    }

    /// A client program of the server's major, with the superuser's connection to a database in its environment.
    #[must_use]
    pub fn program(&self, name: &str, database: &str) -> tokio::process::Command {
        database::client(&self.install, name, &self.access(SUPERUSER, &self.password), database)
    }

    /// The programs that it runs from.
    #[must_use]
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// The superuser's URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.access(SUPERUSER, &self.password).url(database)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.install.major()
    }

    /// The folder of the major's programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        self.install.bin_dir()
    }

    /// The cluster's files.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process id of the postmaster.
    ///
    /// # Errors
    /// When the server is not running.
    pub fn pid(&self) -> Result<u32, Failure> {
        let path = self.data_dir.join("postmaster.pid");
        fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.lines().next().and_then(|line| line.trim().parse().ok()))
            .ok_or_else(|| Failure("the server is not running".into()))
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The whole of the server's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String, Failure> {
        fs::read_to_string(&self.log).map_err(|e| Failure(format!("cannot read {}: {e}", self.log.display())))
    }

    pub(super) fn home(&self) -> Option<&Path> {
        self.folder.as_ref().map(Folder::path)
    }

    fn access(&self, user: &str, password: &str) -> database::Access {
        database::Access { port: self.port(), user: user.to_owned(), password: password.to_owned() }
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.install.program(program));
        command.current_dir("/").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Servant::apply(self.servant, &mut command);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watchdog would do it; doing it here frees the memory before the next test starts. It may be down
        // already, so a failure means nothing.
        if self.private {
            let _ = self.stop(StopMode::Immediate);
        }
    }
}

pub(super) fn broken(error: Failure) -> Unavailable {
    Unavailable::broken(error.0)
}

/// Runs a program to its end; gives what it printed.
pub(super) fn run(mut command: Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Failure(format!("cannot run {program}: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure(format!(
        "{program} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}
