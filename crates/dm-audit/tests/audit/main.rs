//! The audit log on both engines: concurrent appends, competing sealers, every planted defect, and an independent
//! verifier in another language.

#![allow(clippy::unwrap_used, reason = "a test that meets an error is to fail")]

#[path = "../../../dm-store/tests/support/mod.rs"]
mod support;

mod narrowing;
mod tree;

use std::collections::HashSet;
use std::time::Duration;

use chrono::DateTime;
use dm_audit::{AuditLog, AuditVerification, LogFilter, LogHead, SealedEvent};
use dm_core::{AuditEvent, AuditIntent, AuditOutcome, AuditSink, Effect, ErrorKind, OpContext, RunId};
use dm_store::{Order, Page, RunEnd, RunStart, RunState};
use serde_json::json;
use support::{Place, ctx};

on_both!(
    appends_and_sealers_compete,
    every_edit_is_found,
    other_defects_are_found,
    a_noted_head_finds_what_is_consistent_in_itself,
    the_unsealed_are_checked,
    a_crash_leaves_the_intent,
    the_log_is_filtered_and_paged,
    secrets_do_not_get_in,
);

fn event(i: u64) -> AuditEvent {
    AuditEvent {
        at: DateTime::from_timestamp(1_700_000_000 + i64::try_from(i).unwrap(), 0).unwrap(),
        intent: AuditIntent {
            run_id: RunId::generate(),
            actor: format!("user:{}", i % 3),
            action: if i.is_multiple_of(2) { "backup:run".into() } else { "restore:run".into() },
            resource: format!("shop-{}", i % 5),
            details: json!({"n": i, "text": "ü🦀 \"quoted\" \u{0}"}),
        },
        outcome: if i.is_multiple_of(7) { AuditOutcome::Failure } else { AuditOutcome::Success },
        effect: Effect::Applied,
        duration: Duration::from_micros(1500 + i),
        error: (i.is_multiple_of(7)).then(|| "disk full".to_owned()),
    }
}

async fn log_of(place: &Place, events: u64) -> AuditLog {
    let log = AuditLog::new(place.open().await.unwrap());
    let events: Vec<_> = (0..events).map(event).collect();
    log.append_all(&events).await.unwrap();
    log.seal(&ctx()).await.unwrap();
    log
}

async fn verify(log: &AuditLog) -> AuditVerification {
    log.verify(&ctx()).await.unwrap()
}

fn assert_clean(result: &AuditVerification, sealed: u64, unsealed: u64) {
    assert!(result.ok && result.first_bad.is_none() && result.bad == 0, "{result:?}");
    assert_eq!((result.sealed, result.unsealed), (sealed, unsealed));
    assert_eq!(result.head.seq, i64::try_from(sealed).unwrap());
    assert!(result.statement.contains("internally consistent") && !result.statement.contains("untampered"));
}

async fn appends_and_sealers_compete(place: Place) {
    const TASKS: u64 = 16;
    const EACH: u64 = 25;
    let log = AuditLog::new(place.open().await.unwrap());
    let done = tokio_util::sync::CancellationToken::new();
    let sealers: Vec<_> = (0..3)
        .map(|_| {
            // Each on a store of its own, as another process would be.
            let (url, done) = (place.url(), done.clone());
            tokio::spawn(async move {
                let store = crate::support::open(url).await.unwrap();
                let log = AuditLog::new(store);
                let mut sealed = 0;
                while !done.is_cancelled() {
                    sealed += log.seal(&ctx()).await.unwrap().sealed;
                    tokio::task::yield_now().await;
                }
                sealed
            })
        })
        .collect();
    let appenders: Vec<_> = (0..TASKS)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for i in 0..EACH {
                    log.append(&ctx(), &event(task * EACH + i)).await.unwrap();
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.unwrap();
    }
    done.cancel();
    let mut sealed = 0;
    for sealer in sealers {
        sealed += sealer.await.unwrap();
    }
    sealed += log.seal(&ctx()).await.unwrap().sealed;
    assert_eq!(sealed, TASKS * EACH);
    assert_clean(&verify(&log).await, TASKS * EACH, 0);
    let page = Page { limit: 1000, order: Order::Oldest, ..Page::default() };
    let events = log.log(&LogFilter::default(), &page).await.unwrap();
    let numbers: HashSet<i64> = events.iter().map(|e| e.details["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers.len(), (TASKS * EACH) as usize, "every event is there once");
    let seqs: HashSet<i64> = events.iter().filter_map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=i64::try_from(TASKS * EACH).unwrap()).collect());
}

/// What each column is set to, in the row of seal 4.
const EDITS: [(&str, &str); 22] = [
    ("audit_leaves", "id = 4000"),
    ("audit_leaves", "version = 2"),
    ("audit_leaves", "event_id = '00000000-0000-0000-0000-000000000000'"),
    ("audit_leaves", "at = at + 1"),
    ("audit_leaves", "actor = 'user:mallory'"),
    ("audit_leaves", "action = 'backup:list'"),
    ("audit_leaves", "resource = 'other'"),
    ("audit_leaves", "outcome = 'denied'"),
    ("audit_leaves", "effect = 'none'"),
    ("audit_leaves", "duration_us = 0"),
    ("audit_leaves", "run_id = upper(run_id)"),
    ("audit_leaves", "details = '{}'"),
    ("audit_leaves", "details = NULL"),
    ("audit_leaves", "error = 'another'"),
    ("audit_leaves", "salt = commitment"),
    ("audit_leaves", "commitment = leaf_hash"),
    ("audit_leaves", "leaf_hash = commitment"),
    ("audit_seals", "leaf_id = 4000"),
    ("audit_seals", "event_id = '00000000-0000-0000-0000-000000000000'"),
    ("audit_seals", "prev_hash = chain_hash"),
    ("audit_seals", "sealed_at = sealed_at + 1"),
    ("audit_seals", "epoch = epoch + 1"),
];

async fn every_edit_is_found(place: Place) {
    let log = log_of(&place, 12).await;
    let clean = verify(&log).await;
    assert_clean(&clean, 12, 0);
    place
        .raw("CREATE TABLE l AS SELECT * FROM audit_leaves; CREATE TABLE s AS SELECT * FROM audit_seals")
        .await;
    for (table, edit) in EDITS {
        let key = if table == "audit_seals" { "seq" } else { "id" };
        place.raw(&format!("UPDATE {table} SET {edit} WHERE {key} = 4")).await;
        expect_bad(&place, &log, 4, edit).await;
        restore(&place).await;
        // A leaf's neighbour is another one: the first bad one counts.
        place.raw(&format!("UPDATE {table} SET {edit} WHERE {key} = 4")).await;
        place.raw("UPDATE audit_leaves SET actor = 'x' WHERE id = 9").await;
        expect_bad(&place, &log, 4, edit).await;
        restore(&place).await;
    }
    place.raw("UPDATE audit_seals SET chain_hash = prev_hash WHERE seq = 4").await;
    expect_bad(&place, &log, 4, "chain_hash").await;
    restore(&place).await;
    place.raw("UPDATE audit_seals SET seq = 4000 WHERE seq = 4").await;
    expect_bad(&place, &log, 4, "seq").await;
    restore(&place).await;
    assert_eq!(verify(&log).await, clean);
}

async fn restore(place: &Place) {
    place
        .raw(
            "DELETE FROM audit_leaves; DELETE FROM audit_seals; INSERT INTO audit_leaves SELECT * FROM l; \
             INSERT INTO audit_seals SELECT * FROM s; DELETE FROM audit_pending; DELETE FROM audit_tiles",
        )
        .await;
}

/// Both verifiers find a defect, and find it first at this position.
async fn expect_bad(place: &Place, log: &AuditLog, seq: i64, what: &str) {
    let result = verify(log).await;
    assert_eq!(result.first_bad.as_ref().and_then(|b| b.seq), Some(seq), "{what}: {result:?}");
    assert!(!result.ok && result.bad >= 1 && result.statement.starts_with("not consistent"), "{what}");
    agree(place, &result).await;
}

async fn other_defects_are_found(place: Place) {
    let log = log_of(&place, 12).await;
    place
        .raw("CREATE TABLE l AS SELECT * FROM audit_leaves; CREATE TABLE s AS SELECT * FROM audit_seals")
        .await;
    let copy = |from: &str| {
        let columns = "version, event_id, at, actor, action, resource, outcome, effect, duration_us, run_id, \
             details, error, salt, commitment, leaf_hash";
        let values = columns.replace("event_id", "'11111111-0000-0000-0000-000000000000'");
        format!("INSERT INTO audit_leaves ({columns}) SELECT {values} FROM audit_leaves WHERE {from}")
    };
    for (defect, seq, why) in [
        ("DELETE FROM audit_leaves WHERE id = 6".to_owned(), 6, "its leaf is gone"),
        ("DELETE FROM audit_seals WHERE seq = 6".into(), 6, "this seal is missing"),
        ("DELETE FROM audit_seals WHERE seq BETWEEN 6 AND 8".into(), 6, "the seals 6 to 8 are missing"),
        (
            "DELETE FROM audit_leaves WHERE id = 6; DELETE FROM audit_seals WHERE seq = 6".into(),
            6,
            "this seal is missing",
        ),
        ("DELETE FROM audit_seals WHERE seq = 1".into(), 1, "this seal is missing"),
        // Two seals swapped, and two leaves swapped under their seals.
        (
            "UPDATE audit_seals SET seq = -1 WHERE seq = 5; UPDATE audit_seals SET seq = 5 WHERE seq = 6; \
             UPDATE audit_seals SET seq = 6 WHERE seq = -1"
                .into(),
            5,
            "does not follow",
        ),
        (
            "UPDATE audit_seals SET leaf_id = -1 WHERE seq = 5; UPDATE audit_seals SET leaf_id = 5 WHERE seq = 6; \
             UPDATE audit_seals SET leaf_id = 6 WHERE seq = 5"
                .into(),
            5,
            "of another event",
        ),
        // The seals behind moved up to close the gap.
        (
            "DELETE FROM audit_seals WHERE seq = 6; UPDATE audit_seals SET seq = -seq WHERE seq > 6; \
             UPDATE audit_seals SET seq = -seq - 1 WHERE seq < 0"
                .into(),
            6,
            "does not follow",
        ),
        (
            "INSERT INTO audit_seals SELECT 13, 777, event_id, chain_hash, chain_hash, sealed_at, epoch \
             FROM audit_seals WHERE seq = 12"
                .into(),
            13,
            "its leaf is gone",
        ),
        (
            "INSERT INTO audit_seals SELECT 0, 777, event_id, chain_hash, chain_hash, sealed_at, epoch \
             FROM audit_seals WHERE seq = 12"
                .into(),
            0,
            "before the beginning",
        ),
    ] {
        place.raw(&defect).await;
        expect_bad(&place, &log, seq, &defect).await;
        let found = verify(&log).await.first_bad.unwrap();
        assert!(found.why.contains(why), "{defect}: {found:?}");
        restore(&place).await;
    }
    // An inserted leaf, beside the queue: it is in no chain.
    place.raw(&copy("id = 3")).await;
    place.raw("DELETE FROM audit_pending").await;
    let result = verify(&log).await;
    let bad = result.first_bad.clone().unwrap();
    assert_eq!((bad.seq, bad.event_id.as_deref()), (None, Some("11111111-0000-0000-0000-000000000000")));
    agree(&place, &result).await;
    restore(&place).await;
    // On the queue it would be sealed, but its hash is of another event.
    place.raw(&copy("id = 3")).await;
    log.seal(&ctx()).await.unwrap();
    expect_bad(&place, &log, 13, "a leaf inserted through the queue").await;
    restore(&place).await;
    // A leaf put on the queue once more does not stop the sealer, and is not sealed twice.
    place.raw("INSERT INTO audit_pending (leaf_id) VALUES (3), (999)").await;
    log.append(&ctx(), &event(50)).await.unwrap();
    assert_eq!(log.seal(&ctx()).await.unwrap().sealed, 1);
    let result = verify(&log).await;
    assert_eq!((result.sealed, result.bad), (13, 1), "only the place without a leaf is bad: {result:?}");
    agree(&place, &result).await;
}

async fn a_noted_head_finds_what_is_consistent_in_itself(place: Place) {
    let log = log_of(&place, 8).await;
    let early = verify(&log).await.head;
    log.append_all(&(8..12).map(event).collect::<Vec<_>>()).await.unwrap();
    log.seal(&ctx()).await.unwrap();
    let late = verify(&log).await.head;
    for noted in [LogHead::EMPTY, early, late] {
        let result = log.verify_from(&ctx(), noted).await.unwrap();
        assert_clean(&result, 12, 0);
        agree(&place, &result).await;
    }
    place
        .raw("CREATE TABLE l AS SELECT * FROM audit_leaves; CREATE TABLE s AS SELECT * FROM audit_seals")
        .await;
    let found = async |noted: LogHead, seq: i64, what: &str| {
        assert!(verify(&log).await.ok, "{what}: it is to be consistent in itself");
        let result = log.verify_from(&ctx(), noted).await.unwrap();
        assert!(!result.ok, "{what}");
        assert_eq!(result.first_bad.as_ref().unwrap().seq, Some(seq), "{what}: {result:?}");
        agree(&place, &result).await;
    };
    // The tail is cut, leaves, tree and all.
    place.raw("DELETE FROM audit_seals WHERE seq > 10; DELETE FROM audit_leaves WHERE id > 10; DELETE FROM audit_tiles").await;
    found(late, 11, "cut tail").await;
    assert!(log.verify_from(&ctx(), early).await.unwrap().ok, "what was noted before is still there");
    // The log is wiped.
    place.raw("DELETE FROM audit_seals; DELETE FROM audit_leaves").await;
    found(early, 1, "wiped").await;
    restore(&place).await;
    // An event is changed and everything is hashed and sealed again.
    let events = (0..12).map(|i| {
        let mut event = event(i);
        if i == 4 {
            event.intent.actor = "user:nobody".into();
        }
        event
    });
    place.raw("DELETE FROM audit_seals; DELETE FROM audit_leaves").await;
    log.append_all(&events.collect::<Vec<_>>()).await.unwrap();
    log.seal(&ctx()).await.unwrap();
    found(early, 8, "rewritten").await;
    found(late, 12, "rewritten").await;
}

async fn the_unsealed_are_checked(place: Place) {
    let log = log_of(&place, 3).await;
    log.append_all(&[event(3), event(4)]).await.unwrap();
    let result = verify(&log).await;
    assert_clean(&result, 3, 2);
    assert_eq!(place.number("SELECT COUNT(*) FROM audit_pending").await, 2);
    agree(&place, &result).await;
    place.raw("UPDATE audit_leaves SET actor = 'x' WHERE id = 5").await;
    let result = verify(&log).await;
    assert_eq!((result.bad, result.first_bad.as_ref().unwrap().seq), (1, None));
    agree(&place, &result).await;
    // Sealing does not make it good.
    assert_eq!(log.seal(&ctx()).await.unwrap().sealed, 2);
    expect_bad(&place, &log, 5, "changed before it was sealed").await;
    log.append(&ctx(), &event(6)).await.unwrap();
    place.raw("DELETE FROM audit_leaves WHERE id > 5").await;
    let result = verify(&log).await;
    assert_eq!(result.bad, 2, "the leaf that waited is gone, too: {result:?}");
}

async fn a_crash_leaves_the_intent(place: Place) {
    let run_id = RunId::generate();
    let start = RunStart {
        run_id,
        action: "restore:run".into(),
        resource: "shop".into(),
        actor: "user:a".into(),
        started_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    };
    let mut intent = event(1);
    intent.intent.run_id = run_id;
    intent.outcome = AuditOutcome::Intent;
    intent.effect = Effect::None;
    {
        let log = AuditLog::new(place.open().await.unwrap());
        log.begin_run(&start, &intent).await.unwrap();
        // The process dies here: nothing is closed, nothing is sealed.
    }
    let log = AuditLog::new(place.open().await.unwrap());
    let of_run = LogFilter { run_id: Some(run_id), ..LogFilter::default() };
    let events = log.log(&of_run, &Page::default()).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].outcome, events[0].seq), (AuditOutcome::Intent, None));
    assert_eq!(log.store().run(run_id).await.unwrap().state, RunState::Running);
    // Whoever finds it may write down how it ended; run and outcome agree.
    let end = RunEnd {
        run_id,
        finished_at: start.started_at,
        state: RunState::Interrupted,
        effect: Effect::Unknown,
        error: Some("the process died".into()),
        report: None,
    };
    let outcome = AuditEvent {
        outcome: AuditOutcome::Interrupted,
        effect: Effect::Unknown,
        error: end.error.clone(),
        ..intent.clone()
    };
    log.finish_run(&end, &outcome).await.unwrap();
    assert_eq!(log.finish_run(&end, &outcome).await.unwrap_err().kind(), ErrorKind::Conflict);
    log.seal(&ctx()).await.unwrap();
    let events = log.log(&of_run, &Page::default()).await.unwrap();
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert_clean(&verify(&log).await, 2, 0);
}

async fn the_log_is_filtered_and_paged(place: Place) {
    let log = log_of(&place, 40).await;
    let list = async |filter: LogFilter, page: Page<i64>| log.log(&filter, &page).await.unwrap();
    let all = LogFilter::default;
    let numbers = |events: &[SealedEvent]| -> Vec<i64> {
        events.iter().map(|e| e.details["n"].as_i64().unwrap()).collect()
    };
    let mut seen = Vec::new();
    let mut page = Page { limit: 7, ..Page::default() };
    loop {
        let events = list(all(), page.clone()).await;
        page.after = events.last().map(|e| e.position);
        seen.extend(numbers(&events));
        if events.len() < 7 {
            break;
        }
    }
    assert_eq!(seen, (0..40).rev().collect::<Vec<_>>());
    let count = async |filter: LogFilter| list(filter, Page::default()).await.len();
    assert_eq!(count(LogFilter { actor: Some("user:1".into()), ..all() }).await, 13);
    assert_eq!(count(LogFilter { action_prefix: Some("backup:".into()), ..all() }).await, 20);
    assert_eq!(count(LogFilter { action_prefix: Some("b%".into()), ..all() }).await, 0);
    assert_eq!(count(LogFilter { resource: Some("shop-2".into()), ..all() }).await, 8);
    assert_eq!(count(LogFilter { outcome: Some(AuditOutcome::Failure), ..all() }).await, 6);
    let time = |s: i64| Some(DateTime::from_timestamp(1_700_000_000 + s, 0).unwrap());
    assert_eq!(count(LogFilter { since: time(10), until: time(15), ..all() }).await, 5);
    let run_id = Some(list(all(), Page::default()).await[3].run_id);
    assert_eq!(count(LogFilter { run_id, ..all() }).await, 1);
    // One JSON object a line, and back.
    let events = list(all(), Page { order: Order::Oldest, limit: 3, after: None }).await;
    assert_eq!(numbers(&events), [0, 1, 2]);
    for event in events {
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<SealedEvent>(&line).unwrap(), event);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["at"].as_str().unwrap().ends_with('Z'), "RFC 3339 in UTC: {value}");
    }
}

async fn secrets_do_not_get_in(place: Place) {
    let log = AuditLog::new(place.open().await.unwrap());
    let mut event = event(1);
    event.intent.resource = "postgres://u:s3cret@h/d".into();
    event.intent.details = json!({"source": "copied from postgres://u:s3cret@h/d", "password": "s3cret"});
    event.error = Some("cannot reach postgres://u:s3cret@h/d?sslpassword=s3cret: refused".into());
    let start = RunStart {
        run_id: event.intent.run_id,
        action: event.intent.action.clone(),
        resource: event.intent.resource.clone(),
        actor: event.intent.actor.clone(),
        started_at: event.at,
    };
    let end = RunEnd {
        run_id: start.run_id,
        finished_at: event.at,
        state: RunState::Failure,
        effect: Effect::None,
        error: event.error.clone(),
        report: Some(event.intent.details.clone()),
    };
    log.record_run(&start, &end, &event).await.unwrap();
    log.seal(&ctx()).await.unwrap();
    let kept =
        serde_json::to_string(&log.log(&LogFilter::default(), &Page::default()).await.unwrap()).unwrap();
    let run = serde_json::to_string(&log.store().run(start.run_id).await.unwrap()).unwrap();
    assert!(!kept.contains("s3cret") && !run.contains("s3cret"), "{kept} {run}");
    assert!(kept.contains("refused") && kept.contains("u:***@h"), "{kept}");
    assert_clean(&verify(&log).await, 1, 0);
}

/// A leaf whose transaction commits after a later one was sealed is sealed, too: ids are given before the commit, so
/// "above the last sealed id" would have lost it.
#[tokio::test]
async fn an_open_transaction_does_not_hide_its_leaves() {
    let Some(place) = Place::postgres("open_transaction").await else { return };
    let log = log_of(&place, 2).await;
    place.raw("CREATE TABLE kept AS SELECT * FROM audit_leaves WHERE id = 1").await;
    let mut slow = place.connect().await;
    let insert = "BEGIN; INSERT INTO audit_leaves SELECT nextval(pg_get_serial_sequence('audit_leaves', 'id')), \
         version, 'slow', at, actor, action, resource, outcome, effect, duration_us, run_id, details, error, salt, \
         commitment, leaf_hash FROM kept";
    sqlx::raw_sql(insert).execute(&mut slow).await.unwrap();
    log.append(&ctx(), &event(9)).await.unwrap();
    assert_eq!(log.seal(&ctx()).await.unwrap().sealed, 1, "an append does not wait for an open one");
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    assert_eq!(log.seal(&ctx()).await.unwrap().sealed, 1);
}

/// Holds our result against the independent verifier's (which reads SQLite files).
async fn agree(place: &Place, ours: &AuditVerification) {
    let Place::Sqlite(_) = place else { return };
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/verify.py");
    let mut command = tokio::process::Command::new("python3");
    command.arg(oracle).arg(place.file());
    if let Some(noted) = ours.noted {
        command.arg(noted.to_string());
    }
    let output = command.output().await.expect("python3 runs the independent verifier");
    let said = String::from_utf8_lossy(&output.stdout);
    let theirs: serde_json::Value = serde_json::from_str(&said)
        .unwrap_or_else(|e| panic!("{e}: {said} {}", String::from_utf8_lossy(&output.stderr)));
    let ours = serde_json::to_value(ours).unwrap();
    for field in ["ok", "sealed", "unsealed", "bad"] {
        assert_eq!(ours[field], theirs[field], "{field}: {ours} {theirs}");
    }
    for field in ["seq", "event_id"] {
        assert_eq!(ours["first_bad"][field], theirs["first_bad"][field], "{field}: {ours} {theirs}");
    }
    assert_eq!(output.status.success(), ours["ok"] == json!(true));
}

#[tokio::test]
async fn sealing_watches_the_context_and_appending_does_not() {
    let place = Place::sqlite();
    let log = AuditLog::new(place.open().await.unwrap());
    let cancelled: OpContext = ctx();
    cancelled.cancellation().cancel();
    log.append(&cancelled, &event(1)).await.unwrap();
    assert_eq!(log.seal(&cancelled).await.unwrap_err().kind(), ErrorKind::Interrupted);
    // The lease was given back: another sealer need not wait for it to run out.
    assert_eq!(log.seal(&ctx()).await.unwrap().sealed, 1);
    assert_eq!(log.verify(&cancelled).await.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_defect_with_a_place() {
    let place = Place::sqlite();
    let log = log_of(&place, 12).await;
    // SQLite keeps text that is not UTF-8.
    place.raw("UPDATE audit_leaves SET actor = CAST(x'ff' AS TEXT) WHERE id = 7").await;
    let result = verify(&log).await;
    assert_eq!((result.bad, result.sealed, result.first_bad.unwrap().seq), (1, 12, Some(7)));
}

#[tokio::test]
async fn several_batches_are_one_chain() {
    let place = Place::sqlite();
    let log = log_of(&place, 4500).await;
    let result = verify(&log).await;
    assert_clean(&result, 4500, 0);
    agree(&place, &result).await;
}
