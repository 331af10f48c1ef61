//! Nothing destructive happens without a plan that was shown and answered.

use dm_cli::Exit;

use crate::harness::{Place, golden, regex_escape};

fn backups(place: &Place) -> usize {
    let list = place.dm(&["backup", "list", "--json"]).expect(Exit::Done).json();
    list["backups"].as_array().unwrap().iter().filter(|b| b["deleting"] == false).count()
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_deleted() {
    let place = Place::with_shop();
    let old = place.backup("full");
    place.backup("full");
    let ran = place.dm(&["backup", "delete", &old]).expect(Exit::ConfirmationNeeded);
    golden!(place, "question-delete-unanswered", ran.stderr);
    assert!(ran.stdout.contains(&old), "the plan is shown: {}", ran.stdout);
    assert_eq!(backups(&place), 2);

    let ran = place.dm(&["backup", "delete", &old, "--dry-run", "--json"]).expect(Exit::Done);
    assert_eq!(ran.json()["schema"], "dm.delete-plan/1");
    assert_eq!(backups(&place), 2);

    place.dm_answering(&["backup", "delete", &old], "n\n").expect(Exit::ConfirmationNeeded);
    assert_eq!(backups(&place), 2);
    place.dm_answering(&["backup", "delete", &old], "y\n").expect(Exit::Done);
    assert_eq!(backups(&place), 1);
}

#[test]
fn yes_answers() {
    let place = Place::with_shop();
    let old = place.backup("full");
    place.backup("full");
    let ran = place.dm(&["backup", "delete", &old, "--yes", "--json"]).expect(Exit::Done);
    assert_eq!(ran.json()["report"]["deleted"][0], old.as_str());
    assert_eq!(backups(&place), 1);
}

#[test]
fn in_place_asks_first_and_keeps_what_stood_there() {
    let place = Place::with_shop();
    place.backup("full");
    place.statement("DELETE FROM orders");
    place.dm(&["restore", "latest", "--in-place"]).expect(Exit::ConfirmationNeeded);
    let count = |place: &Place| {
        place.dm(&["query", "SELECT count(*) FROM orders", "--json"]).json()["rows"][0][0].clone()
    };
    assert_eq!(count(&place), 0);
    let ran = place.dm(&["restore", "latest", "--in-place", "--yes", "--json"]).expect(Exit::Done);
    let report = ran.json()["report"].clone();
    assert_eq!(report["equal"], true);
    let kept = report["previous"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(ran.stderr.contains(&kept), "kept as {kept}, and the plan said: {}", ran.stderr);
    assert_eq!(count(&place), 4);
}

#[test]
fn a_place_that_was_not_named_is_chosen_and_told() {
    let place = Place::with_shop();
    place.backup("full");
    let ran = place.dm(&["restore", "latest", "--yes"]).expect(Exit::Done);
    let line = ran.stdout.lines().find(|line| line.trim_start().starts_with("to ")).unwrap();
    let told = line.trim().trim_start_matches("to ").trim();
    assert!(told.contains("shop.db.restored-") && std::path::Path::new(told).exists(), "{}", ran.stdout);
    // The same second again: another name, nothing overwritten.
    let ran = place.dm(&["restore", "latest", "--yes", "--json"]).expect(Exit::Done).json();
    assert_ne!(ran["report"]["location"], told);
}

#[test]
fn a_person_chooses_from_the_list() {
    let place = Place::with_shop();
    let first = place.backup("full");
    place.backup("full");
    let to = place.path("chosen.db");
    let ran = place.dm_answering(&["restore", "--to", to.to_str().unwrap()], "seven\n1\n").expect(Exit::Done);
    assert!(ran.stdout.contains(&format!("restore {} of shop", &first[..13])), "{}", ran.stdout);
    assert!(ran.stderr.contains("\"seven\" is not one of them"), "{}", ran.stderr);
    assert!(to.exists());

    let ran = place.dm(&["restore"]).expect(Exit::Usage);
    golden!(place, "question-which-backup", ran.stderr);
}
