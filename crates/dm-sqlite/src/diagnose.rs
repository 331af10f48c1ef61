//! What `dm doctor` asks of a SQLite file. Reads only.

use std::path::Path;

use dm_core::{ByteSize, Finding, Level, Result};
use rusqlite::Connection;

use crate::connect::{self, Purpose};
use crate::preflight::{from_error, journal_finding, room, scratch_bytes};
use crate::{SqliteOptions, disk, schema};

/// A write-ahead log above this is worth a look: 64 MiB, sixteen times what SQLite checkpoints at.
const LARGE_WAL: u64 = 64 << 20;

/// Looks. Blocks; runs behind a gate.
pub(crate) fn look(path: &Path, options: &SqliteOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let size = match disk::size_of(path) {
        Ok(Some(size)) => size,
        Ok(None) => {
            findings.push(from_error("file", &connect::missing(path)));
            return findings;
        }
        Err(error) => {
            findings.push(from_error("file", &error));
            return findings;
        }
    };
    findings.push(Finding::new(Level::Ok, "file", format!("{}, {}", path.display(), ByteSize(size))));
    let folder = disk::folder_of(path);
    findings.push(if disk::folder_is_writable(folder) {
        Finding::new(Level::Ok, "folder", format!("{} is writable", folder.display()))
    } else {
        Finding::new(
            Level::Warning,
            "folder",
            format!(
                "{} is not writable: no journal can be kept, so nothing can be written",
                folder.display()
            ),
        )
        .with_mend("make the folder writable for this user, or open the engine read-only")
    });
    match connect::live(path, options, Purpose::Reading) {
        Ok(connection) => match inside(&connection, path, options) {
            Ok(more) => findings.extend(more),
            Err(error) => findings.push(from_error("open", &error)),
        },
        Err(error) => findings.push(from_error("open", &error)),
    }
    findings.push(room(folder, scratch_bytes(size), options));
    findings
}

fn inside(connection: &Connection, path: &Path, options: &SqliteOptions) -> Result<Vec<Finding>> {
    let mut findings = vec![Finding::new(
        Level::Ok,
        "open",
        format!(
            "opens with sqlite {}, {}",
            rusqlite::version(),
            schema::pragma_text(connection, "encoding")?
        ),
    )];
    findings.push(journal_finding(&schema::pragma_text(connection, "journal_mode")?));
    findings.push(if options.foreign_keys {
        Finding::new(Level::Ok, "foreign_keys", "enforced on this engine's connections")
    } else {
        Finding::new(Level::Warning, "foreign_keys", "not enforced on this engine's connections")
            .with_mend("set foreign_keys = true")
    });
    let pages = schema::pragma_number(connection, "page_count")?;
    let free = schema::pragma_number(connection, "freelist_count")?;
    let share = if pages > 0 { free * 100 / pages } else { 0 };
    let message = format!("{free} of {pages} pages are free ({share} %)");
    findings.push(if share >= 25 && pages >= 1000 {
        Finding::new(Level::Info, "freelist", message).with_mend("VACUUM gives the space back to the disk")
    } else {
        Finding::new(Level::Ok, "freelist", message)
    });
    if let Some(wal) = disk::size_of(&disk::with_suffix(path, "-wal"))? {
        let message = format!("the write-ahead log has {}", ByteSize(wal));
        findings.push(if wal > LARGE_WAL {
            Finding::new(Level::Warning, "wal_size", message)
                .with_mend("end long read transactions, then PRAGMA wal_checkpoint(TRUNCATE)")
        } else {
            Finding::new(Level::Ok, "wal_size", message)
        });
    }
    Ok(findings)
}
