//! The migrations as files: of a folder, or embedded in the program.
//!
//! Reading never fails because of one bad file: what is wrong with it is a [`Problem`] beside the others, so that `status` shows
//! everything at once.

use std::collections::BTreeMap;
use std::path::Path;

use dm_core::{Direction, Error, ErrorKind, Result};

use crate::checksum::Checksums;
use crate::name::{Style, parse_name};
use crate::problem::{Problem, ProblemKind};

/// The largest file that is taken for a migration.
const MAX_BYTES: u64 = 256 << 20;

/// A file that was embedded in the program when it was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedFile {
    /// Its name: `20260102030405_add_users.sql`.
    pub name: &'static str,
    /// Its content.
    pub content: &'static str,
}

/// One script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The file's name.
    pub file: String,
    /// Its text, without a byte order mark.
    pub text: String,
    /// Its checksums.
    pub checksums: Checksums,
    /// It asks to be run outside of a transaction.
    pub no_transaction: bool,
}

/// A migration: its script and, where there is one, the script back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationScript {
    /// The version.
    pub version: i64,
    /// The description.
    pub description: String,
    /// How its version is written.
    pub style: Style,
    /// Forward.
    pub up: Script,
    /// Back.
    pub down: Option<Script>,
}

/// All migrations in ascending order of versions, and what is wrong with their files.
#[derive(Clone, Debug, Default)]
pub struct MigrationFiles {
    /// Where they come from, for people.
    pub origin: String,
    /// The migrations.
    pub migrations: Vec<MigrationScript>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl MigrationFiles {
    /// Reads a folder. Folders in it, hidden files and other extensions are passed over.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub fn read(folder: &Path, extension: &str, comment: &str) -> Result<Self> {
        let origin = folder.display().to_string();
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ErrorKind::NotFound,
                _ => ErrorKind::Denied,
            };
            Error::new(kind, "the folder of the migrations cannot be read")
                .about(folder.display().to_string())
                .with_hint("name it in migrate.folder or with --source, or make the first migration with \"dm migrate new\"")
                .with_source(error)
        };
        let mut files = Vec::new();
        let mut problems = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A link to a file is a file.
            let Ok(metadata) = std::fs::metadata(entry.path()) else {
                problems.push(unreadable(&name, "it is a link to nothing"));
                continue;
            };
            if !metadata.is_file() || !matches!(parse_name(&name, extension), Ok(Some(_)) | Err(_)) {
                continue;
            }
            if metadata.len() > MAX_BYTES {
                problems.push(unreadable(&name, "it is larger than 256 MiB"));
                continue;
            }
            match std::fs::read(entry.path()) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) => problems.push(unreadable(&name, &format!("it cannot be read: {error}"))),
            }
        }
        let mut read = Self::of(origin, files, extension, comment);
        read.problems.splice(0..0, problems);
        Ok(read)
    }

    /// Takes files that were embedded when the program was compiled.
    #[must_use]
    pub fn embedded(files: &[EmbeddedFile], extension: &str, comment: &str) -> Self {
        let files = files.iter().map(|f| (f.name.to_owned(), f.content.as_bytes().to_vec())).collect();
        Self::of("this program".to_owned(), files, extension, comment)
    }

    fn of(origin: String, mut files: Vec<(String, Vec<u8>)>, extension: &str, comment: &str) -> Self {
        // Problems come in the order of names, not in the folder's.
        files.sort();
        let mut all = Self { origin, ..Self::default() };
        let mut ups: BTreeMap<i64, MigrationScript> = BTreeMap::new();
        let mut downs: BTreeMap<i64, Script> = BTreeMap::new();
        for (file, bytes) in files {
            let name = match parse_name(&file, extension) {
                Ok(Some(name)) => name,
                Ok(None) => continue,
                Err(why) => {
                    let message = format!("{file} is no name of a migration: {why}");
                    let mend = format!(
                        "call it <version>_<description>.{extension}, or give it another extension if it is none"
                    );
                    all.problems.push(Problem::new(ProblemKind::BadName, message, mend).in_file(file));
                    continue;
                }
            };
            let script = match Self::script(&file, bytes, comment) {
                Ok(script) => script,
                Err(problem) => {
                    all.problems.push(problem.of(name.version));
                    continue;
                }
            };
            let known = match name.direction {
                Direction::Up => ups.get(&name.version).map(|m| m.up.file.clone()),
                Direction::Down => downs.get(&name.version).map(|s| s.file.clone()),
            };
            if let Some(known) = known {
                let message = format!("{known} and {file} have the same version {}", name.version);
                let mend = "give the newer of the two a version of its own; if one was applied already, leave that one";
                let problem = Problem::new(ProblemKind::Duplicate, message, mend);
                all.problems.push(problem.of(name.version).in_file(file));
                continue;
            }
            match name.direction {
                Direction::Down => drop(downs.insert(name.version, script)),
                Direction::Up => {
                    let migration = MigrationScript {
                        version: name.version,
                        description: name.description,
                        style: name.style,
                        up: script,
                        down: None,
                    };
                    ups.insert(name.version, migration);
                }
            }
        }
        for (version, down) in downs {
            match ups.get_mut(&version) {
                Some(migration) => migration.down = Some(down),
                // Its migration is there and cannot be read: one problem is enough.
                None if all.problems.iter().any(|p| p.version == Some(version)) => {}
                None => {
                    let message =
                        format!("{} undoes version {version}, and there is no such migration", down.file);
                    let mend = "add the migration beside it, or remove the file";
                    let problem = Problem::new(ProblemKind::DownAlone, message, mend);
                    all.problems.push(problem.of(version).in_file(down.file));
                }
            }
        }
        all.migrations = ups.into_values().collect();
        all
    }

    /// The migration of a version.
    #[must_use]
    pub fn get(&self, version: i64) -> Option<&MigrationScript> {
        let at = self.migrations.binary_search_by_key(&version, |m| m.version).ok()?;
        self.migrations.get(at)
    }
}

impl Script {
    /// A script that the history kept and no file has.
    pub(crate) fn recorded(version: i64, text: String, comment: &str) -> Self {
        let no_transaction = head(&text, comment).any(|line| line.eq_ignore_ascii_case("no-transaction"));
        Self {
            file: format!("the history's script back of {version}"),
            checksums: Checksums::of(&text),
            text,
            no_transaction,
        }
    }
}

fn unreadable(file: &str, why: &str) -> Problem {
    let mend = "make it a readable text file, or remove it";
    Problem::new(ProblemKind::NotText, format!("{file}: {why}"), mend).in_file(file)
}

impl MigrationFiles {
    /// A file as a script.
    pub(crate) fn script(file: &str, bytes: Vec<u8>, comment: &str) -> Result<Script, Problem> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let line = bytes.iter().take(at).filter(|b| **b == b'\n').count() + 1;
            let (what, mend) = match bytes.get(..2) {
                Some([0xFF, 0xFE] | [0xFE, 0xFF]) => ("it is UTF-16".to_owned(), "save it as UTF-8"),
                _ => (
                    format!("byte {at} (line {line}) is not UTF-8"),
                    "save it as UTF-8 (iconv -f latin1 -t utf8)",
                ),
            };
            Problem::new(ProblemKind::NotText, format!("{file} is not UTF-8: {what}"), mend).in_file(file)
        })?;
        if let Some(at) = text.find('\0') {
            let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
            return Err(unreadable(
                file,
                &format!("line {line} has a NUL character, which no statement can have"),
            ));
        }
        let checksums = Checksums::of(&text);
        let text = text.strip_prefix('\u{FEFF}').map_or_else(|| text.clone(), str::to_owned);
        let no_transaction = head(&text, comment).any(|line| line.eq_ignore_ascii_case("no-transaction"));
        Ok(Script { file: file.to_owned(), text, checksums, no_transaction })
    }
}

/// The comments before the first statement, without their marks.
fn head<'a>(text: &'a str, comment: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map_while(move |line| line.strip_prefix(comment)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &[u8])]) -> MigrationFiles {
        let list = list.iter().map(|(n, b)| ((*n).to_owned(), b.to_vec())).collect();
        MigrationFiles::of("test".to_owned(), list, "sql", "--")
    }

    #[test]
    fn pairs_find_each_other_in_order() {
        let read = files(&[
            ("3_c.sql", b"-- a word\n-- no-transaction\nSELECT 3"),
            ("1_a.down.sql", b"SELECT -1"),
            ("1_a.up.sql", b"\xEF\xBB\xBFSELECT 1"),
            ("V2__b.sql", b"SELECT 2 -- no-transaction"),
        ]);
        assert_eq!(read.problems, []);
        let versions: Vec<_> = read.migrations.iter().map(|m| (m.version, m.down.is_some())).collect();
        assert_eq!(versions, [(1, true), (2, false), (3, false)]);
        let unbound: Vec<_> = read.migrations.iter().map(|m| m.up.no_transaction).collect();
        assert_eq!(unbound, [false, false, true]);
        assert_eq!(read.get(1).map(|m| m.up.text.as_str()), Some("SELECT 1"));
        assert!(read.get(4).is_none());
    }

    #[test]
    fn each_bad_file_is_named_and_the_others_are_read() {
        let read = files(&[
            ("1_a.sql", b"SELECT 1"),
            ("01_again.sql", b"SELECT 1"),
            ("2_latin.sql", b"SELECT 1;\n-- caf\xE9"),
            ("3_wide.sql", b"\xFF\xFES\0E\0"),
            ("4_nul.sql", b"SELECT '\0'"),
            ("5_back.down.sql", b"SELECT 1"),
            ("notes_on_this.sql", b"SELECT 1"),
        ]);
        use ProblemKind::{BadName, DownAlone, Duplicate, NotText};
        let kinds: Vec<_> = read.problems.iter().map(|p| (p.kind, p.version)).collect();
        let expected = [
            (Duplicate, Some(1)),
            (NotText, Some(2)),
            (NotText, Some(3)),
            (NotText, Some(4)),
            (BadName, None),
            (DownAlone, Some(5)),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(read.migrations.len(), 1);
        let latin = &read.problems[1].message;
        assert!(latin.contains("2_latin.sql") && latin.contains("line 2"), "{latin}");
    }
}
