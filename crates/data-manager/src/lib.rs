//! The data manager as a library: one [`DataManager`] over engines, a backup repository and an audit trail.
//!
//! ```no_run
//! # async fn example() -> data_manager::Result<()> {
//! use data_manager::{BackupOptions, DataManager, RestoreOptions};
//!
//! let dm = DataManager::builder()
//!     .engine("shop", "postgres://backup@localhost/shop")?
//!     .repository("/var/backups/shop")
//!     .build()?;
//! let report = dm.backup().run(&dm.context(), &BackupOptions::default()).await?;
//! let plan = dm.plan_restore(&dm.context(), &RestoreOptions::default()).await?;
//! let restored = dm.apply_restore(&dm.context(), plan).await?;
//! assert!(restored.equal);
//! # Ok(())
//! # }
//! ```
//!
//! Every operation takes an [`OpContext`] (who acts, by which clock, until when, how it is stopped, where progress goes) and
//! runs through one pipeline: permission check, durable intent, work, recorded outcome. What the command line can do, this
//! crate can do under the same name.

mod anchors;
mod audit;
mod audit_retention;
mod backups;
mod builder;
mod captures;
pub mod config;
mod doctor;
mod drills;
mod engines;
mod health;
mod holds;
mod keys;
mod logs;
mod manager;
mod migrations;
mod operations;
mod pipeline;
mod places;
mod production;
mod query;
mod recovery;
mod repositories;
mod restores;
mod schemas;
mod status;
mod targets;
mod webhook;

pub use audit::{AnchorStatus, AuditKey, AuditStatus, AuditVerifyOptions, Audits};
pub use audit_retention::{AuditExpirePlan, AuditExpireReport};
pub use backups::{BackupOptions, Backups, NewKey};
pub use builder::DataManagerBuilder;
pub use captures::{CaptureRemoval, Captures, DrainOptions, DrainReport};
pub use config::Config;
pub use dm_audit as audit_trail;
pub use dm_backup as backup;
pub use dm_backup::{
    Fetched, LogHole, LogStatusReport, PushReport, ServerLog, ShipEnd, ShipReport, StreamStatus, TargetLog,
};
pub use dm_core::{
    AccessMode, Action, Actor, AuditOutcome, BackupId, BackupKind, BackupMode, BackupRequest, ByteSize,
    CheckDepth, Clock, Comparison, ConsistencyPoint, ContentDigest, Destination, Effect, Engine, EngineId,
    EngineKind, Error, ErrorKind, Finding, Grant, Health, Isolation, Level, NoProgress, OpContext, Period,
    Permissions, PlanDigest, Preflight, Progress, ProgressSink, RecoveryPoint, RepositoryId, Resource,
    Restored, Result, Row, RowStream, RunId, Secret, Statement, SystemClock, TableComparison, TableFacts,
    TargetName, TenantFilter, Transaction, TransactionOptions, Value, redact_url,
};
pub use dm_core::{BackfillProgress, BackfillRequest, Direction, ForeignTool, HistoryEntry, MigrationState};
pub use dm_core::{CaptureRequest, CaptureStatus, CapturedTable, TableName};
pub use dm_core::{LogHead, LogHolder, LogPosition, LogSpan};
pub use dm_core::{SchemaChange, SchemaObject, TracedLock, TracedStatement};
pub use dm_embed::embed_migrations;
pub use dm_lint as lint;
pub use dm_migrate as migration;
pub use dm_migrate::{
    BackfillPace, BackfillReport, EmbeddedFile, Goal, MigrationPlan, MigrationReport, Resolution, SeedReport,
    Standing, StatementVerdict,
};
pub use dm_repository as repository;
pub use dm_store::{Order, Page, ProofKind, RecoveryProof};
pub use doctor::{DoctorReport, DoctorSection};
pub use drills::DrillOptions;
pub use health::EngineHealth;
pub use logs::{DroppedHolder, FetchLogOptions, Logs, PushLogOptions, ShipLogOptions};
pub use manager::DataManager;
pub use migrations::{MigrateOptions, MigrationSource, Migrations};
pub use operations::{EventKind, OperationKind};
pub use places::{PRIMARY, PlaceCopy, PlaceStatus};
pub use production::LintReport;
pub use restores::{RestoreOptions, RestorePlan};
pub use schemas::{PlannedLocks, WrittenMigration};
pub use status::{KeyStatus, StatusReport, TargetStatus, Verdict};
