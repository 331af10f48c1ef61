//! What Prisma writes into a PostgreSQL URL: `?schema=…&connection_limit=…&pool_timeout=…&connect_timeout=…`.
//!
//! A parameter counts for more than a default and a shipped profile, and for less than the file and the environment. One that
//! is overruled is taken out of the URL, because an adapter follows the URL; for the rest the URL stays as it is, and the
//! adapter keeps these parameters from the server and from client tools.

use dm_core::{Error, Result, Secret, redact_url};

use super::assemble::shown_seconds;
use super::document::KeyPath;
use super::kind::Parsed;
use super::resolve::{Entry, Resolved};
use super::source::Source;

const PARAMETERS: [(&str, &str); 5] = [
    ("schema", "schema"),
    ("connection_limit", "pool_max"),
    ("pool_timeout", "acquire_timeout"),
    ("connect_timeout", "connect_timeout"),
    ("socket_timeout", "query_timeout"),
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
    let mut overruled = Vec::new();
    for (parameter, name) in PARAMETERS {
        let Some((_, text)) = parsed.query_pairs().find(|(key, _)| key == parameter) else { continue };
        let set_by_hand = resolved
            .entries
            .get(&at(name))
            .is_some_and(|entry| !matches!(entry.source, Source::Default | Source::Profile(_)));
        if set_by_hand || text.is_empty() {
            overruled.push(parameter);
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
    if !overruled.is_empty()
        && let Some(Entry { value, .. }) = resolved.entries.get_mut(&at("url"))
    {
        *value = Parsed::Secret(Secret::new(without(url.expose(), &overruled)));
    }
    Ok(())
}

/// The URL without some parameters; every other byte stays, so that no escape in a password changes.
fn without(url: &str, parameters: &[&str]) -> String {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let Some((place, query)) = url.split_once('?') else { return url.to_owned() };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !parameters.contains(&pair.split('=').next().unwrap_or(pair)))
        .collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{place}{query}{}", fragment.map_or_else(String::new, |fragment| format!("#{fragment}")))
}
