//! From layers to one value for each setting: default < shipped profile < file < profile section < environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dm_core::{Error, Finding, Level, Result};

use super::document::{Document, KeyPath, Layer, Leaf, Problem, dotted, refused, report};
use super::environment::{self, Database, Targets, value};
use super::keys::{self, Key};
use super::kind::{Kind, Parsed, Raw, carries_password};
use super::places::anchor;
use super::profiles::PROFILES;
use super::references::{expand, read_file};
use super::source::Source;

/// What the resolution needs to know.
pub(super) struct Surroundings<'a> {
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) cwd: &'a Path,
    pub(super) home: Option<&'a Path>,
    /// The folder of the file; the working folder when there is none.
    pub(super) file_dir: &'a Path,
    /// From where the default place for backups is reckoned.
    pub(super) project_dir: &'a Path,
    pub(super) profile: Option<&'a str>,
    pub(super) cores: usize,
}

/// A setting in force.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Parsed,
    pub(super) shown: String,
    pub(super) source: Source,
}

/// All settings in force.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) entries: BTreeMap<KeyPath, Entry>,
    pub(super) findings: Vec<Finding>,
    /// Lines of named sections and settings, for messages about them.
    pub(super) lines: BTreeMap<KeyPath, usize>,
}

impl Resolved {
    /// The names that stand for the `*` behind these words: the engines' names behind `["engines"]`.
    pub(super) fn names(&self, prefix: &[&str]) -> BTreeSet<String> {
        let paths = self.entries.keys().chain(self.lines.keys());
        names(paths, prefix)
    }

    fn put(&mut self, path: KeyPath, key: &Key, value: Parsed, source: Source, cores: usize) {
        let shown = value.show(key.kind);
        let (value, shown) = match value {
            Parsed::Auto => {
                let number = automatic(key.path, cores);
                (Parsed::Number(number), format!("{number} (auto)"))
            }
            other => (other, shown),
        };
        self.entries.insert(path, Entry { value, shown, source });
    }
}

/// What `auto` means.
fn automatic(pattern: &str, cores: usize) -> u64 {
    let cores = u64::try_from(cores).unwrap_or(1).max(1);
    if pattern.ends_with("pool_max") {
        // (core_count * 2) + effective_spindle_count, with one spindle: the PostgreSQL wiki's rule, which the guide takes.
        cores * 2 + 1
    } else if pattern.ends_with("jobs") {
        cores.min(4)
    } else {
        cores
    }
}

fn names<'a>(paths: impl Iterator<Item = &'a KeyPath>, prefix: &[&str]) -> BTreeSet<String> {
    paths
        .filter(|path| path.len() > prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b))
        .map(|path| path[prefix.len()].clone())
        .collect()
}

/// Gives every setting its value.
pub(super) fn resolve(document: &Document, around: &Surroundings<'_>) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    let section = around.profile.and_then(|name| document.profiles.iter().find(|(n, _)| n == name));
    let mut leaves: BTreeMap<&KeyPath, &Leaf> = BTreeMap::new();
    let layers: Vec<&Layer> =
        std::iter::once(&document.base).chain(section.map(|(_, layer)| layer)).collect();
    for layer in layers {
        for leaf in &layer.leaves {
            leaves.insert(&leaf.path, leaf);
            resolved.lines.insert(leaf.path.clone(), leaf.line);
        }
        for (path, line) in &layer.sections {
            resolved.lines.entry(path.clone()).or_insert(*line);
        }
    }

    // The file's values, their references followed. DATABASE_URL first: what it overrides need not be resolvable.
    let engines = names(resolved.lines.keys(), &["engines"]);
    let takes_url = engines.is_empty() || engines.contains("main");
    let overriding = value(around.env, "DATABASE_URL").filter(|_| takes_url);
    let main_url: KeyPath = ["engines", "main", "url"].map(str::to_owned).to_vec();
    let mut problems = Vec::new();
    for leaf in leaves.values() {
        match follow(leaf, document, around) {
            Ok((parsed, source)) => {
                note_plain_password(leaf, &parsed, &source, &mut resolved.findings);
                resolved.put(leaf.path.clone(), leaf.key, parsed, source, around.cores);
            }
            Err(_) if overriding.is_some() && leaf.path == main_url => {}
            Err(text) => problems.push(Problem { line: leaf.line, text }),
        }
    }
    report(&document.name, problems)?;

    overlay(&mut resolved, &engines, takes_url, around)?;
    defaults(&mut resolved, around)?;
    fill_in(&mut resolved, around)?;
    Ok(resolved)
}

/// A leaf's value: references followed, in its type, paths made absolute.
fn follow(
    leaf: &Leaf,
    document: &Document,
    around: &Surroundings<'_>,
) -> std::result::Result<(Parsed, Source), String> {
    let say = |why: String| format!("{} {why}", dotted(&leaf.path));
    let mut via = Vec::new();
    let mut expanded = false;
    let mut put_in = |text: &str| -> std::result::Result<String, String> {
        let result = expand(text, around.env).map_err(say)?;
        expanded |= !result.via.is_empty();
        via.extend(result.via);
        Ok(result.text)
    };
    let raw = match &leaf.raw {
        Raw::Text(text) => {
            let reference = leaf.key.kind.takes_references().then(|| text.strip_prefix("file:")).flatten();
            match reference {
                Some(path) => {
                    let path = put_in(path.strip_prefix("//").unwrap_or(path))?;
                    let path = super::places::absolute(&path, around.file_dir, around.home);
                    let content = read_file(&path).map_err(say)?;
                    via.push(path.display().to_string());
                    Raw::Text(content)
                }
                None => Raw::Text(put_in(text)?),
            }
        }
        Raw::List(items) if matches!(leaf.key.kind, Kind::TextList | Kind::PathList) => Raw::List(
            items
                .iter()
                .map(|item| match item {
                    Raw::Text(text) => put_in(text).map(Raw::Text),
                    other => Ok(other.clone()),
                })
                .collect::<std::result::Result<_, _>>()?,
        ),
        other => other.clone(),
    };
    let parsed = leaf.key.kind.read(&raw, expanded).map_err(|mut refusal| {
        if !via.is_empty() {
            // What a reference led to may be a secret in the wrong place.
            refusal.found = format!("given by {}, whose content is not usable", via.join(" and "));
        }
        refused(&leaf.path, &refusal)
    })?;
    let source = Source::File { file: document.name.clone(), line: leaf.line, via };
    Ok((anchor(leaf.key.kind, parsed, around.file_dir, around.home), source))
}

fn note_plain_password(leaf: &Leaf, parsed: &Parsed, source: &Source, findings: &mut Vec<Finding>) {
    let (Parsed::Secret(secret), Source::File { file, line, via }) = (parsed, source) else { return };
    let plain = match leaf.key.kind {
        Kind::SecretUrl => carries_password(secret.expose()),
        // An access key's id is not the secret half.
        _ => leaf.path.last().is_none_or(|name| name != "access_key"),
    };
    if plain && via.is_empty() {
        findings.push(
            Finding::new(
                Level::Warning,
                "configuration",
                format!("{file}:{line} holds the secret of {} in plain text", dotted(&leaf.path)),
            )
            .with_mend(
                "move it to an environment variable (\"${NAME}\") or a file of mode 0600 (\"file:/path\")",
            ),
        );
    }
}

/// Lays the environment over what the file says.
fn overlay(
    resolved: &mut Resolved,
    engines: &BTreeSet<String>,
    takes_url: bool,
    around: &Surroundings<'_>,
) -> Result<()> {
    let url = value(around.env, "DATABASE_URL");
    let database = match engines.first() {
        _ if engines.contains("main") => Database::Engine("main"),
        None if url.is_some() => Database::Engine("main"),
        None => Database::Nobody,
        Some(only) if engines.len() == 1 => Database::Engine(only),
        Some(_) => Database::Unclear,
    };
    let place = resolved.entries.get(["repository", "url"].map(str::to_owned).as_slice());
    let place =
        place.and_then(|entry| if let Parsed::Text(url) = &entry.value { Some(url.as_str()) } else { None });
    let targets = Targets {
        database,
        takes_url,
        has_folder: place.is_some_and(|url| !url.contains("://") || url.starts_with("file:")),
        is_s3: place.is_some_and(|url| url.starts_with("s3:")),
    };
    let mut findings = Vec::new();
    let settings = environment::overlay(around.env, &targets, &mut findings)?;
    for setting in settings {
        // A path in a variable is reckoned from where the program was started, a database's URL is left as it is.
        let parsed = match setting.key.kind {
            Kind::SecretUrl => setting.value,
            kind => anchor(kind, setting.value, around.cwd, around.home),
        };
        if let Some(before) = resolved.entries.get(&setting.path)
            && setting.name == "DATABASE_URL"
            && !same(&before.value, &parsed)
        {
            findings.push(Finding::new(
                Level::Info,
                "configuration",
                format!("DATABASE_URL overrides the url of the engine main at {}", before.source),
            ));
        }
        let source = Source::Environment(setting.name.to_owned());
        resolved.put(setting.path, setting.key, parsed, source, around.cores);
    }
    if url.is_some() && !takes_url && !mentions(resolved, "DATABASE_URL") {
        findings.push(
            Finding::new(
                Level::Info,
                "configuration",
                "DATABASE_URL is set but not used: the file has engines and none is called main",
            )
            .with_mend("write url = \"${DATABASE_URL}\" for the engine that it means"),
        );
    }
    resolved.findings.extend(findings);
    Ok(())
}

fn same(a: &Parsed, b: &Parsed) -> bool {
    matches!((a, b), (Parsed::Secret(a), Parsed::Secret(b)) if a.expose() == b.expose())
}

fn mentions(resolved: &Resolved, variable: &str) -> bool {
    resolved
        .entries
        .values()
        .any(|entry| matches!(&entry.source, Source::File { via, .. } if via.iter().any(|v| v == variable)))
}

/// Fills in the shipped profile and the defaults.
fn defaults(resolved: &mut Resolved, around: &Surroundings<'_>) -> Result<()> {
    let profile = around.profile.and_then(|name| PROFILES.iter().find(|(shipped, _)| *shipped == name));
    for key in keys::all() {
        let from_profile = profile.and_then(|(name, settings)| {
            let (_, text) = settings.iter().find(|(pattern, _)| *pattern == key.path)?;
            Some((*text, Source::Profile((*name).to_owned())))
        });
        let Some((text, source)) = from_profile.or_else(|| key.default.map(|text| (text, Source::Default)))
        else {
            continue;
        };
        for path in paths(key.path, resolved) {
            if resolved.entries.contains_key(&path) {
                continue;
            }
            let parsed = key.kind.read_text(text).map_err(|refusal| {
                Error::internal(format!("the default of {} is not {}", key.path, refusal.expected))
            })?;
            let parsed = anchor(key.kind, parsed, around.project_dir, around.home);
            resolved.put(path, key, parsed, source.clone(), around.cores);
        }
    }
    Ok(())
}

/// The concrete paths of a pattern: one for each name that the `*` can stand for.
fn paths(pattern: &str, resolved: &Resolved) -> Vec<KeyPath> {
    let segments: Vec<&str> = pattern.split('.').collect();
    let Some(star) = segments.iter().position(|segment| *segment == "*") else {
        return vec![segments.iter().map(|s| (*s).to_owned()).collect()];
    };
    resolved
        .names(&segments[..star])
        .into_iter()
        .map(|name| {
            let mut path: KeyPath = segments.iter().map(|s| (*s).to_owned()).collect();
            path[star] = name;
            path
        })
        .collect()
}

/// Fills in what shared variables (AWS_…) say for every store on S3.
fn fill_in(resolved: &mut Resolved, around: &Surroundings<'_>) -> Result<()> {
    let mut stores: Vec<KeyPath> = vec![vec!["repository".to_owned()]];
    let secondaries = resolved.names(&["repository", "secondary"]);
    stores.extend(secondaries.into_iter().map(|name| vec!["repository".into(), "secondary".into(), name]));
    for store in stores {
        let at = |name: &str| -> KeyPath { store.iter().cloned().chain([name.to_owned()]).collect() };
        let on_s3 = matches!(
            resolved.entries.get(&at("url")),
            Some(Entry { value: Parsed::Text(url), .. }) if url.starts_with("s3:")
        );
        if !on_s3 {
            continue;
        }
        let words: Vec<&str> = store.iter().map(String::as_str).collect();
        let own = |name: &str| resolved.entries.contains_key(&at(name));
        let settings = environment::fill_in(around.env, &words, &own)?;
        for setting in settings {
            let source = Source::Environment(setting.name.to_owned());
            resolved.put(setting.path, setting.key, setting.value, source, around.cores);
        }
    }
    Ok(())
}
