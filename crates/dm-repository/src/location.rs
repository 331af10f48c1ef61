//! Where a repository lies, and the store that is opened there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use dm_core::{Error, Result, Secret};
use object_store::ObjectStore;

/// A place for a repository. `Display` never shows a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreLocation(Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Folder(PathBuf),
    Bucket { service: Service, bucket: String, prefix: String },
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    S3,
    Gcs,
    Azure,
}

/// How to reach a store; nothing is read from the environment here.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Endpoint of an S3-compatible, GCS or Azure service; the provider's own when `None`.
    pub endpoint: Option<String>,
    /// S3 region; `us-east-1` when `None`.
    pub region: Option<String>,
    /// S3 access key id, or the Azure account name.
    pub access_key: Option<Secret>,
    /// S3 secret key, or the Azure account key.
    pub secret_key: Option<Secret>,
    /// S3 session token.
    pub session_token: Option<Secret>,
    /// Permits plain HTTP to the endpoint.
    pub allow_http: bool,
    /// S3 server-side encryption: `AES256`, `aws:kms` or `aws:kms:<key id>`.
    pub sse: Option<String>,
    /// Storage class of new objects, for example `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// Sends a checksum with every object, which S3 asks for where a bucket locks objects by default.
    pub object_lock: bool,
    /// GCS service account file.
    pub credentials_file: Option<PathBuf>,
}

impl StoreLocation {
    /// A local folder.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Place::Folder(path.into()))
    }

    /// The folder's path, when it is a local one.
    #[must_use]
    pub fn as_folder(&self) -> Option<&std::path::Path> {
        match &self.0 {
            Place::Folder(path) => Some(path),
            _ => None,
        }
    }

    /// Reads `./folder`, `/folder`, `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://container/prefix` or
    /// `memory:`.
    ///
    /// # Errors
    /// `Invalid` for another scheme, an empty bucket, or credentials in the text (they belong in [`StoreOptions`]).
    pub fn parse(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(Error::invalid("the location of the repository is empty").with_hint(
                "write a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix",
            ));
        }
        if trimmed == "memory:" {
            return Ok(Self(Place::Memory));
        }
        let Some((scheme, rest)) = trimmed.split_once("://") else {
            return Ok(Self(Place::Folder(PathBuf::from(trimmed))));
        };
        let service = match scheme {
            "file" => {
                if !rest.starts_with('/') {
                    return Err(Error::invalid(format!(
                        "\"{trimmed}\" is not the address of a local folder"
                    ))
                    .with_hint("write file:///absolute/folder, or the folder alone"));
                }
                return Ok(Self(Place::Folder(PathBuf::from(rest))));
            }
            "s3" => Service::S3,
            "gs" | "gcs" => Service::Gcs,
            "az" | "azure" => Service::Azure,
            other => {
                return Err(Error::invalid(format!("\"{other}\" is not a kind of store"))
                    .with_hint("use a folder, file://, s3://, gs://, az:// or memory:"));
            }
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') || rest.contains('?') {
            return Err(Error::invalid(
                "credentials and options do not belong in the location of a repository",
            )
            .with_hint("give them in the settings of the store"));
        }
        if bucket.is_empty() {
            return Err(Error::invalid(format!("\"{trimmed}\" names no bucket")));
        }
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Self(Place::Bucket { service, bucket: bucket.to_owned(), prefix }))
    }
}

impl FromStr for StoreLocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(path) => path.display().fmt(f),
            Place::Memory => f.write_str("memory:"),
            Place::Bucket { service, bucket, prefix } => {
                let scheme = match service {
                    Service::S3 => "s3",
                    Service::Gcs => "gs",
                    Service::Azure => "az",
                };
                write!(f, "{scheme}://{bucket}")?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
        }
    }
}

/// Opens the store at a location, prefixed, ready for a repository. A local folder is made (0700) when it is missing;
/// what is put there is durable when the call returns.
///
/// # Errors
/// `Invalid`, `Denied`, `Exhausted`; `Unsupported` when this build lacks the kind of store.
pub fn open_store(location: &StoreLocation, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    match &location.0 {
        Place::Folder(path) => Ok(Arc::new(crate::local::LocalStore::open(path)?)),
        Place::Memory => Ok(Arc::new(object_store::memory::InMemory::new())),
        Place::Bucket { service, bucket, prefix } => {
            let store =
                crate::cloud::open(*service, bucket, options).map_err(|e| e.about(location.to_string()))?;
            if prefix.is_empty() {
                return Ok(store);
            }
            Ok(Arc::new(object_store::prefix::PrefixStore::new(store, prefix.as_str())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_parse_and_print_without_credentials() {
        for (text, shown) in [
            ("./backups", "./backups"),
            ("file:///srv/backups", "/srv/backups"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("gs://bucket", "gs://bucket"),
            ("az://container/x", "az://container/x"),
            ("memory:", "memory:"),
        ] {
            assert_eq!(StoreLocation::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["", "ftp://x/y", "s3://", "file://relative", "s3://key:secret@bucket/p", "s3://b/p?key=x"]
        {
            let error = StoreLocation::parse(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret@"), "{bad}");
        }
    }
}
