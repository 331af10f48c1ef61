//! How fast a log is appended to, sealed, verified and proven: for `scripts/bench audit`.
//!
//! `log_speed STORE EVENTS KEYFILE [append|seal|verify|prove ...]` does those steps on a store that is up to date (any
//! command of `dm` makes it so) and prints one JSON object: events, seconds
//! and events a second of each step. The steps may run as programs of their own, so that each one's memory is seen apart.
#![allow(clippy::print_stdout, reason = "its answer is what it prints")]

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use dm_audit::{AuditLog, LogKey, leaf_name};
use dm_core::{
    Actor, AuditEvent, AuditIntent, AuditOutcome, Effect, Error, OpContext, Result, RunId, Secret,
};
use dm_store::{Store, StorePlace};
use serde_json::json;

/// Events that are appended in one transaction.
const BATCH: u64 = 2000;

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = || Error::invalid("usage: log_speed STORE EVENTS KEYFILE [append|seal|verify|prove ...]");
    let store = words.next().ok_or_else(usage)?;
    let events: u64 = words.next().and_then(|n| n.parse().ok()).ok_or_else(usage)?;
    let key = std::path::PathBuf::from(words.next().ok_or_else(usage)?);
    let ctx = OpContext::new(Actor::service("bench"));
    let key = match LogKey::open(&key)? {
        Some(key) => key,
        None => LogKey::create(&key, Some("example.com/bench"))?,
    };
    let place = StorePlace::prepare(&Secret::new(store), &ctx).await?;
    let log = AuditLog::new(Store::open(place, &ctx).await?).signed_by(key);
    let mut said = serde_json::Map::new();
    for step in words {
        let began = Instant::now();
        let done = match step.as_str() {
            "append" => append(&log, events).await?,
            "seal" => log.seal(&ctx).await?.sealed,
            "verify" => {
                let result = log.verify(&ctx).await?;
                if !result.ok {
                    return Err(Error::corrupt(result.statement));
                }
                result.sealed
            }
            "prove" => prove(&log, &ctx, events).await?,
            _ => return Err(usage()),
        };
        let seconds = began.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = done as f64 / seconds;
        said.insert(step, json!({ "events": done, "seconds": seconds, "per_second": rate }));
    }
    println!("{}", serde_json::Value::Object(said));
    log.store().close().await;
    Ok(())
}

async fn append(log: &AuditLog, events: u64) -> Result<u64> {
    let began = Utc::now();
    for first in (0..events).step_by(usize::try_from(BATCH).unwrap_or(usize::MAX)) {
        let batch: Vec<_> = (first..events.min(first + BATCH)).map(|i| event(began, i)).collect();
        log.append_all(&batch).await?;
    }
    Ok(events)
}

/// As long as the events of this system are.
fn event(began: chrono::DateTime<Utc>, i: u64) -> AuditEvent {
    AuditEvent {
        at: began + TimeDelta::microseconds(i64::try_from(i).unwrap_or_default()),
        intent: AuditIntent {
            run_id: RunId::generate(),
            actor: format!("role:shop_{}", i % 16),
            action: "change:update".to_owned(),
            resource: format!("main/public.table_{}", i % 40),
            details: json!({ "table": "public.orders", "before": { "id": i, "state": "open" },
                             "after": { "id": i, "state": "paid" }, "changed": ["state"] }),
        },
        outcome: AuditOutcome::Success,
        effect: Effect::Applied,
        duration: Duration::from_micros(i % 5000),
        error: None,
    }
}

/// A hundred proofs, spread over the log, each checked.
async fn prove(log: &AuditLog, ctx: &OpContext, events: u64) -> Result<u64> {
    let key = log.verifier().ok_or_else(|| Error::internal("the log has no key"))?;
    for i in 0..100 {
        let seq = 1 + i * (events.max(1) - 1) / 100;
        log.prove(ctx, &leaf_name(&seq.to_string())?, None, true).await?.check(&key, None)?;
    }
    Ok(100)
}
