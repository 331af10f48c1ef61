//! A cluster copied over SQL, written out by a few lines of its own, starts and holds what the original held.

use std::path::Path;

use dm_core::{BackupMode, BackupRequest, Engine, EngineId, Level, Secret};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::conformance::{Collected, collect};
use dm_testkit::postgres::{Options, Server};
use dm_testkit::require;

use crate::support::context;

/// An engine at a URL, with the programs of the server's version.
pub(crate) fn engine_of(server: &Server, url: &str) -> PostgresEngine {
    let options =
        PostgresOptions { bin_dir: Some(server.bin_dir().to_owned()), ..PostgresOptions::default() };
    PostgresEngine::connect(EngineId::new("main").expect("a name"), &Secret::new(url), options)
        .expect("a url")
}

pub(crate) fn physical() -> BackupRequest {
    BackupRequest { mode: Some(BackupMode::Physical), digest_key: [9; 32], ..BackupRequest::default() }
}

pub(crate) async fn copied(engine: &dyn Engine, request: &BackupRequest) -> Collected {
    let source = engine.backup().expect("a source");
    let preflight = source.preflight(&context(), request).await.expect("a preflight");
    let errors: Vec<_> = preflight.findings.iter().filter(|f| f.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(preflight.estimated_bytes > 1 << 20);
    collect(engine, &context(), request).await.expect("a backup")
}

/// Writes a full backup out as the contract says: nothing of the adapter's own restore takes part.
pub(crate) fn write_out(backup: &Collected, directory: &Path) {
    let bytes = backup.bytes();
    let folders: Vec<String> = serde_json::from_slice(&bytes["directories.json"]).expect("a list of folders");
    for folder in folders {
        std::fs::create_dir_all(directory.join(folder)).expect("a folder");
    }
    for (name, content) in &bytes {
        let path = match (name.strip_prefix("data/"), name.strip_prefix("wal/")) {
            (Some(path), _) => directory.join(path),
            (_, Some(segment)) => directory.join("pg_wal").join(segment),
            _ => continue,
        };
        std::fs::write(path, content).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_files_the_label_and_the_log() {
    for major in [15, 18] {
        let server = require!(Server::private(major, &Options::physical(major)));
        server.psql("CREATE TABLE t AS SELECT generate_series(1, 200000) AS i").await.expect("a table");
        let engine = engine_of(&server, &server.url("postgres"));
        let backup = copied(&engine, &physical()).await;
        assert_eq!(backup.summary.warnings, Vec::<String>::new());
        let folder = tempfile::tempdir().expect("a folder");
        write_out(&backup, folder.path());
        for there in
            ["backup_label", "global/pg_control", "pg_wal/archive_status", "pg_replslot", "base/1/1259"]
        {
            assert!(folder.path().join(there).exists(), "{there}");
        }
        for gone in ["postmaster.pid", "postmaster.opts", "base/1/pg_internal.init"] {
            assert!(!folder.path().join(gone).exists(), "{gone}");
        }
        let attributes = &backup.source.attributes;
        let label = std::fs::read_to_string(folder.path().join("backup_label")).expect("a label");
        let start = attributes["start_lsn"].as_str().expect("a place");
        assert!(label.contains(&format!("START WAL LOCATION: {start} (file ")), "{label}");
        assert_eq!(backup.source.consistency.position.as_deref(), attributes["stop_lsn"].as_str());
        let segments = backup.bytes().into_iter().filter(|(name, _)| name.starts_with("wal/"));
        assert!(segments.map(|(_, bytes)| bytes.len()).eq([16 << 20]), "one segment, whole");
    }
}
