//! Every setting there is, in one table: what it is called, how it is written and what it is without being set. Checking,
//! defaults, the template of `dm init` and the tables of docs/configuration.md are all made from here, so that they cannot
//! disagree.

use super::kind::Kind;

/// One setting. A `*` in the path stands for a name that the user chooses.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// As a person would write it, without quotes; `None` where the setting may be left out altogether.
    pub(super) default: Option<&'static str>,
    /// What the template shows where there is no default.
    pub(super) example: &'static str,
    pub(super) doc: &'static str,
    /// Read and checked, but nothing acts on it before a later release.
    pub(super) later: bool,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { path, kind, default, example, doc, later: false }
}

/// The same, but nothing acts on it yet.
const fn soon(key: Key) -> Key {
    Key { later: true, ..key }
}

const MODES: Kind = Kind::Choice(&["logical", "physical"]);
const CHECKS: Kind = Kind::Choice(&["none", "standard", "deep"]);
const KINDS: Kind = Kind::Choice(&["full", "differential", "incremental"]);
const VERIFY: Kind = Kind::Choice(&["off", "quick", "stored", "full"]);
const WHEN: Kind = Kind::Choice(&["before", "during", "after", "failed"]);
const PRIORITY: Kind = Kind::Choice(&["low", "normal"]);
const ON_FAILURE: Kind = Kind::Choice(&["abort", "warn"]);
const MANY: Kind = Kind::Count { min: 0, max: 100_000 };

/// The settings, in the order in which documents and templates show them.
pub(super) const KEYS: &[Key] = &[
    key(
        "zone",
        Kind::Zone,
        Some("UTC"),
        "",
        "IANA time zone of schedules and of the days that retention counts",
    ),
    key(
        "engines.*.url",
        Kind::SecretUrl,
        None,
        "${DATABASE_URL}",
        "connection URL: `postgres://user@host/database`, `sqlite://path` or a path",
    ),
    key(
        "engines.*.schema",
        Kind::Text,
        None,
        "public",
        "the schema that unqualified table names mean (PostgreSQL)",
    ),
    key(
        "engines.*.pool_max",
        Kind::Auto { min: 1, max: 1000 },
        Some("10"),
        "",
        "most connections at once; `auto` is twice the processor cores plus one",
    ),
    key(
        "engines.*.acquire_timeout",
        Kind::Timeout,
        Some("20s"),
        "",
        "longest wait for a free connection of the pool",
    ),
    key("engines.*.connect_timeout", Kind::Timeout, Some("10s"), "", "longest wait for a new connection"),
    key(
        "engines.*.query_timeout",
        Kind::Timeout,
        Some("60s"),
        "",
        "longest single statement of `dm query` and the library; never cuts a backup or restore short",
    ),
    key(
        "engines.*.idle_timeout",
        Kind::Timeout,
        Some("10m"),
        "",
        "an unused connection is closed after this",
    ),
    key(
        "engines.*.bin_dir",
        Kind::Path,
        None,
        "/usr/lib/postgresql/18/bin",
        "folder of the client tools (`pg_dump`); found on PATH when not set",
    ),
    key(
        "engines.*.migrations",
        Kind::Path,
        None,
        "./migrations/shop",
        "where the files of this database's migrations lie, where that is not `migrate.folder`",
    ),
    key(
        "engines.*.shadow_url",
        Kind::SecretUrl,
        None,
        "${SHADOW_DATABASE_URL}",
        "an empty database on which migrations are tried out; its content is removed. Without it one is made for the moment",
    ),
    key(
        "repository.url",
        Kind::Location,
        Some("./dm-backups"),
        "",
        "where backups are kept: a folder, `s3://bucket/prefix`, `gs://…` or `az://…`",
    ),
    key(
        "repository.endpoint",
        Kind::Text,
        None,
        "https://s3.example.com",
        "address of an S3-compatible service that is not AWS",
    ),
    key("repository.region", Kind::Text, None, "eu-central-1", "region of the bucket"),
    key("repository.access_key", Kind::Secret, None, "${S3_ACCESS_KEY}", "access key id"),
    key("repository.secret_key", Kind::Secret, None, "file:/run/secrets/s3_secret_key", "secret access key"),
    key(
        "repository.session_token",
        Kind::Secret,
        None,
        "${S3_SESSION_TOKEN}",
        "session token of temporary credentials",
    ),
    key(
        "repository.credentials_file",
        Kind::Path,
        None,
        "/etc/dm/service-account.json",
        "service account file (Google Cloud Storage)",
    ),
    key(
        "repository.allow_http",
        Kind::Flag,
        Some("false"),
        "",
        "lets an endpoint be `http://`, without encryption on the way",
    ),
    key(
        "repository.sse",
        Kind::Text,
        None,
        "AES256",
        "server-side encryption: `AES256`, `aws:kms` or `aws:kms:<key id>`",
    ),
    key("repository.storage_class", Kind::Text, None, "STANDARD_IA", "storage class of new objects"),
    key(
        "repository.object_lock",
        Kind::Flag,
        Some("false"),
        "",
        "the S3 bucket has object lock with a default retention: sends the checksums that S3 then asks for",
    ),
    key(
        "repository.encryption",
        Kind::Flag,
        None,
        "true",
        "whether a new repository is encrypted; on when `recipients` are given",
    ),
    key(
        "repository.recipients",
        Kind::TextList,
        Some(""),
        "age1…",
        "public keys (`age1…`) that can read the backups",
    ),
    key(
        "repository.identity_files",
        Kind::PathList,
        Some(""),
        "/etc/dm/identity.age",
        "files with the private keys; needed to restore, not to back up",
    ),
    key(
        "repository.index_identity_file",
        Kind::Path,
        None,
        "/etc/dm/index.age",
        "file with the index key, which lets this host make incremental backups of an encrypted repository",
    ),
    key(
        "repository.passphrase",
        Kind::Secret,
        None,
        "file:/run/secrets/dm_passphrase",
        "passphrase that protects the identity files",
    ),
    key(
        "repository.zstd_level",
        Kind::Count { min: 1, max: 19 },
        Some("3"),
        "",
        "compression level, 1 (fast) to 19 (small)",
    ),
    key(
        "repository.threads",
        Kind::Auto { min: 1, max: 256 },
        Some("auto"),
        "",
        "threads that compress, hash and decompress; `auto` is one for each processor core",
    ),
    key(
        "repository.memory",
        Kind::Size { min: 32 << 20, max: 64 << 30 },
        Some("192 MiB"),
        "",
        "most bytes held at once: packs being filled and on their way (two thirds of it), what is read ahead of them, what is being fetched",
    ),
    key(
        "repository.pack_size",
        Kind::Size { min: 1 << 20, max: 1 << 30 },
        Some("32 MiB"),
        "",
        "size of the pack objects of a new repository",
    ),
    key(
        "repository.jobs",
        Kind::Auto { min: 1, max: 256 },
        Some("auto"),
        "",
        "tables or files read or restored at once; `auto` is one for each processor core, at most 4",
    ),
    key(
        "repository.connections",
        Kind::Count { min: 1, max: 1024 },
        Some("64"),
        "",
        "most requests at once to one place of the repository; a lease has one more",
    ),
    key(
        "repository.rate_limit",
        Kind::Size { min: 64 << 10, max: 1 << 40 },
        None,
        "50 MB",
        "most bytes a second to and from the repository, over all that one program does; no limit when not set",
    ),
    key(
        "repository.secondary.*.url",
        Kind::Location,
        None,
        "s3://bucket/prefix",
        "a second place that receives a copy of every backup",
    ),
    key(
        "repository.secondary.*.endpoint",
        Kind::Text,
        None,
        "https://s3.example.com",
        "as `repository.endpoint`",
    ),
    key("repository.secondary.*.region", Kind::Text, None, "eu-central-1", "as `repository.region`"),
    key(
        "repository.secondary.*.access_key",
        Kind::Secret,
        None,
        "${S3_ACCESS_KEY}",
        "as `repository.access_key`",
    ),
    key(
        "repository.secondary.*.secret_key",
        Kind::Secret,
        None,
        "${S3_SECRET_KEY}",
        "as `repository.secret_key`",
    ),
    key(
        "repository.secondary.*.session_token",
        Kind::Secret,
        None,
        "${S3_SESSION_TOKEN}",
        "as `repository.session_token`",
    ),
    key(
        "repository.secondary.*.credentials_file",
        Kind::Path,
        None,
        "/etc/dm/service-account.json",
        "as `repository.credentials_file`",
    ),
    key("repository.secondary.*.allow_http", Kind::Flag, Some("false"), "", "as `repository.allow_http`"),
    key("repository.secondary.*.sse", Kind::Text, None, "AES256", "as `repository.sse`"),
    key(
        "repository.secondary.*.storage_class",
        Kind::Text,
        None,
        "STANDARD_IA",
        "as `repository.storage_class`",
    ),
    key("repository.secondary.*.object_lock", Kind::Flag, Some("false"), "", "as `repository.object_lock`"),
    key("repository.retention.keep_last", MANY, Some("0"), "", "the newest so many full backups"),
    key("repository.retention.daily", MANY, Some("7"), "", "the newest of each of so many days"),
    key("repository.retention.weekly", MANY, Some("4"), "", "the newest of each of so many weeks"),
    key("repository.retention.monthly", MANY, Some("12"), "", "the newest of each of so many months"),
    key("repository.retention.yearly", MANY, Some("5"), "", "the newest of each of so many years"),
    key("repository.retention.within", Kind::Period, None, "7 days", "every full backup of this period"),
    key(
        "repository.retention.min_verified_full",
        MANY,
        Some("2"),
        "",
        "so many verified full backups stay, whatever their age",
    ),
    key(
        "repository.retention.incremental_within",
        Kind::Period,
        Some("7 days"),
        "",
        "differential and incremental backups of this period",
    ),
    key(
        "repository.retention.log_within",
        Kind::Period,
        Some("30 days"),
        "",
        "how far before the newest backup every instant stays restorable by the shipped log",
    ),
    key(
        "repository.retention.superseded_within",
        Kind::Period,
        Some("90 days"),
        "",
        "for how long after its last backup the database before a major upgrade is judged by itself as well",
    ),
    soon(key(
        "backup.enabled",
        Kind::Flag,
        Some("true"),
        "",
        "whether scheduled backups are made; one asked for by hand always is",
    )),
    soon(key(
        "backup.schedule",
        Kind::Cron,
        Some("0 1 * * *"),
        "",
        "when: minute, hour, day, month, weekday, in `zone`",
    )),
    key(
        "backup.mode",
        MODES,
        None,
        "physical",
        "`logical` (one database: by table, portable between versions) or `physical` (the whole server, page by page; points in time with its log); PostgreSQL is backed up logically without it, SQLite always page by page",
    ),
    key(
        "backup.kind",
        KINDS,
        Some("full"),
        "",
        "`full`, `differential` (to the last full one) or `incremental` (to the previous one)",
    ),
    key(
        "backup.verify_after",
        VERIFY,
        Some("stored"),
        "",
        "check after each backup: `off`, `quick` (objects and sizes), `stored` (every digest of stored bytes), `full` (decrypts; needs the private key)",
    ),
    key(
        "backup.priority",
        PRIORITY,
        Some("low"),
        "",
        "how the programs run what `dm backup` does: `low` gives way to everything else on the machine (nice 10, inherited by hooks), `normal` does not. Restores and the shipping of logs give way only where --priority says so",
    ),
    key(
        "backup.include_tables",
        Kind::TextList,
        Some(""),
        "orders",
        "only these tables (names, or patterns with `*`); all when empty",
    ),
    key("backup.exclude_tables", Kind::TextList, Some(""), "sessions", "not these tables"),
    key(
        "backup.hook.*.when",
        WHEN,
        None,
        "after",
        "when it runs: before anything is read, when the snapshot stands, when the backup is made, when none was made",
    ),
    key("backup.hook.*.command", Kind::Text, None, "/usr/local/bin/pause-jobs", "a line for the shell"),
    key(
        "backup.hook.*.webhook",
        Kind::SecretUrl,
        None,
        "https://chat.example.com/hooks/backups",
        "an address that what happened is posted to, as JSON",
    ),
    key(
        "backup.hook.*.timeout",
        Kind::Timeout,
        None,
        "30s",
        "how long it may take; five minutes when not set",
    ),
    key(
        "backup.hook.*.on_failure",
        ON_FAILURE,
        None,
        "warn",
        "what it means when it fails: `abort` (a command's default) or `warn` (a webhook's)",
    ),
    key(
        "backup.targets.*.engine",
        Kind::Text,
        None,
        "main",
        "the engine that is backed up under this name; of the same name when not set",
    ),
    soon(key("backup.targets.*.enabled", Kind::Flag, None, "true", "as `backup.enabled`, for this target")),
    soon(key(
        "backup.targets.*.schedule",
        Kind::Cron,
        None,
        "30 1 * * *",
        "as `backup.schedule`, for this target",
    )),
    key("backup.targets.*.mode", MODES, None, "physical", "as `backup.mode`, for this target"),
    key("backup.targets.*.kind", KINDS, None, "incremental", "as `backup.kind`, for this target"),
    key("backup.targets.*.verify_after", VERIFY, None, "quick", "as `backup.verify_after`, for this target"),
    key(
        "backup.targets.*.include_tables",
        Kind::TextList,
        None,
        "orders",
        "as `backup.include_tables`, for this target",
    ),
    key(
        "backup.targets.*.exclude_tables",
        Kind::TextList,
        None,
        "sessions",
        "as `backup.exclude_tables`, for this target",
    ),
    key(
        "log.slot",
        Kind::Text,
        Some("dm_log"),
        "",
        "the replication slot that holds the log on the server until it is shipped",
    ),
    key(
        "log.seal_every",
        Kind::Timeout,
        Some("5s"),
        "",
        "the longest that log waits on the server before it is sealed in the repository, while there is traffic",
    ),
    key("log.poll", Kind::Timeout, Some("500ms"), "", "how often the server is asked for more log"),
    key("migrate.folder", Kind::Path, Some("./migrations"), "", "where the files of migrations lie"),
    key("migrate.seeds", Kind::Path, Some("./seeds"), "", "where the files of seeds lie"),
    key(
        "migrate.table",
        Kind::Text,
        Some("schema_migrations"),
        "",
        "the table of the history, in the database itself: `name` or `schema.name`",
    ),
    key(
        "migrate.lock_timeout",
        Kind::Timeout,
        Some("5s"),
        "",
        "longest wait of a migration's statement for a lock of the database; then it is tried again",
    ),
    key(
        "migrate.attempts",
        Kind::Count { min: 1, max: 1000 },
        Some("6"),
        "",
        "how often a statement is tried that does not get its lock in time",
    ),
    key(
        "migrate.statement_timeout",
        Kind::Timeout,
        Some("30m"),
        "",
        "longest single statement of a migration",
    ),
    key("migrate.wait", Kind::Timeout, Some("10m"), "", "longest wait for another runner of migrations"),
    key(
        "migrate.keep_sqlx",
        Kind::Flag,
        Some("false"),
        "",
        "keeps `_sqlx_migrations` in step, so that stock sqlx goes on where this ended, and the other way round",
    ),
    key(
        "migrate.production",
        Kind::Flag,
        Some("false"),
        "",
        "every `up` as with `--production`: lint must pass, timeouts are set, and a verified backup is there",
    ),
    key(
        "migrate.backup_within",
        Kind::Period,
        Some("1 day"),
        "",
        "how old the verified backup may be; else one is made first",
    ),
    key(
        "migrate.classified",
        Kind::TextList,
        None,
        "[\"customers.email\"]",
        "columns whose personal data is classified, as `table.column` or `table.*`: lint does not ask about them",
    ),
    key(
        "migrate.staging",
        Kind::Text,
        None,
        "staging",
        "the engine on which `--production` demands that the same files were applied before",
    ),
    key(
        "recovery.checks",
        CHECKS,
        Some("standard"),
        "",
        "how much a restore checks: `none` (nothing is started), `standard`, or `deep` (every page and index; reads everything)",
    ),
    key(
        "recovery.stop_command",
        Kind::Text,
        None,
        "systemctl stop shop",
        "run by the shell before a restore begins; the restore stops when it fails",
    ),
    key(
        "recovery.start_command",
        Kind::Text,
        None,
        "systemctl start shop",
        "run by the shell when a restore was proven and released",
    ),
    key(
        "recovery.run_as",
        Kind::Text,
        None,
        "postgres",
        "the user that a restored server runs as, and owns its files, where the restore runs as root",
    ),
    key(
        "recovery.bin_dir",
        Kind::Path,
        None,
        "/usr/lib/postgresql/18/bin",
        "folder of the server's programs (`postgres`, `pg_ctl`) for restores; else the engine's `bin_dir`, else found",
    ),
    key(
        "recovery.drill_max_age",
        Kind::Period,
        Some("30 days"),
        "",
        "a proof of restore older than this no longer counts in `dm status`",
    ),
    key(
        "recovery.check.*.sql",
        Kind::Text,
        None,
        "SELECT count(*) FROM orders WHERE total < 0",
        "a question that a restored database is asked before it is released: a statement that reads",
    ),
    key(
        "recovery.check.*.expect",
        Kind::Text,
        None,
        "0",
        "its answer: `true` (the default), `empty`, `not empty`, a comparison (`>= 10`) or the value of its first row's first column",
    ),
    key(
        "recovery.check.*.engine",
        Kind::Text,
        None,
        "main",
        "the engine whose restores are asked; every one when not set",
    ),
    key(
        "store.url",
        Kind::SecretUrl,
        None,
        "sqlite:///var/lib/dm/state.db",
        "the system's own state; without it `.dm/state.db` beside dm.toml, or the XDG state folder",
    ),
    key(
        "audit.key_file",
        Kind::Path,
        None,
        "/etc/dm/audit.key",
        "file with the key that signs the audit trail's checkpoints, made when it is first needed; `audit.key` beside the state when not set",
    ),
    key(
        "audit.origin",
        Kind::Text,
        None,
        "example.com/shop",
        "the name that a new key gives the audit trail: yours alone, without spaces; a random one when not set",
    ),
    key(
        "audit.anchors",
        Kind::TextList,
        Some(""),
        "repository",
        "where signed checkpoints are taken to: `repository`, a folder's absolute path, `https://…` (a POST of the text)",
    ),
    key(
        "audit.anchor_timeout",
        Kind::Timeout,
        Some("10s"),
        "",
        "longest wait for one anchor; one that fails is tried again by the next seal",
    ),
    key(
        "audit.retention",
        Kind::Period,
        None,
        "2 years",
        "how long the details of the trail's lines are kept (dm audit expire); for ever when not set",
    ),
    key(
        "audit.holds",
        Kind::TextList,
        Some(""),
        "resource=shop/users action=change:",
        "lines whose details stay whatever their age: `actor=`, `action=` (how it begins), `resource=`, all of an entry at once",
    ),
    key("access.default_actor_roles", Kind::TextList, Some("admin"), "", "roles of the local user"),
    key(
        "access.roles.*",
        Kind::Grants,
        None,
        "",
        "a role: a list of `\"area:verb\"`, or of tables `{ action, resource, forbid, read_only }`",
    ),
    soon(key(
        "retention.soft_delete_grace_days",
        Kind::Count { min: 0, max: 36_500 },
        Some("30"),
        "",
        "days that a soft-deleted row stays before it may be purged",
    )),
    soon(key(
        "retention.purge_schedule",
        Kind::Cron,
        Some("30 3 * * *"),
        "",
        "when soft-deleted rows are purged",
    )),
    soon(key("monitoring.enabled", Kind::Flag, Some("true"), "", "whether the databases are watched")),
    soon(key(
        "monitoring.connection_time_threshold_ms",
        Kind::Count { min: 1, max: 86_400_000 },
        Some("5000"),
        "",
        "a slower connection raises an alert; milliseconds",
    )),
    soon(key(
        "monitoring.query_time_threshold_ms",
        Kind::Count { min: 1, max: 86_400_000 },
        Some("10000"),
        "",
        "a slower query raises an alert; milliseconds",
    )),
    soon(key(
        "monitoring.connection_count_threshold",
        Kind::Count { min: 1, max: 1_000_000 },
        Some("15"),
        "",
        "more open connections raise an alert",
    )),
];

/// The setting that a concrete path belongs to.
pub(super) fn find(path: &[String]) -> Option<&'static Key> {
    KEYS.iter().find(|key| matches(key.path, path))
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let mut segments = pattern.split('.');
    path.iter().all(|name| segments.next().is_some_and(|s| s == "*" || s == name))
        && segments.next().is_none()
}

/// The words that may follow a beginning of a pattern (`["engines", "*"]`), each with whether it is a setting itself.
pub(super) fn children(prefix: &[&str]) -> Vec<(&'static str, bool)> {
    let mut found: Vec<(&'static str, bool)> = Vec::new();
    for key in KEYS {
        let segments: Vec<&'static str> = key.path.split('.').collect();
        if segments.len() > prefix.len() && segments.iter().zip(prefix).all(|(a, b)| a == b) {
            let child = (segments[prefix.len()], segments.len() == prefix.len() + 1);
            if !found.contains(&child) {
                found.push(child);
            }
        }
    }
    found
}
