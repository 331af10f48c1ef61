//! The facade itself: engines, repository, state and roles, each opened when it is first needed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dm_audit::AuditLog;
use dm_backup::BackupService;
use dm_core::{Actor, Clock, Engine, EngineId, Error, OpContext, Permissions, Result, Secret};
use dm_store::Store;
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::engines;
use crate::places::Places;
use crate::repositories::RepositorySettings;
use crate::{Audits, Backups, DataManagerBuilder, Migrations};

/// One system over all its engines. Cheap to share behind an `Arc`; every method takes `&self`.
pub struct DataManager {
    pub(crate) config: Config,
    pub(crate) engines: BTreeMap<EngineId, Arc<dyn Engine>>,
    pub(crate) repository: RepositorySettings,
    pub(crate) places: Places,
    pub(crate) state_url: Secret,
    pub(crate) permissions: Permissions,
    pub(crate) actor: Actor,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: OnceCell<State>,
}

pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) audit: AuditLog,
}

impl DataManager {
    /// Begins a manager in code.
    #[must_use]
    pub fn builder() -> DataManagerBuilder {
        DataManagerBuilder::new()
    }

    /// A manager of a loaded configuration. Connects to nothing yet.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` when an engine's URL cannot be understood.
    pub fn with_config(config: Config) -> Result<Self> {
        DataManagerBuilder::new().config(config).build()
    }

    /// A fresh context: a new run id, this manager's actor and clock.
    #[must_use]
    pub fn context(&self) -> OpContext {
        OpContext::new(self.actor.clone()).with_clock(Arc::clone(&self.clock))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Backups: run, list, verify, expire ...
    #[must_use]
    pub fn backup(&self) -> Backups<'_> {
        Backups { dm: self }
    }

    /// The audit trail.
    #[must_use]
    pub fn audit(&self) -> Audits<'_> {
        Audits { dm: self }
    }

    /// Migrations: status, plan, up, down, resume ...
    #[must_use]
    pub fn migrate(&self) -> Migrations<'_> {
        Migrations { dm: self }
    }

    /// The roles and what they may do.
    #[must_use]
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// The engines in order of their names.
    pub fn engines(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        self.engines.values()
    }

    /// The named engine, or without a name the only one, or else the one called `main`.
    ///
    /// # Errors
    /// `NotFound`, naming what there is.
    pub fn engine(&self, id: Option<&EngineId>) -> Result<Arc<dyn Engine>> {
        let found = match id {
            Some(id) => self.engines.get(id),
            None if self.engines.len() == 1 => self.engines.values().next(),
            None => self.engines.iter().find(|(id, _)| id.as_str() == "main").map(|(_, engine)| engine),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = self.engines.keys().map(EngineId::as_str).collect();
            let (message, hint) = match (id, known.is_empty()) {
                (_, true) => (
                    "no engine is configured".to_owned(),
                    "set DATABASE_URL, or run \"dm init\" and give an engine its url".to_owned(),
                ),
                (Some(id), false) => {
                    (format!("there is no engine \"{id}\""), format!("there is {}", known.join(", ")))
                }
                (None, false) => (
                    "there are several engines and none is called \"main\"".to_owned(),
                    format!("name one of {}", known.join(", ")),
                ),
            };
            Error::not_found(message).with_hint(hint)
        })
    }

    /// Closes connections in good order. The manager is of no use afterwards.
    pub async fn close(&self) {
        for engine in self.engines.values() {
            engine.close().await;
        }
        if let Some(state) = self.state.get() {
            // Sealing is what a daemon does every second; a program that ends does it on its way out.
            match self.seal_and_anchor(&self.context(), &state.audit).await {
                Ok(report) => {
                    if let Some(why) = report.unsigned {
                        tracing::warn!("the audit trail is sealed, but its head is not signed: {why}");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the last audit events are not sealed yet; the next run seals them");
                }
            }
            state.store.close().await;
        }
    }

    /// A context for an operation within another: it is a run of its own, and stops with the other.
    pub(crate) fn child_run(&self, ctx: &OpContext) -> OpContext {
        OpContext::new(ctx.actor().clone())
            .with_clock(ctx.clock())
            .with_cancellation(ctx.cancellation().child_token())
    }

    pub(crate) async fn state(&self, ctx: &OpContext) -> Result<&State> {
        self.state
            .get_or_try_init(|| async {
                let store = dm_migrate::open_store(&self.state_url, ctx, engines::of_store).await?;
                Ok(State { audit: crate::audit::with_key(store.clone(), &self.config).await?, store })
            })
            .await
    }

    pub(crate) async fn audit_log(&self, ctx: &OpContext) -> Result<&AuditLog> {
        Ok(&self.state(ctx).await?.audit)
    }

    pub(crate) async fn backups(&self, ctx: &OpContext) -> Result<BackupService> {
        let opened = self.repository.open(ctx).await;
        let repository = opened.map_err(|error| self.places.point_elsewhere(error))?;
        Ok(BackupService::new(repository))
    }

    pub(crate) async fn backups_or_new(&self, ctx: &OpContext) -> Result<BackupService> {
        self.places.check_primary()?;
        Ok(BackupService::new(self.repository.open_or_init(ctx).await?))
    }
}

impl fmt::Debug for DataManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataManager")
            .field("engines", &self.engines.keys())
            .field("repository", &self.repository.location.to_string())
            .finish_non_exhaustive()
    }
}
