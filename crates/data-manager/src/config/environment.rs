//! Environment variables as settings: which one sets what, in whose units.

use std::collections::BTreeMap;

use dm_core::{Error, Finding, Level, Result};

use super::document::KeyPath;
use super::keys::{Key, find};
use super::kind::Parsed;
use super::variables::{ENVIRONMENT, EnvName, Strength, Unit};

/// The name that a variable's folder-and-bucket pair gives to the bucket.
pub(super) const SECONDARY: &str = "s3";

/// A setting that an environment variable makes.
#[derive(Debug)]
pub(super) struct FromEnvironment {
    pub(super) path: KeyPath,
    pub(super) key: &'static Key,
    pub(super) value: Parsed,
    pub(super) name: &'static str,
}

/// Which engine the database names (`DB_…`) mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Database<'a> {
    /// `main`, or the only one.
    Engine(&'a str),
    /// There are several and none is `main`.
    Unclear,
    /// There is no engine at all.
    Nobody,
}

/// What the environment's names refer to.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    pub(super) database: Database<'a>,
    /// Whether DATABASE_URL makes or overrides an engine.
    pub(super) takes_url: bool,
    /// Whether the file names a folder for backups.
    pub(super) has_folder: bool,
    /// Whether the file's place for backups is on S3.
    pub(super) is_s3: bool,
}

/// A variable's value; an empty one counts as not set.
pub(super) fn value<'a>(env: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
}

/// The settings of the variables that override the file.
pub(super) fn overlay(
    env: &BTreeMap<String, String>,
    targets: &Targets<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Vec<FromEnvironment>> {
    let folder = value(env, "BACKUP_DIR").is_some() || targets.has_folder;
    let bucket = value(env, "BACKUP_S3_BUCKET").is_some();
    let mut settings = Vec::new();
    let mut unused = Vec::new();
    for known in ENVIRONMENT.iter().filter(|known| known.strength == Strength::Overrides) {
        let Some(text) = value(env, known.name) else { continue };
        let key = match (known.name, known.key) {
            ("DATABASE_URL", _) if !targets.takes_url => continue,
            ("BACKUP_S3_BUCKET", _) if folder => format!("repository.secondary.{SECONDARY}.url"),
            ("BACKUP_S3_REGION", _) if bucket && folder => format!("repository.secondary.{SECONDARY}.region"),
            ("BACKUP_S3_REGION", _) if !bucket && !targets.is_s3 => {
                findings.push(Finding::new(
                    Level::Info,
                    "configuration",
                    "BACKUP_S3_REGION is set, but no place for backups is on S3",
                ));
                continue;
            }
            (_, key) => match (key.strip_prefix("engines.main."), targets.database) {
                (Some(_), Database::Nobody) => continue,
                (Some(_), Database::Unclear) => {
                    unused.push(known.name);
                    continue;
                }
                // An engine's name may hold a dot, so the path is put together, not split.
                (Some(setting), Database::Engine(engine)) => {
                    let path = vec!["engines".to_owned(), engine.to_owned(), setting.to_owned()];
                    settings.push(make(known, path, text)?);
                    continue;
                }
                (None, _) => key.to_owned(),
            },
        };
        let text = if known.name == "BACKUP_S3_BUCKET" && !text.contains("://") {
            format!("s3://{}", text.trim())
        } else {
            text.to_owned()
        };
        settings.push(make(known, key.split('.').map(str::to_owned).collect(), &text)?);
    }
    if !unused.is_empty() {
        findings.push(
            Finding::new(
                Level::Warning,
                "configuration",
                format!("not used: {}: there is no one engine that they could mean", unused.join(", ")),
            )
            .with_mend("call one of the engines main, or set the values in the file"),
        );
    }
    Ok(settings)
}

/// The settings that shared names (AWS_…) fill in for one store on S3. `has` tells what is already set.
///
/// The keys count only together and only when the store has none of its own, so that no key is paired with a stranger's.
pub(super) fn fill_in(
    env: &BTreeMap<String, String>,
    store: &[&str],
    has: &dyn Fn(&str) -> bool,
) -> Result<Vec<FromEnvironment>> {
    let own_keys = ["access_key", "secret_key", "session_token"].iter().any(|name| has(name));
    let pair = value(env, "AWS_ACCESS_KEY_ID").is_some() && value(env, "AWS_SECRET_ACCESS_KEY").is_some();
    let mut settings: Vec<FromEnvironment> = Vec::new();
    for known in ENVIRONMENT.iter().filter(|known| known.strength == Strength::FillsIn) {
        let (Some(text), Some(name)) = (value(env, known.name), known.key.strip_prefix("repository.")) else {
            continue;
        };
        let is_key = matches!(name, "access_key" | "secret_key" | "session_token");
        let path: KeyPath = store.iter().copied().chain([name]).map(str::to_owned).collect();
        if has(name) || (is_key && (own_keys || !pair)) || settings.iter().any(|s| s.path == path) {
            continue;
        }
        settings.push(make(known, path, text)?);
    }
    Ok(settings)
}

fn make(known: &'static EnvName, path: KeyPath, text: &str) -> Result<FromEnvironment> {
    let Some(key) = find(&path) else {
        return Err(Error::internal(format!("{} sets {}, which is no setting", known.name, path.join("."))));
    };
    let bare = text.trim();
    let suffix = match known.unit {
        Unit::AsInFile => "",
        Unit::Seconds => "s",
        Unit::Milliseconds => "ms",
        Unit::Days => " days",
    };
    let is_bare_number = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
    let text = if is_bare_number { format!("{bare}{suffix}") } else { text.to_owned() };
    let value = key.kind.read_text(&text).map_err(|refusal| {
        let unit = match known.unit {
            Unit::AsInFile => String::new(),
            Unit::Seconds => "a number of seconds, or ".to_owned(),
            Unit::Milliseconds => "a number of milliseconds, or ".to_owned(),
            Unit::Days => "a number of days, or ".to_owned(),
        };
        let expected = refusal.expected.replace('"', "");
        Error::invalid(format!("{} is {}, expected {unit}{expected}", known.name, refusal.found))
            .with_hint("correct the environment variable, or unset it; an empty one counts as unset")
    })?;
    Ok(FromEnvironment { path, key, value, name: known.name })
}
