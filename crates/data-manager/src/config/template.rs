//! The commented dm.toml of `dm init`.

use super::keys::{self, Key};
use super::kind::{Kind, carries_password};

const HEAD: &str = "\
# dm.toml — configuration of the data manager.
#
# The smallest file is one engine's url; every other line below shows a default, or an example where there is none.
# To change one, take away its `#`, and that of its [section] where the section has one. Environment variables override
# this file. ${NAME} and ${NAME:-default} take a value from one, and a secret may be \"file:/path\". `dm doctor` prints
# every setting and where it came from.

";

const LATER: &str = " (read, used from a later release)";

/// Names that stand in the template for what the user chooses.
fn example_name(pattern: &str) -> &'static str {
    match pattern {
        p if p.starts_with("engines.") => "main",
        p if p.starts_with("repository.secondary.") => "offsite",
        p if p.starts_with("backup.targets.") => "nightly",
        p if p.starts_with("backup.hook.") => "tell-the-chat",
        p if p.starts_with("recovery.check.") => "no-negative-totals",
        _ => "backup-operator",
    }
}

/// Writes the template. A url with a password in it is replaced by `${DATABASE_URL}`.
pub(super) fn template(url: &str) -> String {
    let safe = if carries_password(url) && !url.contains("${") { "${DATABASE_URL}" } else { url };
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in keys::all() {
        let header = section_of(key);
        let name = key.path.rsplit_once('.').map_or(key.path, |(_, name)| name);
        if header != section {
            section = header;
            text.push_str(&heading(header));
        }
        if key.path == "engines.*.url" {
            let literal = Kind::SecretUrl.literal(safe);
            text.push_str(&format!("# {}\n{name} = {literal}\n", key.doc));
        } else {
            text.push_str(&line(key, name));
        }
    }
    text
}

fn heading(section: &str) -> String {
    let named = section.replace('*', example_name(&format!("{section}.")));
    let comment = match section {
        "engines.*" => "\n# A database. More of them: [engines.<name>].\n",
        "repository" => "\n# Where backups are kept.\n",
        "repository.secondary.*" => "\n# A second place for every backup.\n",
        "repository.retention" => {
            "\n# Which backups stay: what any of these rules keeps. 0 switches a number's rule off.\n"
        }
        "backup" => "\n# How and when backups are made.\n",
        "backup.hook.*" => {
            "\n# What runs before, during and after a backup. More of them: [backup.hook.<name>].\n"
        }
        "backup.targets.*" => {
            "\n# A name of its own for what is backed up; without any, every engine is backed up under its own name.\n"
        }
        "log" => "\n# Shipping the log, for points in time between backups.\n",
        "migrate" => "\n# Migrations.\n",
        "recovery" => "\n# Restores and drills.\n",
        "recovery.check.*" => {
            "\n# A question of your own to a restored database. More of them: [recovery.check.<name>].\n"
        }
        "store" => "\n# The system's own state: runs and the audit trail.\n",
        "audit" => "\n# The audit trail's signed checkpoints.\n",
        "access" => "\n# Who may do what.\n",
        "retention" => "\n# Soft-deleted rows.\n",
        "monitoring" => "\n# Watching the databases.\n",
        _ => "\n",
    };
    let comment = match comment.strip_suffix(".\n") {
        Some(comment) if all_later(section) => format!("{comment}{LATER}.\n"),
        _ => comment.to_owned(),
    };
    // A section that is optional as a whole stays a comment: opened and empty it would ask for its url.
    let optional = section.contains('*') && section != "engines.*";
    format!("{comment}{}[{named}]\n", if optional { "# " } else { "" })
}

fn section_of(key: &Key) -> &'static str {
    key.path.rsplit_once('.').map_or("", |(section, _)| section)
}

/// Whether nothing acts on any setting of a section yet.
fn all_later(section: &str) -> bool {
    keys::all().filter(|key| section_of(key) == section).all(|key| key.later)
}

fn line(key: &Key, name: &str) -> String {
    let name = if name == "*" { example_name(key.path) } else { name };
    let value = match (key.kind, key.default) {
        (Kind::Grants, _) => "[\"backup:*\", { action = \"*:*\", read_only = true }]".to_owned(),
        (kind, Some(default)) => kind.literal(default),
        (kind, None) => kind.literal(key.example),
    };
    let later = if key.later && !all_later(section_of(key)) { LATER } else { "" };
    format!("# {}{later}\n# {name} = {value}\n", key.doc)
}
