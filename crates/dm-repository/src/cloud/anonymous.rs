//! A Google Cloud Storage client that sends no credentials.
//!
//! `skip_signature` of the client covers what reads and not what writes or deletes: those ask the machine's metadata
//! server for a token in any case, and with an empty token they send an empty one, which servers refuse as malformed.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::StaticCredentialProvider;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};

/// Makes a builder look for no credentials, and its client send none.
pub(super) fn without_credentials(builder: GoogleCloudStorageBuilder) -> GoogleCloudStorageBuilder {
    let nothing = GcpCredential { bearer: String::new() };
    builder
        .with_skip_signature(true)
        .with_credentials(Arc::new(StaticCredentialProvider::new(nothing)))
        .with_http_connector(Anonymous::default())
}

/// Connects as usual, and takes the empty token out of every request.
#[derive(Debug, Default)]
struct Anonymous(ReqwestConnector);

impl HttpConnector for Anonymous {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(WithoutToken(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct WithoutToken(HttpClient);

#[async_trait]
impl HttpService for WithoutToken {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        request.headers_mut().remove("authorization");
        self.0.execute(request).await
    }
}
