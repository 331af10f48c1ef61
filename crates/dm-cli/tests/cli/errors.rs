//! Errors word by word: what failed, on what, why, whether anything changed, and what to do next.

use dm_cli::Exit;

use crate::harness::{Place, golden, regex_escape};

#[test]
fn a_misspelt_command_or_flag_is_answered_with_the_nearest() {
    let place = Place::empty();
    let ran = place.dm(&["bakup", "run"]).expect(Exit::Usage);
    golden!(place, "error-misspelt-command", ran.stderr);
    let ran = place.dm(&["backup", "run", "--kin", "full"]).expect(Exit::Usage);
    golden!(place, "error-misspelt-flag", ran.stderr);
    let ran = place.dm(&["backup", "run", "--kind", "fulll"]).expect(Exit::Usage);
    golden!(place, "error-misspelt-value", ran.stderr);
}

#[test]
fn a_misspelt_setting_is_answered_with_the_nearest() {
    let place = Place::empty();
    place.write("dm.toml", "[repository]\nurll = \"./backups\"\n");
    let ran = place.dm(&["backup", "list"]).expect(Exit::Usage);
    golden!(place, "error-misspelt-setting", ran.stderr);
}

#[test]
fn a_missing_configuration_file_is_named() {
    let place = Place::empty();
    let ran = place.dm(&["status", "--config", "nowhere.toml"]).expect(Exit::NotFound);
    golden!(place, "error-no-configuration-file", ran.stderr);
}

#[test]
fn no_database_is_answered_with_where_to_name_one() {
    let place = Place::empty();
    let ran = place.dm(&["backup", "run"]).expect(Exit::NotFound);
    golden!(place, "error-no-database", ran.stderr);
    let ran = place.dm(&["init"]).expect(Exit::Usage);
    golden!(place, "error-init-without-database", ran.stderr);
}

#[test]
fn init_never_overwrites() {
    let place = Place::empty();
    place.write("dm.toml", "# mine\n");
    let ran = place.dm(&["init", "./shop.db"]).expect(Exit::Failed);
    golden!(place, "error-init-existing", ran.stderr);
    assert_eq!(std::fs::read_to_string(place.path("dm.toml")).unwrap(), "# mine\n");
}

#[test]
fn a_program_gets_the_error_as_a_document() {
    let place = Place::with_shop();
    place.backup("full");
    let ran = place.dm(&["backup", "show", "00000000", "--json"]).expect(Exit::NotFound);
    golden!(place, "json-error", ran.stdout);
    assert_eq!(ran.json()["schema"], "dm.error/1");
    let ran = place.dm(&["backup", "shwo", "--json"]).expect(Exit::Usage);
    assert_eq!(ran.json()["error"]["kind"], "invalid");
}

#[test]
fn there_is_no_repository_before_the_first_backup() {
    let place = Place::with_shop();
    let ran = place.dm(&["backup", "list"]).expect(Exit::NotFound);
    golden!(place, "error-no-repository", ran.stderr);
}

#[test]
fn a_place_that_is_taken_is_not_restored_into() {
    let place = Place::with_shop();
    place.backup("full");
    let taken = place.path("taken.db");
    std::fs::copy(place.path("shop.db"), &taken).unwrap();
    let before = std::fs::read(&taken).unwrap();
    let ran = place.dm(&["restore", "latest", "--to", taken.to_str().unwrap()]).expect(Exit::Failed);
    golden!(place, "error-restore-taken", ran.stderr);
    assert_eq!(std::fs::read(&taken).unwrap(), before);
}

#[test]
fn resources_that_cannot_be_had_are_refused_with_what_can() {
    let place = Place::with_shop();
    for (flag, value, says) in [
        ("--memory", "1 MiB", "32.0 MiB"),
        ("--memory", "lots", "lots"),
        ("--rate-limit", "1", "64.0 KiB"),
        ("--connections", "0", "1..=1024"),
        ("--threads", "1000", "1..=256"),
        ("--priority", "high", "low"),
        // A budget that other repositories would do with; the packs of this one are 32 MiB.
        ("--memory", "32 MiB", "at least 39.0 MiB"),
    ] {
        let ran = place.dm(&["backup", "run", flag, value]).expect(Exit::Usage);
        assert!(ran.stderr.contains(says), "{flag} {value}: {}", ran.stderr);
    }
    place
        .dm(&["backup", "run", "--memory", "40 MiB", "--connections", "1", "--threads", "1"])
        .expect(Exit::Done);
}
