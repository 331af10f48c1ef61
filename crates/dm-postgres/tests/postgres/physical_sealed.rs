//! The sealed place: nobody gets in, it can be kept and opened later, nothing is left of what was given up; and what stands
//! at a destination already.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dm_core::{
    CheckDepth, Destination, Engine, ErrorKind, Layout, Level, Progress, ProgressSink, RestoreRequest,
    Statement, Value,
};
use dm_testkit::conformance::Collected;
use dm_testkit::postgres::Server;
use futures::TryStreamExt as _;

use crate::physical_restore::assert_is_clean;
use crate::physical_support::{Started, base_backup, engine, fill, folder, options, preview, sealed, to};
use crate::support::context;

async fn source() -> Option<(Server, Collected)> {
    let server = dm_testkit::available(Server::private(15, &options(15)))?;
    server
        .psql("CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
        .await
        .expect("content");
    let backup = base_backup(&server).await;
    Some((server, backup))
}

const ROWS: &str = "SELECT count(*) || ' ' || sum(hashtext(body)::bigint) FROM t";

async fn ask(session: &dyn dm_core::RestoreSession, text: &str) -> String {
    let ctx = context();
    let query = session.statements(&ctx).await.expect("statements").expect("a server");
    let rows: Vec<_> =
        query.query(&ctx, Statement::new(text)).await.expect("a query").try_collect().await.expect("rows");
    match &rows[0].values[0] {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_into_a_sealed_cluster() {
    let Some((server, backup)) = source().await else { return };
    let home = folder();
    let engine = engine(&server);
    let request = to(&home.path().join("restored"));
    let session =
        sealed(&context(), &engine, &backup, &request, &AtomicU64::new(0)).await.expect("a restore");
    assert_eq!(ask(session.as_ref(), "SHOW listen_addresses").await, "");
    assert_eq!(ask(session.as_ref(), "SHOW archive_mode").await, "off");
    let socket = PathBuf::from(ask(session.as_ref(), "SHOW unix_socket_directories").await);
    assert_eq!(fs::metadata(&socket).expect("a folder").permissions().mode() & 0o777, 0o700);
    let sealed_data = PathBuf::from(session.location().expect("a place"));
    assert_eq!(fs::metadata(&sealed_data).expect("a folder").permissions().mode() & 0o777, 0o700);
    if fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
        use std::os::unix::process::CommandExt as _;
        let nobody = Command::new(server.bin_dir().join("psql"))
            .args(["-X", "-c", "SELECT 1", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(&socket)
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .expect("psql runs");
        assert!(!nobody.status.success());
    }
    session.discard(&context()).await.expect("it is removed");
    assert!(!socket.exists());
    assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_cluster_stays_closed_until_it_is_released() {
    let Some((server, backup)) = source().await else { return };
    let rows = server.psql(ROWS).await.expect("rows");
    let home = folder();
    let data = home.path().join("restored");
    let engine = engine(&server);
    let session =
        sealed(&context(), &engine, &backup, &to(&data), &AtomicU64::new(0)).await.expect("a restore");
    let place = PathBuf::from(session.keep(&context()).await.expect("it is kept"));
    assert!(!data.exists() && place.join("PG_VERSION").exists());
    // Whoever starts it by hand has a server without an address, which none of this kind does.
    let refused = Started::start(&server, &place).err().expect("it does not start");
    assert!(refused.contains("no socket created for listening"), "{refused}");
    assert_eq!(
        fs::read_to_string(place.join("dm-sealed/pg_hba.conf")).expect("rules").matches("reject").count(),
        2
    );
    let target = engine.restore().expect("a target");
    let restored =
        target.release_sealed(&context(), &place.display().to_string()).await.expect("it is opened");
    assert_eq!(restored.location, data.display().to_string());
    assert!(restored.reached.is_some());
    assert!(!place.exists());
    assert_is_clean(&data);
    let started = Started::new(&server, &data);
    assert_eq!(started.psql(ROWS), rows);
    drop(started);
    for place in [&place, &data] {
        let error =
            target.release_sealed(&context(), &place.display().to_string()).await.expect_err("once only");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

/// Cancels at a phase.
struct CancelAt(&'static str, tokio_util::sync::CancellationToken);

impl ProgressSink for CancelAt {
    fn report(&self, progress: Progress) {
        if matches!(progress, Progress::Phase { name, .. } if name == self.0) {
            self.1.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_leaves_nothing() {
    let Some((server, backup)) = source().await else { return };
    let home = folder();
    let token = tokio_util::sync::CancellationToken::new();
    let ctx =
        context().with_cancellation(token.clone()).with_progress(Arc::new(CancelAt("recovering", token)));
    let engine = engine(&server);
    let result = sealed(&ctx, &engine, &backup, &to(&home.path().join("restored")), &AtomicU64::new(0)).await;
    assert_eq!(result.err().expect("it was cancelled").kind(), ErrorKind::Interrupted);
    assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 0);
}

async fn errors(engine: &dyn Engine, backup: &Collected, request: &RestoreRequest) -> String {
    let looked = preview(engine, backup, request).await;
    let errors: Vec<_> =
        looked.findings.into_iter().filter(|f| f.level == Level::Error).map(|f| f.message).collect();
    errors.join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_at_the_destination_is_respected() {
    let Some((server, backup)) = source().await else { return };
    let home = folder();
    let engine = engine(&server);
    // The source itself, which runs.
    let live = server.data_dir();
    let mut in_place = RestoreRequest { destination: Destination::InPlace, ..to(live) };
    let target = engine.restore().expect("a target");
    let error =
        target.preview(&context(), &in_place, &backup.manifest()).await.expect_err("nobody said where");
    assert!(error.hint().expect("a hint").contains("data_directory"));
    in_place.settings.insert("data_directory".into(), live.display().to_string());
    for request in [in_place.clone(), RestoreRequest { delta: true, ..to(live) }, to(live)] {
        assert!(errors(&engine, &backup, &request).await.contains("a server runs in"));
    }
    // Somebody's files.
    let foreign = home.path().join("foreign");
    fs::create_dir(&foreign).expect("a folder");
    fs::write(foreign.join("letter"), "dear").expect("a file");
    for request in [to(&foreign), RestoreRequest { delta: true, ..to(&foreign) }] {
        assert!(errors(&engine, &backup, &request).await.contains("not empty"));
    }
    assert!(errors(&engine, &backup, &to(&home.path().join("no/where"))).await.contains("no folder"));
    // Another cluster.
    let data = home.path().join("data");
    let session =
        sealed(&context(), &engine, &backup, &to(&data), &AtomicU64::new(0)).await.expect("a restore");
    session.release(&context()).await.expect("a release");
    assert!(errors(&engine, &backup, &to(&data)).await.contains("holds a cluster already"));
    let mut other = backup.clone();
    other.source.system_identifier = Some("7000000000000000000".into());
    let delta = RestoreRequest { delta: true, ..to(&data) };
    assert!(errors(&engine, &other, &delta).await.contains("another cluster"));
    // In place of one that is down: kept under another name.
    in_place.settings.insert("data_directory".into(), data.display().to_string());
    let session =
        sealed(&context(), &engine, &backup, &in_place, &AtomicU64::new(0)).await.expect("a restore");
    let restored = session.release(&context()).await.expect("a release");
    let previous = PathBuf::from(restored.previous.expect("it is kept"));
    assert!(previous.join("PG_VERSION").exists() && data.join("PG_VERSION").exists());
    // Settings that nobody knows.
    let mut unknown = to(&home.path().join("x"));
    unknown.settings.insert("colour".into(), "blue".into());
    assert!(target.preview(&context(), &unknown, &backup.manifest()).await.is_err());
    let tables = RestoreRequest { tables: vec!["t".into()], ..to(&home.path().join("x")) };
    let error =
        target.preview(&context(), &tables, &backup.manifest()).await.expect_err("files have no tables");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_servers_programs_files_are_written_unchecked_or_not_at_all() {
    let Some((server, backup)) = source().await else { return };
    let rows = server.psql(ROWS).await.expect("rows");
    let home = folder();
    let data = home.path().join("restored");
    let engine = engine(&server);
    let mut request = to(&data);
    request.settings.insert("bin_dir".into(), "/nowhere".into());
    assert!(errors(&engine, &backup, &request).await.contains("programs of a PostgreSQL 15 server"));
    request.checks = CheckDepth::None;
    let session =
        sealed(&context(), &engine, &backup, &request, &AtomicU64::new(0)).await.expect("a restore");
    assert!(session.statements(&context()).await.expect("an answer").is_none());
    let comparison = session.compare(&context(), &[]).await.expect("a comparison");
    assert!(comparison.is_proven());
    let restored = session.release(&context()).await.expect("a release");
    assert!(restored.notes.iter().any(|n| n.contains("first start")), "{:?}", restored.notes);
    assert!(data.join("recovery.signal").exists() && !data.join("dm-sealed").exists());
    let started = Started::new(&server, &data);
    assert_eq!(started.psql(ROWS), rows);
    assert_eq!(started.psql("SELECT pg_is_in_recovery()"), "f");
}

/// Bytes of pages in a backup.
fn pages(backup: &Collected) -> u64 {
    backup
        .members
        .iter()
        .filter(|(spec, _)| spec.layout != Layout::Stream)
        .flat_map(|(_, blocks)| blocks)
        .map(dm_core::Block::length)
        .sum()
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[9000..9100].fill(7);
    fs::write(file, bytes).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_writes_only_the_pages_that_differ() {
    let Some((server, backup)) = source().await else { return };
    let rows = server.psql(ROWS).await.expect("rows");
    let file = server.psql("SELECT pg_relation_filepath('t')").await.expect("a path");
    let home = folder();
    let data = home.path().join("restored");
    let engine = engine(&server);
    let session =
        sealed(&context(), &engine, &backup, &to(&data), &AtomicU64::new(0)).await.expect("a restore");
    session.release(&context()).await.expect("a release");
    {
        // It lives on, and is damaged.
        let started = Started::new(&server, &data);
        started.psql("UPDATE t SET body = 'changed' WHERE id % 1000 = 0; CREATE TABLE newer AS SELECT generate_series(1, 1000)");
        started.stop("fast");
    }
    damage(&data.join(&file));
    fs::write(data.join("base/stray"), "nobody's").expect("a file");
    fs::create_dir(data.join("base/99999")).expect("a folder");
    let request = RestoreRequest { delta: true, checks: CheckDepth::Deep, ..to(&data) };

    // One that is given up half way cannot be started, and is safe to repeat.
    {
        let target = engine.restore().expect("a target");
        let manifest = backup.manifest();
        let looked = target.preview(&context(), &request, &manifest).await.expect("a preview");
        let session = target.open(&context(), &request, &manifest, &looked).await.expect("a place");
        let first = session.stages()[0][0];
        session.write(&context(), &manifest.members[first].0, backup.content(first)).await.expect("folders");
        drop(session);
        assert!(!data.join("global/pg_control").exists());
    }
    let written = AtomicU64::new(0);
    let session = sealed(&context(), &engine, &backup, &request, &written).await.expect("a restore");
    let comparison = session.compare(&context(), &[]).await.expect("a comparison");
    assert!(comparison.is_proven(), "{:?}", comparison.checks);
    session.release(&context()).await.expect("a release");
    assert_is_clean(&data);
    assert!(!data.join("base/stray").exists() && !data.join("base/99999").exists());
    let written = written.load(Ordering::Relaxed);
    assert!(written > 0 && written * 5 < pages(&backup), "{written} of {}", pages(&backup));
    let started = Started::new(&server, &data);
    assert_eq!(started.psql(ROWS), rows);
    assert_eq!(started.psql("SELECT to_regclass('newer') IS NULL"), "t");
    drop(started);

    // Given up by its session: what is left says so.
    let ctx = context();
    let target = engine.restore().expect("a target");
    let manifest = backup.manifest();
    let looked = target.preview(&ctx, &request, &manifest).await.expect("a preview");
    let session = target.open(&ctx, &request, &manifest, &looked).await.expect("a place");
    let error = session.discard(&ctx).await.expect_err("it was overwritten");
    assert_eq!(error.kind(), ErrorKind::Partial);
    let session = target.open(&ctx, &request, &manifest, &looked).await.expect("again");
    fill(&ctx, session.as_ref(), &backup, &request, &AtomicU64::new(0)).await.expect("all of it");
    session.release(&ctx).await.expect("a release");
    assert_is_clean(&data);
}
