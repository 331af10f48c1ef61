//! The audit trail from outside: checkpoints that are kept, and proofs that are handed on.

use dm_cli::Exit;

use crate::harness::{Place, Ran, files};

fn word(ran: &Ran, label: &str) -> String {
    let line = ran.stdout.lines().find_map(|l| l.trim().strip_prefix(label).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {label}: {}", ran.stdout)).trim().to_owned()
}

#[test]
fn a_kept_checkpoint_finds_a_wiped_and_rewritten_trail() {
    let place = Place::with_shop();
    place.backup("full");
    let nowhere = place.path("no/such/folder");
    let nowhere = nowhere.to_str().unwrap();
    place.dm(&["audit", "checkpoint", "--out", nowhere]).expect(Exit::NotFound);
    let kept = place.path("kept.note");
    let kept = kept.to_str().unwrap();
    place.dm(&["audit", "checkpoint", "--out", kept]).expect(Exit::Done);
    place.dm(&["audit", "checkpoint", "--out", kept]).expect(Exit::Failed);
    let ran = place.dm(&["audit", "verify", "--checkpoint", kept]).expect(Exit::Done);
    assert!(ran.stdout.contains("contained") && ran.stdout.contains("kept outside"), "{}", ran.stdout);
    let proof = place.dm(&["audit", "prove", "--since", kept, "--json"]).expect(Exit::Done).json();
    assert!(proof["proof"]["checkpoint"]["size"].as_u64() > proof["proof"]["old_size"].as_u64());
    // Nobody's checkpoint, and one of another log.
    place.write("bad.note", "text\n");
    let bad = place.path("bad.note");
    place.dm(&["audit", "verify", "--checkpoint", bad.to_str().unwrap()]).expect(Exit::Usage);
    let other = Place::with_shop();
    let note = other.dm(&["audit", "checkpoint"]).expect(Exit::Done).stdout;
    place.write("bad.note", &note);
    let ran = place.dm(&["audit", "verify", "--checkpoint", bad.to_str().unwrap()]).expect(Exit::CheckFailed);
    assert!(ran.stderr.contains("none of this trail's keys"), "{}", ran.stderr);
    // The trail is wiped, and goes on as if nothing had been.
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let path = place.path(".dm").join(file);
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    place.backup("full");
    let ran = place.dm(&["audit", "verify", "--checkpoint", kept]).expect(Exit::CheckFailed);
    assert!(ran.stdout.contains("DAMAGED") && ran.stdout.contains("NOT contained"), "{}", ran.stdout);
    // Nor is such a trail signed by the key that remembers.
    let ran = place.dm(&["audit", "checkpoint"]).expect(Exit::CheckFailed);
    assert!(ran.stderr.contains("nothing is signed"), "{}", ran.stderr);
}

#[test]
fn a_line_is_proven_without_the_trail() {
    let place = Place::with_shop();
    place.backup("full");
    let vkey = word(&place.dm(&["audit", "key"]).expect(Exit::Done), "public key");
    let events = place.dm(&["audit", "log", "--action", "backup:run", "--json"]).expect(Exit::Done).json();
    let event = events["events"][0]["event_id"].as_str().unwrap();
    let file = place.path("event.tlog-proof");
    let file = file.to_str().unwrap();
    place.dm(&["audit", "prove", event, "--payload", "--out", file]).expect(Exit::Done);
    // Elsewhere, with nothing but the file and the key.
    let elsewhere = Place::empty();
    let ran = elsewhere.dm(&["audit", "prove", "--check", file, "--key", &vkey]).expect(Exit::Done);
    assert!(ran.stdout.contains("the proof holds") && ran.stdout.contains("backup:run"), "{}", ran.stdout);
    assert!(!elsewhere.path(".dm").exists(), "no trail is opened for it");
    let text = std::fs::read_to_string(file).unwrap();
    let forged = elsewhere.path("forged");
    std::fs::write(&forged, text.replacen("index ", "index 1", 1)).unwrap();
    let forged = forged.to_str().unwrap();
    elsewhere.dm(&["audit", "prove", "--check", forged, "--key", &vkey]).expect(Exit::CheckFailed);
    let another = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    elsewhere.dm(&["audit", "prove", "--check", file, "--key", another]).expect(Exit::CheckFailed);
    place.dm(&["audit", "prove", "999999"]).expect(Exit::NotFound);
    place.dm(&["audit", "prove", "nothing"]).expect(Exit::Usage);
    place.dm(&["audit", "prove"]).expect(Exit::Usage);
}

#[test]
fn a_lost_key_is_said_and_replaced() {
    let place = Place::with_shop();
    place.backup("full");
    let old = word(&place.dm(&["audit", "key"]).expect(Exit::Done), "public key");
    let file = place.path(".dm/audit.key");
    std::fs::remove_file(&file).unwrap();
    place.backup("full");
    let ran = place.dm(&["audit", "checkpoint"]).expect(Exit::CheckFailed);
    assert!(ran.stderr.contains("is missing") && ran.stderr.contains("--replace"), "{}", ran.stderr);
    let ran = place.dm(&["audit", "verify"]).expect(Exit::Done);
    assert!(ran.stdout.contains("not signed") && ran.stdout.contains("is missing"), "{}", ran.stdout);
    place.dm(&["audit", "key", "--replace"]).expect(Exit::ConfirmationNeeded);
    let new = word(&place.dm(&["audit", "key", "--replace", "--yes"]).expect(Exit::Done), "public key");
    assert_ne!(new, old);
    let note = place.dm(&["audit", "checkpoint"]).expect(Exit::Done).stdout;
    assert!(note.starts_with(new.split('+').next().unwrap()), "{note}");
    let ran = place.dm(&["audit", "verify"]).expect(Exit::Done);
    assert!(!ran.stdout.contains("not signed"), "{}", ran.stdout);
    let events =
        place.dm(&["audit", "log", "--action", "audit:replace-key", "--json"]).expect(Exit::Done).json();
    assert_eq!(events["events"].as_array().unwrap().len(), 2, "intent and outcome");
}

/// Takes one POST and answers it; gives what was sent.
fn webhook(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/checkpoints", listener.local_addr().unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&request).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                if body.len() >= length.unwrap().parse::<usize>().unwrap() {
                    break;
                }
            }
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the request ended early");
            request.extend(&buffer[..read]);
        }
        stream
            .write_all(
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, receiver)
}

#[test]
fn checkpoints_are_taken_outside_and_found_again() {
    let place = Place::with_shop();
    let folder = place.path("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let (url, receiver) = webhook("204 No Content");
    let anchors = format!("[audit]\nanchors = [\"repository\", \"{}\", \"{url}\"]\n", folder.display());
    place.write("dm.toml", &place.configuration(&anchors));
    place.backup("full");
    let posted = receiver.join().unwrap();
    assert!(posted.starts_with("POST /checkpoints") && posted.contains("data-manager/"), "{posted}");
    assert!(posted.contains("\u{2014} data-manager/"), "it is signed: {posted}");
    // The webhook is gone now: everything goes on, and says so.
    place.backup("incremental");
    let status = place.dm(&["status"]).expect(Exit::Done);
    assert!(
        status.stdout.contains("audit trail: DEGRADED") && status.stdout.contains("fails now"),
        "{}",
        status.stdout
    );
    let document = place.dm(&["status", "--json"]).expect(Exit::Done).json();
    let states = document["status"]["audit"]["anchors"].as_array().unwrap();
    let failing = |s: &&serde_json::Value| !s["failure"].is_null();
    assert_eq!((states.len(), states.iter().filter(failing).count()), (3, 1), "{document}");
    let in_repository = files(&place.path("backups/audit"));
    let in_folder = files(&folder);
    assert!(
        in_repository.len() >= 2 && in_folder.len() == in_repository.len(),
        "{in_repository:?} {in_folder:?}"
    );
    // Nobody is asked for a checkpoint: the places have them.
    let ran = place.dm(&["audit", "verify"]).expect(Exit::Done);
    assert!(
        ran.stdout.contains("kept outside") && ran.stdout.contains("repository: contained"),
        "{}",
        ran.stdout
    );
    // Whoever has the store and the key rewrites everything.
    for file in files(&place.path(".dm")) {
        if !file.ends_with("audit.key") {
            std::fs::remove_file(file).unwrap();
        }
    }
    let status = place.dm(&["status", "--json"]).expect(Exit::Done).json();
    assert_eq!(status["status"]["audit"]["unsigned"], serde_json::Value::Null);
    let ran = place.dm(&["audit", "verify"]).expect(Exit::CheckFailed);
    assert!(ran.stdout.contains("NOT contained") && ran.stdout.contains("DAMAGED"), "{}", ran.stdout);
    // A place that cannot be read is said, not passed over.
    std::fs::rename(&folder, place.path("away")).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let ran = place.dm(&["audit", "verify"]).expect(Exit::CheckFailed);
    assert!(ran.stdout.contains("not read"), "{}", ran.stdout);
}

#[test]
fn what_is_no_place_is_refused_and_an_anchor_that_hangs_is_left() {
    let place = Place::with_shop();
    place.write("dm.toml", &place.configuration("[audit]\nanchors = [\"relative/folder\"]\n"));
    let ran = place.dm(&["audit", "verify"]).expect(Exit::Usage);
    assert!(ran.stderr.contains("no place for checkpoints"), "{}", ran.stderr);
    // A server that takes the connection and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let text = format!("[audit]\nanchors = [\"{url}\"]\nanchor_timeout = \"200ms\"\n");
    place.write("dm.toml", &place.configuration(&text));
    place.backup("full");
    let document = place.dm(&["status", "--json"]).expect(Exit::Done).json();
    let failure = document["status"]["audit"]["anchors"][0]["failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("no answer within 0.2 s"), "{failure}");
}

#[test]
fn critical_actions_are_sealed_and_anchored_before_they_answer() {
    let place = Place::with_shop();
    place.write("dm.toml", &place.configuration("[audit]\nanchors = [\"repository\"]\n"));
    let id = place.backup("full");
    place.backup("full");
    let before = files(&place.path("backups/audit")).len();
    place.dm(&["backup", "delete", &id, "--yes"]).expect(Exit::Done);
    // One for the intent before anything is deleted, one for the outcome; what came after waits for the program's end.
    assert!(files(&place.path("backups/audit")).len() >= before + 2);
    let events = place.dm(&["audit", "log", "--action", "backup:delete", "--json"]).expect(Exit::Done).json();
    let times: Vec<&str> =
        events["events"].as_array().unwrap().iter().filter_map(|e| e["sealed_at"].as_str()).collect();
    assert_eq!(times.len(), 2);
    assert_ne!(times[0], times[1], "intent and outcome were sealed apart");
}

#[test]
fn details_are_erased_and_the_trail_holds() {
    let place = Place::with_shop();
    place.backup("full");
    let kept = place.path("kept.note");
    let kept = kept.to_str().unwrap();
    place.dm(&["audit", "checkpoint", "--out", kept]).expect(Exit::Done);
    let events = place.dm(&["audit", "log", "--action", "backup:run", "--json"]).expect(Exit::Done).json();
    let event = events["events"][0]["event_id"].as_str().unwrap();
    assert_ne!(events["events"][0]["details"], serde_json::Value::Null);
    place.dm(&["audit", "erase", event]).expect(Exit::ConfirmationNeeded);
    place.dm(&["audit", "erase", event, "--yes"]).expect(Exit::Done);
    place.dm(&["audit", "erase", event, "--yes"]).expect(Exit::Failed);
    let events = place.dm(&["audit", "log", "--action", "backup:run", "--json"]).expect(Exit::Done).json();
    assert_eq!(events["events"][0]["details"], serde_json::Value::Null);
    let ran = place.dm(&["audit", "verify", "--checkpoint", kept, "--json"]).expect(Exit::Done).json();
    assert_eq!((&ran["verification"]["ok"], &ran["verification"]["erased"]), (&true.into(), &1.into()));
}

#[test]
fn old_details_expire_held_ones_stay_and_every_proof_holds() {
    let place = Place::with_shop();
    let ran = place.dm(&["audit", "expire"]).expect(Exit::Usage);
    assert!(ran.stderr.contains("audit.retention is not set"), "{}", ran.stderr);
    place.write(
        "dm.toml",
        &place.configuration("[audit]\nretention = \"1 year\"\nholds = [\"action=query:\"]\n"),
    );
    place.backup("full");
    let kept = place.path("kept.note");
    let kept = kept.to_str().unwrap();
    place.dm(&["audit", "checkpoint", "--out", kept]).expect(Exit::Done);
    let ran = place.dm(&["audit", "expire"]).expect(Exit::Done);
    assert!(ran.stdout.contains("0 lines lose"), "{}", ran.stdout);
    let event = |action: &str| {
        let ran = place.dm(&["audit", "log", "--action", action, "--outcome", "success", "--json"]);
        ran.expect(Exit::Done).json()["events"].as_array().unwrap().last().unwrap().clone()
    };
    let (backup, query) = (event("backup:run"), event("query:execute"));
    let id = backup["event_id"].as_str().unwrap();
    let plan = place.dm(&["audit", "expire", "--older-than", "0d", "--dry-run", "--json"]).expect(Exit::Done);
    assert!(plan.stdout.contains("dm.audit-expire-plan/1"), "{}", plan.stdout);
    assert_ne!(event("backup:run")["details"], serde_json::Value::Null, "a dry run changes nothing");
    place.dm(&["audit", "expire", "--older-than", "0d"]).expect(Exit::ConfirmationNeeded);
    let ran = place.dm(&["audit", "expire", "--older-than", "0d", "--yes"]).expect(Exit::Done);
    assert!(
        ran.stdout.contains("are held, and keep them") && ran.stdout.contains("erased the details of"),
        "{}",
        ran.stdout
    );
    assert_eq!(event("backup:run")["details"], serde_json::Value::Null);
    assert_eq!(event("query:execute")["details"], query["details"]);
    let result = place.dm(&["audit", "verify", "--checkpoint", kept, "--json"]).expect(Exit::Done).json();
    assert!(result["verification"]["erased"].as_u64().unwrap() > 3, "{result}");
    place.dm(&["audit", "prove", id, "--checkpoint", kept]).expect(Exit::Done);
    let ran =
        place.dm(&["audit", "erase", query["event_id"].as_str().unwrap(), "--yes"]).expect(Exit::Failed);
    assert!(ran.stderr.contains("held"), "{}", ran.stderr);
    let events = place.dm(&["audit", "log", "--action", "audit:expire", "--json"]).expect(Exit::Done).json();
    assert_eq!(events["events"].as_array().unwrap().len(), 2, "intent and outcome: {events}");
    place.dm(&["audit", "expire", "--older-than", "soon"]).expect(Exit::Usage);
    place.write("dm.toml", &place.configuration("[audit]\nholds = [\"everything\"]\n"));
    place.dm(&["audit", "expire", "--older-than", "1d"]).expect(Exit::Usage);
}

#[test]
fn an_export_goes_on_where_the_last_one_ended() {
    let place = Place::with_shop();
    let export = |after: &str, limit: &str| -> Vec<serde_json::Value> {
        let ran = place.dm(&[
            "audit",
            "log",
            "--json-lines",
            "--action",
            "query:",
            "--after",
            after,
            "--limit",
            limit,
        ]);
        ran.expect(Exit::Done).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    place.dm(&["audit", "verify"]).expect(Exit::Done);
    let all = export("0", "4000000000");
    assert!(all.len() > 5 && all.iter().map(|e| e["seq"].as_i64().unwrap()).is_sorted(), "{all:?}");
    let mut pages = export("0", "2");
    while pages.len() < all.len() {
        let page = export(&pages.last().unwrap()["seq"].to_string(), "2");
        assert!(!page.is_empty());
        pages.extend(page);
    }
    assert_eq!(pages, all, "no line is missing, none comes twice");
    assert_eq!(export(&all.last().unwrap()["seq"].to_string(), "9"), Vec::<serde_json::Value>::new());
}
