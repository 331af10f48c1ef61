//! A repository as release 0.1.0 leaves it, with everything that the format knows: every later release lists, reads, verifies and goes
//! on with it. `fixtures/v1` beside it is what was there before there were holds, generations of recipients and log keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dm_core::*;
use dm_repository::*;

use crate::folder::{copy, files, golden, store};
use crate::support::*;

const STREAM: &str = "7301234567890123456";
const TRAIL: &str = "fixture";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1.0")
}

/// Two owners, of whom the second took the first one's place, and the index key.
struct Owners {
    first: Identity,
    second: Identity,
    index: Identity,
}

impl Owners {
    fn read() -> Self {
        let of = |name: &str| Identity::from_file(&fixture().join(name), None).unwrap();
        Self {
            first: of("TEST-ONLY.first"),
            second: of("TEST-ONLY.second"),
            index: of("TEST-ONLY.index-identity"),
        }
    }

    fn first(&self) -> Keys {
        Keys { identity: self.first.clone(), index: self.index.clone() }
    }

    fn second(&self) -> Keys {
        Keys { identity: self.second.clone(), index: self.index.clone() }
    }
}

/// A copy of the fixture that may be written to.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        copy(&fixture().join("primary"), &place.path().join("primary"));
        copy(&fixture().join("copy"), &place.path().join("copy"));
        Self(place)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn open(&self, name: &str, keys: &Keys) -> dm_core::Result<Repository> {
        Repository::open(store(&self.folder(name))?, &ctx(), open_options(Some(keys))).await
    }
}

fn log(n: u8) -> LogPiece {
    LogPiece {
        timeline: 1,
        start: u64::from(n) * 4096,
        sealed_at: "2026-11-20T12:00:00Z".parse().unwrap(),
        bytes: vec![n; 4096].into(),
    }
}

const HISTORY: &[u8] = b"1\t0/3000\tno recovery target specified\n";

/// The backups in order: a full one, an incremental one, that one written anew, and one that was made afterwards.
fn by_content(listing: &Listing) -> [BackupHeader; 4] {
    let rewritten = listing.backups.iter().find(|b| b.rewrites.is_some()).unwrap();
    let old = rewritten.rewrites.unwrap().backup;
    let next = listing.backups.iter().find(|b| b.id == old).unwrap();
    let full = listing.backups.iter().find(|b| next.references == [b.id]).unwrap();
    let last = listing.backups.iter().find(|b| b.references.contains(&rewritten.id)).unwrap();
    [full.clone(), next.clone(), rewritten.clone(), last.clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_of_release_0_1_0_is_read_verified_and_gone_on_with() {
    let (owners, place) = (Owners::read(), Place::new());
    let (first, second) = golden();
    let repository = place.open("primary", &owners.second()).await.unwrap();
    let listing = repository.list(&ctx(), None).await.unwrap();
    assert!(listing.problems.is_empty(), "{:?}", listing.problems);
    assert_eq!((listing.backups.len(), listing.incomplete.len()), (4, 1), "{listing:?}");
    let [full, next, anew, last] = by_content(&listing);
    for (backup, content) in [(&full, &first), (&next, &second), (&anew, &second), (&last, &first)] {
        assert_holds(&repository, backup, content).await;
        let verified = repository.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap();
        assert!(verified.ok, "{:?}", verified.findings);
    }

    // What is said of them.
    assert_eq!(anew.rewrites.unwrap().kind, BackupKind::Incremental);
    assert!(listing.pins[&full.id].pinned && !listing.pins[&next.id].pinned);
    assert_eq!((listing.verified[&full.id].level, listing.verified[&full.id].ok), (VerifyLevel::Full, true));
    let holds: Vec<_> =
        listing.holds[&next.id].iter().map(|h| (h.name.as_str(), h.reason.as_str())).collect();
    assert_eq!(holds, [("case-1", "a fixture")], "the other hold was released");

    // Who reads it: the second owner everything, the first one what was made in his time, and what was not rewrapped.
    let keys = repository.key_list(&ctx()).await.unwrap();
    assert_eq!((keys.generation, keys.backups, keys.behind.len()), (1, 4, 0), "{keys:?}");
    assert!(keys.generations[1].proven);
    let earlier = OpenOptions { index_identity: None, ..open_options(Some(&owners.first())) };
    let earlier = Repository::open(store(&place.folder("primary")).unwrap(), &ctx(), earlier).await.unwrap();
    assert_holds(&earlier, &next, &second).await;
    assert_eq!(earlier.read(&ctx(), &anew).await.unwrap_err().kind(), ErrorKind::Denied);

    // Its log, of both owners' times, with a gap, a quiet time, a history and a mark of expiry.
    let t = target("shop");
    let found = repository.list_log(&ctx(), &t, STREAM).await.unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(found.entries.iter().map(|e| e.start / 4096).collect::<Vec<_>>(), [1, 2, 4]);
    for entry in &found.entries {
        let piece = repository.read_log(&ctx(), &t, STREAM, entry).await.unwrap();
        assert_eq!(piece, log(u8::try_from(entry.start / 4096).unwrap()).bytes);
    }
    assert_eq!((found.gaps.len(), found.quiet.len(), found.floor(1)), (1, 1, 4096));
    let history = repository.read_log_history(&ctx(), &t, STREAM, 2).await.unwrap();
    assert_eq!(history.as_deref(), Some(HISTORY));
    let notes = repository.list_checkpoints(&ctx(), TRAIL).await.unwrap();
    assert_eq!(repository.read_checkpoint(&ctx(), TRAIL, &notes[0]).await.unwrap(), "a note\n");

    // It can be gone on with: from the interrupted backup, and from the last one.
    let writer = begin(&repository, "shop", None).await.unwrap();
    assert_eq!(writer.resumed_from(), listing.incomplete.first().copied());
    write_all(&writer, &second).await.unwrap();
    let resumed = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    assert!(resumed.resumed.is_some_and(|from| from.bytes > 0), "{resumed:?}");
    assert_holds(&repository, &resumed, &second).await;
    let more = back_up(&repository, "shop", Some((&last, BackupKind::Incremental)), &second).await.unwrap();
    assert_holds(&repository, &more, &second).await;

    // The copy forgot one of them by itself and keeps what else there is; the next copy brings what is new, and not that one.
    let copy = place.open("copy", &owners.second()).await.unwrap();
    let there = copy.list(&ctx(), None).await.unwrap();
    assert!(there.problems.is_empty(), "{:?}", there.problems);
    assert_eq!(there.backups.iter().map(|b| b.id).collect::<Vec<_>>(), [full.id, next.id, anew.id]);
    assert!(there.tombstoned.contains(&last.id), "{there:?}");
    assert!(repository.copy_to(&ctx(), &copy, &CopyOptions::default()).await.is_ok());
    let there = copy.list(&ctx(), None).await.unwrap();
    assert!(
        there.backups.iter().any(|b| b.id == resumed.id) && there.backups.iter().all(|b| b.id != last.id)
    );
    assert_holds(&copy, &anew, &second).await;
    assert_holds(&copy, &resumed, &second).await;
}

/// What is said of a place whose objects are not what they were: everything that a person would see.
async fn complaints(place: &Arc<TestStore>, keys: &Keys) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let store = Arc::clone(place) as _;
    let repository = match Repository::open(store, &ctx(), open_options(Some(keys))).await {
        Ok(repository) => repository,
        Err(error) => return vec![error.to_string()],
    };
    let t = target("shop");
    let listing = match repository.list(&ctx(), None).await {
        Ok(listing) => listing,
        Err(error) => return vec![error.to_string()],
    };
    said.extend(listing.problems.iter().map(|p| p.message.clone()));
    for backup in &listing.backups {
        match repository.verify(&ctx(), backup, VerifyLevel::Full).await {
            Ok(verified) => said.extend(verified.findings.iter().map(|f| f.message.clone())),
            Err(error) => said.push(error.to_string()),
        }
    }
    match repository.verify_keys(&ctx()).await {
        Ok(findings) => said.extend(findings.iter().map(|f| f.message.clone())),
        Err(error) => said.push(error.to_string()),
    }
    match repository.list_log(&ctx(), &t, STREAM).await {
        Ok(found) => {
            said.extend(found.problems.iter().map(|p| p.message.clone()));
            for entry in &found.entries {
                let read = repository.read_log(&ctx(), &t, STREAM, entry).await;
                said.extend(read.err().map(|e| e.to_string()));
            }
            let history = repository.verify_log_history(&ctx(), &t, STREAM, 2).await;
            said.extend(history.err().map(|e| e.to_string()));
        }
        Err(error) => said.push(error.to_string()),
    }
    let note = match repository.list_checkpoints(&ctx(), TRAIL).await {
        Ok(notes) => repository.read_checkpoint(&ctx(), TRAIL, &notes[0]).await.map(drop),
        Err(error) => Err(error),
    };
    said.extend(note.err().map(|e| e.to_string()));
    said
}

/// The defect: one flipped bit in each of its objects, one object at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_any_object_of_the_fixture_is_found() {
    let keys = Owners::read().second();
    let folder = fixture().join("primary");
    let objects: Vec<(object_store::path::Path, Bytes)> = files(&folder)
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| {
            let key = path.strip_prefix(&folder).unwrap().to_str().unwrap();
            (key.into(), fs::read(&path).unwrap().into())
        })
        .collect();
    let filled = async || {
        let store = TestStore::new();
        for (key, bytes) in &objects {
            store.poke(key, bytes.clone()).await;
        }
        store
    };
    assert_eq!(complaints(&filled().await, &keys).await, Vec::<String>::new());
    let mut silent = BTreeSet::new();
    for (key, bytes) in &objects {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let store = filled().await;
        store.poke(key, bytes.into()).await;
        if complaints(&store, &keys).await.is_empty() {
            silent.insert(key.to_string());
        }
    }
    // A journal serves the next run alone, which looks at it; of marks of expiry and quiet times the names count, and the first
    // piece of log is expired; key.json is a proof for the host that seals with it, which makes another key when it does not hold.
    let told = |key: &&String| {
        ["/journal/", "/expired/", "/quiet/", "/key.json", "/0000000000000000-0000000000001000-"]
            .iter()
            .any(|part| key.contains(part))
            || interrupted(key)
    };
    let unexpected: Vec<&String> = silent.iter().filter(|key| !told(key)).collect();
    assert!(unexpected.is_empty(), "damaged, and nobody says so: {unexpected:#?}");
    assert!(objects.len() > 45, "only {} objects", objects.len());
}

/// Packs and keys of the backup that was never committed; no listing vouches for them.
fn interrupted(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    parts.len() > 2
        && parts[0] == "backups"
        && !fixture().join("primary/backups").join(parts[1]).join(parts[2]).join("backup.json").exists()
}

/// Writes the fixture anew. Only before this release is out; later releases get fixtures of their own, beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes into the source tree"]
async fn write_the_fixture_of_this_release() {
    fs::create_dir_all(fixture()).unwrap();
    let owners =
        Owners { first: Identity::generate(), second: Identity::generate(), index: Identity::generate() };
    for (name, identity) in [
        ("TEST-ONLY.first", &owners.first),
        ("TEST-ONLY.second", &owners.second),
        ("TEST-ONLY.index-identity", &owners.index),
    ] {
        let text = format!("# for tests only: protects nothing\n{}\n", identity.to_secret_text().expose());
        fs::write(fixture().join(name), text).unwrap();
    }
    for place in ["primary", "copy"] {
        let _ = fs::remove_dir_all(fixture().join(place));
    }
    let (first, second) = golden();
    let folder = fixture().join("primary");
    let keys = owners.first();
    let (init, options) = (init_options(Some(&keys)), open_options(Some(&keys)));
    let old = Repository::init(store(&folder).unwrap(), &ctx(), init, options.clone()).await.unwrap();
    let full = back_up(&old, "shop", None, &first).await.unwrap();
    let next = back_up(&old, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
    old.pin(&ctx(), &full, true, "a fixture").await.unwrap();
    old.pin(&ctx(), &next, true, "a fixture").await.unwrap();
    old.pin(&ctx(), &next, false, "no more").await.unwrap();
    old.hold(&ctx(), &next, "case-1", "a fixture", None).await.unwrap();
    old.hold(&ctx(), &next, "case-2", "a fixture", None).await.unwrap();
    old.release_hold(&ctx(), &next, "case-2", "settled").await.unwrap();
    assert!(old.verify(&ctx(), &full, VerifyLevel::Full).await.unwrap().ok);
    let t = target("shop");
    for n in 0..3 {
        old.put_log(&ctx(), &t, STREAM, &log(n)).await.unwrap();
    }
    let request = RewrapRequest {
        recipients: vec![owners.second.recipient()],
        reason: "a fixture".into(),
        ..RewrapRequest::default()
    };
    let mut both = options;
    both.identities.push(owners.second.clone());
    let both = Repository::open(store(&folder).unwrap(), &ctx(), both).await.unwrap();
    let plan = both.plan_rewrap(&ctx(), &request).await.unwrap();
    assert!(both.apply_rewrap(&ctx(), &plan).await.unwrap().is_whole());

    let options = open_options(Some(&owners.second()));
    let new = Repository::open(store(&folder).unwrap(), &ctx(), options.clone()).await.unwrap();
    let anew = new.rewrite(&ctx(), &next, None).await.unwrap();
    let last = back_up(&new, "shop", Some((&anew, BackupKind::Incremental)), &first).await.unwrap();
    new.put_log(&ctx(), &t, STREAM, &log(4)).await.unwrap();
    new.put_log_gap(&ctx(), &t, STREAM, 1, 3 * 4096..4 * 4096, "a fixture").await.unwrap();
    new.put_log_history(&ctx(), &t, STREAM, 2, HISTORY.into()).await.unwrap();
    let end = LogPosition { timeline: 1, offset: 5 * 4096 };
    new.put_log_quiet(&ctx(), &t, STREAM, end, "2026-11-20T13:00:00Z".parse().unwrap()).await.unwrap();
    new.expire_log(&ctx(), &t, STREAM, &[LogFloor { timeline: 1, position: 4096, history: false }])
        .await
        .unwrap();
    new.put_checkpoint(&ctx(), TRAIL, 1, "a note\n").await.unwrap();

    let there = fixture().join("copy");
    let copied = new.open_copy(store(&there).unwrap(), &ctx(), options).await.unwrap();
    assert!(new.copy_to(&ctx(), &copied, &CopyOptions::default()).await.unwrap().is_whole());
    assert!(copied.verify(&ctx(), &anew, VerifyLevel::Stored).await.unwrap().ok);
    copied.tombstone(&ctx(), &last, "a fixture").await.unwrap();

    let writer = begin(&new, "shop", None).await.unwrap();
    write_all(&writer, &second).await.unwrap();
    writer.suspend(&ctx()).await.unwrap();
    for place in [&folder, &there] {
        for empty in ["leases", "probes"] {
            let _ = fs::remove_dir_all(place.join(empty));
        }
    }
}
