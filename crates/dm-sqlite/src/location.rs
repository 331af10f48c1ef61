//! Where a database file is.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use dm_core::{Error, Result};

/// What a URL's `mode` parameter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// `mode=ro`: never write.
    ReadOnly,
    /// `mode=rw`: read and write what exists.
    ReadWrite,
    /// `mode=rwc`: also create the file when it is missing.
    Create,
}

/// The path of a database file. Always absolute, so that it means the same whatever the working directory becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteLocation {
    path: PathBuf,
    mode: Option<OpenMode>,
}

impl SqliteLocation {
    /// Understands `sqlite://path`, `sqlite:path`, `file:path` (all percent-decoded, with an optional `?mode=ro|rw|rwc`)
    /// and a plain path, which is taken as it is. `sqlite:///x` is `/x`, `sqlite://x` is `x` in the working directory.
    ///
    /// # Errors
    /// `Invalid` for an empty path, a bad escape or an unknown parameter; `Unsupported` for `:memory:`.
    pub fn parse(text: &str) -> Result<Self> {
        let lower = text.get(..7).unwrap_or(text).to_ascii_lowercase();
        let rest = if lower.starts_with("sqlite:") {
            let rest = &text[7..];
            Some(rest.strip_prefix("//").unwrap_or(rest))
        } else if lower.starts_with("file:") {
            let rest = &text[5..];
            // `file://host/path` has an authority; only the empty one and `localhost` are this machine.
            match rest.strip_prefix("//") {
                None => Some(rest),
                Some(after) if after.starts_with('/') => Some(after),
                Some(after) => match after.strip_prefix("localhost/") {
                    Some(_) => Some(&after["localhost".len()..]),
                    None => {
                        return Err(Error::invalid(format!("\"{text}\" names another machine"))
                            .with_hint("write file:///absolute/path or a plain path"));
                    }
                },
            }
        } else {
            None
        };
        let Some(rest) = rest else {
            return Self::from_path(text);
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut location = Self::from_path(OsString::from_vec(percent_decode(path)?))?;
        for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
            location.mode = Some(match pair {
                "mode=ro" => OpenMode::ReadOnly,
                "mode=rw" => OpenMode::ReadWrite,
                "mode=rwc" => OpenMode::Create,
                "mode=memory" => return Err(no_memory()),
                other => {
                    let name = other.split('=').next().unwrap_or(other);
                    return Err(Error::invalid(format!("\"{name}\" is not a known parameter of a sqlite url"))
                        .with_hint("only mode=ro, mode=rw and mode=rwc are known; write a plain path for a file with a ? in its name"));
                }
            });
        }
        Ok(location)
    }

    /// Takes a path as it is, relative to the working directory of now.
    ///
    /// # Errors
    /// `Invalid` for an empty path or one with a NUL in it; `Unsupported` for `:memory:`.
    pub fn from_path(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let bytes = path.as_os_str().as_bytes();
        if bytes == b":memory:" {
            return Err(no_memory());
        }
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(Error::invalid("the path of the sqlite database is empty or has a NUL in it")
                .with_hint("write sqlite:///absolute/path, file:relative/path or a plain path"));
        }
        let absolute =
            std::path::absolute(&path).map_err(|e| crate::error::file(&path, "make the path absolute", e))?;
        Ok(Self { path: absolute, mode: None })
    }

    /// The absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the URL's `mode` asked for, if it had one.
    #[must_use]
    pub fn mode(&self) -> Option<OpenMode> {
        self.mode
    }

    /// The file's name, for display and manifests.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
}

impl fmt::Display for SqliteLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl std::str::FromStr for SqliteLocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn no_memory() -> Error {
    Error::unsupported("a database in memory belongs to one connection and has no file")
        .with_hint("name a file; on a tmpfs it is as fast")
}

fn percent_decode(text: &str) -> Result<Vec<u8>> {
    let bad = || Error::invalid(format!("\"{text}\" has a % that is not followed by two hexadecimal digits"));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let digits = bytes.get(i + 1..i + 3).ok_or_else(bad)?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).map_err(|_| bad())?;
            decoded.push(byte[0]);
            i += 3;
        } else {
            decoded.push(bytes[i]);
            i += 1;
        }
    }
    Ok(decoded)
}

/// A `file:` URI of a path for SQLite itself, with every byte escaped that could mean something.
pub(crate) fn uri(path: &Path, parameters: &str) -> String {
    let mut uri = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02x}"));
        }
    }
    uri.push('?');
    uri.push_str(parameters);
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_core::ErrorKind;

    #[test]
    fn every_spelling() {
        let here = std::env::current_dir().unwrap();
        for (text, path) in [
            ("/a/b.db", PathBuf::from("/a/b.db")),
            ("b?x.db", here.join("b?x.db")),
            ("sqlite:///a/b%20c.db", "/a/b c.db".into()),
            ("sqlite://b.db", here.join("b.db")),
            ("sqlite:b.db", here.join("b.db")),
            ("SQLite:/b.db?mode=ro", "/b.db".into()),
            ("file:/a", "/a".into()),
            ("file:///a", "/a".into()),
            ("file://localhost/a", "/a".into()),
            ("file:a", here.join("a")),
        ] {
            assert_eq!(SqliteLocation::parse(text).unwrap().path(), path, "{text}");
        }
        assert_eq!(SqliteLocation::parse("sqlite:/b?mode=ro").unwrap().mode(), Some(OpenMode::ReadOnly));
        for bad in
            ["", "sqlite:", "sqlite://", "file://host/a", "sqlite:/a%2", "sqlite:/a?cache=shared", "a\0b"]
        {
            assert_eq!(SqliteLocation::parse(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        for memory in [":memory:", "sqlite::memory:", "sqlite:x?mode=memory"] {
            assert_eq!(SqliteLocation::parse(memory).unwrap_err().kind(), ErrorKind::Unsupported, "{memory}");
        }
    }

    #[test]
    fn an_awkward_path_survives_as_uri() {
        assert_eq!(uri(Path::new("/a ?#%/ü"), "mode=ro"), "file:///a%20%3f%23%25/%c3%bc?mode=ro");
    }
}
