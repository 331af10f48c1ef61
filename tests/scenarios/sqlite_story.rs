//! Back up, change, back up incrementally, break, restore, compare — on SQLite.

use data_manager::repository::VerifyLevel;
use data_manager::{BackupKind, BackupOptions, ErrorKind, RestoreOptions};

use crate::support::{Place, execute, number};

const FILL: &str = "INSERT INTO orders (customer, total, note) \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) \
     SELECT i % 997, (i * 7919) % 100000, 'order number ' || i || ' of a customer who likes long notes' FROM n";

pub(crate) async fn story(place: &Place, folder: &std::path::Path) {
    let database = folder.join("shop.db");
    let dm = place.manager(&format!("sqlite://{}?mode=rwc", database.display()), folder);
    execute(&dm, "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, total INTEGER, note TEXT)")
        .await;
    execute(&dm, "CREATE INDEX orders_by_customer ON orders (customer)").await;
    execute(&dm, FILL).await;

    let full = dm.backup().run(&dm.context(), &BackupOptions::default()).await.expect("a full backup");
    // The definitions (a table, an index) are compared like rows, and counted as none.
    assert_eq!(full.backup.counts.rows, 40_000);
    execute(&dm, "UPDATE orders SET total = total + 1 WHERE id BETWEEN 500 AND 900").await;
    let options = BackupOptions { kind: Some(BackupKind::Incremental), ..BackupOptions::default() };
    let incremental = dm.backup().run(&dm.context(), &options).await.expect("an incremental backup");
    assert_eq!(incremental.backup.parent, Some(full.backup.id));
    assert!(
        incremental.backup.sizes.stored * 10 <= full.backup.sizes.stored,
        "{:?} against {:?}",
        incremental.backup.sizes,
        full.backup.sizes
    );
    let truth = number(&dm, "SELECT sum(total * id) FROM orders").await;

    dm.backup()
        .verify(&dm.context(), None, None, VerifyLevel::Full)
        .await
        .expect("a verification")
        .check()
        .expect("a sound repository");
    execute(&dm, "DROP TABLE orders").await;

    let to = folder.join("restored.db");
    let options = RestoreOptions { to: Some(to.display().to_string()), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await.expect("a plan");
    let restored = dm.apply_restore(&dm.context(), plan).await.expect("a restore");
    assert!(restored.equal && restored.tables.iter().any(|t| t.expected.rows == 40_000));
    let copy = place.manager(&format!("sqlite://{}", to.display()), folder);
    assert_eq!(number(&copy, "SELECT sum(total * id) FROM orders").await, truth);
    copy.close().await;

    let audit = dm.audit().verify(&dm.context(), &Default::default()).await.expect("the trail verifies");
    assert!(audit.ok);
    // A restore onto a file with something in it is refused, and the file is untouched.
    let plan = dm.plan_restore(&dm.context(), &options).await;
    let refused = match plan {
        Ok(plan) => dm.apply_restore(&dm.context(), plan).await.map(|_| ()).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{refused:?}");
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    Box::pin(story(&Place::folder(&folder.path().join("backups")), folder.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_folder_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    Box::pin(story(&Place::folder(&folder.path().join("backups")).encrypted(), folder.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_private_key_backs_up_but_cannot_restore() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups")).encrypted();
    let database = format!("sqlite://{}?mode=rwc", folder.path().join("a.db").display());
    let host = place.builder(&database, folder.path()).build().unwrap();
    execute(&host, "CREATE TABLE t (x INTEGER)").await;
    execute(&host, "INSERT INTO t VALUES (1), (2)").await;
    host.backup()
        .run(&host.context(), &BackupOptions::default())
        .await
        .expect("a full backup needs no private key");
    let options = BackupOptions { kind: Some(BackupKind::Incremental), ..BackupOptions::default() };
    host.backup()
        .run(&host.context(), &options)
        .await
        .expect("with the index key an incremental needs none either");

    let to = folder.path().join("b.db").display().to_string();
    let options = RestoreOptions { to: Some(to), ..RestoreOptions::default() };
    let refused = match host.plan_restore(&host.context(), &options).await {
        Ok(plan) => host.apply_restore(&host.context(), plan).await.map(|_| ()).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
    assert!(refused.hint().is_some());
}
