//! Are the engines there?

use std::sync::Arc;

use dm_core::{Engine, EngineId, EngineKind, Health, OpContext, Result, ServerVersion};
use futures::StreamExt;
use serde::Serialize;

use crate::DataManager;
use crate::operations::OperationKind;
use crate::pipeline::Operation;

const HEALTH: OperationKind = OperationKind::Health;

/// One engine's answer.
#[derive(Clone, Debug, Serialize)]
pub struct EngineHealth {
    /// Its name.
    pub engine: EngineId,
    /// Its family.
    pub kind: EngineKind,
    /// Where it is, without secrets.
    pub location: String,
    /// Its version, when it answered.
    pub version: Option<ServerVersion>,
    /// What it answered.
    pub health: Option<Health>,
    /// Why it did not.
    pub error: Option<String>,
}

impl DataManager {
    /// Asks every engine, all at once: a dead one never delays the others beyond its own time limit.
    ///
    /// # Errors
    /// Only when the operation itself may not run; an engine that does not answer is a line of the result.
    pub async fn health(&self, ctx: &OpContext) -> Result<Vec<EngineHealth>> {
        let work = async {
            let asked = self.engines().cloned().map(|engine| ask(ctx.clone(), engine)).collect::<Vec<_>>();
            let mut answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(16).collect().await;
            answers.sort_by(|a, b| a.engine.cmp(&b.engine));
            Ok(answers)
        };
        self.operate(ctx, Operation::new(HEALTH, "*"), work).await
    }
}

async fn ask(ctx: OpContext, engine: Arc<dyn Engine>) -> EngineHealth {
    let (health, error) = match engine.ping(&ctx).await {
        Ok(health) => (Some(health), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let version = if health.is_some() { engine.version(&ctx).await.ok() } else { None };
    EngineHealth {
        engine: engine.id().clone(),
        kind: engine.kind(),
        location: engine.location(),
        version,
        health,
        error,
    }
}
