//! What the tests share: an engine on a file, a backup held in memory, its way back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dm_core::{
    Actor, BackupRequest, Block, Comparison, Destination, Engine, EngineId, OpContext, RestoreBlock,
    RestoreManifest, RestoreRequest, Restored, Result, SessionSummary, TableFacts,
};
use dm_sqlite::{SqliteEngine, SqliteLocation, SqliteOptions};
use futures::StreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) const KEY: [u8; 32] = [42; 32];

pub(crate) fn ctx() -> OpContext {
    OpContext::new(Actor::local_user("test"))
}

pub(crate) fn engine(path: &Path) -> SqliteEngine {
    engine_with(path, SqliteOptions::default())
}

pub(crate) fn engine_with(path: &Path, options: SqliteOptions) -> SqliteEngine {
    SqliteEngine::open(EngineId::new("test").unwrap(), SqliteLocation::from_path(path).unwrap(), options)
        .unwrap()
}

/// A folder with a database made by these statements, and a scratch folder beside it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) db: PathBuf,
    pub(crate) scratch: PathBuf,
}

pub(crate) fn place(sql: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("shop.db");
    let scratch = dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    Connection::open(&db).unwrap().execute_batch(sql).unwrap();
    Place { dir, db, scratch }
}

impl Place {
    pub(crate) fn request(&self) -> BackupRequest {
        BackupRequest { digest_key: KEY, scratch_dir: Some(self.scratch.clone()), ..BackupRequest::default() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names in the folder, sorted, without the scratch folder.
    pub(crate) fn listing(&self) -> Vec<String> {
        names(self.dir.path()).into_iter().filter(|n| n != "scratch").collect()
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) struct Backup {
    pub(crate) manifest: RestoreManifest,
    pub(crate) blocks: Vec<Block>,
    pub(crate) summary: SessionSummary,
}

impl Backup {
    pub(crate) fn facts(&self, table: &str) -> &TableFacts {
        self.summary.tables.iter().find(|t| t.table == table).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.blocks.iter().flat_map(|b| b.bytes().unwrap().iter().copied()).collect()
    }
}

pub(crate) async fn back_up(engine: &dyn Engine, request: &BackupRequest) -> Result<Backup> {
    let ctx = ctx();
    let session = engine.backup().unwrap().open(&ctx, request).await?;
    let member = session.members()[0].clone();
    let mut stream = session.read(&ctx, &member).await?;
    let mut blocks = Vec::new();
    let mut offset = 0;
    while let Some(block) = stream.next().await {
        let block = block?;
        assert_eq!(block.offset(), offset, "blocks follow each other");
        assert!(block.length() <= 1 << 20);
        offset += block.length();
        blocks.push(block);
    }
    let source = session.describe().clone();
    let summary = session.finish(&ctx).await?;
    let manifest =
        RestoreManifest { source, members: vec![(member, offset)], tables: summary.tables.clone() };
    Ok(Backup { manifest, blocks, summary })
}

pub(crate) fn restore_request(destination: Destination, tables: &[&str]) -> RestoreRequest {
    RestoreRequest {
        tables: tables.iter().map(|t| (*t).to_owned()).collect(),
        digest_key: KEY,
        ..RestoreRequest::to(destination)
    }
}

/// Restores with pages of zeros left out, as a repository hands them over, and compares.
pub(crate) async fn bring_back(
    engine: &dyn Engine,
    backup: &Backup,
    destination: Destination,
    tables: &[&str],
) -> Result<(Restored, Comparison)> {
    let ctx = ctx();
    let port = engine.restore().unwrap();
    let request = restore_request(destination, tables);
    let preview = port.preview(&ctx, &request, &backup.manifest).await?;
    let session = port.open(&ctx, &request, &backup.manifest, &preview).await?;
    assert_eq!(session.stages(), [[0]]);
    let blocks: Vec<_> = backup
        .blocks
        .iter()
        .filter(|b| b.bytes().unwrap().iter().any(|byte| *byte != 0))
        .map(|b| Ok(RestoreBlock { offset: b.offset(), bytes: b.bytes().unwrap().clone() }))
        .collect();
    let member = backup.manifest.members[0].0.clone();
    session.write(&ctx, &member, Box::pin(futures::stream::iter(blocks))).await?;
    session.finish(&ctx).await?;
    let comparison = session.compare(&ctx, &backup.summary.tables).await?;
    match session.release(&ctx).await {
        Ok(restored) => Ok((restored, comparison)),
        Err(e) => Err(e),
    }
}

/// Waits for a condition; fails after ten seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn number(db: &Path, sql: &str) -> i64 {
    Connection::open(db).unwrap().query_row(sql, [], |r| r.get(0)).unwrap()
}
