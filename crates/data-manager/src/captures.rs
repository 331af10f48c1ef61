//! Changes of rows, from the engines' outboxes into the trail.
//!
//! An engine records a change in the transaction that makes it. From there it is taken over: appended to the trail, durable,
//! and only then confirmed. Whoever dies in between leaves changes that come again and are known again; there is no moment
//! at which one is in neither place.

use std::sync::Arc;
use std::time::Duration;

use dm_core::{
    CaptureRequest, CaptureSource, CaptureStatus, CapturedTable, Engine, EngineId, Error, ErrorKind,
    OpContext, Progress, Result, TableName,
};
use serde::Serialize;

use crate::DataManager;
use crate::operations::OperationKind;
use crate::pipeline::Operation;

/// Changes that are taken over at once: a transaction in the store each time.
const BATCH: u32 = 2000;
/// Bytes of them that are in memory at once.
const BATCH_BYTES: u64 = 8 << 20;

/// The recorded changes of a [`DataManager`]'s engines.
#[derive(Clone, Copy, Debug)]
pub struct Captures<'a> {
    pub(crate) dm: &'a DataManager,
}

/// How long to take changes over.
#[derive(Clone, Debug, Default)]
pub struct DrainOptions {
    /// Looks again this often until the context is cancelled; once when `None`.
    pub follow: Option<Duration>,
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainReport {
    /// Changes that are in the trail now and were not before.
    pub taken_over: u64,
    /// Changes that were in the trail already: somebody died before they were confirmed.
    pub known: u64,
    /// Rows of the outbox that no recording writes; they are in the trail as failures.
    pub defective: u64,
}

/// What became of a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaptureRemoval {
    /// The tables whose changes are no longer recorded.
    pub tables: Vec<TableName>,
    /// What was still waiting.
    pub drained: DrainReport,
    /// Whether nothing of the recording is left in the database.
    pub cleared: bool,
}

impl Captures<'_> {
    /// Records the changes of a table from now on; repeating it is no change.
    ///
    /// # Errors
    /// As [`CaptureSource::install`]; `Unsupported` for an engine that cannot.
    pub async fn install(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        request: &CaptureRequest,
    ) -> Result<CapturedTable> {
        let engine = self.dm.engine(engine)?;
        let operation =
            Operation::new(OperationKind::CaptureInstall, resource(&engine, &request.table)).with_details(
                serde_json::json!({ "exclude": request.exclude, "mask": request.mask, "digest": request.digest }),
            );
        let work = async { source(&engine)?.install(ctx, request).await };
        self.dm.operate(ctx, operation, work).await
    }

    /// What is recorded, and whether it is.
    ///
    /// # Errors
    /// As [`CaptureSource::status`]; `Unsupported` for an engine that cannot.
    pub async fn status(&self, ctx: &OpContext, engine: Option<&EngineId>) -> Result<CaptureStatus> {
        let engine = self.dm.engine(engine)?;
        let work = async { source(&engine)?.status(ctx).await };
        self.dm.operate(ctx, Operation::new(OperationKind::CaptureStatus, engine.id().as_str()), work).await
    }

    /// Ends the recording of these tables, or of all; takes over what waits, and leaves nothing behind when no table is
    /// recorded any more.
    ///
    /// # Errors
    /// As [`CaptureSource::remove`]; tables before the one that fails are removed (effect `Partial`).
    pub async fn remove(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        tables: &[TableName],
    ) -> Result<CaptureRemoval> {
        let engine = self.dm.engine(engine)?;
        let of = match tables {
            [one] => resource(&engine, one),
            _ => engine.id().to_string(),
        };
        let operation = Operation::new(OperationKind::CaptureRemove, of)
            .with_details(serde_json::json!({ "tables": tables }));
        let work = async {
            let source = source(&engine)?;
            let tables: Vec<TableName> = match tables {
                [] => source.status(ctx).await?.tables.into_iter().map(|t| t.table).collect(),
                some => some.to_vec(),
            };
            for (done, table) in tables.iter().enumerate() {
                source.remove(ctx, table).await.map_err(|e| match done {
                    0 => e,
                    _ => e.with_effect(dm_core::Effect::Partial),
                })?;
            }
            let drained = self.take_over(ctx, &engine, source.as_ref()).await?;
            let cleared = source.clear_away(ctx).await?;
            Ok(CaptureRemoval { tables, drained, cleared })
        };
        self.dm.operate(ctx, operation, work).await
    }

    /// Takes over what waits, and seals it; with [`follow`](DrainOptions::follow) until the context is cancelled, which is no
    /// error. While following, an engine or a store that is away for a while is waited for.
    ///
    /// # Errors
    /// As [`CaptureSource::waiting`] and the store; nothing is lost by any of them.
    ///
    /// # Cancellation
    /// Safe at any point: what was taken over and not confirmed is known when it comes again.
    pub async fn drain(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        options: &DrainOptions,
    ) -> Result<DrainReport> {
        let engine = self.dm.engine(engine)?;
        let operation = Operation::new(OperationKind::CaptureDrain, engine.id().as_str())
            .with_details(serde_json::json!({ "follow": options.follow.is_some() }));
        let work = async {
            let source = source(&engine)?;
            let Some(every) = options.follow else {
                return self.take_over(ctx, &engine, source.as_ref()).await;
            };
            let mut report = DrainReport::default();
            while !ctx.cancellation().is_cancelled() {
                match self.take_over(ctx, &engine, source.as_ref()).await {
                    Ok(more) => report.add(more),
                    Err(e) if e.kind() == ErrorKind::Interrupted => break,
                    Err(e) if matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Busy) => {
                        ctx.progress(Progress::Warning(format!("{e}; trying again")));
                    }
                    Err(e) => return Err(e),
                }
                tokio::select! {
                    () = ctx.cancellation().cancelled() => {}
                    () = tokio::time::sleep(every) => {}
                }
            }
            Ok(report)
        };
        self.dm.operate(ctx, operation, work).await
    }

    async fn take_over(
        &self,
        ctx: &OpContext,
        engine: &Arc<dyn Engine>,
        source: &dyn CaptureSource,
    ) -> Result<DrainReport> {
        let audit = self.dm.audit_log(ctx).await?;
        let mut report = DrainReport::default();
        loop {
            ctx.check()?;
            let changes = source.waiting(ctx, BATCH, BATCH_BYTES).await?;
            if changes.is_empty() {
                break;
            }
            let new = audit.take_over(engine.id(), &changes, ctx.now()).await?;
            let keys: Vec<String> = changes.iter().map(|change| change.key.clone()).collect();
            source.confirm(ctx, &keys).await?;
            report.add(DrainReport {
                taken_over: new,
                known: (changes.len() as u64).saturating_sub(new),
                defective: changes.iter().filter(|change| change.defect.is_some()).count() as u64,
            });
        }
        if report.taken_over > 0 {
            self.dm.seal_and_anchor(ctx, audit).await?;
        }
        Ok(report)
    }
}

impl DrainReport {
    fn add(&mut self, more: Self) {
        self.taken_over += more.taken_over;
        self.known += more.known;
        self.defective += more.defective;
    }
}

fn resource(engine: &Arc<dyn Engine>, table: &TableName) -> String {
    format!("{}/{table}", engine.id())
}

fn source(engine: &Arc<dyn Engine>) -> Result<Arc<dyn CaptureSource>> {
    engine.capture().ok_or_else(|| {
        Error::unsupported(format!("the {} engine cannot record the changes of rows", engine.kind()))
            .on_engine(engine.kind())
    })
}
