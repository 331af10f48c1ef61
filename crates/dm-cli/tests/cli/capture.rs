//! Recorded changes, from the application's database into the trail; and who read what.

use dm_cli::Exit;
use serde_json::Value;

use crate::harness::{Place, golden, regex_escape};

/// As an application writes, with a library of its own.
fn application(place: &Place, sql: &str) {
    place.statement(sql);
}

fn changes(place: &Place) -> Vec<Value> {
    let ran = place.dm(&["audit", "log", "--kind", "change", "--json"]).expect(Exit::Done).json();
    let mut events = ran["events"].as_array().unwrap().clone();
    events.reverse();
    events
}

#[test]
fn changes_are_recorded_taken_over_once_and_sealed() {
    let place = Place::with_shop();
    let ran = place.dm(&["audit", "capture", "status"]).expect(Exit::Done);
    golden!(place, "page-capture-status-nothing", ran.stdout);
    let ran = place.dm(&["audit", "capture", "install", "users", "--mask", "name"]).expect(Exit::Done);
    golden!(place, "page-capture-install", ran.stdout);
    application(&place, "INSERT INTO users (name) VALUES ('Barbara')");
    application(&place, "UPDATE users SET name = 'Ada L.' WHERE id = 1");
    let ran = place.dm(&["audit", "capture", "status"]).expect(Exit::Done);
    golden!(place, "page-capture-status", ran.stdout);
    let ran = place.dm(&["audit", "capture", "status", "--json"]).expect(Exit::Done);
    golden!(place, "json-capture-status", ran.stdout);
    let ran = place.dm(&["audit", "capture", "drain"]).expect(Exit::Done);
    golden!(place, "page-capture-drain", ran.stdout);
    let events = changes(&place);
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[0]["action"], &events[1]["action"]),
        (&"change:insert".into(), &"change:update".into())
    );
    assert!(events.iter().all(|e| e["seq"].is_i64() && e["resource"] == "shop/users"), "{events:?}");
    assert_eq!(events[1]["details"]["changed"], serde_json::json!(["name"]));
    assert_eq!(events[1]["details"]["before"], serde_json::json!({"id": 1, "name": "***"}));
    let ran = place.dm(&["audit", "capture", "drain", "--json"]).expect(Exit::Done).json();
    assert_eq!(ran["report"]["taken_over"], 0);
    place.dm(&["audit", "verify"]).expect(Exit::Done);
    let operations = place.dm(&["audit", "log", "--kind", "operation", "--json"]).expect(Exit::Done).json();
    let operations = operations["events"].as_array().unwrap();
    assert!(operations.iter().all(|e| !e["action"].as_str().unwrap().starts_with("change:")));
    assert!(operations.iter().any(|e| e["action"] == "capture:install"));
    // What waits is taken over before everything goes.
    application(&place, "DELETE FROM users WHERE id = 4");
    let ran = place.dm(&["audit", "capture", "remove", "--all", "--dry-run"]).expect(Exit::Done);
    golden!(place, "page-capture-remove-plan", ran.stdout);
    place.dm(&["audit", "capture", "remove", "--all"]).expect(Exit::ConfirmationNeeded);
    let ran = place.dm(&["audit", "capture", "remove", "users", "--yes"]).expect(Exit::Done);
    golden!(place, "page-capture-remove", ran.stdout);
    assert_eq!(changes(&place).len(), 3);
    let ran =
        place.dm(&["query", "SELECT count(*) AS n FROM sqlite_schema WHERE name LIKE 'dm!_%' ESCAPE '!'"]);
    assert!(ran.expect(Exit::Done).stdout.contains('0'));
    place.dm(&["audit", "capture", "remove", "users", "--yes"]).expect(Exit::NotFound);
}

#[test]
fn a_recording_that_does_not_record_is_a_finding() {
    let place = Place::with_shop();
    place.dm(&["audit", "capture", "install", "users"]).expect(Exit::Done);
    application(&place, "DROP TRIGGER dm_capture_1_update");
    application(&place, "ALTER TABLE users ADD COLUMN mail TEXT");
    application(&place, "INSERT INTO dm_capture_changes (table_name, operation) VALUES ('users', 'explode')");
    let ran = place.dm(&["audit", "capture", "status"]).expect(Exit::CheckFailed);
    golden!(place, "page-capture-status-problems", ran.stdout);
    let ran = place.dm(&["audit", "capture", "drain"]).expect(Exit::CheckFailed);
    golden!(place, "page-capture-drain-defective", ran.stdout);
    let events = changes(&place);
    assert_eq!((&events[0]["outcome"], &events[0]["action"]), (&"failure".into(), &"change:unknown".into()));
    for (wrong, exit) in [
        (&["audit", "capture", "install", "nothing"][..], Exit::NotFound),
        (&["audit", "capture", "install", "a.b.c"], Exit::Usage),
        (&["audit", "capture", "install", "users", "--mask", "nothing"], Exit::NotFound),
        (&["audit", "capture", "install", "users", "--digest", "name"], Exit::Failed),
        (&["audit", "capture", "remove"], Exit::Usage),
        (&["audit", "capture", "drain", "--every", "soon"], Exit::Usage),
        (&["audit", "capture", "drain", "--engine", "nobody"], Exit::NotFound),
    ] {
        let ran = place.dm(wrong).expect(exit);
        assert!(!ran.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn who_read_what_is_on_record_without_the_values() {
    let place = Place::with_shop();
    place.dm(&["query", "SELECT id FROM users WHERE name <> 'Grace Hopper' -- secret"]).expect(Exit::Done);
    place.dm(&["query", "--write", "UPDATE orders SET cents = 4242 WHERE id = 1"]).expect(Exit::Done);
    assert_ne!(place.dm(&["query", "SELECT x FROM nowhere"]).exit, Exit::Done);
    place.backup("full");
    let out = place.path("exported");
    place.dm(&["backup", "export", "latest", out.to_str().unwrap()]).expect(Exit::Done);
    let ran = place.dm(&["audit", "log", "--kind", "access", "--json"]).expect(Exit::Done);
    let all = ran.stdout.clone();
    assert!(!["Grace", "4242", "secret"].iter().any(|value| all.contains(value)), "{all}");
    let events = ran.json()["events"].as_array().unwrap().clone();
    let read = events.iter().find(|e| e["details"]["tables"] == serde_json::json!(["users"])).unwrap();
    assert_eq!(read["details"]["statement"], "SELECT id FROM users WHERE name <> ?");
    assert_eq!((&read["details"]["rows"], &read["action"]), (&3.into(), &"query:query".into()));
    let written = events.iter().find(|e| e["details"]["tables"] == serde_json::json!(["orders"])).unwrap();
    assert_eq!((&written["details"]["rows"], &written["action"]), (&1.into(), &"query:execute".into()));
    let failed = events.iter().find(|e| e["details"]["tables"] == serde_json::json!(["nowhere"])).unwrap();
    assert_ne!(failed["outcome"], "success");
    let export = events.iter().find(|e| e["action"] == "backup:export" && e["outcome"] == "success").unwrap();
    assert!(export["details"]["bytes"].as_u64().unwrap() > 0, "{export}");
    assert!(!events.iter().any(|e| e["action"] == "backup:run"));
}

/// A drain that dies between the trail and the outbox, as the files look afterwards; and a database that was restored.
#[test]
fn what_was_taken_over_and_not_confirmed_is_known_when_it_comes_again() {
    let place = Place::with_shop();
    place.dm(&["audit", "capture", "install", "users"]).expect(Exit::Done);
    application(&place, "INSERT INTO users (name) VALUES ('Barbara')");
    application(&place, "DELETE FROM users WHERE name = 'Barbara'");
    let unconfirmed = std::fs::read(place.path("shop.db")).unwrap();
    place.dm(&["audit", "capture", "drain"]).expect(Exit::Done);
    let once = changes(&place);
    assert_eq!(once.len(), 2);
    std::fs::write(place.path("shop.db"), &unconfirmed).unwrap();
    let ran = place.dm(&["audit", "capture", "drain", "--json"]).expect(Exit::Done).json();
    assert_eq!((&ran["report"]["taken_over"], &ran["report"]["known"]), (&0.into(), &2.into()), "{ran}");
    assert_eq!(changes(&place), once, "nothing is in the trail twice");
    // After a restore places and ordinals are given again; the changes are others.
    application(&place, "INSERT INTO users (name) VALUES ('Barbara')");
    let ran = place.dm(&["audit", "capture", "drain", "--json"]).expect(Exit::Done).json();
    assert_eq!((&ran["report"]["taken_over"], &ran["report"]["known"]), (&1.into(), &0.into()), "{ran}");
    place.dm(&["audit", "verify"]).expect(Exit::Done);
}
