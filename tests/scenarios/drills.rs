//! Drills, recoveries and sealed places through the facade, on real engines.

use std::path::{Path, PathBuf};

use data_manager::backup::{Assertion, Hook, Hooks, Unproven};
use data_manager::{
    BackupOptions, DataManager, DrillOptions, ErrorKind, ProofKind, RecoveryPoint, RestoreOptions, Verdict,
};
use dm_testkit::postgres::Server;
use dm_testkit::require;

use crate::support::{Place, execute, number};

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn spoil_packs(repository: &Path) {
    for pack in files(repository).into_iter().filter(|p| p.extension().is_some_and(|e| e == "pack")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
}

async fn drills(dm: &DataManager, repository: &Path) {
    let ctx = dm.context();
    let error = dm.backup().drill(&ctx, &DrillOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    execute(dm, "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)").await;
    execute(dm, "INSERT INTO orders VALUES (1, 10), (2, 20), (3, -1)").await;
    dm.backup().run(&ctx, &BackupOptions::default()).await.expect("a backup");
    assert_eq!(dm.status(&ctx).await.unwrap().verdict, Verdict::Protected);

    // What happens after the backup is not what a drill asks.
    execute(dm, "DELETE FROM orders").await;
    let question = |sql: &str, expect: &str| Assertion::new("orders", sql).expecting(expect.parse().unwrap());
    let good = DrillOptions {
        assertions: vec![
            question("SELECT count(*) = 3 FROM orders", ""),
            question("SELECT count(*) FROM orders;", ">= 3"),
            question("SELECT id FROM orders WHERE total > 100", "empty"),
            question("SELECT * FROM orders ORDER BY id DESC", "3"),
        ],
        ..DrillOptions::default()
    };
    let report = dm.backup().drill(&ctx, &good).await.expect("a drill");
    report.check().unwrap_or_else(|e| panic!("{e:?} {report:#?}"));
    assert!(report.restore_ms > 0 && report.tables.iter().all(|t| t.equal && t.expected.digest.is_some()));
    let status = dm.status(&ctx).await.unwrap();
    assert_eq!(status.verdict, Verdict::Proven, "{status:#?}");
    let drill = status.targets[0].last_drill.clone().expect("it is recorded");
    assert!(drill.ok && drill.kind == ProofKind::Drill && drill.restore_time_ms.is_some());
    assert_eq!(drill.results["assertions"][1]["found"], "3");

    // Statements that write, that are wrong, that are false.
    for (sql, expect, word) in [
        ("DELETE FROM orders", "", "could not be made"),
        ("SELECT nonsense FROM orders", "", "could not be made"),
        ("SELECT count(*) FROM orders WHERE total < 0", "0", "found 1 where = 0"),
    ] {
        let bad = DrillOptions { assertions: vec![question(sql, expect)], ..DrillOptions::default() };
        let report = dm.backup().drill(&ctx, &bad).await.expect("a result");
        let error = report.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckFailed);
        assert!(error.to_string().contains(word), "{error}");
        assert!(report.left.is_none());
    }
    let status = dm.status(&ctx).await.unwrap();
    assert_eq!(status.verdict, Verdict::AtRisk);
    assert!(status.targets[0].reasons.iter().any(|r| r.contains("the last drill failed")), "{status:#?}");

    spoil_packs(repository);
    let report = dm.backup().drill(&ctx, &DrillOptions::default()).await.expect("a result");
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::Corrupt, "{report:#?}");
    assert!(report.left.is_none());
    let drill = dm.status(&ctx).await.unwrap().targets[0].last_drill.clone().unwrap();
    assert!(!drill.ok && drill.results["failure"]["kind"] == "corrupt");
}

/// A recovery in place with hooks, then a place that stays sealed and is released.
async fn recovers(dm: &DataManager, folder: &Path, name: &str, at_name: impl AsyncFn(&str) -> Option<i64>) {
    let ctx = dm.context();
    execute(dm, "CREATE TABLE t (x INTEGER)").await;
    execute(dm, "INSERT INTO t VALUES (1), (2)").await;
    let made = dm.backup().run(&ctx, &BackupOptions::default()).await.expect("a backup").backup;
    execute(dm, "DELETE FROM t WHERE x = 1").await;

    let log = folder.join("hooks.log");
    let line = format!("echo $DM_PHASE >> {}", log.display());
    let options = RestoreOptions {
        in_place: true,
        assertions: vec![Assertion::new("rows", "SELECT count(*) FROM t").expecting("2".parse().unwrap())],
        hooks: Hooks { stop: Some(Hook::shell(&line)), start: Some(Hook::shell(&line)), ..Hooks::default() },
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&ctx, &options).await.expect("a plan");
    assert_eq!(plan.loss.from, made.consistency.at);
    let report = dm.apply_restore(&ctx, plan).await.expect("a recovery");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "stop\nstart\n");
    assert!(report.released && report.previous.is_some() && report.recovery.loss.from == made.consistency.at);
    assert!(report.recovery.rto_ms >= report.hooks.iter().map(|h| h.duration_ms).sum::<u64>());
    assert_eq!(number(dm, "SELECT count(*) FROM t").await, 2);

    let sealed = RestoreOptions {
        to: Some(name.to_owned()),
        keep_sealed: true,
        until: RecoveryPoint::Time(ctx.now()),
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&ctx, &sealed).await.expect("a plan");
    let report = dm.apply_restore(&ctx, plan).await.expect("a sealed restore");
    assert!(report.equal && !report.released);
    assert_eq!(at_name(name).await, None, "it has its name only when it is released");
    let error = dm.release_sealed(&ctx, None, name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let released = dm.release_sealed(&ctx, None, &report.location).await.expect("a release");
    assert!(released.location.ends_with(name), "{released:?}");
    assert_eq!(at_name(name).await, Some(2));
    let again = dm.release_sealed(&ctx, None, &report.location).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);

    // What a wrong answer left sealed, a person may still open.
    let wrong = RestoreOptions {
        to: Some(format!("{name}_2")),
        assertions: vec![Assertion::new("rows", "SELECT count(*) FROM t").expecting("3".parse().unwrap())],
        unproven: Unproven::KeepSealed,
        ..RestoreOptions::default()
    };
    let plan = dm.plan_restore(&ctx, &wrong).await.expect("a plan");
    let error = dm.apply_restore(&ctx, plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckFailed);
    let place = error.subject().expect("it names the place").to_owned();
    dm.release_sealed(&ctx, None, &place).await.expect("a release");
    assert_eq!(at_name(&format!("{name}_2")).await, Some(2));
}

fn sqlite(folder: &Path) -> (DataManager, PathBuf) {
    let repository = folder.join("backups");
    let url = format!("sqlite://{}?mode=rwc", folder.join("shop.db").display());
    (Place::folder(&repository).manager(&url, folder), repository)
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_drilled() {
    let folder = tempfile::tempdir().unwrap();
    let (dm, repository) = sqlite(folder.path());
    drills(&dm, &repository).await;
    let hidden: Vec<_> =
        files(folder.path()).into_iter().filter(|p| p.to_string_lossy().contains("restore-")).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_recovers_and_stays_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let (dm, _) = sqlite(folder.path());
    let name = folder.path().join("copy.db");
    let look = async |name: &str| {
        if !Path::new(name).exists() {
            return None;
        }
        let state = tempfile::tempdir().unwrap();
        let copy = Place::folder(&state.path().join("b")).manager(&format!("sqlite://{name}"), state.path());
        let rows = number(&copy, "SELECT count(*) FROM t").await;
        copy.close().await;
        Some(rows)
    };
    recovers(&dm, folder.path(), name.to_str().unwrap(), look).await;
    dm.close().await;
}

async fn postgres(
    server: &Server,
    folder: &Path,
) -> (DataManager, PathBuf, dm_testkit::postgres::TestDatabase) {
    let db = server.database("drill").await.expect("a database");
    let repository = folder.join("backups");
    let mut place = Place::folder(&repository);
    place.bin_dir = Some(db.bin_dir().to_owned());
    (place.manager(&db.url(), folder), repository, db)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_drilled() {
    let server = require!(Server::shared(15));
    let folder = tempfile::tempdir().unwrap();
    let (dm, repository, db) = postgres(server, folder.path()).await;
    drills(&dm, &repository).await;
    dm.close().await;
    drop(db);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_recovers_and_stays_sealed() {
    let server = require!(Server::shared(15));
    let folder = tempfile::tempdir().unwrap();
    let (dm, _, db) = postgres(server, folder.path()).await;
    let name = format!("{}_copy", db.name());
    let look = async |name: &str| {
        let there = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
        if db.psql_in("postgres", &there).await.unwrap().trim() == "0" {
            return None;
        }
        Some(db.psql_in(name, "SELECT count(*) FROM t").await.unwrap().trim().parse().unwrap())
    };
    recovers(&dm, folder.path(), &name, look).await;
    let others = "SELECT has_database_privilege('public', current_database(), 'CONNECT'), shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = current_database()";
    assert_eq!(db.psql_in(&name, others).await.unwrap().trim(), "t|t", "released as the source was");
    dm.close().await;
    let kept = db
        .psql_in(
            "postgres",
            &format!("SELECT datname FROM pg_database WHERE datname LIKE '{}\\_%'", db.name()),
        )
        .await
        .unwrap();
    for name in kept.split_whitespace() {
        db.psql_in("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await.unwrap();
    }
}
