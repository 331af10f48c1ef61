//! Secrets never reach a log, an error, a manifest or a debug output.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A secret text. `Debug` and `Display` print `[redacted]`; memory is wiped on drop.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself, for the one place that hands it to the other side.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A connection URL with its password, and any `password`-like query parameter, replaced by `***`.
///
/// Text that does not parse as a URL is cut at its first `:` behind the scheme: never printed whole.
#[must_use]
pub fn redact_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return if text.contains('@') || text.contains("password") {
            "[unparsable url]".to_owned()
        } else {
            text.to_owned()
        };
    };
    if url.password().is_some() {
        let _ = url.set_password(Some("***"));
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(key, value)| {
                let lower = key.to_ascii_lowercase();
                let secret = ["password", "secret", "token", "passphrase"].iter().any(|w| lower.contains(w));
                (key.into_owned(), if secret { "***".to_owned() } else { value.into_owned() })
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_survives() {
        assert_eq!(redact_url("postgres://a:s3cret@h:5/d?x=1"), "postgres://a:***@h:5/d?x=1");
        assert!(!redact_url("postgres://h/d?password=s3cret").contains("s3cret"));
        assert!(!redact_url("host=h password=s3cret").contains("s3cret"));
        assert_eq!(format!("{:?} {}", Secret::new("s3cret"), Secret::new("s3cret")), "[redacted] [redacted]");
    }
}
