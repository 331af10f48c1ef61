//! Identifiers: validated, so that a name can stand in an object key, a log line or a file name as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh one (UUIDv7). Unique, but its order means nothing.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID.
            #[must_use]
            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match Uuid::try_parse(text) {
                    Ok(id) if text.len() == 36 => Ok(Self(id)),
                    _ => Err(Error::invalid(format!(
                        concat!("\"{}\" is not a ", $what, " (a UUID of 36 characters)"),
                        text
                    ))),
                }
            }
        }
    };
}

uuid_id!(
    /// Names a backup.
    BackupId, "backup id"
);
uuid_id!(
    /// Names one run of one operation, in logs, audit and history.
    RunId, "run id"
);
uuid_id!(
    /// Names a repository.
    RepositoryId, "repository id"
);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Lowercase letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 63 bytes.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when a character or the length is off.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
                let first = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                if first && name.len() <= 63 && name.bytes().all(good) {
                    return Ok(Self(name));
                }
                Err(Error::invalid(format!(
                    concat!("\"{}\" is not a ", $what, ": use a-z, 0-9, '-', '_' and '.', at most 63"),
                    name
                )))
            }

            /// Makes a valid name out of any text: other characters become `-`.
            #[must_use]
            pub fn sanitise(text: &str) -> Self {
                let mut name: String = text
                    .chars()
                    .map(|c| match c.to_ascii_lowercase() {
                        c if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.') => c,
                        _ => '-',
                    })
                    .take(63)
                    .collect();
                name = name.trim_start_matches(['-', '_', '.']).to_owned();
                if name.is_empty() { Self("main".to_owned()) } else { Self(name) }
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
    };
}

name_id!(
    /// Names an engine of the configuration.
    EngineId, "engine name"
);
name_id!(
    /// Names what is backed up; the folder of its backups in a repository.
    TargetName, "target name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_climb_out_of_its_folder() {
        for bad in ["", "..", ".", "a/b", "A", "-a", "ü", "a b", &"x".repeat(64)] {
            assert!(TargetName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(TargetName::new("shop-1.eu").unwrap().as_str(), "shop-1.eu");
        assert_eq!(TargetName::sanitise("/My Shop.db").as_str(), "my-shop.db");
        assert_eq!(TargetName::sanitise("../..").as_str(), "main");
    }

    #[test]
    fn an_id_is_the_whole_uuid() {
        let id = BackupId::generate();
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        assert!(id.to_string()[..8].parse::<BackupId>().is_err());
        assert!(format!("{{{id}}}").parse::<BackupId>().is_err());
    }
}
