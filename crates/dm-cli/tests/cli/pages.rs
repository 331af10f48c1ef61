//! Completions and manual pages, from the same definitions as the help.

use dm_cli::Exit;

use crate::harness::Place;

#[test]
fn completions_are_made_for_every_shell_and_program() {
    let place = Place::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        for program in ["dm", "dm-backup", "dm-restore", "dm-log", "dm-audit"] {
            let ran = place.dm(&["completions", shell, "--for", program]).expect(Exit::Done);
            assert!(ran.stdout.contains(program), "{shell} {program}");
        }
    }
}

#[test]
fn there_is_a_page_for_every_command() {
    let place = Place::empty();
    let ran = place.dm(&["man", "--out", "man1", "--json"]).expect(Exit::Done).json();
    let pages: Vec<&str> = ran["pages"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    for page in [
        "dm.1",
        "dm-backup.1",
        "dm-backup-run.1",
        "dm-backup-key-new.1",
        "dm-restore.1",
        "dm-audit-verify.1",
        "dm-demo.1",
    ] {
        assert!(pages.contains(&page), "{page} in {pages:?}");
        assert!(std::fs::metadata(place.path("man1").join(page)).unwrap().len() > 100);
    }
    assert!(place.dm(&["man"]).expect(Exit::Done).stdout.contains(".TH dm 1"));
}
