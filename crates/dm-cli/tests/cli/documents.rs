//! The JSON documents, which are a contract, and their pages for people.

use dm_cli::Exit;
use serde_json::Value;

use crate::harness::{Place, golden, regex_escape};

#[test]
fn the_life_of_a_backup() {
    let place = Place::with_shop();
    let show = |name: &str, args: &[&str]| {
        let person = place.dm(args).expect(Exit::Done);
        golden!(place, format!("page-{name}"), person.stdout);
        let json: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let program = place.dm(&json).expect(Exit::Done);
        golden!(place, format!("json-{name}"), program.stdout);
    };
    show("backup-preflight", &["backup", "run", "--dry-run", "--quiet"]);
    let ran = place.dm(&["backup", "run", "--json"]).expect(Exit::Done);
    golden!(place, "json-backup-run", ran.stdout);
    let ran = place.dm(&["backup", "run", "--kind", "incremental", "--no-verify"]).expect(Exit::Done);
    golden!(place, "page-backup-run", ran.stdout);
    show("verifications", &["backup", "verify", "--level", "full"]);
    show("backups", &["backup", "list"]);
    show("backup", &["backup", "show", "latest"]);
    show("sizes", &["backup", "size"]);
    show("pin", &["backup", "pin", "latest", "--reason", "ticket 7"]);
    show("unpin", &["backup", "unpin", "latest"]);
    show("expire-plan", &["backup", "expire", "--dry-run", "--keep-daily", "1"]);
    show("expire-run", &["backup", "expire", "--yes"]);
    let export = place.path("export");
    let ran =
        place.dm(&["backup", "export", "latest", export.to_str().unwrap(), "--json"]).expect(Exit::Done);
    golden!(place, "json-export", ran.stdout);
    let to = place.path("restored.db");
    show("restore-plan", &["restore", "latest", "--to", to.to_str().unwrap(), "--dry-run"]);
    let ran = place.dm(&["restore", "latest", "--to", to.to_str().unwrap(), "--json"]).expect(Exit::Done);
    golden!(place, "json-restore-run", ran.stdout);
    let ran =
        place.dm(&["restore", "latest", "--to", place.path("again.db").to_str().unwrap()]).expect(Exit::Done);
    golden!(place, "page-restore-run", ran.stdout);
    show("status", &["status"]);
}

#[test]
fn the_audit_trail() {
    let place = Place::with_shop();
    place.backup("full");
    let ran = place.dm(&["audit", "log", "--action", "backup:", "--json"]).expect(Exit::Done);
    golden!(place, "json-audit-events", ran.stdout);
    let ran = place.dm(&["audit", "verify", "--json"]).expect(Exit::Done);
    let document = ran.json();
    assert_eq!(document["verification"]["ok"], true);
    let ran = place.dm(&["audit", "verify"]).expect(Exit::Done);
    assert!(ran.stdout.contains("the audit trail is whole"), "{}", ran.stdout);
    // A head noted before still stands in the trail.
    let head = ran.stdout.lines().find_map(|l| l.trim().strip_prefix("head")).unwrap().trim().to_owned();
    place.dm(&["audit", "verify", "--from", &head]).expect(Exit::Done);
    let cut = format!("999999:{}", &head[head.find(':').unwrap() + 1..]);
    place.dm(&["audit", "verify", "--from", &cut]).expect(Exit::CheckFailed);
}

#[test]
fn lines_are_the_items_of_the_list() {
    let place = Place::with_shop();
    place.backup("full");
    place.backup("full");
    let list = place.dm(&["backup", "list", "--json"]).expect(Exit::Done).json();
    let lines = place.dm(&["backup", "list", "--json-lines"]).expect(Exit::Done);
    let lines: Vec<Value> = lines.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(Value::Array(lines), list["backups"]);
    let events = place.dm(&["audit", "log", "--json-lines", "--limit", "3"]).expect(Exit::Done);
    assert_eq!(events.stdout.lines().count(), 3);
}

#[test]
fn rows_of_a_query() {
    let place = Place::with_shop();
    let sql =
        "SELECT u.name, o.cents FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id < ? ORDER BY o.id";
    let ran = place.dm(&["query", sql, "--param", "3"]).expect(Exit::Done);
    golden!(place, "page-rows", ran.stdout);
    let ran = place.dm(&["query", sql, "--param", "3", "--json"]).expect(Exit::Done);
    golden!(place, "json-rows", ran.stdout);
    let ran = place.dm(&["query", sql, "--param", "3", "--json-lines"]).expect(Exit::Done);
    golden!(place, "json-lines-rows", ran.stdout);
    let ran = place
        .dm(&["query", "UPDATE users SET name = 'x' WHERE id = 1", "--write", "--json"])
        .expect(Exit::Done);
    golden!(place, "json-change", ran.stdout);
}

#[test]
fn the_set_up() {
    let mut place = Place::empty();
    place.set("DATABASE_URL", &format!("sqlite:{}?mode=rwc", place.path("shop.db").display()));
    let ran = place.dm(&["init", "--encrypt", "--json"]).expect(Exit::Done);
    golden!(place, "json-init", ran.stdout);
    let written = std::fs::read_to_string(place.path("dm.toml")).unwrap();
    assert!(written.contains("url = \"${DATABASE_URL}\""), "{written}");
    let ran = place.dm(&["backup", "key", "new", "--out", "other.key", "--json"]).expect(Exit::Done);
    golden!(place, "json-key", ran.stdout);
    place.dm(&["backup", "key", "new", "--out", "other.key"]).expect(Exit::Failed);
    place.statement("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let ran = place.dm(&["doctor", "--json"]).expect(Exit::Done).json();
    assert_eq!(ran["schema"], "dm.doctor/1");
    assert!(
        ran["settings"].as_array().unwrap().iter().all(|s| s["key"].is_string() && s["source"].is_string())
    );
    let ran = place.dm(&["doctor", "-v"]).expect(Exit::Done);
    assert!(ran.stdout.contains("environment DATABASE_URL"), "{}", ran.stdout);
}
