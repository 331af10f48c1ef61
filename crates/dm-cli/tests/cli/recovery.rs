//! Restores to a point, with questions and commands of the application's own; drills.

use dm_cli::Exit;

use crate::harness::{Place, golden, regex_escape};

/// This instant, so finely that it lies between two backups one right after the other.
fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%d %H:%M:%S%.6fZ").to_string()
}

#[test]
fn an_instant_means_the_newest_backup_at_or_before_it() {
    let place = Place::with_shop();
    let first = place.backup("full");
    let between = now();
    place.statement("DELETE FROM orders");
    place.backup("full");
    let to = place.path("before.db");
    let ran =
        place.dm(&["restore", "--at", &between, "--to", to.to_str().unwrap(), "--json"]).expect(Exit::Done);
    let ran = ran.json();
    assert_eq!(ran["backup_id"], first.as_str());
    assert!(ran["report"]["recovery"]["loss"]["lost_ms"].is_u64(), "{ran}");
    assert!(ran["report"]["recovery"]["rto_ms"].is_u64(), "{ran}");
    let again = place.path("again.db");
    let ran = place
        .dm(&["restore", "--at", &between, "--to", again.to_str().unwrap(), "--dry-run"])
        .expect(Exit::Done);
    golden!(place, "page-restore-plan-at", ran.stdout);
}

#[test]
fn points_that_make_no_sense_are_refused() {
    let place = Place::with_shop();
    place.backup("full");
    for (name, at) in [("future", "2999-01-01 00:00"), ("nonsense", "yesterday"), ("date", "2026-11-20")] {
        let ran = place.dm(&["restore", "latest", "--at", at]).expect(Exit::Usage);
        golden!(place, format!("error-restore-at-{name}"), ran.stderr);
    }
    place.dm(&["restore", "latest", "--exclusive"]).expect(Exit::Usage);
    place.dm(&["restore", "latest", "--at", "end", "--lsn", "0/1"]).expect(Exit::Usage);
    // Before there was anything.
    let ran = place.dm(&["restore", "--at", "2020-01-01 00:00"]);
    assert_ne!(ran.exit, Exit::Done);
    golden!(place, "error-restore-at-before-all", ran.stderr);
}

#[test]
fn questions_are_asked_before_anybody_else_may_connect() {
    let place = Place::with_shop();
    place.backup("full");
    let to = place.path("asked.db");
    let good = "orders: SELECT count(*) FROM orders [>= 4]";
    let ran =
        place.dm(&["restore", "latest", "--to", to.to_str().unwrap(), "--check", good]).expect(Exit::Done);
    golden!(place, "page-restore-run-checked", ran.stdout);
    let wrong = place.path("wrong.db");
    let bad = "nobody: SELECT count(*) FROM users [0]";
    let ran = place
        .dm(&["restore", "latest", "--to", wrong.to_str().unwrap(), "--check", good, "--check", bad])
        .expect(Exit::CheckFailed);
    golden!(place, "error-restore-check", ran.stderr);
    assert!(!wrong.exists());
    // Whoever looked and found it right after all opens it by the name that the error gave.
    let sealed = crate::harness::files(&place.path(""))
        .into_iter()
        .find(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".wrong.db")))
        .unwrap();
    let ran = place.dm(&["restore", "release", sealed.to_str().unwrap()]).expect(Exit::Done);
    golden!(place, "page-restore-release", ran.stdout);
    assert!(wrong.exists());
    let ran = place.dm(&["restore", "latest", "--check", "empty: "]).expect(Exit::Usage);
    golden!(place, "error-restore-check-empty", ran.stderr);
    place.dm(&["restore", "latest", "--check", "x: SELECT 1 [>=]"]).expect(Exit::Usage);
}

#[test]
fn questions_and_commands_of_the_configuration() {
    let place = Place::with_shop();
    let recovery = "[recovery]\nstop_command = \"echo stop $DM_PHASE >> calls\"\nstart_command = \"echo start $DM_OUTCOME >> calls\"\n\
        [recovery.check.orders]\nsql = \"SELECT count(*) FROM orders\"\nexpect = \">= 4\"\n";
    let folder = place.path("").display().to_string();
    place.write("dm.toml", &place.configuration(&recovery.replace("calls", &format!("{folder}calls"))));
    place.backup("full");
    // Beside what stands there, nobody is stopped.
    let to = place.path("beside.db");
    let ran = place.dm(&["restore", "latest", "--to", to.to_str().unwrap(), "--json"]).expect(Exit::Done);
    assert_eq!(ran.json()["report"]["assertions"][0]["ok"], true);
    assert!(!place.path("calls").exists());
    let ran = place.dm(&["restore", "latest", "--in-place", "--yes"]).expect(Exit::Done);
    golden!(place, "page-restore-run-in-place", ran.stdout);
    assert_eq!(std::fs::read_to_string(place.path("calls")).unwrap(), "stop stop\nstart restored\n");
    // A wrong form is told with the line, as for every setting.
    place.write("dm.toml", &place.configuration("[recovery.check.orders]\nexpct = \">= 4\"\n"));
    let ran = place.dm(&["status"]).expect(Exit::Usage);
    golden!(place, "error-misspelt-check", ran.stderr);
}

#[test]
fn a_rehearsal_leaves_nothing_behind() {
    let place = Place::with_shop();
    place.backup("full");
    let to = place.path("rehearsed.db");
    let ran = place
        .dm(&["restore", "latest", "--to", to.to_str().unwrap(), "--rehearse", "--json"])
        .expect(Exit::Done)
        .json();
    assert_eq!(ran["report"]["equal"], true);
    assert_eq!(ran["report"]["released"], false);
    assert!(!to.exists());
}

#[test]
fn a_drill_proves_a_backup_and_leaves_nothing_behind() {
    let place = Place::with_shop();
    place.backup("full");
    let before = crate::harness::files(&place.path(""));
    let ran =
        place.dm(&["backup", "drill", "--check", "users: SELECT count(*) FROM users [3]"]).expect(Exit::Done);
    golden!(place, "page-drill", ran.stdout);
    let ran = place.dm(&["backup", "drill", "--json"]).expect(Exit::Done);
    golden!(place, "json-drill-run", ran.stdout);
    assert_eq!(crate::harness::files(&place.path("")).len(), before.len());
    let ran = place.dm(&["status"]).expect(Exit::Done);
    golden!(place, "page-status-drilled", ran.stdout);
    let ran = place
        .dm(&["backup", "drill", "--assert", "users: SELECT count(*) FROM users [0]"])
        .expect(Exit::CheckFailed);
    golden!(place, "page-drill-failed", ran.stdout);
    place.dm(&["status"]).expect(Exit::CheckFailed);
}

#[test]
fn there_is_nothing_to_release() {
    let place = Place::with_shop();
    let nowhere = place.path("nowhere.db");
    let ran = place.dm(&["restore", "release", nowhere.to_str().unwrap()]);
    assert_ne!(ran.exit, Exit::Done);
    golden!(place, "error-restore-release", ran.stderr);
}
