//! Seeds: scripts that fill a database with what it needs to be used. Each runs once, and again when it was edited.

use std::path::Path;

use dm_core::{Error, ErrorKind, HistoryEntry, OpContext, Progress, Result};
use serde::Serialize;
use sha2::{Digest, Sha384};

use crate::apply::forward_record;
use crate::files::{EmbeddedFile, MigrationFiles, MigrationScript};
use crate::migrator::{Migrator, RunSettings};
use crate::name::Style;

/// What seeding did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SeedReport {
    /// The files that were run, in this order.
    pub ran: Vec<String>,
    /// The files that stand in the database as they are.
    pub unchanged: Vec<String>,
}

/// Seeds in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct SeedFiles {
    seeds: Vec<MigrationScript>,
}

impl SeedFiles {
    /// Reads the seeds of a folder.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Invalid` for a file that is no text.
    pub fn read(folder: &Path, extension: &str, comment: &str) -> Result<Self> {
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Denied,
            };
            Error::new(kind, "the folder of the seeds cannot be read")
                .about(folder.display().to_string())
                .with_hint("name it in migrate.seeds or with --seeds")
                .with_source(error)
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_file() && !name.starts_with('.') && path.extension().is_some_and(|e| e == extension) {
                files.push((name, std::fs::read(&path).map_err(failed)?));
            }
        }
        Self::of(files, comment)
    }

    /// Takes seeds that were embedded when the program was compiled.
    ///
    /// # Errors
    /// `Invalid` for a NUL character.
    pub fn embedded(files: &[EmbeddedFile], comment: &str) -> Result<Self> {
        Self::of(files.iter().map(|f| (f.name.to_owned(), f.content.as_bytes().to_vec())).collect(), comment)
    }

    fn of(mut files: Vec<(String, Vec<u8>)>, comment: &str) -> Result<Self> {
        files.sort();
        let mut seeds = Vec::new();
        for (name, bytes) in files {
            let up = MigrationFiles::script(&name, bytes, comment)
                .map_err(|problem| Error::invalid(problem.message).with_hint(problem.mend))?;
            seeds.push(MigrationScript {
                version: key(&name),
                description: name,
                style: Style::Timestamp,
                up,
                down: None,
            });
        }
        Ok(Self { seeds })
    }
}

/// A seed has no version: its name makes one.
fn key(name: &str) -> i64 {
    let digest = Sha384::digest(name);
    digest.iter().take(8).fold(0_i64, |n, byte| (n << 8) | i64::from(*byte)) & i64::MAX
}

impl Migrator {
    /// Runs the seeds that were not run yet or were edited since, each as one transaction (unless its first line says
    /// otherwise), and keeps a record beside the history. An edited seed runs over what is there: write seeds so that this is right
    /// (`INSERT … ON CONFLICT`).
    ///
    /// # Errors
    /// As [`up`](Self::up).
    pub async fn seed(&self, ctx: &OpContext, files: &SeedFiles) -> Result<SeedReport> {
        let mut settings: RunSettings = self.settings().clone();
        settings.session.table = format!("{}_seeds", settings.session.table);
        settings.session.in_step = None;
        let seeds = Self::new(self.target_arc(), settings);
        let mut locked = seeds.locked(ctx).await?;
        let session = locked.session();
        let work = async {
            let recorded = session.history(ctx).await?;
            let mut report = SeedReport::default();
            for seed in &files.seeds {
                let is_done = |h: &HistoryEntry| {
                    h.version == seed.version
                        && h.state == dm_core::MigrationState::Applied
                        && h.text_checksum == seed.up.checksums.text
                };
                if recorded.iter().any(is_done) {
                    report.unchanged.push(seed.description.clone());
                    continue;
                }
                seeds.work(ctx, session).script(&seed.up, forward_record(ctx, seed)).await?;
                ctx.progress(Progress::Item(seed.description.clone()));
                report.ran.push(seed.description.clone());
            }
            Ok(report)
        };
        let result = Box::pin(work).await;
        locked.end(result).await
    }
}
