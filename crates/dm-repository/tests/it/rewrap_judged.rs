//! Changing who can read, judged by others: `age`, a reader in another language, what earlier releases wrote, and stores that damage
//! what they are given.

use std::sync::Arc;

use dm_core::*;
use dm_repository::*;
use object_store::path::Path;

use crate::rewrap::{furnished, piece, replace, rewrap};
use crate::support::*;

/// What `age` and a reader in another language say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_read_with_the_new_key_and_not_with_the_removed_one() {
    use std::process::Command;
    if crate::folder::missing_tools() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("repository");
    let old = Keys::new();
    let new = Keys { identity: Identity::generate(), index: old.index.clone() };
    let store = crate::folder::store(&folder).unwrap();
    let repository =
        Repository::init(store, &ctx(), init_options(Some(&old)), open_options(Some(&old))).await.unwrap();
    let first = small(1);
    let full = back_up(&repository, "shop", None, &first).await.unwrap();
    let mut second = first.clone();
    second[0].bytes[100_000] ^= 1;
    let next = back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
    repository.put_log(&ctx(), &target("shop"), "42", &piece(0, 7)).await.unwrap();
    let request = RewrapRequest { delete_old: false, ..replace(&old, &new) };
    rewrap(&repository, &request).await.unwrap();
    let both = OpenOptions {
        identities: vec![old.identity.clone(), new.identity.clone()],
        ..open_options(Some(&new))
    };
    let both = Repository::open(crate::folder::store(&folder).unwrap(), &ctx(), both).await.unwrap();
    both.put_log(&ctx(), &target("shop"), "42", &piece(5000, 8)).await.unwrap();
    rewrap(&both, &RewrapRequest { delete_old: true, ..RewrapRequest::default() }).await.unwrap();

    let file = |name: &str, identity: &Identity| {
        let path = place.path().join(name);
        std::fs::write(&path, identity.to_secret_text().expose()).unwrap();
        path
    };
    let (new_file, old_file) = (file("new.key", &new.identity), file("old.key", &old.identity));
    let oracle = |script: &str, args: &[&str], identity: &std::path::Path| {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(script);
        Command::new("python3").arg(script).arg(&folder).args(args).arg(identity).output().unwrap()
    };
    for (backup, samples) in [(&full, &first), (&next, &second)] {
        for sample in samples {
            let args = ["shop", &backup.id.to_string(), &sample.spec.name];
            let output = oracle("read_backup.py", &args, &new_file);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == sample.bytes, "{} differs", sample.spec.name);
            assert!(!oracle("read_backup.py", &args, &old_file).status.success());
        }
    }
    let range = ["shop", "42", "1", "0", "2000"];
    let output = oracle("read_log.py", &range, &new_file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout[..5000] == [7; 5000] && output.stdout[5000..] == [8; 0x2000 - 5000]);
    assert!(!oracle("read_log.py", &range, &old_file).status.success());
}

/// What earlier releases wrote: readable, and rewrapped like anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_of_version_1_is_rewrapped() {
    let fixture = crate::folder::fixture();
    let identity = Identity::from_file(&fixture.join("TEST-ONLY.identity"), None).unwrap();
    let index = Identity::from_file(&fixture.join("TEST-ONLY.index-identity"), None).unwrap();
    let place = tempfile::tempdir().unwrap();
    crate::folder::copy(&fixture.join("encrypted"), place.path());
    let open = |identity: &Identity| {
        let options = OpenOptions {
            identities: vec![identity.clone()],
            index_identity: Some(index.clone()),
            ..open_options(None)
        };
        let store = crate::folder::store(place.path()).unwrap();
        async move { Repository::open(store, &ctx(), options).await.unwrap() }
    };
    let new = Identity::generate();
    let request =
        RewrapRequest { recipients: vec![new.recipient()], delete_old: true, ..RewrapRequest::default() };
    rewrap(&open(&identity).await, &request).await.unwrap();
    let repository = open(&new).await;
    let listing = repository.list(&ctx(), None).await.unwrap();
    let [full, next] = listing.backups.as_slice() else { panic!("{listing:?}") };
    let (first, second) = crate::folder::golden();
    assert_holds(&repository, full, &first).await;
    assert_holds(&repository, next, &second).await;
    assert!(repository.verify(&ctx(), next, VerifyLevel::Full).await.unwrap().ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_damages_what_it_is_given_costs_nobody_his_backups() {
    use dm_testkit::fault_store::{Fault as Trouble, FaultStore, Rule};
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    let place = furnished().await;
    let new = place.another();
    let before = place.store.dump().await;
    for trouble in [Trouble::Truncate, Trouble::Corrupt, Trouble::LoseAnswer, Trouble::Repeat, Trouble::Fail]
    {
        let mut n = 1;
        loop {
            let objects = Arc::new(InMemory::new());
            for (key, bytes) in &before {
                objects.put(key, bytes.clone().into()).await.unwrap();
            }
            let store = Arc::new(FaultStore::new(Arc::clone(&objects) as Arc<dyn ObjectStore>));
            let options = OpenOptions { index_identity: None, ..open_options(Some(&place.old)) };
            let repository = Repository::open(Arc::clone(&store) as _, &ctx(), options).await.unwrap();
            store.reset_log();
            store.inject(Rule::nth(n, trouble).on_writes());
            let request = RewrapRequest { delete_old: true, ..replace(&place.old, &new) };
            // What the store did may be found out or not; what counts is what can be read afterwards.
            let result = rewrap(&repository, &request).await;
            let writes = store.log().iter().filter(|call| call.operation.writes()).count() as u64;
            store.heal();
            let mut both = open_options(Some(&place.old));
            both.identities.push(new.identity.clone());
            both.index_identity = None;
            let both = Repository::open(objects as _, &ctx(), both).await.unwrap();
            for (header, samples) in [(&place.full, &place.first), (&place.next, &place.second)] {
                assert_holds(&both, header, samples).await;
            }
            let log = both.list_log(&ctx(), &target("shop"), "42").await.unwrap();
            both.read_log(&ctx(), &target("shop"), "42", &log.entries[0]).await.unwrap();
            if writes < n {
                assert!(result.unwrap().is_whole());
                break;
            }
            n += 1;
        }
        assert!(n > 6, "only {n} writes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_somebody_put_there_does_not_cost_the_good_one() {
    let place = furnished().await;
    let new = place.another();
    rewrap(&place.open(&place.old).await, &replace(&place.old, &new)).await.unwrap();
    // Sealed to the newest recipient, and not the backup's key.
    let planted = {
        let other = furnished().await;
        let report = rewrap(&other.open(&other.old).await, &replace(&other.old, &new)).await.unwrap();
        assert!(report.is_whole());
        let key = Path::from(format!("backups/shop/{}/keys/00000001.age", other.full.id));
        other.store.dump().await.into_iter().find(|(k, _)| *k == key).unwrap().1
    };
    let key = Path::from(format!("backups/shop/{}/keys/00000001.age", place.full.id));
    place.store.poke(&key, planted).await;
    let request = RewrapRequest { delete_old: true, ..RewrapRequest::default() };
    let report = rewrap(&place.open(&new).await, &request).await.unwrap();
    assert_eq!(report.left.iter().map(|l| l.id).collect::<Vec<_>>(), [place.full.id], "{report:?}");
    place.store.lose(&key).await;
    assert_holds(&place.open(&place.old).await, &place.full, &place.first).await;
}
