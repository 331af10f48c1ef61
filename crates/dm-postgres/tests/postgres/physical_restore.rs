//! Physical restore: written, recovered, checked, opened.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use dm_core::{CheckDepth, Level};
use dm_testkit::conformance::collect;
use dm_testkit::postgres::Server;
use dm_testkit::require;

use crate::physical_backup_support::physical;
use crate::physical_support::{
    Started, base_backup, engine, folder, hand_over, options, preview, sealed, to,
};
use crate::support::context;

const CONTENT: &str = "
    CREATE TABLE large (id int PRIMARY KEY, body text, n int);
    INSERT INTO large SELECT g, repeat(md5(g::text), 4), g % 7 FROM generate_series(1, 30000) g;
    CREATE INDEX large_n ON large (n);
    CREATE TABLE toasted (id int, body text);
    INSERT INTO toasted SELECT g, (SELECT string_agg(md5((g * x)::text), '') FROM generate_series(1, 400) x) FROM generate_series(1, 50) g;
    CREATE UNLOGGED TABLE forgotten (id int); INSERT INTO forgotten VALUES (1);
    CREATE SEQUENCE s; SELECT nextval('s')";

const SUMS: &str = "SELECT count(*), sum(id::bigint), sum(hashtext(body)::bigint) FROM large
    UNION ALL SELECT count(*), sum(id), sum(hashtext(body)::bigint) FROM toasted";

/// Nothing of ours is left in a directory that was opened.
pub(crate) fn assert_is_clean(data: &Path) {
    for name in ["dm-sealed", "recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts"] {
        assert!(!data.join(name).exists(), "{name}");
    }
    let mode = |p: &Path| fs::metadata(p).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(data), 0o700);
    assert_eq!(mode(&data.join("PG_VERSION")), 0o600);
    assert_eq!(mode(&data.join("base")), 0o700);
}

async fn round_trip(major: u32) {
    let server = require!(Server::private(major, &options(major)));
    server.psql(CONTENT).await.expect("content");
    let home = folder();
    let (live, folders) = (server.data_dir().with_file_name("space"), home.path().join("spaces"));
    fs::create_dir(&live).expect("a folder");
    hand_over(server.data_dir(), &live);
    server
        .psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", live.display()))
        .await
        .expect("a tablespace");
    server
        .psql("CREATE TABLE far (id int PRIMARY KEY) TABLESPACE elsewhere; INSERT INTO far SELECT generate_series(1, 1000)")
        .await
        .expect("a table there");
    let sums = server.psql(SUMS).await.expect("sums");
    let backup = base_backup(&server).await;
    // What comes later is not in the backup.
    server.psql("INSERT INTO large VALUES (-1, 'later', 0); DROP TABLE far").await.expect("a change");

    let engine = engine(&server);
    let data = home.path().join("restored");
    let mut request = to(&data);
    request.checks = CheckDepth::Deep;
    request.settings.insert("tablespaces".into(), folders.display().to_string());
    let looked = preview(&engine, &backup, &request).await;
    assert!(looked.findings.iter().all(|f| f.level < Level::Warning), "{:?}", looked.findings);
    assert_eq!(looked.location, data.display().to_string());
    let session =
        sealed(&context(), &engine, &backup, &request, &AtomicU64::new(0)).await.expect("a restore");
    assert!(!data.exists(), "the name comes last");
    let comparison = session.compare(&context(), &[]).await.expect("a comparison");
    assert!(comparison.is_proven(), "{:?}", comparison.checks);
    let said = |check: &str| {
        comparison.checks.iter().find(|c| c.check == check).unwrap_or_else(|| panic!("{check}"))
    };
    assert_eq!(said("checksums").level, Level::Ok);
    if major == 15 {
        assert_eq!(said("amcheck").level, Level::Ok, "{:?}", said("amcheck"));
    }
    let restored = session.release(&context()).await.expect("a release");
    assert_eq!(restored.location, data.display().to_string());
    assert!(restored.reached.is_some());
    assert_is_clean(&data);
    let original = fs::read(server.data_dir().join("postgresql.auto.conf")).expect("the source's");
    assert_eq!(fs::read(data.join("postgresql.auto.conf")).expect("the restored one"), original);

    let started = Started::new(&server, &data);
    assert_eq!(started.psql(SUMS), sums);
    assert_eq!(started.psql("SELECT count(*) FROM far"), "1000");
    assert_eq!(
        started.psql("SELECT count(*) FROM forgotten"),
        "0",
        "unlogged tables are empty after a crash"
    );
    let place =
        started.psql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'");
    assert!(place.starts_with(&folders.display().to_string()), "{place}");
    assert_eq!(
        started.psql("SELECT timeline_id FROM pg_control_checkpoint()"),
        "2",
        "history goes on along its own timeline"
    );
    started.psql("INSERT INTO large VALUES (-2, 'new', 0)");
    started.stop("fast");
    let checked =
        started.command("pg_checksums").arg("--check").arg("-D").arg(&data).output().expect("it runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_starts_and_is_what_was_backed_up_15() {
    round_trip(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_starts_and_is_what_was_backed_up_18() {
    round_trip(18).await;
}

/// The same with a backup of our own.
async fn own_round_trip(major: u32) {
    let server = require!(Server::private(major, &options(major)));
    server.psql(CONTENT).await.expect("content");
    let sums = server.psql(SUMS).await.expect("sums");
    let engine = engine(&server);
    let backup = collect(&engine, &context(), &physical()).await.expect("a backup");
    server.psql("INSERT INTO large VALUES (-1, 'later', 0)").await.expect("a change");
    let home = folder();
    let data = home.path().join("restored");
    let request = dm_core::RestoreRequest { checks: CheckDepth::Deep, ..to(&data) };
    let session =
        sealed(&context(), &engine, &backup, &request, &AtomicU64::new(0)).await.expect("a restore");
    let comparison = session.compare(&context(), &[]).await.expect("a comparison");
    assert!(comparison.is_proven(), "{:?}", comparison.checks);
    session.release(&context()).await.expect("a release");
    assert_is_clean(&data);
    let started = Started::new(&server, &data);
    assert_eq!(started.psql(SUMS), sums);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_our_own_starts_and_is_what_was_backed_up_15() {
    own_round_trip(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_our_own_starts_and_is_what_was_backed_up_18() {
    own_round_trip(18).await;
}
