//! Changing who can read: new recipients read everything, removed ones nothing new, packs stay as they are, and whatever is interrupted
//! is finished by the next run.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::*;
use dm_repository::*;
use object_store::path::Path;

use crate::support::*;

/// An encrypted repository with a full backup, an incremental one and a piece of log.
pub struct Place {
    pub store: Arc<TestStore>,
    pub old: Keys,
    pub full: BackupHeader,
    pub next: BackupHeader,
    pub first: Vec<Sample>,
    pub second: Vec<Sample>,
}

pub fn piece(start: u64, byte: u8) -> LogPiece {
    LogPiece {
        timeline: 1,
        start,
        sealed_at: "2026-11-20T12:00:00Z".parse().unwrap(),
        bytes: vec![byte; 5000].into(),
    }
}

pub async fn furnished() -> Place {
    let (store, old) = (TestStore::new(), Keys::new());
    let repository = make(&store, Some(&old)).await;
    let first = small(1);
    let full = back_up(&repository, "shop", None, &first).await.unwrap();
    let mut second = first.clone();
    second[0].bytes[100_000] ^= 1;
    let next = back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
    repository.put_log(&ctx(), &target("shop"), "42", &piece(0, 1)).await.unwrap();
    Place { store, old, full, next, first, second }
}

impl Place {
    /// Another private key with the repository's index key.
    pub fn another(&self) -> Keys {
        Keys { identity: Identity::generate(), index: self.old.index.clone() }
    }

    pub async fn open(&self, keys: &Keys) -> Repository {
        reopen(&self.store.fork(), Some(keys)).await
    }

    pub async fn assert_readable(&self, keys: &Keys) {
        let repository = self.open(keys).await;
        assert_holds(&repository, &self.full, &self.first).await;
        assert_holds(&repository, &self.next, &self.second).await;
        for backup in [&self.full, &self.next] {
            let verified = repository.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap();
            assert!(verified.ok, "{:?}", verified.findings);
        }
        let log = repository.list_log(&ctx(), &target("shop"), "42").await.unwrap();
        for entry in &log.entries {
            repository.read_log(&ctx(), &target("shop"), "42", entry).await.unwrap();
        }
    }
}

/// Every call when many seeds are asked for, else every seventh: each makes two backups and opens them again.
fn stride() -> usize {
    if std::env::var_os("DM_TEST_SEEDS").is_some() { 1 } else { 7 }
}

pub fn replace(old: &Keys, new: &Keys) -> RewrapRequest {
    RewrapRequest {
        add: vec![new.identity.recipient()],
        remove: vec![old.identity.recipient()],
        reason: "Ada left".into(),
        ..RewrapRequest::default()
    }
}

pub async fn rewrap(repository: &Repository, request: &RewrapRequest) -> dm_core::Result<RewrapReport> {
    let plan = repository.plan_rewrap(&ctx(), request).await?;
    repository.apply_rewrap(&ctx(), &plan).await
}

/// All but what a rewrap may add, and what comes and goes.
async fn untouched(store: &TestStore) -> BTreeMap<Path, Bytes> {
    let mut objects: BTreeMap<Path, Bytes> = store.dump().await.into_iter().collect();
    objects.retain(|key, _| {
        let key = key.as_ref();
        !["leases/", "probes/", "verifications/", "recipients/", "log-keys/"]
            .iter()
            .any(|f| key.starts_with(f))
            && !key.contains("/keys/")
    });
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_recipients_read_everything_and_removed_ones_nothing_new() {
    let place = furnished().await;
    let new = place.another();
    let before = untouched(&place.store).await;
    let repository = place.open(&place.old).await;
    let objects = place.store.dump().await.len();
    let plan = repository.plan_rewrap(&ctx(), &replace(&place.old, &new)).await.unwrap();
    assert_eq!((plan.current, plan.generation, plan.backups.len(), plan.log_keys), (0, 1, 2, 1));
    assert_eq!((plan.added.len(), plan.removed.len()), (1, 1));
    assert!(plan.warnings.iter().any(|w| w.contains("cannot be called back")), "{:?}", plan.warnings);
    assert_eq!(place.store.dump().await.len(), objects, "a plan changes nothing");

    let report = repository.apply_rewrap(&ctx(), &plan).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.generation, report.rewrapped.len(), report.log_keys), (1, 2, 1));
    assert_eq!(untouched(&place.store).await, before, "packs, pages and pieces of log stay as they are");
    place.assert_readable(&new).await;
    // The old key objects stay unless asked otherwise; that is what is said, too.
    place.assert_readable(&place.old).await;

    // Again: nothing to do.
    let again = place.open(&new).await;
    let plan = again.plan_rewrap(&ctx(), &RewrapRequest::default()).await.unwrap();
    assert!(plan.is_empty() && plan.present == 2, "{plan:?}");

    // What is new is for the new recipient alone: backups and log.
    let third =
        back_up(&again, "shop", Some((&place.next, BackupKind::Incremental)), &place.first).await.unwrap();
    again.put_log(&ctx(), &target("shop"), "42", &piece(5000, 2)).await.unwrap();
    assert_holds(&again, &third, &place.first).await;
    let removed = place.open(&place.old).await;
    let error = {
        let keyed = OpenOptions { index_identity: None, ..open_options(Some(&place.old)) };
        let keyed = Repository::open(place.store.fork() as _, &ctx(), keyed).await.unwrap();
        keyed.read(&ctx(), &third).await.unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains(&new.identity.recipient().to_string()), "{hint}");
    assert!(hint.contains("was removed behind generation 0"), "{hint}");
    let log = removed.list_log(&ctx(), &target("shop"), "42").await.unwrap();
    assert_eq!(log.entries.len(), 2);
    let (stream_of, context) = (target("shop"), ctx());
    let read = |at: usize| removed.read_log(&context, &stream_of, "42", &log.entries[at]);
    assert!(read(0).await.is_ok());
    assert_eq!(read(1).await.unwrap_err().kind(), ErrorKind::Denied);

    let keys = again.key_list(&ctx()).await.unwrap();
    assert_eq!((keys.generation, keys.backups, keys.behind.len(), keys.log_keys_behind), (1, 3, 0, 0));
    let of =
        |keys: &KeyList, r: &Recipient| keys.recipients.iter().find(|s| s.recipient == *r).cloned().unwrap();
    let gone = of(&keys, &place.old.identity.recipient());
    assert_eq!((gone.opens, gone.removed_in, gone.here), (2, Some(1), false));
    let here = of(&keys, &new.identity.recipient());
    assert_eq!((here.opens, here.since, here.removed_in, here.here), (3, 1, None, true));
    assert!(keys.generations[1].proven && keys.generations[1].reason.as_deref() == Some("Ada left"));

    // And when the older key objects are deleted, a removed key opens nothing.
    let request = RewrapRequest { delete_old: true, ..RewrapRequest::default() };
    let report = rewrap(&again, &request).await.unwrap();
    assert_eq!((report.deleted, report.left.len()), (3, 0), "{report:?}");
    place.assert_readable(&new).await;
    let removed = OpenOptions { index_identity: None, ..open_options(Some(&place.old)) };
    let removed = Repository::open(place.store.fork() as _, &ctx(), removed).await.unwrap();
    assert_eq!(removed.read(&ctx(), &place.full).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(
        removed.read_log(&ctx(), &target("shop"), "42", &log.entries[0]).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_rewrap_is_finished_by_the_next() {
    let mut n = 0;
    loop {
        let place = furnished().await;
        let new = place.another();
        let dying = place.store.fork();
        let repository = reopen(&dying, Some(&place.old)).await;
        let request = RewrapRequest { delete_old: true, ..replace(&place.old, &new) };
        let before = dying.calls();
        dying.fail(n, Fault::Dead);
        let result = rewrap(&repository, &request).await;
        let died = dying.calls() > before + n;
        // Whoever could read can read, or the new ones can: never nobody.
        let repository = place.open(&place.old).await;
        let mut both = open_options(Some(&place.old));
        both.identities.push(new.identity.clone());
        let either = Repository::open(place.store.fork() as _, &ctx(), both).await.unwrap();
        assert_holds(&either, &place.full, &place.first).await;
        assert_holds(&either, &place.next, &place.second).await;
        // A host that backs up goes on, whichever generation counts.
        let keyless = OpenOptions { identities: Vec::new(), ..open_options(Some(&place.old)) };
        let host = Repository::open(place.store.fork() as _, &ctx(), keyless).await.unwrap();
        let more =
            back_up(&host, "shop", Some((&place.next, BackupKind::Incremental)), &place.first).await.unwrap();
        // The same again, and it is done.
        let wanted =
            RewrapRequest { recipients: vec![new.identity.recipient()], delete_old: true, ..request };
        let wanted = RewrapRequest { add: Vec::new(), remove: Vec::new(), ..wanted };
        let report = rewrap(&either, &wanted).await.unwrap_or_else(|e| panic!("call {n}: {e:?}"));
        assert!(report.is_whole() && report.generation == 1, "call {n}: {report:?}");
        place.assert_readable(&new).await;
        assert_holds(&place.open(&new).await, &more, &place.first).await;
        assert!(repository.key_list(&ctx()).await.unwrap().behind.is_empty(), "call {n}");
        if !died {
            result.unwrap();
            break;
        }
        n += stride();
    }
    assert!(n > 20, "only {n} calls");
}

#[tokio::test(start_paused = true)]
async fn passing_faults_at_every_call_of_a_rewrap_are_survived() {
    for fault in [Fault::Before, Fault::After] {
        let mut n = 0;
        loop {
            let place = furnished().await;
            let new = place.another();
            let disturbed = place.store.fork();
            let repository = reopen(&disturbed, Some(&place.old)).await;
            let before = disturbed.calls();
            disturbed.fail(n, fault);
            let report = rewrap(&repository, &replace(&place.old, &new)).await;
            let report = report.unwrap_or_else(|e| panic!("call {n}, {fault:?}: {e:?}"));
            assert!(report.is_whole() && report.generation == 1, "call {n}, {fault:?}: {report:?}");
            place.assert_readable(&new).await;
            if disturbed.calls() - before <= n {
                break;
            }
            n += stride();
        }
        assert!(n > 15, "only {n} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_made_meanwhile_is_sealed_to_the_new_recipients() {
    let place = furnished().await;
    let new = place.another();
    // A host without a private key, in the middle of a backup.
    let keyless = OpenOptions { identities: Vec::new(), ..open_options(Some(&place.old)) };
    let host = Repository::open(place.store.fork() as _, &ctx(), keyless).await.unwrap();
    let writer = begin(&host, "shop", Some((&place.next, BackupKind::Incremental))).await.unwrap();
    write_all(&writer, &place.first).await.unwrap();
    let report = rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    assert_eq!(report.rewrapped.len(), 2);
    let header = writer.commit(&ctx(), source(chrono::Utc::now()), summary()).await.unwrap();
    let repository = place.open(&new).await;
    assert_holds(&repository, &header, &place.first).await;
    assert!(repository.key_list(&ctx()).await.unwrap().behind.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_seals_to_nobody_that_it_has_no_reason_to_believe_in() {
    let place = furnished().await;
    let (new, thief) = (place.another(), Identity::generate());
    rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    let host = |index: bool, expected: Vec<Recipient>| {
        let options = OpenOptions {
            identities: Vec::new(),
            index_identity: index.then(|| place.old.index.clone()),
            expected_recipients: expected,
            ..open_options(None)
        };
        let store = place.store.fork();
        async move {
            let repository = Repository::open(store as _, &ctx(), options).await.unwrap();
            back_up(&repository, "shop", None, &small(5)).await
        }
    };
    // The index key proves it; so does the configuration, and the one before does not.
    host(true, Vec::new()).await.unwrap();
    host(true, vec![place.old.identity.recipient()]).await.unwrap();
    host(false, vec![new.identity.recipient()]).await.unwrap();
    let error = host(false, vec![place.old.identity.recipient()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("the configuration names"), "{error}");
    assert!(error.hint().unwrap().contains("key rewrap"), "{error:?}");
    let error = host(false, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("nothing here can tell"), "{error}");

    // Somebody who can write into the store names himself: found by whoever holds the index key, believed by nobody.
    let key = Path::from("recipients/00000001.json");
    let genuine = place.store.dump().await.into_iter().find(|(k, _)| *k == key).unwrap().1;
    let text = String::from_utf8(genuine.to_vec()).unwrap();
    let forged = text.replace(&new.identity.recipient().to_string(), &thief.recipient().to_string());
    let at = forged.find("\"digest\":\"").unwrap() + 10;
    let zeroed = format!("{}{}{}", &forged[..at], "0".repeat(64), &forged[at + 64..]);
    let digest = blake3::hash(zeroed.as_bytes()).to_hex();
    let forged = zeroed.replacen(&"0".repeat(64), digest.as_str(), 1);
    place.store.poke(&key, forged.into()).await;
    let error = host(true, Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("forged"), "{error}");
    assert!(host(false, vec![new.identity.recipient()]).await.is_err());
    // A record of a removed key's holder proves nothing, though his proof holds.
    place.store.poke(&key, genuine).await;
    let removed = Repository::open(
        place.store.fork() as _,
        &ctx(),
        OpenOptions { identities: vec![place.old.identity.clone()], ..open_options(None) },
    )
    .await
    .unwrap();
    let request = RewrapRequest { add: vec![thief.recipient()], ..RewrapRequest::default() };
    rewrap(&removed, &request).await.unwrap();
    let error = host(true, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("nothing here can tell"), "{error}");
    // Reading goes on all the same.
    place.assert_readable(&new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_records_of_recipients_are_named_and_keep_nobody_from_reading() {
    let place = furnished().await;
    let new = place.another();
    rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    let second = RewrapRequest { renew: true, ..RewrapRequest::default() };
    rewrap(&place.open(&new).await, &second).await.unwrap();
    let key = Path::from("recipients/00000001.json");
    let whole = place.store.dump().await.into_iter().find(|(k, _)| *k == key).unwrap().1;
    for damage in ["flip", "lose"] {
        if damage == "lose" {
            place.store.lose(&key).await;
        } else {
            let mut bytes = whole.to_vec();
            bytes[150] ^= 1;
            place.store.poke(&key, bytes.into()).await;
        }
        let repository = place.open(&new).await;
        let error = back_up(&repository, "shop", None, &small(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
        assert!(format!("{error:?}").contains("00000001"), "{error:?}");
        assert!(error.hint().unwrap().contains("nothing is sealed"), "{error:?}");
        assert!(repository.key_list(&ctx()).await.is_err());
        place.assert_readable(&new).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_missing_and_foreign_keys_each_have_their_own_error() {
    let place = furnished().await;
    let read = |identities: Vec<Identity>| {
        let store = place.store.fork();
        let header = place.full.clone();
        async move {
            let options = OpenOptions { identities, ..open_options(None) };
            let repository = Repository::open(store as _, &ctx(), options).await.unwrap();
            repository.read(&ctx(), &header).await.unwrap_err()
        }
    };
    let hint = |error: &Error| error.hint().unwrap().to_owned();
    let missing = read(Vec::new()).await;
    assert_eq!(missing.kind(), ErrorKind::Denied);
    let foreign = read(vec![Identity::generate()]).await;
    assert_eq!(foreign.kind(), ErrorKind::Denied);
    assert!(hint(&foreign).contains("never was a key of this repository"), "{foreign:?}");
    assert!(hint(&foreign).contains(&place.old.identity.recipient().to_string()), "{foreign:?}");
    let index = read(vec![place.old.index.clone()]).await;
    assert!(hint(&index).contains("is the index key"), "{index:?}");

    // A rewrap says the same before it does anything, and refuses what would lock everybody out.
    let options = OpenOptions { identities: vec![Identity::generate()], ..open_options(None) };
    let stranger = Repository::open(place.store.fork() as _, &ctx(), options).await.unwrap();
    let error =
        rewrap(&stranger, &RewrapRequest { renew: true, ..RewrapRequest::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let keyless = reopen(&place.store.fork(), None).await;
    let error =
        rewrap(&keyless, &RewrapRequest { renew: true, ..RewrapRequest::default() }).await.unwrap_err();
    assert!(error.to_string().contains("no private key was given"), "{error}");
    let repository = place.open(&place.old).await;
    for (request, why) in [
        (
            RewrapRequest { remove: vec![place.old.identity.recipient()], ..RewrapRequest::default() },
            "nobody would be left",
        ),
        (
            RewrapRequest { remove: vec![Identity::generate().recipient()], ..RewrapRequest::default() },
            "it is no recipient",
        ),
        (RewrapRequest { add: vec![place.old.index.recipient()], ..RewrapRequest::default() }, "index key"),
    ] {
        let error = rewrap(&repository, &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why) && error.hint().is_some(), "{error:?}");
    }
    let plain = make(&TestStore::new(), None).await;
    assert_eq!(rewrap(&plain, &RewrapRequest::default()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    // Two who change it at once: one of them is told.
    let plan = repository.plan_rewrap(&ctx(), &replace(&place.old, &place.another())).await.unwrap();
    rewrap(&repository, &RewrapRequest { renew: true, ..RewrapRequest::default() }).await.unwrap();
    let error = repository.apply_rewrap(&ctx(), &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_repairs_carry_later_keys_without_one() {
    let place = furnished().await;
    let new = place.another();
    let second = TestStore::new();
    let copy = || async {
        let from = reopen(&place.store.fork(), None).await;
        let copy = from.open_copy(Arc::clone(&second) as _, &ctx(), open_options(None)).await.unwrap();
        let report = from.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        report
    };
    copy().await;
    rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    let third = back_up(&place.open(&new).await, "shop", None, &small(5)).await.unwrap();
    let report = copy().await;
    // A record, two backups' keys, a log key.
    assert_eq!((report.keys, report.backups.len()), (4, 1), "{report:?}");
    assert_eq!(copy().await.keys, 0);
    let alone = reopen(&second, Some(&new)).await;
    for (header, samples) in [(&place.full, &place.first), (&place.next, &place.second), (&third, &small(5))]
    {
        assert_holds(&alone, header, samples).await;
    }
    let log = alone.list_log(&ctx(), &target("shop"), "42").await.unwrap();
    alone.read_log(&ctx(), &target("shop"), "42", &log.entries[0]).await.unwrap();

    // A key object of the new generation is lost, another damaged: the copy mends both.
    let key = |header: &BackupHeader| Path::from(format!("backups/shop/{}/keys/00000001.age", header.id));
    place.store.lose(&key(&place.full)).await;
    place.store.poke(&key(&place.next), Bytes::from_static(b"age-encryption.org/v1\nrubbish")).await;
    place.store.lose(&Path::from("recipients/00000001.json")).await;
    let here = reopen(&place.store.fork(), None).await;
    let verified = here.verify(&ctx(), &place.next, VerifyLevel::Stored).await.unwrap();
    assert!(!verified.ok && verified.findings[0].message.contains("00000001.age"), "{verified:?}");
    let from = reopen(&second.fork(), None).await;
    for header in [&place.full, &place.next] {
        let mended = here.repair_from(&ctx(), &from, header).await.unwrap();
        assert!(mended.problems.is_empty() && !mended.mended.is_empty(), "{mended:?}");
    }
    place.assert_readable(&new).await;

    // Deleted older keys do not come back, and are not missed.
    let both = OpenOptions { ..open_options(Some(&new)) };
    let here = Repository::open(place.store.fork() as _, &ctx(), both).await.unwrap();
    let request = RewrapRequest { delete_old: true, ..RewrapRequest::default() };
    assert!(rewrap(&here, &request).await.unwrap().deleted >= 3);
    assert!(here.repair_from(&ctx(), &from, &place.full).await.unwrap().mended.is_empty());
    let third = TestStore::new();
    let opened = here.open_copy(Arc::clone(&third) as _, &ctx(), open_options(None)).await.unwrap();
    assert!(here.copy_to(&ctx(), &opened, &CopyOptions::default()).await.unwrap().is_whole());
    assert_holds(&reopen(&third, Some(&new)).await, &place.next, &place.second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_a_copy_of_later_keys_goes_on() {
    let place = furnished().await;
    let new = place.another();
    let before = TestStore::new();
    let from = reopen(&place.store.fork(), None).await;
    let copy = from.open_copy(Arc::clone(&before) as _, &ctx(), open_options(None)).await.unwrap();
    from.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap();
    let earlier = before.dump().await;
    rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    let mut n = 0;
    loop {
        let second = TestStore::new();
        second.restore(&earlier).await;
        let dying = second.fork();
        let copy = reopen(&dying, None).await;
        dying.fail(n, Fault::Dead);
        let calls = dying.calls();
        let result = from.copy_to(&ctx(), &copy, &CopyOptions::default()).await;
        let died = dying.calls() > calls + n;
        let alive = reopen(&second.fork(), Some(&place.old)).await;
        assert_holds(&alive, &place.next, &place.second).await;
        let copy = reopen(&second.fork(), None).await;
        assert!(from.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap().is_whole(), "call {n}");
        assert_holds(&reopen(&second.fork(), Some(&new)).await, &place.next, &place.second).await;
        if !died {
            result.unwrap();
            break;
        }
        n += 1;
    }
    assert!(n > 10, "only {n} calls");
}
