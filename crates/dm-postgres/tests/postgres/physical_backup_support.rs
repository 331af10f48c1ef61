//! What tests of physical backups share: a writer of their own, so that nothing of the adapter's restore takes part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dm_core::{
    BackupMode, BackupRequest, BackupSession, BaseBackup, Block, Engine, EngineId, Layout, Level, MemberSpec,
    OpContext, Secret, SessionSummary, SourceDescription,
};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::postgres::{Options, Place, Server, StopMode};
use futures::{StreamExt, TryStreamExt};

use crate::support::context;

/// An engine at a URL, with the programs of the server's version.
pub(crate) fn engine_of(server: &Server, url: &str) -> PostgresEngine {
    let options =
        PostgresOptions { bin_dir: Some(server.bin_dir().to_owned()), ..PostgresOptions::default() };
    PostgresEngine::connect(EngineId::new("main").expect("a name"), &Secret::new(url), options)
        .expect("a url")
}

pub(crate) fn engine(server: &Server) -> PostgresEngine {
    engine_of(server, &server.url("postgres"))
}

pub(crate) fn physical() -> BackupRequest {
    BackupRequest { mode: Some(BackupMode::Physical), digest_key: [9; 32], ..BackupRequest::default() }
}

/// A backup with its members whole, as a repository would have it.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) source: SourceDescription,
    pub(crate) summary: SessionSummary,
    pub(crate) members: BTreeMap<String, (MemberSpec, Bytes)>,
    /// Bytes of relations that came from the server.
    pub(crate) read: u64,
    /// Bytes that were said to be as in the base.
    pub(crate) unchanged: u64,
}

#[async_trait]
impl BaseBackup for Copied {
    fn source(&self) -> &SourceDescription {
        &self.source
    }

    async fn member(&self, _: &OpContext, name: &str) -> dm_core::Result<Option<(MemberSpec, u64)>> {
        Ok(self.members.get(name).map(|(spec, bytes)| (spec.clone(), bytes.len() as u64)))
    }
}

impl Copied {
    /// This one as the base of the next.
    pub(crate) fn next(&self) -> BackupRequest {
        BackupRequest { base: Some(Arc::new(self.clone())), ..physical() }
    }

    pub(crate) fn changes_by(&self) -> Option<&str> {
        self.source.attributes["changes_by"].as_str()
    }
}

/// A backup under way, read step by step.
pub(crate) struct Reading {
    session: Box<dyn BackupSession>,
    jobs: usize,
    base: Option<Arc<dyn BaseBackup>>,
    members: Vec<(MemberSpec, Vec<Block>)>,
}

impl Reading {
    /// Begins, after a look that finds nothing wrong.
    pub(crate) async fn begin(engine: &dyn Engine, request: &BackupRequest) -> dm_core::Result<Self> {
        let source = engine.backup().expect("a source");
        let preflight = source.preflight(&context(), request).await?;
        let errors: Vec<_> = preflight.findings.iter().filter(|f| f.level == Level::Error).collect();
        assert!(errors.is_empty(), "{errors:?}");
        let session = source.open(&context(), request).await?;
        Ok(Self { session, jobs: request.jobs, base: request.base.clone(), members: Vec::new() })
    }

    pub(crate) fn session(&self) -> &dyn BackupSession {
        self.session.as_ref()
    }

    /// Reads members, several at once.
    pub(crate) async fn read(&mut self, members: Vec<MemberSpec>) -> dm_core::Result<()> {
        let (session, ctx) = (&self.session, context());
        let read: Vec<_> = futures::stream::iter(members)
            .map(|spec| {
                let ctx = ctx.clone();
                async move {
                    let blocks = session.read(&ctx, &spec).await?.try_collect().await?;
                    Ok::<_, dm_core::Error>((spec, blocks))
                }
            })
            .buffered(self.jobs)
            .try_collect()
            .await?;
        self.members.extend(read);
        Ok(())
    }

    /// The files.
    pub(crate) async fn files(&mut self) -> dm_core::Result<()> {
        let members = self.session.members().to_vec();
        self.read(members).await
    }

    /// What comes after the files, and the end.
    pub(crate) async fn end(mut self, base: Option<&Copied>) -> dm_core::Result<Copied> {
        loop {
            let more = self.session.more_members(&context()).await?;
            if more.is_empty() {
                break;
            }
            self.read(more).await?;
        }
        assert_eq!(base.is_some(), self.base.is_some());
        let source = self.session.describe().clone();
        let mut summary = self.session.finish(&context()).await?;
        let source = source.completed(&mut summary);
        let (mut read, mut unchanged) = (0, 0);
        let mut members = BTreeMap::new();
        for (spec, blocks) in self.members {
            if matches!(spec.layout, Layout::Pages { .. }) {
                read += blocks.iter().filter_map(Block::bytes).map(|b| b.len() as u64).sum::<u64>();
                unchanged += blocks.iter().filter(|b| b.bytes().is_none()).map(Block::length).sum::<u64>();
            }
            let of_base = base.and_then(|base| base.members.get(&spec.name));
            let bytes = assemble(&spec, &blocks, of_base.map(|(spec, bytes)| (spec, bytes)));
            members.insert(spec.name.clone(), (spec, bytes));
        }
        Ok(Copied { source, summary, members, read, unchanged })
    }
}

/// Puts a member together, and looks whether the contract of blocks was kept.
fn assemble(spec: &MemberSpec, blocks: &[Block], base: Option<(&MemberSpec, &Bytes)>) -> Bytes {
    let mut whole = BytesMut::new();
    for block in blocks {
        let at = usize::try_from(block.offset()).expect("a place");
        match spec.layout {
            Layout::Stream => assert_eq!(at, whole.len(), "{}: a stream has no gaps", spec.name),
            Layout::Pages { page_bytes } => {
                assert!(at >= whole.len() && at.is_multiple_of(page_bytes as usize), "{}", spec.name);
                whole.resize(at, 0);
            }
        }
        match block {
            Block::Data { bytes, .. } => {
                assert!(!bytes.is_empty() && bytes.len() <= 4 << 20);
                whole.extend_from_slice(bytes);
            }
            Block::Unchanged { length, .. } => {
                let (base_spec, base) = base.expect("only what the base has can be unchanged");
                assert_eq!(base_spec.layout, spec.layout);
                let end = at + usize::try_from(*length).expect("a length");
                assert!(end <= base.len(), "{}: {end} is past the base's end {}", spec.name, base.len());
                whole.extend_from_slice(&base[at..end]);
            }
        }
    }
    whole.freeze()
}

/// All in one go.
pub(crate) async fn copied(engine: &dyn Engine, base: Option<&Copied>) -> dm_core::Result<Copied> {
    let request = base.map_or_else(physical, Copied::next);
    let mut reading = Reading::begin(engine, &request).await?;
    reading.files().await?;
    reading.end(base).await
}

/// Writes a backup out as the contract says, its tablespaces beside it in folders of their own.
pub(crate) fn write_out(backup: &Copied, place: &Place, name: &str) -> std::path::PathBuf {
    let directory = place.join(name);
    let bytes = |name: &str| backup.members.get(name).map(|(_, bytes)| bytes.clone());
    let map = String::from_utf8(bytes("data/tablespace_map").unwrap_or_default().to_vec()).expect("a map");
    let moved: Vec<(String, std::path::PathBuf)> = map
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(oid, _)| (oid.to_owned(), place.join(&format!("{name}_{oid}"))))
        .collect();
    // What was in a tablespace goes where the tablespace is now.
    let to = |path: &str| {
        let mut parts = path.strip_prefix("pg_tblspc/").unwrap_or_default().splitn(2, '/');
        let (oid, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match moved.iter().find(|(known, _)| known == oid) {
            Some((_, folder)) => folder.join(rest),
            None => directory.join(path),
        }
    };
    std::fs::create_dir(&directory).expect("a folder");
    let folders: Vec<String> =
        serde_json::from_slice(&bytes("directories.json").expect("a list")).expect("a list of folders");
    for folder in folders {
        std::fs::create_dir_all(to(&folder)).expect("a folder");
    }
    for (oid, folder) in &moved {
        std::os::unix::fs::symlink(folder, directory.join("pg_tblspc").join(oid)).expect("a link");
    }
    for (name, (_, content)) in &backup.members {
        match (name.strip_prefix("data/"), name.strip_prefix("wal/")) {
            (Some("tablespace_map"), _) => {
                let lines: Vec<String> =
                    moved.iter().map(|(oid, folder)| format!("{oid} {}\n", folder.display())).collect();
                std::fs::write(directory.join("tablespace_map"), lines.concat()).expect("a map");
            }
            (Some(path), _) => std::fs::write(to(path), content).expect("a file"),
            (_, Some(segment)) => {
                std::fs::write(directory.join("pg_wal").join(segment), content).expect("a segment");
            }
            _ => {}
        }
    }
    directory
}

/// Starts what was written out; it is through its recovery when this returns.
pub(crate) async fn started(major: u32, directory: &Path, original: &Server) -> Server {
    let quiet = Options::default().with_setting("autovacuum", "off");
    let server = Server::on_directory(major, directory, original.password(), &quiet)
        .unwrap_or_else(|e| panic!("the copy does not start: {e}"));
    server.until_recovered().await.expect("a recovered copy");
    server
}

/// What PostgreSQL itself finds in a running copy, which is stopped at the end.
pub(crate) async fn judged(copy: Server) {
    copy.index_only_counts().await.expect("indexes agree with their tables");
    copy.amcheck().await.expect("sound tables and indexes");
    copy.stop(StopMode::Fast).expect("a stop");
    copy.install().checksums(copy.data_dir()).await.expect("checksums hold");
}
