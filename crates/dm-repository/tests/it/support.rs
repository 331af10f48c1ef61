//! Repositories and members made of seeds.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use dm_core::*;
use dm_repository::*;
use futures::{StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

pub use crate::store::{Fault, TestStore};

pub fn ctx() -> OpContext {
    OpContext::new(Actor::service("test"))
}

pub fn target(name: &str) -> TargetName {
    TargetName::new(name).unwrap()
}

/// Keys of an encrypted repository.
pub struct Keys {
    pub identity: Identity,
    pub index: Identity,
}

impl Keys {
    pub fn new() -> Self {
        Self { identity: Identity::generate(), index: Identity::generate() }
    }
}

pub fn init_options(keys: Option<&Keys>) -> InitOptions {
    InitOptions {
        recipients: keys.iter().map(|k| k.identity.recipient()).collect(),
        index_recipient: keys.map(|k| k.index.recipient()),
        pack_bytes: 64 << 10,
        lease: std::time::Duration::from_secs(3600),
    }
}

pub fn open_options(keys: Option<&Keys>) -> OpenOptions {
    OpenOptions {
        identities: keys.iter().map(|k| k.identity.clone()).collect(),
        index_identity: keys.map(|k| k.index.clone()),
        zstd_level: 1,
        ..OpenOptions::default()
    }
}

pub async fn make(store: &Arc<TestStore>, keys: Option<&Keys>) -> Repository {
    Repository::init(Arc::clone(store) as _, &ctx(), init_options(keys), open_options(keys)).await.unwrap()
}

pub async fn reopen(store: &Arc<TestStore>, keys: Option<&Keys>) -> Repository {
    Repository::open(Arc::clone(store) as _, &ctx(), open_options(keys)).await.unwrap()
}

/// A member of a test and its bytes.
#[derive(Clone)]
pub struct Sample {
    pub spec: MemberSpec,
    pub bytes: Vec<u8>,
    pub block: usize,
}

pub fn spec(name: &str, layout: Layout) -> MemberSpec {
    MemberSpec {
        name: name.into(),
        kind: if layout == Layout::Stream { MemberKind::Rows } else { MemberKind::File },
        layout,
        size_hint: None,
        table: Some("public.t".into()),
        attributes: [("note".to_owned(), serde_json::json!({"a": [1, null]}))].into(),
    }
}

/// Bytes that compress somewhat.
pub fn noise(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes.iter_mut().for_each(|b| *b &= 0x3f);
    bytes
}

pub fn stream(name: &str, bytes: Vec<u8>, block: usize) -> Sample {
    Sample { spec: spec(name, Layout::Stream), bytes, block }
}

pub fn pages(name: &str, bytes: Vec<u8>, page: u32, block: usize) -> Sample {
    Sample { spec: spec(name, Layout::Pages { page_bytes: page }), bytes, block }
}

/// A few members of both layouts.
pub fn samples(seed: u64) -> Vec<Sample> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut file = noise(&mut rng, 700 * 1024 + 100);
    file[40 << 10..90 << 10].fill(0);
    let block = rng.random_range(1..40_000);
    vec![
        pages("file/main.db", file, 4096, 256 << 10),
        stream("data/t/0000", noise(&mut rng, 300_000), block),
        stream("data/empty/0000", Vec::new(), 1000),
        stream("schema/pre", noise(&mut rng, 999), 1000),
    ]
}

/// The same, but smaller: for tests that make many backups.
pub fn small(seed: u64) -> Vec<Sample> {
    let mut all = samples(seed);
    all[0].bytes.truncate(150 << 10);
    all[1].bytes.truncate(90_000);
    all[1].block = 30_000;
    all
}

pub fn blocks(sample: &Sample) -> BlockStream {
    let bytes = Bytes::from(sample.bytes.clone());
    let step = sample.block;
    let offsets = (0..bytes.len()).step_by(step);
    let blocks: Vec<dm_core::Result<Block>> =
        offsets.map(|o| Ok(Block::data(o as u64, bytes.slice(o..(o + step).min(bytes.len()))))).collect();
    futures::stream::iter(blocks).boxed()
}

pub fn source(at: DateTime<Utc>) -> SourceDescription {
    SourceDescription {
        engine: EngineKind::Memory,
        version: ServerVersion { text: "1.2".into(), major: 1, minor: 2 },
        mode: BackupMode::Logical,
        database: "shop".into(),
        system_identifier: Some("42".into()),
        consistency: ConsistencyPoint { at, position: Some("p".into()), timeline: None },
        attributes: Default::default(),
    }
}

pub fn summary() -> SessionSummary {
    let mut hasher = RowHasher::new([3; 32]);
    hasher.row(b"a");
    SessionSummary {
        tables: vec![TableFacts::new("public.t", 1, Some(hasher.digest()))],
        warnings: vec!["one large object was left out".into()],
        ..SessionSummary::default()
    }
}

pub async fn begin(
    repository: &Repository,
    target_name: &str,
    parent: Option<(&BackupHeader, BackupKind)>,
) -> dm_core::Result<BackupWriter> {
    let start = BackupStart {
        target: target(target_name),
        kind: parent.map_or(BackupKind::Full, |(_, kind)| kind),
        parent: parent.map(|(header, _)| header.clone()),
        started_at: Utc::now(),
        resume: true,
    };
    repository.begin(&ctx(), start).await
}

pub async fn write_all(writer: &BackupWriter, samples: &[Sample]) -> dm_core::Result<()> {
    let context = ctx();
    let writes = samples.iter().map(|s| writer.write_member(&context, s.spec.clone(), blocks(s)));
    futures::stream::iter(writes.collect::<Vec<_>>()).buffer_unordered(2).try_collect::<Vec<_>>().await?;
    Ok(())
}

pub async fn back_up(
    repository: &Repository,
    target_name: &str,
    parent: Option<(&BackupHeader, BackupKind)>,
    samples: &[Sample],
) -> dm_core::Result<BackupHeader> {
    let writer = begin(repository, target_name, parent).await?;
    write_all(&writer, samples).await?;
    writer.commit(&ctx(), source(Utc::now()), summary()).await
}

pub async fn content(reader: &BackupReader, name: &str, size: u64) -> dm_core::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut blocks = reader.content(&ctx(), name);
    while let Some(block) = blocks.try_next().await? {
        bytes.resize(block.offset as usize, 0);
        bytes.extend_from_slice(&block.bytes);
    }
    bytes.resize(size as usize, 0);
    Ok(bytes)
}

/// Reads a backup whole and compares it.
pub async fn assert_holds(repository: &Repository, header: &BackupHeader, samples: &[Sample]) {
    let reader = repository.read(&ctx(), header).await.unwrap();
    let members = reader.members(&ctx()).await.unwrap();
    let mut expected: Vec<&Sample> = samples.iter().collect();
    expected.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    assert_eq!(members.len(), expected.len());
    for ((spec, size), sample) in members.iter().zip(expected) {
        assert_eq!(spec, &sample.spec);
        assert_eq!(*size, sample.bytes.len() as u64);
        let read = content(&reader, &spec.name, *size).await.unwrap();
        assert!(read == sample.bytes, "{} differs", spec.name);
    }
    assert_eq!(reader.tables(), summary().tables);
    assert_eq!(reader.warnings(), summary().warnings);
    reader.close().await.unwrap();
}
