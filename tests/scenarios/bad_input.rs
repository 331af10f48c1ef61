//! Wrong input gets a clear error with a way out, and changes nothing.

use data_manager::{BackupOptions, DataManager, ErrorKind, RestoreOptions};

use crate::support::Place;

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_host() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups"));
    // Port 1 on loopback: nobody listens there.
    let dm = place.manager("postgres://nobody:s3cret@127.0.0.1:1/none", folder.path());
    let error = dm.backup().run(&dm.context(), &BackupOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"));
    assert!(!folder.path().join("backups").join("backups").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sqlite_file_is_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups"));
    let path = folder.path().join("typo.db");
    let dm = place.manager(&format!("sqlite://{}", path.display()), folder.path());
    let error = dm.backup().run(&dm.context(), &BackupOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.hint().is_some());
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_no_repository() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups"));
    let dm = place.manager(&format!("sqlite://{}", folder.path().join("a.db").display()), folder.path());
    let error = dm.plan_restore(&dm.context(), &RestoreOptions::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.hint().is_some());
}

#[test]
fn an_engine_nobody_speaks() {
    let error = DataManager::builder()
        .engine("main", "oracle://h/d")
        .and_then(data_manager::DataManagerBuilder::build)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_actor_changes_nothing_and_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups"));
    let engine = format!("sqlite://{}?mode=rwc", folder.path().join("a.db").display());
    let dm = place
        .builder(&engine, folder.path())
        .actor(data_manager::Actor::local_user("eve").with_roles(["viewer"]))
        .build()
        .unwrap();
    let error = dm.backup().run(&dm.context(), &BackupOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!folder.path().join("backups").exists());

    let admin = place.manager(&engine, folder.path());
    let log = admin.audit().log(&admin.context(), &Default::default(), &Default::default()).await.unwrap();
    let text = serde_json::to_string(&log).unwrap();
    assert!(text.contains("\"denied\"") && text.contains("user:eve"), "{text}");
}
