//! Several programs at work in one bucket at the same time, each with clients, state and clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_manager::backup::keep::KeepRules;
use data_manager::repository::{StoreLocation, VerifyLevel, open_store};
use data_manager::{BackupKind, BackupOptions, DataManager, ErrorKind, RestoreOptions};
use dm_testkit::KeyProxy;
use dm_testkit::emulators::S3;
use object_store::{Error, PutMode, PutOptions};

use crate::support::{Place, execute, number};

/// The bucket behind a door that serves one change of a key at a time, as real services do.
fn behind(proxy: &KeyProxy, server: &S3) -> Place {
    let mut place = Place::s3(server);
    place.options.endpoint = Some(proxy.endpoint());
    place
}

/// The ground that everything else stands on.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_clients_that_create_one_key_one_wins() {
    let Some(server) = dm_testkit::available(S3::start()) else { return };
    let proxy = KeyProxy::start(&server.endpoint(), Duration::ZERO).unwrap();
    let place = behind(&proxy, &server);
    let location = StoreLocation::parse(&place.url).unwrap();
    for round in 0..10 {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..12_u8 {
            let store = open_store(&location, &place.options).unwrap();
            clients.spawn(async move {
                let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let key = format!("race/{round}").as_str().into();
                match store.put_opts(&key, vec![client; 1000].into(), create).await {
                    Ok(_) => Some(client),
                    Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => None,
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let won: Vec<u8> = clients.join_all().await.into_iter().flatten().collect();
        let [winner] = won[..] else { panic!("round {round}: {won:?} were told that they created it") };
        let store = open_store(&location, &place.options).unwrap();
        let key = format!("race/{round}").as_str().into();
        let there = store.get_opts(&key, object_store::GetOptions::default()).await.unwrap();
        assert_eq!(there.bytes().await.unwrap(), vec![winner; 1000]);
    }
}

fn program(place: &Place, database: &Path, folder: &Path, n: usize) -> Arc<DataManager> {
    let own = folder.join(format!("program-{n}"));
    std::fs::create_dir_all(&own).unwrap();
    Arc::new(place.manager(&format!("sqlite://{}", database.display()), &own))
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_begin_back_up_pin_and_expire_at_once_lose_nothing_of_each_other() {
    const PROGRAMS: usize = 5;
    let Some(server) = dm_testkit::available(S3::start()) else { return };
    let proxy = KeyProxy::start(&server.endpoint(), Duration::from_millis(2)).unwrap();
    let place = behind(&proxy, &server).encrypted();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("shop.db");
    let dm = place.manager(&format!("sqlite://{}?mode=rwc", database.display()), folder.path());
    execute(&dm, "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)").await;
    let fill = "INSERT INTO orders (total) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                WHERE i < 5000) SELECT (i * 7919) % 100000 FROM n";
    execute(&dm, fill).await;
    let truth = number(&dm, "SELECT sum(total * id) FROM orders").await;
    let programs: Vec<_> = (0..PROGRAMS).map(|n| program(&place, &database, folder.path(), n)).collect();

    // All of them find an empty bucket; one makes the repository, and every one its backups.
    let mut running = tokio::task::JoinSet::new();
    for dm in programs.clone() {
        running.spawn(async move {
            let mut made = Vec::new();
            for kind in [BackupKind::Full, BackupKind::Incremental, BackupKind::Incremental] {
                let options = BackupOptions { kind: Some(kind), ..BackupOptions::default() };
                let report = Box::pin(dm.backup().run(&dm.context(), &options)).await.expect("a backup");
                made.push(report.backup.id);
            }
            made
        });
    }
    let made: BTreeSet<_> = running.join_all().await.into_iter().flatten().collect();
    let listed = dm.backup().list(&dm.context(), None).await.unwrap();
    assert_eq!(made.len(), 3 * PROGRAMS);
    assert_eq!(listed.backups.iter().map(|b| b.id).collect::<BTreeSet<_>>(), made);
    assert!(listed.problems.is_empty(), "{:?}", listed.problems);

    // The same small records, numbered one after the other, of all at once: the last word is one of theirs, and none is lost.
    let pinned = *made.iter().next().unwrap();
    let mut running = tokio::task::JoinSet::new();
    for (n, dm) in programs.clone().into_iter().enumerate() {
        running.spawn(async move {
            let reason = format!("program {n}");
            dm.backup().pin(&dm.context(), None, &pinned.to_string(), &reason).await.expect("a pin");
        });
    }
    running.join_all().await;

    // All of them expire by the same plan, while one more backs up.
    let rules = KeepRules { last: 2, ..KeepRules::nothing() };
    let mut running = tokio::task::JoinSet::new();
    for (n, dm) in programs.clone().into_iter().enumerate() {
        let rules = rules.clone();
        running.spawn(async move {
            if n == 0 {
                let options = BackupOptions { kind: Some(BackupKind::Full), ..BackupOptions::default() };
                return Box::pin(dm.backup().run(&dm.context(), &options)).await.map(|r| Some(r.backup.id));
            }
            let plan = dm.backup().plan_expire(&dm.context(), None, Some(rules)).await?;
            Box::pin(dm.backup().apply_expire(&dm.context(), &plan, false)).await.map(|_| None)
        });
    }
    let mut newest = None;
    for outcome in running.join_all().await {
        match outcome {
            Ok(made) => newest = newest.or(made),
            // The list changed between plan and deed.
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Invalid),
                "{error:?}, {:?}",
                error.hint()
            ),
        }
    }
    let newest = newest.expect("the backup that was made meanwhile");
    let listed = dm.backup().list(&dm.context(), None).await.unwrap();
    let left: BTreeMap<_, _> = listed.backups.iter().map(|b| (b.id, b)).collect();
    assert!(listed.problems.is_empty(), "{:?}", listed.problems);
    assert!(left.contains_key(&newest), "what was made meanwhile is there");
    assert!(left[&pinned].pinned, "what all of them pinned is there");

    // Whatever is listed restores to the same.
    let sound = dm.backup().verify(&dm.context(), None, None, VerifyLevel::Full).await.unwrap();
    sound.check().expect("every one is sound");
    for id in left.keys() {
        let to = folder.path().join(format!("{id}.db"));
        let which = id.to_string();
        let options =
            RestoreOptions { to: Some(to.display().to_string()), which, ..RestoreOptions::default() };
        let plan = dm.plan_restore(&dm.context(), &options).await.expect("a plan");
        assert!(Box::pin(dm.apply_restore(&dm.context(), plan)).await.expect("a restore").equal);
        let copy = place.manager(&format!("sqlite://{}", to.display()), folder.path());
        assert_eq!(number(&copy, "SELECT sum(total * id) FROM orders").await, truth);
        copy.close().await;
    }
    for dm in programs {
        dm.close().await;
    }
    dm.close().await;
}
