//! Putting a manager together in code, or from a configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dm_core::{Actor, Clock, Engine, EngineId, Error, Permissions, Result, Secret, SystemClock};
use dm_repository::{Identity, RateLimit, Recipient, StoreLocation, StoreOptions};
use tokio::sync::OnceCell;

use crate::config::{Config, EngineConfig, PlaceConfig};
use crate::places::{PRIMARY, Places};
use crate::repositories::{RepositorySettings, journal_key_file};
use crate::{DataManager, engines};

/// Collects what a [`DataManager`] is made of. What is given here beats the configuration.
#[derive(Debug, Default)]
pub struct DataManagerBuilder {
    config: Option<Config>,
    engines: Vec<(EngineId, EngineConfig)>,
    ready: Vec<Arc<dyn Engine>>,
    repository: Option<String>,
    store_options: Option<StoreOptions>,
    state: Option<Secret>,
    recipients: Vec<Recipient>,
    index_identity: Option<Identity>,
    identities: Vec<Identity>,
    actor: Option<Actor>,
    clock: Option<Arc<dyn Clock>>,
    place: Option<String>,
    second_places: Vec<(String, String, StoreOptions)>,
}

impl DataManagerBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Starts from a configuration instead of the defaults.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Adds an engine by its URL: `postgres://user@host/database`, `sqlite://path`, a path.
    ///
    /// # Errors
    /// `Invalid` for a bad name, `Unsupported` for a scheme that no engine speaks.
    pub fn engine(self, name: impl Into<String>, url: impl Into<String>) -> Result<Self> {
        self.engine_with(name, EngineConfig::for_url(Secret::new(url)))
    }

    /// Adds an engine with all its settings: pool, timeouts, the folder of the client tools.
    ///
    /// # Errors
    /// As [`engine`](Self::engine).
    pub fn engine_with(mut self, name: impl Into<String>, config: EngineConfig) -> Result<Self> {
        engines::kind_of(config.url.expose())?;
        self.engines.push((EngineId::new(name)?, config));
        Ok(self)
    }

    /// Adds an engine of your own: anything that implements the port.
    #[must_use]
    pub fn engine_ready(mut self, engine: Arc<dyn Engine>) -> Self {
        self.ready.push(engine);
        self
    }

    /// Where backups are kept: a folder, `s3://bucket/prefix`, `gs://…`, `az://…`.
    #[must_use]
    pub fn repository(mut self, url: impl Into<String>) -> Self {
        self.repository = Some(url.into());
        self
    }

    /// Endpoint, region and credentials of the repository's store.
    #[must_use]
    pub fn store_options(mut self, options: StoreOptions) -> Self {
        self.store_options = Some(options);
        self
    }

    /// Where the system keeps its own state: a path, `sqlite://path`, `postgres://…`.
    #[must_use]
    pub fn state(mut self, url: impl Into<String>) -> Self {
        self.state = Some(Secret::new(url));
        self
    }

    /// A new repository is encrypted to these recipients; the index key lets this host make incremental backups.
    #[must_use]
    pub fn encrypt_to(
        mut self,
        recipients: impl IntoIterator<Item = Recipient>,
        index_key: Identity,
    ) -> Self {
        self.recipients.extend(recipients);
        self.index_identity = Some(index_key);
        self
    }

    /// A private key, needed to restore from an encrypted repository.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// Who acts, in contexts that this manager makes. The default is the service `data-manager` with the role `admin`.
    #[must_use]
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// A second place that receives a copy of every backup: a folder, `s3://bucket/prefix` … under a name of its own.
    #[must_use]
    pub fn second_place(self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.second_place_with(name, url, StoreOptions::default())
    }

    /// The same with endpoint, region and credentials.
    #[must_use]
    pub fn second_place_with(
        mut self,
        name: impl Into<String>,
        url: impl Into<String>,
        options: StoreOptions,
    ) -> Self {
        self.second_places.push((name.into(), url.into(), options));
        self
    }

    /// Works on a copy of the repository: a name under `[repository.secondary]`. It can be listed, verified, restored from,
    /// mended and expired; nothing new is written there.
    #[must_use]
    pub fn place(mut self, name: impl Into<String>) -> Self {
        self.place = Some(name.into());
        self
    }

    /// Puts it together. Connects to nothing and creates nothing yet.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` when a URL, a key or a name cannot be understood.
    pub fn build(self) -> Result<DataManager> {
        let mut config = match self.config {
            Some(config) => config,
            None => Config::builtin(Path::new("."))?,
        };
        for (id, engine) in self.engines {
            config = config.with_engine(id.as_str(), engine)?;
        }
        let mut engines: BTreeMap<EngineId, Arc<dyn Engine>> = BTreeMap::new();
        for (id, engine) in &config.engines {
            engines.insert(id.clone(), engines::open(id, engine)?);
        }
        for engine in self.ready {
            engines.insert(engine.id().clone(), engine);
        }
        let place = &config.repository.place;
        let url = self.repository.as_deref().unwrap_or(&place.url);
        let mut recipients = self.recipients;
        for recipient in &config.repository.recipients {
            recipients.push(recipient.parse()?);
        }
        let state_url = self.state.unwrap_or_else(|| config.store.url.clone());
        let primary = RepositorySettings {
            journal_key_file: journal_key_file(state_url.expose()),
            location: StoreLocation::parse(url)?,
            store: self.store_options.unwrap_or_else(|| store_options(place)),
            encryption: config.repository.encryption,
            recipients,
            identities: self.identities,
            identity_files: config.repository.identity_files.clone(),
            index_identity: self.index_identity,
            index_identity_file: config.repository.index_identity_file.clone(),
            passphrase: config.repository.passphrase.clone(),
            zstd_level: config.repository.zstd_level,
            threads: config.repository.threads,
            memory_bytes: config.repository.memory.0,
            connections: config.repository.connections,
            rate_limit: config.repository.rate_limit.map(|rate| RateLimit::new(rate.0)),
            pack_bytes: config.repository.pack_size.0,
        };
        let mut places = BTreeMap::new();
        let configured = config.repository.secondary.iter();
        let configured =
            configured.map(|(name, place)| (name.clone(), place.url.clone(), store_options(place)));
        for (name, url, store) in configured.chain(self.second_places) {
            let elsewhere =
                RepositorySettings { location: StoreLocation::parse(&url)?, store, ..primary.clone() };
            places.insert(name, elsewhere);
        }
        if places.insert(PRIMARY.to_owned(), primary).is_some() {
            return Err(Error::invalid(
                "[repository.secondary.primary]: \"primary\" is the repository itself",
            )
            .with_hint("give the second place another name"));
        }
        let (repository, places) = Places::choose(places, self.place.as_deref().unwrap_or(PRIMARY))?;
        let permissions = Permissions::with_roles(config.access.roles.clone());
        let roles = config.access.default_actor_roles.clone();
        if let Some(unknown) = roles.iter().find(|r| !permissions.roles().contains_key(*r)) {
            return Err(Error::invalid(format!("there is no role \"{unknown}\""))
                .with_hint("use viewer, operator, dpo, auditor, admin, or define it under [access.roles]"));
        }
        Ok(DataManager {
            engines,
            repository,
            places,
            state_url,
            permissions,
            actor: self.actor.unwrap_or_else(|| Actor::service("data-manager").with_roles(roles)),
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            state: OnceCell::new(),
            config,
        })
    }
}

fn store_options(place: &PlaceConfig) -> StoreOptions {
    StoreOptions {
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        access_key: place.access_key.clone(),
        secret_key: place.secret_key.clone(),
        session_token: place.session_token.clone(),
        allow_http: place.allow_http,
        sse: place.sse.clone(),
        storage_class: place.storage_class.clone(),
        object_lock: place.object_lock,
        credentials_file: place.credentials_file.clone(),
    }
}
