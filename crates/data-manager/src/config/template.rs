//! The commented dm.toml of `dm init`.

use super::keys::{KEYS, Key};
use super::kind::{Kind, carries_password};

const HEAD: &str = "\
# dm.toml — configuration of the data manager.
#
# The smallest file is one engine's url; every other line below shows a default, or an example where there is none.
# Take away the `#` to change one. Environment variables override this file; ${NAME} and ${NAME:-default} take a value
# from one, and a secret may be \"file:/path\". `dm doctor` prints every setting and where it came from.
";

/// Names that stand in the template for what the user chooses.
fn example_name(pattern: &str) -> &'static str {
    match pattern {
        p if p.starts_with("engines.") => "main",
        p if p.starts_with("repository.secondary.") => "offsite",
        p if p.starts_with("backup.targets.") => "nightly",
        _ => "backup-operator",
    }
}

/// Writes the template. A url with a password in it is replaced by `${DATABASE_URL}`.
pub(super) fn template(url: &str) -> String {
    let safe = if carries_password(url) && !url.contains("${") { "${DATABASE_URL}" } else { url };
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (header, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
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
        "backup.targets.*" => {
            "\n# A name of its own for what is backed up; without any, every engine is backed up under its own name.\n"
        }
        "store" => "\n# The system's own state: runs and the audit trail.\n",
        "access" => "\n# Who may do what.\n",
        "retention" => "\n# Soft-deleted rows.\n",
        "monitoring" => "\n# Watching the databases.\n",
        _ => "\n",
    };
    // A section that is optional as a whole stays a comment: opened and empty it would ask for its url.
    let optional = section.contains('*') && section != "engines.*";
    format!("{comment}{}[{named}]\n", if optional { "# " } else { "" })
}

fn line(key: &Key, name: &str) -> String {
    let name = if name == "*" { example_name(key.path) } else { name };
    let value = match (key.kind, key.default) {
        (Kind::Grants, _) => "[\"backup:*\", { action = \"*:*\", read_only = true }]".to_owned(),
        (kind, Some(default)) => kind.literal(default),
        (kind, None) => kind.literal(key.example),
    };
    let later = if key.later { " (read, used from a later release)" } else { "" };
    format!("# {}{later}\n# {name} = {value}\n", key.doc)
}
