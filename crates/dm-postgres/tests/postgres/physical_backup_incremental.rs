//! Incremental backups are exact to the page, by WAL summaries and by page LSN.

use dm_core::ErrorKind;
use dm_testkit::postgres::{Options, Place, Server};
use dm_testkit::require;

use crate::physical_backup_support::{Copied, copied, engine, judged, started, write_out};

/// Relations and the other files that hold contents, byte for byte.
fn assert_same_pages(one: &Copied, other: &Copied) {
    let contents = |backup: &Copied| -> Vec<String> {
        let folders =
            ["data/base/", "data/global/", "data/pg_tblspc/", "data/pg_xact/", "data/pg_multixact/"];
        backup
            .members
            .keys()
            .filter(|name| folders.iter().any(|f| name.starts_with(f)) && !name.ends_with("pg_control"))
            .cloned()
            .collect()
    };
    assert_eq!(contents(one), contents(other));
    for name in contents(one) {
        let (a, b) = (&one.members[&name].1, &other.members[&name].1);
        assert_eq!(a.len(), b.len(), "{name}");
        for (page, (a, b)) in a.chunks(8192).zip(b.chunks(8192)).enumerate() {
            assert!(a == b, "{name}: page {page} differs");
        }
    }
}

/// Every way in which a file can differ from the base's.
async fn incrementals_are_exact(major: u32, options: Options, by: Option<&str>) {
    let options = options.with_setting("autovacuum", "off");
    let server = require!(Server::private(major, &options));
    let place = require!(Place::new("incremental"));
    let space = place.folder("space").expect("a folder");
    server
        .psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()))
        .await
        .expect("a tablespace");
    server
        .psql(
            "CREATE TABLE still AS SELECT i AS id, repeat('x', 300) AS word FROM generate_series(1, 30000) i;
             CREATE TABLE hot AS SELECT i AS id, 0 AS n, repeat('y', 300) AS word FROM generate_series(1, 30000) i;
             ALTER TABLE hot ADD PRIMARY KEY (id);
             CREATE TABLE cut AS SELECT * FROM hot; CREATE TABLE cut_and_grown AS SELECT * FROM hot;
             CREATE TABLE emptied AS SELECT * FROM hot; CREATE TABLE rewritten AS SELECT * FROM hot;
             CREATE TABLE gone AS SELECT * FROM hot; CREATE TABLE away AS SELECT * FROM hot;
             CREATE UNLOGGED TABLE passing AS SELECT * FROM hot;
             CREATE DATABASE dropped",
        )
        .await
        .expect("tables");
    server.psql("VACUUM (FREEZE)").await.expect("a vacuum");
    let engine = engine(&server);
    let full = copied(&engine, None).await.expect("a full backup");

    // Nothing changed: nothing of tables is stored, by summaries nothing is read.
    let idle = copied(&engine, Some(&full)).await.expect("an incremental backup");
    assert_eq!(idle.changes_by(), by);
    assert_same_pages(&idle, &copied(&engine, None).await.expect("a full backup"));
    if by.is_some() {
        assert!(idle.read * 20 < full.read, "{} of {} bytes", idle.read, full.read);
    }

    server
        .psql(
            "UPDATE hot SET n = 1 WHERE id % 1000 = 0;
             DELETE FROM cut WHERE id > 1000; DELETE FROM cut_and_grown WHERE id > 1000;
             DROP TABLE gone; TRUNCATE emptied; INSERT INTO emptied SELECT * FROM hot WHERE id < 10;
             ALTER TABLE away SET TABLESPACE space; UPDATE away SET n = 1 WHERE id = 7;
             CREATE TABLE new AS SELECT * FROM hot; DELETE FROM passing WHERE id < 100",
        )
        .await
        .expect("changes");
    for alone in [
        "VACUUM (TRUNCATE) cut",
        "VACUUM (TRUNCATE) cut_and_grown",
        "INSERT INTO cut_and_grown SELECT * FROM hot",
        "VACUUM (FULL) rewritten",
        "DROP DATABASE dropped",
        "CREATE DATABASE by_files STRATEGY file_copy",
        "CREATE DATABASE by_log STRATEGY wal_log",
        "CREATE DATABASE in_space TABLESPACE space STRATEGY file_copy",
    ] {
        server.psql(alone).await.expect(alone);
    }
    server.read_everything().await.expect("a look at everything");
    let truth = server.fingerprint().await.expect("sums");
    let next = copied(&engine, Some(&full)).await.expect("an incremental backup");
    let again = copied(&engine, None).await.expect("a full backup");
    assert_same_pages(&next, &again);
    if by.is_some() {
        assert!(next.unchanged > full.read / 4, "{} of {} bytes", next.unchanged, full.read);
    }

    // A chain, and a differential beside it.
    server
        .psql("UPDATE still SET word = 'z' WHERE id = 5; UPDATE hot SET n = 2 WHERE id = 29000")
        .await
        .expect("changes");
    server.read_everything().await.expect("a look at everything");
    let third = copied(&engine, Some(&next)).await.expect("an incremental backup");
    let differential = copied(&engine, Some(&full)).await.expect("a differential backup");
    let whole = copied(&engine, None).await.expect("a full backup");
    assert_same_pages(&third, &whole);
    assert_same_pages(&differential, &whole);
    if by.is_some() {
        assert!(third.read < differential.read, "{} and {}", third.read, differential.read);
    }
    let copy = started(major, &write_out(&next, &place, "copy"), &server).await;
    assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
    judged(copy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incrementals_of_15_by_page_lsn_are_exact() {
    incrementals_are_exact(15, Options::physical(15), Some("page_lsn")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incrementals_of_18_by_summaries_are_exact() {
    incrementals_are_exact(18, Options::physical(18), Some("wal_summaries")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incrementals_of_17_by_summaries_are_exact() {
    incrementals_are_exact(17, Options::physical(17), Some("wal_summaries")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incrementals_of_18_by_page_lsn_are_exact() {
    let options = Options::physical(18).with_setting("summarize_wal", "off");
    incrementals_are_exact(18, options, Some("page_lsn")).await;
}

/// Without logged hint bits a page changes and keeps its LSN: neither is asked then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incrementals_without_checksums_compare_contents() {
    let mut options = Options::physical(15);
    options.initdb_args.retain(|argument| argument != "--data-checksums");
    incrementals_are_exact(15, options, None).await;
}

/// That bits of the visibility map were cleared is in no summary: an incremental that left the map out would count rows
/// that are not there. The stock tools show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_deleted_since_the_base_are_not_counted() {
    let options = Options::physical(18).with_setting("autovacuum", "off");
    let server = require!(Server::private(18, &options));
    let place = require!(Place::new("visibility"));
    server
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, word text);
             INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 200000) i",
        )
        .await
        .expect("a table");
    server.psql("VACUUM (FREEZE, ANALYZE) t").await.expect("all is visible");
    server.psql("CHECKPOINT").await.expect("a checkpoint");
    let engine = engine(&server);
    let full = copied(&engine, None).await.expect("a full backup");
    let stock = place.join("stock");
    server.basebackup(&stock, &[]).await.expect("a stock backup");
    server.psql("DELETE FROM t WHERE id % 1000 = 0; CHECKPOINT").await.expect("rows go");
    let next = copied(&engine, Some(&full)).await.expect("an incremental backup");
    assert_eq!(next.changes_by(), Some("wal_summaries"));
    assert!(next.unchanged > full.read / 2, "{} of {} bytes", next.unchanged, full.read);
    let manifest = format!("--incremental={}", stock.join("backup_manifest").display());
    let stock_next = place.join("stock_next");
    server.basebackup(&stock_next, &[&manifest]).await.expect("a stock incremental backup");

    let ours = started(18, &write_out(&next, &place, "ours"), &server).await;
    assert_eq!(
        ours.psql("SET enable_seqscan = off; SELECT count(*) FROM t").await.expect("a count"),
        "199800"
    );
    judged(ours).await;
    let combined = place.join("combined");
    server.install().combine(&[&stock, &stock_next], &combined).await.expect("a combined backup");
    let theirs = started(18, &combined, &server).await;
    let counted = theirs.psql("SET enable_seqscan = off; SELECT count(*) FROM t").await.expect("a count");
    // When this fails the stock tools were mended, and maps need not be read whole any more.
    assert_ne!(counted, "199800", "the stock tools were right");
}

/// A base that this server did not grow out of is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_of_another_cluster_is_refused() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let full = copied(&engine(&server), None).await.expect("a full backup");
    let refused = |change: fn(&mut Copied)| {
        let mut other = full.clone();
        change(&mut other);
        let engine = engine(&server);
        async move { copied(&engine, Some(&other)).await.expect_err("no base") }
    };
    for (what, error) in [
        ("another cluster", refused(|b| b.source.system_identifier = Some("7".to_owned())).await),
        (
            "checksums",
            refused(|b| drop(b.source.attributes.insert("data_checksums".into(), false.into()))).await,
        ),
        (
            "a later place",
            refused(|b| drop(b.source.attributes.insert("stop_lsn".into(), "FF/0".into()))).await,
        ),
        (
            "another timeline",
            refused(|b| drop(b.source.attributes.insert("timeline".into(), 2.into()))).await,
        ),
        ("no place", refused(|b| drop(b.source.attributes.remove("start_lsn"))).await),
        ("another major", refused(|b| b.source.version.major = 14).await),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("full")), "{what}: {error:?}");
    }
    let error = refused(|b| drop(b.source.attributes.insert("physical_format".into(), 2.into()))).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

/// Summaries that were removed: the pages' LSNs tell, and it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_summaries_are_said() {
    let server = require!(Server::private(18, &Options::physical(18).with_setting("autovacuum", "off")));
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id").await.expect("a table");
    let engine = engine(&server);
    let full = copied(&engine, None).await.expect("a full backup");
    server.psql("UPDATE t SET id = -id WHERE id < 100; CHECKPOINT").await.expect("changes");
    let there = copied(&engine, Some(&full)).await.expect("an incremental backup");
    assert_eq!(there.changes_by(), Some("wal_summaries"));
    let folder = server.data_dir().join("pg_wal/summaries");
    for file in std::fs::read_dir(folder).expect("summaries") {
        std::fs::remove_file(file.expect("a file").path()).expect("removed");
    }
    server.psql("UPDATE t SET id = -id WHERE id < -90; CHECKPOINT").await.expect("changes");
    let next = copied(&engine, Some(&full)).await.expect("an incremental backup");
    assert_eq!(next.changes_by(), Some("page_lsn"));
    assert!(next.summary.warnings.iter().any(|w| w.contains("WAL summaries")), "{:?}", next.summary.warnings);
    assert_same_pages(&next, &copied(&engine, None).await.expect("a full backup"));
}
