//! Seeded random histories of two programs against a model: backups, marks, sweeps, pauses and crashes in any order.
//!
//! What holds at every step: a backup that was reported whole and never marked is listed and reads back to the byte;
//! whatever else is listed reads back to the byte as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dm_core::*;
use dm_repository::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::*;

struct Program {
    store: Arc<TestStore>,
    repository: Repository,
}

struct Open {
    writer: BackupWriter,
    samples: Vec<Sample>,
}

struct World {
    rng: StdRng,
    store: Arc<TestStore>,
    programs: Vec<Program>,
    open: Vec<Open>,
    content: BTreeMap<BackupId, Vec<Sample>>,
    reported: BTreeSet<BackupId>,
    maybe_marked: BTreeSet<BackupId>,
    data: Vec<Sample>,
    time: DateTime<Utc>,
    commits: usize,
    removed: usize,
    resumed: usize,
}

impl World {
    async fn new(seed: u64) -> Self {
        let store = TestStore::new();
        make(&store, None).await;
        let mut data = samples(seed);
        data[0].bytes.truncate(60 << 10);
        data[1].bytes.truncate(30_000);
        data[1].block = 7_000;
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            store: Arc::clone(&store),
            programs: Vec::new(),
            open: Vec::new(),
            content: BTreeMap::new(),
            reported: BTreeSet::new(),
            maybe_marked: BTreeSet::new(),
            data,
            time: Utc::now(),
            commits: 0,
            removed: 0,
            resumed: 0,
        };
        for _ in 0..2 {
            world.start().await;
        }
        world
    }

    async fn start(&mut self) {
        let store = self.store.fork();
        let repository = reopen(&store, None).await;
        self.programs.push(Program { store, repository });
    }

    /// The program dies: whatever it was doing, its calls fail from now on.
    async fn crash(&mut self, which: usize) {
        self.programs[which].store.fail(0, Fault::Dead);
        self.programs.remove(which);
        self.start().await;
    }

    fn change(&mut self) {
        for _ in 0..self.rng.random_range(0..4) {
            let at = self.rng.random_range(0..self.data[0].bytes.len());
            self.data[0].bytes[at] = self.rng.random();
        }
        if self.rng.random_bool(0.3) {
            let more = noise(&mut self.rng, 3000);
            self.data[1].bytes.extend(more);
        }
        if self.rng.random_bool(0.1) {
            let n = self.data.len();
            self.data.push(stream(&format!("data/x{n}"), vec![n as u8; 50], 20));
        }
    }

    async fn begin(&mut self) {
        let which = self.rng.random_range(0..2);
        let program = &self.programs[which];
        let backups = program.repository.list(&ctx(), None).await.unwrap().backups;
        let parent = match self.rng.random_range(0..4) {
            0 => None,
            1 => backups.iter().rfind(|b| b.kind == BackupKind::Full).map(|b| (b, BackupKind::Differential)),
            _ => backups.choose(&mut self.rng).map(|b| (b, BackupKind::Incremental)),
        };
        // A dead program's lease may still speak for it; a marked parent is refused.
        if let Ok(writer) = begin(&program.repository, "shop", parent).await {
            self.change();
            let samples = self.data.clone();
            write_all(&writer, &samples).await.unwrap();
            self.open.push(Open { writer, samples });
        }
    }

    /// The program ends its run and leaves what it stored to another one.
    async fn suspend(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.open.len());
        let Open { writer, .. } = self.open.remove(which);
        // Only a lease that was lost makes it fail.
        if let Err(error) = writer.suspend(&ctx()).await {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        }
    }

    async fn commit(&mut self, crash_at: Option<usize>) {
        if self.open.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.open.len());
        let Open { writer, samples } = self.open.remove(which);
        let id = writer.id();
        self.content.insert(id, samples);
        self.time += chrono::Duration::seconds(1);
        if let Some(n) = crash_at {
            // Both programs die: nobody knows which of them wrote.
            self.programs.iter().for_each(|p| p.store.fail(n, Fault::Dead));
        }
        if let Ok(header) = writer.commit(&ctx(), source(self.time), summary()).await {
            assert_eq!(header.id, id);
            self.resumed += usize::from(header.resumed.is_some());
            self.reported.insert(id);
            self.commits += 1;
        }
        if crash_at.is_some() {
            self.open.clear();
            self.crash(0).await;
            self.crash(0).await;
        }
    }

    async fn mark(&mut self) {
        let which = self.rng.random_range(0..2);
        let repository = self.programs[which].repository.clone();
        let backups = repository.list(&ctx(), None).await.unwrap().backups;
        if let Some(backup) = backups.choose(&mut self.rng) {
            if self.rng.random_bool(0.2) {
                let n = self.rng.random_range(0..20);
                self.programs[which].store.fail(n, Fault::Dead);
            }
            let result = repository.tombstone(&ctx(), backup, "model").await;
            // A refusal for a good reason leaves it alone; whatever else happened, nobody promises anything.
            if !matches!(&result, Err(e) if e.kind() == ErrorKind::Conflict) {
                self.maybe_marked.insert(backup.id);
            }
            self.programs[which].store.heal();
        }
    }

    async fn sweep(&mut self) {
        let which = self.rng.random_range(0..2);
        let dies = self.rng.random_bool(0.2);
        if dies {
            let n = self.rng.random_range(0..60);
            self.programs[which].store.fail(n, Fault::Dead);
        }
        let result = self.programs[which].repository.sweep(&ctx(), SweepOptions::default()).await;
        match result {
            Ok(report) => self.removed += report.removed.len(),
            Err(_) => assert!(dies),
        }
        if dies {
            self.open.clear();
            self.crash(which).await;
            self.crash(0).await;
        }
    }

    async fn check(&self, step: usize) {
        let repository = &self.programs[0].repository;
        let listing = repository.list(&ctx(), None).await.unwrap();
        let listed: BTreeSet<BackupId> = listing.backups.iter().map(|b| b.id).collect();
        for id in self.reported.difference(&self.maybe_marked) {
            assert!(
                listed.contains(id),
                "step {step}: {id} was reported and is gone: {:?}",
                listing.problems
            );
        }
        for backup in &listing.backups {
            assert_holds(repository, backup, &self.content[&backup.id]).await;
        }
    }

    async fn settle(&mut self) {
        self.open.clear();
        // Beyond the patience with what could have been gone on with.
        for _ in 0..4 {
            self.store.advance(25 * 3600);
            self.programs[0].repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
        }
        let listing = self.programs[0].repository.list(&ctx(), None).await.unwrap();
        assert!(listing.incomplete.is_empty() && listing.problems.is_empty(), "{listing:?}");
        let whole: BTreeSet<String> = listing.backups.iter().map(|b| b.id.to_string()).collect();
        for (key, _) in self.store.dump().await {
            let parts: Vec<&str> = key.as_ref().split('/').collect();
            assert!(parts[0] != "backups" || whole.contains(parts[2]), "{key} is left");
            assert!(parts[0] != "leases", "{key} is left");
        }
    }
}

async fn history(seed: u64, steps: usize) -> (usize, usize, usize) {
    let mut world = World::new(seed).await;
    for step in 0..steps {
        match world.rng.random_range(0..100) {
            0..30 => world.begin().await,
            30..35 => world.suspend().await,
            35..55 => world.commit(None).await,
            55..60 => {
                let n = world.rng.random_range(0..30);
                world.commit(Some(n)).await;
            }
            60..72 => world.mark().await,
            72..85 => world.sweep().await,
            85..97 => {
                let seconds = world.rng.random_range(0..7200);
                world.store.advance(seconds);
            }
            _ => {
                world.open.clear();
                world.crash(0).await;
                world.crash(0).await;
            }
        }
        world.check(step).await;
    }
    world.settle().await;
    world.check(steps).await;
    (world.commits, world.removed, world.resumed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_keeps_what_was_promised() {
    let seeds: u64 = std::env::var("DM_TEST_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    let first: u64 = std::env::var("DM_TEST_FIRST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let (mut commits, mut removed, mut resumed) = (0, 0, 0);
    for seed in first..first + seeds {
        println!("seed {seed}");
        let (c, r, g) = history(seed, 80).await;
        commits += c;
        removed += r;
        resumed += g;
    }
    println!(
        "{seeds} seeds from {first}: {commits} commits, {resumed} gone on from another, {removed} removed"
    );
    assert!(
        commits > seeds as usize * 3 && removed > seeds as usize / 2 && resumed > 0,
        "{commits} {removed} {resumed}"
    );
}
