//! A database in memory that is backed up and restored like a real one, and fails on order.
//!
//! It holds tables (multisets of rows, any bytes) and files (fixed pages). It is the smallest engine that passes the
//! [`conformance`](crate::conformance) suite; what the suite demands of adapters, this shows. It answers no queries.

mod backup;
mod restore;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dm_core::{
    BackupSource, Capabilities, Engine, EngineId, EngineKind, Error, ErrorKind, Finding, Health, OpContext,
    RestoreTarget, Result, RowHasher, ServerVersion, TableFacts, TenantFilter,
};

/// The name of the engine's own database.
pub const OWN: &str = "main";

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Tables by name; the order of rows means nothing.
    pub tables: BTreeMap<String, Vec<Bytes>>,
    /// Files by name.
    pub files: BTreeMap<String, Pages>,
}

/// A file of fixed pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// A power of two from 512 to 65536.
    pub page_bytes: u32,
    /// The content; the last page may be short.
    pub bytes: Bytes,
}

/// Trouble on order. Members are named as in the backup: `data/<table>`, `files/<file>`.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// What every preflight finds.
    pub preflight: Vec<Finding>,
    /// Reading this member fails after so many blocks: the connection was cut.
    pub read_fails: Option<(String, usize)>,
    /// Writing this member fails: the disk is full.
    pub write_fails: Option<String>,
    /// The end of the snapshot fails: it was lost meanwhile.
    pub finish_fails: bool,
    /// A planted defect: the first row of this table is lost on the way back.
    pub restore_loses_a_row_of: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    databases: BTreeMap<String, Contents>,
    sealed: BTreeMap<String, Contents>,
    faults: Faults,
    closed: bool,
    made: u64,
}

/// The engine. Clones share the databases.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    id: EngineId,
    state: Arc<Mutex<State>>,
}

impl MemoryEngine {
    /// An engine whose own database is empty.
    ///
    /// # Errors
    /// `Invalid` when the name is none.
    pub fn new(id: &str) -> Result<Self> {
        Self::with_contents(id, Contents::default())
    }

    /// An engine with this in its own database.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_contents(id: &str, contents: Contents) -> Result<Self> {
        let mut state = State::default();
        state.databases.insert(OWN.to_owned(), contents);
        Ok(Self { id: EngineId::new(id)?, state: Arc::new(Mutex::new(state)) })
    }

    /// Replaces a table of the own database.
    pub fn set_table<R: Into<Bytes>>(&self, table: &str, rows: impl IntoIterator<Item = R>) {
        let rows = rows.into_iter().map(Into::into).collect();
        self.change(|own| {
            own.tables.insert(table.to_owned(), rows);
        });
    }

    /// Replaces a file of the own database.
    pub fn set_file(&self, file: &str, page_bytes: u32, bytes: impl Into<Bytes>) {
        let pages = Pages { page_bytes, bytes: bytes.into() };
        self.change(|own| {
            own.files.insert(file.to_owned(), pages);
        });
    }

    /// Changes the own database.
    pub fn change(&self, how: impl FnOnce(&mut Contents)) {
        how(self.state().databases.entry(OWN.to_owned()).or_default());
    }

    /// What a database holds: the own one ([`OWN`]) or a restored one. A sealed one is not to be seen.
    #[must_use]
    pub fn contents(&self, database: &str) -> Option<Contents> {
        self.state().databases.get(database).cloned()
    }

    /// The names of all databases that can be seen.
    #[must_use]
    pub fn databases(&self) -> Vec<String> {
        self.state().databases.keys().cloned().collect()
    }

    /// The names of the places that a restore has begun and not ended.
    #[must_use]
    pub fn sealed(&self) -> Vec<String> {
        self.state().sealed.keys().cloned().collect()
    }

    /// Orders trouble, in place of what was ordered before.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.closed {
            return Err(Error::new(ErrorKind::Unreachable, "the engine is closed"));
        }
        Ok(state)
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }

    fn kind(&self) -> EngineKind {
        EngineKind::Memory
    }

    fn location(&self) -> String {
        format!("memory:{}", self.id)
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::default();
        can.online_backup = true;
        can.incrementals = true;
        can.page_exact_incrementals = true;
        can
    }

    async fn version(&self, ctx: &OpContext) -> Result<ServerVersion> {
        ctx.check()?;
        self.open_state().map(|_| version())
    }

    async fn ping(&self, ctx: &OpContext) -> Result<Health> {
        ctx.check()?;
        let _open = self.open_state()?;
        Ok(Health { reachable: true, latency: Duration::ZERO, size_bytes: None, connections: None })
    }

    async fn diagnose(&self, _: &OpContext) -> Vec<Finding> {
        Vec::new()
    }

    fn backup(&self) -> Option<Arc<dyn BackupSource>> {
        Some(Arc::new(self.clone()))
    }

    fn restore(&self) -> Option<Arc<dyn RestoreTarget>> {
        Some(Arc::new(self.clone()))
    }

    async fn close(&self) {
        self.state().closed = true;
    }
}

fn version() -> ServerVersion {
    ServerVersion { text: "1.0".into(), major: 1, minor: 0 }
}

/// Tables row by row; a file as if its pages were rows, each with its number so that their order counts.
fn facts(contents: &Contents, key: [u8; 32]) -> Vec<TableFacts> {
    let tables = contents.tables.iter().map(|(name, rows)| {
        let mut hasher = RowHasher::new(key);
        for row in rows {
            hasher.row(row);
        }
        (name.clone(), hasher)
    });
    let files = contents.files.iter().map(|(name, file)| {
        let mut hasher = RowHasher::new(key);
        for (number, page) in file.bytes.chunks(file.page_bytes as usize).enumerate() {
            hasher.row(&[&(number as u64).to_le_bytes(), page].concat());
        }
        (file_table(name), hasher)
    });
    tables
        .chain(files)
        .map(|(table, hasher)| TableFacts::new(table, hasher.digest().rows(), Some(hasher.digest())))
        .collect()
}

/// How a file is named among the tables.
fn file_table(file: &str) -> String {
    format!("file:{file}")
}

/// Tables in memory have no columns, so nobody knows whose rows they are.
fn no_tenants(tenant: Option<&TenantFilter>) -> Result<()> {
    match tenant {
        None => Ok(()),
        Some(_) => Err(Error::unsupported("tables in memory have no columns, so no tenants")
            .with_hint("leave out the tenant")),
    }
}
