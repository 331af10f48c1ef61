//! What Prisma writes into a PostgreSQL URL: `?schema=…&connection_limit=…&pool_timeout=…&connect_timeout=…`.
//!
//! A parameter counts for more than a default and a shipped profile, and for less than the file and the environment. The URL
//! itself stays as it is; the adapter takes these parameters out before a server or a client tool sees it.

use dm_core::{Error, Result, redact_url};

use super::assemble::shown_seconds;
use super::document::KeyPath;
use super::kind::Parsed;
use super::resolve::{Entry, Resolved};
use super::source::Source;

const PARAMETERS: [(&str, &str); 4] = [
    ("schema", "schema"),
    ("connection_limit", "pool_max"),
    ("pool_timeout", "acquire_timeout"),
    ("connect_timeout", "connect_timeout"),
];

/// Takes over the parameters of an engine's URL.
///
/// # Errors
/// [`ErrorKind::Invalid`](dm_core::ErrorKind::Invalid) when a number is none.
pub(super) fn apply(resolved: &mut Resolved, engine: &str) -> Result<()> {
    let at = |name: &str| -> KeyPath { vec!["engines".to_owned(), engine.to_owned(), name.to_owned()] };
    let Some(Entry { value: Parsed::Secret(url), .. }) = resolved.entries.get(&at("url")) else {
        return Ok(());
    };
    let url = url.clone();
    if !url.expose().starts_with("postgres") {
        return Ok(());
    }
    // A URL that does not parse is the adapter's to refuse: it knows what its server takes.
    let Ok(parsed) = url::Url::parse(url.expose()) else { return Ok(()) };
    for (parameter, name) in PARAMETERS {
        let Some((_, text)) = parsed.query_pairs().find(|(key, _)| key == parameter) else { continue };
        let set_by_hand = resolved
            .entries
            .get(&at(name))
            .is_some_and(|entry| !matches!(entry.source, Source::Default | Source::Profile(_)));
        if set_by_hand || text.is_empty() {
            continue;
        }
        let number = || -> Result<u64> {
            text.parse().map_err(|_| {
                Error::invalid(format!("{parameter} is \"{text}\", expected a whole number"))
                    .about(redact_url(url.expose()))
                    .with_hint("correct the URL's parameter, or take it out")
            })
        };
        let (value, shown) = match name {
            "schema" => (Parsed::Text(text.to_string()), text.to_string()),
            "pool_max" => {
                let most = number()?.clamp(1, 1000);
                (Parsed::Number(most), most.to_string())
            }
            // Prisma: 0 waits for ever.
            _ => {
                let seconds = number()?;
                let time = (seconds > 0).then(|| std::time::Duration::from_secs(seconds));
                (Parsed::Timeout(time), shown_seconds(seconds))
            }
        };
        let source = Source::UrlParameter(parameter.to_owned());
        resolved.entries.insert(at(name), Entry { value, shown, source });
    }
    Ok(())
}
