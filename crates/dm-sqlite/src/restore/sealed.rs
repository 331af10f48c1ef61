//! A sealed file from its proof to its name, now or later.
//!
//! A file that is kept sealed has a marker beside it, which says where it belongs: [`release`] needs nothing else, neither
//! the repository nor the plan.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dm_core::{Error, ErrorKind, OpContext, Restored, Result, TableFacts};
use serde::{Deserialize, Serialize};

use super::{Plan, swap, tables};
use crate::error::file as file_error;
use crate::pool::Pool;
use crate::{SqliteOptions, disk, worker};

/// What is put behind the sealed file's name for its marker.
const MARKER: &str = ".sealed";

/// What the marker calls its form.
const SCHEMA: &str = "dm.sqlite-sealed/1";

/// A proven file and where it belongs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) sealed: PathBuf,
    pub(super) plan: Plan,
    /// What the tables must be after a merge.
    pub(super) expected: Vec<TableFacts>,
    pub(super) key: [u8; 32],
}

/// The marker's content.
#[derive(Serialize, Deserialize)]
struct Marker {
    schema: String,
    sealed: PathBuf,
    plan: Plan,
    expected: Vec<TableFacts>,
    key: String,
}

impl Place {
    /// Writes the marker. Durable when it returns.
    pub(super) fn mark(&self) -> Result<()> {
        let marker = Marker {
            schema: SCHEMA.to_owned(),
            sealed: self.sealed.clone(),
            plan: self.plan.clone(),
            expected: self.expected.clone(),
            key: hex::encode(self.key),
        };
        let text = serde_json::to_vec_pretty(&marker)
            .map_err(|e| Error::internal("the marker of a sealed file cannot be written").with_source(e))?;
        let path = disk::with_suffix(&self.sealed, MARKER);
        let mut file = disk::create_private(&path)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(|e| file_error(&path, "write the marker", e))?;
        disk::sync_folder_of(&path)
    }

    /// Reads the marker of a sealed file.
    fn marked(sealed: &Path) -> Result<Self> {
        let path = disk::with_suffix(sealed, MARKER);
        let nothing = || {
            Error::not_found("there is no file that a restore left sealed")
                .about(sealed.display().to_string())
                .with_hint("give the path as the report of the restore has it")
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(nothing()),
            Err(e) => return Err(file_error(&path, "read the marker", e)),
        };
        let broken = || Error::corrupt("the marker of a sealed file is not what it should be");
        let marker: Marker = serde_json::from_slice(&text)
            .map_err(|e| broken().about(path.display().to_string()).with_source(e))?;
        let mut key = [0; 32];
        let whole = marker.schema == SCHEMA && hex::decode_to_slice(&marker.key, &mut key).is_ok();
        if !whole || marker.sealed != sealed {
            return Err(broken()
                .about(path.display().to_string())
                .with_hint("a sealed file is opened where the restore left it"));
        }
        if !disk::exists(sealed) {
            return Err(nothing());
        }
        Ok(Self { sealed: marker.sealed, plan: marker.plan, expected: marker.expected, key })
    }

    /// Gives the file its name, or its rows to the database that is there.
    pub(super) async fn open(self, ctx: &OpContext, pool: &Arc<Pool>) -> Result<Restored> {
        let destination = self.plan.destination.clone();
        let location = destination.display().to_string();
        let gate = pool.gate_for_long_work(ctx);
        if !self.plan.in_place {
            worker::spawn(gate, "dm-sqlite-restore", move || swap::name_new(&self.sealed, &destination))?
                .wait()
                .await?;
            return Ok(Restored { location, ..Restored::default() });
        }
        let options = pool.options().clone();
        // Nobody of this program may have the file open, or come to open it, while it changes hands.
        let _paused = pool.pause(ctx).await?;
        let previous = worker::spawn(gate, "dm-sqlite-restore", move || self.put(&options))?.wait().await?;
        Ok(Restored { location, previous: previous.map(|p| p.display().to_string()), ..Restored::default() })
    }

    /// In place: as a whole, or the tables.
    fn put(&self, options: &SqliteOptions) -> Result<Option<PathBuf>> {
        let plan = &self.plan;
        let kept = plan.kept.as_path();
        if plan.tables.is_empty() {
            return swap::replace(&self.sealed, &plan.destination, kept, options);
        }
        if disk::exists(&plan.destination) {
            tables::merge(
                &self.sealed,
                &plan.destination,
                kept,
                &plan.tables,
                &self.expected,
                self.key,
                options,
            )?;
            disk::remove_if_there(&self.sealed)?;
            return Ok(Some(kept.to_owned()));
        }
        let assembly = disk::with_suffix(&self.sealed, ".tables");
        tables::assemble(&self.sealed, &assembly, &plan.tables)?;
        let previous = swap::replace(&assembly, &plan.destination, kept, options)?;
        disk::remove_if_there(&self.sealed)?;
        Ok(previous)
    }
}

/// Opens a file that was kept sealed.
pub(super) async fn release(ctx: &OpContext, pool: &Arc<Pool>, location: &str) -> Result<Restored> {
    let path = std::path::absolute(location)
        .map_err(|e| Error::new(ErrorKind::Invalid, "the location is no path").with_source(e))?;
    let marker = disk::with_suffix(&path, MARKER);
    let gate = pool.gate_for_long_work(ctx);
    let place = worker::spawn(gate, "dm-sqlite-restore", move || Place::marked(&path))?.wait().await?;
    let restored = place.open(ctx, pool).await?;
    let gate = pool.gate_for_long_work(ctx);
    worker::spawn(gate, "dm-sqlite-restore", move || disk::remove_if_there(&marker))?.wait().await?;
    Ok(restored)
}
