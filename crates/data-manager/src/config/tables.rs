//! The tables of docs/configuration.md, written from the table of keys; a test holds the document to them.

use std::fmt::Write as _;

use super::keys;
use super::profiles::PROFILES;
use super::variables::{ENVIRONMENT, EnvName, Strength, Unit};

const LATER: &str = " *(read, used from a later release)*";

/// Every setting as a Markdown table.
#[must_use]
pub fn settings_table() -> String {
    let mut text =
        String::from("| setting | form | default | environment | meaning |\n|---|---|---|---|---|\n");
    for key in keys::all() {
        let names: Vec<String> = ENVIRONMENT
            .iter()
            .filter(|env| env.key.replace("engines.main.", "engines.*.") == key.path)
            .map(|env| format!("`{}`", env.name))
            .collect();
        let default =
            key.default.map_or_else(|| "–".to_owned(), |text| format!("`{}`", key.kind.literal(text)));
        let later = if key.later { LATER } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {} | {}{later} |",
            key.path.replace('*', "<name>"),
            escape(&key.kind.form()),
            names.join(", "),
            escape(key.doc),
        );
    }
    text
}

/// Every environment variable as a Markdown table.
#[must_use]
pub fn environment_table() -> String {
    let mut text = String::from(
        "| variable | setting | a bare number is in | strength | remarks |\n|---|---|---|---|---|\n",
    );
    for env in ENVIRONMENT {
        let later =
            keys::all().any(|key| key.later && key.path == env.key.replace("engines.main.", "engines.*."));
        let setting = if env.key.is_empty() { "–".to_owned() } else { format!("`{}`", env.key) };
        let _ = writeln!(
            text,
            "| `{}` | {setting} | {} | {} | {}{} |",
            env.name,
            unit(env),
            match env.strength {
                Strength::Overrides => "overrides the file",
                Strength::FillsIn => "fills in what is not set",
                Strength::Chooses => "chooses",
            },
            escape(env.doc),
            if later { LATER } else { "" },
        );
    }
    text
}

/// What the shipped profiles set, as a Markdown table.
#[must_use]
pub fn profiles_table() -> String {
    let mut text = String::from("| profile | setting | value |\n|---|---|---|\n");
    for (name, settings) in PROFILES {
        for (pattern, value) in *settings {
            let _ = writeln!(text, "| `{name}` | `{}` | `{value}` |", pattern.replace('*', "<name>"));
        }
    }
    text
}

fn unit(env: &EnvName) -> &'static str {
    match env.unit {
        Unit::Seconds => "seconds",
        Unit::Milliseconds => "milliseconds",
        Unit::Days => "days",
        // The settings whose own unit is in their name.
        Unit::AsInFile if env.key.ends_with("_days") => "days",
        Unit::AsInFile if env.key.ends_with("_ms") => "milliseconds",
        Unit::AsInFile if env.key.ends_with("pool_max") || env.key.ends_with("count_threshold") => {
            "connections"
        }
        Unit::AsInFile => "–",
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}
