//! Keys of an encrypted repository: who can read what, and changing it.

use dm_cli::Exit;

use crate::harness::{Place, golden, regex_escape};

/// Makes a key and gives its public half.
fn new_key(place: &Place, file: &str) -> String {
    let ran = place.dm(&["backup", "key", "new", "--out", file, "--json"]).expect(Exit::Done);
    ran.json()["key"]["recipient"].as_str().unwrap().to_owned()
}

fn configure(place: &Place, recipients: &[&str], identity: Option<&str>, index: bool) {
    let identity = identity.map_or_else(String::new, |file| format!("identity_files = [\"{file}\"]\n"));
    let index = if index { "index_identity_file = \"owner.key.index\"\n" } else { "" };
    let text = place.configuration(&format!("recipients = {recipients:?}\n{identity}{index}"));
    place.write("dm.toml", &text);
}

#[test]
fn a_key_is_handed_over_without_writing_a_backup_anew() {
    let place = Place::with_shop();
    let old = new_key(&place, "owner.key");
    let new = new_key(&place, "new.key");
    // The host that backs up has no private key.
    configure(&place, &[&old], None, true);
    let full = place.backup("full");
    place.backup("incremental");
    let ran = place.dm(&["backup", "key", "list"]).expect(Exit::Done);
    golden!(place, "page-keys", ran.stdout);
    let ran = place.dm(&["backup", "key", "rewrap", "--add", &new, "--yes"]).expect(Exit::Denied);
    golden!(place, "error-rewrap-without-key", ran.stderr);

    let change = ["backup", "key", "rewrap", "--add", "new.key", "--remove", &old, "--identity", "owner.key"];
    let with = |more: &[&'static str]| -> Vec<String> {
        change.iter().map(|a| (*a).to_owned()).chain(more.iter().map(|a| (*a).to_owned())).collect()
    };
    let run = |more: &[&'static str]| {
        let args = with(more);
        place.dm(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ran = run(&["--dry-run"]).expect(Exit::Done);
    golden!(place, "page-rewrap-plan", ran.stdout);
    run(&[]).expect(Exit::ConfirmationNeeded);
    let ran = run(&["--yes", "--reason", "Ada left", "--delete-old"]).expect(Exit::Done);
    golden!(place, "page-rewrap", ran.stdout);

    // The index key proves the change: this host goes on, and is told that its configuration says otherwise.
    place.backup("incremental");
    let ran = place.dm(&["backup", "key", "list"]).expect(Exit::Done);
    golden!(place, "page-keys-changed", ran.stdout);
    let keys = place.dm(&["status", "--json"]).json()["status"]["keys"].clone();
    assert_eq!((keys["generation"].as_u64(), keys["backups_behind"].as_u64()), (Some(1), Some(0)), "{keys}");
    // One without it refuses to seal to somebody whom nobody named here.
    configure(&place, &[&old], None, false);
    let ran = place.dm(&["backup", "run", "--kind", "full"]);
    assert_ne!(ran.exit, Exit::Done);
    golden!(place, "error-other-recipients", ran.stderr);
    configure(&place, &[&new], None, false);
    place.backup("full");

    // The new key restores what was made before; the removed one nothing.
    let restore = |to: &str| {
        let to = place.path(to);
        place.dm(&["restore", &full, "--to", to.to_str().unwrap(), "--json"])
    };
    configure(&place, &[&new], Some("new.key"), false);
    assert_eq!(restore("a.db").expect(Exit::Done).json()["report"]["equal"].as_bool(), Some(true));
    configure(&place, &[&new], Some("owner.key"), false);
    let ran = restore("b.db").expect(Exit::Denied);
    golden!(place, "error-removed-key", ran.stderr);
    configure(&place, &[&new], None, false);
    restore("b.db").expect(Exit::Denied);

    configure(&place, &[&new], Some("new.key"), true);
    let ran = place.dm(&["backup", "key", "rewrap", "--yes"]).expect(Exit::Done);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    let ran = place.dm(&["backup", "key", "rewrap", "--remove", &new, "--yes"]).expect(Exit::Usage);
    assert!(ran.stderr.contains("nobody would be left"), "{}", ran.stderr);
    for wrong in ["age1nonsense", "no-such-file", "AGE-SECRET-KEY-1XYZ"] {
        let ran = place.dm(&["backup", "key", "rewrap", "--add", wrong, "--yes"]).expect(Exit::Usage);
        assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    }
    place.dm(&["backup", "verify", "--level", "full"]).expect(Exit::Done);
    place.dm(&["audit", "verify"]).expect(Exit::Done);
    let log = place.dm(&["audit", "log", "--json"]).expect(Exit::Done).stdout;
    assert!(log.contains("key:rewrap") && log.contains("Ada left"), "{log}");
}

#[test]
fn a_plain_repository_has_no_keys() {
    let place = Place::with_shop();
    place.backup("full");
    let ran = place.dm(&["backup", "key", "list"]).expect(Exit::Done);
    assert!(ran.stdout.contains("not encrypted"), "{}", ran.stdout);
    let ran = place.dm(&["backup", "key", "rewrap", "--renew", "--yes"]);
    assert!(ran.exit != Exit::Done && ran.stderr.contains("nothing to rewrap"), "{}", ran.stderr);
}
