//! A POST to an address of the configuration; any 2xx is a receipt.

use async_trait::async_trait;
use dm_backup::Notice;
use dm_core::{Error, ErrorKind, OpContext, Result, redact_url};

/// Where to post.
#[derive(Debug)]
pub(crate) struct Webhook {
    name: String,
    url: reqwest::Url,
    client: reqwest::Client,
}

impl Webhook {
    /// `setting` is where the address stands.
    ///
    /// # Errors
    /// `Invalid` for what is no address of the web.
    pub(crate) fn new(text: &str, setting: &str) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| {
            Error::invalid(format!("the webhook cannot be used: {e}")).about(setting.to_owned())
        };
        let url = reqwest::Url::parse(text).map_err(|e| bad(&e))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(&"it is neither http:// nor https://"));
        }
        // Whoever follows a redirect hands the content to somebody who was not named.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        Ok(Self { name: redact_url(text), url, client: client.map_err(|e| bad(&e.without_url()))? })
    }

    /// The address without secrets.
    pub(crate) fn address(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// `Unreachable`; `Denied` where the other side refuses.
    pub(crate) async fn post(&self, ctx: &OpContext, content_type: &str, body: Vec<u8>) -> Result<()> {
        let post = self.client.post(self.url.clone()).header("content-type", content_type).body(body);
        let sent = async {
            post.send().await.map_err(|e| {
                Error::new(ErrorKind::Unreachable, "the webhook cannot be reached")
                    .about(self.name.clone())
                    .with_source(e.without_url())
            })
        };
        let status = ctx.run(sent).await?.status();
        if status.is_success() {
            return Ok(());
        }
        let kind = if status.is_client_error() { ErrorKind::Denied } else { ErrorKind::Unreachable };
        Err(Error::new(kind, format!("the webhook answers {status}")).about(self.name.clone()))
    }
}

#[async_trait]
impl Notice for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, ctx: &OpContext, event: &serde_json::Value) -> Result<()> {
        self.post(ctx, "application/json", event.to_string().into_bytes()).await
    }
}
