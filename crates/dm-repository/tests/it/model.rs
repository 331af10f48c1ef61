//! Seeded random histories of two programs against a model: backups, marks, sweeps, holds, rewrites, changed recipients, copies,
//! pauses and crashes in any order.
//!
//! What holds at every step: a backup that was reported whole and never marked is listed and reads back to the byte, and so is
//! one that is held; whatever else is listed, here or in the copy, reads back to the byte as well.

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
    /// The second place.
    copy: Arc<TestStore>,
    /// Of an encrypted repository: the index key, and every private key that ever was a recipient, the newest last.
    index: Identity,
    identities: Vec<Identity>,
    held: BTreeSet<BackupId>,
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
    rewritten: usize,
    rewrapped: usize,
    copied: usize,
}

impl World {
    async fn new(seed: u64) -> Self {
        let store = TestStore::new();
        let keys = Keys::new();
        let is_encrypted = seed % 4 == 3;
        make(&store, is_encrypted.then_some(&keys)).await;
        let mut data = samples(seed);
        data[0].bytes.truncate(60 << 10);
        data[1].bytes.truncate(30_000);
        data[1].block = 7_000;
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            store: Arc::clone(&store),
            copy: TestStore::new(),
            index: keys.index,
            identities: if is_encrypted { vec![keys.identity] } else { Vec::new() },
            held: BTreeSet::new(),
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
            rewritten: 0,
            rewrapped: 0,
            copied: 0,
        };
        for _ in 0..2 {
            world.start().await;
        }
        world
    }

    async fn start(&mut self) {
        let store = self.store.fork();
        let repository = self.open(&store).await;
        self.programs.push(Program { store, repository });
    }

    async fn open(&self, store: &Arc<TestStore>) -> Repository {
        let options = OpenOptions {
            identities: self.identities.clone(),
            index_identity: (!self.identities.is_empty()).then(|| self.index.clone()),
            ..open_options(None)
        };
        Repository::open(Arc::clone(store) as _, &ctx(), options).await.unwrap()
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

    async fn hold(&mut self) {
        let repository = &self.programs[self.rng.random_range(0..2)].repository.clone();
        let backups = repository.list(&ctx(), None).await.unwrap().backups;
        let Some(backup) = backups.choose(&mut self.rng) else { return };
        if self.held.contains(&backup.id) {
            repository.release_hold(&ctx(), backup, "model", "enough").await.unwrap();
            self.held.remove(&backup.id);
        } else {
            repository.hold(&ctx(), backup, "model", "a case", None).await.unwrap();
            self.held.insert(backup.id);
        }
    }

    async fn rewrite(&mut self) {
        let repository = &self.programs[self.rng.random_range(0..2)].repository.clone();
        let backups = repository.list(&ctx(), None).await.unwrap().backups;
        let Some(old) = backups.choose(&mut self.rng) else { return };
        let onto = backups.iter().rfind(|b| b.rewrites.is_some() && b.id != old.id);
        // One that was rewritten out of another line of backups has other digests.
        let new = match repository.rewrite(&ctx(), old, onto).await {
            Err(error) if matches!(error.kind(), ErrorKind::Invalid) => {
                repository.rewrite(&ctx(), old, None).await.unwrap()
            }
            new => new.unwrap(),
        };
        self.content.insert(new.id, self.content[&old.id].clone());
        self.reported.insert(new.id);
        self.rewritten += 1;
    }

    /// Another recipient; sometimes the one who does it dies in the middle, and another one finishes it.
    async fn rewrap(&mut self) {
        let Some(old) = self.identities.last().cloned() else { return };
        let new = Identity::generate();
        self.identities.push(new.clone());
        let request = RewrapRequest {
            recipients: vec![new.recipient()],
            delete_old: self.rng.random_bool(0.3),
            reason: "model".into(),
            ..RewrapRequest::default()
        };
        assert_ne!(old.recipient(), new.recipient());
        let dying = self.store.fork();
        let repository = self.open(&dying).await;
        if self.rng.random_bool(0.5) {
            dying.fail(self.rng.random_range(0..60), Fault::Dead);
        }
        if let Ok(plan) = repository.plan_rewrap(&ctx(), &request).await
            && let Err(error) = repository.apply_rewrap(&ctx(), &plan).await
        {
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        }
        // Whoever is at work goes on with the keys that he has; new programs have the new one.
        let repository = self.open(&self.store.fork()).await;
        let plan = repository.plan_rewrap(&ctx(), &request).await.unwrap();
        assert!(repository.apply_rewrap(&ctx(), &plan).await.unwrap().is_whole());
        assert!(repository.key_list(&ctx()).await.unwrap().behind.is_empty());
        for which in 0..2 {
            self.programs[which].repository = self.open(&self.programs[which].store).await;
        }
        self.rewrapped += 1;
    }

    async fn copy(&mut self) {
        let from = self.programs[self.rng.random_range(0..2)].repository.clone();
        let copy = from.open_copy(Arc::clone(&self.copy) as _, &ctx(), open_options(None)).await.unwrap();
        from.copy_to(&ctx(), &copy, &CopyOptions::default()).await.unwrap();
        let copy = self.open(&self.copy).await;
        let listing = copy.list(&ctx(), None).await.unwrap();
        for backup in &listing.backups {
            assert_holds(&copy, backup, &self.content[&backup.id]).await;
        }
        if self.rng.random_bool(0.5)
            && let Some(backup) = listing.backups.choose(&mut self.rng)
        {
            // Each place forgets by itself; what is needed or held is refused.
            if let Err(error) = copy.tombstone(&ctx(), backup, "model").await {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            }
        }
        self.copied += listing.backups.len();
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
        for id in &self.held {
            assert!(listed.contains(id), "step {step}: {id} is held and is gone: {:?}", listing.problems);
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

async fn history(seed: u64, steps: usize) -> World {
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
            60..69 => world.mark().await,
            69..80 => world.sweep().await,
            80..83 => world.hold().await,
            83..86 => world.rewrite().await,
            86..90 => world.copy().await,
            90..97 => {
                let seconds = world.rng.random_range(0..7200);
                world.store.advance(seconds);
            }
            _ => {
                world.open.clear();
                world.crash(0).await;
                world.crash(0).await;
            }
        }
        if step % 8 == 7 {
            world.rewrap().await;
        }
        world.check(step).await;
    }
    world.settle().await;
    world.check(steps).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_keeps_what_was_promised() {
    let seeds: u64 = std::env::var("DM_TEST_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let first: u64 = std::env::var("DM_TEST_FIRST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let (mut commits, mut removed, mut resumed) = (0, 0, 0);
    let (mut rewritten, mut rewrapped, mut copied) = (0, 0, 0);
    for seed in first..first + seeds {
        println!("seed {seed}");
        // An encrypted history takes many times as long.
        let world = history(seed, if seed % 4 == 3 { 30 } else { 80 }).await;
        commits += world.commits;
        removed += world.removed;
        resumed += world.resumed;
        rewritten += world.rewritten;
        rewrapped += world.rewrapped;
        copied += world.copied;
    }
    println!(
        "{seeds} seeds from {first}: {commits} commits, {resumed} gone on from another, {removed} removed, \
         {rewritten} rewritten, {rewrapped} rewrapped, {copied} copies"
    );
    assert!(
        commits > seeds as usize * 3 && removed > seeds as usize / 2 && resumed > 0,
        "{commits} {removed} {resumed}"
    );
    assert!(rewritten > 0 && copied > 0 && (seeds < 4 || rewrapped > 0), "{rewritten} {rewrapped} {copied}");
}
