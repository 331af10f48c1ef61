//! The store on both engines: opening, schema versions, runs, proofs, leases.

#![allow(clippy::unwrap_used, reason = "a test that meets an error is to fail")]

mod support;

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, Effect, ErrorKind, RunId, Secret, TargetName};
use dm_store::{
    Leaf, Order, Page, ProofKind, RecoveryProof, RunEnd, RunFilter, RunStart, RunState, Store, StorePlace,
};
use serde_json::json;
use sha2::Digest;
use support::{Place, ctx};

on_both!(
    openers_at_once_migrate_once,
    a_newer_schema_is_refused,
    a_changed_migration_is_refused,
    a_store_of_before_goes_on,
    a_schema_that_is_behind_is_not_opened,
    runs_are_listed_by_keyset,
    a_run_ends_once,
    a_run_and_its_leaf_stand_or_fall_together,
    proofs_are_kept,
    a_lease_has_one_holder_and_a_growing_epoch,
    awkward_text_comes_back,
);

async fn openers_at_once_migrate_once(place: Place) {
    let opened = (0..6).map(|_| place.open());
    let stores: Vec<Store> = futures::future::try_join_all(opened).await.unwrap();
    let history = "SELECT COUNT(*) FROM dm_schema_history WHERE state = 'applied'";
    assert_eq!(place.number(history).await, 5);
    for store in &stores {
        store.begin_run(&start(0)).await.unwrap();
        store.close().await;
    }
    let again = place.open().await.unwrap();
    assert_eq!(again.runs(&RunFilter::default(), &Page::default()).await.unwrap().len(), 6);
}

async fn a_newer_schema_is_refused(place: Place) {
    place.open().await.unwrap().close().await;
    let newer = "INSERT INTO dm_schema_history \
                 (version, description, state, checksum, text_checksum, migration_sql, applied_at, applied_by) \
                 SELECT 6, 'x', 'applied', 'y', 'y', '', applied_at, 'a newer program' FROM dm_schema_history WHERE version = 1";
    place.raw(newer).await;
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 6") && error.hint().is_some(), "{error}");
}

async fn a_changed_migration_is_refused(place: Place) {
    place.open().await.unwrap().close().await;
    place.raw("UPDATE dm_schema_history SET checksum = 'other' WHERE version = 3").await;
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// A store as programs made it that applied its schema themselves, with the table in which they kept that.
async fn a_store_of_before_goes_on(place: Place) {
    place.open().await.unwrap().begin_run(&start(0)).await.unwrap();
    place.raw("DROP TABLE dm_schema_history").await;
    let old = "CREATE TABLE dm_schema (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, \
               applied_at BIGINT NOT NULL)";
    place.raw(old).await;
    let folder = match &place {
        Place::Sqlite(_) => "sqlite",
        Place::Postgres(_) => "postgres",
    };
    for (number, name) in (1..).zip(["0001_state", "0002_audit", "0003_audit_tree", "0004_audit_erasure"]) {
        let path = format!("{}/../../migrations/{folder}/{name}.sql", env!("CARGO_MANIFEST_DIR"));
        let checksum = hex::encode(sha2::Sha256::digest(std::fs::read(path).unwrap()));
        place.raw(&format!("INSERT INTO dm_schema VALUES ({number}, '{name}', '{checksum}', 0)")).await;
    }
    place.raw("UPDATE dm_schema SET checksum = 'other' WHERE version = 2").await;
    assert_eq!(place.open().await.unwrap_err().kind(), ErrorKind::Corrupt, "it was made by something else");
    let checksum = "(SELECT checksum FROM dm_schema WHERE version = 1)";
    place.raw(&format!("UPDATE dm_schema SET checksum = {checksum} WHERE version = 2")).await;
    assert_eq!(place.open().await.unwrap_err().kind(), ErrorKind::Corrupt, "also with another's text");
    let text =
        std::fs::read(format!("{}/../../migrations/{folder}/0002_audit.sql", env!("CARGO_MANIFEST_DIR")));
    let checksum = hex::encode(sha2::Sha256::digest(text.unwrap()));
    place.raw(&format!("UPDATE dm_schema SET checksum = '{checksum}' WHERE version = 2")).await;

    let opened = (0..3).map(|_| place.open());
    let stores: Vec<Store> = futures::future::try_join_all(opened).await.unwrap();
    let runs = stores.first().unwrap().runs(&RunFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(runs.len(), 1, "what it held is there");
    let taken_over = "SELECT COUNT(*) FROM dm_schema_history WHERE state = 'applied' AND remark IS NOT NULL";
    assert_eq!(place.number(taken_over).await, 4);
    assert_eq!(place.number("SELECT COUNT(*) FROM dm_schema_history WHERE state = 'applied'").await, 5);
}

/// The way into a store leads over its schema.
async fn a_schema_that_is_behind_is_not_opened(place: Place) {
    let prepared = StorePlace::prepare(&Secret::new(place.url()), &ctx()).await.unwrap();
    assert!(!prepared.is_current());
    let error = Store::open(prepared, &ctx()).await.unwrap_err();
    assert!(error.to_string().contains("has 0 of 5 versions"), "{error}");
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 123_456_000).unwrap()
}

fn start(second: i64) -> RunStart {
    RunStart {
        run_id: RunId::generate(),
        action: "backup:run".into(),
        resource: "shop".into(),
        actor: "user:a".into(),
        started_at: at(second),
    }
}

fn end(run_id: RunId, state: RunState) -> RunEnd {
    RunEnd {
        run_id,
        finished_at: at(100),
        state,
        effect: Effect::Applied,
        error: None,
        report: Some(json!({"bytes": 5})),
    }
}

async fn runs_are_listed_by_keyset(place: Place) {
    let store = place.open().await.unwrap();
    let mut ids = Vec::new();
    for i in 0..25 {
        // Several begin in the same microsecond: the id decides then.
        let mut run = start(i / 5);
        run.actor = format!("user:{}", i % 2);
        if i == 7 {
            run.action = "restore:run".into();
            run.resource = "other".into();
        }
        store.begin_run(&run).await.unwrap();
        ids.push(run.run_id);
    }
    for order in [Order::Newest, Order::Oldest] {
        let (mut page, mut seen) = (Page { limit: 4, order, ..Page::default() }, Vec::new());
        loop {
            let runs = store.runs(&RunFilter::default(), &page).await.unwrap();
            page.after = runs.last().map(dm_store::Run::cursor);
            seen.extend(runs.iter().map(|r| (r.started_at, r.run_id)));
            if runs.len() < 4 {
                break;
            }
        }
        let mut expected = seen.clone();
        expected.sort();
        expected.dedup();
        assert_eq!(expected.len(), 25);
        if order == Order::Newest {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
    let count = async |filter: RunFilter| store.runs(&filter, &Page::default()).await.unwrap().len();
    assert_eq!(count(RunFilter { action_prefix: Some("backup:".into()), ..RunFilter::default() }).await, 24);
    assert_eq!(count(RunFilter { action_prefix: Some("Backup:".into()), ..RunFilter::default() }).await, 0);
    assert_eq!(count(RunFilter { resource: Some("other".into()), ..RunFilter::default() }).await, 1);
    assert_eq!(count(RunFilter { actor: Some("user:1".into()), ..RunFilter::default() }).await, 12);
    assert_eq!(count(RunFilter { since: Some(at(1)), until: Some(at(3)), ..RunFilter::default() }).await, 10);
    store.finish_run(&end(ids[3], RunState::Success)).await.unwrap();
    assert_eq!(count(RunFilter { state: Some(RunState::Running), ..RunFilter::default() }).await, 24);
}

async fn a_run_ends_once(place: Place) {
    let store = place.open().await.unwrap();
    let run = start(0);
    store.begin_run(&run).await.unwrap();
    assert_eq!(store.begin_run(&run).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.run(run.run_id).await.unwrap().state, RunState::Running);
    assert_eq!(
        store.finish_run(&end(run.run_id, RunState::Running)).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    store.finish_run(&end(run.run_id, RunState::Partial)).await.unwrap();
    let error = store.finish_run(&end(run.run_id, RunState::Success)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let unknown = RunId::generate();
    assert_eq!(
        store.finish_run(&end(unknown, RunState::Success)).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(store.run(unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
    let found = store.run(run.run_id).await.unwrap();
    assert_eq!((found.state, found.finished_at), (RunState::Partial, Some(at(100))));
    assert_eq!(found.report, Some(json!({"bytes": 5})));
}

fn leaf(event: &str) -> Leaf {
    Leaf {
        version: 1,
        event_id: event.into(),
        at: 1,
        actor: "a".into(),
        action: "b:c".into(),
        resource: "d".into(),
        outcome: "success".into(),
        effect: "none".into(),
        duration_us: 0,
        run_id: "r".into(),
        details: Some("{}".into()),
        error: None,
        salt: Some(vec![1]),
        commitment: vec![2],
        leaf_hash: vec![3],
        erased_by: None,
    }
}

async fn a_run_and_its_leaf_stand_or_fall_together(place: Place) {
    let store = place.open().await.unwrap();
    let run = start(0);
    store.begin_run_with_leaf(&run, &leaf("1")).await.unwrap();
    // The leaf's event id is taken: neither the run's end nor the leaf may be there afterwards.
    let error =
        store.finish_run_with_leaf(&end(run.run_id, RunState::Success), &leaf("1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.run(run.run_id).await.unwrap().state, RunState::Running);
    let other = start(1);
    assert!(store.begin_run_with_leaf(&other, &leaf("1")).await.is_err());
    assert_eq!(store.run(other.run_id).await.unwrap_err().kind(), ErrorKind::NotFound);
    // The run has no end to write: the leaf must not be there either.
    assert!(store.finish_run_with_leaf(&end(other.run_id, RunState::Success), &leaf("2")).await.is_err());
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_leaves").await, 1);
    store.finish_run_with_leaf(&end(run.run_id, RunState::Success), &leaf("2")).await.unwrap();
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_leaves").await, 2);
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_pending").await, 2);
    // Many leaves in several statements are one transaction, too.
    let mut many: Vec<Leaf> = (0..500).map(|i| leaf(&format!("many{i}"))).collect();
    many.push(leaf("1"));
    assert!(store.append_leaves(&many).await.is_err());
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_pending").await, 2);
}

async fn proofs_are_kept(place: Place) {
    let store = place.open().await.unwrap();
    let target = TargetName::new("shop").unwrap();
    assert!(store.last_proof(&target).await.unwrap().is_none());
    let proof = |second, kind, ok| RecoveryProof {
        backup_id: BackupId::generate(),
        target: target.clone(),
        at: at(second),
        kind,
        ok,
        restore_time_ms: (kind != ProofKind::Verify).then_some(1234),
        results: json!({"tables": [1, 2]}),
    };
    let drill = proof(5, ProofKind::Drill, false);
    for proof in [&proof(1, ProofKind::Restore, true), &drill, &proof(3, ProofKind::Verify, true)] {
        store.record_proof(proof).await.unwrap();
    }
    assert_eq!(store.last_proof(&target).await.unwrap().as_ref(), Some(&drill));
    assert_eq!(store.proofs(&target, Some(ProofKind::Verify), 10).await.unwrap()[0].restore_time_ms, None);
    assert_eq!(store.proofs(&target, None, 10).await.unwrap().len(), 3);
    assert!(store.last_proof(&TargetName::new("other").unwrap()).await.unwrap().is_none());
}

#[derive(Debug)]
struct At(DateTime<Utc>);

impl dm_core::Clock for At {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

async fn a_lease_has_one_holder_and_a_growing_epoch(place: Place) {
    let store = place.open().await.unwrap();
    let minute = Duration::from_secs(60);
    let now = |second| ctx().with_clock(std::sync::Arc::new(At(at(second))));
    let first = store.acquire_lease(&now(0), "l", "a", minute).await.unwrap().unwrap();
    assert!(store.acquire_lease(&now(59), "l", "b", minute).await.unwrap().is_none());
    store.renew_lease(&now(50), &first, minute).await.unwrap();
    assert!(store.acquire_lease(&now(109), "l", "b", minute).await.unwrap().is_none());
    let second = store.acquire_lease(&now(110), "l", "b", minute).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    // The late first holder is fenced off, and its release takes nothing from the second.
    assert_eq!(store.renew_lease(&now(111), &first, minute).await.unwrap_err().kind(), ErrorKind::Conflict);
    let sealing = store.seal_batch(&now(111), &first, minute, 1, |_, _, _| panic!("fenced")).await;
    assert_eq!(sealing.unwrap_err().kind(), ErrorKind::Conflict);
    store.release_lease(&first).await.unwrap();
    assert!(store.acquire_lease(&now(112), "l", "c", minute).await.unwrap().is_none());
    store.release_lease(&second).await.unwrap();
    let third = store.acquire_lease(&now(112), "l", "c", minute).await.unwrap().unwrap();
    assert!(third.epoch > second.epoch);
    // Of many that want it at once, one gets it.
    let contenders = (0..12).map(|i| {
        let store = store.clone();
        async move { store.acquire_lease(&ctx(), "m", &format!("h{i}"), minute).await.unwrap() }
    });
    let won = futures::future::join_all(contenders.map(tokio::spawn)).await;
    assert_eq!(won.into_iter().filter(|w| matches!(w, Ok(Some(_)))).count(), 1);
}

async fn awkward_text_comes_back(place: Place) {
    let store = place.open().await.unwrap();
    let mut run = start(0);
    run.resource = "o'rders \"ü\" 🦀 $1 ? \\".into();
    run.actor = "nul\0byte".into();
    store.begin_run(&run).await.unwrap();
    let mut end = end(run.run_id, RunState::Failure);
    end.report = Some(json!({"nul": "\0", "deep": [[{"a": null}]], "big": u64::MAX}));
    end.error = Some("x\0y".into());
    store.finish_run(&end).await.unwrap();
    let found = store.run(run.run_id).await.unwrap();
    assert_eq!(found.resource, run.resource);
    assert_eq!(found.actor, "nul\u{fffd}byte");
    assert_eq!((found.report, found.error.as_deref()), (end.report, Some("x\u{fffd}y")));
    let by_name = RunFilter { resource: Some(run.resource), ..RunFilter::default() };
    assert_eq!(store.runs(&by_name, &Page::default()).await.unwrap().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::sqlite();
    let store = place.open().await.unwrap();
    store.begin_run(&start(0)).await.unwrap();
    let file = place.file();
    let folder = file.parent().unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(folder), mode(folder.parent().unwrap())), (0o700, 0o700));
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 2, "the database and its log: {files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    store.close().await;
    assert_eq!(store.begin_run(&start(0)).await.unwrap_err().kind(), ErrorKind::Unreachable);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.open().await.unwrap();
    assert_eq!(mode(&file), 0o600);
}

#[tokio::test]
async fn what_is_no_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |url: String| support::open(url).await.map(|_| ()).unwrap_err();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, and long enough to have a header".repeat(50)).unwrap();
    let error = open(text.display().to_string()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("not a database"));

    let foreign = folder.path().join("foreign.db");
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}?mode=rwc", foreign.display());
    let mut connection = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE orders (id INTEGER)").execute(&mut connection).await.unwrap();
    let error = open(foreign.display().to_string()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.hint().unwrap().contains("store.url"));

    let error = open(folder.path().display().to_string()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_without_its_password() {
    let open = async |url: String| support::open(url).await.map(|_| ()).unwrap_err();
    let error = open("postgres://u:s3cret@127.0.0.1:1/d".into()).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    let Some(place) = Place::postgres("refusals").await else { return };
    let url = place.url();
    let missing = open(format!("{}_missing", url.split('?').next().unwrap())).await;
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing:?}");
    let mut wrong: String = url.clone();
    let password = wrong.split('@').next().unwrap().rsplit(':').next().unwrap().to_owned();
    wrong = wrong.replace(&format!(":{password}@"), ":s3cret@");
    let error = open(wrong).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_role_without_privileges_learns_what_it_needs() {
    let Some(place) = Place::postgres("privileges").await else { return };
    let Place::Postgres(database) = &place else { return };
    let server = dm_testkit::postgres::Server::shared(15).unwrap();
    let role = server.role("store_keeper", "NOSUPERUSER").await.unwrap();
    let open = || support::open(database.url_as(&role));
    let error = open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("data_manager"), "{error:?}");
    // An administrator makes the schema; no privilege on the database is needed then, at the first start or later.
    database.psql(&format!("CREATE SCHEMA data_manager AUTHORIZATION \"{}\"", role.name)).await.unwrap();
    for _ in 0..2 {
        open().await.unwrap().begin_run(&start(0)).await.unwrap();
    }
}

/// A connection that is cut while a statement that commits by itself may be under way is no reason to do it again.
#[tokio::test]
async fn a_cut_connection_leaves_the_effect_open() {
    let Some(place) = Place::postgres("cut").await else { return };
    let Place::Postgres(database) = &place else { return };
    let store = place.open().await.unwrap();
    let mut blocker = place.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE audit_leaves").execute(&mut blocker).await.unwrap();
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append_leaves(&[leaf("1")]).await }
    });
    let cut = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE query LIKE 'INSERT INTO audit_leaves%' AND wait_event_type = 'Lock') t";
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while database.psql(cut).await.unwrap() == "0" {
        assert!(std::time::Instant::now() < deadline, "the append never waited");
    }
    let error = appending.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(!error.is_retryable(), "{error:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut blocker).await.unwrap();
    // The store itself goes on with another connection.
    store.append_leaves(&[leaf("2")]).await.unwrap();
}

#[tokio::test]
async fn memory_is_a_store_like_any_other() {
    let store = Store::in_memory(&ctx()).await.unwrap();
    let run = start(0);
    store.begin_run_with_leaf(&run, &leaf("1")).await.unwrap();
    store.clone().finish_run_with_leaf(&end(run.run_id, RunState::Success), &leaf("2")).await.unwrap();
    assert_eq!(store.run(run.run_id).await.unwrap().state, RunState::Success);
    let other = Store::in_memory(&ctx()).await.unwrap();
    assert!(other.runs(&RunFilter::default(), &Page::default()).await.unwrap().is_empty());
}
