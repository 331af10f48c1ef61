//! Under which name an engine's backups are kept.
//!
//! A logical backup is of one database and is called like its engine. A physical one is of the whole server, so it has a name
//! of its own, `<engine>-cluster`: neither counts in the other's keep-rules, is the other's base, or is `latest` where the
//! other is meant. The log of a server lies under the name of its physical backups.

use std::sync::Arc;

use dm_core::{BackupMode, Engine, EngineId, OpContext, Result, TargetName};

use crate::DataManager;
use crate::config::BackupConfig;

/// What is put behind an engine's name for the backups of its whole server.
const CLUSTER: &str = "-cluster";

impl DataManager {
    /// The name of an engine's backups of a mode; of the mode that the configuration gives when `None`.
    ///
    /// It is a `[backup.targets.<name>]` that says `mode = "physical"` for a physical one, where there is just one of the
    /// engine; else the engine's name, with `-cluster` behind it for a physical one of an engine that has both modes.
    ///
    /// # Errors
    /// `Invalid` when the name would be too long.
    pub fn target_of(&self, engine: &dyn Engine, mode: Option<BackupMode>) -> Result<TargetName> {
        let physical = mode.or(self.config.backup.mode) == Some(BackupMode::Physical);
        // Who has a log has a server with more than one database; the others' files are their one database.
        if !physical || engine.log().is_none() {
            return TargetName::new(engine.id().as_str());
        }
        let mut named = self.config.targets.iter().filter(|(name, target)| {
            target.engine == *engine.id()
                && target.backup.mode == Some(BackupMode::Physical)
                && name.as_str() != engine.id().as_str()
        });
        match (named.next(), named.next()) {
            (Some((only, _)), None) => Ok(only.clone()),
            _ => TargetName::new(format!("{}{CLUSTER}", engine.id())),
        }
    }

    /// The engine and the target that a request means. A target that the configuration knows names its engine.
    pub(crate) fn engine_and_target(
        &self,
        engine: Option<&EngineId>,
        target: Option<&TargetName>,
        mode: Option<BackupMode>,
    ) -> Result<(Arc<dyn Engine>, TargetName)> {
        let engine = self.engine(engine.or_else(|| self.engine_of(target?)))?;
        let target = match target {
            Some(target) => target.clone(),
            None => self.target_of(engine.as_ref(), mode)?,
        };
        Ok((engine, target))
    }

    /// The target whose backups a request means: the one named, or the engine's. Where there are none under that name, and
    /// there are some of the engine's other mode, those are meant.
    ///
    /// A repository that cannot be read is no error here: the operation itself says so.
    pub(crate) async fn target(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        engine: Option<&EngineId>,
        mode: Option<BackupMode>,
    ) -> Result<TargetName> {
        if let Some(target) = target {
            return Ok(target.clone());
        }
        let engine = self.engine(engine)?;
        let own = self.target_of(engine.as_ref(), mode)?;
        if mode.is_some() || engine.log().is_none() {
            return Ok(own);
        }
        let modes = [BackupMode::Logical, BackupMode::Physical];
        for other in modes.map(|mode| self.target_of(engine.as_ref(), Some(mode))) {
            let other = other?;
            if other != own && !self.has_backups(ctx, &own).await && self.has_backups(ctx, &other).await {
                return Ok(other);
            }
        }
        Ok(own)
    }

    /// The same for a request that needs the server's log or files, where there are backups of those.
    pub(crate) async fn target_for_files(
        &self,
        ctx: &OpContext,
        target: Option<&TargetName>,
        engine: Option<&EngineId>,
        mode: Option<BackupMode>,
    ) -> Result<TargetName> {
        if target.is_none() && mode.is_none() {
            let files = self.target_of(self.engine(engine)?.as_ref(), Some(BackupMode::Physical))?;
            if self.has_backups(ctx, &files).await {
                return Ok(files);
            }
        }
        self.target(ctx, target, engine, mode).await
    }

    /// Whether there is a backup under a name, as far as can be seen.
    pub(crate) async fn has_backups(&self, ctx: &OpContext, target: &TargetName) -> bool {
        match self.backups(ctx).await {
            Ok(service) => service
                .list(ctx, Some(target))
                .await
                .is_ok_and(|list| list.backups.iter().any(|b| !b.deleting)),
            Err(_) => false,
        }
    }

    /// The engine whose backups are kept under a name, as far as the name tells.
    pub(crate) fn engine_of(&self, target: &TargetName) -> Option<&EngineId> {
        let named = |name: &str| self.engines.keys().find(|id| id.as_str() == name);
        let configured = self.config.targets.get(target).map(|t| &t.engine);
        configured
            .or_else(|| named(target.as_str()))
            .or_else(|| named(target.as_str().strip_suffix(CLUSTER)?))
    }

    /// How backups of a target are made.
    pub(crate) fn backup_config(&self, target: &TargetName) -> &BackupConfig {
        self.config.targets.get(target).map_or(&self.config.backup, |t| &t.backup)
    }

    /// Rows or files, where the request does not say: what the configuration says of the target, what its name says, what
    /// the configuration says in general.
    pub(crate) fn mode_of(&self, engine: &dyn Engine, target: &TargetName) -> Option<BackupMode> {
        let of_name = || {
            let is_cluster = target.as_str().strip_suffix(CLUSTER) == Some(engine.id().as_str());
            (is_cluster && engine.log().is_some()).then_some(BackupMode::Physical)
        };
        let configured = self.config.targets.get(target).and_then(|t| t.backup.mode);
        configured.or_else(of_name).or(self.config.backup.mode)
    }
}
