//! The SQLite story in every kind of bucket: S3, Google Cloud Storage, Azure (the latter two on emulators, one writer).

use std::collections::BTreeMap;

use data_manager::config::LoadOptions;
use data_manager::repository::StoreOptions;
use data_manager::{AuditVerifyOptions, BackupOptions, Config, DataManager, Secret};
use dm_testkit::emulators::{Azurite, Gcs, S3};

use crate::sqlite_story::story;
use crate::support::Place;

#[tokio::test(flavor = "multi_thread")]
async fn s3_encrypted() {
    let Some(server) = dm_testkit::available(S3::start()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::s3(&server).encrypted();
    // As for a bucket that locks objects: every one carries a checksum, which the server compares.
    place.options.object_lock = true;
    Box::pin(story(&place, folder.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_cloud_storage() {
    let Some(server) = dm_testkit::available(Gcs::start()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { endpoint: Some(server.endpoint()), allow_http: true, ..StoreOptions::default() };
    let place = Place { url: format!("gs://{}/dm", Gcs::BUCKET), options, keys: None, bin_dir: None };
    Box::pin(story(&place, folder.path())).await;

    // The server does not know `x-goog-if-generation-match`: the repository has to find out, and say so.
    let database = folder.path().join("restored.db");
    let dm = place.manager(&format!("sqlite://{}", database.display()), folder.path());
    let report = dm.doctor(&dm.context()).await.expect("a report");
    let found: Vec<_> = report.sections.iter().flat_map(|s| &s.findings).collect();
    assert!(found.iter().any(|f| f.check == "create_only"), "{found:?}");
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    let Some(server) = dm_testkit::available(Azurite::start()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        endpoint: Some(server.endpoint()),
        allow_http: true,
        access_key: Some(Secret::new(Azurite::ACCOUNT)),
        secret_key: Some(Secret::new(Azurite::KEY)),
        ..StoreOptions::default()
    };
    let place = Place { url: format!("az://{}/dm", Azurite::CONTAINER), options, keys: None, bin_dir: None };
    Box::pin(story(&place, folder.path())).await;
}

/// The trail's signed heads are taken to the bucket, and find there what whoever has the store and the key rewrote.
#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_audit_trails_checkpoints() {
    let Some(server) = dm_testkit::available(S3::start()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dm.toml");
    std::fs::write(&file, "[audit]\nanchors = [\"repository\"]\n").unwrap();
    let place = Place::s3(&server);
    let open = || {
        let config = Config::load(LoadOptions {
            path: Some(file.clone()),
            profile: None,
            env: &BTreeMap::new(),
            cwd: folder.path(),
            home: None,
        });
        DataManager::builder()
            .config(config.unwrap())
            .engine("main", format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display()))
            .unwrap()
            .repository(&place.url)
            .store_options(place.options.clone())
            .state(folder.path().join("state.db").display().to_string())
            .build()
            .unwrap()
    };
    let dm = open();
    crate::support::execute(&dm, "CREATE TABLE t (x)").await;
    dm.backup().run(&dm.context(), &BackupOptions::default()).await.unwrap();
    dm.audit().checkpoint(&dm.context()).await.unwrap();
    let result = dm.audit().verify(&dm.context(), &AuditVerifyOptions::default()).await.unwrap();
    assert!(result.ok && result.unread.is_empty() && result.statement.contains("kept outside"), "{result:?}");
    dm.close().await;
    // Everything of the trail goes but the key, and is written anew.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("state.db") || name.ends_with(".last") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let dm = open();
    for _ in 0..20 {
        crate::support::execute(&dm, "INSERT INTO t VALUES (1)").await;
    }
    let result = dm.audit().verify(&dm.context(), &AuditVerifyOptions::default()).await.unwrap();
    assert!(
        !result.ok && result.kept.iter().any(|kept| !kept.ok && kept.place == "repository"),
        "{result:?}"
    );
    dm.close().await;
    // A bucket that does not answer is said, and keeps nothing from being done.
    drop(server);
    let dm = open();
    crate::support::execute(&dm, "INSERT INTO t VALUES (2)").await;
    let result = dm.audit().verify(&dm.context(), &AuditVerifyOptions::default()).await.unwrap();
    assert!(!result.unread.is_empty(), "{result:?}");
    dm.close().await;
}
