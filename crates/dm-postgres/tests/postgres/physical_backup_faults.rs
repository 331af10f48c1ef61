//! What goes wrong during a physical backup, and what is wrong with the server.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{
    BackupRequest, Block, Engine, Error, ErrorKind, Layout, Level, LogRequest, MemberSpec, TenantFilter,
};
use dm_testkit::conformance::collect;
use dm_testkit::postgres::{Lending, Options, Place, Pooler, Server, StopMode};
use dm_testkit::require;
use futures::StreamExt;

use crate::physical_backup_support::{
    Copied, Reading, copied, engine, engine_of, judged, physical, started, write_out,
};
use crate::support::context;

async fn refusal(engine: &dyn Engine, request: &BackupRequest) -> Error {
    match engine.backup().expect("a source").open(&context(), request).await {
        Ok(_) => panic!("a session of what cannot be backed up"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_forbid_a_copy_are_named() {
    for (name, value) in [("full_page_writes", "off"), ("wal_level", "minimal")] {
        let options = Options::physical(15).with_setting(name, value).with_setting("max_wal_senders", "0");
        let server = require!(Server::private(15, &options));
        let engine = engine(&server);
        let preflight =
            engine.backup().expect("a source").preflight(&context(), &physical()).await.expect("a look");
        let found: Vec<_> = preflight.findings.iter().filter(|f| f.level == Level::Error).collect();
        assert!(found.len() == 1 && found[0].check == name && found[0].mend.is_some(), "{found:?}");
        let error = refusal(&engine, &physical()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains(name)), "{error:?}");
        // Who takes logical backups needs none of it.
        assert!(engine.diagnose(&context()).await.iter().all(|f| f.level < Level::Warning));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_cluster_and_a_pooler_are_refused() {
    let server = require!(Server::shared(15));
    let engine = engine(server);
    let tenant = TenantFilter { column: "id".into(), value: "1".into() };
    for request in [
        BackupRequest { include_tables: vec!["t".into()], ..physical() },
        BackupRequest { exclude_tables: vec!["t".into()], ..physical() },
        BackupRequest { tenant: Some(tenant), ..physical() },
    ] {
        assert_eq!(refusal(&engine, &request).await.kind(), ErrorKind::Unsupported);
    }
    let pooled = engine_of(server, &format!("{}?pgbouncer=true", server.url("postgres")));
    let error = refusal(&pooled, &physical()).await;
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("pooler"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_lends_by_the_transaction_is_noticed_and_one_by_the_session_is_no_hindrance() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let pooler = require!(Pooler::start(&server, Lending::Transaction));
    let engine = engine_of(&server, &pooler.url("postgres"));
    let error = refusal(&engine, &physical()).await;
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("pooler"), "{error:?}");
    let log = engine.log().expect("a log");
    let error = log.follow(&context(), &LogRequest::default()).await.err().expect("no session of its own");
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("pooler"), "{error:?}");
    let slots = server.psql("SELECT count(*) FROM pg_replication_slots").await.expect("a number");
    assert_eq!(slots, "0", "nothing was made on the way");

    let pooler = require!(Pooler::start(&server, Lending::Session));
    let engine = engine_of(&server, &pooler.url("postgres"));
    let backup = collect(&engine, &context(), &physical()).await.expect("a backup");
    assert!(!backup.members.is_empty());
    let log = engine.log().expect("a log");
    drop(log.follow(&context(), &LogRequest::default()).await.expect("a session"));
}

/// A server with one table of 64 MB, which is more than sockets hold.
async fn with_a_large_table(options: &Options) -> Option<Server> {
    let server = dm_testkit::available(Server::private(15, options))?;
    server
        .psql("CREATE TABLE large AS SELECT i, repeat('x', 900) AS word FROM generate_series(1, 64000) i")
        .await
        .expect("a table");
    Some(server)
}

fn largest(reading: &Reading) -> MemberSpec {
    reading.session().members().iter().max_by_key(|m| m.size_hint).expect("a member").clone()
}

/// The backend that holds the backup: the one with the slot.
const HOLDER: &str = "SELECT active_pid FROM pg_replication_slots WHERE slot_name LIKE 'dm_backup_%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_while_it_reads_is_said() {
    let Some(server) = with_a_large_table(&Options::physical(15)).await else { return };
    let engine = engine(&server);
    let reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    let member = largest(&reading);
    let mut blocks = reading.session().read(&context(), &member).await.expect("a stream");
    blocks.next().await.expect("a block").expect("bytes");
    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
          WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> ({HOLDER})"
    );
    assert_ne!(server.psql(&cut).await.expect("a cut"), "0");
    let mut last = None;
    while let Some(block) = blocks.next().await {
        last = Some(block);
    }
    let error = last.expect("an end").expect_err("cut");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert_eq!(error.subject(), Some(member.name.as_str()));
    // Not everything was read, so the backup cannot end well.
    assert!(reading.end(None).await.is_err());
    server.until("nothing is left", &format!("SELECT NOT EXISTS ({HOLDER})")).await.expect("no slot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_is_no_backup() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let engine = engine(&server);
    let mut reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    reading.files().await.expect("files");
    server.psql(&format!("SELECT pg_terminate_backend(({HOLDER}))")).await.expect("a cut");
    let error = reading.end(None).await.expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("session") && error.hint().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restarted_meanwhile_is_seen() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let engine = engine(&server);
    for mode in [StopMode::Fast, StopMode::Immediate] {
        let mut reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
        reading.files().await.expect("files");
        server.restart(mode).expect("a restart");
        let error = reading.end(None).await.expect_err("restarted");
        // The connections that read were cut as well, and are the first to say so.
        assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unreachable), "{error:?}");
    }
    let mut reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    server.restart(StopMode::Fast).expect("a restart");
    let error = reading.files().await.expect_err("restarted");
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unreachable), "{error:?}");
    let error = reading.files().await.expect_err("restarted");
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unreachable), "{error:?}");
    server.stop(StopMode::Fast).expect("a stop");
    assert_eq!(reading.end(None).await.expect_err("down").kind(), ErrorKind::Unreachable);
    server.start().expect("a start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_dropped_leaves_nothing() {
    let Some(server) = with_a_large_table(&Options::physical(15)).await else { return };
    let engine = engine(&server);
    let reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    let mut blocks = reading.session().read(&context(), &largest(&reading)).await.expect("a stream");
    blocks.next().await.expect("a block").expect("bytes");
    drop((reading, blocks));
    let quiet = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots) AND NOT EXISTS (
                   SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())";
    server.until("nothing is left", quiet).await.expect("nothing is left");
}

/// Pages flipped in a file of a stopped server are reported with file and block; the backup is made all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_pages_are_named() {
    let server = require!(Server::private(18, &Options::physical(18).with_setting("autovacuum", "off")));
    server
        .psql("CREATE TABLE t AS SELECT i, repeat('x', 500) AS word FROM generate_series(1, 5000) i")
        .await
        .expect("a table");
    let sound = copied(&engine(&server), None).await.expect("a backup");
    assert_eq!(sound.summary.warnings, Vec::<String>::new());
    let path = server.psql("SELECT pg_relation_filepath('t')").await.expect("a path");
    server.stop(StopMode::Fast).expect("a stop");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(server.data_dir().join(&path))
        .expect("the file");
    let flip = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 0x40], at).expect("a byte");
    };
    // In a row; in the checksum; in the place in the log, which the log has not reached.
    flip(3 * 8192 + 5000);
    flip(7 * 8192 + 8);
    flip(9 * 8192 + 3);
    server.start().expect("a start");
    let engine = engine(&server);
    let full = copied(&engine, None).await.expect("a backup");
    let expected: Vec<String> = [3, 7, 9]
        .map(|block| format!("{path}, block {block}: the page is corrupt, its checksum does not hold"))
        .to_vec();
    assert_eq!(full.summary.warnings, expected);
    let on_disk = std::fs::read(server.data_dir().join(&path)).expect("the file");
    assert!(full.members[&format!("data/{path}")].1 == on_disk, "as it stands on the disk");
    // An incremental one reads unchanged pages only where it must; those it reads it judges too.
    server.psql("ALTER SYSTEM SET summarize_wal = off").await.expect("a setting");
    server.psql("SELECT pg_reload_conf()").await.expect("a reload");
    server.until("summaries are off", "SELECT current_setting('summarize_wal') = 'off'").await.expect("off");
    let next = copied(&engine, Some(&sound)).await.expect("an incremental backup");
    assert_eq!(next.changes_by(), Some("page_lsn"));
    assert!(expected.iter().all(|line| next.summary.warnings.contains(line)), "{:?}", next.summary.warnings);
    assert!(
        next.members[&format!("data/{path}")].1 == on_disk,
        "corruption is not hidden by the base's pages"
    );
}

/// Without a slot the server may remove log that the backup needs: said before, and an error then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_was_removed_is_missed() {
    let options =
        Options::physical(15).with_setting("max_wal_size", "32MB").with_setting("min_wal_size", "32MB");
    let server = require!(Server::private(15, &options));
    let role = server.role("copier", "").await.expect("a role");
    server
        .psql(&format!(
            "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_ls_dir(text, boolean, boolean),
               pg_stat_file(text, boolean), pg_read_binary_file(text, bigint, bigint, boolean) TO {}",
            role.name
        ))
        .await
        .expect("grants");
    let own = format!("postgres:{}", server.password());
    let url = server.url("postgres").replace(&own, &format!("{}:{}", role.name, role.password));
    let without = engine_of(&server, &url);
    let preflight =
        without.backup().expect("a source").preflight(&context(), &physical()).await.expect("a look");
    let told = preflight.findings.iter().find(|f| f.check == "replication").expect("a finding");
    assert!(told.level == Level::Warning && told.mend.is_some(), "{told:?}");
    let churn = async || {
        for _ in 0..8 {
            server.psql("SELECT pg_switch_wal()").await.expect("a switch");
            server.psql("CHECKPOINT").await.expect("a checkpoint");
        }
    };
    let mut reading = Reading::begin(&without, &physical()).await.expect("a beginning");
    reading.files().await.expect("files");
    churn().await;
    let error = reading.end(None).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("REPLICATION")), "{error:?}");
    // With a slot the same is no harm.
    let mut reading = Reading::begin(&engine(&server), &physical()).await.expect("a beginning");
    reading.files().await.expect("files");
    churn().await;
    let backup = reading.end(None).await.expect("a backup");
    assert!(backup.members.keys().filter(|name| name.starts_with("wal/")).count() > 8);
}

/// Everything that can vanish between the listing and the reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_meanwhile_goes_in_the_copy() {
    for major in [15, 18] {
        let server = require!(Server::private(major, &Options::physical(major)));
        let place = require!(Place::new("gone"));
        let space = place.folder("space").expect("a folder");
        server
            .psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()))
            .await
            .expect("a tablespace");
        for alone in ["CREATE DATABASE gone", "CREATE DATABASE gone_too TABLESPACE space"] {
            server.psql(alone).await.expect(alone);
        }
        server
            .psql(
                "CREATE TABLE dropped AS SELECT i, repeat('x', 900) AS word FROM generate_series(1, 5000) i;
                 CREATE TABLE truncated AS SELECT * FROM dropped; CREATE TABLE rewritten AS SELECT * FROM dropped;
                 CREATE TABLE cut AS SELECT * FROM dropped; CREATE TABLE grown AS SELECT * FROM dropped",
            )
            .await
            .expect("tables");
        let in_doubt = "BEGIN; INSERT INTO grown VALUES (0); PREPARE TRANSACTION 'in_doubt'";
        server.psql(in_doubt).await.expect("a prepared transaction");
        let engine = engine(&server);
        let full = copied(&engine, None).await.expect("a backup");
        assert!(full.members.keys().any(|name| name.starts_with("data/pg_twophase/")));
        for base in [None, Some(&full)] {
            let request = base.map_or_else(physical, Copied::next);
            let mut reading = Reading::begin(&engine, &request).await.expect("a beginning");
            if base.is_none() {
                server
                    .psql(
                        "DROP TABLE dropped; TRUNCATE truncated; DELETE FROM cut WHERE i > 10;
                         INSERT INTO grown SELECT * FROM rewritten; CREATE TABLE made AS SELECT * FROM grown",
                    )
                    .await
                    .expect("changes");
                for alone in [
                    "VACUUM (FULL) rewritten",
                    "VACUUM (TRUNCATE) cut",
                    "DROP DATABASE gone",
                    "DROP DATABASE gone_too",
                    "DROP TABLESPACE space",
                ] {
                    server.psql(alone).await.expect(alone);
                }
            }
            if base.is_none() {
                server.psql("COMMIT PREPARED 'in_doubt'").await.expect("a commit");
            }
            server.psql("CHECKPOINT").await.expect("a checkpoint");
            reading.files().await.expect("files");
            let truth = server.fingerprint().await.expect("sums");
            let backup = reading.end(base).await.expect("a backup");
            let name = if base.is_some() { "next" } else { "copy" };
            let copy = started(major, &write_out(&backup, &place, name), &server).await;
            assert_eq!(copy.fingerprint().await.expect("sums").differences(&truth), Vec::<String>::new());
            judged(copy).await;
        }
    }
}

/// Settings outside of the data directory are taken where the role may read them, and named where it may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_outside_are_taken_or_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = require!(Place::new("outside"));
    let rules = place.join("rules.conf");
    let text = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&rules, text).expect("rules");
    std::fs::set_permissions(&rules, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let options = Options::physical(15).with_setting("hba_file", rules.display().to_string());
    let server = require!(Server::private(15, &options));
    let all = copied(&engine(&server), None).await.expect("a backup");
    assert_eq!(all.members["outside/rules.conf"].1, Bytes::from(text));
    let outside = &all.source.attributes["outside"];
    assert_eq!(outside[0]["name"], "hba_file");
    assert_eq!(outside[0]["member"], "outside/rules.conf");
    assert_eq!(all.summary.warnings, Vec::<String>::new());

    let role = server.role("copier", "REPLICATION").await.expect("a role");
    server
        .psql(&format!(
            "GRANT pg_read_all_settings TO {0};
             GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_ls_dir(text, boolean, boolean),
               pg_stat_file(text, boolean), pg_read_binary_file(text, bigint, bigint, boolean) TO {0}",
            role.name
        ))
        .await
        .expect("grants");
    let own = format!("postgres:{}", server.password());
    let url = server.url("postgres").replace(&own, &format!("{}:{}", role.name, role.password));
    let some = copied(&engine_of(&server, &url), None).await.expect("a backup");
    assert!(!some.members.contains_key("outside/rules.conf"));
    assert_eq!(some.source.attributes["outside"][0]["path"], rules.display().to_string());
    assert!(some.summary.warnings.iter().any(|w| w.contains("rules.conf")), "{:?}", some.summary.warnings);
}

/// A hundred files of small tables are read in runs: the order of asking does not matter, nor does asking twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_come_in_any_order() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let engine = engine(&server);
    let whole = copied(&engine, None).await.expect("a backup");
    let reading = Reading::begin(&engine, &physical()).await.expect("a beginning");
    let session = Arc::new(reading);
    let mut some: Vec<MemberSpec> = session.session().members().to_vec();
    some.reverse();
    some.truncate(60);
    some.extend(some.clone());
    for member in some {
        let mut blocks = session.session().read(&context(), &member).await.expect("a stream");
        let mut bytes = Vec::new();
        while let Some(block) = blocks.next().await {
            let block: Block = block.expect("a block");
            bytes.extend_from_slice(block.bytes().expect("bytes"));
        }
        if matches!(member.layout, Layout::Pages { .. }) {
            assert!(whole.members[&member.name].1 == bytes, "{}", member.name);
        }
    }
}
