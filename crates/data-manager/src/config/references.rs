//! `${NAME}`, `${NAME:-default}` and `file:/path`: values that stand elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

/// No secret is longer; what is, is the wrong file.
const MOST_BYTES: u64 = 64 << 10;

/// A text with its references followed.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The variables and files that it came from.
    pub(super) via: Vec<String>,
}

/// Puts in the variables. `$${` stands for a literal `${`. An empty variable counts as unset where there is a default.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> Result<Expanded, String> {
    let mut out = Expanded::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.text.push_str(&rest[..at - 1]);
            out.text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.text.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or("has a ${ without its }")?;
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
            return Err(format!("has \"${{{name}}}\", which names no environment variable"));
        }
        match (env.get(name), default) {
            (Some(value), None) => out.text.push_str(value),
            (Some(value), Some(_)) if !value.is_empty() => out.text.push_str(value),
            (_, Some(default)) => out.text.push_str(default),
            (None, None) => {
                return Err(format!(
                    "needs the environment variable {name}, which is not set (\"${{{name}:-x}}\" would give it a default)"
                ));
            }
        }
        if !out.via.iter().any(|seen| seen == name) {
            out.via.push(name.to_owned());
        }
        rest = &inner[end + 1..];
    }
    out.text.push_str(rest);
    Ok(out)
}

/// The content of a file without its last line break.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| {
        let why = match e.kind() {
            std::io::ErrorKind::NotFound => "is not there".to_owned(),
            std::io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
            _ => format!("cannot be read ({e})"),
        };
        format!("refers to the file {shown}, which {why}")
    };
    let facts = std::fs::metadata(path).map_err(failed)?;
    if facts.is_dir() {
        return Err(format!("refers to {shown}, which is a folder"));
    }
    if facts.len() > MOST_BYTES {
        return Err(format!(
            "refers to the file {shown}, which is too large for a secret{}",
            for_sqlite(path)
        ));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    if bytes.starts_with(b"SQLite format 3\0") {
        return Err(format!("refers to the file {shown}, which is not a secret{}", for_sqlite(path)));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("refers to the file {shown}, which is not text{}", for_sqlite(path)))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn for_sqlite(path: &Path) -> String {
    format!(" (a SQLite database is written sqlite:{})", path.display())
}
