//! Every environment variable that is listened to, in one table: which setting it makes, and in which unit a bare number is.

/// What a bare number in an environment variable means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// The variable is written as in the file.
    AsInFile,
    Seconds,
    Milliseconds,
    Days,
}

/// How strong an environment variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    /// Overrides the file.
    Overrides,
    /// Fills in what neither the file nor a stronger variable says: names that other programs share.
    FillsIn,
    /// Decides where to look or which profile counts, before any setting is read.
    Chooses,
}

/// An environment variable that is listened to.
#[derive(Debug)]
pub(super) struct EnvName {
    pub(super) name: &'static str,
    /// The setting; its engine is the default one (see docs/configuration.md). Empty for [`Strength::Chooses`].
    pub(super) key: &'static str,
    pub(super) unit: Unit,
    pub(super) strength: Strength,
    pub(super) doc: &'static str,
}

const fn env(name: &'static str, key: &'static str, unit: Unit, doc: &'static str) -> EnvName {
    EnvName { name, key, unit, strength: Strength::Overrides, doc }
}

const fn fills(name: &'static str, key: &'static str) -> EnvName {
    EnvName { name, key, unit: Unit::AsInFile, strength: Strength::FillsIn, doc: "for stores on S3 only" }
}

const fn chooses(name: &'static str, doc: &'static str) -> EnvName {
    EnvName { name, key: "", unit: Unit::AsInFile, strength: Strength::Chooses, doc }
}

/// The environment variables. Where two fill in the same setting, the earlier wins.
pub(super) const ENVIRONMENT: &[EnvName] = &[
    chooses("DM_PROFILE", "name of the profile, unless `--profile` says it"),
    chooses(
        "NODE_ENV",
        "name of the profile, unless `--profile` or DM_PROFILE says it; a name that is no profile counts for nothing",
    ),
    chooses("XDG_CONFIG_HOME", "folder of `dm/dm.toml`; `~/.config` when not set"),
    chooses("XDG_STATE_HOME", "folder of `dm/state.db`; `~/.local/state` when not set"),
    env(
        "DATABASE_URL",
        "engines.main.url",
        Unit::AsInFile,
        "makes or overrides the engine `main`; left alone when the file has engines and none is `main`",
    ),
    env("SHADOW_DATABASE_URL", "engines.main.shadow_url", Unit::AsInFile, ""),
    env("DB_POOL_MAX", "engines.main.pool_max", Unit::AsInFile, ""),
    env("DB_POOL_CONNECTION_TIMEOUT", "engines.main.acquire_timeout", Unit::Seconds, ""),
    env("DB_CONNECT_TIMEOUT", "engines.main.connect_timeout", Unit::Seconds, ""),
    env("DB_QUERY_TIMEOUT", "engines.main.query_timeout", Unit::Milliseconds, ""),
    env("DB_IDLE_TIMEOUT", "engines.main.idle_timeout", Unit::Milliseconds, ""),
    env("BACKUP_ENABLED", "backup.enabled", Unit::AsInFile, ""),
    env("BACKUP_SCHEDULE", "backup.schedule", Unit::AsInFile, "cron, five fields"),
    env("BACKUP_RETENTION_DAYS", "repository.retention.within", Unit::Days, ""),
    env("BACKUP_DIR", "repository.url", Unit::AsInFile, "folder; relative to the working folder"),
    env(
        "BACKUP_S3_BUCKET",
        "repository.url",
        Unit::AsInFile,
        "bucket or `bucket/prefix`; beside a folder it becomes `repository.secondary.s3`",
    ),
    env("BACKUP_S3_REGION", "repository.region", Unit::AsInFile, "of whichever place is on S3"),
    env("BACKUP_ENCRYPTION_ENABLED", "repository.encryption", Unit::AsInFile, ""),
    env(
        "BACKUP_ENCRYPTION_KEY",
        "repository.passphrase",
        Unit::AsInFile,
        "passphrase of the identity file, not a key",
    ),
    fills("AWS_ACCESS_KEY_ID", "repository.access_key"),
    fills("AWS_SECRET_ACCESS_KEY", "repository.secret_key"),
    fills("AWS_SESSION_TOKEN", "repository.session_token"),
    fills("AWS_REGION", "repository.region"),
    fills("AWS_DEFAULT_REGION", "repository.region"),
    fills("AWS_ENDPOINT_URL_S3", "repository.endpoint"),
    fills("AWS_ENDPOINT_URL", "repository.endpoint"),
    env("SOFT_DELETE_GRACE_PERIOD_DAYS", "retention.soft_delete_grace_days", Unit::AsInFile, ""),
    env("PERMANENT_DELETE_SCHEDULE", "retention.purge_schedule", Unit::AsInFile, "cron, five fields"),
    env("DB_MONITORING_ENABLED", "monitoring.enabled", Unit::AsInFile, ""),
    env("DB_CONNECTION_TIME_THRESHOLD", "monitoring.connection_time_threshold_ms", Unit::AsInFile, ""),
    env("DB_QUERY_TIME_THRESHOLD", "monitoring.query_time_threshold_ms", Unit::AsInFile, ""),
    env("DB_CONNECTION_COUNT_THRESHOLD", "monitoring.connection_count_threshold", Unit::AsInFile, ""),
];
