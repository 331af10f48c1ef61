//! Exit codes: what a script can rely on.

use dm_cli::Exit;

use crate::harness::{Place, files};

#[test]
fn an_unreachable_host_is_5() {
    let place = Place::empty();
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.write(
        "dm.toml",
        &format!("[engines.main]\nurl = \"postgres://nobody:s3cret@127.0.0.1:{port}/shop\"\n[repository]\nurl = \"./backups\"\n"),
    );
    let ran = place.dm(&["backup", "run"]).expect(Exit::Unreachable);
    assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
    assert!(!place.path("backups").join("repository.json").exists());
}

#[test]
fn a_wrong_passphrase_is_6_and_the_right_one_restores() {
    let mut place = Place::empty();
    place.set("DM_KEY_PASSPHRASE", "correct horse");
    let database = format!("sqlite:{}?mode=rwc", place.path("shop.db").display());
    place.dm(&["init", "--encrypt", &database]).expect(Exit::Done);
    place.statement("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)");
    place.statement("INSERT INTO users (name) VALUES ('Ada')");
    let made = place.dm(&["backup", "run", "--json"]).expect(Exit::Done).json();
    assert_eq!(made["report"]["backup"]["encrypted"], true);

    place.set("DM_KEY_PASSPHRASE", "wrong horse");
    let ran = place.dm(&["restore", "latest", "--to", place.path("wrong.db").to_str().unwrap()]);
    assert!(ran.stderr.contains("passphrase"), "{}", ran.stderr);
    ran.expect(Exit::Denied);
    assert!(!place.path("wrong.db").exists());

    place.set("DM_KEY_PASSPHRASE", "correct horse");
    place.dm(&["restore", "latest", "--to", place.path("right.db").to_str().unwrap()]).expect(Exit::Done);
}

#[test]
fn a_refusal_of_the_access_rules_is_6() {
    let place = Place::with_shop();
    place.write("dm.toml", &place.configuration("[access]\ndefault_actor_roles = [\"viewer\"]\n"));
    place.dm(&["backup", "run"]).expect(Exit::Denied);
    assert!(!place.path("backups").join("repository.json").exists());
}

#[test]
fn an_unknown_backup_is_4() {
    let place = Place::with_shop();
    place.backup("full");
    place.dm(&["backup", "show", "0123456789ab"]).expect(Exit::NotFound);
    place.dm(&["restore", "0123456789ab"]).expect(Exit::NotFound);
}

#[test]
fn a_flipped_byte_is_9_and_named() {
    let place = Place::with_shop();
    place.backup("full");
    place.dm(&["backup", "verify"]).expect(Exit::Done);
    let pack = files(&place.path("backups"))
        .into_iter()
        .find(|f| f.extension().is_some_and(|e| e == "pack"))
        .unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&pack, bytes).unwrap();
    let ran = place.dm(&["backup", "verify"]).expect(Exit::CheckFailed);
    assert!(ran.stdout.contains("00000000.pack"), "{}", ran.stdout);
    let ran = place.dm(&["backup", "verify", "--json"]).expect(Exit::CheckFailed);
    assert_eq!(ran.json()["sound"], false);
    place.dm(&["status"]).expect(Exit::CheckFailed);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::with_shop();
    place.backup("full");
    for line in [
        &["backup", "list"][..],
        &["backup", "list", "--json"],
        &["backup", "list", "--json-lines"],
        &["query", "SELECT * FROM users"],
        &["--help"],
        &["completions", "bash"],
        &["man"],
    ] {
        assert_eq!(place.dm_into_closed_pipe(line), (Exit::Done, String::new()), "{line:?}");
    }
}

#[test]
fn a_reading_query_changes_nothing() {
    let place = Place::with_shop();
    let ran = place.dm(&["query", "DELETE FROM users RETURNING id"]);
    assert_ne!(ran.exit, Exit::Done, "{}", ran.stdout);
    assert!(ran.stderr.contains("unless --write is given"), "{}", ran.stderr);
    let left = place.dm(&["query", "SELECT count(*) AS n FROM users", "--json"]).expect(Exit::Done);
    assert_eq!(left.json()["rows"][0][0], 3);
}

#[test]
fn doctor_is_9_when_something_does_not_work() {
    let place = Place::with_shop();
    place.dm(&["doctor"]).expect(Exit::Done);
    std::fs::remove_file(place.path("shop.db")).unwrap();
    place.write("dm.toml", &place.configuration("").replace("?mode=rwc", ""));
    let ran = place.dm(&["doctor"]).expect(Exit::CheckFailed);
    assert!(ran.stdout.contains("mend:"), "{}", ran.stdout);
}
