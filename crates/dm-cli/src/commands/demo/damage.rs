//! Breaking the database for real, and looking at it afterwards.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use data_manager::{DataManager, OpContext, Result, Statement};

use crate::commands::files;
use crate::failure;

/// Where the damage begins, and how much of the file it hits: beyond the first page, so that the file still looks
/// like a database from outside, as files from failing disks do.
const OFFSET: u64 = 4096;
pub(super) const DAMAGED_BYTES: u64 = 256 << 10;

/// Somebody deletes a table.
pub(super) async fn drop_table(dm: &DataManager, ctx: &OpContext) -> Result<()> {
    dm.execute(ctx, Statement::new("DROP TABLE orders")).await.map(drop)
}

/// A disk writes noise over a part of the file. Nobody may have it open.
pub(super) fn overwrite(database: &Path) -> Result<()> {
    // The same noise on every machine.
    let noise: Vec<u8> =
        (0u32..).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).take(DAMAGED_BYTES as usize).collect();
    OpenOptions::new()
        .write(true)
        .open(database)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(OFFSET))?;
            file.write_all(&noise)?;
            file.sync_all()
        })
        .map_err(|e| files::error(database, "the database cannot be damaged", e))
}

/// What somebody finds who now asks for data, one line a table; empty when everything answers.
pub(super) async fn look(dm: &DataManager, ctx: &OpContext) -> Vec<String> {
    let mut found = Vec::new();
    for table in super::fingerprint::TABLES {
        let statement =
            Statement::new(format!("SELECT count(*), max(id), sum(length(hex(id))) FROM {table}"));
        if let Err(error) = dm.query(ctx, statement).await {
            found.push(format!("{table}: {}", failure::line(&error)));
        }
    }
    found
}
