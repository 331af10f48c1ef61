//! Every damage is found, by the level that promises it, with or without keys.

use std::sync::Arc;

use dm_core::*;
use dm_repository::*;
use object_store::path::Path;

use crate::support::*;

/// Whether anything is wrong, as a person who verifies every backup would see it.
async fn found(store: &Arc<TestStore>, options: OpenOptions, level: VerifyLevel, expected: usize) -> bool {
    let Ok(repository) = Repository::open(Arc::clone(store) as _, &ctx(), options).await else { return true };
    let listing = repository.list(&ctx(), None).await.unwrap();
    if !listing.problems.is_empty() || listing.backups.len() < expected {
        return true;
    }
    for backup in &listing.backups {
        if !repository.verify(&ctx(), backup, level).await.unwrap().ok {
            return true;
        }
    }
    false
}

async fn furnished(keys: Option<&Keys>) -> Arc<TestStore> {
    let store = TestStore::new();
    let repository = make(&store, keys).await;
    let mut content = samples(1);
    content[0].bytes.truncate(200 << 10);
    let full = back_up(&repository, "shop", None, &content).await.unwrap();
    content[0].bytes[100_000] ^= 1;
    back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &content).await.unwrap();
    repository.pin(&ctx(), &full, true, "before the migration").await.unwrap();
    assert!(repository.verify(&ctx(), &full, VerifyLevel::Stored).await.unwrap().ok);
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_every_object_is_found() {
    for keys in [None, Some(Keys::new())] {
        let store = furnished(keys.as_ref()).await;
        let objects = store.dump().await;
        assert!(objects.len() > 10);
        // Stored needs no key; full has them.
        for (level, options) in
            [(VerifyLevel::Stored, open_options(None)), (VerifyLevel::Full, open_options(keys.as_ref()))]
        {
            assert!(!found(&store, options.clone(), level, 2).await, "undamaged");
            store.restore(&objects).await;
            for (key, bytes) in &objects {
                let spread = (0..7).map(|i| bytes.len() * i / 7);
                for place in spread.chain([bytes.len() - 2, bytes.len() - 1]) {
                    let mut flipped = bytes.to_vec();
                    flipped[place] ^= 0x10;
                    store.poke(key, flipped.into()).await;
                    assert!(found(&store, options.clone(), level, 2).await, "{key} byte {place} at {level}");
                    store.restore(&objects).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_and_missing_objects_are_found_quickly() {
    let keys = Keys::new();
    let store = furnished(Some(&keys)).await;
    let objects = store.dump().await;
    for (key, bytes) in objects
        .iter()
        .filter(|(k, _)| !k.as_ref().starts_with("verifications") && !k.as_ref().starts_with("pins"))
    {
        store.poke(key, bytes.slice(..bytes.len() - 1)).await;
        assert!(found(&store, open_options(None), VerifyLevel::Quick, 2).await, "{key} truncated");
        store.restore(&objects).await;
        store.lose(key).await;
        assert!(found(&store, open_options(None), VerifyLevel::Quick, 2).await, "{key} missing");
        store.restore(&objects).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_a_damaged_pack_fails_and_names_it() {
    for keys in [None, Some(Keys::new())] {
        let store = furnished(keys.as_ref()).await;
        let objects = store.dump().await;
        let repository = reopen(&store, keys.as_ref()).await;
        let full = repository.list(&ctx(), None).await.unwrap().backups.remove(0);
        for (key, bytes) in
            objects.iter().filter(|(k, _)| k.as_ref().contains(&format!("{}/packs/", full.id)))
        {
            let mut flipped = bytes.to_vec();
            flipped[bytes.len() / 2] ^= 1;
            store.poke(key, flipped.into()).await;
            let reader = repository.read(&ctx(), &full).await.unwrap();
            let mut failed = Vec::new();
            for (spec, size) in reader.members(&ctx()).await.unwrap() {
                if let Err(error) = content(&reader, &spec.name, size).await {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
                    failed.push(error.to_string());
                }
            }
            assert!(!failed.is_empty(), "{key}");
            store.restore(&objects).await;
        }
    }
}

/// Sound frames with other content: only the content digests tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_in_the_place_of_another_is_found() {
    use rand::{RngCore, SeedableRng};
    // One member a backup: which pack a member of several gets depends on who comes first.
    for name in ["rows", "file"] {
        let store = TestStore::new();
        let repository = make(&store, None).await;
        let mut backups = Vec::new();
        for seed in 0..2 {
            let mut bytes = vec![0; 50_000];
            rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
            let member = match name {
                "rows" => stream("rows", bytes, 9000),
                _ => pages("file", bytes, 4096, 40_960),
            };
            backups.push(back_up(&repository, "shop", None, &[member]).await.unwrap());
        }
        let pack = |i: usize| Path::from(format!("backups/shop/{}/packs/00000000.pack", backups[i].id));
        let objects = store.dump().await;
        let (_, first) = objects.iter().find(|(key, _)| *key == pack(0)).unwrap();
        store.poke(&pack(1), first.clone()).await;
        let reader = repository.read(&ctx(), &backups[1]).await.unwrap();
        let error = content(&reader, name, 50_000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("not what was written"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_are_no_usable_repository() {
    let open =
        |store: &Arc<TestStore>| Repository::open(Arc::clone(store) as _, ctx_static(), open_options(None));
    let store = TestStore::new();
    assert_eq!(open(&store).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.poke(&Path::from("holiday.jpg"), "x".into()).await;
    let error = open(&store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("holiday.jpg"));
    let error = Repository::init(Arc::clone(&store) as _, &ctx(), init_options(None), open_options(None))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);

    let store = TestStore::new();
    make(&store, None).await;
    let twice =
        Repository::init(Arc::clone(&store) as _, &ctx(), init_options(None), open_options(None)).await;
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::AlreadyExists);
    store.poke(&Path::from("repository.json"), r#"{"format":"dm-repository","version":9}"#.into()).await;
    assert_eq!(open(&store).await.unwrap_err().kind(), ErrorKind::Unsupported);
    store.poke(&Path::from("repository.json"), "{}".into()).await;
    assert_eq!(open(&store).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

fn ctx_static() -> &'static OpContext {
    static CTX: std::sync::OnceLock<OpContext> = std::sync::OnceLock::new();
    CTX.get_or_init(ctx)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_do_not_fit() {
    let keys = Keys::new();
    let store = TestStore::new();
    let repository = make(&store, Some(&keys)).await;
    let content_before = samples(1);
    let full = back_up(&repository, "shop", None, &content_before).await.unwrap();
    let open = |identities: Vec<Identity>, index_identity: Option<Identity>| {
        let options = OpenOptions { identities, index_identity, ..open_options(None) };
        Repository::open(Arc::clone(&store) as _, ctx_static(), options)
    };
    // No key at all: full backups and verification of what is stored, nothing else.
    let blind = open(vec![], None).await.unwrap();
    assert!(!blind.can_read_index() && blind.is_encrypted());
    let error =
        back_up(&blind, "shop", Some((&full, BackupKind::Incremental)), &content_before).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().unwrap().contains("full backup"));
    assert_eq!(blind.read(&ctx(), &full).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(blind.verify(&ctx(), &full, VerifyLevel::Full).await.unwrap_err().kind(), ErrorKind::Denied);
    let second = back_up(&blind, "shop", None, &content_before).await.unwrap();
    assert_holds(&repository, &second, &content_before).await;
    // The index key alone: incrementals, but no contents.
    let host = open(vec![], Some(keys.index.clone())).await.unwrap();
    let third =
        back_up(&host, "shop", Some((&full, BackupKind::Incremental)), &content_before).await.unwrap();
    assert_holds(&repository, &third, &content_before).await;
    let reader = host.read(&ctx(), &full).await.unwrap();
    assert_eq!(content(&reader, "schema/pre", 999).await.unwrap_err().kind(), ErrorKind::Denied);
    // Keys of another repository.
    let other = Keys::new();
    assert_eq!(open(vec![], Some(other.index.clone())).await.unwrap_err().kind(), ErrorKind::Invalid);
    let stranger = open(vec![other.identity.clone()], Some(keys.index.clone())).await.unwrap();
    let reader = stranger.read(&ctx(), &full).await.unwrap();
    let error = content(&reader, "schema/pre", 999).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains(&keys.identity.recipient().to_string()));
    // The recipient's key alone reads everything.
    let owner = open(vec![keys.identity.clone()], None).await.unwrap();
    assert_holds(&owner, &third, &content_before).await;
}

#[test]
fn identity_files_plain_and_behind_a_passphrase() {
    let identity = Identity::generate();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("me.key");
    let secret = identity.to_secret_text();
    std::fs::write(&path, format!("# created: today\n{}\n", secret.expose())).unwrap();
    assert_eq!(Identity::from_file(&path, None).unwrap().recipient(), identity.recipient());
    assert!(!format!("{identity:?}").contains("SECRET"));
    let sealed = identity.to_encrypted_file(&Secret::new("correct horse")).unwrap();
    std::fs::write(&path, sealed).unwrap();
    assert_eq!(
        Identity::from_file(&path, Some(&Secret::new("correct horse"))).unwrap().recipient(),
        identity.recipient()
    );
    assert_eq!(
        Identity::from_file(&path, Some(&Secret::new("wrong"))).unwrap_err().kind(),
        ErrorKind::Denied
    );
    assert_eq!(Identity::from_file(&path, None).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(
        Identity::from_file(&folder.path().join("none"), None).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!("age1nonsense".parse::<Recipient>().is_err());
}
