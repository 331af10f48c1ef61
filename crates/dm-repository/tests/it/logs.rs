//! Log that is shipped: what is put comes back, twice is once, and nothing is taken for whole that is not.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeZone, Utc};
use dm_core::*;
use dm_repository::*;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

const STREAM: &str = "7301234567890123456";
const MIB: u64 = 1 << 20;

fn at(ms: i64) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(1_800_000_000_000 + ms).unwrap()
}

fn piece(timeline: u32, start: u64, bytes: Vec<u8>) -> LogPiece {
    LogPiece { timeline, start, sealed_at: at(start as i64 / 1000), bytes: bytes.into() }
}

async fn put(repository: &Repository, piece: &LogPiece) -> dm_core::Result<LogEntry> {
    repository.put_log(&ctx(), &target("shop"), STREAM, piece).await
}

async fn list(repository: &Repository) -> LogListing {
    repository.list_log(&ctx(), &target("shop"), STREAM).await.unwrap()
}

async fn read(repository: &Repository, entry: &LogEntry) -> dm_core::Result<Bytes> {
    repository.read_log(&ctx(), &target("shop"), STREAM, entry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_listed_and_read() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let mut rng = StdRng::seed_from_u64(dm_testkit::seed());
        let mut pieces = Vec::new();
        for (timeline, base) in [(1, 0x1_0000_0000_u64), (2, 0x1_0300_0000)] {
            let mut start = base;
            while start < base + 50 * MIB {
                let length = rng.random_range(1..9_000_000).min(16 * MIB - start % (16 * MIB));
                pieces.push(piece(timeline, start, vec![rng.random(); length as usize]));
                start += length;
            }
        }
        for piece in &pieces {
            let entry = put(&repository, piece).await.unwrap();
            assert_eq!(
                (entry.start, entry.end, entry.sealed_at),
                (piece.start, piece.end(), piece.sealed_at)
            );
        }
        let t = target("shop");
        repository.put_log_history(&ctx(), &t, STREAM, 2, "1\t1/3000000\tfork\n".into()).await.unwrap();
        repository.put_log_gap(&ctx(), &t, STREAM, 1, 10..20, "the slot was lost").await.unwrap();
        repository.put_log_gap(&ctx(), &t, STREAM, 1, 10..20, "once more").await.unwrap();

        let quiet = async |timeline, offset, ms| {
            let position = LogPosition { timeline, offset };
            repository.put_log_quiet(&ctx(), &t, STREAM, position, at(ms)).await.unwrap()
        };
        for (timeline, offset, ms) in [(1, 500, 7), (2, 600, 3), (1, 400, 9), (1, 500, 8), (1, 500, 8)] {
            assert!(quiet(timeline, offset, ms).await);
        }

        let listing = list(&repository).await;
        assert!(listing.problems.is_empty(), "{:?}", listing.problems);
        let known: Vec<_> = listing.quiet.iter().map(|q| (q.timeline, q.position, q.at)).collect();
        // The second writer was behind, and removed nothing of the first one's; the third one's are newer.
        assert_eq!(known, [(1, 400, at(9)), (1, 500, at(8)), (2, 600, at(3))]);
        assert_eq!(listing.histories, [2]);
        let [gap] = &listing.gaps[..] else { panic!("{:?}", listing.gaps) };
        assert_eq!(
            (gap.timeline, gap.start, gap.end, gap.reason.as_deref()),
            (1, 10, 20, Some("the slot was lost"))
        );
        assert_eq!(listing.entries.len(), pieces.len());
        for (entry, piece) in listing.entries.iter().zip(&pieces) {
            assert_eq!((entry.timeline, entry.start), (piece.timeline, piece.start));
            assert_eq!(read(&repository, entry).await.unwrap(), piece.bytes);
            repository.verify_log(&ctx(), &t, STREAM, entry).await.unwrap();
        }
        let history = repository.read_log_history(&ctx(), &t, STREAM, 2).await.unwrap();
        assert_eq!(history.as_deref(), Some(&b"1\t1/3000000\tfork\n"[..]));
        assert_eq!(repository.read_log_history(&ctx(), &t, STREAM, 3).await.unwrap(), None);
        assert_eq!(repository.log_streams(&ctx(), &t).await.unwrap(), [STREAM]);
        assert!(repository.log_streams(&ctx(), &target("other")).await.unwrap().is_empty());

        // Ranges: exactly the pieces that touch them.
        for _ in 0..50 {
            let start = 0x1_0000_0000 + rng.random_range(0..60 * MIB);
            let range = start..start + rng.random_range(1..40 * MIB);
            let found = repository.list_log_range(&ctx(), &t, STREAM, 1, range.clone()).await.unwrap();
            let expected: Vec<LogEntry> = listing
                .entries
                .iter()
                .filter(|e| e.timeline == 1 && e.start < range.end && range.start < e.end)
                .copied()
                .collect();
            assert_eq!(found.entries, expected, "{range:X?}");
            assert!(found.gaps.is_empty());
        }
        let all = repository.list_log_range(&ctx(), &t, STREAM, 1, 0..u64::MAX).await.unwrap();
        assert_eq!(
            (all.entries.len(), all.gaps.len()),
            (listing.entries.iter().filter(|e| e.timeline == 1).count(), 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetching_one_file_of_log_does_not_list_the_others() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    for n in 0..100 {
        put(&repository, &piece(1, n * 16 * MIB, vec![1; 100])).await.unwrap();
    }
    let before = store.listed();
    let found = repository
        .list_log_range(&ctx(), &target("shop"), STREAM, 1, 50 * 16 * MIB..51 * 16 * MIB)
        .await
        .unwrap();
    assert_eq!(found.entries.len(), 1);
    assert!(store.listed() - before <= 2, "{} names were listed", store.listed() - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_again_is_stored_once_and_other_bytes_are_refused() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let whole = piece(1, 4096, (0..=255).cycle().take(9000).collect());
        let entry = put(&repository, &whole).await.unwrap();
        assert_eq!(put(&repository, &whole).await.unwrap(), entry);
        let part = piece(1, 5000, whole.bytes[904..2000].to_vec());
        assert_eq!(put(&repository, &part).await.unwrap(), entry, "covered");
        // One that reaches further is stored, overlap and all.
        let mut longer = whole.bytes[100..].to_vec();
        longer.extend_from_slice(b"more");
        put(&repository, &piece(1, 4196, longer.clone())).await.unwrap();
        assert_eq!(list(&repository).await.entries.len(), 2);

        let mut other = longer.clone();
        other[0] ^= 1;
        let error = put(&repository, &piece(1, 4196, other.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.hint().is_some());
        // On another timeline it is another log.
        put(&repository, &piece(2, 4196, other)).await.unwrap();

        let t = target("shop");
        for _ in 0..2 {
            repository.put_log_history(&ctx(), &t, STREAM, 2, "1\t0/1\tx\n".into()).await.unwrap();
        }
        let error =
            repository.put_log_history(&ctx(), &t, STREAM, 2, "1\t0/2\tx\n".into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(list(&repository).await.entries.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_the_private_key_ships_and_lists_and_cannot_read() {
    let keys = Keys::new();
    let store = TestStore::new();
    make(&store, Some(&keys)).await;
    let options = OpenOptions { identities: Vec::new(), index_identity: None, ..open_options(Some(&keys)) };
    let host = Repository::open(Arc::clone(&store) as _, &ctx(), options).await.unwrap();
    let secret = piece(1, 0, b"a row that nobody may read".repeat(100));
    let entry = put(&host, &secret).await.unwrap();
    assert_eq!(put(&host, &secret).await.unwrap(), entry);
    host.put_log_history(&ctx(), &target("shop"), STREAM, 2, "x".into()).await.unwrap();
    assert_eq!(list(&host).await.entries, [entry]);
    host.verify_log(&ctx(), &target("shop"), STREAM, &entry).await.unwrap();
    let error = read(&host, &entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("age1"));
    assert_eq!(
        host.read_log_history(&ctx(), &target("shop"), STREAM, 2).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    let stranger = OpenOptions { identities: vec![Identity::generate()], ..open_options(Some(&keys)) };
    let stranger = Repository::open(Arc::clone(&store) as _, &ctx(), stranger).await.unwrap();
    assert_eq!(read(&stranger, &entry).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(read(&reopen(&store, Some(&keys)).await, &entry).await.unwrap(), secret.bytes);
    for (key, bytes) in store.dump().await {
        assert!(!bytes.windows(20).any(|w| w == b"a row that nobody ma"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_never_read_as_the_end() {
    for keys in [None, Some(Keys::new())] {
        let store = TestStore::new();
        let repository = make(&store, keys.as_ref()).await;
        let mut rng = StdRng::seed_from_u64(1);
        let entry = put(&repository, &piece(1, 0, noise(&mut rng, 5000))).await.unwrap();
        let (key, good) =
            store.dump().await.into_iter().find(|(k, _)| k.as_ref().starts_with("logs/")).unwrap();
        for i in (0..good.len()).step_by(37) {
            let mut bad = good.to_vec();
            bad[i] ^= 4;
            store.poke(&key, bad.into()).await;
            assert_eq!(read(&repository, &entry).await.unwrap_err().kind(), ErrorKind::Corrupt, "byte {i}");
        }
        store.poke(&key, good.slice(..100)).await;
        let error = repository.verify_log(&ctx(), &target("shop"), STREAM, &entry).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        store.lose(&key).await;
        assert_eq!(read(&repository, &entry).await.unwrap_err().kind(), ErrorKind::NotFound);
        // Under another name: of another length, or none at all.
        let longer = key.as_ref().replace("-0000000000001388-", "-0000000000001389-");
        store.poke(&Path::from(longer.as_str()), good.clone()).await;
        let listing = list(&repository).await;
        assert_eq!(read(&repository, &listing.entries[0]).await.unwrap_err().kind(), ErrorKind::Corrupt);
        for odd in ["x.log", "00000001/0000000000/x.log", "00000001/0000000001/", "gaps/1-2.json"] {
            let odd = if odd.ends_with('/') {
                key.as_ref().replace("/0000000000/", "/0000000001/")
            } else {
                format!("logs/shop/{STREAM}/{odd}")
            };
            store.poke(&Path::from(odd.as_str()), good.clone()).await;
            let listing = list(&repository).await;
            assert!(
                listing.problems.iter().any(|p| p.message.contains(&odd)),
                "{odd}: {:?}",
                listing.problems
            );
            store.lose(&Path::from(odd)).await;
        }
        let t = target("shop");
        repository.put_log_gap(&ctx(), &t, STREAM, 1, 0x10..0x20, "lost").await.unwrap();
        let gap = Path::from(format!("logs/shop/{STREAM}/gaps/00000001-{:016X}-{:016X}.json", 0x10, 0x20));
        store.poke(&gap, Bytes::from_static(b"{}")).await;
        let listing = list(&repository).await;
        assert_eq!(
            (listing.gaps.len(), listing.gaps[0].at, listing.problems.len()),
            (1, None, 1),
            "the name counts"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_piece_is_refused() {
    let repository = make(&TestStore::new(), None).await;
    let t = target("shop");
    let good = piece(1, 0, vec![1; 10]);
    for stream in ["", ".", "..", "a/b", "Ä", "A", ".hidden"] {
        let error = repository.put_log(&ctx(), &t, stream, &good).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{stream}");
        assert_eq!(repository.list_log(&ctx(), &t, stream).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    for bad in [
        piece(1, 0, Vec::new()),
        piece(1, 0, vec![0; (16 << 20) + 1]),
        LogPiece { start: u64::MAX - 5, ..good.clone() },
    ] {
        assert_eq!(put(&repository, &bad).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    put(&repository, &piece(1, 0, vec![0; 16 << 20])).await.unwrap();
    let empty = repository.put_log_gap(&ctx(), &t, STREAM, 1, 5..5, "x").await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_or_disturbed_at_every_call_a_piece_is_whole_or_absent_and_comes_again() {
    for (fault, keys) in [
        (Fault::Dead, None),
        (Fault::Dead, Some(Keys::new())),
        (Fault::Before, None),
        (Fault::After, None),
        (Fault::After, Some(Keys::new())),
    ] {
        for n in 0.. {
            let store = TestStore::new();
            let repository = make(&store, keys.as_ref()).await;
            let first = piece(1, 0, vec![1; 1000]);
            put(&repository, &first).await.unwrap();
            let second = piece(1, 1000, vec![2; 1000]);
            let faulty = store.fork();
            let shipper = reopen(&faulty, keys.as_ref()).await;
            faulty.fail(n, fault);
            let before = faulty.calls();
            let result = async {
                shipper.put_log_history(&ctx(), &target("shop"), STREAM, 1, "h".into()).await?;
                put(&shipper, &second).await?;
                shipper.put_log_gap(&ctx(), &target("shop"), STREAM, 1, 2000..3000, "lost").await
            }
            .await;
            let reached = faulty.calls() - before > n;
            assert_eq!(result.is_err(), fault == Fault::Dead && reached, "call {n}: {result:?}");
            let listing = list(&repository).await;
            assert!(listing.problems.is_empty(), "call {n}: {:?}", listing.problems);
            for entry in &listing.entries {
                let expected = if entry.start == 0 { &first } else { &second };
                assert_eq!(read(&repository, entry).await.unwrap(), expected.bytes);
            }
            // Shipping goes on from what is confirmed: everything comes again.
            put(&repository, &second).await.unwrap();
            repository.put_log_history(&ctx(), &target("shop"), STREAM, 1, "h".into()).await.unwrap();
            repository.put_log_gap(&ctx(), &target("shop"), STREAM, 1, 2000..3000, "lost").await.unwrap();
            let listing = list(&repository).await;
            assert_eq!((listing.entries.len(), listing.gaps.len()), (2, 1), "call {n}");
            assert_eq!(listing.histories, [1]);
            if !reached {
                assert!(n >= 6, "only {n} calls");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeping_and_deleting_backups_touch_no_log() {
    let store = TestStore::new();
    let repository = make(&store, None).await;
    let gone = back_up(&repository, "shop", None, &samples(1)).await.unwrap();
    put(&repository, &piece(1, 0, vec![1; 1000])).await.unwrap();
    repository.put_log_history(&ctx(), &target("shop"), STREAM, 1, "h".into()).await.unwrap();
    repository.put_log_gap(&ctx(), &target("shop"), STREAM, 1, 2000..3000, "lost").await.unwrap();
    let logs = async || {
        let all = store.dump().await;
        all.into_iter().filter(|(k, _)| k.as_ref().starts_with("logs/")).collect::<Vec<_>>()
    };
    let before = logs().await;
    assert_eq!(before.len(), 3);
    repository.tombstone(&ctx(), &gone, "test").await.unwrap();
    for _ in 0..30 {
        store.advance(86_400);
        repository.sweep(&ctx(), SweepOptions::default()).await.unwrap();
    }
    assert!(repository.list(&ctx(), None).await.unwrap().tombstoned.is_empty());
    assert_eq!(logs().await, before);
}
