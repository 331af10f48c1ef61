//! Every help page, word by word: a flag that comes or goes shows here.

use dm_cli::{Exit, Program};

use crate::harness::{Place, golden, regex_escape};

const PAGES: &[&[&str]] = &[
    &[],
    &["init"],
    &["demo"],
    &["doctor"],
    &["status"],
    &["backup"],
    &["backup", "run"],
    &["backup", "list"],
    &["backup", "show"],
    &["backup", "verify"],
    &["backup", "drill"],
    &["backup", "expire"],
    &["backup", "delete"],
    &["backup", "pin"],
    &["backup", "unpin"],
    &["backup", "hold"],
    &["backup", "release"],
    &["backup", "rewrite"],
    &["backup", "export"],
    &["backup", "size"],
    &["backup", "key"],
    &["backup", "key", "new"],
    &["backup", "key", "list"],
    &["backup", "key", "rewrap"],
    &["restore"],
    &["restore", "release"],
    &["log"],
    &["log", "ship"],
    &["log", "push"],
    &["log", "fetch"],
    &["log", "status"],
    &["log", "drop-slot"],
    &["audit"],
    &["audit", "log"],
    &["audit", "verify"],
    &["audit", "checkpoint"],
    &["audit", "prove"],
    &["audit", "key"],
    &["audit", "erase"],
    &["audit", "expire"],
    &["audit", "capture"],
    &["audit", "capture", "install"],
    &["audit", "capture", "status"],
    &["audit", "capture", "remove"],
    &["audit", "capture", "drain"],
    &["query"],
    &["completions"],
    &["man"],
];

#[test]
fn pages_are_as_recorded() {
    let place = Place::empty();
    for page in PAGES {
        let help = |flag: &'static str| {
            let line: Vec<&str> = page.iter().copied().chain([flag]).collect();
            let ran = place.dm(&line).expect(Exit::Done);
            assert_eq!(ran.stderr, "");
            ran.stdout
        };
        let name: Vec<&str> = ["help", "dm"].iter().chain(*page).copied().collect();
        golden!(place, name.join("-"), format!("{}\n\n==== --help ====\n\n{}", help("-h"), help("--help")));
    }
}

#[test]
fn no_command_is_answered_with_the_help() {
    let ran = Place::empty().dm(&[]).expect(Exit::Usage);
    assert!(ran.stderr.contains("Usage: dm"), "{}", ran.stderr);
}

#[test]
fn a_task_program_calls_itself_by_its_own_name() {
    let place = Place::empty();
    for task in ["backup", "restore", "log", "audit"] {
        let ran = place.program(Program::Task(task), &["--help"], None).expect(Exit::Done);
        assert!(ran.stdout.contains(&format!("Usage: dm-{task} ")), "{}", ran.stdout);
        assert!(ran.stdout.contains("--config"), "{}", ran.stdout);
        golden!(place, format!("help-program-dm-{task}"), ran.stdout);
    }
    let ran = place.program(Program::Task("backup"), &["run", "--help"], None).expect(Exit::Done);
    assert!(ran.stdout.contains("Usage: dm-backup run "), "{}", ran.stdout);
    let ran = place.program(Program::Task("backup"), &["--version"], None).expect(Exit::Done);
    assert_eq!(ran.stdout, format!("dm-backup {}\n", env!("CARGO_PKG_VERSION")));
}
