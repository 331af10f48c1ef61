//! The port of an engine that can be restored into.
//!
//! A restore goes to a new place first, stays *sealed* there (nobody else may connect or open it), is compared with
//! what the backup recorded, and is then released to its final name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    BlockStream, ConsistencyPoint, Error, Finding, LogReader, MemberSpec, OpContext, QueryPort, Result,
    SourceDescription, TableFacts, TenantFilter,
};

/// Where the data goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A new database or file beside the engine's own, under this name (a database name, a path), or one that the
    /// adapter chooses. It must not exist, or be empty.
    New(Option<String>),
    /// The engine's own database. What stands there is kept under another name until the restored one is proven. With
    /// named tables or a tenant, only their rows take the place of those there; everything else stays as it is.
    InPlace,
}

/// How far the log is replayed on top of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPoint {
    /// Just to the moment that the backup shows.
    #[default]
    Backup,
    /// To the end of the log that there is.
    End,
    /// To an instant: the last transaction that committed by then is in.
    Time(DateTime<Utc>),
    /// To a position of the log, in the engine's own form.
    Position(String),
    /// To a named restore point.
    Name(String),
    /// To a transaction, which is in.
    Transaction(String),
}

impl fmt::Display for RecoveryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup => f.write_str("the moment of the backup"),
            Self::End => f.write_str("the end of the log"),
            Self::Time(at) => write!(f, "{}", at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
            Self::Position(position) => write!(f, "position {position}"),
            Self::Name(name) => write!(f, "restore point \"{name}\""),
            Self::Transaction(id) => write!(f, "transaction {id}"),
        }
    }
}

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Where to.
    pub destination: Destination,
    /// Only these tables (names or patterns), all when empty.
    pub tables: Vec<String>,
    /// The most connections (or writing threads) at once.
    pub jobs: usize,
    /// Key of the content digests.
    pub digest_key: [u8; 32],
    /// Where the engine may put temporary files.
    pub scratch_dir: Option<PathBuf>,
    /// How far the log is replayed.
    pub until: RecoveryPoint,
    /// Whether the point itself is left out: the last transaction before it is the last one in.
    pub exclusive: bool,
    /// The log, where there is one; needed for every point but the backup's own.
    pub log: Option<Arc<dyn LogReader>>,
    /// Only the rows of one tenant and what they refer to.
    pub tenant: Option<TenantFilter>,
    /// What stands at the destination and matches is kept, the rest is fetched; nothing is copied aside first.
    pub delta: bool,
    /// How much the comparison looks at.
    pub checks: CheckDepth,
    /// The engine's own answers to questions that only it has (`where the server's programs are`), from the command
    /// line or the configuration.
    pub settings: BTreeMap<String, String>,
}

impl RestoreRequest {
    /// A restore of everything to a destination, with the defaults.
    #[must_use]
    pub fn to(destination: Destination) -> Self {
        Self {
            destination,
            tables: Vec::new(),
            jobs: 2,
            digest_key: [0; 32],
            scratch_dir: None,
            until: RecoveryPoint::Backup,
            exclusive: false,
            log: None,
            tenant: None,
            delta: false,
            checks: CheckDepth::Standard,
            settings: BTreeMap::new(),
        }
    }
}

/// How much a restored place is checked before it is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckDepth {
    /// Nothing is started or run: the place is written, ready to be started by a person.
    None,
    /// Content digests, and that the engine starts and calls it consistent.
    #[default]
    Standard,
    /// Also everything that the engine can check itself, at the price of reading it all: indexes against tables, every
    /// page's checksum.
    Deep,
}

/// What a backup offers to a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreManifest {
    /// What was backed up.
    pub source: SourceDescription,
    /// Its members with their true sizes in bytes.
    pub members: Vec<(MemberSpec, u64)>,
    /// What it recorded of the tables.
    pub tables: Vec<TableFacts>,
}

/// What a restore would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestorePreview {
    /// The final place, without secrets.
    pub location: String,
    /// What happens to what stands there now, one sentence each.
    pub consequences: Vec<String>,
    /// What was looked at; a finding of level `Error` stops the restore.
    pub findings: Vec<Finding>,
    /// Indices into [`RestoreManifest::members`] of what will be written.
    pub members: Vec<usize>,
    /// Bytes that will be written, before indexes.
    pub bytes: u64,
    /// The last point that will be in, where it is known before: what comes after is lost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reaches: Option<ConsistencyPoint>,
    /// What the adapter wants to remember from here to `open`.
    #[serde(default)]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

/// A piece of a member on its way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreBlock {
    /// Where it belongs in the member. Ascending; a gap is a hole of zeros (only in members of pages).
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// A member's content on its way back.
pub type RestoreContent = BoxStream<'static, Result<RestoreBlock>>;

/// One table compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableComparison {
    /// What the backup recorded.
    pub expected: TableFacts,
    /// What stands there now; `None` when the table is missing.
    pub found: Option<TableFacts>,
    /// Whether count and digest agree (the count alone where the backup has no digest).
    pub equal: bool,
}

/// The proof of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Table by table.
    pub tables: Vec<TableComparison>,
    /// The engine's own checks: integrity_check, invalid indexes ...
    pub checks: Vec<Finding>,
}

impl Comparison {
    /// Whether everything agrees.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.tables.iter().all(|t| t.equal) && self.checks.iter().all(|c| c.level < crate::Level::Error)
    }
}

/// The end of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Where it is now, without secrets.
    pub location: String,
    /// Where what stood there before was kept, if anything.
    pub previous: Option<String>,
    /// The last point that is in, where the engine told it: the last commit that the log brought, its position.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reached: Option<ConsistencyPoint>,
    /// What a person has to know or do next: a temporary setting to take out, files to be moved by hand.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// An engine that can be restored into.
#[async_trait]
pub trait RestoreTarget: Send + Sync {
    /// Says what a restore would do. Reads only.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; `Unsupported` when the backup is of another engine; `NotFound` for a named table
    /// that the backup lacks. A non-empty destination is a finding of level `Error`.
    async fn preview(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
    ) -> Result<RestorePreview>;

    /// Makes the sealed place.
    ///
    /// # Errors
    /// `AlreadyExists`, `Denied`, `Exhausted`.
    async fn open(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
        preview: &RestorePreview,
    ) -> Result<Box<dyn RestoreSession>>;

    /// Opens a place that [`RestoreSession::keep`] left sealed, by the name that it gave.
    ///
    /// # Errors
    /// `NotFound` when there is no such place, or it was not left by a restore; `AlreadyExists` when its final name is
    /// taken.
    async fn release_sealed(&self, _ctx: &OpContext, _location: &str) -> Result<Restored> {
        Err(Error::unsupported("restores of this engine leave no sealed places"))
    }
}

/// A restore under way. Dropping it without [`release`](Self::release) or [`discard`](Self::discard) leaves the
/// sealed place behind for a person to look at; it never becomes the final one.
#[async_trait]
pub trait RestoreSession: Send + Sync {
    /// Indices into the manifest's members: stages run one after the other, the members of a stage in any order and
    /// up to `jobs` at once.
    fn stages(&self) -> Vec<Vec<usize>>;

    /// Where the sealed place is, without secrets, for whoever must look at it or remove it by hand; `None` when its
    /// name would help nobody.
    fn location(&self) -> Option<String> {
        None
    }

    /// Writes one member.
    ///
    /// # Errors
    /// The content's own error; `Exhausted`, `Unreachable`, `Denied`.
    async fn write(&self, ctx: &OpContext, member: &MemberSpec, content: RestoreContent) -> Result<()>;

    /// Everything that comes after the data: indexes, constraints, statistics. The place stays sealed.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    async fn finish(&self, ctx: &OpContext) -> Result<()>;

    /// Compares what stands there with what was recorded, and runs the engine's own checks. The place stays sealed.
    ///
    /// # Errors
    /// `Unreachable`; a difference is no error but a line of the comparison.
    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison>;

    /// What the destination has of a member already, to be compared with the backup so that only what differs is
    /// fetched; `None` when there is nothing. Asked before [`write`](Self::write), which then gets only what differs.
    ///
    /// # Errors
    /// `Denied`, `Unreachable`.
    async fn present(&self, _ctx: &OpContext, _member: &MemberSpec) -> Result<Option<BlockStream>> {
        Ok(None)
    }

    /// Statements against the sealed place, after [`finish`](Self::finish): the questions of a drill, the application's
    /// own checks. `None` where the engine has no statements, or nothing runs there ([`CheckDepth::None`]).
    ///
    /// # Errors
    /// `Unreachable`.
    async fn statements(&self, _ctx: &OpContext) -> Result<Option<Arc<dyn QueryPort>>> {
        Ok(None)
    }

    /// Leaves the place sealed and in good order, and says how it is called; [`RestoreTarget::release_sealed`] opens it.
    ///
    /// # Errors
    /// `Unsupported` where a sealed place cannot outlive its session.
    async fn keep(self: Box<Self>, _ctx: &OpContext) -> Result<String> {
        Err(Error::unsupported("a sealed place of this engine cannot be kept"))
    }

    /// Opens the place to others under its final name.
    ///
    /// # Errors
    /// `AlreadyExists` when somebody took the name meanwhile; the sealed place is then kept and named.
    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored>;

    /// Removes the sealed place.
    ///
    /// # Errors
    /// `Unreachable`; the error names what is left.
    async fn discard(self: Box<Self>, ctx: &OpContext) -> Result<()>;
}
