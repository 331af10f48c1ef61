//! Stores behind a network; each kind is a feature of the crate.

use std::sync::Arc;

use dm_core::{Error, Result};
use object_store::ObjectStore;

use crate::location::{Service, StoreOptions};

#[cfg(feature = "gcs")]
mod anonymous;

pub(crate) fn open(service: Service, bucket: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    let store: Arc<dyn ObjectStore> = match service {
        Service::S3 => s3(bucket, options)?,
        Service::Gcs => gcs(bucket, options)?,
        Service::Azure => azure(bucket, options)?,
    };
    Ok(match &options.storage_class {
        Some(class) => Arc::new(crate::storage_class::WithStorageClass::new(store, class)),
        None => store,
    })
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn refused(error: object_store::Error) -> Error {
    Error::invalid("the settings of the store are not usable").with_source(error)
}

#[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
fn missing(feature: &str) -> Error {
    Error::unsupported(format!("this build has no support for {feature} stores"))
        .with_hint(format!("build with the feature \"{feature}\""))
}

#[cfg(feature = "s3")]
fn s3(bucket: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(options.region.as_deref().unwrap_or("us-east-1"))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_allow_http(options.allow_http);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = &options.access_key {
        builder = builder.with_access_key_id(key.expose());
    }
    if let Some(key) = &options.secret_key {
        builder = builder.with_secret_access_key(key.expose());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.expose());
    }
    if options.object_lock {
        builder = builder.with_checksum_algorithm(object_store::aws::Checksum::SHA256);
    }
    if let Some(sse) = &options.sse {
        builder = match sse.strip_prefix("aws:kms:") {
            Some(key) => builder.with_sse_kms_encryption(key),
            // The key's own type is not exported; its name is the documented way to it.
            None => {
                let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(refused)?;
                builder.with_config(key, sse.as_str())
            }
        };
    }
    Ok(Arc::new(builder.build().map_err(refused)?))
}

#[cfg(not(feature = "s3"))]
fn s3(_: &str, _: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    Err(missing("s3"))
}

#[cfg(feature = "gcs")]
fn gcs(bucket: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = object_store::gcp::GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(object_store::ClientOptions::new().with_allow_http(options.allow_http));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    builder = match (&options.credentials_file, &options.endpoint) {
        (Some(file), _) => builder.with_service_account_path(file.to_string_lossy()),
        // A token of this machine is for Google alone: nobody else's endpoint gets to see one.
        (None, Some(_)) => anonymous::without_credentials(builder),
        (None, None) => builder,
    };
    Ok(Arc::new(builder.build().map_err(refused)?))
}

#[cfg(not(feature = "gcs"))]
fn gcs(_: &str, _: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    Err(missing("gcs"))
}

#[cfg(feature = "azure")]
fn azure(container: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = object_store::azure::MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_allow_http(options.allow_http);
    if let Some(account) = &options.access_key {
        builder = builder.with_account(account.expose());
    }
    if let Some(key) = &options.secret_key {
        builder = builder.with_access_key(key.expose());
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    Ok(Arc::new(builder.build().map_err(refused)?))
}

#[cfg(not(feature = "azure"))]
fn azure(_: &str, _: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    Err(missing("azure"))
}
