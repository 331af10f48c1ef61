//! The service over a repository in memory and a database in memory: what it promises when all goes well, and what when
//! something fails at any point.

#![allow(clippy::unwrap_used)] // the lint knows tests, not what they share

mod backing_up;
mod corruption;
mod drilling;
mod engine;
mod expiring;
mod exporting;
mod faults;
mod log_expiry;
mod log_server;
mod logs;
mod points;
mod recovering;
mod restoring;
mod rewriting;
mod run_hooks;
mod statements;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use dm_backup::{ApplyOptions, BackupService, RestoreReport, RunOptions, RunReport, Selector};
use dm_core::{
    Actor, BackupKind, BackupRequest, Clock, Destination, OpContext, RestoreRequest, Result, TargetName,
};
use dm_repository::{InitOptions, OpenOptions, Repository};
use dm_testkit::fault_store::{Fault, FaultStore, Rule};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use engine::MemoryEngine;

/// A clock that goes on only when told to.
#[derive(Debug)]
pub(crate) struct Hand(pub(crate) Mutex<DateTime<Utc>>);

impl Clock for Hand {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

impl Hand {
    pub(crate) fn forward(&self, hours: i64) {
        *self.0.lock().unwrap() += TimeDelta::hours(hours);
    }
}

/// A repository, a database, a clock.
pub(crate) struct World {
    pub(crate) store: Arc<FaultStore>,
    pub(crate) engine: MemoryEngine,
    pub(crate) service: BackupService,
    pub(crate) clock: Arc<Hand>,
    pub(crate) ctx: OpContext,
}

impl World {
    /// With leases of a second, for tests that wait until nobody's is left.
    pub(crate) async fn new() -> Self {
        Self::with_lease(Duration::from_secs(1)).await
    }

    /// With leases that no test outlives, however busy the machine is.
    pub(crate) async fn patient() -> Self {
        Self::with_lease(Duration::from_secs(3600)).await
    }

    async fn with_lease(lease: Duration) -> Self {
        let clock = Arc::new(Hand(Mutex::new(Utc.with_ymd_and_hms(2026, 3, 1, 1, 0, 0).unwrap())));
        let ctx = OpContext::new(Actor::local_user("test")).with_clock(clock.clone());
        let store = Arc::new(FaultStore::new(Arc::new(object_store::memory::InMemory::new())));
        let init = InitOptions { pack_bytes: 64 << 10, lease, ..InitOptions::default() };
        let repository = Repository::init(store.clone(), &ctx, init, OpenOptions::default()).await.unwrap();
        Self { store, engine: MemoryEngine::new(), service: BackupService::new(repository), clock, ctx }
    }

    pub(crate) fn options(kind: BackupKind) -> RunOptions {
        RunOptions {
            request: BackupRequest { jobs: 3, ..BackupRequest::default() },
            ..RunOptions::full(target()).of_kind(kind)
        }
    }

    /// Troubles the store's n-th call from now on, or that and every later one.
    pub(crate) fn trouble(&self, n: u64, fault: Fault, for_good: bool) {
        self.store.reset_log();
        self.store.inject(if for_good { Rule::from(n, fault) } else { Rule::nth(n, fault) });
    }

    /// Ends the trouble; gives whether the n-th call was made at all.
    pub(crate) fn heal(&self, n: u64) -> bool {
        self.store.heal();
        self.store.calls() >= n
    }

    /// Keys with this in them.
    pub(crate) async fn keys(&self, part: &str) -> Vec<Path> {
        let all: Vec<ObjectMeta> = self.store.inner().list(None).try_collect().await.unwrap();
        all.into_iter().map(|m| m.location).filter(|p| p.as_ref().contains(part)).collect()
    }

    /// Flips a bit in the middle of an object.
    pub(crate) async fn spoil(&self, key: &Path) {
        let store = self.store.inner();
        let mut bytes = store.get(key).await.unwrap().bytes().await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        store.put(key, bytes.into()).await.unwrap();
    }

    pub(crate) async fn run(&self, kind: BackupKind) -> Result<RunReport> {
        self.clock.forward(1);
        self.service.run(&self.ctx, &self.engine, Self::options(kind)).await
    }

    pub(crate) async fn restore(&self, selector: &Selector, name: &str) -> Result<RestoreReport> {
        let plan = self.service.plan_restore(&self.ctx, &self.engine, selector, &to(name)).await?;
        self.service.apply_restore(&self.ctx, &self.engine, &plan, ApplyOptions::default()).await
    }

    /// Restores the newest backup and compares it with what is there now.
    pub(crate) async fn prove(&self, name: &str) {
        let report = self.restore(&Selector::latest(target()), name).await.unwrap();
        assert!(report.equal && report.released, "{report:?}");
        assert_eq!(self.engine.restored(name), self.engine.live());
    }
}

pub(crate) fn target() -> TargetName {
    TargetName::new("shop").unwrap()
}

pub(crate) fn to(name: &str) -> RestoreRequest {
    RestoreRequest { jobs: 3, ..RestoreRequest::to(Destination::New(Some(name.into()))) }
}
