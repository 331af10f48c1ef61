//! The port of an engine that can be restored into.
//!
//! A restore goes to a new place first, stays *sealed* there (nobody else may connect or open it), is compared with
//! what the backup recorded, and is then released to its final name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Finding, MemberSpec, OpContext, Result, SourceDescription, TableFacts};

/// Where the data goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A new database or file beside the engine's own, under this name (a database name, a path), or one that the
    /// adapter chooses. It must not exist, or be empty.
    New(Option<String>),
    /// The engine's own database. What stands there is kept under another name until the restored one is proven.
    InPlace,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Where it is now, without secrets.
    pub location: String,
    /// Where what stood there before was kept, if anything.
    pub previous: Option<String>,
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
