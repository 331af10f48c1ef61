//! A cluster copied over SQL, written out by a few lines of the tests' own, starts and holds what the original held.

use dm_core::{BackupSource, Engine, ErrorKind, Finding, Layout, Level};
use dm_testkit::postgres::{Options, Place, Server};
use dm_testkit::require;

use crate::physical_backup_support::{
    Reading, copied, engine, engine_of, judged, physical, started, write_out,
};
use crate::support::context;

/// Tablespaces, unlogged and temporary tables, empty databases, large objects; a role with the five grants alone.
async fn a_cluster_with_everything(server: &Server, place: &Place) {
    let space = place.folder("space").expect("a folder");
    server
        .psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()))
        .await
        .expect("a tablespace");
    server
        .psql("CREATE DATABASE shop; CREATE DATABASE far TABLESPACE space; CREATE DATABASE empty")
        .await
        .expect("databases");
    server
        .psql_in(
            "shop",
            "CREATE TABLE orders AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, 50000) i;
             ALTER TABLE orders ADD PRIMARY KEY (id);
             CREATE TABLE away (id int PRIMARY KEY) TABLESPACE space;
             INSERT INTO away SELECT generate_series(1, 10000);
             CREATE UNLOGGED TABLE passing (id int PRIMARY KEY);
             INSERT INTO passing SELECT generate_series(1, 10000);
             CREATE TABLE nothing (id int);
             SELECT lo_from_bytea(0, 'abc');
             VACUUM orders",
        )
        .await
        .expect("tables");
    server.psql_in("far", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id").await.expect("a table");
}

async fn a_copy_is_the_cluster(major: u32) {
    let server = require!(Server::private(major, &Options::physical(major)));
    let place = require!(Place::new("copy"));
    a_cluster_with_everything(&server, &place).await;
    let role = server.role("copier", "REPLICATION").await.expect("a role");
    let url = server
        .url("postgres")
        .replace(&format!("postgres:{}", server.password()), &format!("{}:{}", role.name, role.password));
    let engine = engine_of(&server, &url);

    // Without the grants it says which, and the statement that it gives is enough.
    let source = engine.backup().expect("a source");
    let found = errors(source.as_ref()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let mend = found[0].mend.clone().expect("a mend");
    let Err(error) = source.open(&context(), &physical()).await else { panic!("not allowed") };
    assert_eq!((error.kind(), error.hint()), (ErrorKind::Denied, Some(mend.as_str())));
    let doctor = engine.diagnose(&context()).await;
    let told = doctor.iter().find(|f| f.check == "physical_backup").expect("a finding");
    assert_eq!((told.level, told.mend.as_deref()), (Level::Info, Some(mend.as_str())));
    let statement = mend.split_once(": ").expect("a place and a statement").1;
    server.psql(statement).await.expect("the grants");
    assert_eq!(errors(source.as_ref()).await, Vec::new());
    assert!(
        engine
            .diagnose(&context())
            .await
            .iter()
            .any(|f| f.check == "physical_backup" && f.level == Level::Ok)
    );

    let truth = server.fingerprint().await.expect("sums");
    let mut reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE temporary AND slot_name LIKE 'dm_backup_%'";
    assert_eq!(server.psql(slots).await.expect("slots"), "1", "a slot holds the log");
    reading.files().await.expect("files");
    let backup = reading.end(None).await.expect("a backup");
    server.until("the slot goes with the backup", &format!("SELECT ({slots}) = 0")).await.expect("no slot");
    assert_eq!(backup.summary.warnings, Vec::<String>::new());
    assert_eq!(backup.changes_by(), None);
    assert_eq!(backup.source.consistency.position.as_deref(), backup.source.attributes["stop_lsn"].as_str());
    assert_eq!(backup.source.attributes["tablespaces"].as_array().map(Vec::len), Some(1));
    for (name, (spec, _)) in &backup.members {
        let is_pages = matches!(spec.layout, Layout::Pages { page_bytes: 8192 });
        let path = name.strip_prefix("data/").unwrap_or_default();
        let number =
            path.rsplit('/').next().unwrap_or_default().bytes().next().is_some_and(|b| b.is_ascii_digit());
        let relation = number && ["base/", "global/", "pg_tblspc/"].iter().any(|f| path.starts_with(f));
        assert_eq!(is_pages, relation, "{name}");
    }
    for gone in ["postmaster.pid", "postmaster.opts", "base/1/pg_internal.init"] {
        assert!(!backup.members.contains_key(&format!("data/{gone}")), "{gone}");
    }
    let log: Vec<_> = backup.members.iter().filter(|(name, _)| name.starts_with("wal/")).collect();
    assert!(!log.is_empty() && log.iter().all(|(_, (_, bytes))| bytes.len() == 16 << 20));

    let directory = write_out(&backup, &place, "restored");
    let copy = started(major, &directory, &server).await;
    assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
    assert_eq!(copy.psql_in("shop", "SELECT count(*) FROM passing").await.expect("a table"), "0", "unlogged");
    judged(copy).await;
}

async fn errors(source: &dyn BackupSource) -> Vec<Finding> {
    let preflight = source.preflight(&context(), &physical()).await.expect("a look");
    preflight.findings.into_iter().filter(|f| f.level == Level::Error).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_15_is_the_cluster() {
    a_copy_is_the_cluster(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_17_is_the_cluster() {
    a_copy_is_the_cluster(17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_18_is_the_cluster() {
    a_copy_is_the_cluster(18).await;
}

/// A standby is copied without the primary's knowing, also across a timeline switch of its primary's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_copied() {
    for major in [15, 18] {
        let primary = require!(Server::private(major, &Options::physical(major)));
        let place = require!(Place::new("standby"));
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 50000) AS id").await.expect("a table");
        let standby = require!(primary.standby(&place.join("standby"), &Options::default()).await);
        primary.psql("INSERT INTO t SELECT generate_series(50001, 60000)").await.expect("rows");
        standby.until_caught_up(&primary).await.expect("caught up");
        let truth = primary.fingerprint().await.expect("sums");
        let full = copied(&engine(&standby), None).await.expect("a backup");
        let label = &full.members["data/backup_label"].1;
        assert!(String::from_utf8_lossy(label).contains("BACKUP FROM: standby"));
        let copy = write_out(&full, &place, "copy");
        // A copy of a standby is a standby until somebody says otherwise.
        std::fs::remove_file(copy.join("standby.signal")).expect("it was a standby");
        let copy = started(major, &copy, &primary).await;
        assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
        judged(copy).await;

        primary.psql("UPDATE t SET id = -id WHERE id % 1000 = 0; CHECKPOINT").await.expect("changes");
        standby.until_caught_up(&primary).await.expect("caught up");
        standby.psql("CHECKPOINT").await.expect("a restart point");
        let truth = primary.fingerprint().await.expect("sums");
        let next = copied(&engine(&standby), Some(&full)).await.expect("an incremental backup");
        assert!(next.changes_by().is_some() && next.unchanged > 0);
        let copy = write_out(&next, &place, "next");
        std::fs::remove_file(copy.join("standby.signal")).expect("it was a standby");
        let copy = started(major, &copy, &primary).await;
        assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
        judged(copy).await;

        // After a promotion its backups are on the new timeline, and build on those before.
        standby.promote().expect("a promotion");
        standby.psql("DELETE FROM t WHERE id < 0; CHECKPOINT").await.expect("changes");
        let truth = standby.fingerprint().await.expect("sums");
        let last = copied(&engine(&standby), Some(&next)).await.expect("an incremental backup");
        assert_eq!(last.source.consistency.timeline.as_deref(), Some("2"));
        assert!(last.members.contains_key("wal/00000002.history"));
        let copy = started(major, &write_out(&last, &place, "last"), &primary).await;
        assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
        judged(copy).await;

        // The old primary went another way from there: what was taken of it since is no base for the new one.
        primary.psql("CREATE TABLE astray AS SELECT generate_series(1, 50000) AS id").await.expect("a table");
        let astray = copied(&engine(&primary), None).await.expect("a backup");
        let error = copied(&engine(&standby), Some(&astray)).await.expect_err("not in its past");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("full")), "{error:?}");
    }
}
