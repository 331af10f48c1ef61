//! The backup repository of a manager: opened when it is first needed, made by the first backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dm_core::{Error, ErrorKind, OpContext, Result, Secret};
use dm_repository::{
    Identity, InitOptions, OpenOptions, RateLimit, Recipient, Repository, StoreLocation, StoreOptions,
    open_store,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::backups::create_private;

/// Everything that is known of the repository before it is opened.
#[derive(Clone)]
pub(crate) struct RepositorySettings {
    pub(crate) location: StoreLocation,
    pub(crate) store: StoreOptions,
    pub(crate) encryption: bool,
    pub(crate) recipients: Vec<Recipient>,
    /// Private keys, read already.
    pub(crate) identities: Vec<Identity>,
    /// Files of private keys, read when a repository is opened.
    pub(crate) identity_files: Vec<PathBuf>,
    pub(crate) index_identity: Option<Identity>,
    pub(crate) index_identity_file: Option<PathBuf>,
    /// Where a host that has neither of these keeps a key of its own, for the journals of running backups.
    pub(crate) journal_key_file: Option<PathBuf>,
    pub(crate) passphrase: Option<Secret>,
    pub(crate) zstd_level: i32,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) pack_bytes: u64,
    pub(crate) connections: usize,
    /// Shared by every repository that is opened with these settings.
    pub(crate) rate_limit: Option<RateLimit>,
}

impl RepositorySettings {
    pub(crate) fn object_store(&self) -> Result<Arc<dyn ObjectStore>> {
        open_store(&self.location, &self.store)
    }

    /// Opens the repository; one that is not there is an error with the way out.
    pub(crate) async fn open(&self, ctx: &OpContext) -> Result<Repository> {
        let store = self.object_store()?;
        let repository =
            Repository::open(store, ctx, self.open_options()?).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::not_found(format!(
                    "there is no backup repository at {}",
                    self.location
                ))
                .with_hint(
                    "the first \"dm backup run\" makes it; if there should be one, check [repository] url",
                )
                .with_source(error),
                _ => error,
            })?;
        self.check_encryption(&repository)?;
        Ok(repository)
    }

    /// Opens the repository, or makes it.
    pub(crate) async fn open_or_init(&self, ctx: &OpContext) -> Result<Repository> {
        let store = self.object_store()?;
        let options = self.open_options()?;
        match Repository::open(Arc::clone(&store), ctx, options.clone()).await {
            Ok(repository) => self.with_own_key(ctx, repository, options).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let init = self.init_options(&options)?;
                match Repository::init(Arc::clone(&store), ctx, init, options.clone()).await {
                    // Somebody else made it in the same moment: theirs is as good.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        Repository::open(store, ctx, options).await
                    }
                    result => result,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the repository to write log into it, which must be there. A server that calls us may run us as a user who cannot read
    /// the host's own key: then it goes without.
    pub(crate) async fn open_for_log(&self, ctx: &OpContext) -> Result<Repository> {
        let repository = self.open(ctx).await?;
        match self.with_own_key(ctx, repository.clone(), self.open_options()?).await {
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid) => {
                tracing::debug!(%error, "no key of this host: the log is sealed to the recipients themselves");
                Ok(repository)
            }
            opened => opened,
        }
    }

    /// A host that has none of the repository's secrets gets one of its own.
    async fn with_own_key(
        &self,
        ctx: &OpContext,
        repository: Repository,
        options: OpenOptions,
    ) -> Result<Repository> {
        self.check_encryption(&repository)?;
        match &self.journal_key_file {
            Some(file) if !repository.can_read_index() => {
                let journal_identity = Some(journal_identity(file)?);
                let options = OpenOptions { journal_identity, ..options };
                Repository::open(self.object_store()?, ctx, options).await
            }
            _ => Ok(repository),
        }
    }

    /// Opens this place as a copy of another; an empty one becomes a copy.
    pub(crate) async fn open_copy(&self, ctx: &OpContext, of: &Repository) -> Result<Repository> {
        of.open_copy(self.object_store()?, ctx, self.open_options()?).await
    }

    /// Opens this place as a copy of another, to look and not to write: one that is not there yet counts as an empty copy.
    pub(crate) async fn look_at_copy(&self, ctx: &OpContext, of: &Repository) -> Result<Repository> {
        match self.open(ctx).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                of.open_copy(Arc::new(InMemory::new()), ctx, self.open_options()?).await
            }
            opened => opened,
        }
    }

    fn open_options(&self) -> Result<OpenOptions> {
        let mut identities = self.identities.clone();
        for file in &self.identity_files {
            identities.push(Identity::from_file(file, self.passphrase.as_ref())?);
        }
        let index_identity = match (&self.index_identity, &self.index_identity_file) {
            (Some(identity), _) => Some(identity.clone()),
            (None, Some(file)) => Some(Identity::from_file(file, self.passphrase.as_ref())?),
            (None, None) => None,
        };
        Ok(OpenOptions {
            identities,
            index_identity,
            journal_identity: None,
            expected_recipients: self.recipients.clone(),
            zstd_level: self.zstd_level,
            threads: self.threads,
            memory_bytes: self.memory_bytes,
            connections: Some(self.connections),
            rate_limit: self.rate_limit.clone(),
        })
    }

    fn init_options(&self, open: &OpenOptions) -> Result<InitOptions> {
        let mut init = InitOptions {
            pack_bytes: self.pack_bytes,
            lease: Duration::from_secs(60),
            ..InitOptions::default()
        };
        if !self.encryption && self.recipients.is_empty() {
            return Ok(init);
        }
        init.recipients.clone_from(&self.recipients);
        if init.recipients.is_empty() {
            init.recipients = open.identities.iter().map(Identity::recipient).collect();
        }
        init.index_recipient = open.index_identity.as_ref().map(Identity::recipient);
        if init.recipients.is_empty() || init.index_recipient.is_none() {
            let missing = if init.recipients.is_empty() { "no recipient" } else { "no index key" };
            return Err(Error::invalid(format!("encryption is asked for, but {missing} is configured"))
                .with_hint(
                    "run \"dm backup key new --out owner.key\" and put what it prints into [repository]",
                ));
        }
        Ok(init)
    }

    /// Somebody who asks for encryption must not silently write into a plain repository.
    fn check_encryption(&self, repository: &Repository) -> Result<()> {
        if (self.encryption || !self.recipients.is_empty()) && !repository.is_encrypted() {
            return Err(Error::invalid(format!("encryption is asked for, but the repository at {} is not encrypted", self.location))
                .with_hint("choose another [repository] url for an encrypted one, or take \"encryption\" and \"recipients\" out"));
        }
        Ok(())
    }
}

/// The host's own key: made by the first backup that needs it, and of use here alone.
fn journal_identity(file: &Path) -> Result<Identity> {
    match Identity::from_file(file, None) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let identity = Identity::generate();
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).map_err(|e| {
                    Error::new(ErrorKind::Denied, "the folder of the journal key cannot be made")
                        .about(folder.display().to_string())
                        .with_source(e)
                })?;
            }
            match create_private(file, format!("{}\n", identity.to_secret_text().expose()).as_bytes()) {
                // Another program made it in the same moment.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Identity::from_file(file, None),
                made => made.map(|()| identity),
            }
        }
        read => read,
    }
}

/// Beside the system's own state, where that is a file.
pub(crate) fn journal_key_file(state_url: &str) -> Option<PathBuf> {
    let path = state_url
        .strip_prefix("sqlite://")
        .or_else(|| state_url.strip_prefix("sqlite:"))
        .unwrap_or(state_url);
    if path.contains("://") {
        None
    } else {
        Path::new(path).parent().map(|folder| folder.join("journal.key"))
    }
}
