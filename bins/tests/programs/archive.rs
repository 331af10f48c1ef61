//! A server that archives its log through `dm-log push`, and one that recovers through `dm-log fetch`: PostgreSQL calls the
//! programs, and decides by how they end.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::require;

use crate::place::said;

/// The programs, a repository and a configuration, where the servers' user gets to.
struct Archive {
    ground: Ground,
    folder: PathBuf,
}

impl Archive {
    fn new(ground: Ground) -> Self {
        let folder = ground.folder("archive").unwrap();
        for program in [env!("CARGO_BIN_EXE_dm"), env!("CARGO_BIN_EXE_dm-log")] {
            let program = PathBuf::from(program);
            let here = ground.join(program.file_name().unwrap().to_str().unwrap());
            if std::fs::hard_link(&program, &here).is_err() {
                std::fs::copy(&program, &here).unwrap();
            }
        }
        Self { ground, folder }
    }

    fn configure(&self, server: &Server) {
        for (file, repository) in [("dm.toml", "backups"), ("away.toml", "away")] {
            let configuration = format!(
                "[engines.main]\nurl = \"{}\"\nbin_dir = \"{}\"\n\
                 [repository]\nurl = \"{}\"\n[backup]\nmode = \"physical\"\nverify_after = \"off\"\n",
                server.url("postgres"),
                server.bin_dir().display(),
                self.folder.join(repository).display()
            );
            std::fs::write(self.folder.join(file), configuration).unwrap();
        }
    }

    /// A command line for the server's settings.
    fn command(&self, arguments: &str) -> String {
        let (program, configuration) = (self.ground.join("dm-log"), self.folder.join("dm.toml"));
        format!("{} {arguments} --config {}", program.display(), configuration.display())
    }

    /// Runs `dm` to its good end, as the user that servers run as.
    fn dm(&self, args: &[&str]) {
        let mut command = Command::new(self.ground.join("dm"));
        command.args(args).current_dir(&self.folder).env("HOME", &self.folder).stdin(Stdio::null());
        self.ground.as_server(&mut command);
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "dm {}: {}", args.join(" "), said(&ran));
    }

    /// Takes the repository away, or gives it back.
    fn reachable(&self, reachable: bool) {
        let (here, gone) = (self.folder.join("backups"), self.folder.join("gone"));
        let (from, to) = if reachable { (gone, here) } else { (here, gone) };
        std::fs::rename(from, to).unwrap();
    }

    /// A restore_command whose store is away from the fourth call on, as long as the file `broken` is there.
    fn breaking(&self) -> String {
        let script = self.folder.join("fetch.sh");
        let text = format!(
            "cd {}; echo >> calls\nconfig=dm.toml\n\
             [ -e broken ] && [ $(wc -l < calls) -gt 3 ] && config=away.toml\n\
             cd \"$OLDPWD\"; exec {} fetch \"$1\" \"$2\" --config {}/$config\n",
            self.folder.display(),
            self.ground.join("dm-log").display(),
            self.folder.display()
        );
        std::fs::write(&script, text).unwrap();
        format!("sh {} %f %p", script.display())
    }
}

/// Everything that the server has written until now is archived.
async fn archived(server: &Server) {
    let last =
        server.psql("SELECT pg_walfile_name(lsn) FROM (SELECT pg_switch_wal() - 1 AS lsn) s").await.unwrap();
    let question = format!("SELECT coalesce(last_archived_wal >= '{last}', false) FROM pg_stat_archiver");
    server.until("the log to be archived", &question).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_archives_and_recovers_through_the_programs_of_15() {
    Box::pin(archives_and_recovers(15)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_archives_and_recovers_through_the_programs_of_18() {
    Box::pin(archives_and_recovers(18)).await;
}

async fn archives_and_recovers(major: u32) {
    let archive = Archive::new(require!(Ground::new("archive")));
    let mut options = Options::physical(major).with_setting("archive_mode", "on");
    options.initdb_args.push("--wal-segsize=1".to_owned());
    let server = require!(Server::private(major, &options));
    archive.configure(&server);
    server.pgbench_database("bank", 1).await.unwrap();
    // The first run makes the repository.
    archive.dm(&["backup", "run"]);
    let push = archive.command("push %p");
    server.psql(&format!("ALTER SYSTEM SET archive_command = '{push}'")).await.unwrap();
    server.psql("SELECT pg_reload_conf()").await.unwrap();
    archive.dm(&["backup", "run"]);

    let load = server.load("bank", 2, Duration::from_secs(3)).unwrap();
    load.finish().await.unwrap();
    archived(&server).await;
    // The store is away for a while: the server keeps its log, tells that archiving fails, and tries again.
    archive.reachable(false);
    let load = server.load("bank", 2, Duration::from_secs(2)).unwrap();
    load.finish().await.unwrap();
    server.psql("SELECT pg_switch_wal()").await.unwrap();
    server.until("a failure to archive", "SELECT failed_count > 0 FROM pg_stat_archiver").await.unwrap();
    archive.reachable(true);
    server.psql("SELECT pg_create_restore_point('here')").await.unwrap();
    let truth = server.fingerprint().await.unwrap();
    server.load("bank", 1, Duration::from_secs(1)).unwrap().finish().await.unwrap();
    archived(&server).await;

    let to = archive.folder.join("copy");
    archive.dm(&["restore", "latest", "--to", to.to_str().unwrap(), "--checks", "none", "--yes"]);
    let recovering = Options::default()
        .with_setting("archive_mode", "off")
        .with_setting("recovery_target", "")
        .with_setting("recovery_target_name", "here")
        .with_setting("recovery_target_timeline", "latest")
        .with_setting("recovery_target_action", "promote")
        .with_setting("restore_command", archive.breaking());
    std::fs::write(archive.folder.join("broken"), "").unwrap();
    // The store goes away in the middle of the recovery: the server ends, and is no shorter database.
    if let Ok(copy) = Server::on_directory(major, &to, server.password(), &recovering) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while copy.psql("SELECT 1").await.is_ok() {
            assert!(std::time::Instant::now() < deadline, "it goes on without its log: {}", copy.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(!to.join("pg_wal/00000002.history").exists(), "it was promoted short");
    assert!(to.join("recovery.signal").exists());
    std::fs::remove_file(archive.folder.join("broken")).unwrap();

    let copy = Server::on_directory(major, &to, server.password(), &recovering).unwrap();
    copy.until_recovered().await.unwrap();
    let log = copy.log().unwrap();
    assert!(log.contains("recovery stopping at restore point \"here\""), "{log}");
    let differences = copy.fingerprint().await.unwrap().differences(&truth);
    assert!(differences.is_empty(), "{differences:#?}");
    copy.amcheck().await.unwrap();
}
