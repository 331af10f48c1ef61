//! The whole server through the facade: its files and its log backed up, drilled, exported as `pg_basebackup` would.

use std::path::Path;

use data_manager::backup::{Assertion, ExportFormat};
use data_manager::{
    BackupMode, BackupOptions, DrillOptions, ErrorKind, RecoveryPoint, RestoreOptions, ShipLogOptions,
};
use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::require;

use crate::support::Place;

fn question(expect: &str) -> Vec<Assertion> {
    let sql = "SELECT count(*) FROM t JOIN elsewhere USING (x)";
    vec![Assertion::new("rows", sql).expecting(expect.parse().unwrap())]
}

async fn unpack(tar: &Path, folder: &Path) {
    let run =
        tokio::process::Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(folder).output().await.unwrap();
    assert!(run.status.success(), "{}: {}", tar.display(), String::from_utf8_lossy(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_drilled_kept_sealed_and_exported() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let ground = Ground::new("physical").expect("a folder for servers");
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::folder(&folder.path().join("backups"));
    place.bin_dir = Some(server.bin_dir().to_owned());
    let dm = place.manager(&server.url("postgres"), folder.path());
    let ctx = dm.context();
    let space = ground.folder("space").unwrap();
    server.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display())).await.unwrap();
    server
        .psql(
            "CREATE TABLE t (x int PRIMARY KEY); CREATE TABLE elsewhere (x int PRIMARY KEY) TABLESPACE space",
        )
        .await
        .unwrap();
    let fill = "INSERT INTO t SELECT generate_series(1, 1000); INSERT INTO elsewhere SELECT x FROM t";
    server.psql(fill).await.unwrap();
    let options = BackupOptions { mode: Some(BackupMode::Physical), ..BackupOptions::default() };
    let made = dm.backup().run(&ctx, &options).await.expect("a physical backup").backup;

    let drill = DrillOptions {
        mode: Some(BackupMode::Physical),
        scratch_dir: Some(ground.path().to_owned()),
        assertions: question("1000"),
        ..DrillOptions::default()
    };
    let report = dm.backup().drill(&ctx, &drill).await.expect("a drill");
    report.check().unwrap_or_else(|e| panic!("{e:?}\n{report:#?}"));
    assert!(report.backup.id == made.id && report.left.is_none(), "{report:#?}");
    let wrong = DrillOptions { assertions: question("999"), ..drill.clone() };
    let report = dm.backup().drill(&ctx, &wrong).await.expect("a result");
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::CheckFailed, "{report:#?}");
    assert!(report.left.is_none());

    // The log brings what came after.
    server
        .psql("INSERT INTO t VALUES (1001); INSERT INTO elsewhere VALUES (1001); SELECT pg_switch_wal()")
        .await
        .unwrap();
    let late = DrillOptions { until: RecoveryPoint::End, assertions: question("1001"), ..drill.clone() };
    let error = dm.backup().drill(&ctx, &late).await.unwrap().check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "nothing was shipped yet: {error:?}");
    dm.logs()
        .ship(&ctx, &ShipLogOptions { once: true, ..ShipLogOptions::default() })
        .await
        .expect("shipping");
    let report = dm.backup().drill(&ctx, &late).await.expect("a drill");
    report.check().unwrap_or_else(|e| panic!("{e:?}\n{report:#?}"));
    let names =
        std::fs::read_dir(ground.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("dm-drill")).collect();
    assert!(left.is_empty(), "drills leave nothing: {left:?}");
    let status = dm.status(&ctx).await.unwrap();
    assert!(
        status.targets.iter().any(|t| t.last_drill.as_ref().is_some_and(|d| d.ok && d.backup_id == made.id))
    );

    // As pg_basebackup -Ft: unpacked by GNU tar, and started.
    let tars = folder.path().join("tars");
    let exported = dm.backup().export(&ctx, Some(&made.target), "latest", &tars, ExportFormat::BaseTar).await;
    let oid = server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'").await.unwrap();
    let names: Vec<String> = exported.expect("an export").files.into_iter().map(|f| f.path).collect();
    assert_eq!(names[..3], ["base.tar".to_owned(), format!("{oid}.tar"), "pg_wal.tar".to_owned()]);
    let (data, moved) = (ground.folder("data").unwrap(), ground.folder("moved").unwrap());
    unpack(&tars.join("base.tar"), &data).await;
    unpack(&tars.join("pg_wal.tar"), &data.join("pg_wal")).await;
    unpack(&tars.join(format!("{oid}.tar")), &moved).await;
    std::fs::write(data.join("tablespace_map"), format!("{oid} {}\n", moved.display())).unwrap();
    let link = data.join("pg_tblspc").join(&oid);
    assert_eq!(std::fs::read_link(&link).unwrap(), space);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&moved, &link).unwrap();
    let copy = Server::on_directory(15, &data, server.password(), &Options::physical(15)).expect("it starts");
    copy.until_recovered().await.unwrap();
    assert_eq!(copy.psql("SELECT count(*) FROM t JOIN elsewhere USING (x)").await.unwrap(), "1000");
    drop(copy);

    // Kept sealed, then opened by its name.
    let to = ground.join("copy");
    let options = RestoreOptions {
        to: Some(to.display().to_string()),
        until: RecoveryPoint::End,
        assertions: question("1001"),
        settings: [("tablespaces".to_owned(), ground.join("spaces").display().to_string())].into(),
        keep_sealed: true,
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&ctx, &options).await.expect("a plan");
    let report = dm.apply_restore(&ctx, plan).await.expect("a sealed restore");
    assert!(report.equal && !report.released && report.assertions[0].ok, "{report:#?}");
    let released = dm.release_sealed(&ctx, None, &report.location).await.expect("a release");
    assert_eq!(released.location, to.display().to_string());
    dm.close().await;
}
