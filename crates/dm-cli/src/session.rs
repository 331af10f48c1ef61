//! What every command has at hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_manager::config::LoadOptions;
use data_manager::{Actor, Config, DataManager, OpContext, Result, Secret};
use tokio_util::sync::CancellationToken;

use crate::args::{GlobalArgs, ResourceArgs};
use crate::commands::files;
use crate::confirm::Questions;
use crate::console::Console;
use crate::output::Output;
use crate::progress::{Shown, Style};

/// The variable that holds the passphrase of a new key.
pub(crate) const PASSPHRASE_VARIABLE: &str = "DM_KEY_PASSPHRASE";

/// One run of the program.
pub(crate) struct Session {
    pub(crate) global: GlobalArgs,
    pub(crate) out: Output,
    pub(crate) console: Console,
    pub(crate) questions: Questions,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    pub(crate) cancel: CancellationToken,
    pub(crate) style: Style,
    /// Whether the process is ours, and not that of a test.
    pub(crate) owns_process: bool,
}

impl Session {
    /// The configuration that the global flags, the folder and the environment lead to.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn config(&self) -> Result<Config> {
        let home = self.env.get("HOME").map(Path::new);
        Config::load(LoadOptions {
            path: self.global.config.clone(),
            profile: self.global.profile.clone(),
            env: &self.env,
            cwd: &self.folder,
            home,
        })
    }

    /// The system over that configuration, with other resources where flags give them, and more files of secret keys.
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Config::load`]; `Invalid`, `Unsupported` for what is wrong with an engine.
    pub(crate) fn manager(
        &self,
        resources: ResourceArgs,
        (identities, passphrase): (&[PathBuf], Option<&Path>),
    ) -> Result<DataManager> {
        let mut config = self.config()?;
        if passphrase.is_some() || (!identities.is_empty() && config.repository.passphrase.is_none()) {
            config.repository.passphrase = self.passphrase(passphrase)?;
        }
        config.repository.identity_files.extend(identities.iter().map(|file| self.folder.join(file)));
        let repository = &mut config.repository;
        repository.rate_limit = resources.rate_limit.or(repository.rate_limit);
        repository.memory = resources.memory.unwrap_or(repository.memory);
        repository.connections = resources.connections.map_or(repository.connections, Into::into);
        repository.threads = resources.threads.map_or(repository.threads, Into::into);
        let actor = self.actor(Some(config.access.default_actor_roles.clone()));
        let builder = DataManager::builder().config(config).actor(actor);
        match &self.global.place {
            Some(place) => builder.place(place).build(),
            None => builder.build(),
        }
    }

    /// The person at this machine.
    pub(crate) fn actor(&self, roles: Option<Vec<String>>) -> Actor {
        let name =
            ["USER", "LOGNAME", "USERNAME"].iter().find_map(|v| self.env.get(*v)).filter(|n| !n.is_empty());
        let actor = Actor::local_user(name.map_or("unknown", String::as_str));
        match roles {
            Some(roles) => actor.with_roles(roles),
            None => actor,
        }
    }

    /// Shows progress until the answer is dropped.
    pub(crate) fn progress(&self) -> Shown {
        Shown::start(self.style, self.console.clone())
    }

    /// The context of an operation whose progress is shown.
    pub(crate) fn context(&self, dm: &DataManager, progress: &Shown) -> OpContext {
        self.quiet_context(dm).with_progress(progress.sink())
    }

    /// The context of an operation that is over in a moment.
    pub(crate) fn quiet_context(&self, dm: &DataManager) -> OpContext {
        dm.context().with_cancellation(self.cancel.clone())
    }

    /// Prints a plan: it is the answer for a person, and goes beside the answer where a program reads.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn show_plan(&mut self, lines: &[String]) -> Result<()> {
        for line in lines {
            if self.out.is_human() {
                self.out.say(line)?;
            } else {
                self.console.line(line);
            }
        }
        // The question follows on another stream.
        self.out.stdout().flush()
    }

    /// The passphrase for a new key: from the file, else from the environment.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn passphrase(&self, file: Option<&Path>) -> Result<Option<Secret>> {
        let Some(file) = file else {
            return Ok(self.env.get(PASSPHRASE_VARIABLE).filter(|p| !p.is_empty()).map(Secret::new));
        };
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|e| files::error(&path, "the file with the passphrase cannot be read", e))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Some(Secret::new(line))),
            _ => Err(data_manager::Error::invalid(
                "the first line of the file is empty, and so would be the passphrase",
            )
            .about(path.display().to_string())),
        }
    }
}
