//! A backup that was cancelled or killed is gone on with: on real engines and stores, with and without keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use data_manager::config::{Config, LoadOptions};
use data_manager::repository::VerifyLevel;
use data_manager::{
    BackupMode, BackupOptions, DataManager, ErrorKind, OpContext, Progress, ProgressSink, RestoreOptions,
};
use dm_testkit::emulators::S3;
use dm_testkit::postgres::{Options, Server};
use dm_testkit::require;

use crate::support::{Place, execute, number};

/// Cancels when so many bytes have flowed.
struct CancelAfter(AtomicU64, tokio_util::sync::CancellationToken);

impl ProgressSink for CancelAfter {
    fn report(&self, progress: Progress) {
        if let Progress::Bytes(bytes) = progress
            && self.0.fetch_sub(bytes.min(self.0.load(Ordering::SeqCst)), Ordering::SeqCst) <= bytes
        {
            self.1.cancel();
        }
    }
}

fn cancelling_after(ctx: &OpContext, bytes: u64) -> OpContext {
    let sink = CancelAfter(AtomicU64::new(bytes), ctx.cancellation().clone());
    ctx.clone().with_progress(Arc::new(sink))
}

/// Cancelled when so many bytes were read; the next run must not send again most of what those made.
async fn goes_on(dm: &DataManager, options: &BackupOptions, bytes: u64) {
    let error = dm.backup().run(&cancelling_after(&dm.context(), bytes), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    assert!(dm.backup().list(&dm.context(), None).await.unwrap().backups.is_empty());
    let report = dm.backup().run(&dm.context(), options).await.expect("the next run");
    let resumed = report.resumed.expect("it went on");
    assert!(resumed.bytes * 10 > report.stored_bytes, "{resumed:?} of {}", report.stored_bytes);
    let verified = dm.backup().verify(&dm.context(), None, None, VerifyLevel::Full).await.unwrap();
    verified.check().unwrap();
}

const NOISE: &str = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
     SELECT randomblob(4000) FROM n";

/// The copy that is the snapshot flows first, some 16 MiB; then so much of what is stored.
const SNAPSHOT_AND_MORE: u64 = 22 << 20;

async fn sqlite(place: &Place, folder: &Path) {
    let url = format!("sqlite://{}?mode=rwc", folder.join("a.db").display());
    let dm = place.manager(&url, folder);
    execute(&dm, "CREATE TABLE t (x BLOB)").await;
    execute(&dm, NOISE).await;
    goes_on(&dm, &BackupOptions::default(), SNAPSHOT_AND_MORE).await;
    let to = folder.join("b.db");
    let options = RestoreOptions { to: Some(to.display().to_string()), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await.unwrap();
    assert!(dm.apply_restore(&dm.context(), plan).await.unwrap().equal);
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_in_an_encrypted_folder() {
    let folder = tempfile::tempdir().unwrap();
    sqlite(&Place::folder(&folder.path().join("backups")).encrypted(), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_on_s3_encrypted_and_not() {
    for encrypted in [false, true] {
        let server = require!(S3::start());
        let folder = tempfile::tempdir().unwrap();
        let place = Place::s3(&server);
        sqlite(&if encrypted { place.encrypted() } else { place }, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_keys() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::folder(&folder.path().join("backups")).encrypted();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("a.db").display());
    let owner = place.manager(&url, folder.path());
    execute(&owner, "CREATE TABLE t (x BLOB)").await;
    // Makes the repository; its backup is of another target.
    let other = BackupOptions { target: Some("other".parse().unwrap()), ..BackupOptions::default() };
    owner.backup().run(&owner.context(), &other).await.unwrap();
    execute(&owner, NOISE).await;

    let state = folder.path().join("host");
    let host = DataManager::builder().engine("main", &url).unwrap().repository(&place.url);
    let host = host.state(state.join("state.db").display().to_string()).build().unwrap();
    let options = BackupOptions::default();
    let error =
        host.backup().run(&cancelling_after(&host.context(), SNAPSHOT_AND_MORE), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    let report = host.backup().run(&host.context(), &options).await.unwrap();
    assert!(report.resumed.expect("it went on").bytes > 2 << 20, "{:?}", report.resumed);
    let key = std::fs::metadata(state.join("journal.key")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    owner.backup().verify(&owner.context(), None, None, VerifyLevel::Full).await.unwrap().check().unwrap();
    host.close().await;
    owner.close().await;
}

async fn postgres(mode: BackupMode) {
    let server = require!(Server::private(15, &Options::physical(15)));
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::folder(&folder.path().join("backups"));
    place.bin_dir = Some(server.bin_dir().to_owned());
    let dm = place.manager(&server.url("postgres"), folder.path());
    server
        .psql("CREATE TABLE t AS SELECT i, md5(i::text) || md5((i * 7)::text) AS x FROM generate_series(1, 150000) i")
        .await
        .unwrap();
    let options = BackupOptions { mode: Some(mode), jobs: Some(2), ..BackupOptions::default() };
    goes_on(&dm, &options, 10 << 20).await;
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_logical() {
    postgres(BackupMode::Logical).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_physical() {
    postgres(BackupMode::Physical).await;
}

/// The same database and repository, slowly or not.
fn configured(folder: &Path, slowly: bool) -> DataManager {
    let file = folder.join(if slowly { "slow.toml" } else { "fast.toml" });
    let limit = if slowly { "rate_limit = \"2 MiB\"\n" } else { "" };
    let at = folder.display();
    let text = format!(
        "[engines.main]\nurl = \"sqlite://{at}/a.db?mode=rwc\"\n[repository]\nurl = \"{at}/backups\"\n\
         pack_size = \"1 MiB\"\n{limit}[store]\nurl = \"{at}/state.db\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let env = BTreeMap::new();
    let options = LoadOptions { path: Some(file), profile: None, env: &env, cwd: folder, home: None };
    DataManager::builder().config(Config::load(options).unwrap()).build().unwrap()
}

const CHILD: &str = "DM_TEST_RESUMING_CHILD";

/// Not a test of its own: the program that the next one kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other half of a_program_that_is_killed"]
async fn the_program_to_be_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let dm = configured(Path::new(&folder), true);
    let result = dm.backup().run(&dm.context(), &BackupOptions::default()).await;
    panic!("it should have been killed: {result:?}");
}

fn inside(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn journal_pages(folder: &Path) -> usize {
    let backups = inside(&folder.join("backups/backups")).flat_map(|target| inside(&target));
    backups.flat_map(|backup| inside(&backup.join("journal"))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let dm = configured(folder.path(), false);
    execute(&dm, "CREATE TABLE t (x BLOB)").await;
    execute(&dm, NOISE).await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "resuming::the_program_to_be_killed"])
        .env(CHILD, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while journal_pages(folder.path()) < 4 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it did not come that far");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    execute(&dm, "UPDATE t SET x = randomblob(4000) WHERE rowid BETWEEN 100 AND 110").await;
    let report = dm.backup().run(&dm.context(), &BackupOptions::default()).await.expect("the next run");
    let resumed = report.resumed.expect("it went on at once");
    assert!(resumed.bytes > 3 << 20, "{resumed:?}");
    dm.backup().verify(&dm.context(), None, None, VerifyLevel::Full).await.unwrap().check().unwrap();
    let truth = number(&dm, "SELECT count(*) FROM t").await;
    let to = folder.path().join("b.db");
    let options = RestoreOptions { to: Some(to.display().to_string()), ..RestoreOptions::default() };
    let plan = dm.plan_restore(&dm.context(), &options).await.unwrap();
    let restored = dm.apply_restore(&dm.context(), plan).await.unwrap();
    assert!(restored.equal && truth == 4000, "{restored:?}");
    dm.close().await;
}
