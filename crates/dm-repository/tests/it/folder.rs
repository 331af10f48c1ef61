//! Repositories in local folders: privacy, leftovers, errors with a way out, an independent reader, old repositories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dm_core::*;
use dm_repository::*;
use object_store::ObjectStore;

use crate::support::*;

pub fn store(folder: &Path) -> Result<Arc<dyn ObjectStore>> {
    open_store(&StoreLocation::folder(folder), &StoreOptions::default())
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push(path.clone());
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn short_lease(keys: Option<&Keys>) -> InitOptions {
    InitOptions { lease: std::time::Duration::from_secs(1), ..init_options(keys) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_private_and_is_left_clean() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("new/backups");
    let repository = Repository::init(store(&folder).unwrap(), &ctx(), short_lease(None), open_options(None))
        .await
        .unwrap();
    assert!(!repository.single_writer());
    let content_before = samples(1);
    let full = back_up(&repository, "shop", None, &content_before).await.unwrap();
    assert_holds(&repository, &full, &content_before).await;
    for path in files(&folder).into_iter().chain([folder.clone()]) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    // What a crashed upload leaves is under a name that no reader sees, and goes with the backup.
    let backup = folder.join(format!("backups/shop/{}", full.id));
    fs::write(backup.join("packs/00000099.pack#1"), b"half").unwrap();
    fs::create_dir(backup.join("journal")).unwrap();
    fs::write(backup.join("journal/00000000.page#7"), b"half").unwrap();
    assert!(repository.list(&ctx(), None).await.unwrap().problems.is_empty());
    repository.tombstone(&ctx(), &full, "test").await.unwrap();
    let report = repository.sweep(&ctx(), SweepOptions { dry_run: false, wait: true }).await.unwrap();
    assert_eq!(report.removed, [full.id]);
    assert!(!backup.exists(), "{:?}", files(&folder));
    back_up(&repository, "shop", None, &content_before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_used_says_why() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = store(&file.join("below")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid), "{error:?}");
    let error = store(&file).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid), "{error:?}");
    let folder = parent.path().join("repository");
    Repository::init(store(&folder).unwrap(), &ctx(), short_lease(None), open_options(None)).await.unwrap();
    let opened = store(&folder).unwrap();
    // Root passes every permission check; then there is nothing to see here.
    for path in files(&folder).into_iter().chain([folder.clone()]).filter(|p| p.is_dir()) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
    }
    if fs::write(folder.join("probe"), "x").is_err() {
        let repository = Repository::open(opened, &ctx(), open_options(None)).await.unwrap();
        assert!(repository.list(&ctx(), None).await.unwrap().backups.is_empty());
        let error = begin(&repository, "shop", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.hint().is_some());
    }
    for path in files(&folder).into_iter().chain([folder.clone()]).filter(|p| p.is_dir()) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// A program of the oracle is missing: skipped loudly, a failure in CI.
pub fn missing_tools() -> bool {
    let missing: Vec<&str> = ["python3", "zstd", "age"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    if missing.is_empty() {
        return false;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "missing: {}", missing.join(", "));
    println!("SKIPPED: the independent reader needs {}", missing.join(", "));
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_reader_reads_it() {
    if missing_tools() {
        return;
    }
    for keys in [None, Some(Keys::new())] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("repository");
        let repository = Repository::init(
            store(&folder).unwrap(),
            &ctx(),
            init_options(keys.as_ref()),
            open_options(keys.as_ref()),
        )
        .await
        .unwrap();
        let mut content = samples(7);
        content[0].bytes.truncate(300 << 10);
        content[1].block = 30_000;
        let full = back_up(&repository, "shop", None, &content).await.unwrap();
        content[0].bytes[123_456] ^= 1;
        content[1].bytes.extend_from_slice(b"and more");
        let next =
            back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &content).await.unwrap();
        let identity = place.path().join("me.key");
        if let Some(keys) = &keys {
            fs::write(&identity, keys.identity.to_secret_text().expose()).unwrap();
        }
        // And one that goes on from another: in a folder the same file serves both.
        let writer = begin(&repository, "shop", None).await.unwrap();
        let left = folder.join(format!("backups/shop/{}/packs", writer.id()));
        write_all(&writer, &content).await.unwrap();
        writer.suspend(&ctx()).await.unwrap();
        let inodes = |folder: &Path| -> Vec<u64> {
            let mut all: Vec<u64> = files(folder).iter().map(|f| fs::metadata(f).unwrap().ino()).collect();
            all.sort_unstable();
            all
        };
        let before = inodes(&left);
        let resumed = back_up(&repository, "shop", None, &content).await.unwrap();
        assert!(resumed.resumed.is_some());
        assert_eq!(inodes(&folder.join(format!("backups/shop/{}/packs", resumed.id))), before);
        assert!(!folder.join(format!("backups/shop/{}/journal", resumed.id)).exists());
        let all = content.iter().flat_map(|sample| [(&next, sample), (&resumed, sample)]);
        for (backup, sample) in all {
            let mut command = Command::new("python3");
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/read_backup.py"));
            command.arg(&folder).arg("shop").arg(backup.id.to_string()).arg(&sample.spec.name);
            if keys.is_some() {
                command.arg(&identity);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == sample.bytes, "{} differs", sample.spec.name);
        }
        // And the one-liners of the format page.
        let pack = folder.join(format!("backups/shop/{}/packs/00000000.pack", full.id));
        let shell = match &keys {
            None => format!("zstd -d < '{}' | wc -c", pack.display()),
            Some(_) => format!(
                "age -d -i '{}' '{}' > '{p}/id' && age -d -i '{p}/id' '{}' | zstd -d | wc -c",
                identity.display(),
                folder.join(format!("backups/shop/{}/keys/00000000.age", full.id)).display(),
                pack.display(),
                p = place.path().display(),
            ),
        };
        let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
        let bytes: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        assert!(bytes > 60_000, "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_reader_reads_the_log() {
    if missing_tools() {
        return;
    }
    for keys in [None, Some(Keys::new())] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("repository");
        let repository = Repository::init(
            store(&folder).unwrap(),
            &ctx(),
            init_options(keys.as_ref()),
            open_options(keys.as_ref()),
        )
        .await
        .unwrap();
        let log: Vec<u8> = (0..40_u32 << 20).map(|i| (i >> 8) as u8 ^ i as u8).collect();
        let start = 0x3F00_0000_u64;
        for (i, bytes) in log.chunks(5 << 20).enumerate() {
            let piece = LogPiece {
                timeline: 3,
                start: start + i as u64 * (5 << 20),
                sealed_at: chrono::Utc::now(),
                bytes: bytes.to_vec().into(),
            };
            repository.put_log(&ctx(), &target("shop"), "42", &piece).await.unwrap();
        }
        let identity = place.path().join("me.key");
        if let Some(keys) = &keys {
            fs::write(&identity, keys.identity.to_secret_text().expose()).unwrap();
        }
        let read = |from: u64, to: u64| {
            let mut command = Command::new("python3");
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/read_log.py"));
            command.arg(&folder).args(["shop", "42", "3", &format!("{from:X}"), &format!("{to:X}")]);
            if keys.is_some() {
                command.arg(&identity);
            }
            command.output().unwrap()
        };
        let output = read(start + 1000, start + (17 << 20));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == log[1000..17 << 20]);
        assert!(!read(start + (39 << 20), start + (41 << 20)).status.success(), "behind the end");
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// What the fixtures hold; never to be changed.
pub fn golden() -> (Vec<Sample>, Vec<Sample>) {
    let text = |n: usize| (0..n).map(|i| format!("row {i}\n")).collect::<String>().into_bytes();
    let mut file = text(3000);
    file.resize(40_000, 0);
    let first = vec![
        pages("file/main.db", file, 4096, 8192),
        stream("data/public.orders/0000000", text(2000), 5000),
        stream("schema/pre", b"create table orders (id bigint);\n".to_vec(), 100),
    ];
    let mut second = first.clone();
    second[0].bytes[9000] = b'!';
    second[1].bytes.extend_from_slice(b"row 2000\n");
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_of_version_1_are_restored() {
    let identity = Identity::from_file(&fixture().join("TEST-ONLY.identity"), None).unwrap();
    let index = Identity::from_file(&fixture().join("TEST-ONLY.index-identity"), None).unwrap();
    let keys = Keys { identity, index };
    let (first, second) = golden();
    for (name, keys) in [("plain", None), ("encrypted", Some(&keys))] {
        let place = tempfile::tempdir().unwrap();
        copy(&fixture().join(name), place.path());
        let repository =
            Repository::open(store(place.path()).unwrap(), &ctx(), open_options(keys)).await.unwrap();
        let listing = repository.list(&ctx(), None).await.unwrap();
        assert!(listing.problems.is_empty(), "{:?}", listing.problems);
        let [full, next] = listing.backups.as_slice() else { panic!("{name}: {}", listing.backups.len()) };
        assert!(listing.pins[&full.id].pinned && listing.verified[&full.id].ok);
        assert_eq!(next.references, [full.id]);
        assert_holds(&repository, full, &first).await;
        assert_holds(&repository, next, &second).await;
        for backup in [full, next] {
            let verification = repository.verify(&ctx(), backup, VerifyLevel::Full).await.unwrap();
            assert!(verification.ok, "{:?}", verification.findings);
        }
        // And it can be gone on with.
        let more = back_up(&repository, "shop", Some((next, BackupKind::Incremental)), &first).await.unwrap();
        assert_holds(&repository, &more, &first).await;
    }
}

/// Writes the fixtures anew. Only before the first release of a format version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes into the source tree"]
async fn write_fixtures() {
    let keys = Keys::new();
    for (name, identity) in
        [("TEST-ONLY.identity", &keys.identity), ("TEST-ONLY.index-identity", &keys.index)]
    {
        let text = format!("# for tests only: protects nothing\n{}\n", identity.to_secret_text().expose());
        fs::write(fixture().join(name), text).unwrap();
    }
    let (first, second) = golden();
    for (name, keys) in [("plain", None), ("encrypted", Some(&keys))] {
        let folder = fixture().join(name);
        let _ = fs::remove_dir_all(&folder);
        let repository =
            Repository::init(store(&folder).unwrap(), &ctx(), init_options(keys), open_options(keys))
                .await
                .unwrap();
        let full = back_up(&repository, "shop", None, &first).await.unwrap();
        back_up(&repository, "shop", Some((&full, BackupKind::Incremental)), &second).await.unwrap();
        repository.pin(&ctx(), &full, true, "a fixture").await.unwrap();
        assert!(repository.verify(&ctx(), &full, VerifyLevel::Full).await.unwrap().ok);
        for empty in ["leases", "probes"] {
            let _ = fs::remove_dir_all(folder.join(empty));
        }
    }
}
