//! Legal holds, and backups written anew so that they need no others.

use dm_cli::Exit;

use crate::harness::{Place, golden, regex_escape};

fn listed(place: &Place) -> Vec<serde_json::Value> {
    let ran = place.dm(&["backup", "list", "--json"]).expect(Exit::Done).json();
    ran["backups"].as_array().unwrap().iter().filter(|b| b["deleting"] == false).cloned().collect()
}

#[test]
fn what_is_held_stays_until_it_is_released_with_a_reason() {
    let place = Place::with_shop();
    let full = place.backup("full");
    let held = place.backup("incremental");
    place.backup("full");
    place.backup("full");
    place.dm(&["backup", "verify"]).expect(Exit::Done);
    place.dm(&["backup", "hold", &held]).expect(Exit::Usage);
    let ran = place
        .dm(&["backup", "hold", &held, "--reason", "Landgericht 4 O 17/26", "--name", "case-17", "--json"])
        .expect(Exit::Done);
    golden!(place, "json-hold", ran.stdout);
    let ran =
        place.dm(&["backup", "hold", &held, "--reason", "audit", "--until", "2099-01-31"]).expect(Exit::Done);
    golden!(place, "page-hold", ran.stdout);
    let ran =
        place.dm(&["backup", "hold", &held, "--reason", "late", "--until", "2001-01-31"]).expect(Exit::Usage);
    assert!(ran.stderr.contains("has passed"), "{}", ran.stderr);
    let ran = place.dm(&["backup", "show", &held]).expect(Exit::Done);
    assert!(ran.stdout.contains("case-17: Landgericht 4 O 17/26"), "{}", ran.stdout);

    let rules = [
        "--keep-last",
        "1",
        "--keep-daily",
        "0",
        "--keep-weekly",
        "0",
        "--keep-monthly",
        "0",
        "--keep-yearly",
        "0",
        "--keep-verified",
        "1",
        "--keep-incremental-within",
        "1s",
    ];
    let expire = |more: &'static str| {
        let args: Vec<&str> = ["backup", "expire", more].iter().copied().chain(rules).collect();
        place.dm(&args)
    };
    let ran = expire("--dry-run").expect(Exit::Done);
    assert!(ran.stdout.contains("held (") && ran.stdout.contains("referenced by"), "{}", ran.stdout);
    // A hold on an incremental backup keeps what it needs and wedges nobody else.
    expire("--yes").expect(Exit::Done);
    let ids: Vec<String> = listed(&place).iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() == 3 && ids.contains(&full) && ids.contains(&held), "{ids:?}");
    let ran = place.dm(&["backup", "delete", &held, "--yes"]).expect(Exit::Usage);
    golden!(place, "error-delete-held", ran.stderr);

    let ran = place.dm(&["backup", "release", &held, "--reason", "settled"]).expect(Exit::Usage);
    assert!(ran.stderr.contains("case-17, hold"), "{}", ran.stderr);
    place
        .dm(&["backup", "release", &held, "--name", "case-18", "--reason", "settled"])
        .expect(Exit::NotFound);
    for name in ["case-17", "hold"] {
        place.dm(&["backup", "release", &held, "--name", name, "--reason", "settled"]).expect(Exit::Done);
    }
    place.dm(&["backup", "release", &held, "--reason", "again"]).expect(Exit::NotFound);
    place.dm(&["backup", "delete", &held, "--yes"]).expect(Exit::Done);
    assert_eq!(listed(&place).len(), 2);
    let log = place.dm(&["audit", "log", "--json"]).expect(Exit::Done).stdout;
    assert!(
        log.contains("backup:hold") && log.contains("backup:release") && log.contains("settled"),
        "{log}"
    );
}

#[test]
fn a_backup_is_written_anew_and_what_it_kept_alive_goes() {
    let place = Place::with_shop();
    let full = place.backup("full");
    place.statement("INSERT INTO users (name) VALUES ('Barbara')");
    let next = place.backup("incremental");
    place.statement("INSERT INTO users (name) VALUES ('Leslie')");
    place.backup("full");
    place.dm(&["backup", "verify"]).expect(Exit::Done);
    place.dm(&["backup", "pin", &next, "--reason", "before the migration"]).expect(Exit::Done);
    let ran = place.dm(&["backup", "rewrite", &full, "--dry-run"]).expect(Exit::Done);
    assert!(ran.stdout.contains("needs no other backup"), "{}", ran.stdout);
    let ran = place.dm(&["backup", "rewrite", &next, "--dry-run"]).expect(Exit::Done);
    golden!(place, "page-rewrite-plan", ran.stdout);
    place.dm(&["backup", "rewrite", &next]).expect(Exit::ConfirmationNeeded);
    let ran = place.dm(&["backup", "rewrite", &next, "--yes", "--json"]).expect(Exit::Done).json();
    let new = ran["report"]["rewritten"][0]["new"].as_str().unwrap().to_owned();
    assert_eq!(ran["report"]["deleted"][0].as_str(), Some(next.as_str()), "{ran}");
    let list = listed(&place);
    let row = list.iter().find(|b| b["id"] == new.as_str()).unwrap();
    assert_eq!((row["kind"].as_str(), row["rewrites"].as_str()), (Some("full"), Some(next.as_str())));
    assert_eq!(row["pin_reason"].as_str(), Some("before the migration"));
    place.dm(&["backup", "delete", &full, "--yes"]).expect(Exit::Done);
    let to = place.path("back.db");
    let ran = place.dm(&["restore", &new, "--to", to.to_str().unwrap(), "--json"]).expect(Exit::Done).json();
    assert_eq!(ran["report"]["equal"].as_bool(), Some(true), "{ran}");
    let rows = ran["report"]["tables"].as_array().unwrap().iter().find(|t| t["table"] == "users").cloned();
    assert_eq!(rows.unwrap()["found"]["rows"].as_u64(), Some(4), "{ran}");
    let ran = place.dm(&["backup", "rewrite"]).expect(Exit::Done);
    assert!(ran.stdout.contains("keeps alive what no rule wants"), "{}", ran.stdout);
}
