//! What tests of physical backups stand on, tried with PostgreSQL's own backups: the churn runs on every major, and the
//! judges see a planted defect.

use std::fs;
use std::time::Duration;

use dm_testkit::postgres::{Churn, Options, Place, Server, StopMode, pages};
use dm_testkit::require;

/// Churn, then a plain backup under load, then a copy that holds the same and passes every judge.
async fn a_copy_under_churn(major: u32) {
    let server = require!(Server::private(major, &Options::physical(major)));
    let place = require!(Place::new("copies"));
    let mut churn = Churn::begin(&server, dm_testkit::seed()).await.unwrap();
    churn.run(60).await.unwrap();
    server.pgbench_database("bench", 1).await.unwrap();
    let load = server.load("bench", 2, Duration::from_secs(2)).unwrap();
    churn.run(10).await.unwrap();
    let report = load.finish().await.unwrap();
    assert!(report.transactions > 0 && report.per_second > 0.0, "{report:?}");

    let truth = server.fingerprint().await.unwrap();
    assert!(truth.tables() > 3, "{truth:?}");
    server
        .psql_in("bench", "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 5")
        .await
        .unwrap();
    let moved = server.fingerprint().await.unwrap();
    assert_eq!(truth.differences(&moved).len(), 1, "one table was changed");

    let copy = place.join("copy");
    let mappings: Vec<String> = server
        .psql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16000")
        .await
        .unwrap()
        .lines()
        .enumerate()
        .map(|(i, path)| {
            format!("--tablespace-mapping={path}={}", place.join(&format!("space{i}")).display())
        })
        .collect();
    let mappings: Vec<&str> = mappings.iter().map(String::as_str).collect();
    server.basebackup(&copy, &mappings).await.unwrap();
    let quiet = Options::default().with_setting("autovacuum", "off");
    let copy = require!(Server::on_directory(major, &copy, server.password(), &quiet));
    copy.until_recovered().await.unwrap();
    assert_eq!(copy.fingerprint().await.unwrap().differences(&moved), Vec::<String>::new());
    assert!(copy.index_only_counts().await.unwrap() > 10);
    assert_eq!(copy.amcheck().await.unwrap().is_some(), [15, 17].contains(&major));
    copy.stop(StopMode::Fast).unwrap();
    let checked = copy.install().checksums(copy.data_dir()).await.unwrap();
    assert_eq!(checked.is_some(), major != 17);
}

#[tokio::test]
async fn postgres_15_copied_under_churn() {
    a_copy_under_churn(15).await;
}

#[tokio::test]
async fn postgres_17_copied_under_churn() {
    a_copy_under_churn(17).await;
}

#[tokio::test]
async fn postgres_18_copied_under_churn() {
    a_copy_under_churn(18).await;
}

#[tokio::test]
async fn a_standby_catches_up_and_is_promoted() {
    let server = require!(Server::private(16, &Options::physical(16)));
    let place = require!(Place::new("standby"));
    let standby = require!(server.standby(&place.join("data"), &Options::default()).await);
    server.psql("CREATE TABLE t AS SELECT 7 AS x").await.unwrap();
    standby.until_caught_up(&server).await.unwrap();
    assert_eq!(standby.psql("SELECT x FROM t").await.unwrap(), "7");
    assert!(standby.psql("DELETE FROM t").await.unwrap_err().0.contains("read-only"));
    standby.promote().unwrap();
    standby.psql("DELETE FROM t").await.unwrap();
}

/// The judges, against defects planted into the files of a server that is down.
#[tokio::test]
async fn planted_defects_are_seen() {
    let server = require!(Server::private(15, &Options::physical(15).with_setting("autovacuum", "off")));
    let place = require!(Place::new("defects"));
    server
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, word text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
             VACUUM t; CHECKPOINT",
        )
        .await
        .unwrap();
    let file = server.psql("SELECT pg_relation_filepath('t')").await.unwrap();
    let map = server.data_dir().join(format!("{file}_vm"));
    let all_visible = fs::read(&map).unwrap();
    server.psql("DELETE FROM t WHERE id % 2 = 0").await.unwrap();
    // Not counted here: a scan marks entries of dead rows in the index, and the defect would be hidden.
    server.stop(StopMode::Fast).unwrap();
    let copy = place.join("copy");
    copy_folder(server.data_dir(), &copy);
    assert_eq!(pages::compare(server.data_dir(), &copy).unwrap(), Vec::new());

    // A visibility map from before: what the index knows of deleted rows is believed.
    fs::write(&map, all_visible).unwrap();
    let differences = pages::compare(server.data_dir(), &copy).unwrap();
    assert!(differences.len() == 1 && differences[0].is_fork("vm"), "{}", pages::describe(&differences));
    server.start().unwrap();
    let wrong = server.index_only_counts().await.unwrap_err();
    assert!(wrong.0.contains("public.t: 5000 by the index, 2500 in the table"), "{wrong}");

    // A flipped byte in a page.
    let heap = copy.join(&file);
    let mut bytes = fs::read(&heap).unwrap();
    bytes[8192 + 4000] ^= 1;
    fs::write(&heap, bytes).unwrap();
    let said = server.install().checksums(&copy).await.unwrap_err();
    assert!(said.0.contains("checksum verification failed") && said.0.contains("block 1"), "{said}");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
