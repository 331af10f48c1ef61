//! Every operation of the facade, in one list.
//!
//! The pipeline takes nothing else, so an operation that is not here cannot be written, and a test that matches on all of
//! them does not compile until it says how a new one leaves its records.

use dm_audit::{CHANGE, LogFilter};
use dm_core::Action;

macro_rules! operations {
    ($($name:ident => $mode:ident $area:literal $verb:literal;)*) => {
        /// An operation of the facade, by what stands for it in the access rules and in the trail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum OperationKind {
            $(#[doc = concat!("`", $area, ":", $verb, "`.")] $name,)*
        }

        impl OperationKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The action.
            #[must_use]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$mode($area, $verb),)*
                }
            }
        }
    };
}

operations! {
    AuditLog => read "audit" "log";
    AuditVerify => read "audit" "verify";
    AuditCheckpoint => read "audit" "checkpoint";
    AuditProve => read "audit" "prove";
    AuditKey => read "audit" "key";
    AuditErase => write "audit" "erase";
    AuditPlan => read "audit" "plan";
    AuditExpire => write "audit" "expire";
    AuditReplaceKey => write "audit" "replace-key";
    BackupPlan => read "backup" "plan";
    BackupRun => write "backup" "run";
    BackupList => read "backup" "list";
    BackupShow => read "backup" "show";
    BackupVerify => write "backup" "verify";
    BackupExpire => write "backup" "expire";
    BackupDelete => write "backup" "delete";
    BackupPin => write "backup" "pin";
    BackupUnpin => write "backup" "unpin";
    BackupExport => write "backup" "export";
    BackupDrill => write "backup" "drill";
    BackupHold => write "backup" "hold";
    BackupRelease => write "backup" "release";
    BackupRewrite => write "backup" "rewrite";
    BackupCopy => write "backup" "copy";
    BackupRepair => write "backup" "repair";
    CaptureInstall => write "capture" "install";
    CaptureStatus => read "capture" "status";
    CaptureRemove => write "capture" "remove";
    CaptureDrain => write "capture" "drain";
    Doctor => read "system" "doctor";
    Health => read "monitor" "show";
    KeyNew => write "key" "new";
    KeyList => read "key" "list";
    KeyPlan => read "key" "plan";
    KeyRewrap => write "key" "rewrap";
    LogShip => write "log" "ship";
    LogPush => write "log" "push";
    LogFetch => write "log" "fetch";
    LogStatus => read "log" "status";
    LogDropSlot => write "log" "drop-slot";
    MigrateStatus => read "migrate" "status";
    MigratePlan => read "migrate" "plan";
    MigrateLint => read "migrate" "lint";
    MigrateDrift => read "migrate" "drift";
    MigrateNew => write "migrate" "new";
    MigrateUp => write "migrate" "up";
    MigrateDown => write "migrate" "down";
    MigrateRedo => write "migrate" "redo";
    MigrateResolve => write "migrate" "resolve";
    MigrateBaseline => write "migrate" "baseline";
    MigrateSeed => write "migrate" "seed";
    MigrateBackfill => write "migrate" "backfill";
    MigrateResume => write "migrate" "resume";
    Query => read "query" "query";
    Execute => write "query" "execute";
    RestorePlan => read "restore" "plan";
    RestoreRun => write "restore" "run";
    RestoreRelease => write "restore" "release";
    Status => read "system" "status";
}

impl OperationKind {
    /// Whether it hands out data of the databases, in clear: what a report of who read what is about.
    #[must_use]
    pub const fn reads_data(self) -> bool {
        matches!(
            self,
            Self::Query
                | Self::Execute
                | Self::BackupExport
                | Self::BackupCopy
                | Self::RestoreRun
                | Self::RestoreRelease
                | Self::BackupDrill
                | Self::LogFetch
                | Self::AuditLog
                | Self::AuditProve
        )
    }
}

/// A kind of lines of the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// What this system did: everything but recorded changes.
    Operation,
    /// Changes of rows that an engine recorded.
    Change,
    /// What handed out data of the databases: see [`OperationKind::reads_data`].
    Access,
}

impl EventKind {
    /// Lets a filter match lines of this kind only. It takes the filter's lists of actions; the prefix stays the caller's.
    pub fn narrow(self, filter: &mut LogFilter) {
        filter.not_action_prefix = (self == Self::Operation).then(|| CHANGE.to_owned());
        filter.actions = match self {
            Self::Operation => Vec::new(),
            Self::Change => {
                ["insert", "update", "delete", "truncate", "unknown"].map(|w| format!("{CHANGE}{w}")).into()
            }
            Self::Access => OperationKind::ALL
                .iter()
                .filter(|kind| kind.reads_data())
                .map(|kind| kind.action().to_string())
                .collect(),
        };
    }
}
