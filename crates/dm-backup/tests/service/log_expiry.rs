//! Expiry of shipped log: what a kept window needs stays on every timeline, what none needs goes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use dm_backup::keep::KeepRules;
use dm_backup::{BackupService, ExpirePlan, LogDecision, LogKeepReason, LogRange, Selector};
use dm_core::{
    Actor, BackupId, BackupKind, BackupMode, ConsistencyPoint, EngineKind, ErrorKind, LogPiece, LogPosition,
    OpContext, Period, ServerVersion, SessionSummary, SourceDescription,
};
use dm_repository::{
    BackupHeader, BackupStart, CopyOptions, InitOptions, LogListing, OpenOptions, Repository, SweepOptions,
};
use dm_testkit::fault_store::{Fault, FaultStore, Operation, Rule};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::target;

const STREAM: &str = "7301234567890123456";
/// The size of the segments of this log: a timeline begins with a copy of the one that it branched off in.
const SEGMENT: u64 = 1000;

fn day(days: f64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap() + TimeDelta::seconds((days * 86_400.0) as i64)
}

struct Place {
    store: Arc<FaultStore>,
    service: BackupService,
    ctx: OpContext,
}

impl Place {
    async fn new() -> Self {
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        let ctx = OpContext::new(Actor::local_user("test"));
        let init =
            InitOptions { pack_bytes: 64 << 10, lease: Duration::from_secs(1), ..InitOptions::default() };
        let repository = Repository::init(store.clone(), &ctx, init, OpenOptions::default()).await.unwrap();
        Self { store, service: BackupService::new(repository), ctx }
    }

    fn repository(&self) -> &Repository {
        &self.service.repository
    }

    async fn back_up(&self, timeline: u32, offset: u64, at: DateTime<Utc>) -> BackupHeader {
        self.back_up_as(Some(STREAM), Some((timeline, offset)), at).await
    }

    async fn back_up_as(
        &self,
        system: Option<&str>,
        position: Option<(u32, u64)>,
        at: DateTime<Utc>,
    ) -> BackupHeader {
        let start = BackupStart {
            target: target(),
            kind: BackupKind::Full,
            parent: None,
            started_at: at,
            resume: false,
        };
        let writer = self.repository().begin(&self.ctx, start).await.unwrap();
        let source = SourceDescription {
            engine: EngineKind::Postgres,
            version: ServerVersion { text: "17.5".into(), major: 17, minor: 5 },
            mode: BackupMode::Physical,
            database: "cluster".into(),
            system_identifier: system.map(str::to_owned),
            consistency: ConsistencyPoint {
                at,
                position: position.map(|(_, p)| format!("{:X}/{:X}", p >> 32, p & 0xFFFF_FFFF)),
                timeline: position.map(|(t, _)| t.to_string()),
            },
            attributes: Default::default(),
        };
        writer.commit(&self.ctx, source, SessionSummary::default()).await.unwrap()
    }

    async fn ship(&self, timeline: u32, start: u64, end: u64, sealed_at: DateTime<Utc>) {
        let bytes = Bytes::from(vec![timeline as u8; (end - start) as usize]);
        let piece = LogPiece { timeline, start, sealed_at, bytes };
        self.repository().put_log(&self.ctx, &target(), STREAM, &piece).await.unwrap();
    }

    async fn history(&self, timeline: u32) {
        let text = format!("{}\t0/1\tfork\n", timeline - 1);
        self.repository().put_log_history(&self.ctx, &target(), STREAM, timeline, text.into()).await.unwrap();
    }

    async fn log(&self) -> LogListing {
        self.repository().list_log(&self.ctx, &target(), STREAM).await.unwrap()
    }

    async fn plan(&self, within: Option<Period>) -> ExpirePlan {
        let rules = KeepRules { last: 1000, log_within: within, ..KeepRules::nothing() };
        self.plan_by(&rules).await
    }

    async fn plan_by(&self, rules: &KeepRules) -> ExpirePlan {
        self.service.plan_expire(&self.ctx, &target(), rules, self.ctx.now(), Tz::UTC).await.unwrap()
    }

    async fn keys(&self, part: &str) -> BTreeSet<Path> {
        let all: Vec<_> = self.store.inner().list(None).try_collect().await.unwrap();
        all.into_iter().map(|m| m.location).filter(|p| p.as_ref().contains(part)).collect()
    }
}

fn gone(plan: &ExpirePlan) -> Vec<&LogRange> {
    plan.logs.iter().flat_map(|l| &l.ranges).filter(|r| r.decision == LogDecision::Delete).collect()
}

fn reasons(plan: &ExpirePlan) -> BTreeSet<String> {
    plan.logs.iter().flat_map(|l| &l.ranges).map(LogRange::explain).collect()
}

/// A log of thirty pieces of a segment each, one a day, and backups at some of its places.
async fn thirty_days(place: &Place, backups: &[u64]) -> Vec<BackupId> {
    let mut ids = Vec::new();
    for i in 0..30 {
        if backups.contains(&i) {
            ids.push(place.back_up(1, i * SEGMENT + 500, day(i as f64)).await.id);
        }
        place.ship(1, i * SEGMENT, (i + 1) * SEGMENT, day(i as f64 + 0.5)).await;
    }
    ids
}

#[tokio::test]
async fn the_window_stays_with_the_backup_that_opens_it_and_the_rest_goes() {
    let place = Place::new().await;
    let ids = thirty_days(&place, &[3, 10, 20, 28]).await;
    place
        .repository()
        .put_log_gap(&place.ctx, &target(), STREAM, 1, 10..20, "the slot was lost")
        .await
        .unwrap();
    let quiet = |offset| LogPosition { timeline: 1, offset };
    place.repository().put_log_quiet(&place.ctx, &target(), STREAM, quiet(2000), day(2.0)).await.unwrap();
    place.repository().put_log_quiet(&place.ctx, &target(), STREAM, quiet(30_000), day(31.0)).await.unwrap();

    // Ten days before the newest backup (day 28) is day 18: the backup of day 10 opens that window.
    let plan = place.plan(Some(Period::days(10))).await;
    assert_eq!(plan.deletions().count(), 0);
    let [gone_range] = gone(&plan)[..] else { panic!("{:?}", plan.logs) };
    assert_eq!((gone_range.start, gone_range.end, gone_range.pieces), (0, 10_000, 10));
    assert_eq!(
        plan.logs[0].ranges[1].decision,
        LogDecision::Keep { because: LogKeepReason::Window { backup: ids[1] } }
    );
    assert_eq!(plan.freed_log_bytes(), gone_range.stored_bytes);
    assert!(plan.logs[0].ranges[1].explain().contains(&ids[1].to_string()));

    // A dry run is what is done: exactly those pieces, the gap before them, and nothing else.
    let (before, others) = (place.keys("/00000001/").await, place.keys("backups/").await);
    let report = place.service.apply_expire(&place.ctx, &plan, true).await.unwrap();
    assert_eq!((report.expired_pieces, report.sweep.log_objects), (10, 11), "{report:?}");
    let removed: Vec<_> = before.difference(&place.keys("/00000001/").await).cloned().collect();
    assert_eq!(removed.len(), 10);
    assert!(removed.iter().all(|k| plan_names(&plan, k)), "{removed:?}");
    assert_eq!(place.keys("backups/").await, others);
    assert!(place.keys("/gaps/").await.is_empty());
    let log = place.log().await;
    assert_eq!((log.entries.len(), log.entries[0].start, log.floor(1)), (20, 10_000, 10_000));
    assert_eq!(log.quiet.len(), 1);
    let again = place.plan(Some(Period::days(10))).await;
    assert!(again.is_empty(), "{again:?}");

    // The windows of the backups that stay: the first leads to nothing any more, the log begins behind it.
    let status = place.service.log_status(&place.ctx, &target(), None).await.unwrap();
    let [window] = &status.streams[0].windows[..] else { panic!("{status:?}") };
    assert_eq!((window.opened_by, window.from, window.to), (Some(ids[1]), day(10.0), day(31.0)));
    assert_eq!((window.start, window.end), (10_500, 30_000));
}

/// Whether a plan says of this piece that it goes.
fn plan_names(plan: &ExpirePlan, key: &Path) -> bool {
    let number =
        |i: usize| u64::from_str_radix(key.filename().unwrap().split('-').nth(i).unwrap(), 16).unwrap();
    gone(plan).iter().any(|r| r.start <= number(0) && number(1) <= r.end)
}

#[tokio::test]
async fn without_a_period_every_kept_backup_keeps_its_window() {
    let place = Place::new().await;
    let ids = thirty_days(&place, &[3, 10, 28]).await;
    let plan = place.plan(None).await;
    assert_eq!(gone(&plan).iter().map(|r| r.end).collect::<Vec<_>>(), [3000]);
    // The backups' own rules come first: the log follows what they leave.
    let rules = KeepRules { last: 1, ..KeepRules::nothing() };
    let plan = place.plan_by(&rules).await;
    assert_eq!(plan.deletions().collect::<Vec<_>>(), [ids[1], ids[0]]);
    assert_eq!(gone(&plan).iter().map(|r| r.end).collect::<Vec<_>>(), [28_000]);
}

#[tokio::test]
async fn what_cannot_be_read_keeps_everything() {
    let place = Place::new().await;
    thirty_days(&place, &[10, 20, 28]).await;
    let store = place.store.inner();
    let all = |plan: &ExpirePlan| gone(plan).is_empty() && plan.is_empty();

    let strange = Path::from(format!("logs/shop/{STREAM}/00000001/0000000000/piece.tmp"));
    store.put(&strange, "x".into()).await.unwrap();
    let plan = place.plan(Some(Period::days(5))).await;
    assert!(all(&plan) && plan.logs[0].problems.len() == 1, "{plan:?}");
    assert_eq!(reasons(&plan).len(), 1);
    store.delete(&strange).await.unwrap();
    assert!(!all(&place.plan(Some(Period::days(5))).await));

    // A backup that does not say where it stands may need anything.
    for (system, position) in [(None, None), (Some(STREAM), None), (None, Some((1, 100)))] {
        let header = place.back_up_as(system, position, day(29.0)).await;
        assert!(all(&place.plan(Some(Period::days(5))).await), "{system:?} {position:?}");
        store.delete(&Path::from(format!("backups/shop/{}/backup.json", header.id))).await.unwrap();
        store.put(&Path::from(format!("tombstones/shop/{}.json", header.id)), "{}".into()).await.unwrap();
    }
    assert!(!all(&place.plan(Some(Period::days(5))).await));

    // A commit that cannot be read may be of a backup that needs it.
    let id = BackupId::generate();
    store.put(&Path::from(format!("backups/shop/{id}/backup.json")), "{".into()).await.unwrap();
    let plan = place.plan(Some(Period::days(5))).await;
    assert!(all(&plan) && !plan.problems.is_empty(), "{plan:?}");
}

#[tokio::test]
async fn log_of_a_server_without_a_backup_waits_for_one_and_goes_when_it_is_given_up() {
    let place = Place::new().await;
    place.ship(1, 0, 1000, day(0.0)).await;
    assert!(place.plan(Some(Period::days(5))).await.is_empty(), "the first backup may be under way");
    // Another server took its place.
    place.back_up_as(Some("42"), Some((1, 7000)), day(3.0)).await;
    assert!(place.plan(Some(Period::days(5))).await.is_empty());
    place.back_up_as(Some("42"), Some((1, 9000)), day(30.0)).await;
    assert!(place.plan(None).await.is_empty(), "without a period nothing is ever old");
    let plan = place.plan(Some(Period::days(5))).await;
    assert_eq!(gone(&plan).len(), 1);
    // A backup that is under way may be of that server.
    let id = BackupId::generate();
    let under_way = Path::from(format!("backups/shop/{id}/packs/00000000.pack"));
    place.store.inner().put(&under_way, "x".into()).await.unwrap();
    assert!(place.plan(Some(Period::days(5))).await.is_empty());
}

#[tokio::test]
async fn a_restore_to_the_past_does_not_cut_the_way_to_the_new_timeline() {
    let place = Place::new().await;
    // Backups on day 1 and 8; on day 9 the server is taken back to day 5, and goes on along timeline 2.
    for i in 0..9 {
        place.ship(1, i * SEGMENT, (i + 1) * SEGMENT, day(i as f64)).await;
    }
    let first = place.back_up(1, 1500, day(1.2)).await;
    place.back_up(1, 8200, day(8.2)).await;
    place.history(2).await;
    for i in 5..40 {
        place.ship(2, i * SEGMENT, (i + 1) * SEGMENT, day(i as f64 + 4.0)).await;
    }
    let late = place.back_up(2, 30_500, day(34.5)).await;
    // The window begins on day 14.5. The newest backup before it is of day 8 and does not lead to timeline 2.
    let plan = place.plan(Some(Period::days(20))).await;
    let ends: Vec<_> = gone(&plan).iter().map(|r| (r.timeline, r.end)).collect();
    assert_eq!(ends, [(1, 1000)], "{:?}", plan.logs);
    assert!(reasons(&plan).contains(&format!("kept because: opened by {}", first.id)));

    // Once timeline 2 has a backup before the window, the old timeline goes, and so do the records of its beginning.
    place.history(3).await;
    for i in 40..80 {
        place.ship(2, i * SEGMENT, (i + 1) * SEGMENT, day(i as f64 + 4.0)).await;
    }
    place.back_up(2, 79_500, day(83.5)).await;
    let plan = place.plan(Some(Period::days(20))).await;
    let ends: Vec<_> = gone(&plan).iter().map(|r| (r.timeline, r.end)).collect();
    assert_eq!(ends, [(1, 9000), (2, 30_000)]);
    assert!(reasons(&plan).contains(&format!("kept because: opened by {}", late.id)));
    place.service.apply_expire(&place.ctx, &plan, false).await.unwrap();
    let log = place.log().await;
    assert_eq!(log.histories, [2, 3], "the record of a timeline with a kept backup stays");
}

#[tokio::test]
async fn whoever_reads_when_it_is_marked_reads_to_the_end() {
    let place = Place::new().await;
    let ids = thirty_days(&place, &[3, 28]).await;
    let header = place.service.select(&place.ctx, &Selector::id(ids[0])).await.unwrap();
    let reader = place.repository().read(&place.ctx, &header).await.unwrap();
    let listed = place.log().await;
    let plan = place.plan(Some(Period::days(1))).await;
    let report = place.service.apply_expire(&place.ctx, &plan, false).await.unwrap();
    assert_eq!((report.expired_pieces, report.sweep.log_objects), (3, 0));
    assert_eq!(place.log().await.entries.len(), 27, "marked log is not offered to anybody");
    tokio::time::sleep(Duration::from_millis(1200)).await; // more than a lease: the mark is ripe, and the reader still there
    let swept = place.repository().sweep(&place.ctx, SweepOptions::default()).await.unwrap();
    assert_eq!(swept.log_objects, 0);
    assert!(swept.log_waiting[0].1.contains("still there (Read)"), "{swept:?}");
    for entry in &listed.entries {
        place.repository().read_log(&place.ctx, &target(), STREAM, entry).await.unwrap();
    }
    reader.close().await.unwrap();
    let swept =
        place.repository().sweep(&place.ctx, SweepOptions { wait: true, dry_run: false }).await.unwrap();
    assert_eq!((swept.log_objects, swept.log_waiting.len()), (3, 0));
}

#[tokio::test]
async fn each_place_forgets_by_itself_and_a_copy_brings_nothing_back() {
    let place = Place::new().await;
    thirty_days(&place, &[3, 10, 28]).await;
    let second = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let copy = place.repository().open_copy(second, &place.ctx, OpenOptions::default()).await.unwrap();
    place.repository().copy_to(&place.ctx, &copy, &CopyOptions::default()).await.unwrap();
    let there = BackupService::new(copy.clone());
    let list = async || copy.list_log(&place.ctx, &target(), STREAM).await.unwrap().entries.len();
    assert_eq!(list().await, 30);

    // Here ten days, there everything; and then there less than here.
    let plan = place.plan(Some(Period::days(10))).await;
    place.service.apply_expire(&place.ctx, &plan, true).await.unwrap();
    let copied = place.repository().copy_to(&place.ctx, &copy, &CopyOptions::default()).await.unwrap();
    assert_eq!((copied.log_objects, list().await), (0, 30), "what is forgotten here stays there");
    let rules = KeepRules { last: 1000, log_within: Some(Period::days(0)), ..KeepRules::nothing() };
    let plan = there.plan_expire(&place.ctx, &target(), &rules, place.ctx.now(), Tz::UTC).await.unwrap();
    there.apply_expire(&place.ctx, &plan, true).await.unwrap();
    assert_eq!(list().await, 2);
    let copied = place.repository().copy_to(&place.ctx, &copy, &CopyOptions::default()).await.unwrap();
    assert_eq!((copied.log_objects, list().await), (0, 2), "a copy was told to forget it");
}

#[tokio::test]
async fn two_hosts_and_any_failing_call_end_in_the_same_state() {
    let mut n = 1;
    loop {
        let place = Place::new().await;
        thirty_days(&place, &[3, 10, 20, 28]).await;
        let plan = place.plan(Some(Period::days(10))).await;
        place.store.reset_log();
        place.store.inject(Rule::from(n, Fault::Deny).on_writes());
        // The other host makes the same plan and applies it at the same time.
        let (one, two) = tokio::join!(
            place.service.apply_expire(&place.ctx, &plan, false),
            place.service.apply_expire(&place.ctx, &plan, false)
        );
        let reached = place.store.calls() >= n;
        place.store.heal();
        for outcome in [one, two] {
            if let Err(error) = outcome {
                assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Denied), "{error}");
            }
        }
        let plan = place.plan(Some(Period::days(10))).await;
        place.service.apply_expire(&place.ctx, &plan, true).await.unwrap();
        let log = place.log().await;
        assert_eq!((log.entries.len(), log.entries[0].start), (20, 10_000), "call {n}");
        assert_eq!(place.keys("/00000001/").await.len(), 20);
        if !reached {
            return;
        }
        n += dm_testkit::count(8, 1);
    }
}

/// Half of a write, something else, twice, or no answer: a mark counts by its key alone, and nothing that is kept goes.
#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_to_a_write_the_window_stays_whole() {
    for fault in [Fault::Truncate, Fault::Corrupt, Fault::Repeat, Fault::LoseAnswer, Fault::Fail] {
        let mut n = 1;
        loop {
            let place = Place::new().await;
            thirty_days(&place, &[3, 10, 20, 28]).await;
            let plan = place.plan(Some(Period::days(10))).await;
            place.store.reset_log();
            place.store.inject(Rule::nth(n, fault).on_writes());
            let outcome = place.service.apply_expire(&place.ctx, &plan, false).await;
            let writes = place.store.log().iter().filter(|call| call.operation.writes()).count() as u64;
            place.store.heal();
            let at = format!("write {n}, {fault:?}: {outcome:?}");
            let log = place.log().await;
            let kept: Vec<_> = log.entries.iter().filter(|entry| entry.start >= 10_000).collect();
            assert_eq!(kept.len(), 20, "{at}");
            for entry in kept {
                place.repository().read_log(&place.ctx, &target(), STREAM, entry).await.expect(&at);
            }
            let plan = place.plan(Some(Period::days(10))).await;
            place.service.apply_expire(&place.ctx, &plan, false).await.expect(&at);
            let log = place.log().await;
            assert_eq!((log.entries.len(), log.entries[0].start), (20, 10_000), "{at}");
            if writes < n {
                outcome.expect(&at);
                break;
            }
            n += dm_testkit::count(8, 1);
        }
    }
}

#[tokio::test]
async fn the_cost_grows_with_what_expires_and_not_with_what_stays() {
    let place = Place::new().await;
    let ids = thirty_days(&place, &[3, 28]).await;
    place.store.reset_log();
    let plan = place.plan(Some(Period::days(1))).await;
    let planned = place.store.calls();
    let reads = place
        .store
        .log()
        .iter()
        .filter(|c| c.operation == Operation::Get && c.path.as_ref().contains("logs/"))
        .count();
    assert_eq!((reads, plan.entries.len()), (0, ids.len()), "pieces are judged by their names");
    assert!(planned < 20, "{planned} calls");
}

/// A timeline of a random server.
#[derive(Clone, Debug)]
struct Line {
    parent: Option<(u32, u64)>,
    end: u64,
    /// When each place was reached.
    reached: Vec<(u64, DateTime<Utc>)>,
}

/// A server's life: shipping, backups, and restores to the past, each of which begins a timeline.
async fn live(place: &Place, random: &mut StdRng) -> (BTreeMap<u32, Line>, Vec<BackupHeader>) {
    let mut lines = BTreeMap::from([(1, Line { parent: None, end: 0, reached: Vec::new() })]);
    let (mut now, mut current, mut backups) = (0.0, 1_u32, Vec::new());
    for _ in 0..random.random_range(20..60) {
        now += random.random_range(0.1..2.0);
        let end = lines[&current].end;
        match random.random_range(0..10) {
            0 if end > 0 => {
                // Back to a place of this timeline, or of one before it.
                let mut on = current;
                while let Some((parent, fork)) = lines[&on].parent.filter(|_| random.random_bool(0.3)) {
                    lines.get_mut(&on).unwrap().end = lines[&on].end.max(fork);
                    on = parent;
                }
                let least = lines[&on].parent.map_or(0, |(_, fork)| fork);
                let fork = random.random_range(least..=lines[&on].end.max(least));
                let new = lines.keys().max().unwrap() + 1;
                lines.insert(new, Line { parent: Some((on, fork)), end: fork, reached: Vec::new() });
                current = new;
                if random.random_bool(0.9) {
                    place.history(new).await;
                }
            }
            1 | 2 => backups.push(place.back_up(current, end, day(now)).await),
            3 if random.random_bool(0.2) => {
                // Lost before it was shipped.
                let line = lines.get_mut(&current).unwrap();
                line.end += 400;
                place
                    .repository()
                    .put_log_gap(&place.ctx, &target(), STREAM, current, end..end + 400, "lost")
                    .await
                    .unwrap();
            }
            _ => {
                let fork = lines[&current].parent.map_or(0, |(_, fork)| fork);
                let mut start = if end == fork { fork / SEGMENT * SEGMENT } else { end };
                let upto = end + random.random_range(100..3000);
                while start < upto {
                    let piece = upto.min(start / SEGMENT * SEGMENT + SEGMENT);
                    place.ship(current, start, piece, day(now)).await;
                    start = piece;
                }
                let line = lines.get_mut(&current).unwrap();
                line.end = upto;
                line.reached.push((upto, day(now)));
            }
        }
    }
    (lines, backups)
}

/// Every place that can be restored: by a reader of its own, who knows where each timeline branched off.
fn restorable(
    lines: &BTreeMap<u32, Line>,
    backups: &[BackupHeader],
    log: &LogListing,
) -> BTreeMap<(u32, u64), DateTime<Utc>> {
    let covered = |timeline: u32, from: u64, to: u64| {
        let mut at = from;
        while at < to {
            let holds = |e: &&dm_repository::LogEntry| e.timeline == timeline && e.start <= at && at < e.end;
            let Some(entry) = log.entries.iter().find(holds) else { return false };
            at = entry.end;
        }
        true
    };
    let mut found = BTreeMap::new();
    for (timeline, line) in lines {
        for (place, at) in &line.reached {
            // Back from the place along its timeline and those before, to a backup.
            let (mut on, mut upto) = (*timeline, *place);
            let opened = loop {
                let begin = lines[&on].parent.map_or(0, |(_, fork)| fork);
                let here = backups.iter().any(|b| {
                    let own: u32 = b.consistency.timeline.as_deref().unwrap().parse().unwrap();
                    let p = LogPosition::parse_offset(b.consistency.position.as_deref().unwrap()).unwrap();
                    own == on && p <= upto && covered(on, p, upto)
                });
                if here {
                    break true;
                }
                match lines[&on].parent {
                    Some((parent, fork)) if covered(on, begin, upto) => (on, upto) = (parent, fork),
                    _ => break false,
                }
            };
            if opened {
                found.insert((*timeline, *place), *at);
            }
        }
    }
    found
}

#[tokio::test]
async fn every_instant_of_the_period_that_could_be_restored_still_can() {
    let (mut deleted, mut noticed) = (0, 0);
    for seed in dm_testkit::seeds(25, 1000) {
        let mut random = StdRng::seed_from_u64(seed);
        let place = Place::new().await;
        let (lines, backups) = live(&place, &mut random).await;
        let Some(newest) = backups.iter().map(|b| b.consistency.at).max() else { continue };
        let days = random.random_range(0..25);
        let within = random.random_bool(0.85).then_some(Period::days(days));
        let since = match within {
            Some(_) => newest - TimeDelta::days(days.into()),
            None => DateTime::<Utc>::MIN_UTC,
        };
        let before = restorable(&lines, &backups, &place.log().await);
        let (mut plan, mut rounds) = (place.plan(within).await, 0);
        loop {
            deleted += plan.deleted_pieces();
            place.service.apply_expire(&place.ctx, &plan, false).await.unwrap();
            let log = place.log().await;
            let after = restorable(&lines, &backups, &log);
            for (point, at) in &before {
                let lost = *at >= since && !after.contains_key(point);
                assert!(!lost, "seed {seed}: {point:?} of {at} is lost: {lines:#?} {:#?}", plan.logs);
            }
            let kept = plan.logs.iter().flat_map(|l| &l.ranges).filter(|r| r.decision != LogDecision::Delete);
            let left: u64 = kept.map(|r| r.pieces).sum();
            assert_eq!(log.entries.len() as u64, left, "seed {seed}: the plan is what was done");
            let next = place.plan(within).await;
            if next.is_empty() {
                break;
            }
            // What led nowhere is gone, so that something else is seen to lead nowhere; it comes to an end.
            plan = next;
            rounds += 1;
            assert!(rounds < 5, "seed {seed}: {plan:#?}");
        }
        let mut log = place.log().await;
        let after = restorable(&lines, &backups, &log);
        // A planted defect: one piece more, the first of a window, and the judge must see it.
        let first = plan
            .logs
            .iter()
            .flat_map(|l| &l.ranges)
            .find(|r| matches!(r.decision, LogDecision::Keep { because: LogKeepReason::Window { .. } }));
        if let Some(first) = first {
            log.entries.retain(|e| e.timeline != first.timeline || e.start != first.start);
            noticed += u32::from(restorable(&lines, &backups, &log).len() < after.len());
        }
    }
    assert!(deleted > 0, "nothing ever expired");
    assert!(noticed > 0, "the judge sees nothing");
}
