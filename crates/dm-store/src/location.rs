//! Where a store is: `sqlite:///path/state.db`, a plain path, or `postgres://…`.

use std::path::{Path, PathBuf};

use dm_core::{Error, Result, Secret};

use crate::dialect::Dialect;

/// A parsed location.
#[derive(Debug)]
pub(crate) enum Location {
    /// A file; the path as it was given.
    Sqlite(PathBuf),
    /// A URL that may hold a password.
    Postgres(Secret),
}

impl Location {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |message: &str| {
            Err(Error::invalid(message)
                .with_hint("write sqlite:///path/state.db, a plain path, or postgres://user@host/database"))
        };
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(verified_tls(text)?));
        }
        let path = match text.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None if text.contains("://") => return bad("the store's URL has an unknown scheme"),
            None => text,
        };
        if path.is_empty() || path.starts_with(":memory:") || path.contains(['?', '\0']) {
            return bad("the store's URL names no file");
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }
}

/// The URL sqlx wants for a file. The folder must exist. Every byte but the plainest is percent-encoded, so that no
/// character of a path is taken for a part of a URL; `..` is resolved first, since a URL parser would resolve it
/// without looking at symbolic links.
pub(crate) fn sqlite_url(path: &Path) -> Result<String> {
    let name = path.file_name().ok_or_else(|| Error::invalid("the store's path names no file"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|e| {
        Error::not_found("the store's folder cannot be found")
            .about(folder.display().to_string())
            .with_source(e)
    })?;
    let full = folder.join(name);
    let text = full.to_str().ok_or_else(|| Error::invalid("the store's path is not UTF-8"))?;
    let mut url = String::from("sqlite://");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => url.push(byte.into()),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url.push_str("?mode=rwc");
    Ok(url)
}

/// A server elsewhere is verified unless the URL says otherwise.
fn verified_tls(text: &str) -> Result<Secret> {
    let mut url = url::Url::parse(text).map_err(|_| {
        Error::invalid("the store's URL cannot be parsed")
            .with_hint("percent-encode special characters of the password")
    })?;
    let says = url.query_pairs().any(|(key, _)| key == "sslmode" || key == "ssl-mode" || key == "host");
    let near = match url.host_str() {
        None | Some("" | "localhost" | "[::1]") => true,
        Some(host) => host.starts_with("127.") || host.starts_with('/') || host.starts_with("%2F"),
    };
    if !says && !near {
        url.query_pairs_mut().append_pair("sslmode", "verify-full");
    }
    Ok(Secret::new(url.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_file_or_a_server() {
        let path = |text: &str| match Location::parse(text).unwrap() {
            Location::Sqlite(path) => path.display().to_string(),
            Location::Postgres(_) => panic!("{text}"),
        };
        assert_eq!(path("sqlite:///var/lib/dm/state.db"), "/var/lib/dm/state.db");
        assert_eq!(path("sqlite:state.db"), "state.db");
        assert_eq!(path("./state.db"), "./state.db");
        for bad in ["", "sqlite::memory:", "mysql://h/d", "sqlite://", "sqlite:///a?mode=ro"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_far_server_is_verified() {
        let url = |text: &str| match Location::parse(text).unwrap() {
            Location::Postgres(url) => url.expose().to_owned(),
            Location::Sqlite(_) => panic!("{text}"),
        };
        assert!(url("postgres://u:p@db.example/s").ends_with("?sslmode=verify-full"));
        assert_eq!(url("postgres://u:p@127.0.0.1:5/s"), "postgres://u:p@127.0.0.1:5/s");
        assert_eq!(url("postgres://u@h/s?sslmode=disable"), "postgres://u@h/s?sslmode=disable");
    }

    #[test]
    fn a_path_is_never_taken_for_a_url() {
        let folder = tempfile::tempdir().unwrap();
        let url = sqlite_url(&folder.path().join("a b#c?d%.db")).unwrap();
        assert!(url.ends_with("a%20b%23c%3Fd%25.db?mode=rwc"), "{url}");
    }
}
