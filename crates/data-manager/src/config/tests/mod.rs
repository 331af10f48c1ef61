//! Tests of the configuration: no environment but the one handed in, no folder but a temporary one.

mod environment;
mod errors;
mod forms;
mod layers;
mod references;
mod written;

use std::collections::BTreeMap;
use std::path::Path;

use dm_core::{Result, Secret};
use tempfile::TempDir;

use super::{Config, LoadOptions, Source, build, places};

/// A folder with a dm.toml and an environment.
pub(super) struct Bench {
    dir: TempDir,
    env: BTreeMap<String, String>,
    profile: Option<String>,
    home: bool,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), env: BTreeMap::new(), profile: None, home: false }
    }

    pub(super) fn file(self, text: &str) -> Self {
        self.other_file("dm.toml", text)
    }

    pub(super) fn other_file(self, name: &str, text: &str) -> Self {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn profile(mut self, name: &str) -> Self {
        self.profile = Some(name.to_owned());
        self
    }

    /// The folder `home` in the bench's folder is the user's home.
    pub(super) fn with_home(mut self) -> Self {
        self.home = true;
        self
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn load_from(&self, path: Option<&str>) -> Result<Config> {
        let home = self.path().join("home");
        let options = LoadOptions {
            path: path.map(Into::into),
            profile: self.profile.clone(),
            env: &self.env,
            cwd: self.path(),
            home: self.home.then_some(home.as_path()),
        };
        let found = places::look(options.path.as_deref(), options.env, options.cwd, options.home);
        let text = found.as_ref().map(super::read).transpose()?;
        // Four cores, whatever machine runs the test.
        build(&options, found, text.as_deref().unwrap_or_default(), 4)
    }

    pub(super) fn load(&self) -> Config {
        match self.load_from(None) {
            Ok(config) => config,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// The error in one text, with its way out, the bench's folder replaced.
    pub(super) fn error(&self) -> String {
        let error = self.load_from(None).expect_err("the configuration should be refused");
        let text = format!("{:?}: {error}\n  way out: {}", error.kind(), error.hint().unwrap_or("none"));
        text.replace(&self.path().display().to_string(), "<dir>")
    }
}

pub(super) fn setting(config: &Config, key: &str) -> (String, String) {
    let settings = config.settings();
    let found = settings.iter().find(|s| s.key == key);
    let found = found.unwrap_or_else(|| panic!("{key} is not among {settings:#?}"));
    (found.value.clone(), found.source.to_string())
}

pub(super) fn exposed(secret: Option<&Secret>) -> Option<&str> {
    secret.map(Secret::expose)
}

#[test]
fn a_source_is_one_readable_text() {
    let file = Source::File { file: "dm.toml".into(), line: 3, via: vec!["A".into(), "/b".into()] };
    assert_eq!(file.to_string(), "dm.toml:3 (A, /b)");
    assert_eq!(serde_json::to_value(&file).unwrap(), "dm.toml:3 (A, /b)");
}
