//! The SQLite story in every kind of bucket: S3, Google Cloud Storage, Azure (the latter two on emulators, one writer).

use data_manager::Secret;
use data_manager::repository::StoreOptions;
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
