//! Clusters compared page by page, without a server.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;

/// PostgreSQL's block size as everybody builds it.
pub const PAGE: usize = 8192;

/// What of a cluster holds its contents: everything else is the server's own business.
const CONTENTS: [&str; 5] = ["base", "global", "pg_tblspc", "pg_xact", "pg_multixact"];

/// A place where two clusters differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The file is only in one of them: `true` when in the first.
    Missing(PathBuf, bool),
    /// Its sizes.
    Size(PathBuf, u64, u64),
    /// A page.
    Page(PathBuf, u64),
}

impl Difference {
    /// The file, relative to the data directory.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Missing(path, _) | Self::Size(path, ..) | Self::Page(path, _) => path,
        }
    }

    /// Whether the file is a relation's fork of this name (`vm`, `fsm`).
    #[must_use]
    pub fn is_fork(&self, fork: &str) -> bool {
        let name = self.file().file_name().unwrap_or_default().to_string_lossy();
        // "16384_vm", "16384_vm.1"
        name.split('.').next().is_some_and(|stem| stem.ends_with(&format!("_{fork}")))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path, in_first) => {
                write!(f, "{}: only in the {}", path.display(), if *in_first { "first" } else { "second" })
            }
            Self::Size(path, first, second) => {
                write!(f, "{}: {first} and {second} bytes", path.display())
            }
            Self::Page(path, page) => write!(f, "{}: page {page}", path.display()),
        }
    }
}

/// The files of a cluster that hold its contents, relative to the data directory; tablespaces are followed.
///
/// `global/pg_control`, `pg_internal.init` and the version files are left out, and so are the contents of unlogged
/// relations (every fork but `_init` beside an `_init`), which a restore empties.
///
/// # Errors
/// When something cannot be read.
pub fn contents(data_dir: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    for folder in CONTENTS {
        walk(data_dir, Path::new(folder), &mut found)?;
    }
    let unlogged: BTreeSet<String> = found
        .iter()
        .filter_map(|path| path.to_string_lossy().strip_suffix("_init").map(str::to_owned))
        .collect();
    found.retain(|path| {
        let text = path.to_string_lossy();
        let relation: String = {
            let name_at = text.rfind('/').map_or(0, |slash| slash + 1);
            let stem = text[name_at..].split(['.', '_']).next().unwrap_or_default();
            format!("{}{stem}", &text[..name_at])
        };
        !unlogged.contains(&relation) || text.ends_with("_init")
    });
    Ok(found)
}

fn walk(data_dir: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), Failure> {
    let full = data_dir.join(folder);
    let io = |e: std::io::Error| Failure(format!("cannot list {}: {e}", full.display()));
    for entry in fs::read_dir(&full).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = folder.join(entry.file_name());
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Links lead to tablespaces.
        if fs::metadata(entry.path()).map_err(io)?.is_dir() {
            if !name.starts_with("pgsql_tmp") {
                walk(data_dir, &path, found)?;
            }
        } else if !name.starts_with("pg_internal.init") && name != "pg_control" && name != "PG_VERSION" {
            found.insert(path);
        }
    }
    Ok(())
}

/// Compares the contents of two clusters; neither may be written meanwhile.
///
/// # Errors
/// When something cannot be read.
pub fn compare(first: &Path, second: &Path) -> Result<Vec<Difference>, Failure> {
    let (files, others) = (contents(first)?, contents(second)?);
    let mut differences: Vec<Difference> = files
        .symmetric_difference(&others)
        .map(|p| Difference::Missing(p.clone(), files.contains(p)))
        .collect();
    for path in files.intersection(&others) {
        let read = |root: &Path| {
            let full = root.join(path);
            fs::read(&full).map_err(|e| Failure(format!("cannot read {}: {e}", full.display())))
        };
        let (one, other) = (read(first)?, read(second)?);
        if one.len() != other.len() {
            differences.push(Difference::Size(path.clone(), one.len() as u64, other.len() as u64));
        }
        for (page, (a, b)) in (0..).zip(one.chunks(PAGE).zip(other.chunks(PAGE))) {
            let shared = a.len().min(b.len());
            if a[..shared] != b[..shared] {
                differences.push(Difference::Page(path.clone(), page));
            }
        }
    }
    Ok(differences)
}

/// A few differences as text, for a message.
#[must_use]
pub fn describe(differences: &[Difference]) -> String {
    let shown: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    format!("{} differences: {}", differences.len(), shown.join("; "))
}
