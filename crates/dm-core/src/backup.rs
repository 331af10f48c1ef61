//! The port of an engine that can be backed up.
//!
//! A backup is a list of *members* — a table's rows, a database file, a schema dump — read under one consistent
//! snapshot that a [`BackupSession`] holds open. The engine produces bytes; where they go, how they are cut into
//! packs, compressed, encrypted and found unchanged is the repository's business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    EngineKind, Error, Finding, OpContext, RepositoryId, Result, ServerVersion, TableFacts, TargetName,
};

/// How much of an earlier backup a backup may reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// References nothing.
    #[default]
    Full,
    /// References the last full backup and nothing else.
    Differential,
    /// References whatever the previous backup referenced, and that one.
    Incremental,
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Differential => "differential",
            Self::Incremental => "incremental",
        })
    }
}

/// What is read: rows or files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMode {
    /// Schema and rows of one database: portable between versions, selective.
    #[default]
    Logical,
    /// The files of a database or a cluster, page by page.
    Physical,
}

impl fmt::Display for BackupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Logical => "logical",
            Self::Physical => "physical",
        })
    }
}

/// What the caller wants of the source.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Rows or files; `None` leaves it to the engine.
    pub mode: Option<BackupMode>,
    /// The most connections (or reading threads) at once; at least 1.
    pub jobs: usize,
    /// Only these tables (names or patterns with `*`), all when empty.
    pub include_tables: Vec<String>,
    /// Not these tables. One that matches nothing is an error, found in the preflight.
    pub exclude_tables: Vec<String>,
    /// Key of the content digests.
    pub digest_key: [u8; 32],
    /// Whether to compute content digests at all.
    pub content_digests: bool,
    /// Where the engine may put temporary files; the system's place when `None`.
    pub scratch_dir: Option<PathBuf>,
    /// Target size of a stream's block in bytes.
    pub block_bytes: usize,
    /// The earlier backup that this one is compared with; `None` for a full one.
    pub base: Option<Arc<dyn BaseBackup>>,
    /// Only the rows of one tenant and what they refer to (logical backups).
    pub tenant: Option<TenantFilter>,
}

impl Default for BackupRequest {
    fn default() -> Self {
        Self {
            mode: None,
            jobs: 2,
            include_tables: Vec::new(),
            exclude_tables: Vec::new(),
            digest_key: [0; 32],
            content_digests: true,
            scratch_dir: None,
            block_bytes: 512 << 10,
            base: None,
            tenant: None,
        }
    }
}

/// The rows of one tenant: every row of a table that has the column with this value, and the rows that those refer to
/// along foreign keys, so that what is taken is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantFilter {
    /// The column, the same in every table that has it.
    pub column: String,
    /// Its value, in the engine's text form.
    pub value: String,
}

impl TenantFilter {
    /// The attribute of a [`SourceDescription`] that says that a backup holds the rows of one tenant only.
    pub const ATTRIBUTE: &'static str = "tenant";

    /// The target of this tenant's backups, beside the target of the whole database: `shop.tenant-0f3a5c7e9b1d`. Partial
    /// backups are never found among whole ones: not as the latest, not as a base, not by the keep-rules.
    ///
    /// The name is the same for the same tenant in the same repository, and tells neither column nor value: a name
    /// of a folder is read by more people than a backup. (It is no secret: who knows the value can compute it.)
    ///
    /// # Errors
    /// `Internal` only, when the name cannot be made.
    pub fn target(&self, whole: &TargetName, repository: RepositoryId) -> Result<TargetName> {
        let mut hasher = blake3::Hasher::new_derive_key("data-manager 2026 target of one tenant's backups");
        hasher.update(repository.to_string().as_bytes());
        for part in [&self.column, &self.value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let hash = hasher.finalize().to_hex();
        let (whole, hash): (String, String) =
            (whole.as_str().chars().take(42).collect(), hash.chars().take(12).collect());
        TargetName::new(format!("{whole}.tenant-{hash}"))
    }
}

impl fmt::Display for TenantFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.column, self.value)
    }
}

impl FromStr for TenantFilter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((column, value)) if !column.trim().is_empty() => {
                Ok(Self { column: column.trim().to_owned(), value: value.to_owned() })
            }
            _ => Err(Error::invalid(format!("\"{text}\" names no tenant"))
                .with_hint("write column=value, for example tenant_id=42")),
        }
    }
}

/// What a source may ask about the backup that its own is compared with.
#[async_trait]
pub trait BaseBackup: Send + Sync + fmt::Debug {
    /// What was backed up then: the consistency point and the adapter's own attributes.
    fn source(&self) -> &SourceDescription;

    /// The member of this name and its size in bytes, if the base has it. Asking in the order of names is cheapest.
    ///
    /// # Errors
    /// `Corrupt`, `Unreachable`.
    async fn member(&self, ctx: &OpContext, name: &str) -> Result<Option<(MemberSpec, u64)>>;

    /// The facts that were recorded of its tables, under the same key; empty where there are none.
    fn tables(&self) -> &[TableFacts] {
        &[]
    }

    /// The warnings that came with them.
    fn warnings(&self) -> &[String] {
        &[]
    }
}

/// What was found before anything started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preflight {
    /// Everything looked at; a finding of level `Error` stops the backup before it begins.
    pub findings: Vec<Finding>,
    /// Expected bytes to read.
    pub estimated_bytes: u64,
    /// Bytes that the engine will need in the scratch directory, and where that is.
    pub scratch: Option<(PathBuf, u64)>,
}

/// How a member's bytes are laid out, which decides how unchanged parts are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "layout")]
pub enum Layout {
    /// A stream; each block that the engine hands over is compared as a whole.
    Stream,
    /// Fixed pages at fixed offsets, compared one by one.
    Pages {
        /// A power of two from 512 to 65536.
        page_bytes: u32,
    },
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberKind {
    /// Definitions: tables, indexes, constraints.
    Schema,
    /// Definitions outside the database: roles.
    Globals,
    /// A table's rows, or a part of them.
    Rows,
    /// Large objects.
    LargeObjects,
    /// Values of sequences.
    Sequences,
    /// A file of the database.
    File,
    /// A piece of the log that makes the files consistent.
    Log,
}

/// One member of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// Unique in the backup, `/`-separated, stable from one backup to the next: `data/public.orders/0000000`.
    pub name: String,
    /// What it is.
    pub kind: MemberKind,
    /// How its bytes are laid out.
    #[serde(flatten)]
    pub layout: Layout,
    /// Expected size in bytes; not a promise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size_hint: Option<u64>,
    /// The table that it belongs to, named as in [`TableFacts::table`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<String>,
    /// What the adapter needs to put it back; opaque to everybody else, and free of row contents.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// A piece of a member. Blocks of a stream follow each other without a gap; pages come in order, and a block of pages is
/// a whole number of them (the member's last one may be short). A gap between blocks of pages is zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Bytes that were read.
    Data {
        /// Where they stand in the member.
        offset: u64,
        /// At most 4 MiB.
        bytes: Bytes,
    },
    /// Pages that are what the [base](BackupRequest::base) has at the same place, and were not read. Only in members of
    /// pages that the base has under the same name and layout, and never past the end of the base's.
    Unchanged {
        /// Where they stand in the member.
        offset: u64,
        /// How many bytes; whole pages, except where the base's member ends with a short one.
        length: u64,
    },
}

impl Block {
    /// Bytes that were read.
    pub fn data(offset: u64, bytes: impl Into<Bytes>) -> Self {
        Self::Data { offset, bytes: bytes.into() }
    }

    /// Where it stands in the member.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Unchanged { offset, .. } => *offset,
        }
    }

    /// How much of the member it covers, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Unchanged { length, .. } => *length,
        }
    }

    /// The bytes, where they were read.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Data { bytes, .. } => Some(bytes),
            Self::Unchanged { .. } => None,
        }
    }
}

/// A member's blocks, in order.
pub type BlockStream = BoxStream<'static, Result<Block>>;

/// The moment that a backup shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConsistencyPoint {
    /// The instant, by the context's clock.
    pub at: DateTime<Utc>,
    /// The engine's own name for it: an exported snapshot, an LSN, an offset, a change counter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub position: Option<String>,
    /// The timeline, stream or replication id that the position belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<String>,
}

/// What is being backed up, as the manifest records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceDescription {
    /// The engine.
    pub engine: EngineKind,
    /// Its version.
    pub version: ServerVersion,
    /// Rows or files.
    pub mode: BackupMode,
    /// The database's name, no location and no credentials.
    pub database: String,
    /// What tells this database from a copy of it under the same name, where the engine has such.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_identifier: Option<String>,
    /// The moment.
    pub consistency: ConsistencyPoint,
    /// What the adapter needs at restore (encodings, collations, index-to-table map); no row contents.
    #[serde(default)]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// What is known when everything was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Rows and digests of each table.
    pub tables: Vec<TableFacts>,
    /// What the reader should know: objects left out for want of a privilege, for example.
    pub warnings: Vec<String>,
    /// The moment that the backup shows, where only the end of the reading tells it; it takes the place of the
    /// description's.
    pub consistency: Option<ConsistencyPoint>,
    /// More of what the adapter needs at restore; added to the description's.
    #[serde(default)]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

impl SourceDescription {
    /// The tenant whose rows alone are in the backup; `None` when it is a whole one.
    ///
    /// # Errors
    /// `Corrupt` when the backup says that it is partial, and not of what.
    pub fn tenant(&self) -> Result<Option<TenantFilter>> {
        let Some(value) = self.attributes.get(TenantFilter::ATTRIBUTE) else { return Ok(None) };
        TenantFilter::deserialize(value)
            .map(Some)
            .map_err(|e| Error::corrupt("the backup does not say which tenant it is of").with_source(e))
    }

    /// The description with what the end of the reading added; takes that out of the summary.
    #[must_use]
    pub fn completed(mut self, summary: &mut SessionSummary) -> Self {
        if let Some(consistency) = summary.consistency.take() {
            self.consistency = consistency;
        }
        self.attributes.append(&mut summary.attributes);
        self
    }
}

/// An engine that can be backed up.
#[async_trait]
pub trait BackupSource: Send + Sync {
    /// Looks, without changing anything, whether a backup would succeed: versions, client tools, privileges, named
    /// tables, scratch space.
    ///
    /// # Errors
    /// Only when the look itself fails (`Unreachable`, `Denied`); what is wrong is a finding.
    async fn preflight(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Preflight>;

    /// Takes a consistent snapshot and lists what is in it.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Unsupported`, `NotFound`, `Exhausted`.
    ///
    /// # Cancellation
    /// Dropping the future leaves nothing behind on the server; temporary files go with the session.
    async fn open(&self, ctx: &OpContext, request: &BackupRequest) -> Result<Box<dyn BackupSession>>;
}

/// An open snapshot. Dropping it releases the snapshot and every temporary thing, without a word.
#[async_trait]
pub trait BackupSession: Send + Sync {
    /// What is being read.
    fn describe(&self) -> &SourceDescription;

    /// The members, in a good order to start them: largest first within what the engine prefers.
    fn members(&self) -> &[MemberSpec];

    /// Reads one member of [`members`](Self::members). Up to `jobs` members may be read at once. The stream owns
    /// all that it needs; dropping it stops the reading.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `NotFound` (dropped since), here or as an item of the stream, which then ends.
    async fn read(&self, ctx: &OpContext, member: &MemberSpec) -> Result<BlockStream>;

    /// Asked when every member so far was read to its end: gives those that can be read only then (the log that a
    /// copy of files needs), and is asked again after those; nothing when there are no more.
    ///
    /// # Errors
    /// `Conflict` when the snapshot was lost meanwhile; `Unreachable`, `Denied`.
    async fn more_members(&self, _ctx: &OpContext) -> Result<Vec<MemberSpec>> {
        Ok(Vec::new())
    }

    /// Told, before the end, that what was read of a member is byte for byte what the [base](BackupRequest::base) has: what
    /// the session would find out about those bytes, it may take from there.
    fn member_unchanged(&self, _member: &MemberSpec) {}

    /// Ends the snapshot after every member was read to its end, and gives the facts.
    ///
    /// # Errors
    /// `Internal` when a member was not read to its end; `Conflict` when the snapshot was lost meanwhile.
    async fn finish(self: Box<Self>, ctx: &OpContext) -> Result<SessionSummary>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_target_tells_nothing_and_is_its_own() {
        let whole = TargetName::new("shop").unwrap();
        let (here, there) = (RepositoryId::generate(), RepositoryId::generate());
        let tenant = |text: &str| text.parse::<TenantFilter>().unwrap();
        let name = tenant("email=jo@example.org").target(&whole, here).unwrap();
        assert_eq!(name, tenant("email=jo@example.org").target(&whole, here).unwrap());
        assert!(name.as_str().starts_with("shop.tenant-") && !name.as_str().contains("jo"));
        assert_ne!(name, tenant("email=jo@example.org").target(&whole, there).unwrap());
        assert_ne!(
            tenant("a=bc").target(&whole, here).unwrap(),
            tenant("ab=c").target(&whole, here).unwrap()
        );
        let long = TargetName::new("x".repeat(63)).unwrap();
        assert!(tenant("id=1").target(&long, here).is_ok());
    }
}
