//! New files, called as those that are there.

use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use dm_core::{Error, ErrorKind, Result};

use crate::files::MigrationFiles;
use crate::name::Style;

/// A migration to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewMigration<'a> {
    /// What it does, in some words.
    pub description: &'a str,
    /// Without a script back.
    pub one_way: bool,
    /// The scripts, forward and back; a comment each without them.
    pub contents: Option<(&'a str, &'a str)>,
}

impl NewMigration<'_> {
    /// Makes its files, called as those that are there, and gives their paths.
    ///
    /// # Errors
    /// `Invalid` for a description without words; `AlreadyExists`; `Denied`.
    pub fn create(
        &self,
        folder: &Path,
        files: &MigrationFiles,
        extension: &str,
        comment: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<PathBuf>> {
        let Self { description, one_way, contents } = *self;
        let words: Vec<String> = description
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .map(str::to_lowercase)
            .collect();
        let slug = words.join("_");
        if slug.is_empty() || slug.len() > 180 {
            return Err(Error::invalid("the description of a migration is one to some words")
                .with_hint("for example: dm migrate new \"add users\""));
        }
        let newest = files.migrations.last();
        let stem = match newest.map(|m| (m.style, m.version)) {
            Some((Style::Number(width), version)) => format!("{:0width$}_{slug}", version + 1),
            Some((Style::Refinery, version)) => format!("V{}__{slug}", version + 1),
            Some((Style::SplitTimestamp, version)) => {
                let digits = timestamp(now, Some(version));
                let (date, time) = digits.split_at_checked(8).unwrap_or((digits.as_str(), ""));
                format!("{date}_{time}_{slug}")
            }
            Some((Style::Timestamp, version)) => format!("{}_{slug}", timestamp(now, Some(version))),
            None => format!("{}_{slug}", timestamp(now, None)),
        };
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        let (up, down) = contents.map_or_else(
            || (format!("{comment} {description}\n"), format!("{comment} undoes: {description}\n")),
            |(up, down)| (up.to_owned(), down.to_owned()),
        );
        let refinery = matches!(newest.map(|m| m.style), Some(Style::Refinery));
        let list = match one_way || refinery {
            true => vec![(format!("{stem}.{extension}"), up)],
            false => vec![(format!("{stem}.up.{extension}"), up), (format!("{stem}.down.{extension}"), down)],
        };
        let mut paths = Vec::new();
        for (name, content) in list {
            let path = folder.join(name);
            let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
            file.and_then(|mut f| f.write_all(content.as_bytes())).map_err(|e| failed(&path, e))?;
            paths.push(path);
        }
        Ok(paths)
    }
}

/// The instant as a version, after the newest one.
fn timestamp(now: DateTime<Utc>, newest: Option<i64>) -> String {
    const FORM: &str = "%Y%m%d%H%M%S";
    let mut at = now.naive_utc();
    // A file of the future (another host's clock) must not make this one out of order.
    if let Some(newest) = newest.and_then(|v| NaiveDateTime::parse_from_str(&v.to_string(), FORM).ok()) {
        at = at.max(newest + TimeDelta::seconds(1));
    }
    at.format(FORM).to_string()
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        _ => ErrorKind::Denied,
    };
    Error::new(kind, "the file of the migration cannot be written")
        .about(path.display().to_string())
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(existing: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in existing {
            std::fs::write(folder.path().join(name), "SELECT 1").unwrap();
        }
        let files = MigrationFiles::read(folder.path(), "sql", "--").unwrap();
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let new = NewMigration { description: "Add users!", one_way: false, contents: None };
        let paths = new.create(folder.path(), &files, "sql", "--", now).unwrap();
        paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_new_file_is_called_as_the_others_and_comes_after_them() {
        assert_eq!(made(&[]), ["20261121100000_add_users.up.sql", "20261121100000_add_users.down.sql"]);
        assert_eq!(made(&["0009_a.sql"])[0], "0010_add_users.up.sql");
        assert_eq!(made(&["V9__a.sql"]), ["V10__add_users.sql"]);
        assert_eq!(made(&["20260101_101010_a.sql"])[0], "20261121_100000_add_users.up.sql");
        assert_eq!(made(&["20300101101010_a.sql"])[0], "20300101101011_add_users.up.sql");
    }
}
