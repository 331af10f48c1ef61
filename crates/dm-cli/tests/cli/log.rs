//! `dm log` without a server: what a database server must be able to rely on. With servers: `tests/scenarios`.

use dm_cli::{Exit, Program};

use crate::harness::{Place, golden, regex_escape};

/// PostgreSQL takes a code below 126 of its restore_command for the end of its log.
#[test]
fn nothing_but_a_missing_file_ends_a_fetch_with_a_code_that_a_server_takes_for_the_end() {
    let place = Place::with_shop();
    let out = place.path("out").display().to_string();
    let segment = "000000010000000000000001";
    for line in [
        &["log", "fetch", segment, &out][..],
        &["log", "fetch", segment],
        &["log", "fecth", segment, &out],
        &["log", "fetch", segment, &out, "--no-such-flag"],
        &["log", "fetch", segment, &out, "--config", "nowhere.toml"],
        &["lgo", "fetch", segment, &out],
    ] {
        let ran = place.dm(line).expect(Exit::NotFetched);
        assert!(!ran.stderr.is_empty(), "{line:?} says nothing");
    }
    assert_eq!(Exit::NotFetched.code(), 129);
    for line in [&["fetch", segment][..], &["fecth", segment, &out], &[]] {
        place.program(Program::Task("log"), line, None).expect(Exit::NotFetched);
    }
    // A configuration that cannot be read is no end of the log either.
    place.write("dm.toml", "[repository]\nurll = \"./backups\"\n");
    place.program(Program::Task("log"), &["fetch", segment, &out], None).expect(Exit::NotFetched);
    // Whoever asks for help gets it.
    place.program(Program::Task("log"), &["fetch", "--help"], None).expect(Exit::Done);
    place.program(Program::Task("log"), &["--version"], None).expect(Exit::Done);
}

#[test]
fn an_engine_without_a_log_says_what_to_do_instead() {
    let place = Place::with_shop();
    let ran = place.dm(&["log", "ship", "--once"]).expect(Exit::Failed);
    golden!(place, "error-log-ship-unsupported", ran.stderr);
    let ran = place.dm(&["log", "ship", "--seal-every", "soon"]).expect(Exit::NotFetched);
    golden!(place, "error-log-ship-duration", ran.stderr);
}
