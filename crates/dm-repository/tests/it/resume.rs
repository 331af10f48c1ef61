//! An interrupted backup is gone on with: what it stored is not sent again, and the new backup is as good as a fresh one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dm_core::*;
use dm_repository::*;
use object_store::path::Path;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::*;

/// Members of which each has many packs.
fn large(seed: u64) -> Vec<Sample> {
    let mut rng = StdRng::seed_from_u64(seed);
    vec![
        pages("file/main.db", noise(&mut rng, (1300 << 10) + 700), 8192, 256 << 10),
        stream("data/t/0000", noise(&mut rng, 1 << 20), 16 << 10),
        stream("schema/pre", noise(&mut rng, 999), 1000),
    ]
}

async fn try_on(
    store: &Arc<TestStore>,
    keys: Option<&Keys>,
    parent: Option<(&BackupHeader, BackupKind)>,
    samples: &[Sample],
) -> Result<BackupHeader> {
    let repository = Repository::open(Arc::clone(store) as _, &ctx(), open_options(keys)).await?;
    back_up(&repository, "shop", parent, samples).await
}

/// Packs (key and size) in the folders of backups that are not committed.
async fn left_packs(store: &TestStore) -> Vec<(Path, u64)> {
    let all = store.dump().await;
    let committed: BTreeSet<String> =
        all.iter().filter_map(|(k, _)| k.as_ref().strip_suffix("/backup.json").map(str::to_owned)).collect();
    all.into_iter()
        .filter_map(|(key, bytes)| {
            let (folder, _) = key.as_ref().split_once("/packs/")?;
            (!committed.contains(folder)).then(|| (key.clone(), bytes.len() as u64))
        })
        .collect()
}

/// A run that dies after so many calls of its writing.
async fn interrupt(store: &Arc<TestStore>, samples: &[Sample], calls: usize) {
    let dying = store.fork();
    let repository = reopen(&dying, None).await;
    let writer = begin(&repository, "shop", None).await.unwrap();
    dying.fail(calls, Fault::Dead);
    die(writer, samples).await;
}

/// Writes over a store that dies on the way. Packs are put in the background: the commit may be the first to hear of it.
async fn die(writer: BackupWriter, samples: &[Sample]) {
    if write_all(&writer, samples).await.is_ok() {
        writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap_err();
    }
}

#[derive(Debug)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl ProgressSink for Heard {
    fn report(&self, progress: Progress) {
        if let Progress::Warning(text) = progress {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A context that keeps the warnings.
fn listening() -> (OpContext, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    (ctx().with_progress(Arc::new(Heard(Arc::clone(&heard)))), heard)
}

async fn begin_with(repository: &Repository, ctx: &OpContext, resume: bool) -> Result<BackupWriter> {
    let start = BackupStart {
        target: target("shop"),
        kind: BackupKind::Full,
        parent: None,
        started_at: chrono::Utc::now(),
        resume,
    };
    repository.begin(ctx, start).await
}

async fn finish(repository: &Repository, ctx: &OpContext, samples: &[Sample]) -> BackupHeader {
    let writer = begin_with(repository, ctx, true).await.unwrap();
    write_all(&writer, samples).await.unwrap();
    writer.commit(ctx, source(chrono::Utc::now()), summary()).await.unwrap()
}

async fn is_sound(repository: &Repository, header: &BackupHeader, samples: &[Sample]) {
    let verification = repository.verify(&ctx(), header, VerifyLevel::Full).await.unwrap();
    assert!(verification.ok, "{:?}", verification.findings);
    assert_holds(repository, header, samples).await;
}

/// Once everything has been swept, the repository holds backups alone, and these hold what they need and no more.
async fn nothing_is_left_over(store: &TestStore, repository: &Repository, reported: &[&BackupHeader]) {
    for _ in 0..3 {
        store.advance(30 * 3600);
        repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    }
    let listing = repository.list(&ctx(), None).await.unwrap();
    assert!(listing.incomplete.is_empty() && listing.problems.is_empty(), "{listing:?}");
    assert_eq!(left_packs(store).await, []);
    let objects = store.dump().await;
    let whole: BTreeSet<String> = listing.backups.iter().map(|b| b.id.to_string()).collect();
    for (key, _) in &objects {
        let parts: Vec<&str> = key.as_ref().split('/').collect();
        assert!(parts[0] != "backups" || whole.contains(parts[2]), "{key} is left");
    }
    for backup in reported {
        let of = |part: &str| {
            let folder = format!("{}/{part}/", backup.id);
            objects.iter().filter(|(k, _)| k.as_ref().contains(&folder)).count() as u64
        };
        assert_eq!((of("packs"), of("journal")), (backup.counts.packs, 0));
    }
}

/// Packs that an unencrypted journal names.
async fn written_down(store: &TestStore) -> BTreeSet<String> {
    let mut packs = BTreeSet::new();
    for (key, bytes) in store.dump().await {
        let Some((folder, _)) = key.as_ref().split_once("/journal/") else { continue };
        let content = zstd::decode_all(&bytes[..]).unwrap();
        let page: serde_json::Value = serde_json::from_slice(&content[64..]).unwrap();
        for pack in page["packs"].as_array().unwrap() {
            packs.insert(format!("{folder}/packs/{:08}.pack", pack["n"].as_u64().unwrap()));
        }
    }
    packs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_rerun_sends_little_again() {
    for (keys, step) in [(None, 1), (Some(Keys::new()), 7)] {
        let samples = large(1);
        let fresh = {
            let store = TestStore::new();
            let repository = make(&store, keys.as_ref()).await;
            let header = back_up(&repository, "shop", None, &samples).await.unwrap();
            assert_eq!(header.resumed, None);
            store.stored()
        };
        let (mut n, mut resumed, mut worst, mut largest_loss) = (0, 0, 0.0_f64, 0);
        loop {
            let store = TestStore::new();
            make(&store, keys.as_ref()).await;
            let dying = store.fork();
            dying.fail(n, Fault::Dead);
            let result = try_on(&dying, keys.as_ref(), None, &samples).await;
            let died = dying.calls() > n;
            let left = left_packs(&store).await;
            let stored: u64 = left.iter().map(|(_, size)| size).sum();
            let not_yet = if keys.is_some() {
                left.iter().map(|(_, size)| *size).max().unwrap_or(0)
            } else {
                let known = written_down(&store).await;
                left.iter().filter(|(key, _)| !known.contains(key.as_ref())).map(|(_, size)| size).sum()
            };

            let after = store.fork();
            let again = try_on(&after, keys.as_ref(), None, &samples).await.unwrap();
            let repository = reopen(&store.fork(), keys.as_ref()).await;
            is_sound(&repository, &again, &samples).await;
            if result.is_err() {
                // Of what was stored, at most 5 %, and what was not written down yet. (Encryption adds some bytes to each pack.)
                let again_sent = after.stored().saturating_sub(fresh - stored.min(fresh));
                assert!(
                    again_sent <= stored / 20 + not_yet + 2000,
                    "call {n}: {again_sent} of {stored} bytes were sent again, {left:?}"
                );
                largest_loss = largest_loss.max(not_yet);
                if let Some(from) = again.resumed {
                    resumed += 1;
                    assert!(from.bytes <= stored);
                    worst = worst.max(again_sent.saturating_sub(not_yet) as f64 / stored as f64);
                    // Everything that is not a pack is small beside them.
                    assert!(after.sent() - after.stored() < fresh / 20, "{}", after.sent() - after.stored());
                }
            }
            if n % 5 == 0 || !died {
                nothing_is_left_over(&store, &repository, &[&again]).await;
                is_sound(&repository, &again, &samples).await;
            }
            if !died {
                result.unwrap();
                break;
            }
            n += step;
        }
        println!(
            "{n} calls, {resumed} gone on with, {worst:.3} of it sent again, {largest_loss} not written down"
        );
        assert!(n > 40 && resumed * step > n / 3, "{n} calls, {resumed} resumed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_interrupted_again_and_again_comes_to_its_end() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        make(&store, keys.as_ref()).await;
        let samples = large(2);
        let mut sent = 0;
        // Each comes one member further before it is cut.
        for members in 1..=samples.len() {
            let cut = store.fork();
            let repository = reopen(&cut, keys.as_ref()).await;
            let writer = begin(&repository, "shop", None).await.unwrap();
            assert_eq!(writer.resumed_from().is_some(), members > 1);
            write_all(&writer, &samples[..members]).await.unwrap();
            writer.suspend(&ctx()).await.unwrap();
            sent += cut.stored();
            store.advance(60);
        }
        let last = store.fork();
        let header = try_on(&last, keys.as_ref(), None, &samples).await.unwrap();
        sent += last.stored();
        let repository = reopen(&store.fork(), keys.as_ref()).await;
        is_sound(&repository, &header, &samples).await;
        assert!(header.resumed.as_ref().unwrap().bytes > header.sizes.stored / 2, "{header:?}");
        assert!(sent < header.sizes.stored * 3 / 2, "{sent} were sent for {}", header.sizes.stored);
        nothing_is_left_over(&store, &repository, &[&header]).await;
        is_sound(&repository, &header, &samples).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_run_leaves_what_it_had_in_memory_too() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let mut samples = large(3);
    let writer = begin(&repository, "shop", None).await.unwrap();
    let id = writer.id();
    write_all(&writer, &samples).await.unwrap();
    writer.suspend(&ctx()).await.unwrap();
    // The next one reads anew: what changed is as it is now.
    samples[0].bytes[5] ^= 1;
    samples[1].bytes.truncate(1 << 19);
    let after = store.fork();
    let header = try_on(&after, None, None, &samples).await.unwrap();
    assert_eq!(header.resumed.unwrap().backup, id);
    assert!(after.stored() < 10_000, "a page and no more: {}", after.stored());
    is_sound(&repository, &header, &samples).await;
    nothing_is_left_over(&store, &repository, &[&header]).await;
    is_sound(&repository, &header, &samples).await;
    // Where nothing was stored, nothing is left.
    let writer = begin(&repository, "shop", None).await.unwrap();
    writer.suspend(&ctx()).await.unwrap();
    assert!(repository.list(&ctx(), None).await.unwrap().incomplete.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_goes_on_beside_its_parent() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let first = large(4);
        let full = back_up(&repository, "shop", None, &first).await.unwrap();
        let mut second = first.clone();
        let other = large(5);
        second[0].bytes[..1 << 20].copy_from_slice(&other[0].bytes[..1 << 20]);
        second[1].bytes.extend_from_slice(&other[1].bytes);
        let writer = begin(&repository, "shop", Some((&full, BackupKind::Incremental))).await.unwrap();
        let id = writer.id();
        write_all(&writer, &second).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        // A full backup does not name what was keyed for another history.
        let writer = begin(&repository, "shop", None).await.unwrap();
        assert_eq!(writer.resumed_from(), None);
        writer.abandon(&ctx()).await.unwrap();
        let after = store.fork();
        let parent = Some((&full, BackupKind::Differential));
        let header = try_on(&after, keys.as_ref(), parent, &second).await.unwrap();
        assert_eq!(header.resumed.unwrap().backup, id);
        assert_eq!((after.stored(), &header.references), (0, &vec![full.id]));
        is_sound(&repository, &header, &second).await;
        // Its child finds everything where it lies.
        let child = Some((&header, BackupKind::Incremental));
        let child = try_on(&store.fork(), keys.as_ref(), child, &second).await.unwrap();
        assert_eq!(child.counts.packs, 0);
        nothing_is_left_over(&store, &repository, &[&child]).await;
        is_sound(&repository, &child, &second).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_go_on_from_the_same_run() {
    for n in (0..60).step_by(3) {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let samples = large(6);
        let writer = begin(&repository, "shop", None).await.unwrap();
        write_all(&writer, &samples[1..]).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        // One stands still at a call while the other runs from beginning to end.
        let slow = store.fork();
        let waiting = reopen(&slow, None).await;
        let gate = slow.pause(n);
        let task = tokio::spawn({
            let samples = samples.clone();
            async move { back_up(&waiting, "shop", None, &samples).await }
        });
        while !task.is_finished() {
            tokio::select! {
                () = gate.reached() => break,
                () = tokio::task::yield_now() => {}
            }
        }
        let quick = try_on(&store.fork(), None, None, &samples).await.unwrap();
        gate.open();
        let slow = task.await.unwrap().unwrap();
        for header in [&quick, &slow] {
            is_sound(&repository, header, &samples).await;
        }
        assert!(quick.resumed.is_some() || slow.resumed.is_some(), "call {n}");
        nothing_is_left_over(&store, &repository, &[&quick, &slow]).await;
        for header in [&quick, &slow] {
            is_sound(&repository, header, &samples).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_on_from_may_vanish_at_any_call() {
    let mut some = 0;
    for n in (0..).step_by(2) {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let mut samples = large(7);
        samples[0].bytes.truncate(500_000);
        samples[1].bytes.truncate(700_000);
        let writer = begin(&repository, "shop", None).await.unwrap();
        let dead = writer.id().to_string();
        write_all(&writer, &samples[1..]).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        let slow = store.fork();
        let going_on = reopen(&slow, None).await;
        let gate = slow.pause(n);
        let task = tokio::spawn({
            let samples = samples.clone();
            async move { back_up(&going_on, "shop", None, &samples).await }
        });
        let ended = loop {
            if task.is_finished() {
                break true;
            }
            tokio::select! {
                () = gate.reached() => break false,
                () = tokio::task::yield_now() => {}
            }
        };
        for (key, _) in store.dump().await {
            if key.as_ref().starts_with("backups/") && key.as_ref().contains(&dead) {
                store.lose(&key).await;
            }
        }
        gate.open();
        let header = task.await.unwrap().unwrap_or_else(|e| panic!("call {n}: {e:?}"));
        is_sound(&repository, &header, &samples).await;
        some += usize::from(header.resumed.is_some());
        nothing_is_left_over(&store, &repository, &[&header]).await;
        is_sound(&repository, &header, &samples).await;
        if ended {
            assert!(n > 40 && some > 10, "{n} {some}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_missing_or_changed_is_not_named() {
    for keys in [None, Some(Keys::new())] {
        for damage in ["lost", "shorter", "flipped", "touched"] {
            let store = TestStore::new();
            let repository = make(&store, keys.as_ref()).await;
            let samples = large(8);
            let writer = begin(&repository, "shop", None).await.unwrap();
            write_all(&writer, &samples).await.unwrap();
            writer.suspend(&ctx()).await.unwrap();
            let packs = left_packs(&store).await;
            let (key, size) = packs[packs.len() / 2].clone();
            let whole = store.dump().await.into_iter().find(|(k, _)| *k == key).unwrap().1;
            let mut bytes = whole.to_vec();
            match damage {
                "lost" => store.lose(&key).await,
                "shorter" => store.poke(&key, whole.slice(..whole.len() - 1)).await,
                "flipped" => {
                    bytes[size as usize / 2] ^= 4;
                    store.poke(&key, Bytes::from(bytes)).await;
                }
                // The same bytes, which the store calls something else now.
                _ => store.poke(&key, whole).await,
            }
            let after = store.fork();
            let repository = reopen(&after, keys.as_ref()).await;
            let (ctx, heard) = listening();
            let header = finish(&repository, &ctx, &samples).await;
            is_sound(&repository, &header, &samples).await;
            assert!(header.resumed.is_some());
            if damage == "touched" {
                assert_eq!(after.stored(), 0);
                assert!(heard.lock().unwrap().is_empty());
            } else {
                assert!(after.stored() > 0, "{damage}");
                let heard = heard.lock().unwrap().join("\n");
                assert!(heard.contains("sent again") && heard.contains(key.as_ref()), "{damage}: {heard}");
            }
            nothing_is_left_over(&store, &repository, &[&header]).await;
            is_sound(&repository, &header, &samples).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_used_is_said_and_ignored() {
    let keys = Keys::new();
    for (encrypted, case) in [
        (false, "damaged"),
        (true, "damaged"),
        (false, "newer"),
        (false, "of another target"),
        (true, "of a stranger"),
        (true, "key is gone"),
    ] {
        let keys = encrypted.then_some(&keys);
        let store = TestStore::new();
        let repository = make(&store, keys).await;
        let mut samples = large(9);
        samples.truncate(2);
        samples[0].bytes.truncate(300_000);
        samples[1].bytes.truncate(300_000);
        let home = if case == "of another target" { "other" } else { "shop" };
        let writer = begin(&repository, home, None).await.unwrap();
        let id = writer.id();
        write_all(&writer, &samples).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        for (key, bytes) in store.dump().await {
            let is_page = key.as_ref().contains("/journal/");
            match case {
                "damaged" if is_page => {
                    let mut bytes = bytes.to_vec();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    store.poke(&key, bytes.into()).await;
                }
                "newer" if is_page => {
                    let content = String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap();
                    let json = content[64..].replacen("\"journal\":1", "\"journal\":2", 1);
                    assert_ne!(json, content[64..]);
                    let content = format!("{}{json}", blake3::hash(json.as_bytes()).to_hex());
                    let frame = zstd::bulk::compress(content.as_bytes(), 1).unwrap();
                    store.poke(&key, frame.into()).await;
                }
                "of another target" => {
                    let moved = key.as_ref().replace("/other/", "/shop/");
                    store.poke(&Path::from(moved), bytes).await;
                }
                "key is gone" if key.as_ref().contains("/keys/") => store.lose(&key).await,
                _ => {}
            }
        }
        // Somebody who may write into the store, but has no key, makes a journal: the new backup would be encrypted to them.
        if case == "of a stranger" {
            let stranger = Keys::new();
            let theirs = TestStore::new();
            let planted = make(&theirs, Some(&stranger)).await;
            let writer = begin(&planted, "shop", None).await.unwrap();
            let planted = writer.id();
            write_all(&writer, &samples).await.unwrap();
            writer.suspend(&ctx()).await.unwrap();
            for (key, _) in store.dump().await {
                if key.as_ref().contains(&id.to_string()) {
                    store.lose(&key).await;
                }
            }
            for (key, bytes) in theirs.dump().await {
                if key.as_ref().contains(&planted.to_string()) {
                    store.poke(&key, bytes).await;
                }
            }
        }
        let after = store.fork();
        let repository = reopen(&after, keys).await;
        let (ctx, heard) = listening();
        let header = finish(&repository, &ctx, &samples).await;
        assert_eq!(header.resumed, None, "{case}");
        is_sound(&repository, &header, &samples).await;
        let heard = heard.lock().unwrap().join("\n");
        assert!(heard.contains("cannot be used"), "{case}: {heard}");
        nothing_is_left_over(&store, &repository, &[&header]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_keys_needs_one_of_its_own() {
    let keys = Keys::new();
    let own = Identity::generate();
    for (first, second, goes_on) in [
        (Some(own.clone()), Some(own.clone()), true),
        (Some(own.clone()), None, false),
        (None, Some(own.clone()), false),
        (Some(own.clone()), Some(Identity::generate()), false),
    ] {
        let store = TestStore::new();
        make(&store, Some(&keys)).await;
        let samples = large(10);
        let open = |journal_identity: Option<Identity>| {
            let options = OpenOptions { journal_identity, ..open_options(None) };
            let store = store.fork();
            async move { Repository::open(store as _, &ctx(), options).await.unwrap() }
        };
        let writer = begin(&open(first).await, "shop", None).await.unwrap();
        write_all(&writer, &samples).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        let header = back_up(&open(second).await, "shop", None, &samples).await.unwrap();
        assert_eq!(header.resumed.is_some(), goes_on);
        let repository = reopen(&store.fork(), Some(&keys)).await;
        is_sound(&repository, &header, &samples).await;
        nothing_is_left_over(&store, &repository, &[&header]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_to_begin_anew_does() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let samples = large(11);
    interrupt(&store, &samples, 16).await;
    let writer = begin_with(&repository, &ctx(), false).await.unwrap();
    assert_eq!(writer.resumed_from(), None);
    write_all(&writer, &samples).await.unwrap();
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    assert_eq!(header.resumed, None);
    is_sound(&repository, &header, &samples).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_leaves_for_a_day_what_can_be_gone_on_with() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let samples = large(12);
    let cut = begin(&repository, "shop", None).await.unwrap();
    write_all(&cut, &samples).await.unwrap();
    cut.suspend(&ctx()).await.unwrap();
    for _ in 0..5 {
        store.advance(4 * 3600);
        let report = repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
        assert!(report.marked.is_empty() && report.removed.is_empty(), "{report:?}");
    }
    let writer = begin(&repository, "shop", None).await.unwrap();
    assert!(writer.resumed_from().is_some());
    // The one that went on has it all: the older one may go at once.
    assert_eq!(repository.list(&ctx(), None).await.unwrap().tombstoned.len(), 1);
    write_all(&writer, &samples).await.unwrap();
    writer.suspend(&ctx()).await.unwrap();
    nothing_is_left_over(&store, &repository, &[]).await;
}
