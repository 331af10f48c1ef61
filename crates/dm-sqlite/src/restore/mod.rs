//! Being restored into: a hidden private file beside the destination, checked there, then renamed.

mod compare;
mod preview;
mod sealed;
mod session;
mod swap;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dm_core::{
    Error, ErrorKind, Level, OpContext, RestoreManifest, RestorePreview, RestoreRequest, RestoreSession,
    RestoreTarget, Restored, Result,
};
use serde::{Deserialize, Serialize};

use crate::pool::Pool;
use crate::{MEMBER, disk, worker};

/// The restore port.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) pool: Arc<Pool>,
}

/// What the preview decided, on its way to `open` and `release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// The final place, links followed.
    destination: PathBuf,
    in_place: bool,
    /// The name under which a restore in place keeps what stands there.
    kept: PathBuf,
    /// The chosen tables by name; all of the file when empty.
    tables: Vec<String>,
}

impl Plan {
    /// The attribute of the preview that carries it.
    const ATTRIBUTE: &'static str = "plan";

    /// The hidden name under which this run writes.
    fn sealed(&self, ctx: &OpContext) -> Result<PathBuf> {
        let name =
            self.destination.file_name().ok_or_else(|| Error::invalid("the destination has no file name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".restore-{}", short_id(ctx)));
        Ok(self.destination.with_file_name(hidden))
    }
}

/// The run's id, short. Its end: the beginning of a UUIDv7 is the time, alike for runs of the same minute.
fn short_id(ctx: &OpContext) -> String {
    let id = ctx.run_id().to_string();
    id[id.len() - 8..].to_owned()
}

/// A free name beside a file, made of a word and the moment of the plan, so that a second look at a plan finds the same;
/// a number behind it when the name is taken.
fn name_beside(file: &Path, word: &str, planned_at: DateTime<Utc>) -> PathBuf {
    let first = disk::with_suffix(file, &format!(".{word}-{}", planned_at.format("%Y%m%dT%H%M%SZ")));
    let mut name = first.clone();
    let mut number = 2;
    while disk::exists(&name) {
        name = disk::with_suffix(&first, &format!("-{number}"));
        number += 1;
    }
    name
}

#[async_trait]
impl RestoreTarget for Target {
    async fn preview(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
    ) -> Result<RestorePreview> {
        self.pool.check_open()?;
        let (pool, ctx_there) = (Arc::clone(&self.pool), ctx.clone());
        let (request, manifest) = (request.clone(), manifest.clone());
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-look", move || {
            preview::look(&ctx_there, &pool, &request, &manifest)
        })?
        .wait()
        .await
    }

    async fn open(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
        preview: &RestorePreview,
    ) -> Result<Box<dyn RestoreSession>> {
        self.pool.check_open()?;
        let plan = preview
            .attributes
            .get(Plan::ATTRIBUTE)
            .and_then(|plan| serde_json::from_value::<Plan>(plan.clone()).ok())
            .ok_or_else(|| Error::invalid("the preview is not one of a sqlite restore"))?;
        if let Some(finding) = preview.findings.iter().find(|f| f.level == Level::Error) {
            let error = Error::invalid(finding.message.clone()).about(preview.location.clone());
            return Err(match &finding.mend {
                Some(mend) => error.with_hint(mend.clone()),
                None => error,
            });
        }
        let (index, size) = manifest
            .members
            .iter()
            .enumerate()
            .find(|(_, (spec, _))| spec.name == MEMBER)
            .map(|(index, (_, size))| (index, *size))
            .ok_or_else(|| Error::corrupt("the backup has no member main.db"))?;
        let sealed = plan.sealed(ctx)?;
        let (place, destination, in_place) = (sealed.clone(), plan.destination.clone(), plan.in_place);
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-open", move || {
            // The preview may be old.
            if !in_place && disk::size_of(&destination)?.is_some_and(|size| size > 0) {
                return Err(preview::not_empty(&destination));
            }
            let file = disk::create_private(&place)?;
            file.set_len(size).map_err(|e| crate::error::file(&place, "reserve the file", e))
        })?
        .wait()
        .await?;
        Ok(Box::new(session::Session::new(
            Arc::clone(&self.pool),
            plan,
            sealed,
            (index, size),
            request,
            &manifest.source,
        )))
    }

    async fn release_sealed(&self, ctx: &OpContext, location: &str) -> Result<Restored> {
        self.pool.check_open()?;
        sealed::release(ctx, &self.pool, location).await
    }
}

/// The error for a name that somebody took.
fn taken(path: &Path, sealed: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, "somebody took the name meanwhile")
        .about(path.display().to_string())
        .with_hint(format!("the restored database is kept as {}; give it a name by hand", sealed.display()))
}
