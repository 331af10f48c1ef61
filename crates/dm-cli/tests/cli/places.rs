//! Two places: every backup is copied, either serves alone, and one mends the other.

use dm_cli::Exit;

use crate::harness::{Place, files, golden, regex_escape};

fn with_copy() -> Place {
    let place = Place::with_shop();
    place.write("dm.toml", &place.configuration("[repository.secondary.offsite]\nurl = \"./offsite\"\n"));
    place
}

#[test]
fn a_backup_is_copied_and_the_copy_serves_alone() {
    let place = with_copy();
    let ran = place.dm(&["backup", "run", "--json"]).expect(Exit::Done).json();
    let copy = &ran["copies"][0];
    assert_eq!((copy["place"].as_str(), copy["failure"].as_str()), (Some("offsite"), None), "{ran}");
    assert_eq!(copy["report"]["backups"].as_array().map(Vec::len), Some(1), "{ran}");
    let id = place.backup("incremental");
    let ran = place.dm(&["status"]).expect(Exit::Done);
    golden!(place, "page-status-places", ran.stdout);

    // The primary place burns down.
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    let ran = place.dm(&["restore", "latest", "--dry-run"]).expect(Exit::NotFound);
    assert!(ran.stderr.contains("--place offsite"), "{}", ran.stderr);
    let ran = place.dm(&["--place", "offsite", "backup", "list", "--json"]).expect(Exit::Done).json();
    assert_eq!(ran["backups"].as_array().map(Vec::len), Some(2), "{ran}");
    let to = place.path("back.db");
    let ran = place
        .dm(&["restore", "latest", "--place", "offsite", "--to", to.to_str().unwrap(), "--json"])
        .expect(Exit::Done)
        .json();
    assert_eq!(
        (ran["backup_id"].as_str(), ran["report"]["equal"].as_bool()),
        (Some(id.as_str()), Some(true)),
        "{ran}"
    );
    // And fills the new building.
    place.dm(&["backup", "copy", "--place", "offsite", "--to", "primary"]).expect(Exit::Done);
    place.dm(&["backup", "verify", "--level", "full"]).expect(Exit::Done);
    place.dm(&["audit", "verify"]).expect(Exit::Done);
}

#[test]
fn a_copy_that_fails_leaves_the_backup_good_and_is_caught_up() {
    let place = with_copy();
    // A file stands where the copy's folder should be.
    place.write("offsite", "in the way");
    let ran = place.dm(&["backup", "run"]).expect(Exit::Partial);
    assert!(ran.stdout.contains("copied to offsite"), "{}", ran.stdout);
    place.dm(&["backup", "run", "--kind", "incremental", "--no-copy"]).expect(Exit::Done);
    let ran = place.dm(&["status", "--json"]);
    let ran = ran.json();
    assert_eq!(ran["status"]["places"][0]["problems"].as_array().map(Vec::len), Some(1), "{ran}");
    std::fs::remove_file(place.path("offsite")).unwrap();
    let ran = place.dm(&["backup", "copy", "--dry-run"]).expect(Exit::Done);
    golden!(place, "page-copies-plan", ran.stdout);
    assert!(files(&place.path("offsite")).is_empty());
    let ran = place.dm(&["backup", "copy"]).expect(Exit::Done);
    golden!(place, "page-copies", ran.stdout);
    let ran = place.dm(&["backup", "copy", "--json"]).expect(Exit::Done);
    golden!(place, "json-copies", ran.stdout);
    place.dm(&["--place", "offsite", "backup", "verify", "--level", "full"]).expect(Exit::Done);
}

#[test]
fn damage_is_mended_from_the_copy() {
    let place = with_copy();
    place.backup("full");
    let pack = files(&place.path("backups"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "pack"))
        .unwrap();
    let sound = std::fs::read(&pack).unwrap();
    let mut bytes = sound.clone();
    bytes[20] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    place.dm(&["backup", "verify"]).expect(Exit::CheckFailed);
    let ran = place.dm(&["backup", "repair", "latest"]).expect(Exit::Done);
    golden!(place, "page-repairs", ran.stdout);
    assert_eq!(std::fs::read(&pack).unwrap(), sound);
    place.dm(&["backup", "verify"]).expect(Exit::Done);

    // Damaged in both places: said, and left.
    let other = place.path("offsite").join(pack.strip_prefix(place.path("backups")).unwrap());
    std::fs::write(&pack, &bytes).unwrap();
    std::fs::write(other, &bytes).unwrap();
    let ran = place.dm(&["backup", "repair", "--json"]).expect(Exit::CheckFailed);
    golden!(place, "json-repairs", ran.stdout);
}

#[test]
fn nothing_new_is_written_into_a_copy() {
    let place = with_copy();
    place.backup("full");
    let ran = place.dm(&["backup", "run", "--place", "offsite"]).expect(Exit::Usage);
    golden!(place, "error-place-is-a-copy", ran.stderr);
    let ran = place.dm(&["backup", "list", "--place", "nowhere"]).expect(Exit::Usage);
    golden!(place, "error-place-unknown", ran.stderr);
    let alone = Place::with_shop();
    alone.backup("full");
    let ran = alone.dm(&["backup", "copy"]).expect(Exit::Usage);
    golden!(alone, "error-copy-nowhere", ran.stderr);
}

#[test]
fn each_place_forgets_by_itself() {
    let place = with_copy();
    let first = place.backup("full");
    place.backup("full");
    place.backup("full");
    place.dm(&["backup", "verify"]).expect(Exit::Done);
    place.dm(&["backup", "delete", &first, "--yes"]).expect(Exit::Done);
    let listed = |args: &[&str]| {
        let ran = place.dm(args).expect(Exit::Done).json();
        ran["backups"].as_array().unwrap().iter().filter(|b| b["deleting"] == false).count()
    };
    assert_eq!(listed(&["backup", "list", "--json"]), 2);
    assert_eq!(listed(&["backup", "list", "--json", "--place", "offsite"]), 3);
    place.dm(&["backup", "delete", &first, "--yes", "--place", "offsite"]).expect(Exit::Done);
    assert_eq!(listed(&["backup", "list", "--json", "--place", "offsite"]), 2);
}
