//! The majors between the oldest and the newest, with what is not usual: large segments, configuration elsewhere.

use data_manager::{
    BackupKind, BackupMode, BackupOptions, CheckDepth, DataManager, RecoveryPoint, RestoreOptions,
    ShipLogOptions,
};
use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::require;

use crate::support::Place;

async fn back_up(dm: &DataManager, kind: BackupKind) {
    let options = BackupOptions {
        mode: Some(BackupMode::Physical),
        kind: Some(kind),
        skip_verify: true,
        ..BackupOptions::default()
    };
    let report = dm.backup().run(&dm.context(), &options).await;
    assert_eq!(report.unwrap_or_else(|e| panic!("{kind}: {e:?}")).backup.kind, kind);
}

async fn ship(dm: &DataManager) {
    let once = ShipLogOptions { once: true, ..ShipLogOptions::default() };
    let report = dm.logs().ship(&dm.context(), &once).await.expect("shipping");
    assert!(report.gaps.is_empty(), "{report:?}");
}

/// A full backup, an incremental one, and the log behind it: restored, checked in depth, started.
async fn goes_there_and_back(major: u32, segment_mb: u32) {
    let ground = require!(Ground::new("majors"));
    let hba = ground.folder("configuration").unwrap().join("hba.conf");
    let rules = "host all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&hba, rules).unwrap();
    let mut options = Options::physical(major).with_setting("hba_file", hba.display().to_string());
    options.initdb_args.push(format!("--wal-segsize={segment_mb}"));
    let server = require!(Server::private(major, &options));
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::folder(&folder.path().join("backups"));
    place.bin_dir = Some(server.bin_dir().to_owned());
    let dm = place.manager(&server.url("postgres"), folder.path());
    server.pgbench_database("bank", 1).await.unwrap();
    back_up(&dm, BackupKind::Full).await;
    server
        .psql_in("bank", "UPDATE pgbench_accounts SET abalance = 7 WHERE aid % 100 = 0; CREATE INDEX ON pgbench_accounts (abalance)")
        .await
        .unwrap();
    ship(&dm).await;
    back_up(&dm, BackupKind::Incremental).await;
    // More than a segment of log, in pieces that are smaller than one.
    server
        .psql_in(
            "bank",
            "CREATE TABLE later AS SELECT i, repeat(md5(i::text), 20) AS t FROM generate_series(1, 40000) i",
        )
        .await
        .unwrap();
    ship(&dm).await;
    let truth = server.fingerprint().await.unwrap();
    server.psql_in("bank", "INSERT INTO later VALUES (0, 'the last')").await.unwrap();
    let end = dm.context().now();
    server.psql_in("bank", "DELETE FROM later WHERE i > 0").await.unwrap();
    ship(&dm).await;

    let to = ground.join("copy");
    let options = RestoreOptions {
        mode: Some(BackupMode::Physical),
        to: Some(to.display().to_string()),
        until: RecoveryPoint::Time(end),
        checks: Some(CheckDepth::Deep),
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&dm.context(), &options).await.expect("a plan");
    let report = dm.apply_restore(&dm.context(), plan).await.expect("a restore");
    assert!(report.equal && report.released, "{report:#?}");
    // What lies elsewhere on the source came along, and is not put where the source's is.
    let copy = to.join("dm-outside/hba.conf");
    assert!(report.notes.iter().any(|n| n.contains(&copy.display().to_string())), "{:#?}", report.notes);
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), rules);
    assert_eq!(std::fs::read_to_string(&hba).unwrap(), rules);

    let copy = Server::on_directory(major, &to, server.password(), &Options::physical(major)).unwrap();
    copy.until_recovered().await.unwrap();
    let last = copy.psql_in("bank", "DELETE FROM later WHERE i = 0 RETURNING t").await.unwrap();
    assert!(last.starts_with("the last"), "{last}");
    let differences = copy.fingerprint().await.unwrap().differences(&truth);
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(copy.psql("SHOW wal_segment_size").await.unwrap(), format!("{segment_mb}MB"));
    copy.index_only_counts().await.unwrap();
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_16_with_large_segments_and_rules_elsewhere() {
    Box::pin(goes_there_and_back(16, 64)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_17_with_rules_elsewhere() {
    Box::pin(goes_there_and_back(17, 16)).await;
}
