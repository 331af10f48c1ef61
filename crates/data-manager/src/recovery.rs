//! What `[recovery]` of the configuration adds to a restore or a drill.

use std::collections::BTreeMap;
use std::sync::Arc;

use dm_backup::{Assertion, BackupHook, Hook, HookAction, Hooks};
use dm_core::{CheckDepth, EngineId, Result};

use crate::config::{HookConfig, HookDoes};
use crate::webhook::Webhook;
use crate::{DataManager, engines};

impl DataManager {
    /// How much is checked, where nobody says.
    pub(crate) fn check_depth(&self, asked: Option<CheckDepth>) -> CheckDepth {
        asked.unwrap_or(self.config.recovery.checks)
    }

    /// The questions of the request, and behind them those that the configuration has for the engine. One of the request
    /// takes the place of a configured one of the same name.
    pub(crate) fn questions(&self, engine: Option<&EngineId>, asked: &[Assertion]) -> Vec<Assertion> {
        let mut questions = asked.to_vec();
        for (name, check) in &self.config.recovery.check {
            let meant = check.engine.as_ref().is_none_or(|of| Some(of) == engine);
            if meant && !asked.iter().any(|a| a.name == *name) {
                questions.push(Assertion::new(name, &check.sql).expecting(check.expect.clone()));
            }
        }
        questions
    }

    /// The commands of the request; the configuration's where it has none and the restore takes the place of what the
    /// application uses. A restore beside that stops nobody.
    pub(crate) fn hooks(&self, asked: &Hooks, replaces: bool) -> Hooks {
        let configured = |command: &Option<String>| command.clone().filter(|_| replaces).map(Hook::shell);
        let recovery = &self.config.recovery;
        Hooks {
            stop: asked.stop.clone().or_else(|| configured(&recovery.stop_command)),
            start: asked.start.clone().or_else(|| configured(&recovery.start_command)),
            start_when: asked.start_when,
        }
    }

    /// What runs before, during and after a backup.
    ///
    /// # Errors
    /// `Invalid` for an address that is none.
    pub(crate) fn backup_hooks(&self) -> Result<Vec<BackupHook>> {
        let hook = |config: &HookConfig| {
            let timeout_s = config.timeout.map(|time| time.as_secs().max(1));
            let on_failure = config.on_failure;
            let action = match &config.does {
                HookDoes::Command(line) => {
                    HookAction::Run(Hook { timeout_s, on_failure, ..Hook::shell(line) })
                }
                HookDoes::Webhook(url) => {
                    let setting = format!("backup.hook.{}.webhook", config.name);
                    let notice = Arc::new(Webhook::new(url.expose(), &setting)?);
                    HookAction::Notify { notice, timeout_s, on_failure }
                }
            };
            Ok(BackupHook { name: config.name.clone(), when: config.when, action })
        };
        self.config.hooks.iter().map(hook).collect()
    }

    /// The engine's own settings: the request's, and what the configuration says of the others.
    pub(crate) fn engine_settings(
        &self,
        engine: Option<&EngineId>,
        asked: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut settings = asked.clone();
        let recovery = &self.config.recovery;
        let database = engine.and_then(|id| engines::database_of(self.config.engines.get(id)?));
        let configured = [
            ("check_database", database),
            ("run_as", recovery.run_as.clone()),
            ("bin_dir", recovery.bin_dir.as_ref().map(|dir| dir.display().to_string())),
        ];
        for (name, value) in configured {
            if let Some(value) = value {
                settings.entry(name.to_owned()).or_insert(value);
            }
        }
        settings
    }
}
