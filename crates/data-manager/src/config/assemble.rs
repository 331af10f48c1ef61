//! From resolved settings to the typed sections, and the checks that look at more than one setting.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use dm_core::{
    BackupKind, BackupMode, ByteSize, CheckDepth, EngineId, Error, Grant, Period, Permissions, Result,
    Secret, TargetName,
};

use super::cron::CronSchedule;
use super::document::{KeyPath, Problem, dotted, report};
use super::kind::Parsed;
use super::nearest::nearest;
use super::resolve::{Entry, Resolved};
use super::sections::{
    AccessConfig, AuditConfig, BackupConfig, BackupRetentionConfig, CheckConfig, EngineConfig, HookConfig,
    LogConfig, MigrateConfig, MonitoringConfig, PlaceConfig, Priority, RecoveryConfig, RepositoryConfig,
    RetentionConfig, StoreConfig, TargetConfig, VerifyAfter,
};
use super::source::Source;
use super::{duration, prisma};

/// What a parsed value can become.
pub(super) trait FromParsed: Sized {
    fn from_parsed(value: &Parsed) -> Option<Self>;
}

macro_rules! from_parsed {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {
        $(impl FromParsed for $type {
            fn from_parsed(value: &Parsed) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        })*
    };
}

from_parsed! {
    String: Parsed::Text(text) => Some(text.clone());
    PathBuf: Parsed::Text(text) => Some(PathBuf::from(text));
    Secret: Parsed::Secret(secret) => Some(secret.clone());
    u64: Parsed::Number(n) => Some(*n);
    u32: Parsed::Number(n) => u32::try_from(*n).ok();
    i32: Parsed::Number(n) => i32::try_from(*n).ok();
    usize: Parsed::Number(n) => usize::try_from(*n).ok();
    bool: Parsed::Flag(on) => Some(*on);
    ByteSize: Parsed::Size(size) => Some(*size);
    Period: Parsed::Period(period) => Some(*period);
    CronSchedule: Parsed::Cron(cron) => Some(cron.clone());
    Tz: Parsed::Zone(zone) => Some(*zone);
    Vec<String>: Parsed::List(items) => Some(items.clone());
    Vec<PathBuf>: Parsed::List(items) => Some(items.iter().map(PathBuf::from).collect());
    Vec<Grant>: Parsed::Grants(grants) => Some(grants.clone());
    Option<Duration>: Parsed::Timeout(time) => Some(*time);
    BackupKind: Parsed::Text(text) => match text.as_str() {
        "full" => Some(Self::Full),
        "differential" => Some(Self::Differential),
        "incremental" => Some(Self::Incremental),
        _ => None,
    };
    BackupMode: Parsed::Text(text) => match text.as_str() {
        "logical" => Some(Self::Logical),
        "physical" => Some(Self::Physical),
        _ => None,
    };
    CheckDepth: Parsed::Text(text) => match text.as_str() {
        "none" => Some(Self::None),
        "standard" => Some(Self::Standard),
        "deep" => Some(Self::Deep),
        _ => None,
    };
    Priority: Parsed::Text(text) => match text.as_str() {
        "low" => Some(Self::Low),
        "normal" => Some(Self::Normal),
        _ => None,
    };
    VerifyAfter: Parsed::Text(text) => match text.as_str() {
        "off" => Some(Self::Off),
        "quick" => Some(Self::Quick),
        "stored" => Some(Self::Stored),
        "full" => Some(Self::Full),
        _ => None,
    };
}

/// The settings of one section.
pub(super) struct Section<'a> {
    resolved: &'a Resolved,
    pub(super) prefix: KeyPath,
}

impl<'a> Section<'a> {
    pub(super) fn new(resolved: &'a Resolved, prefix: &[&str]) -> Self {
        Self { resolved, prefix: prefix.iter().map(|s| (*s).to_owned()).collect() }
    }

    fn path(&self, name: &str) -> KeyPath {
        self.prefix.iter().cloned().chain([name.to_owned()]).collect()
    }

    pub(super) fn optional<T: FromParsed>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path(name);
        let Some(entry) = self.resolved.entries.get(&path) else { return Ok(None) };
        // The table of keys and the types disagree: a defect of this crate, found by its tests.
        T::from_parsed(&entry.value).map(Some).ok_or_else(|| {
            Error::internal(format!("{} is not of the type that its section takes", dotted(&path)))
        })
    }

    fn required<T: FromParsed>(&self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| {
            Error::internal(format!("{} has neither a value nor a default", dotted(&self.path(name))))
        })
    }
}

/// The typed sections.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) engines: BTreeMap<EngineId, EngineConfig>,
    pub(super) repository: RepositoryConfig,
    pub(super) backup: BackupConfig,
    pub(super) hooks: Vec<HookConfig>,
    pub(super) targets: BTreeMap<TargetName, TargetConfig>,
    pub(super) log: LogConfig,
    pub(super) migrate: MigrateConfig,
    pub(super) recovery: RecoveryConfig,
    pub(super) store: StoreConfig,
    pub(super) audit: AuditConfig,
    pub(super) access: AccessConfig,
    pub(super) retention: RetentionConfig,
    pub(super) monitoring: MonitoringConfig,
    pub(super) zone: Tz,
}

/// Builds the sections. `file` is how the file is called in messages.
pub(super) fn assemble(resolved: &mut Resolved, file: &str, default_store: &str) -> Result<Assembled> {
    let mut problems = Vec::new();
    let engines = engines(resolved, &mut problems)?;
    let backup = backup(resolved)?;
    let targets = targets(resolved, &engines, &backup, &mut problems)?;
    let access = access(resolved, &mut problems)?;
    let repository = repository(resolved, &mut problems)?;
    let recovery = recovery(resolved, &engines, &mut problems)?;
    let hooks = super::hooks::hooks(resolved, &mut problems)?;
    report(file, problems)?;
    resolved.entries.entry(["store", "url"].map(str::to_owned).to_vec()).or_insert_with(|| Entry {
        value: Parsed::Secret(Secret::new(default_store)),
        shown: default_store.to_owned(),
        source: Source::Default,
    });
    let store = Section::new(resolved, &["store"]);
    let log = Section::new(resolved, &["log"]);
    let migrate = Section::new(resolved, &["migrate"]);
    let audit = Section::new(resolved, &["audit"]);
    let retention = Section::new(resolved, &["retention"]);
    let monitoring = Section::new(resolved, &["monitoring"]);
    Ok(Assembled {
        store: StoreConfig { url: store.required("url")? },
        log: LogConfig {
            slot: log.required("slot")?,
            seal_every: log.required("seal_every")?,
            poll: log.required("poll")?,
        },
        migrate: MigrateConfig {
            folder: migrate.required("folder")?,
            seeds: migrate.required("seeds")?,
            table: migrate.required("table")?,
            lock_timeout: migrate.required("lock_timeout")?,
            attempts: migrate.required("attempts")?,
            statement_timeout: migrate.required("statement_timeout")?,
            wait: migrate.required("wait")?,
            keep_sqlx: migrate.required("keep_sqlx")?,
            production: migrate.required("production")?,
            backup_within: migrate.required("backup_within")?,
            staging: migrate.optional("staging")?,
            classified: migrate.optional("classified")?.unwrap_or_default(),
        },
        recovery,
        audit: AuditConfig {
            key_file: audit.optional("key_file")?,
            origin: audit.optional("origin")?,
            anchors: audit.required("anchors")?,
            anchor_timeout: audit.required("anchor_timeout")?,
            retention: audit.optional("retention")?,
            holds: audit.required("holds")?,
        },
        retention: RetentionConfig {
            soft_delete_grace_days: retention.required("soft_delete_grace_days")?,
            purge_schedule: retention.required("purge_schedule")?,
        },
        monitoring: MonitoringConfig {
            enabled: monitoring.required("enabled")?,
            connection_time_threshold_ms: monitoring.required("connection_time_threshold_ms")?,
            query_time_threshold_ms: monitoring.required("query_time_threshold_ms")?,
            connection_count_threshold: monitoring.required("connection_count_threshold")?,
        },
        zone: Section::new(resolved, &[]).required("zone")?,
        engines,
        repository,
        backup,
        hooks,
        targets,
        access,
    })
}

fn engines(resolved: &mut Resolved, problems: &mut Vec<Problem>) -> Result<BTreeMap<EngineId, EngineConfig>> {
    let mut engines = BTreeMap::new();
    for name in resolved.names(&["engines"]) {
        prisma::apply(resolved, &name)?;
        let section = Section::new(resolved, &["engines", &name]);
        let Some(url) = section.optional("url")? else {
            let line = line_of(resolved, &section.prefix);
            let way = if name == "main" { "write one, or set DATABASE_URL" } else { "write one" };
            let text = format!("{} has no url: {way}", dotted(&section.prefix));
            problems.push(Problem { line, text });
            continue;
        };
        let engine = EngineConfig {
            url,
            schema: section.optional("schema")?,
            pool_max: section.required("pool_max")?,
            acquire_timeout: section.required("acquire_timeout")?,
            connect_timeout: section.required("connect_timeout")?,
            query_timeout: section.required("query_timeout")?,
            idle_timeout: section.required("idle_timeout")?,
            bin_dir: section.optional("bin_dir")?,
            migrations: section.optional("migrations")?,
            shadow_url: section.optional("shadow_url")?,
        };
        engines.insert(EngineId::new(name)?, engine);
    }
    Ok(engines)
}

/// The line of a section, or of the first setting in it.
pub(super) fn line_of(resolved: &Resolved, prefix: &[String]) -> usize {
    let inside = |path: &KeyPath| path.len() >= prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b);
    resolved.lines.iter().filter(|(path, _)| inside(path)).map(|(_, line)| *line).min().unwrap_or(1)
}

fn place(section: &Section<'_>, url: String) -> Result<PlaceConfig> {
    Ok(PlaceConfig {
        url,
        endpoint: section.optional("endpoint")?,
        region: section.optional("region")?,
        access_key: section.optional("access_key")?,
        secret_key: section.optional("secret_key")?,
        session_token: section.optional("session_token")?,
        credentials_file: section.optional("credentials_file")?,
        allow_http: section.required("allow_http")?,
        sse: section.optional("sse")?,
        storage_class: section.optional("storage_class")?,
        object_lock: section.required("object_lock")?,
    })
}

fn repository(resolved: &Resolved, problems: &mut Vec<Problem>) -> Result<RepositoryConfig> {
    let section = Section::new(resolved, &["repository"]);
    let mut secondary = BTreeMap::new();
    for name in resolved.names(&["repository", "secondary"]) {
        let section = Section::new(resolved, &["repository", "secondary", &name]);
        match section.optional("url")? {
            Some(url) => {
                let place = place(&section, url)?;
                secondary.insert(name, place);
            }
            None => problems.push(Problem {
                line: line_of(resolved, &section.prefix),
                text: format!("{} has no url", dotted(&section.prefix)),
            }),
        }
    }
    let recipients: Vec<String> = section.required("recipients")?;
    let keep = Section::new(resolved, &["repository", "retention"]);
    let url = section.required("url")?;
    Ok(RepositoryConfig {
        place: place(&section, url)?,
        secondary,
        encryption: section.optional("encryption")?.unwrap_or(!recipients.is_empty()),
        recipients,
        identity_files: section.required("identity_files")?,
        index_identity_file: section.optional("index_identity_file")?,
        passphrase: section.optional("passphrase")?,
        zstd_level: section.required("zstd_level")?,
        threads: section.required("threads")?,
        memory: section.required("memory")?,
        pack_size: section.required("pack_size")?,
        jobs: section.required("jobs")?,
        connections: section.required("connections")?,
        rate_limit: section.optional("rate_limit")?,
        retention: BackupRetentionConfig {
            keep_last: keep.required("keep_last")?,
            daily: keep.required("daily")?,
            weekly: keep.required("weekly")?,
            monthly: keep.required("monthly")?,
            yearly: keep.required("yearly")?,
            within: keep.optional("within")?,
            min_verified_full: keep.required("min_verified_full")?,
            incremental_within: keep.required("incremental_within")?,
            log_within: keep.required("log_within")?,
            superseded_within: keep.required("superseded_within")?,
        },
    })
}

fn backup(resolved: &Resolved) -> Result<BackupConfig> {
    let section = Section::new(resolved, &["backup"]);
    Ok(BackupConfig {
        enabled: section.required("enabled")?,
        schedule: section.required("schedule")?,
        mode: section.optional("mode")?,
        kind: section.required("kind")?,
        verify_after: section.required("verify_after")?,
        priority: section.required("priority")?,
        include_tables: section.required("include_tables")?,
        exclude_tables: section.required("exclude_tables")?,
    })
}

/// The targets of the file, and one of its own name for every engine that none of them means.
fn targets(
    resolved: &Resolved,
    engines: &BTreeMap<EngineId, EngineConfig>,
    general: &BackupConfig,
    problems: &mut Vec<Problem>,
) -> Result<BTreeMap<TargetName, TargetConfig>> {
    let mut targets = BTreeMap::new();
    for name in resolved.names(&["backup", "targets"]) {
        let section = Section::new(resolved, &["backup", "targets", &name]);
        let asked: Option<String> = section.optional("engine")?;
        let wanted = asked.clone().unwrap_or_else(|| name.clone());
        let Some((engine, _)) = engines.iter().find(|(id, _)| id.as_str() == wanted) else {
            // An engine without a url was reported already.
            if resolved.names(&["engines"]).contains(&wanted) {
                continue;
            }
            let line = line_of(
                resolved,
                &if asked.is_some() { section.path("engine") } else { section.prefix.clone() },
            );
            let near = nearest(&wanted, engines.keys().map(EngineId::as_str));
            let way = match near {
                Some(near) => format!(", did you mean {near}?"),
                None if asked.is_none() => ": name one with engine = \"…\"".to_owned(),
                None => String::new(),
            };
            problems.push(Problem {
                line,
                text: format!(
                    "{} means the engine {wanted}, which there is not{way}",
                    dotted(&section.prefix)
                ),
            });
            continue;
        };
        let backup = BackupConfig {
            enabled: section.optional("enabled")?.unwrap_or(general.enabled),
            schedule: section.optional("schedule")?.unwrap_or_else(|| general.schedule.clone()),
            mode: section.optional("mode")?.or(general.mode),
            kind: section.optional("kind")?.unwrap_or(general.kind),
            verify_after: section.optional("verify_after")?.unwrap_or(general.verify_after),
            // A program has one, whatever it backs up.
            priority: general.priority,
            include_tables: section
                .optional("include_tables")?
                .unwrap_or_else(|| general.include_tables.clone()),
            exclude_tables: section
                .optional("exclude_tables")?
                .unwrap_or_else(|| general.exclude_tables.clone()),
        };
        targets.insert(TargetName::new(name)?, TargetConfig { engine: engine.clone(), backup });
    }
    for engine in engines.keys() {
        let name = TargetName::new(engine.as_str())?;
        if !targets.contains_key(&name) && !targets.values().any(|target| target.engine == *engine) {
            targets.insert(name, TargetConfig { engine: engine.clone(), backup: general.clone() });
        }
    }
    Ok(targets)
}

fn recovery(
    resolved: &Resolved,
    engines: &BTreeMap<EngineId, EngineConfig>,
    problems: &mut Vec<Problem>,
) -> Result<RecoveryConfig> {
    let section = Section::new(resolved, &["recovery"]);
    let mut check = BTreeMap::new();
    for name in resolved.names(&["recovery", "check"]) {
        let section = Section::new(resolved, &["recovery", "check", &name]);
        match question(&section, engines)? {
            Ok(question) => drop(check.insert(name, question)),
            Err((path, text)) => problems.push(Problem { line: line_of(resolved, &path), text }),
        }
    }
    Ok(RecoveryConfig {
        checks: section.required("checks")?,
        stop_command: section.optional("stop_command")?,
        start_command: section.optional("start_command")?,
        run_as: section.optional("run_as")?,
        bin_dir: section.optional("bin_dir")?,
        drill_max_age: section.required("drill_max_age")?,
        check,
    })
}

/// A question of the file, or where it is wrong and how.
fn question(
    section: &Section<'_>,
    engines: &BTreeMap<EngineId, EngineConfig>,
) -> Result<std::result::Result<CheckConfig, (KeyPath, String)>> {
    let Some(sql) = section.optional("sql")? else {
        let text = format!("{} has no sql: write the question that is asked", dotted(&section.prefix));
        return Ok(Err((section.prefix.clone(), text)));
    };
    let expect = match section.optional::<String>("expect")?.unwrap_or_default().parse() {
        Ok(expect) => expect,
        Err(error) => {
            let path = section.path("expect");
            return Ok(Err((path.clone(), format!("{} is wrong: {error}", dotted(&path)))));
        }
    };
    let engine = match section.optional::<String>("engine")? {
        None => None,
        Some(name) => match engines.keys().find(|id| id.as_str() == name) {
            Some(id) => Some(id.clone()),
            None => {
                let path = section.path("engine");
                let near = nearest(&name, engines.keys().map(EngineId::as_str));
                let way = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
                let text = format!("{} means the engine {name}, which there is not{way}", dotted(&path));
                return Ok(Err((path, text)));
            }
        },
    };
    Ok(Ok(CheckConfig { sql, expect, engine }))
}

fn access(resolved: &Resolved, problems: &mut Vec<Problem>) -> Result<AccessConfig> {
    let section = Section::new(resolved, &["access", "roles"]);
    let mut roles = BTreeMap::new();
    for name in resolved.names(&["access", "roles"]) {
        let grants: Vec<Grant> = section.required(&name)?;
        roles.insert(name, grants);
    }
    let known = Permissions::with_roles(roles.clone());
    let section = Section::new(resolved, &["access"]);
    let default_actor_roles: Vec<String> = section.required("default_actor_roles")?;
    for role in &default_actor_roles {
        if known.roles().contains_key(role) {
            continue;
        }
        let way = match nearest(role, known.roles().keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known are {}", known.roles().keys().cloned().collect::<Vec<_>>().join(", ")),
        };
        let path = section.path("default_actor_roles");
        problems.push(Problem {
            line: line_of(resolved, &path),
            text: format!("{} names the role \"{role}\", which there is not, {way}", dotted(&path)),
        });
    }
    Ok(AccessConfig { default_actor_roles, roles })
}

/// The time that a parameter of a URL gives in whole seconds.
pub(super) fn shown_seconds(seconds: u64) -> String {
    if seconds == 0 { "off".to_owned() } else { duration::format(Duration::from_secs(seconds)) }
}
