//! The system's own state goes the same way as everybody's databases: dm-store says which schema it needs, the runner brings it there.

use std::sync::Arc;
use std::time::Duration;

use dm_core::{MigrationSettings, MigrationTarget, OpContext, Result, Secret};
use dm_store::{Store, StorePlace};

use crate::files::{EmbeddedFile, MigrationFiles};
use crate::migrator::{Migrator, RunSettings};
use crate::select::Goal;

/// The longest wait for another program that brings the same store up to date, and for a lock in it.
const WAIT: Duration = Duration::from_secs(60);
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;

/// Opens a store; makes it where it is missing, and brings its schema up to date. Safe when several processes do so at once. `target`
/// gives the adapter of the store's engine, and is only asked where something is to be applied.
///
/// What a program applied before the store's history was this crate's, the history begins with.
///
/// # Errors
/// As [`Store::open`]; `Conflict` when a version cannot be applied; `Busy` when another program is at it for a minute.
pub async fn open_store(
    url: &Secret,
    ctx: &OpContext,
    target: impl FnOnce(&StorePlace) -> Result<Arc<dyn MigrationTarget>>,
) -> Result<Store> {
    let place = StorePlace::prepare(url, ctx).await?;
    if !place.is_current() {
        let target = target(&place)?;
        Box::pin(bring_up(&place, target, ctx)).await.map_err(|e| e.about(place.location().to_owned()))?;
    }
    Store::open(place, ctx).await
}

async fn bring_up(place: &StorePlace, target: Arc<dyn MigrationTarget>, ctx: &OpContext) -> Result<()> {
    let files: Vec<EmbeddedFile> =
        place.files().map(|(name, content)| EmbeddedFile { name, content }).collect();
    let files = MigrationFiles::embedded(&files, target.extension(), target.comment());
    let settings = RunSettings {
        session: MigrationSettings {
            table: StorePlace::HISTORY.to_owned(),
            lock_timeout: Some(LOCK_TIMEOUT),
            statement_timeout: None,
            in_step: None,
        },
        wait: WAIT,
        attempts: ATTEMPTS,
        out_of_order: false,
    };
    let migrator = Migrator::new(target, settings);
    let before: Vec<i64> = place.applied_before().collect();
    if !before.is_empty() {
        migrator.begin_with(ctx, &files, &before, "applied before this history was kept").await?;
    }
    migrator.up(ctx, &files, Goal::Usual, None).await.map(drop)
}
