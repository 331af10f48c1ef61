//! Two places: what one lacks is copied, the commit last; damage is not; and what is damaged is mended from the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::*;
use dm_repository::*;
use object_store::path::Path;

use crate::support::*;

/// A full backup, an incremental one with a pin, another target, and some log.
struct Furnished {
    store: Arc<TestStore>,
    keys: Option<Keys>,
    full: BackupHeader,
    incremental: BackupHeader,
    first: Vec<Sample>,
    second: Vec<Sample>,
}

async fn furnished(keys: Option<Keys>) -> Furnished {
    let store = TestStore::new();
    let repository = make(&store, keys.as_ref()).await;
    let first = small(1);
    let full = back_up(&repository, "shop", None, &first).await.unwrap();
    let mut second = first.clone();
    second[0].bytes[100_000] ^= 1;
    let base = Some((&full, BackupKind::Incremental));
    let incremental = back_up(&repository, "shop", base, &second).await.unwrap();
    assert_eq!(incremental.references, [full.id]);
    back_up(&repository, "other", None, &small(3)).await.unwrap();
    repository.pin(&ctx(), &full, true, "before the migration").await.unwrap();
    for (start, byte) in [(0, 1), (5000, 2)] {
        let piece = LogPiece {
            timeline: 1,
            start,
            sealed_at: "2026-11-20T12:00:00Z".parse().unwrap(),
            bytes: vec![byte; 5000].into(),
        };
        repository.put_log(&ctx(), &target("shop"), "42", &piece).await.unwrap();
    }
    let history = Bytes::from_static(b"1\t0/1000\tno recovery target specified\n");
    repository.put_log_history(&ctx(), &target("shop"), "42", 2, history).await.unwrap();
    repository.put_log_gap(&ctx(), &target("shop"), "42", 1, 10_000..20_000, "lost slot").await.unwrap();
    repository.put_checkpoint(&ctx(), "shop-audit", 5, "a signed note\n").await.unwrap();
    Furnished { store, keys, full, incremental, first, second }
}

impl Furnished {
    /// As a host without any key sees it.
    async fn keyless(&self) -> Repository {
        reopen(&self.store.fork(), None).await
    }

    async fn copy_to(&self, place: &Arc<TestStore>) -> dm_core::Result<CopyReport> {
        let from = self.keyless().await;
        let copy = from.open_copy(Arc::clone(place) as _, &ctx(), open_options(None)).await?;
        from.copy_to(&ctx(), &copy, &CopyOptions::default()).await
    }
}

/// What the two places must have in common: all but leases, probes, verifications.
async fn lasting(store: &TestStore) -> BTreeMap<Path, Bytes> {
    let mut objects: BTreeMap<Path, Bytes> = store.dump().await.into_iter().collect();
    objects.retain(|key, _| {
        ["repository.json", "backups/", "logs/", "pins/", "audit/"]
            .iter()
            .any(|kept| key.as_ref().starts_with(kept))
    });
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_same_bytes_and_needs_no_key() {
    for keys in [None, Some(Keys::new())] {
        let place = furnished(keys).await;
        let second = TestStore::new();
        let planned = {
            let from = place.keyless().await;
            let copy = from.open_copy(Arc::clone(&second) as _, &ctx(), open_options(None)).await.unwrap();
            let plan = CopyOptions { dry_run: true, ..CopyOptions::default() };
            let planned = from.copy_to(&ctx(), &copy, &plan).await.unwrap();
            assert_eq!(lasting(&second).await.len(), 1, "a dry run copies nothing");
            planned
        };
        let report = place.copy_to(&second).await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.backups.len(), report.log_objects, report.pins), (3, 4, 1));
        assert_eq!(report.checkpoints, 1);
        assert_eq!(planned.backups.len(), 3);
        assert_eq!((planned.log_bytes, planned.pins), (report.log_bytes, 1));

        assert_eq!(lasting(&second).await, lasting(&place.store).await);
        // The first place is gone for good: the second serves alone.
        let alone = reopen(&second, place.keys.as_ref()).await;
        let listing = alone.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty() && listing.incomplete.is_empty(), "{listing:?}");
        assert!(listing.pins[&place.full.id].pinned);
        for backup in &listing.backups {
            assert!(alone.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap().ok);
        }
        assert_holds(&alone, &place.full, &place.first).await;
        assert_holds(&alone, &place.incremental, &place.second).await;
        let log = alone.list_log(&ctx(), &target("shop"), "42").await.unwrap();
        assert_eq!((log.entries.len(), log.histories.len(), log.gaps.len()), (2, 1, 1));
        let bytes = alone.read_log(&ctx(), &target("shop"), "42", &log.entries[1]).await.unwrap();
        assert_eq!(bytes, vec![2; 5000]);

        // Again: nothing is sent.
        let before = second.stored();
        let again = place.copy_to(&second).await.unwrap();
        assert!(again.is_whole());
        assert_eq!((again.backups.len(), again.present, again.log_objects, again.pins), (0, 3, 0, 0));
        assert_eq!(second.stored(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_copy_goes_on_and_lists_only_what_is_whole() {
    let place = furnished(None).await;
    let whole = lasting(&place.store).await;
    // The process dies at a call to the copy's store, or (its calls to the first place fail) at one to its own.
    for dies_there in [true, false] {
        let mut n = 0;
        loop {
            let second = TestStore::new();
            let (from_store, to_store) = (place.store.fork(), second.fork());
            let dying = if dies_there { &to_store } else { &from_store };
            let first = reopen(&from_store, None).await;
            let opened =
                first.open_copy(Arc::clone(&to_store) as _, &ctx(), open_options(None)).await.unwrap();
            dying.fail(n, Fault::Dead);
            let before = dying.calls();
            let died = match first.copy_to(&ctx(), &opened, &CopyOptions::default()).await {
                Ok(report) if report.is_whole() => dying.calls() > before + n,
                Ok(_) | Err(_) => true,
            };
            let copy = reopen(&second.fork(), None).await;
            let listing = copy.list(&ctx(), None).await.unwrap();
            assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
            for backup in &listing.backups {
                let verification = copy.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap();
                assert!(verification.ok, "call {n}: {:?}", verification.findings);
            }
            let report = place.copy_to(&second.fork()).await.unwrap();
            assert!(report.is_whole(), "call {n}: {report:?}");
            assert_eq!(lasting(&second).await, whole, "call {n}");
            if !died {
                break;
            }
            n += 1;
        }
        assert!(n > 20, "only {n} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrived_before_an_interruption_is_not_sent_again() {
    let place = furnished(None).await;
    let second = TestStore::new();
    let counting = second.fork();
    place.copy_to(&counting).await.unwrap();
    let all = counting.stored();

    let third = TestStore::new();
    let dying = third.fork();
    let first = place.keyless().await;
    let copy = first.open_copy(Arc::clone(&dying) as _, &ctx(), open_options(None)).await.unwrap();
    dying.fail(12, Fault::Dead);
    first.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap_err();
    let sent = dying.stored();
    assert!(sent > 0 && sent < all, "{sent} of {all}");
    let going_on = third.fork();
    place.copy_to(&going_on).await.unwrap();
    assert_eq!(sent + going_on.stored(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_in_the_copy_is_patient_with_an_interrupted_copy() {
    let place = furnished(None).await;
    let second = TestStore::new();
    let dying = second.fork();
    let opened = place.keyless().await.open_copy(Arc::clone(&dying) as _, &ctx(), open_options(None)).await;
    dying.fail(8, Fault::Dead);
    place.keyless().await.copy_to(&ctx(), &opened.unwrap(), &CopyOptions::default()).await.unwrap_err();
    let copy = reopen(&second.fork(), None).await;
    let waiting = copy.list(&ctx(), None).await.unwrap().incomplete;
    assert_eq!(waiting.len(), 1);
    // Long after its lease, and as long as a run of the night before is waited for.
    second.advance(19 * 3600);
    let swept = copy.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    assert!(swept.marked.is_empty() && swept.removed.is_empty(), "{swept:?}");
    assert!(place.copy_to(&second.fork()).await.unwrap().is_whole());
    assert_eq!(lasting(&second).await, lasting(&place.store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_not_passed_on() {
    let place = furnished(None).await;
    let objects = lasting(&place.store).await;
    let folder = format!("backups/shop/{}/", place.full.id);
    let damageable: Vec<&Path> = objects
        .keys()
        .filter(|key| key.as_ref().starts_with(&folder) && !key.as_ref().ends_with("backup.json"))
        .collect();
    assert!(damageable.len() >= 4);
    for key in damageable {
        for damage in ["flip", "cut", "loss"] {
            let mut bytes = objects[key].to_vec();
            match damage {
                "flip" => bytes[objects[key].len() / 2] ^= 1,
                "cut" => bytes.truncate(objects[key].len() - 1),
                _ => {}
            }
            match damage {
                "loss" => place.store.lose(key).await,
                _ => place.store.poke(key, bytes.into()).await,
            }
            let second = TestStore::new();
            let report = place.copy_to(&second).await.unwrap();
            // The damaged one and the one that builds on it stay away; the other target is copied.
            let left: Vec<BackupId> = report.left.iter().map(|left| left.id).collect();
            assert_eq!(left, [place.full.id, place.incremental.id], "{key} {damage}: {report:?}");
            assert_eq!(report.backups.len(), 1);
            assert!(!report.is_whole());
            let copy = reopen(&second, None).await;
            assert_eq!(copy.list(&ctx(), None).await.unwrap().backups.len(), 1);
            // Mended, it is copied.
            place.store.poke(key, objects[key].clone()).await;
            assert!(place.copy_to(&second).await.unwrap().is_whole());
            assert_eq!(lasting(&second).await, objects);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_quiet_times_only_the_newest_is_kept() {
    let place = furnished(None).await;
    let first = place.keyless().await;
    let second = TestStore::new();
    let quiet = |minute: u32| {
        let at = format!("2026-11-20T12:{minute:02}:00Z").parse().unwrap();
        let position = LogPosition { timeline: 1, offset: 10_000 };
        let first = first.clone();
        async move { first.put_log_quiet(&ctx(), &target("shop"), "42", position, at).await.unwrap() }
    };
    for minute in 1..5 {
        quiet(minute).await;
        assert!(place.copy_to(&second).await.unwrap().is_whole());
    }
    let copy = reopen(&second, None).await;
    let log = copy.list_log(&ctx(), &target("shop"), "42").await.unwrap();
    assert_eq!(log.quiet.len(), 1, "{log:?}");
    assert_eq!(log, first.list_log(&ctx(), &target("shop"), "42").await.unwrap());
    assert_eq!(lasting(&second).await, lasting(&place.store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_log_is_not_passed_on() {
    let place = furnished(None).await;
    let objects = lasting(&place.store).await;
    let (key, bytes) = objects.iter().find(|(key, _)| key.as_ref().ends_with(".log")).unwrap();
    let mut flipped = bytes.to_vec();
    flipped[3] ^= 1;
    place.store.poke(key, flipped.into()).await;
    let error = place.copy_to(&TestStore::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(key.as_ref()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_in_the_copy_stays_deleted_with_what_builds_on_it() {
    let place = furnished(None).await;
    let second = TestStore::new();
    place.copy_to(&second).await.unwrap();
    let copy = reopen(&second, None).await;
    copy.pin(&ctx(), &place.full, false, "not needed there").await.unwrap();
    copy.tombstone(&ctx(), &place.incremental, "expired").await.unwrap();
    let report = place.copy_to(&second).await.unwrap();
    assert_eq!(report.left.len(), 1, "{report:?}");
    assert!(report.left[0].reason.contains("deleted in the copy"), "{report:?}");
    assert_eq!(report.pins, 0, "the later word on the pin was said in the copy");
    // The first place knows nothing of it.
    assert_holds(&place.keyless().await, &place.incremental, &place.second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ground_that_is_deleted_in_the_copy_meanwhile_withdraws_what_builds_on_it() {
    let place = furnished(None).await;
    let mut withdrawn = 0;
    for n in 0..200 {
        // The copy has the full backup; the incremental comes now.
        let second = TestStore::new();
        let first = place.keyless().await;
        let setup = first.open_copy(second.fork() as _, &ctx(), open_options(None)).await.unwrap();
        for left in ["shop", "other"] {
            let only = CopyOptions { target: Some(target(left)), dry_run: false };
            first.copy_to(&ctx(), &setup, &only).await.unwrap();
        }
        let folder = format!("backups/shop/{}/", place.incremental.id);
        for (key, _) in second.dump().await {
            if key.as_ref().starts_with(&folder) {
                second.lose(&key).await;
            }
        }
        setup.pin(&ctx(), &place.full, false, "not needed there").await.unwrap();

        let writer = second.fork();
        let copy = first.open_copy(Arc::clone(&writer) as _, &ctx(), open_options(None)).await.unwrap();
        let gate = writer.pause(n);
        let mut copying =
            tokio::spawn(async move { first.copy_to(&ctx(), &copy, &CopyOptions::default()).await });
        let done = tokio::select! {
            () = gate.reached() => None,
            done = &mut copying => Some(done),
        };
        let marked =
            reopen(&second.fork(), None).await.tombstone(&ctx(), &place.full, "expired").await.is_ok();
        gate.open();
        let stood = done.is_none();
        let report = match done {
            Some(report) => report,
            None => copying.await,
        };
        let report = report.unwrap().unwrap();
        let reader = reopen(&second.fork(), None).await;
        let listing = reader.list(&ctx(), None).await.unwrap();
        let listed = listing.backups.iter().any(|b| b.id == place.incremental.id);
        // Either the deleter saw the commit and refused, or the copy saw the mark and took itself back.
        assert_eq!(listed, !marked, "call {n}: {report:?} {listing:?}");
        if marked {
            assert!(report.left.iter().any(|left| left.id == place.incremental.id), "call {n}: {report:?}");
            withdrawn += 1;
        }
        if !stood {
            break;
        }
    }
    assert!(withdrawn > 5, "{withdrawn}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_is_no_copy() {
    let place = furnished(None).await;
    let stranger = TestStore::new();
    make(&stranger, None).await;
    let error = place.copy_to(&stranger).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("another repository"), "{error}");

    let foreign = TestStore::new();
    foreign.poke(&Path::from("photos/cat.jpg"), Bytes::from_static(b"cat")).await;
    let error = place.copy_to(&foreign).await.unwrap_err();
    assert!(error.to_string().contains("photos"), "{error}");
    assert_eq!(foreign.dump().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_differs_between_the_places_is_said() {
    let place = furnished(None).await;
    let second = TestStore::new();
    place.copy_to(&second).await.unwrap();
    // Another backup that took the same place, whole in itself.
    let other = furnished(None).await;
    let key = |header: &BackupHeader| Path::from(format!("backups/shop/{}/backup.json", header.id));
    let foreign = lasting(&other.store).await[&key(&other.full)].clone();
    let text = String::from_utf8(foreign.to_vec()).unwrap();
    let text = text.replace(&other.full.id.to_string(), &place.full.id.to_string());
    second.poke(&key(&place.full), redigested(&text)).await;
    let report = place.copy_to(&second).await.unwrap();
    assert_eq!(report.left[0].id, place.full.id, "{report:?}");
    assert!(report.problems[0].message.starts_with("in the copy: "), "{report:?}");
}

/// A document with its digest made anew: `blake3` of the text with zeros in its place.
fn redigested(text: &str) -> Bytes {
    let at = text.find("\"digest\":\"").unwrap() + "\"digest\":\"".len();
    let blank = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
    let digest = blake3::hash(blank.as_bytes()).to_hex().to_string();
    Bytes::from(format!("{}{digest}{}", &blank[..at], &blank[at + 64..]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_mended_from_the_copy() {
    for keys in [None, Some(Keys::new())] {
        let place = furnished(keys).await;
        let second = TestStore::new();
        place.copy_to(&second).await.unwrap();
        let objects = lasting(&place.store).await;
        let damageable: Vec<&Path> = objects
            .keys()
            .filter(|key| key.as_ref().starts_with("backups/shop/") && !key.as_ref().ends_with("backup.json"))
            .collect();
        for (i, key) in damageable.iter().enumerate() {
            if i % 2 == 0 {
                place.store.lose(key).await;
            } else {
                let mut flipped = objects[*key].to_vec();
                flipped[0] ^= 0x80;
                place.store.poke(key, flipped.into()).await;
            }
        }
        let here = place.keyless().await;
        let copy = reopen(&second, None).await;
        let mut mended = Vec::new();
        for header in [&place.full, &place.incremental] {
            let report = here.repair_from(&ctx(), &copy, header).await.unwrap();
            assert!(report.problems.is_empty(), "{report:?}");
            mended.extend(report.mended);
        }
        assert_eq!(mended.len(), damageable.len());
        assert_eq!(lasting(&place.store).await, objects);
        // Whole now: nothing is touched.
        let calls = place.store.calls();
        assert!(here.repair_from(&ctx(), &copy, &place.incremental).await.unwrap().mended.is_empty());
        assert_eq!(place.store.calls(), calls);
        assert_holds(&reopen(&place.store, place.keys.as_ref()).await, &place.incremental, &place.second)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_in_both_places_is_said_and_left() {
    let place = furnished(None).await;
    let second = TestStore::new();
    place.copy_to(&second).await.unwrap();
    let objects = lasting(&place.store).await;
    let pack = format!("backups/shop/{}/packs/00000000.pack", place.full.id);
    let key = Path::from(pack.clone());
    let mut flipped = objects[&key].to_vec();
    flipped[9] ^= 1;
    for store in [&place.store, &second] {
        store.poke(&key, flipped.clone().into()).await;
    }
    let here = place.keyless().await;
    let copy = reopen(&second, None).await;
    let report = here.repair_from(&ctx(), &copy, &place.full).await.unwrap();
    assert!(report.mended.is_empty());
    assert!(report.problems[0].message.contains(&pack), "{report:?}");
    assert_eq!(lasting(&place.store).await[&key], flipped, "what cannot be mended is not removed");
}
