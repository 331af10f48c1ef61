//! The configuration in its types: what the rest of the program reads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dm_backup::{Expect, HookFailure, HookPhase};
use dm_core::{BackupKind, BackupMode, ByteSize, CheckDepth, EngineId, Grant, Period, Secret};

use super::cron::CronSchedule;

/// One database, `[engines.<name>]`. A timeout of `None` means no limit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Connection URL, with those of Prisma's parameters that no other setting overrules.
    pub url: Secret,
    /// The schema that unqualified table names mean.
    pub schema: Option<String>,
    /// Most connections at once.
    pub pool_max: u32,
    /// Longest wait for a free connection of the pool.
    pub acquire_timeout: Option<Duration>,
    /// Longest wait for a new connection.
    pub connect_timeout: Option<Duration>,
    /// Longest single statement of queries; never applied to a backup or a restore.
    pub query_timeout: Option<Duration>,
    /// An unused connection is closed after this.
    pub idle_timeout: Option<Duration>,
    /// Folder of the client tools; `None` means PATH.
    pub bin_dir: Option<PathBuf>,
    /// Where the files of its migrations lie, where that is not `[migrate]`'s folder.
    pub migrations: Option<PathBuf>,
    /// An empty database where migrations are tried out; one is made for the moment without it.
    pub shadow_url: Option<Secret>,
}

impl EngineConfig {
    /// An engine at a URL, everything else by default.
    #[must_use]
    pub fn for_url(url: Secret) -> Self {
        Self {
            url,
            schema: None,
            pool_max: 10,
            acquire_timeout: Some(Duration::from_secs(20)),
            connect_timeout: Some(Duration::from_secs(10)),
            query_timeout: Some(Duration::from_secs(60)),
            idle_timeout: Some(Duration::from_secs(600)),
            bin_dir: None,
            migrations: None,
            shadow_url: None,
        }
    }
}

/// A place for backups and how to get in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PlaceConfig {
    /// An absolute folder, or `s3://…`, `gs://…`, `az://…`; holds no password.
    pub url: String,
    /// Address of an S3-compatible service.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Access key id.
    pub access_key: Option<Secret>,
    /// Secret access key.
    pub secret_key: Option<Secret>,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Service account file.
    pub credentials_file: Option<PathBuf>,
    /// Lets an endpoint be `http://`.
    pub allow_http: bool,
    /// Server-side encryption.
    pub sse: Option<String>,
    /// Storage class of new objects.
    pub storage_class: Option<String>,
    /// The bucket locks objects: what is written carries the checksum that S3 then asks for.
    pub object_lock: bool,
}

/// `[repository]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RepositoryConfig {
    /// Where backups are kept.
    pub place: PlaceConfig,
    /// Further places by name. The environment's bucket beside a folder is called `s3`. Each receives a copy of every backup.
    pub secondary: BTreeMap<String, PlaceConfig>,
    /// Whether a new repository is encrypted.
    pub encryption: bool,
    /// Public keys (`age1…`).
    pub recipients: Vec<String>,
    /// Files with the private keys.
    pub identity_files: Vec<PathBuf>,
    /// File with the index key.
    pub index_identity_file: Option<PathBuf>,
    /// Passphrase of the identity files.
    pub passphrase: Option<Secret>,
    /// Compression level, 1 to 19.
    pub zstd_level: i32,
    /// Threads that compress, hash and decompress, at least 1.
    pub threads: usize,
    /// Most bytes held at once.
    pub memory: ByteSize,
    /// Size of the packs of a new repository.
    pub pack_size: ByteSize,
    /// Members read or restored at once, at least 1.
    pub jobs: usize,
    /// Most requests at once to one place, at least 1.
    pub connections: usize,
    /// Most bytes a second to and from the repository.
    pub rate_limit: Option<ByteSize>,
    /// Which backups stay.
    pub retention: BackupRetentionConfig,
}

/// `[repository.retention]`: which backups stay. A number of 0 switches its rule off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupRetentionConfig {
    /// The newest so many full backups.
    pub keep_last: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Every full backup of this period.
    pub within: Option<Period>,
    /// So many verified full backups stay, whatever their age.
    pub min_verified_full: u32,
    /// Differential and incremental backups of this period.
    pub incremental_within: Period,
    /// How far before the newest backup every instant stays within reach of the shipped log.
    pub log_within: Period,
    /// For how long after its last backup the database before a major upgrade is judged by itself as well.
    pub superseded_within: Period,
}

/// What is checked after a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerifyAfter {
    /// Nothing.
    Off,
    /// The objects exist and have their sizes.
    Quick,
    /// Every digest of stored bytes.
    Stored,
    /// Decrypts and decompresses too; needs the private key.
    Full,
}

/// How programs treat everything else on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Priority {
    /// They give way.
    Low,
    /// They do not.
    Normal,
}

/// `[backup]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackupConfig {
    /// Whether scheduled backups are made. Read, used from a later release.
    pub enabled: bool,
    /// When, in the configuration's zone. Read, used from a later release.
    pub schedule: CronSchedule,
    /// Rows or files; the engine's own way when `None`.
    pub mode: Option<BackupMode>,
    /// The kind of a backup that nobody says the kind of.
    pub kind: BackupKind,
    /// What is checked afterwards.
    pub verify_after: VerifyAfter,
    /// How the programs run it. The library leaves its host's priority alone.
    pub priority: Priority,
    /// Only these tables; all when empty.
    pub include_tables: Vec<String>,
    /// Not these tables.
    pub exclude_tables: Vec<String>,
}

/// `[backup.hook.<name>]`: what runs before, during and after a backup.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HookConfig {
    /// Its name.
    pub name: String,
    /// When.
    pub when: HookPhase,
    /// What.
    pub does: HookDoes,
    /// How long it may take; the default's when `None`.
    pub timeout: Option<Duration>,
    /// What it means when it fails.
    pub on_failure: HookFailure,
}

/// What a hook does.
#[derive(Clone, Debug)]
pub enum HookDoes {
    /// Runs a line of the shell.
    Command(String),
    /// Posts to an address.
    Webhook(Secret),
}

/// `[backup.targets.<name>]`: what is backed up under a name, everything that it does not say taken from `[backup]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetConfig {
    /// The engine.
    pub engine: EngineId,
    /// How and when.
    pub backup: BackupConfig,
}

/// `[log]`: shipping the log of a database. A time of `None` means: not at all by time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// The replication slot that holds the log on the server until it is shipped.
    pub slot: String,
    /// The longest that log waits before it is sealed in the repository, while there is traffic.
    pub seal_every: Option<Duration>,
    /// How often the server is asked for more.
    pub poll: Option<Duration>,
}

/// `[migrate]`: migrations. A time of `None` means no limit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MigrateConfig {
    /// Where the files lie.
    pub folder: PathBuf,
    /// Where the files of seeds lie.
    pub seeds: PathBuf,
    /// The table of the history.
    pub table: String,
    /// Longest wait of a statement for a lock of the database.
    pub lock_timeout: Option<Duration>,
    /// How often a statement is tried that does not get its lock in time, at least once.
    pub attempts: u32,
    /// Longest single statement.
    pub statement_timeout: Option<Duration>,
    /// Longest wait for another runner.
    pub wait: Option<Duration>,
    /// Whether sqlx's history is kept in step.
    pub keep_sqlx: bool,
    /// Whether every `up` is one of production.
    pub production: bool,
    /// How old the verified backup of production may be.
    pub backup_within: Period,
    /// The engine on which the same files must have been applied before.
    pub staging: Option<String>,
    /// Columns whose personal data is classified: `table.column` or `table.*`.
    pub classified: Vec<String>,
}

/// `[recovery]`: restores and drills.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryConfig {
    /// How much a restore checks.
    pub checks: CheckDepth,
    /// Run by the shell before a restore begins.
    pub stop_command: Option<String>,
    /// Run by the shell when a restore was released.
    pub start_command: Option<String>,
    /// The user that a restored server runs as, where the restore runs as root.
    pub run_as: Option<String>,
    /// Folder of the server's programs.
    pub bin_dir: Option<PathBuf>,
    /// A proof of restore older than this no longer counts.
    pub drill_max_age: Period,
    /// Questions to a restored database, by name.
    pub check: BTreeMap<String, CheckConfig>,
}

/// `[recovery.check.<name>]`: a question to a restored database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckConfig {
    /// The statement; one that reads.
    pub sql: String,
    /// The right answer.
    pub expect: Expect,
    /// The engine whose restores are asked; every one when `None`.
    pub engine: Option<EngineId>,
}

/// `[store]`: the system's own state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreConfig {
    /// An absolute path, `sqlite:///path`, or `postgres://…`.
    pub url: Secret,
}

/// `[audit]`: the trail's signed heads.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditConfig {
    /// File with the private key; beside the state when `None`.
    pub key_file: Option<PathBuf>,
    /// Name of the log, for a new key.
    pub origin: Option<String>,
    /// Where signed checkpoints are taken to.
    pub anchors: Vec<String>,
    /// Longest wait for one of those places.
    pub anchor_timeout: Option<Duration>,
    /// How long the details of events are kept; for ever when `None`.
    pub retention: Option<Period>,
    /// Events whose details are kept whatever their age.
    pub holds: Vec<String>,
}

/// `[access]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessConfig {
    /// Roles of the local user.
    pub default_actor_roles: Vec<String>,
    /// Roles beside the built-in ones; one of a built-in name replaces it.
    pub roles: BTreeMap<String, Vec<Grant>>,
}

/// `[retention]`. Read, used from a later release.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// Days that a soft-deleted row stays.
    pub soft_delete_grace_days: u32,
    /// When soft-deleted rows are purged.
    pub purge_schedule: CronSchedule,
}

/// `[monitoring]`. Read, used from a later release.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MonitoringConfig {
    /// Whether the databases are watched.
    pub enabled: bool,
    /// A slower connection raises an alert.
    pub connection_time_threshold_ms: u64,
    /// A slower query raises an alert.
    pub query_time_threshold_ms: u64,
    /// More open connections raise an alert.
    pub connection_count_threshold: u32,
}
