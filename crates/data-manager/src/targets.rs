//! Under which name an engine's backups are kept.
//!
//! A logical backup is of one database and is called like its engine. A physical one is of the whole server, so it has a name
//! of its own, `<engine>-cluster`: neither counts in the other's keep-rules, is the other's base, or is `latest` where the
//! other is meant. The log of a server lies under the name of its physical backups.

use std::sync::Arc;

use dm_core::{BackupMode, Engine, EngineId, Result, TargetName};

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

    /// The target that a request means: the one named, or the engine's.
    pub(crate) fn target(
        &self,
        target: Option<&TargetName>,
        engine: Option<&EngineId>,
        mode: Option<BackupMode>,
    ) -> Result<TargetName> {
        match target {
            Some(target) => Ok(target.clone()),
            None => self.target_of(self.engine(engine)?.as_ref(), mode),
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
