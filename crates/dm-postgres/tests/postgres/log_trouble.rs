//! A log that was lost, a file used again, grants that are missing, another server: told, never guessed.

use std::path::PathBuf;
use std::sync::Arc;

use dm_core::{ErrorKind, Level, LogRequest};
use dm_testkit::postgres::Server;
use dm_testkit::require;
use futures::TryStreamExt;

use crate::log_support::{
    MAJORS, SEGMENT, Taken, eager, end, name, options, pg_wal, source, source_at, write,
};
use crate::support::context;

/// Makes the server recycle what no slot holds.
async fn recycle(server: &Server) {
    for _ in 0..4 {
        server
            .psql(
                "CREATE TABLE IF NOT EXISTS churn (t text);
                 INSERT INTO churn SELECT repeat(md5(i::text), 8) FROM generate_series(1, 8000) i;
                 SELECT pg_switch_wal(); CHECKPOINT",
            )
            .await
            .expect("some churn");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_dropped_by_hand_is_a_gap_and_is_made_anew() {
    for major in MAJORS {
        let server = require!(Server::private(major, &options(major)));
        let source = source(&server);
        let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
        let mut taken = Taken::default();
        write(&server, "first").await;
        taken.until(session.as_mut(), end(source.as_ref()).await).await;
        let before = taken.position();
        server.psql("SELECT pg_drop_replication_slot('dm_log')").await.expect("a drop");
        recycle(&server).await;
        assert!(!pg_wal(&server).join(name(1, before.offset)).exists(), "the log is gone");
        let goal = end(source.as_ref()).await;
        taken.until(session.as_mut(), goal).await;
        let [(1, start, until)] = taken.gaps[..] else { panic!("{:?}", taken.gaps) };
        assert_eq!(start, before.offset);
        assert_eq!(until % SEGMENT, 0, "log begins again with a segment");
        assert_eq!(taken.stretches.len(), 2);
        assert_eq!(taken.stretches[1].1, until);
        assert!(taken.compare(&pg_wal(&server)) >= 1);
        assert!(source.head(&context(), "dm_log").await.expect("a head").holder.expect("a slot").in_use);
        // A shipper that comes back after a drop without loss finds all of it.
        drop(session);
        let mut session = loop {
            match source.follow(&context(), &eager(Some(taken.position()))).await {
                Ok(session) => break session,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
            }
        };
        server.psql("SELECT pg_drop_replication_slot('dm_log')").await.expect("a drop");
        server.psql("CREATE TABLE after_the_drop (i int)").await.expect("a table");
        taken.until(session.as_mut(), end(source.as_ref()).await).await;
        assert_eq!(taken.gaps.len(), 1, "nothing was missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recycled_file_is_never_taken_for_the_log() {
    let server = require!(Server::private(15, &options(15)));
    recycle(&server).await;
    let source = source(&server);
    let now = end(source.as_ref()).await;
    // Files of the future hold the past.
    let mut future: Vec<PathBuf> = std::fs::read_dir(pg_wal(&server))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .filter(|p| {
            p.file_name().is_some_and(|n| n.len() == 24 && *n.to_string_lossy() > *name(1, now.offset))
        })
        .collect();
    future.sort();
    let recycled = future.first().expect("the server recycles");
    let error = source.read_file(&context(), recycled).await.expect_err("it is not what its name says");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    // The one being written to is recycled too, behind the end of the log.
    let current = pg_wal(&server).join(name(1, now.offset));
    let file = source.read_file(&context(), &current).await.expect("its first page is right");
    let error = file.events.try_collect::<Vec<_>>().await.expect_err("the rest is not");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    // Following ends where the log does.
    let mut session = source.follow(&context(), &eager(None)).await.expect("a session");
    let mut taken = Taken::default();
    taken.until(session.as_mut(), now).await;
    assert!(taken.position().offset <= end(source.as_ref()).await.offset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_grants_are_enough_and_are_named_when_missing() {
    let server = require!(Server::private(15, &options(15)));
    let role = server.role("shipper", "").await.expect("a role");
    let url = format!("postgres://{}:{}@127.0.0.1:{}/postgres", role.name, role.password, server.port());
    let poor = source_at(&url);
    let request = eager(None);
    let errors = |findings: Vec<dm_core::Finding>| -> Vec<dm_core::Finding> {
        findings.into_iter().filter(|f| f.level == Level::Error).collect()
    };
    let found = errors(poor.preflight(&context(), &request).await.expect("a look"));
    assert_eq!(found.len(), 1, "{found:?}");
    // What it says is what mends it.
    let mend = found[0].mend.clone().expect("a mend");
    let grants = mend.split_once(": ").expect("statements").1.to_owned();
    assert_eq!(grants.matches("GRANT EXECUTE").count(), 3, "{grants}");
    server.psql(&grants).await.expect("grants");
    let findings = poor.preflight(&context(), &request).await.expect("a look");
    assert!(findings.iter().any(|f| f.level == Level::Warning && f.check == "holder"), "{findings:?}");
    assert!(errors(findings).is_empty());
    // Without a slot it works, as long as the server keeps the log.
    let mut session = poor.follow(&context(), &request).await.expect("a session");
    let mut taken = Taken::default();
    write(&server, "t").await;
    taken.until(session.as_mut(), end(poor.as_ref()).await).await;
    assert_eq!(server.psql("SELECT count(*) FROM pg_replication_slots").await.expect("a number"), "0");
    recycle(&server).await;
    taken.until(session.as_mut(), end(poor.as_ref()).await).await;
    taken.compare(&pg_wal(&server));
    assert_eq!(taken.gaps.len(), 1, "nothing held it");
    for bad in ["Bad", "", "a-b"] {
        let request = LogRequest { holder: bad.into(), ..eager(None) };
        assert_eq!(
            poor.preflight(&context(), &request).await.expect_err("a name").kind(),
            ErrorKind::Invalid
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_behind_the_address_is_noticed() {
    let first = require!(Server::private(15, &options(15)));
    let second = require!(Server::private(15, &options(15)));
    // One address, behind which now the one and then the other answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").port();
    let port = Arc::new(std::sync::atomic::AtomicU16::new(first.port()));
    let behind = Arc::clone(&port);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = behind.load(std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("a server");
                // A side that goes away ends it; the test looks at what the client makes of it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    second.psql(&format!("ALTER ROLE postgres PASSWORD '{}'", first.password())).await.expect("a password");
    let url = format!("postgres://postgres:{}@127.0.0.1:{address}/postgres", first.password());
    let source = source_at(&url);
    drop(source.follow(&context(), &eager(None)).await.expect("a session"));
    port.store(second.port(), std::sync::atomic::Ordering::SeqCst);
    let error = source.follow(&context(), &eager(None)).await.err().expect("it is another one");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
}
