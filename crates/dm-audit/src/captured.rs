//! Changes of rows that an engine recorded: taken over into the log, each once.
//!
//! An event's id is made of everything that the change is. A change that comes again, because its taker died before it
//! confirmed, therefore has the id that is in the log already; one that somebody wrote into the outbox under another's
//! name has not, and hides nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{AuditEvent, AuditIntent, AuditOutcome, Effect, EngineId, Error, Result, RowChange, RunId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::log::{AuditLog, named_leaf};

/// Begins the actions of changes: `change:insert` and so on.
pub const CHANGE: &str = "change:";

impl AuditLog {
    /// Puts changes of rows into the log, those that are not there yet, in one transaction; durable when it returns. `now` is
    /// the time of a change that has none. Gives how many were new.
    ///
    /// # Errors
    /// `Busy`, `Unreachable`, `Exhausted`; none of them is then in the log.
    pub async fn take_over(
        &self,
        engine: &EngineId,
        changes: &[RowChange],
        now: DateTime<Utc>,
    ) -> Result<u64> {
        let mut leaves = Vec::with_capacity(changes.len());
        for change in changes {
            leaves.push(named_leaf(&event(engine, change, now)?, event_id(engine, change)?)?);
        }
        self.store().append_new_leaves(&leaves).await
    }
}

/// The id of a change's event.
fn event_id(engine: &EngineId, change: &RowChange) -> Result<Uuid> {
    let all = serde_json::to_vec(&(engine.as_str(), change))
        .map_err(|e| Error::internal("a change cannot be written as JSON").with_source(e))?;
    Ok(uuid_of(b"dm-capture/1\n", &all))
}

/// All changes of a transaction are of one run.
fn run_id(engine: &EngineId, change: &RowChange) -> Result<RunId> {
    let transaction = change.transaction.as_deref().unwrap_or(&change.id);
    uuid_of(b"dm-capture-run/1\n", format!("{engine}\n{transaction}").as_bytes()).to_string().parse()
}

fn uuid_of(tag: &[u8], bytes: &[u8]) -> Uuid {
    let digest: [u8; 32] = Sha256::new().chain_update(tag).chain_update(bytes).finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(half).into_uuid()
}

fn event(engine: &EngineId, change: &RowChange, now: DateTime<Utc>) -> Result<AuditEvent> {
    let table = change.table.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let mut details = json!({ "table": table });
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            details[name] = value;
        }
    };
    put("before", change.before.clone());
    put("after", change.after.clone());
    put("changed", changed(change));
    put("partition", change.partition.as_ref().map(|p| p.to_string().into()));
    put("role", change.role.clone().map(Value::from));
    put("transaction", change.transaction.clone().map(Value::from));
    put("outbox_id", Some(change.id.clone().into()));
    if change.at.is_none() {
        put("time_of", Some("taking over".into()));
    }
    let actor = match (&change.user, &change.role) {
        (Some(user), _) => format!("app:{user}"),
        (None, Some(role)) => format!("role:{role}"),
        (None, None) => "app:?".to_owned(),
    };
    Ok(AuditEvent {
        at: change.at.unwrap_or(now),
        intent: AuditIntent {
            run_id: run_id(engine, change)?,
            actor,
            action: format!("{CHANGE}{}", change.kind.map_or("unknown", |kind| kind.word())),
            resource: format!("{engine}/{table}"),
            details,
        },
        outcome: if change.defect.is_some() { AuditOutcome::Failure } else { AuditOutcome::Success },
        effect: if change.defect.is_some() { Effect::Unknown } else { Effect::Applied },
        duration: Duration::ZERO,
        error: change
            .defect
            .as_ref()
            .map(|why| format!("somebody else than the recording wrote this to the outbox: {why}")),
    })
}

/// The columns that changed: as the engine says, else as the two rows differ.
fn changed(change: &RowChange) -> Option<Value> {
    if !change.changed.is_empty() {
        return Some(change.changed.clone().into());
    }
    let (before, after) = (change.before.as_ref()?.as_object()?, change.after.as_ref()?.as_object()?);
    let names = after.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    Some(names.map(|(name, _)| Value::from(name.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_core::{ChangeKind, TableName};

    fn change() -> RowChange {
        RowChange {
            key: "1".into(),
            id: "a".into(),
            at: DateTime::from_timestamp(1, 0),
            table: Some(TableName::bare("t")),
            partition: None,
            kind: Some(ChangeKind::Update),
            before: Some(json!({"a": 1, "b": 2})),
            after: Some(json!({"a": 1, "b": 3})),
            changed: Vec::new(),
            user: None,
            role: Some("shop".into()),
            transaction: Some("7".into()),
            ordinal: 1,
            defect: None,
        }
    }

    #[test]
    fn an_event_is_named_by_all_that_it_is() {
        let engine = EngineId::new("main").unwrap();
        let same = RowChange { key: "another place".into(), ..change() };
        assert_eq!(event_id(&engine, &change()).unwrap(), event_id(&engine, &same).unwrap());
        for other in [
            RowChange { id: "b".into(), ..change() },
            RowChange { after: Some(json!({"a": 1, "b": 4})), ..change() },
            RowChange { user: Some("alice".into()), ..change() },
            RowChange { ordinal: 2, ..change() },
        ] {
            assert_ne!(event_id(&engine, &change()).unwrap(), event_id(&engine, &other).unwrap());
            assert_eq!(run_id(&engine, &change()).unwrap(), run_id(&engine, &other).unwrap());
        }
        assert_ne!(
            event_id(&engine, &change()).unwrap(),
            event_id(&EngineId::new("other").unwrap(), &change()).unwrap()
        );
    }

    #[test]
    fn who_and_what_are_said() {
        let engine = EngineId::new("main").unwrap();
        let said = event(&engine, &change(), Utc::now()).unwrap();
        assert_eq!((said.intent.actor.as_str(), said.intent.resource.as_str()), ("role:shop", "main/t"));
        assert_eq!(said.intent.details["changed"], json!(["b"]));
        let garbage = RowChange { kind: None, table: None, at: None, defect: Some("x".into()), ..change() };
        let said = event(&engine, &garbage, Utc::now()).unwrap();
        assert_eq!((said.intent.action.as_str(), said.outcome), ("change:unknown", AuditOutcome::Failure));
    }
}
