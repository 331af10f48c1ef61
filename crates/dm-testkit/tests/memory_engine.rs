//! The engine in memory passes the suite that it exists to carry, and fails when told to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use dm_core::{Actor, BackupRequest, Destination, Engine, ErrorKind, OpContext, RestoreRequest, Restored};
use dm_testkit::conformance::{Subject, collect};
use dm_testkit::memory_engine::{Contents, Faults, MemoryEngine, OWN};

struct Memory {
    engine: MemoryEngine,
    made: AtomicU32,
}

fn engine() -> MemoryEngine {
    let engine = MemoryEngine::new("memory").unwrap();
    engine.set_table("orders", (0..9000).map(|i| format!("order {i} {}", "x".repeat(i % 50))));
    engine.set_table("users", ["a", "a", "", "b"]);
    engine.set_table("empty", Vec::<Bytes>::new());
    engine.set_file("pages.db", 4096, (0..100_000).map(|i| (i / 4096) as u8).collect::<Vec<_>>());
    engine
}

#[async_trait]
impl Subject for Memory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.clone())
    }

    async fn fresh_destination(&self) -> Destination {
        Destination::New(Some(format!("new-{}", self.made.fetch_add(1, Ordering::Relaxed))))
    }

    async fn taken_destination(&self) -> Destination {
        Destination::New(Some(OWN.to_owned()))
    }

    async fn change(&self) {
        self.engine.change(|own| own.tables.get_mut("users").unwrap().push("new".into()));
    }

    async fn open_restored(&self, restored: &Restored) -> Arc<dyn Engine> {
        let contents = self.engine.contents(&restored.location).unwrap();
        Arc::new(MemoryEngine::with_contents("memory", contents).unwrap())
    }
}

dm_testkit::conformance_tests!(async { Some(Memory { engine: engine(), made: AtomicU32::new(0) }) });

fn context() -> OpContext {
    OpContext::new(Actor::local_user("test"))
}

fn in_place() -> RestoreRequest {
    RestoreRequest { tables: vec!["u*s".into()], jobs: 1, ..RestoreRequest::to(Destination::InPlace) }
}

#[tokio::test]
async fn in_place_keeps_what_was_there_and_takes_only_the_named_tables() {
    let (engine, ctx) = (engine(), context());
    let before = engine.contents(OWN).unwrap();
    let backup = collect(&engine, &ctx, &BackupRequest::default()).await.unwrap();
    let (target, manifest) = (engine.restore().unwrap(), backup.manifest());
    let preview = target.preview(&ctx, &in_place(), &manifest).await.unwrap();
    let session = target.open(&ctx, &in_place(), &manifest, &preview).await.unwrap();
    for index in session.stages().concat() {
        session.write(&ctx, &manifest.members[index].0, backup.content(index)).await.unwrap();
    }
    assert_eq!(engine.contents(OWN).unwrap(), before, "nothing is seen of a sealed restore");
    let restored = session.release(&ctx).await.unwrap();
    assert_eq!(engine.contents(&restored.previous.unwrap()).unwrap(), before);
    let now = engine.contents(OWN).unwrap();
    assert_eq!(now.tables.keys().collect::<Vec<_>>(), ["users"]);
    assert_eq!(now.tables["users"], before.tables["users"]);
    assert_eq!(now.files, Contents::default().files);
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let (engine, ctx) = (engine(), context());
    let request = BackupRequest { block_bytes: 1 << 10, ..BackupRequest::default() };
    let kind = async |faults| {
        engine.set_faults(faults);
        collect(&engine, &ctx, &request).await.unwrap_err().kind()
    };
    let read_fails = Some(("data/orders".into(), 3));
    assert_eq!(kind(Faults { read_fails, ..Faults::default() }).await, ErrorKind::Unreachable);
    assert_eq!(kind(Faults { finish_fails: true, ..Faults::default() }).await, ErrorKind::Conflict);

    engine.set_faults(Faults { restore_loses_a_row_of: Some("users".into()), ..Faults::default() });
    let backup = collect(&engine, &ctx, &request).await.unwrap();
    let (target, manifest) = (engine.restore().unwrap(), backup.manifest());
    let preview = target.preview(&ctx, &in_place(), &manifest).await.unwrap();
    let session = target.open(&ctx, &in_place(), &manifest, &preview).await.unwrap();
    for index in session.stages().concat() {
        session.write(&ctx, &manifest.members[index].0, backup.content(index)).await.unwrap();
    }
    let users: Vec<_> = backup.summary.tables.iter().filter(|t| t.table == "users").cloned().collect();
    assert!(!session.compare(&ctx, &users).await.unwrap().is_proven());
    session.discard(&ctx).await.unwrap();
    assert!(engine.sealed().is_empty());
}
