//! The log of real servers through the facade: shipped while they work, fetched file by file, the same bytes.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use data_manager::backup::Assertion;
use data_manager::{
    Actor, BackupMode, BackupOptions, DataManager, DrillOptions, ErrorKind, FetchLogOptions, Fetched,
    LogPosition, OpContext, Progress, ProgressSink, PushLogOptions, RecoveryPoint, RestoreOptions, ShipEnd,
    ShipLogOptions,
};
use dm_testkit::postgres::{Options, Place as Ground, Server};
use dm_testkit::require;
use tokio_util::sync::CancellationToken;

use crate::support::Place;

const SEGMENT: usize = 1 << 20;

fn server_options(major: u32) -> Options {
    let mut options = Options::physical(major);
    options.initdb_args.push("--wal-segsize=1".to_owned());
    options
}

/// Tells the shipper to stop once it came further than it was when it began.
struct UntilShipped {
    began: OnceLock<LogPosition>,
    cancel: CancellationToken,
}

impl ProgressSink for UntilShipped {
    fn report(&self, progress: Progress) {
        if let Progress::Log { position, .. } = progress
            && position > *self.began.get_or_init(|| position)
        {
            self.cancel.cancel();
        }
    }
}

fn quickly() -> ShipLogOptions {
    ShipLogOptions {
        seal_every: Some(Duration::from_millis(300)),
        poll: Some(Duration::from_millis(50)),
        ..ShipLogOptions::default()
    }
}

async fn fetch(dm: &DataManager, name: &str, to: &Path) -> data_manager::Result<Fetched> {
    let options =
        FetchLogOptions { name: name.to_owned(), destination: to.to_owned(), ..FetchLogOptions::default() };
    dm.logs().fetch(&dm.context(), &options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_working_server_is_fetched_as_it_was_written() {
    for major in [15, 18] {
        let server = require!(Server::private(major, &server_options(major)));
        // Keeps every file in the server's own folder, for the comparison.
        server.psql("SELECT pg_create_physical_replication_slot('judge', true)").await.expect("a slot");
        server.pgbench_database("bank", 1).await.expect("a bank");
        let folder = tempfile::tempdir().expect("a folder");
        let mut place = Place::folder(&folder.path().join("repository"));
        if major == 18 {
            place = place.encrypted();
        }
        let url = server.url("bank");
        let seed = dm_testkit::seed();
        let load = server.load("bank", 2, Duration::from_secs(6)).expect("a load");
        for round in 0..5_u64 {
            // Killed at some moment: the future is dropped, the connection with it.
            let dm = place.manager(&url, folder.path());
            let moment = Duration::from_millis(100 + (seed >> (round * 4)) % 900);
            let ctx = dm.context();
            let killed = tokio::time::timeout(moment, dm.logs().ship(&ctx, &quickly())).await;
            assert!(killed.is_err(), "seed {seed}, round {round}: {killed:?}");
        }
        // Told to stop, it says how far it came.
        let dm = place.manager(&url, folder.path());
        let cancel = CancellationToken::new();
        let ctx = dm.context().with_cancellation(cancel.clone());
        let ctx = ctx.with_progress(Arc::new(UntilShipped { began: OnceLock::new(), cancel }));
        let report = dm.logs().ship(&ctx, &quickly()).await.expect("it was told to stop");
        assert_eq!(report.end, ShipEnd::Cancelled);
        assert!(report.pieces > 0 && report.gaps.is_empty() && report.alarms.is_empty(), "{report:?}");
        load.finish().await.expect("a load");
        let report = dm
            .logs()
            .ship(&dm.context(), &ShipLogOptions { once: true, ..quickly() })
            .await
            .expect("the rest");
        assert_eq!(report.end, ShipEnd::CaughtUp);
        assert!(report.gaps.is_empty(), "{report:?}");

        let status = dm.logs().status(&dm.context(), None).await.expect("a status");
        let stream = &status.targets[0].streams[0];
        assert_eq!((status.targets[0].target.as_str(), stream.spans.len()), ("main-cluster", 1));
        assert!(status.targets[0].reasons.is_empty(), "{:?}", status.targets[0].reasons);
        let span = stream.spans[0].range.clone();
        let mut compared = 0;
        let wanted = folder.path().join("wanted");
        for entry in std::fs::read_dir(server.data_dir().join("pg_wal")).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() != 24 {
                continue;
            }
            let number = u64::from_str_radix(&name[8..16], 16).expect("a name") * 4096
                + u64::from_str_radix(&name[16..], 16).expect("a name");
            let start = number * SEGMENT as u64;
            let found = fetch(&dm, &name, &wanted).await.expect("an answer");
            if start + SEGMENT as u64 <= span.start || start >= span.end {
                assert!(matches!(found, Fetched::NotThere { .. }), "{name}: {found:?}");
                continue;
            }
            let Fetched::Found { padded_bytes, .. } = found else { panic!("{name}: {found:?}") };
            let (own, ours) = (
                std::fs::read(entry.path()).expect("the server's"),
                std::fs::read(&wanted).expect("the repository's"),
            );
            let end = SEGMENT - padded_bytes as usize;
            assert!(own[..end] == ours[..end], "{name} differs");
            assert!(ours.len() == SEGMENT && ours[end..].iter().all(|b| *b == 0), "{name}");
            compared += 1;
        }
        assert!(compared >= 3, "{compared} segments compared");
        assert!(matches!(
            fetch(&dm, "00000002.history", &wanted).await.expect("an answer"),
            Fetched::NotThere { .. }
        ));
        let page = dm.status(&dm.context()).await.expect("a page");
        let log = page.targets.iter().find_map(|t| t.log.as_ref()).expect("the log is on the page");
        assert_eq!(log.streams[0].position, report.position);
        let dropped = dm.logs().drop_holder(&dm.context(), None, None).await.expect("a drop");
        assert!(dropped.existed);
        dm.close().await;
    }
}

/// Nothing was committed for a while, and an instant of that while is asked for: all that was committed before is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instant_of_a_quiet_time_is_restored() {
    let server = require!(Server::private(18, &server_options(18)));
    let ground = require!(Ground::new("quiet"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut place = Place::folder(&folder.path().join("repository"));
    place.bin_dir = Some(server.bin_dir().to_owned());
    let dm = place.manager(&server.url("postgres"), folder.path());
    let once = ShipLogOptions { once: true, ..quickly() };
    let physical = BackupOptions { mode: Some(BackupMode::Physical), ..BackupOptions::default() };
    dm.backup().run(&dm.context(), &physical).await.expect("a backup");
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i").await.expect("a table");
    let shipped = dm.logs().ship(&dm.context(), &once).await.expect("the log");
    // Nothing happens. Then nobody has committed anything at this instant, and nobody will.
    let instant = dm.context().now();
    let restore = RestoreOptions {
        to: Some(ground.join("copy").display().to_string()),
        until: RecoveryPoint::Time(instant),
        assertions: vec![Assertion::new("rows", "SELECT count(*) FROM t").expecting("1000".parse().unwrap())],
        ..RestoreOptions::default()
    };
    let refused = dm.plan_restore(&dm.context(), &restore).await.expect("a plan");
    assert!(
        refused.preview.findings.iter().any(|f| f.message.contains("after the end of the log")),
        "nobody knows yet: {:?}",
        refused.preview.findings
    );
    let quiet = dm.logs().ship(&dm.context(), &once).await.expect("nothing");
    assert!(quiet.complete_until > Some(instant), "{quiet:?}");
    let status = dm.logs().status(&dm.context(), None).await.expect("a status");
    assert!(status.targets[0].streams[0].complete_until > Some(instant), "{status:?}");
    assert!(status.targets[0].reasons.is_empty(), "{status:?}");

    let plan = dm.plan_restore(&dm.context(), &restore).await.expect("a plan");
    let report = dm.apply_restore(&dm.context(), plan).await.expect("a restore");
    assert!(report.equal && report.assertions[0].ok, "{report:#?}");
    assert!(report.notes.iter().any(|n| n.contains("nothing was committed")), "{:?}", report.notes);
    // And a commit after it is behind it.
    server.psql("INSERT INTO t VALUES (1001)").await.expect("a row");
    let more = dm.logs().ship(&dm.context(), &once).await.expect("the log");
    assert!(more.position > shipped.position);
    let drill = DrillOptions {
        mode: Some(BackupMode::Physical),
        scratch_dir: Some(ground.path().to_owned()),
        until: RecoveryPoint::Time(instant),
        assertions: restore.assertions.clone(),
        ..DrillOptions::default()
    };
    let report = dm.backup().drill(&dm.context(), &drill).await.expect("a drill");
    report.check().unwrap_or_else(|e| panic!("{e:?}\n{report:#?}"));
    dm.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_archives_while_the_state_store_is_away() {
    let server = require!(Server::private(15, &server_options(15)));
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::folder(&folder.path().join("repository"));
    let once = ShipLogOptions { once: true, ..quickly() };
    let dm = place.manager(&server.url("postgres"), folder.path());
    dm.logs().ship(&dm.context(), &once).await.expect("a first log");
    dm.close().await;
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 30000) i").await.expect("a table");
    let name = server.psql("SELECT pg_walfile_name(pg_switch_wal())").await.expect("a name");
    let path = server.data_dir().join("pg_wal").join(&name);
    // Nobody listens there.
    let dm = place
        .builder(&server.url("postgres"), folder.path())
        .state("postgres://nobody@127.0.0.1:1/state")
        .build()
        .expect("a facade");
    let push = PushLogOptions { path: path.clone(), ..PushLogOptions::default() };
    for _ in 0..2 {
        let report = dm.logs().push(&dm.context(), &push).await.expect("it is pushed");
        assert_eq!((report.name.as_str(), report.bytes), (name.as_str(), SEGMENT as u64));
    }
    let wanted = folder.path().join("wanted");
    assert!(matches!(fetch(&dm, &name, &wanted).await.expect("an answer"), Fetched::Found { .. }));
    assert!(std::fs::read(&wanted).expect("ours") == std::fs::read(&path).expect("the server's"));
    // What changes the server or takes long is not done without its record.
    assert!(dm.logs().ship(&dm.context(), &once).await.is_err());
    // And who may not, may not.
    let stranger = OpContext::new(Actor::local_user("stranger").with_roles(["viewer".to_owned()]));
    let denied = dm.logs().push(&stranger, &push).await.expect_err("no right");
    assert_eq!(denied.kind(), ErrorKind::Denied);
    // A repository that is away is an error, never "not there".
    std::fs::rename(folder.path().join("repository"), folder.path().join("away")).expect("a move");
    for name in [name.as_str(), "00000002.history", "000000010000000000000FFF"] {
        assert!(fetch(&dm, name, &wanted).await.is_err(), "{name}");
    }
    assert!(dm.logs().push(&dm.context(), &push).await.is_err());
}
