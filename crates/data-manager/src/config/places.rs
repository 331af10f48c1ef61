//! Where relative paths lead, and where files are looked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dm_core::Secret;

use super::kind::{Kind, Parsed};

/// The file that is read, and the folder from which its relative paths are reckoned.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// How it is called in messages.
    pub(super) name: String,
    /// Whether it belongs to a project (`./dm.toml`, `--config`) and not to the user (XDG).
    pub(super) of_project: bool,
}

/// The XDG place of a file of ours: `$variable/dm/file` or `~/fallback/dm/file`.
pub(super) fn xdg(
    env: &BTreeMap<String, String>,
    variable: &str,
    home: Option<&Path>,
    fallback: &str,
    file: &str,
) -> Option<PathBuf> {
    let folder = match env.get(variable) {
        // The XDG specification: a relative one is invalid and to be ignored.
        Some(folder) if Path::new(folder).is_absolute() => PathBuf::from(folder),
        _ => home?.join(fallback),
    };
    Some(folder.join("dm").join(file))
}

/// The file to read: the one asked for, ./dm.toml, the XDG one, or none.
pub(super) fn look(
    asked: Option<&Path>,
    env: &BTreeMap<String, String>,
    cwd: &Path,
    home: Option<&Path>,
) -> Option<Found> {
    if let Some(path) = asked {
        return Some(Found { path: cwd.join(path), name: path.display().to_string(), of_project: true });
    }
    let local = cwd.join("dm.toml");
    if local.is_file() {
        return Some(Found { path: local, name: "dm.toml".to_owned(), of_project: true });
    }
    let path = xdg(env, "XDG_CONFIG_HOME", home, ".config", "dm.toml")?;
    path.is_file().then(|| Found { name: path.display().to_string(), path, of_project: false })
}

/// An absolute path without `.` parts; `~/` is the user's home.
pub(super) fn absolute(text: &str, base: &Path, home: Option<&Path>) -> PathBuf {
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => base.join(text),
    };
    path.components().collect()
}

/// Makes the relative paths of a value absolute.
pub(super) fn anchor(kind: Kind, value: Parsed, base: &Path, home: Option<&Path>) -> Parsed {
    let resolve = |text: &str| absolute(text, base, home).display().to_string();
    match (kind, value) {
        (Kind::Path, Parsed::Text(text)) => Parsed::Text(resolve(&text)),
        (Kind::PathList, Parsed::List(items)) => Parsed::List(items.iter().map(|i| resolve(i)).collect()),
        (Kind::Location, Parsed::Text(text)) if !has_scheme(&text) => Parsed::Text(resolve(&text)),
        (Kind::SecretUrl, Parsed::Secret(url)) => Parsed::Secret(anchor_database(url, &resolve)),
        (_, other) => other,
    }
}

/// The path of a SQLite database is reckoned from the file it is written in, like every other path.
fn anchor_database(url: Secret, resolve: &dyn Fn(&str) -> String) -> Secret {
    let text = url.expose();
    let (prefix, rest) = if let Some(rest) = text.strip_prefix("sqlite://") {
        ("sqlite://", rest)
    } else if let Some(rest) = text.strip_prefix("sqlite:") {
        ("sqlite:", rest)
    } else if let Some(rest) = text.strip_prefix("file:") {
        ("file:", rest)
    } else if has_scheme(text) || text.starts_with(':') {
        return url;
    } else {
        // A plain path: nothing in it is a parameter or an escape.
        return Secret::new(resolve(text));
    };
    let (path, parameters) = match rest.split_once('?') {
        Some((path, parameters)) => (path, format!("?{parameters}")),
        None => (rest, String::new()),
    };
    if path.is_empty() || path.starts_with(':') || path.starts_with('/') {
        return url;
    }
    // Where nothing needs an escape a plain path says the same, and every reader of it agrees what it means.
    if parameters.is_empty() && !path.contains('%') {
        return Secret::new(resolve(path));
    }
    // The path is written with escapes already, the folder before it is not.
    let folder = escaped(&resolve("."));
    let path = PathBuf::from(folder).join(path).components().collect::<PathBuf>();
    Secret::new(format!("{prefix}{}{parameters}", path.display()))
}

/// A path as a URL writes it, where `%` begins an escape and `?` the parameters.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F").replace('#', "%23")
}

/// Whether a text begins with a URL's scheme; one letter is a drive.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}
