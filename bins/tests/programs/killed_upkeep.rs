//! `kill -9` of what looks after backups: copying, writing anew, expiring. What stood is there, what is listed is whole, and the
//! next run finishes.

use serde_json::Value;

use crate::place::{Place, files, said};

const SETTINGS: &str = "[repository.secondary.offsite]\nurl = \"offsite\"\n\
    [repository.retention]\nkeep_last = 1\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\nmin_verified_full = 0\n\
    incremental_within = \"1 day\"\n";

/// Slowly enough to be killed in the middle: a pack takes half a second.
const SLOWLY: [&str; 2] = ["--rate-limit", "2 MiB"];

/// Eight MiB that nothing makes smaller.
const FILL: &str = "CREATE TABLE orders AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2600) \
                    SELECT i AS id, i * 7919 % 1000 AS total, randomblob(3000) AS note FROM n";
const TRUTH: &str = "SELECT sum(total * id) AS truth, count(*) AS rows FROM orders";

fn rows(place: &Place, extra: &[&str]) -> Vec<Value> {
    let list = place.document(&[&["backup", "list"], extra].concat());
    list["backups"].as_array().unwrap().clone()
}

fn id(row: &Value) -> String {
    row["id"].as_str().unwrap().to_owned()
}

fn run(place: &Place, kind: &str) -> String {
    let ran = place.document(&["backup", "run", "--kind", kind, "--no-copy"]);
    ran["backup_id"].as_str().unwrap().to_owned()
}

/// A backup restores to what the database says now.
fn restores(place: &Place, backup: &str, to: &str, truth: &str) {
    place.succeeds(&["restore", backup, "--to", to, "--yes"]);
    let copy = std::fs::read_to_string(place.path("dm.toml")).unwrap().replace("shop.db", to);
    std::fs::write(place.path("copy.toml"), copy).unwrap();
    assert_eq!(place.succeeds(&["--config", "copy.toml", "query", TRUTH, "--json"]), truth);
}

#[test]
fn a_killed_copy_rewriting_or_expiry_loses_nothing_and_is_finished_by_the_next() {
    let place = Place::sqlite(SETTINGS);
    place.succeeds(&["query", "--write", FILL]);
    let base = run(&place, "full");
    place.succeeds(&["query", "--write", "UPDATE orders SET total = total + 1 WHERE id % 7 = 0"]);
    let next = run(&place, "incremental");
    let truth = place.succeeds(&["query", TRUTH, "--json"]);

    copying(&place);
    rewriting(&place, &next, &truth);
    // A newer one takes the place of all of them.
    let newest = run(&place, "full");
    expiring(&place, &newest, &truth);
    assert!(
        rows(&place, &["--place", "offsite"]).iter().any(|row| id(row) == base),
        "each place forgets by itself"
    );
}

fn copying(place: &Place) {
    let there = || files(&place.path("offsite/backups"));
    let mut killed = 0;
    for more in [1, 2, 4] {
        let before = there();
        let run = place.start(&[&["backup", "copy"][..], &SLOWLY].concat());
        killed += usize::from(run.kill_when("objects in the copy", || there() >= before + more));
        if place.path("offsite/repository.json").exists() {
            // What the copy lists, it has.
            place.succeeds(&["backup", "verify", "--place", "offsite"]);
        }
    }
    assert!(killed >= 2, "only {killed} copies were killed");
    place.succeeds(&["backup", "copy"]);
    assert_eq!(rows(place, &["--place", "offsite"]).len(), 2);
    place.succeeds(&["backup", "verify", "--place", "offsite"]);
}

fn rewriting(place: &Place, old: &str, truth: &str) {
    let rewrite = ["backup", "rewrite", old, "--yes"];
    let mut killed = 0;
    for more in [2, 5] {
        let before = place.objects();
        let run = place.start(&[&rewrite[..], &SLOWLY].concat());
        killed += usize::from(run.kill_when("objects of the new one", || place.objects() >= before + more));
        let standing: Vec<Value> = rows(place, &[]);
        assert!(standing.iter().any(|row| id(row) == old || row["rewrites"] == old), "{standing:#?}");
        place.succeeds(&["backup", "verify"]);
    }
    assert!(killed >= 1, "no rewriting was killed");
    place.succeeds(&rewrite);
    let new = rows(place, &[]).into_iter().find(|row| row["rewrites"] == old).unwrap();
    restores(place, &id(&new), "rewritten.db", truth);
}

fn expiring(place: &Place, newest: &str, truth: &str) {
    let expire = ["backup", "expire", "--yes"];
    let marks = || files(&place.path("backups/tombstones"));
    let before = marks();
    let killed = place.start(&expire).kill_when("a mark", || marks() > before);
    place.succeeds(&["backup", "verify"]);
    let ran = place.dm(&expire).output().unwrap();
    // What has to wait for the dead one's lease is said, and goes with the next one.
    assert!(matches!(ran.status.code(), Some(0 | 8)), "killed before: {killed}; {}", said(&ran));
    let left: Vec<String> = rows(place, &[]).iter().map(id).collect();
    assert!(left.contains(&newest.to_owned()), "{left:?}");
    restores(place, newest, "newest.db", truth);
}
