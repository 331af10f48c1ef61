//! `kill -9` of a whole run: what comes after it finds everything as if the run had not been.

use std::path::Path;
use std::time::{Duration, Instant};

use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::require;

use crate::place::{Place, files, said};

/// About 20 MB that do not compress much, in two tablespaces, and a bank.
async fn filled(server: &Server, ground: &Ground) {
    let space = ground.folder("space").unwrap();
    server.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display())).await.unwrap();
    let fill =
        "SELECT i, md5(random()::text) || md5(random()::text) AS word FROM generate_series(1, 60000) i";
    server
        .psql(&format!("CREATE TABLE here AS {fill}; CREATE TABLE there TABLESPACE space AS {fill}"))
        .await
        .unwrap();
    server.pgbench_database("bank", 1).await.unwrap();
}

/// The server has ended what the dead run had there: its slot keeps no log, its session no backup.
async fn nothing_is_held(server: &Server) {
    server
        .until("the dead run's sessions to end", "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (application_name LIKE 'dm%' OR query LIKE '%pg_backup_start%')")
        .await
        .unwrap();
    let held = server
        .psql("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE slot_name <> 'dm_log'")
        .await
        .unwrap();
    assert_eq!(held, "", "slots of dead runs");
}

fn backups(place: &Place) -> usize {
    // Killed before it had made the repository.
    let ran = place.dm(&["backup", "list"]).output().unwrap();
    if !ran.status.success() && said(&ran).contains("there is no repository here") {
        return 0;
    }
    place.document(&["backup", "list"])["backups"].as_array().unwrap().len()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_at_any_moment_can_be_run_again() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let ground = require!(Ground::new("killed"));
    filled(&server, &ground).await;
    let place = Place::of(&server);
    backing_up(&server, &place).await;
    shipping(&server, &place).await;
    let truth = server.fingerprint().await.unwrap();
    let to = restoring(&server, &place, &ground);
    let copy = Server::on_directory(15, &to, server.password(), &Options::physical(15)).unwrap();
    copy.until_recovered().await.unwrap();
    let differences = copy.fingerprint().await.unwrap().differences(&truth);
    assert!(differences.is_empty(), "{differences:#?}");
    copy.amcheck().await.unwrap();
}

/// Killed when it has begun, when it has stored so many objects, and when it is about to commit.
async fn backing_up(server: &Server, place: &Place) {
    let run = ["backup", "run", "--rate-limit", "16 MiB"];
    let mut killed = 0;
    for more in [1, 3, 6, 10, 14] {
        let load = server.load("bank", 1, Duration::from_secs(60)).unwrap();
        let before = place.objects();
        killed += usize::from(
            place.start(&run).kill_when("objects in the repository", || place.objects() >= before + more),
        );
        load.stop().await.unwrap();
        nothing_is_held(server).await;
        let all = backups(place);
        assert!(killed + all >= 1, "a killed run is listed");
    }
    assert!(killed >= 3, "only {killed} runs were killed");
    let before = backups(place);
    place.succeeds(&["backup", "run"]);
    assert_eq!(backups(place), before + 1);
    // By the time: the end of a run is where objects are few.
    let began = Instant::now();
    place.succeeds(&["backup", "run", "--kind", "incremental"]);
    let whole = began.elapsed();
    for part in [50, 80, 95] {
        let before = backups(place);
        let began = Instant::now();
        let killed = place
            .start(&["backup", "run", "--kind", "incremental"])
            .kill_when("the moment", || began.elapsed() >= whole * part / 100);
        nothing_is_held(server).await;
        // Killed behind its commit it may be there, whole.
        let after = backups(place);
        assert!(after == before + usize::from(!killed) || after == before + 1, "{before}, then {after}");
    }
    place.succeeds(&["backup", "run", "--kind", "incremental"]);
    place.succeeds(&["backup", "verify"]);
}

/// Killed while a bank is at work; whoever comes next goes on without a gap.
async fn shipping(server: &Server, place: &Place) {
    let load = server.load("bank", 2, Duration::from_secs(60)).unwrap();
    for more in [1, 2, 4] {
        let before = files(&place.path("backups/logs"));
        let killed = place
            .start(&["log", "ship"])
            .kill_when("pieces of log", || files(&place.path("backups/logs")) >= before + more);
        assert!(killed, "shipping has no end");
    }
    load.stop().await.unwrap();
    // What was committed last is in, when shipping says that it has caught up.
    server.psql("INSERT INTO here VALUES (0, 'the last')").await.unwrap();
    place.succeeds(&["log", "ship", "--once"]);
    let status = place.document(&["log", "status"]);
    let stream = &status["logs"][0]["streams"][0];
    assert_eq!(stream["spans"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(stream["gaps"].as_array().map(Vec::len), Some(0), "{status:#}");
    let slots = server.psql("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots").await.unwrap();
    assert_eq!(slots, "dm_log");
}

/// Killed while the files are written, while its server replays the log, and while that is asked.
fn restoring(server: &Server, place: &Place, ground: &Ground) -> std::path::PathBuf {
    let folder = ground.folder("restored").unwrap();
    let to = folder.join("copy");
    let bin_dir = format!("bin_dir={}", server.bin_dir().display());
    let run = ["restore", "--at", "end", "--to", to.to_str().unwrap(), "--yes", "--set", &bin_dir];
    let slow: Vec<&str> = run.iter().copied().chain(["--rate-limit", "16 MiB"]).collect();
    let sealed = || {
        let own = |name: &String| name.starts_with("copy.dm-restore-");
        names(&folder).into_iter().filter(own).map(|name| folder.join(name)).collect::<Vec<_>>()
    };
    let any = |moment: &dyn Fn(&Path) -> bool| sealed().iter().any(|folder| moment(folder));
    let moments: [Moment<'_>; 5] = [
        ("the place", &|_| true),
        ("its first files", &|place| files(place) > 20),
        ("the tablespace's files", &|_| files(&folder.join("copy_tablespaces")) > 0),
        ("the control file", &|place| place.join("global/pg_control").exists()),
        ("a server in it", &|place| place.join("postmaster.pid").exists()),
    ];
    for (what, moment) in moments {
        let killed = place.start(&slow).kill_when(what, || any(&moment));
        assert!(killed, "{what}: the restore was over before");
        assert!(!to.exists(), "{what}: a restore that was killed has the name");
        let left = sealed();
        assert_eq!(left.len(), 1, "{what}: only the last one's place is left: {left:?}");
        // Its server does not live on without it.
        dm_testkit::wait_until("the restored server to end", || !runs(&left[0]));
        let error = place.dm(&["restore", "release", left[0].to_str().unwrap(), "--yes"]).output().unwrap();
        assert!(!error.status.success(), "{what}: half a restore was released");
        let plan = place.succeeds(&[&run[..], &["--dry-run"]].concat());
        assert!(plan.contains(left[0].to_str().unwrap()), "{what}: the plan does not name it:\n{plan}");
    }
    place.succeeds(&run);
    assert_eq!(names(&folder), ["copy", "copy_tablespaces"]);
    to
}

/// What a restore's place shows when it is killed.
type Moment<'a> = (&'static str, &'a dyn Fn(&Path) -> bool);

/// Whether a server runs in a data directory.
fn runs(data_dir: &Path) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let folder = std::fs::read_link(process.path().join("cwd"));
        folder.is_ok_and(|folder| folder == data_dir)
    })
}
