//! The configuration: `dm.toml`, profiles and the environment variables that teams already have.
//!
//! Reads nothing behind the caller's back: the environment, the working folder and the home folder are handed in
//! ([`LoadOptions`]), only the file itself and the files that it refers to are opened. Every setting has a default and knows
//! where it came from ([`Config::settings`]); a key that does not exist is an error that names the right one; secrets are
//! [`Secret`](dm_core::Secret)s and appear in no message. docs/configuration.md describes every setting.

mod assemble;
mod cron;
mod document;
mod duration;
mod environment;
mod grants;
mod hooks;
mod keys;
mod kind;
mod nearest;
mod places;
mod prisma;
mod profiles;
mod references;
mod resolve;
mod sections;
mod source;
mod tables;
mod template;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono_tz::Tz;
use dm_core::{EngineId, Error, ErrorKind, Finding, Level, Result, TargetName};

use document::Document;
use nearest::nearest;
use profiles::PROFILES;
use resolve::{Resolved, Surroundings, resolve};

pub use cron::CronSchedule;
pub use duration::parse as parse_duration;
pub use sections::{
    AccessConfig, AuditConfig, BackupConfig, BackupRetentionConfig, CheckConfig, EngineConfig, HookConfig,
    HookDoes, LogConfig, MigrateConfig, MonitoringConfig, PlaceConfig, Priority, RecoveryConfig,
    RepositoryConfig, RetentionConfig, StoreConfig, TargetConfig, VerifyAfter,
};
pub use source::{Setting, Source};
pub use tables::{environment_table, profiles_table, settings_table};

/// From where a configuration is loaded. Nothing else is looked at.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// The file (`--config`); without it `dm.toml` in the working folder, else the XDG place, else no file.
    pub path: Option<PathBuf>,
    /// The profile (`--profile`); without it DM_PROFILE, else NODE_ENV.
    pub profile: Option<String>,
    /// The environment.
    pub env: &'a BTreeMap<String, String>,
    /// The working folder, absolute.
    pub cwd: &'a Path,
    /// The user's home.
    pub home: Option<&'a Path>,
}

/// The whole configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The file that was read; `None` when there was none.
    pub file: Option<PathBuf>,
    /// The profile in force.
    pub profile: Option<String>,
    /// The databases by name.
    pub engines: BTreeMap<EngineId, EngineConfig>,
    /// Where backups are kept, and how.
    pub repository: RepositoryConfig,
    /// How and when backups are made.
    pub backup: BackupConfig,
    /// What is backed up under which name; every engine is in at least one.
    pub targets: BTreeMap<TargetName, TargetConfig>,
    /// What runs before, during and after backups, by name.
    pub hooks: Vec<HookConfig>,
    /// Shipping the log.
    pub log: LogConfig,
    /// Migrations.
    pub migrate: MigrateConfig,
    /// Restores and drills.
    pub recovery: RecoveryConfig,
    /// The system's own state.
    pub store: StoreConfig,
    /// The trail's signed heads.
    pub audit: AuditConfig,
    /// Who may do what.
    pub access: AccessConfig,
    /// Soft-deleted rows. Read, used from a later release.
    pub retention: RetentionConfig,
    /// Monitoring. Read, used from a later release.
    pub monitoring: MonitoringConfig,
    /// Time zone of schedules and calendar days.
    pub zone: Tz,
    settings: Vec<Setting>,
    findings: Vec<Finding>,
}

impl Config {
    /// Finds, reads and checks the configuration.
    ///
    /// # Errors
    /// `NotFound` when the file asked for is not there, `Denied` when it may not be read, `Invalid` for everything that is
    /// wrong in it, in the environment or with the profile; every problem of a file is named, with its line.
    pub fn load(options: LoadOptions<'_>) -> Result<Self> {
        let found = places::look(options.path.as_deref(), options.env, options.cwd, options.home);
        let text = found.as_ref().map(read).transpose()?;
        build(&options, found, text.as_deref().unwrap_or_default(), cores())
    }

    /// The defaults, without a file and without an environment: what a program that embeds the library starts from.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn builtin(cwd: &Path) -> Result<Self> {
        let env = BTreeMap::new();
        let options = LoadOptions { path: None, profile: None, env: &env, cwd, home: None };
        build(&options, None, "", cores())
    }

    /// The same with one more engine, backed up under its own name.
    ///
    /// # Errors
    /// `Invalid` when the name is not one, `AlreadyExists` when there is an engine of this name.
    pub fn with_engine(mut self, name: &str, engine: EngineConfig) -> Result<Self> {
        let id = EngineId::new(name)?;
        if self.engines.contains_key(&id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("there is an engine {id} already")));
        }
        let target = TargetConfig { engine: id.clone(), backup: self.backup.clone() };
        self.targets.entry(TargetName::new(name)?).or_insert(target);
        self.engines.insert(id, engine);
        Ok(self)
    }

    /// The engine of a name; without a name `main`, or the only one there is.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name; `Invalid` when no name is given and there are several.
    pub fn engine(&self, name: Option<&str>) -> Result<(&EngineId, &EngineConfig)> {
        let names = || self.engines.keys().map(EngineId::as_str);
        let listed = || names().collect::<Vec<_>>().join(", ");
        if self.engines.is_empty() {
            return Err(Error::not_found("no database is configured")
                .with_hint("set DATABASE_URL, or write a file with `dm init`"));
        }
        let wanted = match name {
            Some(name) => name,
            None if self.engines.len() == 1 => names().next().unwrap_or_default(),
            None if names().any(|n| n == "main") => "main",
            None => {
                return Err(Error::invalid("there are several engines and none is called main")
                    .with_hint(format!("name one of them: {}", listed())));
            }
        };
        self.engines.iter().find(|(id, _)| id.as_str() == wanted).ok_or_else(|| {
            let hint = nearest(wanted, names())
                .map_or_else(|| format!("there are: {}", listed()), |near| format!("did you mean {near}?"));
            Error::not_found(format!("there is no engine {wanted}")).with_hint(hint)
        })
    }

    /// Every setting in force with its source, in the order of names; secrets are redacted. Settings that are not set and
    /// have no default are left out.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        self.settings.clone()
    }

    /// What is odd about the configuration without being wrong: for `dm doctor`.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// A commented dm.toml for the database at `url`, every option shown with its default.
    ///
    /// Hand in `${DATABASE_URL}` where the url came from there. A url with a password is never written: `${DATABASE_URL}`
    /// takes its place.
    #[must_use]
    pub fn template(url: &str) -> String {
        template::template(url)
    }
}

/// Processor cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn read(found: &places::Found) -> Result<String> {
    let bytes = std::fs::read(&found.path).map_err(|e| {
        let error = match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found("there is no such configuration file")
                .with_hint("give the right path with --config, or write a file with `dm init`"),
            std::io::ErrorKind::PermissionDenied => {
                Error::new(ErrorKind::Denied, "the configuration file may not be read by this user")
            }
            _ => Error::invalid("the configuration file cannot be read"),
        };
        error.about(found.name.clone()).with_source(e)
    })?;
    String::from_utf8(bytes).map_err(|e| {
        Error::invalid("the configuration file is not text in UTF-8").about(found.name.clone()).with_source(e)
    })
}

fn build(
    options: &LoadOptions<'_>,
    found: Option<places::Found>,
    text: &str,
    cores: usize,
) -> Result<Config> {
    let name = found.as_ref().map_or("dm.toml", |found| found.name.as_str());
    let document = Document::parse(name, text)?;
    let mut findings = Vec::new();
    let profile = choose_profile(options, &document, &mut findings)?;

    let file_dir = found.as_ref().and_then(|found| found.path.parent()).unwrap_or(options.cwd);
    let of_project = found.as_ref().is_some_and(|found| found.of_project);
    let project_dir = if of_project { file_dir } else { options.cwd };
    let around = Surroundings {
        env: options.env,
        cwd: options.cwd,
        home: options.home,
        file_dir,
        project_dir,
        profile: profile.as_deref(),
        cores,
    };
    let mut resolved = resolve(&document, &around)?;
    let of_user = || places::xdg(options.env, "XDG_STATE_HOME", options.home, ".local/state", "state.db");
    let state = if of_project { None } else { of_user() };
    let state = state.unwrap_or_else(|| places::absolute(".dm/state.db", project_dir, None));
    let sections = assemble::assemble(&mut resolved, name, &state.display().to_string())?;

    findings.append(&mut resolved.findings);
    note_unused(&resolved, &mut findings);
    let settings = resolved
        .entries
        .into_iter()
        .map(|(path, entry)| Setting {
            key: document::dotted(&path),
            value: entry.shown,
            source: entry.source,
        })
        .collect();
    Ok(Config {
        file: found.map(|found| found.path),
        profile,
        engines: sections.engines,
        repository: sections.repository,
        backup: sections.backup,
        targets: sections.targets,
        hooks: sections.hooks,
        log: sections.log,
        migrate: sections.migrate,
        recovery: sections.recovery,
        store: sections.store,
        audit: sections.audit,
        access: sections.access,
        retention: sections.retention,
        monitoring: sections.monitoring,
        zone: sections.zone,
        settings,
        findings,
    })
}

/// Says which settings somebody made that nothing acts on yet: whoever names a second place must not believe in copies.
fn note_unused(resolved: &Resolved, findings: &mut Vec<Finding>) {
    let set_by_hand = |source: &Source| !matches!(source, Source::Default | Source::Profile(_));
    let (places, others): (Vec<_>, Vec<_>) = resolved
        .entries
        .iter()
        .filter(|(path, entry)| set_by_hand(&entry.source) && keys::find(path).is_some_and(|key| key.later))
        .map(|(path, _)| path)
        .partition(|path| path.iter().zip(["repository", "secondary"]).all(|(a, b)| a == b));
    let list =
        |paths: &[&Vec<String>]| paths.iter().map(|p| document::dotted(p)).collect::<Vec<_>>().join(", ");
    let place: Vec<_> =
        places.into_iter().filter(|path| path.last().is_some_and(|name| name == "url")).collect();
    if !place.is_empty() {
        let text = format!("no backup is copied to a second place by this release: {}", list(&place));
        let mend = "copy the primary place with the store's own tool until then";
        findings.push(Finding::new(Level::Warning, "configuration", text).with_mend(mend));
    }
    if !others.is_empty() {
        let text = format!("read, but used from a later release: {}", list(&others));
        findings.push(Finding::new(Level::Info, "configuration", text));
    }
}

/// The profile of the command line, DM_PROFILE or NODE_ENV.
fn choose_profile(
    options: &LoadOptions<'_>,
    document: &Document,
    findings: &mut Vec<Finding>,
) -> Result<Option<String>> {
    let shipped = || PROFILES.iter().map(|(name, _)| *name);
    let known = || shipped().chain(document.profiles.iter().map(|(name, _)| name.as_str()));
    for ((name, _), line) in document.profiles.iter().zip(&document.profile_lines) {
        if let Some(near) = nearest(name, shipped()).filter(|near| near != name) {
            findings.push(
                Finding::new(
                    Level::Warning,
                    "configuration",
                    format!(
                        "{}:{line}: the profile {name} is one of your own; the shipped one is {near}",
                        document.name
                    ),
                )
                .with_mend(format!("if {near} was meant, write [profile.{near}]")),
            );
        }
    }
    let asked = options
        .profile
        .as_deref()
        .map(|name| ("--profile", name))
        .or_else(|| environment::value(options.env, "DM_PROFILE").map(|name| ("DM_PROFILE", name)));
    if let Some((from, name)) = asked {
        let name = name.trim();
        if known().any(|k| k == name) {
            return Ok(Some(name.to_owned()));
        }
        let mut all: Vec<&str> = known().collect();
        all.sort_unstable();
        all.dedup();
        let hint = nearest(name, all.iter().copied())
            .map_or_else(|| format!("there are: {}", all.join(", ")), |near| format!("did you mean {near}?"));
        return Err(Error::invalid(format!("{from} names the profile \"{name}\", which there is not"))
            .with_hint(hint));
    }
    // NODE_ENV belongs to another program, whose words (`test`) need not be ours.
    let Some(name) = environment::value(options.env, "NODE_ENV").map(str::trim) else { return Ok(None) };
    if known().any(|k| k == name) {
        return Ok(Some(name.to_owned()));
    }
    let mut finding = Finding::new(
        Level::Info,
        "configuration",
        format!("NODE_ENV is \"{name}\", which is no profile: none is in force"),
    );
    if let Some(near) = nearest(name, known()) {
        finding = finding.with_mend(format!("if {near} was meant, set DM_PROFILE={near}"));
        finding.level = Level::Warning;
    }
    findings.push(finding);
    Ok(None)
}
