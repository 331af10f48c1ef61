//! Vocabulary and ports of the data manager.
//!
//! This crate says *what* the system talks about and *what an engine can be asked*; it does nothing itself. It
//! knows no driver, no SQL, no object store, no command line and no web framework, and it must stay that way: every
//! other crate depends on it, so whatever it knows, everything knows.
//!
//! - [`Engine`] is the one port an adapter implements; its accessors hand out the capability ports.
//! - [`OpContext`] travels through every call: who acts, in which run, by which clock, until when.
//! - [`Error`] is the one error at the ports; its [`Effect`] says whether anything happened.

mod access;
mod actor;
mod audit;
mod backup;
mod bytesize;
mod capture;
mod context;
mod digest;
mod engine;
mod error;
mod finding;
mod ids;
mod log;
mod migrate;
mod period;
mod plan;
mod query;
mod restore;
mod schema;
mod secret;

pub use access::{Action, Grant, Permissions, Resource, Role};
pub use actor::Actor;
pub use audit::{AuditEvent, AuditIntent, AuditOutcome, AuditSink};
pub use backup::{
    BackupKind, BackupMode, BackupRequest, BackupSession, BackupSource, BaseBackup, Block, BlockStream,
    ConsistencyPoint, Layout, MemberKind, MemberSpec, Preflight, SessionSummary, SourceDescription,
    TenantFilter,
};
pub use bytesize::ByteSize;
pub use capture::{
    CaptureRequest, CaptureSource, CaptureStatus, CapturedTable, ChangeKind, RowChange, TableName, exact_json,
};
pub use context::{Clock, NoProgress, OpContext, Progress, ProgressSink, SystemClock};
pub use digest::{ContentDigest, RowHasher, TableFacts};
pub use engine::{Capabilities, Engine, EngineKind, Health, ServerVersion};
pub use error::{Effect, Error, ErrorKind, Result};
pub use finding::{Finding, Level};
pub use ids::{BackupId, EngineId, RepositoryId, RunId, TargetName};
pub use log::{
    LogEvent, LogFile, LogHead, LogHolder, LogName, LogPiece, LogPosition, LogReader, LogRequest, LogSession,
    LogSource, LogSpan,
};
pub use migrate::{
    BackfillProgress, BackfillRecord, BackfillRequest, BackfillSession, Direction, Doubt, ForeignEntry,
    ForeignTool, HistoryEntry, MigrationSession, MigrationSettings, MigrationState, MigrationTarget,
    ScriptFailure, ScriptStatement, StartedStatement, StatementKind, TableSize,
};
pub use period::Period;
pub use plan::PlanDigest;
pub use query::{
    AccessMode, Isolation, QueryPort, Row, RowStream, Statement, Transaction, TransactionOptions, Value,
};
pub use restore::{
    CheckDepth, Comparison, Destination, RecoveryPoint, RestoreBlock, RestoreContent, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, RestoreTarget, Restored, TableComparison,
};
pub use schema::{
    Alteration, SchemaChange, SchemaObject, SchemaScript, SchemaSnapshot, SchemaSource, Shadow, ShadowPlace,
    ShadowScript, TracedLock, TracedStatement,
};
pub use secret::{Secret, redact_url};
