//! The tree, its signed heads, and proofs from them: held against an independent verifier, and against whoever can write
//! the store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dm_audit::{AuditLog, Checkpoint, EventProof, Kept, LogKey, SignedCheckpoint, leaf_name};
use dm_core::{AuditSink, Clock, ErrorKind, OpContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::{Place, ctx};
use crate::{event, on_both, verify};

on_both!(
    every_seal_is_signed,
    from_one_kept_checkpoint_everything_is_found,
    the_tree_is_checked_too,
    a_head_that_does_not_continue_is_not_signed,
    an_older_log_gets_its_tree,
    a_lost_key_stops_the_signing_only,
    proofs_hold_offline,
    writers_and_killed_sealers_leave_one_log,
    a_clock_that_goes_back_loses_nothing,
    an_erased_payload_breaks_no_proof,
);

pub(crate) struct Signed {
    pub(crate) place: Place,
    pub(crate) log: AuditLog,
    pub(crate) folder: tempfile::TempDir,
}

impl Signed {
    pub(crate) async fn new(place: Place, events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = LogKey::create(&folder.path().join("audit.key"), Some("example.com/shop")).unwrap();
        let log = AuditLog::new(place.open().await.unwrap()).signed_by(key);
        let this = Self { place, log, folder };
        this.add(0..events).await;
        this
    }

    pub(crate) async fn add(&self, events: std::ops::Range<u64>) -> SignedCheckpoint {
        self.log.append_all(&events.map(event).collect::<Vec<_>>()).await.unwrap();
        let report = self.log.seal(&ctx()).await.unwrap();
        assert_eq!(report.unsigned, None);
        let checkpoint = report.checkpoint.unwrap();
        assert_eq!(i64::try_from(checkpoint.size).unwrap(), report.head.seq);
        checkpoint
    }

    fn vkey(&self) -> String {
        self.log.verifier().unwrap().to_string()
    }

    fn file(&self, name: &str, content: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// What the first bad entry is, when the log is held against a checkpoint that was kept.
    async fn against(&self, kept: &SignedCheckpoint) -> (bool, Option<i64>, String) {
        let checkpoint = Checkpoint::open(&kept.note, &self.log.verifier().unwrap()).unwrap();
        let kept = [Kept { place: "a friend".into(), checkpoint }];
        let result = self.log.verify_against(&ctx(), None, &kept).await.unwrap();
        let bad = result.first_bad.clone();
        assert_eq!(result.ok, result.kept[0].ok && bad.is_none(), "{result:?}");
        (result.ok, bad.as_ref().and_then(|b| b.seq), bad.map(|b| b.why).unwrap_or_default())
    }

    pub(crate) async fn copy(&self) {
        for table in TABLES {
            self.place.raw(&format!("CREATE TABLE copy_{table} AS SELECT * FROM {table}")).await;
        }
    }

    pub(crate) async fn restore(&self) {
        for table in TABLES {
            self.place
                .raw(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM copy_{table}"))
                .await;
        }
        self.place.raw("DELETE FROM audit_pending").await;
    }
}

const TABLES: [&str; 4] = ["audit_leaves", "audit_seals", "audit_tiles", "audit_checkpoints"];

/// The independent verifier's word.
fn oracle(arguments: &[&str]) -> Value {
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/tree.py");
    let output = std::process::Command::new("python3").arg(oracle).args(arguments).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(said["ok"] == Value::Bool(true), output.status.success());
    said
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn every_seal_is_signed(place: Place) {
    let log = Signed::new(place, 1).await;
    for events in [1..2, 2..255, 255..256, 256..257, 257..1500] {
        log.add(events).await;
    }
    let result = verify(&log.log).await;
    assert!(result.ok, "{result:?}");
    assert_eq!((result.sealed, result.checkpoints), (1500, 6));
    assert_eq!(result.root, log.log.checkpoint().await.unwrap().map(|c| c.root));
    assert!(log.log.seal(&ctx()).await.unwrap().sealed == 0, "nothing to do is nothing done");
    let Place::Sqlite(_) = &log.place else { return };
    let said = oracle(&["store", path(&log.place.file()), &log.vkey()]);
    assert_eq!((said["size"].as_u64(), said["checkpoints"].as_u64()), (Some(1500), Some(6)), "{said}");
    assert_eq!(said["root"].as_str(), result.root.as_deref());
    // The judge itself can find something.
    log.place
        .raw("UPDATE audit_checkpoints SET root = (SELECT chain_hash FROM audit_seals WHERE seq = 1)")
        .await;
    assert_eq!(oracle(&["store", path(&log.place.file()), &log.vkey()])["ok"], Value::Bool(false));
}

async fn from_one_kept_checkpoint_everything_is_found(place: Place) {
    let log = Signed::new(place, 8).await;
    let early = log.log.checkpoint().await.unwrap().unwrap();
    let late = log.add(8..12).await;
    assert_eq!(log.against(&early).await, (true, None, String::new()));
    assert_eq!(log.against(&late).await, (true, None, String::new()));
    log.copy().await;
    // An edit, hashes and all but the chain.
    log.place.raw("UPDATE audit_leaves SET actor = 'user:mallory' WHERE id = 5").await;
    assert_eq!(log.against(&early).await.1, Some(5));
    log.restore().await;
    // A deletion in the middle.
    log.place.raw("DELETE FROM audit_leaves WHERE id = 6; DELETE FROM audit_seals WHERE seq = 6").await;
    assert_eq!(log.against(&early).await.1, Some(6));
    log.restore().await;
    // A cut tail: first without the tree, which by itself remembers; then the tree and its heads cut as well.
    log.place.raw("DELETE FROM audit_leaves WHERE id > 7; DELETE FROM audit_seals WHERE seq > 7").await;
    let alone = verify(&log.log).await;
    assert_eq!(alone.first_bad.unwrap().seq, Some(8));
    log.place.raw("DELETE FROM audit_tiles; DELETE FROM audit_checkpoints").await;
    assert!(verify(&log.log).await.ok, "it is consistent in itself");
    let (ok, seq, why) = log.against(&early).await;
    assert_eq!((ok, seq), (false, Some(8)), "{why}");
    log.restore().await;
    // A wiped log.
    for table in TABLES {
        log.place.raw(&format!("DELETE FROM {table}")).await;
    }
    assert!(verify(&log.log).await.ok);
    let (ok, seq, why) = log.against(&late).await;
    assert_eq!((ok, seq), (false, Some(1)), "{why}");
    // A rewrite of everything, signed again by whoever has the key but not the signer's memory.
    let stolen = log.folder.path().join("stolen.key");
    std::fs::copy(log.folder.path().join("audit.key"), &stolen).unwrap();
    let thief =
        AuditLog::new(log.place.open().await.unwrap()).signed_by(LogKey::open(&stolen).unwrap().unwrap());
    let events = (0..12).map(|i| {
        let mut event = event(i);
        if i == 4 {
            event.intent.actor = "user:nobody".into();
        }
        event
    });
    thief.append_all(&events.collect::<Vec<_>>()).await.unwrap();
    let report = thief.seal(&ctx()).await.unwrap();
    assert_eq!((report.unsigned, report.checkpoint.unwrap().size), (None, 12));
    assert!(verify(&log.log).await.ok, "it is consistent in itself, and well signed");
    assert_eq!(log.against(&early).await.1, Some(8));
    assert_eq!(log.against(&late).await.1, Some(12));
    // Several kept ones narrow it down: what was rewritten behind the first of them is said to be behind it.
    log.restore().await;
    log.place.raw("DELETE FROM audit_leaves WHERE id > 8; DELETE FROM audit_seals WHERE seq > 8").await;
    log.place.raw("DELETE FROM audit_tiles; DELETE FROM audit_checkpoints WHERE size > 8").await;
    log.log.append_all(&(20..24).map(event).collect::<Vec<_>>()).await.unwrap();
    log.log.seal(&ctx()).await.unwrap();
    let kept = [&early, &late].map(|note| Kept {
        place: format!("the one of {}", note.size),
        checkpoint: Checkpoint::open(&note.note, &log.log.verifier().unwrap()).unwrap(),
    });
    let result = log.log.verify_against(&ctx(), None, &kept).await.unwrap();
    let bad = result.first_bad.unwrap();
    assert!(bad.seq == Some(12) && bad.why.contains("between entry 9 and entry 12"), "{bad:?}");
    assert_eq!(result.kept.iter().map(|k| k.ok).collect::<Vec<_>>(), [true, false]);
}

async fn the_tree_is_checked_too(place: Place) {
    let log = Signed::new(place, 300).await;
    log.add(300..600).await;
    log.copy().await;
    for (defect, seq) in [
        (
            "UPDATE audit_tiles SET hashes = (SELECT hashes FROM audit_tiles WHERE tile_index = 0 AND level = 0) \
          WHERE level = 0 AND tile_index = 1",
            257,
        ),
        ("DELETE FROM audit_tiles WHERE level = 0 AND tile_index = 1", 257),
        ("DELETE FROM audit_tiles WHERE level = 1", 1),
        (
            "UPDATE audit_checkpoints SET root = (SELECT chain_hash FROM audit_seals WHERE seq = 1) WHERE size = 300",
            300,
        ),
        (
            "UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE size = 600) WHERE size = 300",
            300,
        ),
        (
            "UPDATE audit_keys SET vkey = 'EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop'",
            600,
        ),
    ] {
        log.place.raw(defect).await;
        let result = verify(&log.log).await;
        assert_eq!(result.first_bad.as_ref().and_then(|b| b.seq), Some(seq), "{defect}: {result:?}");
        assert_eq!(result.bad, 1, "{defect}: one defect is counted once");
        log.restore().await;
    }
}

async fn a_head_that_does_not_continue_is_not_signed(place: Place) {
    let log = Signed::new(place, 5).await;
    // Rewritten by whoever has the store: the leaves anew, the tree and its heads gone.
    for table in TABLES {
        log.place.raw(&format!("DELETE FROM {table}")).await;
    }
    log.log.append_all(&(20..30).map(event).collect::<Vec<_>>()).await.unwrap();
    let report = log.log.seal(&ctx()).await.unwrap();
    assert_eq!((report.sealed, report.checkpoint), (10, None), "nothing is lost, nothing is signed");
    let why = report.unsigned.unwrap();
    assert!(why.contains("does not continue") && why.contains("that this key signed"), "{why}");
    // It is said again every time.
    log.log.append(&ctx(), &event(31)).await.unwrap();
    assert!(log.log.seal(&ctx()).await.unwrap().unsigned.is_some());
    // A log that is shorter than what was signed.
    for table in TABLES {
        log.place.raw(&format!("DELETE FROM {table}")).await;
    }
    log.log.append(&ctx(), &event(32)).await.unwrap();
    let why = log.log.seal(&ctx()).await.unwrap().unsigned.unwrap();
    assert!(why.contains("covers 5 entries"), "{why}");
}

async fn an_older_log_gets_its_tree(place: Place) {
    // As a store from before the tree: leaves and seals alone.
    let log = Signed::new(place, 700).await;
    log.place.raw("DELETE FROM audit_tiles").await;
    let before = verify(&log.log).await;
    assert!(before.ok, "a tree that is not there yet is no defect: {before:?}");
    log.add(700..701).await;
    let result = verify(&log.log).await;
    assert!(result.ok && result.checkpoints == 2, "{result:?}");
    if let Place::Sqlite(_) = &log.place {
        assert_eq!(oracle(&["store", path(&log.place.file()), &log.vkey()])["size"], 701);
    }
}

async fn a_lost_key_stops_the_signing_only(place: Place) {
    let log = Signed::new(place, 5).await;
    let keyless = AuditLog::new(log.place.open().await.unwrap()).without_key("the key is gone");
    keyless.append(&ctx(), &event(6)).await.unwrap();
    let report = keyless.seal(&ctx()).await.unwrap();
    assert_eq!((report.sealed, report.unsigned.as_deref()), (1, Some("the key is gone")));
    assert!(keyless.seal(&ctx()).await.unwrap().unsigned.is_some(), "it is said every time");
    // Another key does not step in by itself, but does when told to; the log goes on.
    let other = LogKey::create(&log.folder.path().join("new.key"), Some("example.com/shop-2")).unwrap();
    let other = AuditLog::new(log.place.open().await.unwrap()).signed_by(other);
    let report = other.seal(&ctx()).await.unwrap();
    assert!(report.unsigned.unwrap().contains("another key"));
    let report = other.seal_with_new_key(&ctx()).await.unwrap();
    assert_eq!((report.unsigned, report.checkpoint.unwrap().origin.as_str()), (None, "example.com/shop-2"));
    assert!(log.log.append(&ctx(), &event(7)).await.is_ok());
    assert!(
        log.log.seal(&ctx()).await.unwrap().unsigned.unwrap().contains("another key"),
        "the old key is out"
    );
    assert_eq!(other.seal(&ctx()).await.unwrap().unsigned, None);
    let result = verify(&log.log).await;
    assert!(result.ok, "{result:?}");
    assert_eq!(result.checkpoints, 3);
}

async fn proofs_hold_offline(place: Place) {
    let log = Signed::new(place, 300).await;
    let early = log.log.checkpoint().await.unwrap().unwrap();
    let late = log.add(300..700).await;
    let key = log.log.verifier().unwrap();
    let vkey = log.vkey();
    for (seq, by, payload) in
        [(1, None, true), (300, Some(&early), false), (301, None, true), (700, None, true)]
    {
        let name = leaf_name(&i32::to_string(&seq)).unwrap();
        let proof = log.log.prove(&ctx(), &name, by, payload).await.unwrap();
        assert_eq!(proof.event.payload.is_some(), payload);
        let text = proof.to_text().unwrap();
        let read = EventProof::read(&text).unwrap();
        assert_eq!(read, proof);
        let head = read.check(&key, None).unwrap();
        assert_eq!(head.size, by.unwrap_or(&late).size);
        let file = log.file("event.tlog-proof", &text);
        let said = oracle(&["proof", path(&file), &vkey]);
        assert_eq!(said["event_id"].as_str(), Some(proof.event.event_id.as_str()), "{said}");
        // Every change of the proof is refused by both.
        type Forge = fn(&mut EventProof);
        let forgeries: [Forge; 5] = [
            |p| p.event.actor = "user:somebody".into(),
            |p| p.index ^= 1,
            |p| p.path[0] = "00".repeat(32),
            |p| drop(p.path.pop()),
            |p| p.checkpoint.note = p.checkpoint.note.replacen("\n3", "\n4", 1).replacen("\n7", "\n8", 1),
        ];
        for (i, forge) in forgeries.iter().enumerate() {
            let mut forged = proof.clone();
            forge(&mut forged);
            assert_ne!(forged, proof, "{i}");
            assert_eq!(forged.check(&key, None).unwrap_err().kind(), ErrorKind::CheckFailed, "{i}");
            let file = log.file("forged", &forged.to_text().unwrap());
            assert_eq!(oracle(&["proof", path(&file), &vkey])["ok"], Value::Bool(false), "{i}");
        }
        if let Some(payload) = &proof.event.payload {
            let mut forged = proof.clone();
            forged.event.payload.as_mut().unwrap().details = payload.details.replace("\"n\"", "\"m\"");
            assert_eq!(forged.check(&key, None).unwrap_err().kind(), ErrorKind::CheckFailed);
        }
    }
    let kept = Checkpoint::open(&early.note, &key).unwrap();
    let proof = log.log.prove(&ctx(), &leaf_name("5").unwrap(), None, false).await.unwrap();
    assert!(proof.check(&key, Some(&kept)).is_err(), "it is by another head than the one that is kept");
    for missing in ["701", "00000000-0000-0000-0000-000000000000"] {
        let error = log.log.prove(&ctx(), &leaf_name(missing).unwrap(), None, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert!(leaf_name("what?").is_err());
    for bad in ["", "c2sp.org/tlog-proof@v1\n", "c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\nx\n"] {
        assert_eq!(EventProof::read(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
    }
    // The newer head continues the older one.
    let proof = log.log.prove_consistency(&ctx(), &kept).await.unwrap();
    assert_eq!(proof.check(&key, &kept).unwrap().size, 700);
    let (old, new) =
        (log.file("old.note", &early.note), log.file("new.json", &serde_json::to_string(&proof).unwrap()));
    assert_eq!(oracle(&["consistency", path(&old), path(&new), &vkey])["size"], 700);
    let mut forged = proof.clone();
    forged.path[0] = "11".repeat(32);
    assert!(forged.check(&key, &kept).is_err());
    let new = log.file("forged.json", &serde_json::to_string(&forged).unwrap());
    assert_eq!(oracle(&["consistency", path(&old), path(&new), &vkey])["ok"], Value::Bool(false));
    let another = Checkpoint { root: [9; 32], ..kept };
    assert_eq!(log.log.prove_consistency(&ctx(), &another).await.unwrap_err().kind(), ErrorKind::CheckFailed);
}

/// A clock that is wrong by so much.
#[derive(Debug)]
struct Off(TimeDelta);

impl Clock for Off {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.0
    }
}

fn off(by: TimeDelta) -> OpContext {
    ctx().with_clock(Arc::new(Off(by)))
}

/// Each sealer believes that the others' leases have run out, and is killed wherever it is just then.
async fn writers_and_killed_sealers_leave_one_log(place: Place) {
    const WRITERS: u64 = 64;
    const EACH: u64 = 6;
    let seed = dm_testkit::seed();
    let log = Signed::new(place, 1).await;
    let done = tokio_util::sync::CancellationToken::new();
    let sealers: Vec<_> = (0..3u8)
        .map(|n| {
            let (url, done) = (log.place.url(), done.clone());
            let key = log.folder.path().join("audit.key");
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(n)));
                let store = crate::support::open(url).await.unwrap();
                let log = AuditLog::new(store).signed_by(LogKey::open(&key).unwrap().unwrap());
                let ctx = off(TimeDelta::seconds(31 * i64::from(n)));
                let mut killed = 0;
                while !done.is_cancelled() {
                    let patience = Duration::from_micros(random.random_range(100..30_000));
                    match tokio::time::timeout(patience, log.seal(&ctx)).await {
                        Ok(report) => assert_eq!(report.unwrap().unsigned, None, "seed {seed}"),
                        Err(_) => killed += 1,
                    }
                }
                killed
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = log.log.clone();
            tokio::spawn(async move {
                for i in 0..EACH {
                    log.append(&ctx(), &event(1 + writer * EACH + i)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.cancel();
    let mut killed = 0;
    for sealer in sealers {
        killed += sealer.await.unwrap();
    }
    assert!(killed > 0, "nobody was killed; seed {seed}");
    // Whoever was killed may have left a lease; a clock ahead of all of them does not wait for it.
    // What the killed had sent off may still arrive, and take the lease for the last time.
    let give_up = std::time::Instant::now() + Duration::from_secs(20);
    let report = loop {
        let report = log.log.seal(&off(TimeDelta::hours(1))).await.unwrap();
        if report.led || std::time::Instant::now() > give_up {
            break report;
        }
        tokio::task::yield_now().await;
    };
    assert!(report.led && report.unsigned.is_none(), "{report:?}; seed {seed}");
    let result = verify(&log.log).await;
    assert!(result.ok, "{result:?}; seed {seed}");
    assert_eq!((result.sealed, result.unsealed), (1 + WRITERS * EACH, 0), "seed {seed}");
    if let Place::Sqlite(_) = &log.place {
        let said = oracle(&["store", path(&log.place.file()), &log.vkey()]);
        assert_eq!(said["size"].as_u64(), Some(1 + WRITERS * EACH), "{said}; seed {seed}");
    }
}

async fn a_clock_that_goes_back_loses_nothing(place: Place) {
    let log = Signed::new(place, 3).await;
    // A sealer a year ahead dies with the lease.
    let ahead = off(TimeDelta::days(365));
    let lease = log.log.store().acquire_lease(&ahead, "audit-sealer", "dead", Duration::from_secs(30)).await;
    assert!(lease.unwrap().is_some());
    log.log.append(&ctx(), &event(3)).await.unwrap();
    let report = log.log.seal(&ctx()).await.unwrap();
    assert_eq!(
        (report.sealed, report.led, report.unsigned),
        (1, true, None),
        "its lease does not count for a year"
    );
    log.log.append(&ctx(), &event(4)).await.unwrap();
    let report = log.log.seal(&off(TimeDelta::days(-365))).await.unwrap();
    assert_eq!((report.sealed, report.led, report.unsigned), (1, true, None));
    let result = verify(&log.log).await;
    assert!(result.ok && result.sealed == 5, "{result:?}");
}

async fn an_erased_payload_breaks_no_proof(place: Place) {
    let log = Signed::new(place, 10).await;
    let key = log.log.verifier().unwrap();
    let name = leaf_name("8").unwrap();
    let kept = log.log.checkpoint().await.unwrap().unwrap();
    let with_payload = log.log.prove(&ctx(), &name, None, true).await.unwrap();
    let mut intent = event(10);
    intent.intent.action = "audit:erase".into();
    let run_id = intent.intent.run_id;
    log.log.append(&ctx(), &intent).await.unwrap();
    let id = log.log.erase(&name, run_id).await.unwrap();
    assert_eq!(id.to_string(), with_payload.event.event_id);
    assert_eq!(log.log.erase(&name, run_id).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        log.log.erase(&leaf_name("99").unwrap(), run_id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    log.log.seal(&ctx()).await.unwrap();
    let result = verify(&log.log).await;
    assert!(result.ok && result.erased == 1, "{result:?}");
    crate::agree(&log.place, &result).await;
    assert_eq!(log.against(&kept).await, (true, None, String::new()));
    // Nothing of it is left, the proof without it is as before, and whoever kept the payload can still open the commitment.
    assert_eq!(
        log.place
            .number(
                "SELECT COUNT(*) FROM audit_leaves WHERE salt IS NULL AND details IS NULL AND error IS NULL"
            )
            .await,
        1
    );
    let after = log.log.prove(&ctx(), &name, Some(&kept), true).await.unwrap();
    assert_eq!((after.event.payload.as_ref(), after.path.as_slice()), (None, with_payload.path.as_slice()));
    after.check(&key, None).unwrap();
    with_payload.check(&key, None).unwrap();
    // An erasure that nobody ordered, and one that left something, are defects.
    for (defect, why) in [
        ("UPDATE audit_leaves SET erased_by = 'nobody' WHERE id = 8", "not in the log"),
        ("UPDATE audit_leaves SET salt = commitment WHERE id = 8", "a part of it is there"),
        ("UPDATE audit_leaves SET salt = NULL, erased_by = NULL WHERE id = 8", "payload is gone"),
    ] {
        log.place.raw(defect).await;
        let result = verify(&log.log).await;
        let bad = result.first_bad.clone().unwrap();
        assert!(bad.seq == Some(8) && bad.why.contains(why), "{result:?}");
        log.place
            .raw(&format!("UPDATE audit_leaves SET salt = NULL, erased_by = '{run_id}' WHERE id = 8"))
            .await;
    }
    assert!(verify(&log.log).await.ok);
}
