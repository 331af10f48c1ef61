//! The forms a setting can take, and how each is read, shown and refused.

use std::time::Duration;

use chrono_tz::{TZ_VARIANTS, Tz};
use dm_core::{ByteSize, Grant, Period, Secret, redact_url};

use super::cron::CronSchedule;
use super::nearest::nearest;
use super::{duration, grants};

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Secret,
    /// A secret that is a URL: shown with its password replaced.
    SecretUrl,
    /// A place for backups; may hold no password.
    Location,
    Path,
    PathList,
    TextList,
    Count {
        min: u64,
        max: u64,
    },
    /// A count, or `auto`.
    Auto {
        min: u64,
        max: u64,
    },
    Flag,
    /// A duration, or `off`.
    Timeout,
    Size {
        min: u64,
        max: u64,
    },
    Period,
    Cron,
    Zone,
    Choice(&'static [&'static str]),
    Grants,
}

/// A value as the file's syntax gives it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Raw>),
    Table(Vec<(String, Raw)>),
    /// What no setting takes: a fraction, a date.
    Other(&'static str),
}

impl Raw {
    /// What it is, for a message. Contents are left out: they might be a secret in the wrong place.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(what) => what,
        }
    }
}

/// A value in its type.
#[derive(Clone, Debug)]
pub(super) enum Parsed {
    Text(String),
    Secret(Secret),
    Number(u64),
    Auto,
    Flag(bool),
    Timeout(Option<Duration>),
    Size(ByteSize),
    Period(Period),
    Cron(CronSchedule),
    Zone(Tz),
    List(Vec<String>),
    Grants(Vec<Grant>),
}

/// Why a value was refused: what was expected, and what there was (nothing when that is secret).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) found: String,
    pub(super) expected: String,
}

impl Kind {
    /// The form in words, for messages and documents.
    pub(super) fn form(self) -> String {
        match self {
            Self::Text => "text in quotes".into(),
            Self::Secret => "text in quotes, \"${NAME}\" or \"file:/path\"".into(),
            Self::SecretUrl => "a URL in quotes, \"${NAME}\" or \"file:/path\"".into(),
            Self::Location => "a folder or URL in quotes".into(),
            Self::Path => "a path in quotes".into(),
            Self::PathList => "a list of paths such as [\"/a\", \"/b\"]".into(),
            Self::TextList => "a list such as [\"a\", \"b\"]".into(),
            Self::Count { min, max } => format!("a number from {min} to {max}"),
            Self::Auto { min, max } => format!("\"auto\" or a number from {min} to {max}"),
            Self::Flag => "true or false".into(),
            Self::Timeout => "a duration such as \"500ms\", \"20s\" or \"10m\", or \"off\"".into(),
            Self::Size { min, max } => {
                format!("a size such as \"64 MiB\", from {} to {}", ByteSize(min), ByteSize(max))
            }
            Self::Period => "a period such as \"7 days\" or \"18 months\"".into(),
            Self::Cron => {
                "a cron schedule of five fields, minute hour day month weekday, such as \"0 1 * * *\"".into()
            }
            Self::Zone => "an IANA time zone such as \"UTC\" or \"Europe/Berlin\"".into(),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::Grants => {
                "a list such as [\"backup:*\", { action = \"*:list\", resource = \"shop-*\" }]".into()
            }
        }
    }

    /// Whether the value must never be shown.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretUrl)
    }

    /// Whether a text of the file may be a reference to a file, and of an environment variable to nothing.
    pub(super) fn takes_references(self) -> bool {
        self.is_secret()
    }

    /// Whether it is written in quotes in the file.
    fn quoted(self) -> bool {
        !matches!(self, Self::Count { .. } | Self::Flag | Self::PathList | Self::TextList | Self::Grants)
    }

    /// A value of the file. `expanded` says that a text came out of `${…}`, where everything is text.
    pub(super) fn read(self, raw: &Raw, expanded: bool) -> Result<Parsed, Refusal> {
        match (self, raw) {
            (Self::Count { min, max } | Self::Auto { min, max }, Raw::Integer(n)) => u64::try_from(*n)
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Parsed::Number)
                .ok_or_else(|| self.refuse(&n.to_string())),
            (Self::Flag, Raw::Flag(on)) => Ok(Parsed::Flag(*on)),
            (Self::Size { .. }, Raw::Integer(n)) => self.read_text(&n.to_string()),
            (Self::Timeout, Raw::Integer(0) | Raw::Flag(false)) => Ok(Parsed::Timeout(None)),
            (Self::TextList | Self::PathList, Raw::List(items)) => items
                .iter()
                .map(|item| match item {
                    Raw::Text(text) => Ok(text.clone()),
                    other => Err(self.refuse(&format!("a list with {} in it", other.describe()))),
                })
                .collect::<Result<_, _>>()
                .map(Parsed::List),
            (Self::Grants, Raw::List(items)) => {
                grants::read(items).map(Parsed::Grants).map_err(|(found, expected)| Refusal {
                    found,
                    expected: expected.unwrap_or_else(|| self.form()),
                })
            }
            (Self::Auto { .. }, Raw::Text(text)) if !expanded && text != "auto" => {
                Err(self.refuse(&format!("\"{text}\" in quotes")))
            }
            (_, Raw::Text(text)) if self.quoted() || expanded => self.read_text(text),
            (Self::Timeout | Self::Period, Raw::Integer(n)) => Err(self.refuse(&n.to_string())),
            (Self::Count { .. } | Self::Flag, Raw::Text(text)) => {
                Err(self.refuse(&format!("\"{text}\" in quotes")))
            }
            (_, other) => Err(self.refuse(other.describe())),
        }
    }

    /// A text: of an environment variable, a default, or the file.
    pub(super) fn read_text(self, text: &str) -> Result<Parsed, Refusal> {
        let refuse = || self.refuse(&format!("\"{text}\""));
        let trimmed = text.trim();
        match self {
            Self::Text | Self::Path if trimmed.is_empty() => Err(self.refuse("empty")),
            Self::Text | Self::Path => Ok(Parsed::Text(trimmed.to_owned())),
            Self::Secret | Self::SecretUrl if trimmed.is_empty() => Err(self.refuse("empty")),
            Self::SecretUrl => Ok(Parsed::Secret(Secret::new(trimmed))),
            // A passphrase may begin or end with a blank.
            Self::Secret => Ok(Parsed::Secret(Secret::new(text))),
            Self::Location if trimmed.is_empty() => Err(self.refuse("empty")),
            Self::Location if carries_password(trimmed) => Err(Refusal {
                found: "a URL with a password in it".into(),
                expected: "the keys in access_key and secret_key, and a URL without them".into(),
            }),
            Self::Location => Ok(Parsed::Text(trimmed.to_owned())),
            Self::PathList | Self::TextList => Ok(Parsed::List(
                text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect(),
            )),
            Self::Auto { .. } if trimmed == "auto" => Ok(Parsed::Auto),
            Self::Count { min, max } | Self::Auto { min, max } => trimmed
                .parse()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Parsed::Number)
                .ok_or_else(refuse),
            Self::Flag => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Parsed::Flag(true)),
                "false" | "0" | "no" | "off" => Ok(Parsed::Flag(false)),
                _ => Err(refuse()),
            },
            Self::Timeout if trimmed == "off" => Ok(Parsed::Timeout(None)),
            Self::Timeout => duration::parse(trimmed)
                .map(|d| Parsed::Timeout((!d.is_zero()).then_some(d)))
                .ok_or_else(refuse),
            Self::Size { min, max } => trimmed
                .parse::<ByteSize>()
                .ok()
                .filter(|size| (min..=max).contains(&size.0))
                .map(Parsed::Size)
                .ok_or_else(refuse),
            Self::Period => trimmed.parse().map(Parsed::Period).map_err(|_| refuse()),
            Self::Cron => trimmed.parse().map(Parsed::Cron).map_err(|error: dm_core::Error| {
                let why = error.to_string();
                let why = why.split_once("is not a schedule: ").map_or(why.as_str(), |(_, why)| why);
                Refusal { found: format!("\"{text}\""), expected: format!("a cron schedule: {why}") }
            }),
            Self::Zone => trimmed.parse().map(Parsed::Zone).map_err(|_| {
                match nearest(trimmed, TZ_VARIANTS.iter().map(|zone| zone.name())) {
                    Some(near) => Refusal {
                        found: format!("\"{text}\""),
                        expected: format!("{}; did you mean \"{near}\"?", self.form()),
                    },
                    None => refuse(),
                }
            }),
            Self::Choice(words) if words.contains(&trimmed) => Ok(Parsed::Text(trimmed.to_owned())),
            Self::Choice(_) | Self::Grants => Err(refuse()),
        }
    }

    fn refuse(self, found: &str) -> Refusal {
        let found = if self.is_secret() && found.starts_with('"') { "not usable" } else { found };
        Refusal { found: found.to_owned(), expected: self.form() }
    }

    /// The value as the file would write it.
    pub(super) fn literal(self, text: &str) -> String {
        match self {
            Self::PathList | Self::TextList => {
                let items: Vec<String> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|t| !t.is_empty())
                    .map(|t| toml::Value::from(t).to_string())
                    .collect();
                format!("[{}]", items.join(", "))
            }
            Self::Auto { .. } if text.bytes().all(|b| b.is_ascii_digit()) => text.to_owned(),
            _ if self.quoted() => toml::Value::from(text).to_string(),
            _ => text.to_owned(),
        }
    }
}

impl Parsed {
    /// The value for a person's eyes: no secret.
    pub(super) fn show(&self, kind: Kind) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Secret(secret) if kind == Kind::SecretUrl => redact_url(secret.expose()),
            Self::Secret(secret) => secret.to_string(),
            Self::Number(n) => n.to_string(),
            Self::Auto => "auto".into(),
            Self::Flag(on) => on.to_string(),
            Self::Timeout(Some(time)) => duration::format(*time),
            Self::Timeout(None) => "off".into(),
            Self::Size(size) => size.to_string(),
            Self::Period(period) => period.to_string(),
            Self::Cron(cron) => cron.to_string(),
            Self::Zone(zone) => zone.name().to_owned(),
            Self::List(items) if items.is_empty() => "none".into(),
            Self::List(items) => items.join(", "),
            Self::Grants(grants) => grants.iter().map(grants::show).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Whether a URL carries a password or the like, by the same rule that hides one.
pub(super) fn carries_password(text: &str) -> bool {
    let redacted = redact_url(text);
    // What does not parse is hidden as a whole when in doubt; a mere path with an `@` in it is in no doubt.
    redacted.contains("***")
        || (redacted == "[unparsable url]" && (text.contains("://") || text.contains("password")))
}
