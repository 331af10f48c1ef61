//! Where a setting came from.

use std::fmt;

use serde::Serialize;

/// Where a setting came from, as `dm doctor` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The program's own default.
    Default,
    /// A profile that comes with the program.
    Profile(String),
    /// A line of the file; `via` names the variables and files that its references led to.
    File {
        /// The file, as it was found.
        file: String,
        /// Counts from 1.
        line: usize,
        /// Names of environment variables and paths of files.
        via: Vec<String>,
    },
    /// An environment variable.
    Environment(String),
    /// A parameter of an engine's URL (`connection_limit`).
    UrlParameter(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File { file, line, via } if via.is_empty() => write!(f, "{file}:{line}"),
            Self::File { file, line, via } => write!(f, "{file}:{line} ({})", via.join(", ")),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::UrlParameter(name) => write!(f, "url parameter {name}"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `repository.zstd_level`.
    pub key: String,
    /// The value; secrets are redacted.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}
