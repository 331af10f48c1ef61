//! What the stories share: a facade over one engine and one repository.

use std::path::{Path, PathBuf};

use data_manager::config::EngineConfig;
use data_manager::repository::{Identity, StoreOptions};
use data_manager::{DataManager, DataManagerBuilder, Secret, Statement, Value};
use dm_testkit::emulators::S3;

/// Where the repository of a story is, and whether it is encrypted.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) options: StoreOptions,
    pub(crate) keys: Option<(Identity, Identity)>,
    /// The folder of the server's own client tools.
    pub(crate) bin_dir: Option<PathBuf>,
}

impl Place {
    /// A folder, not encrypted.
    pub(crate) fn folder(path: &Path) -> Self {
        Self { url: path.display().to_string(), options: StoreOptions::default(), keys: None, bin_dir: None }
    }

    /// The bucket of a throwaway S3 server.
    pub(crate) fn s3(server: &S3) -> Self {
        let options = StoreOptions {
            endpoint: Some(server.endpoint()),
            region: Some("us-east-1".to_owned()),
            access_key: Some(Secret::new(server.access_key())),
            secret_key: Some(Secret::new(server.secret_key())),
            allow_http: true,
            ..StoreOptions::default()
        };
        Self { url: format!("s3://{}/backups", S3::BUCKET), options, keys: None, bin_dir: None }
    }

    /// The same, encrypted to a fresh key.
    pub(crate) fn encrypted(mut self) -> Self {
        self.keys = Some((Identity::generate(), Identity::generate()));
        self
    }

    /// A facade over one engine that may back up and restore.
    pub(crate) fn manager(&self, engine: &str, state: &Path) -> DataManager {
        let mut builder = self.builder(engine, state);
        if let Some((owner, _)) = &self.keys {
            builder = builder.identity(owner.clone());
        }
        builder.build().expect("a facade")
    }

    /// The builder of a host that can back up but holds no private key.
    pub(crate) fn builder(&self, engine: &str, state: &Path) -> DataManagerBuilder {
        let mut engine = EngineConfig::for_url(Secret::new(engine));
        engine.bin_dir.clone_from(&self.bin_dir);
        let mut builder = DataManager::builder()
            .engine_with("main", engine)
            .expect("an engine")
            .repository(&self.url)
            .store_options(self.options.clone())
            .state(state.join("state.db").display().to_string());
        if let Some((owner, index)) = &self.keys {
            builder = builder.encrypt_to([owner.recipient()], index.clone());
        }
        builder
    }
}

/// Runs a statement for its effect.
pub(crate) async fn execute(dm: &DataManager, sql: &str) -> u64 {
    dm.execute(&dm.context(), Statement::new(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// One number.
pub(crate) async fn number(dm: &DataManager, sql: &str) -> i64 {
    let rows = dm.query(&dm.context(), Statement::new(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    match rows[0].values[0] {
        Value::Int(n) => n,
        ref other => panic!("{sql} gave {other:?}"),
    }
}
