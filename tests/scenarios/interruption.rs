//! Cancelled work leaves nothing half done, and running again works.

use data_manager::{BackupOptions, ErrorKind, OpContext, Progress, ProgressSink, RestoreOptions};
use std::sync::Arc;

use crate::support::{Place, execute};

/// Cancels as soon as the first bytes flow.
struct CancelOnBytes(tokio_util::sync::CancellationToken);

impl ProgressSink for CancelOnBytes {
    fn report(&self, progress: Progress) {
        if matches!(progress, Progress::Bytes(_)) {
            self.0.cancel();
        }
    }
}

fn cancelling(ctx: &OpContext) -> OpContext {
    ctx.clone().with_progress(Arc::new(CancelOnBytes(ctx.cancellation().clone())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_and_a_cancelled_restore() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups"));
    let dm =
        place.manager(&format!("sqlite://{}?mode=rwc", folder.path().join("a.db").display()), folder.path());
    execute(&dm, "CREATE TABLE t (x BLOB)").await;
    execute(&dm, "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) SELECT randomblob(4000) FROM n").await;

    let error = dm.backup().run(&cancelling(&dm.context()), &BackupOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    assert!(dm.backup().list(&dm.context(), None).await.unwrap().backups.is_empty());
    dm.backup().run(&dm.context(), &BackupOptions::default()).await.expect("the next run works");

    let to = folder.path().join("b.db");
    let options = RestoreOptions { to: Some(to.display().to_string()), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await.unwrap();
    let error = dm.apply_restore(&cancelling(&dm.context()), plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().contains("b.db")), "{left:?}");
    let plan = dm.plan_restore(&dm.context(), &options).await.unwrap();
    assert!(dm.apply_restore(&dm.context(), plan).await.unwrap().equal);
    dm.close().await;
}
