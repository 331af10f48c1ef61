//! Restore of a physical backup into a directory of this machine.
//!
//! The files go into a sealed directory beside the destination, a server that nobody else can reach replays the log up to
//! the point that was asked for, is looked at, and stops; only then does the directory get its name and its own settings
//! back. A point that the log does not cover is refused beforehand: PostgreSQL would take the hole for the end of the log.

mod check;
mod coverage;
mod files;
mod leftover;
mod log_files;
mod marker;
mod opening;
mod place;
mod plan;
mod points;
mod preview;
mod programs;
mod recovery;
mod server;
mod session;
mod source;
mod tablespaces;
mod tail;
mod timelines;
mod wal;

use dm_core::{
    BackupMode, OpContext, RestoreManifest, RestorePreview, RestoreRequest, RestoreSession, Restored, Result,
};

use crate::client::Client;

/// Whether a backup is one for this room.
pub(crate) fn is_ours(manifest: &RestoreManifest) -> bool {
    manifest.source.mode == BackupMode::Physical
}

/// Says what a restore would do.
pub(crate) async fn preview(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
) -> Result<RestorePreview> {
    preview::preview(ctx, &client.options, request, manifest).await
}

/// Makes the sealed place.
pub(crate) async fn open(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Box<dyn RestoreSession>> {
    Ok(Box::new(session::open_place(ctx, client, request, manifest, preview).await?))
}

/// Opens a place that was left sealed.
pub(crate) async fn release_sealed(location: &str) -> Result<Restored> {
    let location = location.to_owned();
    tokio::task::spawn_blocking(move || opening::release_sealed(&location))
        .await
        .map_err(|e| dm_core::Error::internal("the opening ended unexpectedly").with_source(e))?
}
