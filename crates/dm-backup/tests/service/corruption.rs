//! Whatever is flipped, cut, swapped or lost in a repository is found and named by a verification, and nothing else is: over
//! plain and encrypted repositories with chains of incremental backups, shipped log, pins and verifications.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use dm_backup::{BackupService, VerifyReport, VerifyRequest, VerifyScope};
use dm_core::{
    Actor, BackupKind, BackupMode, Block, ConsistencyPoint, EngineKind, Layout, Level, LogPiece, MemberKind,
    MemberSpec, OpContext, Period, ServerVersion, SessionSummary, SourceDescription,
};
use dm_repository::{
    BackupHeader, BackupStart, Identity, InitOptions, OpenOptions, Repository, SampleSize, VerifyLevel,
    VerifyOptions,
};
use dm_testkit::fault_store::{FaultStore, Operation};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::{Hand, target};

const STREAM: &str = "7301234567890123456";

struct Furnished {
    store: Arc<FaultStore>,
    service: BackupService,
    clock: Arc<Hand>,
    ctx: OpContext,
    objects: BTreeMap<Path, Bytes>,
    backups: Vec<BackupHeader>,
}

fn day(day: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 1, 0, 0, 0).unwrap() + TimeDelta::days(day)
}

impl Furnished {
    async fn new(random: &mut StdRng, encrypted: bool) -> Self {
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        let clock = Arc::new(Hand(std::sync::Mutex::new(day(40))));
        let ctx = OpContext::new(Actor::local_user("test")).with_clock(clock.clone());
        let (owner, index) = (Identity::generate(), Identity::generate());
        let init = InitOptions {
            recipients: encrypted.then(|| owner.recipient()).into_iter().collect(),
            index_recipient: encrypted.then(|| index.recipient()),
            pack_bytes: 64 << 10,
            lease: Duration::from_secs(3600),
        };
        // The host that verifies can read no content.
        let open = OpenOptions {
            index_identity: encrypted.then_some(index),
            zstd_level: 1,
            ..OpenOptions::default()
        };
        let repository = Repository::init(store.clone(), &ctx, init, open).await.unwrap();
        let mut made = Self {
            store,
            service: BackupService::new(repository),
            clock,
            ctx,
            objects: BTreeMap::new(),
            backups: Vec::new(),
        };
        let mut file = vec![0; 300 << 10];
        random.fill_bytes(&mut file);
        for i in 0..5 {
            let at = random.random_range(0..file.len() - 9000);
            random.fill_bytes(&mut file[at..at + 9000]);
            let parent = made.backups.last().cloned().filter(|_| i != 3);
            let header = made.back_up(&file, parent.as_ref(), day(i)).await;
            made.backups.push(header);
        }
        for i in 0..12_u64 {
            let mut bytes = vec![0; 700];
            random.fill_bytes(&mut bytes);
            let piece =
                LogPiece { timeline: 1, start: i * 700, sealed_at: day(i as i64), bytes: bytes.into() };
            made.repository().put_log(&made.ctx, &target(), STREAM, &piece).await.unwrap();
        }
        made.repository()
            .put_log_history(&made.ctx, &target(), STREAM, 2, "1\t0/1\tx\n".into())
            .await
            .unwrap();
        made.repository().pin(&made.ctx, &made.backups[1], true, "for the auditors").await.unwrap();
        made.verify(VerifyLevel::Stored).await.check().unwrap();
        for object in made.store.inner().list(None).try_collect::<Vec<_>>().await.unwrap() {
            let bytes = made.store.inner().get(&object.location).await.unwrap().bytes().await.unwrap();
            made.objects.insert(object.location, bytes);
        }
        made
    }

    fn repository(&self) -> &Repository {
        &self.service.repository
    }

    async fn back_up(&self, file: &[u8], parent: Option<&BackupHeader>, at: DateTime<Utc>) -> BackupHeader {
        let start = BackupStart {
            target: target(),
            kind: if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full },
            parent: parent.cloned(),
            started_at: at,
            resume: false,
        };
        let writer = self.repository().begin(&self.ctx, start).await.unwrap();
        let member = MemberSpec {
            name: "data/base/1/1".into(),
            kind: MemberKind::File,
            layout: Layout::Pages { page_bytes: 4096 },
            size_hint: None,
            table: None,
            attributes: Default::default(),
        };
        let blocks: Vec<_> = file
            .chunks(32 << 10)
            .enumerate()
            .map(|(i, bytes)| Ok(Block::data((i as u64) << 15, Bytes::copy_from_slice(bytes))))
            .collect();
        writer.write_member(&self.ctx, member, futures::stream::iter(blocks).boxed()).await.unwrap();
        let source = SourceDescription {
            engine: EngineKind::Postgres,
            version: ServerVersion { text: "17.5".into(), major: 17, minor: 5 },
            mode: BackupMode::Physical,
            database: "cluster".into(),
            system_identifier: Some(STREAM.into()),
            consistency: ConsistencyPoint { at, position: Some("0/300".into()), timeline: Some("1".into()) },
            attributes: Default::default(),
        };
        writer.commit(&self.ctx, source, SessionSummary::default()).await.unwrap()
    }

    async fn verify(&self, request: impl Into<VerifyRequest> + Send) -> VerifyReport {
        let scope = VerifyScope::All { target: None };
        self.service.verify(&self.ctx, &scope, request).await.unwrap()
    }

    /// Everything as it was.
    async fn mend(&self) {
        let store = self.store.inner();
        for object in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
            if !self.objects.contains_key(&object.location) {
                store.delete(&object.location).await.unwrap();
            }
        }
        for (key, bytes) in &self.objects {
            store.put(key, bytes.clone().into()).await.unwrap();
        }
    }
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Flip,
    Cut,
    Grow,
    Swap,
    Lose,
}

/// Everything that a report says.
fn said(report: &VerifyReport) -> String {
    let findings = report
        .backups
        .iter()
        .flat_map(|b| &b.verification.findings)
        .chain(report.logs.iter().flat_map(|log| &log.findings))
        .chain(&report.problems);
    findings.filter(|f| f.level == Level::Error).map(|f| f.message.clone()).collect::<Vec<_>>().join("\n")
}

/// Whether the words name an object: by its key; a backup's own records by its id; a hole in the log by its place.
fn names(said: &str, key: &Path) -> bool {
    let key = key.as_ref();
    if let Some(file) = key.strip_prefix("logs/").and_then(|k| k.rsplit('/').next()) {
        let start = file.split('-').next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        return said.contains(key) || start.is_some_and(|at| said.contains(&format!("1:0/{at:X}")));
    }
    let id = key.split('/').nth(2).unwrap_or(key);
    said.contains(key) || said.contains(id)
}

#[tokio::test]
async fn every_flip_cut_swap_and_loss_is_found_and_named() {
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    for seed in dm_testkit::seeds(4, 40) {
        let mut random = StdRng::seed_from_u64(seed);
        let made = Box::pin(Furnished::new(&mut random, seed % 2 == 0)).await;
        let sound = made.verify(VerifyLevel::Stored).await;
        assert!(sound.is_sound() && said(&sound).is_empty(), "seed {seed}: a false alarm: {sound:?}");
        assert_eq!((sound.backups.len(), sound.logs[0].pieces), (5, 12));
        made.mend().await;
        let keys: Vec<&Path> = made.objects.keys().filter(|k| !k.as_ref().starts_with("probes/")).collect();
        for _ in 0..25 {
            let key = *keys.choose(&mut random).unwrap();
            let bytes = made.objects[key].to_vec();
            let record = key.as_ref().starts_with("pins/") || key.as_ref().starts_with("verifications/");
            let damage = match random.random_range(0..5) {
                0 => Damage::Cut,
                1 => Damage::Grow,
                2 => Damage::Swap,
                // That a record was there, nothing tells; a newer one or none is as good.
                3 if !record && !key.as_ref().contains("/history-") => Damage::Lose,
                _ => Damage::Flip,
            };
            let store = made.store.inner();
            let now = match damage {
                Damage::Flip => {
                    let mut flipped = bytes.clone();
                    let at = random.random_range(0..flipped.len());
                    flipped[at] ^= 1 << random.random_range(0..8);
                    Some(flipped)
                }
                Damage::Cut => Some(bytes[..random.random_range(0..bytes.len())].to_vec()),
                Damage::Grow => Some([&bytes[..], b"x"].concat()),
                Damage::Swap => {
                    // Another object of the same family.
                    let family = key.as_ref().split('/').next().unwrap();
                    let others: Vec<_> = made
                        .objects
                        .iter()
                        .filter(|(k, b)| *k != key && k.as_ref().starts_with(family) && **b != bytes)
                        .collect();
                    let Some((_, other)) = others.choose(&mut random) else { continue };
                    Some(other.to_vec())
                }
                Damage::Lose => None,
            };
            match now {
                Some(now) => drop(store.put(key, now.into()).await.unwrap()),
                None => store.delete(key).await.unwrap(),
            }
            // A whole record of another backup or time is a record; and the last piece of a log ends it, as a server's end does.
            let legal = (record && damage == Damage::Swap)
                || (damage == Damage::Lose && Some(&key) == keys.iter().rfind(|k| is_piece(k)))
                || (damage == Damage::Lose && Some(&key) == keys.iter().find(|k| is_piece(k)));
            match made
                .service
                .verify(&made.ctx, &VerifyScope::All { target: None }, VerifyLevel::Stored)
                .await
            {
                Ok(report) if !legal => {
                    assert!(!report.is_sound(), "seed {seed}: {damage:?} of {key} was not found");
                    // What every backup stands on is named as such.
                    let named = names(&said(&report), key) || key.as_ref() == "repository.json";
                    assert!(named, "seed {seed}: {damage:?} of {key} is not named by {}", said(&report));
                    *done.entry(format!("{damage:?}")).or_default() += 1;
                }
                Ok(_) => {}
                Err(error) => panic!("seed {seed}: {damage:?} of {key}: {error}"),
            }
            made.mend().await;
        }
        assert!(made.verify(VerifyLevel::Stored).await.is_sound(), "seed {seed}: mended");
    }
    assert!(done.len() == 5 && done.values().sum::<u32>() > 50, "{done:?}");
}

fn is_piece(key: &Path) -> bool {
    key.as_ref().starts_with("logs/") && key.parts().count() == 6
}

#[tokio::test]
async fn what_backups_share_is_read_once() {
    let made = Box::pin(Furnished::new(&mut StdRng::seed_from_u64(1), false)).await;
    made.store.reset_log();
    let report = made.verify(VerifyLevel::Stored).await;
    let mut packs: BTreeMap<Path, u32> = BTreeMap::new();
    for call in made.store.log().iter().filter(|c| c.operation == Operation::Get) {
        if call.path.as_ref().contains("/packs/") {
            *packs.entry(call.path.clone()).or_default() += 1;
        }
    }
    assert!(packs.len() > 5 && packs.values().all(|n| *n == 1), "{packs:?}");
    assert!(report.is_sound() && report.backups.iter().all(|b| b.verification.proven_at().is_some()));
}

#[tokio::test]
async fn samples_move_on_until_everything_was_read() {
    let made = Box::pin(Furnished::new(&mut StdRng::seed_from_u64(1), true)).await;
    let report = made.verify(VerifyLevel::Stored).await;
    let proven = report.backups[0].verification.proven_at().unwrap();
    made.clock.forward(24);
    let sample = |size| VerifyRequest {
        how: VerifyOptions { sample: Some(size), ..VerifyOptions::default() },
        older_than: None,
    };
    let began = made.ctx.now();
    let mut rounds = 0;
    loop {
        let report = made.verify(sample(SampleSize::PerMille(50))).await;
        let first = &report.backups[0].verification;
        assert_eq!((first.ok, first.level), (true, VerifyLevel::Sampled));
        rounds += 1;
        made.clock.forward(1);
        if first.proven_at() != Some(proven) {
            assert_eq!(first.proven_at(), Some(began), "proven as of the first sample of the round");
            break;
        }
        assert!(first.sample.is_some_and(|s| s.since == began && s.read < s.of));
        assert!(rounds < 30);
    }
    assert!(rounds >= 3, "{rounds} samples");
    // A list and the keep-rules see the proof, not only the last look.
    let rows = made.service.list(&made.ctx, None).await.unwrap().backups;
    assert!(rows.iter().all(|r| r.proof == dm_backup::keep::Soundness::Verified), "{rows:?}");

    // Damage in a part that comes later in the round is found by then at the latest.
    let pack = made.objects.keys().find(|k| k.as_ref().contains(&format!("{}/packs/", made.backups[0].id)));
    let mut bytes = made.objects[pack.unwrap()].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    made.store.inner().put(pack.unwrap(), bytes.into()).await.unwrap();
    let mut found = false;
    for _ in 0..rounds + 1 {
        found |= !made.verify(sample(SampleSize::PerMille(50))).await.is_sound();
    }
    assert!(found);
    let rows = made.service.list(&made.ctx, None).await.unwrap().backups;
    assert_eq!(rows[0].proof, dm_backup::keep::Soundness::Damaged);
    let wrong = VerifyOptions { level: VerifyLevel::Full, ..sample(SampleSize::PerMille(1)).how };
    let error = made.repository().verify(&made.ctx, &made.backups[0], wrong).await.unwrap_err();
    assert!(error.to_string().contains("a sample reads stored bytes"), "{error}");
}

#[tokio::test]
async fn what_was_proven_recently_is_left_out_and_named() {
    let made = Box::pin(Furnished::new(&mut StdRng::seed_from_u64(1), false)).await;
    made.clock.forward(24);
    let request = |level, days| VerifyRequest {
        how: VerifyOptions { level, ..VerifyOptions::default() },
        older_than: Some(Period::days(days)),
    };
    let report = made.verify(request(VerifyLevel::Stored, 7)).await;
    assert_eq!((report.backups.len(), report.left_out.len()), (0, 5));
    assert!(report.is_sound());
    // A shallower look proves nothing deeper.
    assert_eq!(made.verify(request(VerifyLevel::Full, 7)).await.backups.len(), 5);
    made.clock.forward(24 * 10);
    assert_eq!(made.verify(request(VerifyLevel::Quick, 7)).await.backups.len(), 5);
    assert_eq!(made.verify(request(VerifyLevel::Quick, 7)).await.left_out.len(), 5);
    assert_eq!(made.verify(request(VerifyLevel::Stored, 7)).await.backups.len(), 5, "quick is no proof");
    // A clock that leapt ahead and came back.
    made.clock.forward(-24 * 300);
    assert_eq!(made.verify(request(VerifyLevel::Stored, 7)).await.backups.len(), 5);
}

#[test]
fn sizes_of_samples_are_parts_or_bytes() {
    for (text, size) in [
        ("5%", SampleSize::PerMille(50)),
        ("0.5%", SampleSize::PerMille(5)),
        ("100%", SampleSize::PerMille(1000)),
        ("10MB", SampleSize::Bytes(10_000_000)),
    ] {
        assert_eq!(text.parse::<SampleSize>().unwrap(), size);
    }
    for wrong in ["", "%", "0%", "101%", "5.55%", "-1%", "1e1%", "0", "many", ".5%"] {
        assert!(wrong.parse::<SampleSize>().is_err(), "{wrong}");
    }
}
